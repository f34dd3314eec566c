"""Code that comes with a model: its files, and the user's consent to run it on this machine.

The user gives consent for the digest of the files, and it is stored in the user's own configuration. No recipe,
manifest or run directory can give consent; they only state that code is needed.
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
"""Suffixes of files that Python imports, and of files that such modules compile."""


_GENERATE = "custom_generate/generate.py"
"""Script that transformers uses instead of `generate`."""


_NOT_SETTINGS = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})


_MOST_FILES = 1000


_LARGEST_SETTINGS = 16 * 1024 * 1024


_SHOWN = 12


_REFERENCE = re.compile(r"(?:(?P<repository>\w[\w.-]*(?:/\w[\w.-]*)?)--)?[A-Za-z_]\w*\.[A-Za-z_]\w*")
"""A class reference in `auto_map`: `modeling_x.Model`, or `owner/name--modeling_x.Model` for another repository."""


@dataclass(frozen=True)
class Code:
    """Code in a folder that transformers would run."""

    folder: Path
    files: tuple[str, ...]
    digest: str
    """SHA-256 over the names and contents of the files, and the settings that refer to them."""
    commit: str | None = None
    """Commit of the other repository, if the code is in one."""

    @property
    def file_list(self) -> str:
        """The files, in one line."""
        more = f" and {len(self.files) - _SHOWN} more" if len(self.files) > _SHOWN else ""
        return f"{', '.join(self.files[:_SHOWN]) or 'no file'}{more}"


def code_in(folder: Path, download: bool = False) -> Code | None:
    """Find the code that comes with a model or a tokenizer; None if there is none.

    Args:
        folder: folder of a model, a tokenizer or an adapter.
        download: True if code in another repository may be downloaded.

    Raises:
        ModelError: if the settings refer to code in a way that cannot be followed.
    """
    maps = dict(_auto_maps(folder))
    if not maps and not (folder / _GENERATE).is_file():
        return None
    repositories = {found for reference in _strings(list(maps.values())) if (found := _repository(folder, reference))}
    if len(repositories) > 1:
        what = f"its code is in several repositories: {', '.join(sorted(repositories))}"
        raise ModelError(Problem(str(folder), what, "put the files into this folder"))
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
    """Return the arguments of `from_pretrained` that concern code in a folder.

    Args:
        folder: the folder to load from.
        is_needed: True if the recipe says that code is needed; that is not consent.

    Raises:
        ModelError: if there is code, and the user has not allowed it on this machine.
    """
    code = code_in(folder) if is_needed else None
    if code is None:
        return {"trust_remote_code": False}
    check_allowed(code)
    return {"trust_remote_code": True, **({"code_revision": code.commit} if code.commit else {})}


def missing_code(where: Path, error: Exception) -> Problem | None:
    """Explain an error of transformers that asks for `trust_remote_code`; None for other errors."""
    if "trust_remote_code" not in str(error):
        return None
    remedy = f"read it, then write `model.trust_remote_code = true` and a pinned `revision`, and pass `{OPTION}`"
    return Problem(str(where), "needs its own code, which the recipe does not enable", remedy)


def check_allowed(code: Code) -> None:
    """Refuse code that the user has not allowed on this machine. Raises `ModelError`."""
    if code.digest in _allowed():
        return
    what = f"contains code that you have not allowed on this machine: {code.file_list} (digest {code.digest})"
    remedy = f"read it, then repeat the command with `{OPTION}`, which remembers this digest"
    raise ModelError(Problem(str(code.folder), what, remedy))


def allow_code(folder: Path, tell: Callable[[str], None]) -> None:
    """Record the user's consent to the code in a folder, and list its files. Does nothing if there is no code.

    Raises:
        ModelError: if the settings refer to code in a way that cannot be followed.
        RunError: if it cannot be recorded.
    """
    code = code_in(folder, download=True)
    if code is None or code.digest in _allowed():
        return
    tell(f"allowed on this machine from now on: the code of {folder}, {code.file_list} (digest {code.digest})")
    _remember(code)


def carry_over(source: Path, folder: Path) -> None:
    """Allow the code in a newly saved folder, if it comes from a folder with allowed code."""
    before, after = code_in(source), code_in(folder)
    if before is None or after is None or before.digest not in _allowed():
        return
    with contextlib.suppress(RunError):  # then the user of the folder is asked again
        _remember(after)


def configuration_folder(surroundings: Mapping[str, str] = os.environ) -> Path:
    """Return lorans' configuration folder: `LORANS_CONFIG`, or `lorans` in the XDG configuration folder."""
    if own := surroundings.get("LORANS_CONFIG"):
        return Path(own).expanduser().absolute()
    shared = Path(surroundings.get("XDG_CONFIG_HOME") or "")
    return (shared if shared.is_absolute() else Path.home() / ".config") / "lorans"


def _store() -> Path:
    return configuration_folder() / "trusted.json"


def _allowed() -> dict[str, Any]:
    """Return the allowed code, by digest. Raises `UsageError` if the file is not one of lorans."""
    file = _store()
    try:
        table = json.loads(file.read_bytes())
        if not isinstance(table, dict) or not isinstance(table["trusted"], dict):
            raise TypeError("no table `trusted`")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"cannot be read as a list of allowed code: {first_line(error)}"
        raise UsageError(Problem(str(file), what, f"remove it, and pass `{OPTION}` again where it is needed")) from None
    return dict(table["trusted"])


def _remember(code: Code) -> None:
    file = _store()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file.parent):
            entry = {"folder": str(code.folder), "files": list(code.files), "when": now()}
            table = {"version": 1, "trusted": {**_allowed(), code.digest: entry}}
            write_atomic(file, json.dumps(table, indent=2) + "\n")
    except (OSError, RunError) as error:
        what = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        raise RunError(Problem(str(file), what, "set LORANS_CONFIG to a writable folder")) from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for other processes that record consent, if the system and the disk support locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _auto_maps(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield the class references in a folder's settings, by file name."""
    for file in sorted(folder.glob("*.json")):
        if file.name in _NOT_SETTINGS or file.name.endswith(".index.json") or not file.is_file():
            continue
        with contextlib.suppress(OSError, ValueError, RecursionError):  # the next reader of the file reports the error
            if file.stat().st_size <= _LARGEST_SETTINGS and (found := list(_maps(json.loads(file.read_bytes())))):
                yield file.name, found


def _maps(value: Any) -> Iterator[Any]:
    """Yield the values of all keys `auto_map`, at any depth."""
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
    """Return the other repository in a reference, or None. Raises `ModelError` for an unusual reference."""
    found = _REFERENCE.fullmatch(reference)
    repository = found["repository"] if found else None
    # transformers would use a local folder of that name instead of the repository.
    if found is None or (repository and Path(repository).exists()):
        what = f"its settings refer to code as `{reference}` instead of `module.Class` or `owner/name--module.Class`"
        raise ModelError(Problem(str(folder), what, "this is not a normal reference to code: do not use this model"))
    return repository


def _code_files(folder: Path) -> Iterator[str]:
    """Yield the names of all code files in a folder, including those in `custom_generate` even if that is a link."""
    found: set[str] = set()
    for place in (folder, folder / "custom_generate"):
        for parent, folders, names in os.walk(place):
            folders[:] = [name for name in folders if name not in {".git", "__pycache__"}]
            of_code = (Path(parent, name) for name in names if Path(name).suffix in _CODE)
            found |= {str(file.relative_to(folder)) for file in of_code if file.is_file()}
            if len(found) > _MOST_FILES:
                what = f"more than {_MOST_FILES} code files"
                raise ModelError(Problem(str(folder), what, "name a folder that only contains the model"))
    for name in found:
        if character := control_in(name):
            what = f"the name of a code file contains the control character {character}"
            raise ModelError(Problem(str(folder), what, "do not use this model"))
    yield from sorted(found)


def _snapshot(folder: Path, repository: str, download: bool) -> Path:
    """Return the folder of a repository's code in the hub cache. Raises `ModelError`."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=["*.py"], local_files_only=not download))
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, errors.HFValidationError, OSError):
        what = f"its code is in another repository, `{repository}`, which is not on this machine"
        remedy = f"repeat the command with `{OPTION}`, which downloads and allows it"
        raise ModelError(Problem(str(folder), what, remedy)) from None
