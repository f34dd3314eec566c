"""Code that a model brings along: which files it has, and whether the user has allowed them on this machine.

Consent is the user's, by the digest of the files, and lies in the user's own configuration. No recipe, manifest or run
directory can give it: those only say that code is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.errors import ModelError, Problem, RunError, UsageError, first_line
from lora_ns.files.disk import now, sha256_file, write_atomic
from lora_ns.table import control_in

OPTION = "--trust-remote-code"


_CODE = frozenset({".c", ".cpp", ".cu", ".cuh", ".h", ".py", ".pyc", ".pyd", ".so"})
"""Endings of what Python imports, and of what such modules compile."""


_GENERATE = "custom_generate/generate.py"
"""What transformers takes in the place of `generate`."""


_NOT_SETTINGS = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})


_MOST_FILES = 1000


_LARGEST_SETTINGS = 16 * 1024 * 1024


_SHOWN = 12


_REFERENCE = re.compile(r"(?:(?P<repository>\w[\w.-]*(?:/\w[\w.-]*)?)--)?[A-Za-z_]\w*\.[A-Za-z_]\w*")
"""A class as `auto_map` names it: `modeling_x.Model`, or `owner/name--modeling_x.Model` of another repository."""


@dataclass(frozen=True)
class Code:
    """The code in a folder that transformers would run."""

    folder: Path
    files: tuple[str, ...]
    digest: str
    """SHA-256 over the names and contents of the files and what the settings say of them."""
    commit: str | None = None
    """Of the other repository that the code is in, if it is in one."""

    @property
    def told(self) -> str:
        """The files in one line."""
        more = f" and {len(self.files) - _SHOWN} more" if len(self.files) > _SHOWN else ""
        return f"{', '.join(self.files[:_SHOWN]) or 'no file'}{more}"


def code_in(folder: Path, download: bool = False) -> Code | None:
    """The code that a model or a tokenizer in a folder brings along; None if it brings none.

    Args:
        folder: of a model, a tokenizer or an adapter.
        download: whether code in another repository may be fetched.

    Raises:
        ModelError: if the settings name code in a way that cannot be followed.
    """
    maps = dict(_auto_maps(folder))
    if not maps and not (folder / _GENERATE).is_file():
        return None
    repositories = {found for reference in _strings(list(maps.values())) if (found := _repository(folder, reference))}
    if len(repositories) > 1:
        what = f"its code is in several repositories: {', '.join(sorted(repositories))}"
        raise ModelError(Problem(str(folder), what, "put the files beside it"))
    files = {name: folder / name for name in _code_files(folder)}
    commit = None
    for repository in repositories:
        snapshot = _snapshot(folder, repository, download)
        commit = snapshot.name
        files |= {f"{repository}/{name}": snapshot / name for name in _code_files(snapshot)}
    digest = hashlib.sha256(b"lorans code 1\n")
    for name in sorted(files):
        digest.update(json.dumps([name, sha256_file(files[name])]).encode())
    digest.update(json.dumps(maps, sort_keys=True).encode())
    return Code(folder, tuple(sorted(files)), digest.hexdigest(), commit)


def loading_arguments(folder: Path, is_needed: bool) -> dict[str, Any]:
    """What `from_pretrained` is told of the code in a folder.

    Args:
        folder: what is loaded.
        is_needed: whether the recipe says that code is needed; that is no consent.

    Raises:
        ModelError: if there is code, and the user has not allowed it on this machine.
    """
    code = code_in(folder) if is_needed else None
    if code is None:
        return {"trust_remote_code": False}
    check_allowed(code)
    return {"trust_remote_code": True, **({"code_revision": code.commit} if code.commit else {})}


def missing_code(where: Path, error: Exception) -> Problem | None:
    """What to say if transformers does not load something because it would need code; None for other errors."""
    if "trust_remote_code" not in str(error):
        return None
    remedy = f"read it, then write `model.trust_remote_code = true` and a pinned `revision`, and give `{OPTION}`"
    return Problem(str(where), "needs code of its own to be run, and the recipe does not ask for that", remedy)


def check_allowed(code: Code) -> None:
    """Refuse code that the user has not allowed on this machine. Raises `ModelError`."""
    if code.digest in _allowed():
        return
    what = f"brings code of its own, which you have not allowed on this machine: {code.told} (digest {code.digest})"
    remedy = f"read it, then repeat the command with `{OPTION}`, which remembers this digest"
    raise ModelError(Problem(str(code.folder), what, remedy))


def allow_code(folder: Path, tell: Callable[[str], None]) -> None:
    """Remember that the user allows the code in a folder, and say which files that are. Nothing if there is none.

    Raises:
        ModelError: if the settings name code in a way that cannot be followed.
        RunError: if it cannot be remembered.
    """
    code = code_in(folder, download=True)
    if code is None or code.digest in _allowed():
        return
    tell(f"allowed on this machine from now on: the code of {folder}, {code.told} (digest {code.digest})")
    _remember(code)


def carry_over(source: Path, folder: Path) -> None:
    """Allow the code in a folder that was just saved from what runs by the allowed code of another one."""
    before, after = code_in(source), code_in(folder)
    if before is None or after is None or before.digest not in _allowed():
        return
    with contextlib.suppress(RunError):  # whoever uses the folder is asked then
        _remember(after)


def configuration_folder(surroundings: Mapping[str, str] = os.environ) -> Path:
    """The user's configuration of lorans: `LORANS_CONFIG`, or `lorans` in the XDG folder of configurations."""
    if own := surroundings.get("LORANS_CONFIG"):
        return Path(own).expanduser().absolute()
    shared = Path(surroundings.get("XDG_CONFIG_HOME") or "")
    return (shared if shared.is_absolute() else Path.home() / ".config") / "lorans"


def _store() -> Path:
    return configuration_folder() / "trusted.json"


def _allowed() -> dict[str, Any]:
    """What the user has allowed, by digest. Raises `UsageError` if the file is none of ours."""
    file = _store()
    try:
        table = json.loads(file.read_bytes())
        if not isinstance(table, dict) or not isinstance(table["trusted"], dict):
            raise TypeError("no table of what is trusted")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"cannot be read as what you have allowed: {first_line(error)}"
        raise UsageError(Problem(str(file), what, f"remove it, and give `{OPTION}` again where it is needed")) from None
    return dict(table["trusted"])


def _remember(code: Code) -> None:
    file = _store()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file.parent):
            entry = {"folder": str(code.folder), "files": list(code.files), "when": now()}
            table = {"version": 1, "trusted": {**_allowed(), code.digest: entry}}
            write_atomic(file, json.dumps(table, indent=2) + "\n")
    except (OSError, RunError) as error:
        what = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        raise RunError(Problem(str(file), what, "name a folder that can be written in LORANS_CONFIG")) from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for other processes that remember something, where the system and the disk know of locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _auto_maps(folder: Path) -> Iterator[tuple[str, Any]]:
    """What the settings in a folder say of classes in code, by the name of the file."""
    for file in sorted(folder.glob("*.json")):
        if file.name in _NOT_SETTINGS or file.name.endswith(".index.json") or not file.is_file():
            continue
        with contextlib.suppress(OSError, ValueError, RecursionError):  # whoever reads it next says what is wrong
            if file.stat().st_size <= _LARGEST_SETTINGS and (found := list(_maps(json.loads(file.read_bytes())))):
                yield file.name, found


def _maps(value: Any) -> Iterator[Any]:
    """The values of all keys `auto_map`, at any depth."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key == "auto_map" and below:
                yield below
            else:
                yield from _maps(below)
    elif isinstance(value, list):
        for below in value:
            yield from _maps(below)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for below in value:
            yield from _strings(below)


def _repository(folder: Path, reference: str) -> str | None:
    """The other repository that a reference names, if it names one. Raises `ModelError` if it is no plain reference."""
    found = _REFERENCE.fullmatch(reference)
    repository = found["repository"] if found else None
    # A folder of that name would be taken in the place of the repository.
    if found is None or (repository and Path(repository).exists()):
        what = f"its settings name code as `{reference}`, and not as `module.Class` or `owner/name--module.Class`"
        raise ModelError(Problem(str(folder), what, "models do not bring code in this way: do not use it"))
    return repository


def _code_files(folder: Path) -> Iterator[str]:
    """The names of all files with code in a folder, and of what `custom_generate` has even if that is a link."""
    found: set[str] = set()
    for place in (folder, folder / "custom_generate"):
        for parent, folders, names in os.walk(place):
            folders[:] = [name for name in folders if name not in {".git", "__pycache__"}]
            of_code = (Path(parent, name) for name in names if Path(name).suffix in _CODE)
            found |= {str(file.relative_to(folder)) for file in of_code if file.is_file()}
            if len(found) > _MOST_FILES:
                what = f"more than {_MOST_FILES} files with code"
                raise ModelError(Problem(str(folder), what, "name the folder of the model alone"))
    for name in found:
        if character := control_in(name):
            what = f"the name of a file with code has the control character {character} in it"
            raise ModelError(Problem(str(folder), what, "do not use it"))
    yield from sorted(found)


def _snapshot(folder: Path, repository: str, download: bool) -> Path:
    """Where the code of a repository on the hub lies, in the hub's own cache. Raises `ModelError`."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=["*.py"], local_files_only=not download))
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, errors.HFValidationError, OSError):
        what = f"its code is in another repository, `{repository}`, and not on this machine"
        remedy = f"repeat the command with `{OPTION}`, which fetches and allows it"
        raise ModelError(Problem(str(folder), what, remedy)) from None
