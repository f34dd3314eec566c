"""The base model as files: its location, identity and size, read without importing torch.

A model with a hub id is downloaded into the hub cache first. From then on it is a folder like any other, and nothing
accesses the network again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_ns.errors import MissingError, ModelError, Problem, first_line
from lora_ns.files.hub_cache import cached_snapshot, is_hub_id, offline_variable
from lora_ns.files.safetensors import Tensors, read_header
from lora_ns.model.folder import (
    SETTINGS,
    check_model,
    check_settings,
    check_sizes,
    classify,
    generation_settings,
    read_object,
    weights_named,
)
from lora_ns.model.gguf import ENDING, GgufHeader, read_gguf
from lora_ns.model.packed import as_whole
from lora_ns.quantizers import QUANTIZATIONS

PACKAGED = "lorans:"
"""Prefix of files inside the package."""


ASSETS = Path(__file__).parent.parent / "assets"


_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.py"]
"""Files to download from a hub repository besides the weights; no pickles."""


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "spiece.model")
"""Files that define a tokenizer; the chat template does not count."""


_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Base:
    """A base model in a folder."""

    name: str
    """The name in the recipe."""
    path: Path
    commit: str | None = None
    """Commit on the hub; None for a folder."""
    gguf_file: str | None = None
    """The file in the folder with the weights, if they are stored as GGUF."""

    @property
    def location(self) -> Path:
        """Path of the folder, or of the GGUF file in it."""
        return self.path / self.gguf_file if self.gguf_file else self.path

    @property
    def gguf(self) -> GgufHeader | None:
        """The header of its GGUF file. Raises `ModelError`, `MissingError`."""
        return read_gguf(self.location) if self.gguf_file else None

    @property
    def has_config(self) -> bool:
        """True if there is a `config.json`; the settings of a GGUF base may be in its header instead."""
        return (self.path / "config.json").is_file()

    @property
    def has_tokenizer(self) -> bool:
        """True if there are tokenizer files; the tokenizer of a GGUF base may be in its header instead."""
        return any((self.path / name).is_file() for name in TOKENIZER_FILES)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The model's `config.json`, or the corresponding settings of the GGUF header.

        Raises:
            ModelError: if it is not a JSON object, or a setting has the wrong type.
        """
        if self.gguf and not self.has_config:
            check_settings(self.location, self.gguf.config)
            return self.gguf.config
        settings = read_object(self.path / SETTINGS)
        check_settings(self.path / SETTINGS, settings)
        return settings

    @cached_property
    def facts(self) -> BaseFacts:
        """Sizes of the model. Raises `ModelError` if a file is broken, or the settings contradict the weights."""
        if self.gguf:
            check_sizes(self.location, self.config, self.gguf.tensors)
            stored = {"quantization_config": {"quant_method": "gguf"}}
            return read_facts({**self.config, **stored}, self.gguf.tensors)
        check_sizes(self.path / SETTINGS, self.config, self.tensors)
        return replace(read_facts(self.config, self.tensors), notes=classify(self.path).notes)

    @cached_property
    def tensors(self) -> Mapping[str, Mapping[str, Any]]:
        """Dtype and shape of every tensor in the weight files, as it is without quantisation. Raises `ModelError`."""
        try:
            return as_whole(self.config, _tensors(self.weight_files))
        except (ValueError, TypeError) as error:
            what = f"the weights do not match `quantization_config`: {error}"
            raise ModelError(Problem(str(self.path / SETTINGS), what, "fetch the model again")) from None

    @cached_property
    def weight_files(self) -> Sequence[Path]:
        """The files from which transformers loads the weights. Raises `ModelError`."""
        return [self.location] if self.gguf_file else classify(self.path).files

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the base among others of the same shape.

        SHA-256 over the settings that affect a forward pass, the headers of the weight files, and the first and last
        bytes of each tensor: a few reads for a model of any size.
        """
        return self._digest()

    def is_fingerprint(self, fingerprint: str) -> bool:
        """True if a fingerprint belongs to this base, including old ones that covered all weight files."""
        if fingerprint == self.fingerprint:
            return True
        everything = [] if self.gguf_file else sorted(self.path.glob("*.safetensors"))
        return len(everything) > len(self.weight_files) and fingerprint == self._digest(everything)

    def _digest(self, files: Sequence[Path] | None = None) -> str:
        digest = hashlib.sha256()
        settings = {key: value for key, value in self.config.items() if key not in _UNIMPORTANT_SETTINGS}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        if self.gguf:
            _digest_gguf(digest, self.location, self.gguf)
            return digest.hexdigest()
        for file in self.weight_files if files is None else files:
            _digest_weights(digest, file)
        return digest.hexdigest()

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """SHA-256 over the tokenizer's files, without the chat template, which has its own hash."""
        digest = hashlib.sha256()
        for name in TOKENIZER_FILES:
            file = self.path / name
            if file.is_file():
                digest.update(name.encode())
                digest.update(file.read_bytes())
        if self.gguf and not self.has_tokenizer:
            with self.location.open("rb") as stream:
                digest.update(stream.read(self.gguf.size))
        return digest.hexdigest()


@dataclass(frozen=True)
class BaseFacts:
    """Sizes of a base model."""

    model_type: str
    parameters: int
    largest_dtype: str
    """Dtype of most of the stored weights, by its safetensors name."""
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    vocab_size: int
    max_position_embeddings: int | None
    matrices: Mapping[str, tuple[int, int]]
    """Shapes of the stored matrices by module name, including embeddings."""
    quantization: Mapping[str, Any] = field(default_factory=dict)
    """The quantisation that the model is stored in, from its settings."""
    has_biases: bool = False
    """True if some layers have a bias."""
    notes: tuple[str, ...] = ()
    """Notes about files in the folder that are not used."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The model's `config.json`, from which the weights follow."""
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Shapes of all stored tensors, by name."""
    published_as: str = ""
    """Hub id whose published shapes these are, if the base itself is not on this machine."""


_UNIMPORTANT_SETTINGS = frozenset(
    {
        "_name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "id2label",
        "label2id",
        "architectures",
        "problem_type",
    }
)


def find_base(
    name: str, revision: str, folders: Sequence[Path], download: bool, gguf_file: str | None = None
) -> Base | None:
    """Find the folder of a base model.

    Args:
        name: hub id, folder, GGUF file or `lorans:nano`.
        revision: branch, tag or commit on the hub.
        folders: search path for relative folders, in this order.
        download: True if a model that is not in the hub cache may be downloaded.
        gguf_file: name of a GGUF file in the folder or repository, to read its weights.

    Returns:
        The base, or None if it is on the hub, not in the cache, and must not be downloaded.

    Raises:
        ModelError: if there is no such model, or it cannot be downloaded.
    """
    if name.startswith(PACKAGED):
        return _checked(Base(name, packaged(name)))
    for folder in _candidates(name, folders):
        if folder.is_dir():
            return _checked(_with_gguf(Base(name, folder.resolve(), gguf_file=gguf_file)))
        if folder.suffix == ENDING and folder.is_file():
            return _checked(_of_file(name, folder.resolve(), gguf_file))
    if _is_path(name) or name.endswith(ENDING):
        looked = " and ".join(str(folder) for folder in _candidates(name, folders))
        kind = "file" if name.endswith(ENDING) else "folder"
        raise ModelError(Problem("", f"no {kind} `{name}`", f"looked at {looked}", key="model.name_or_path"))
    return _from_hub(name, revision, download, gguf_file)


def _of_file(name: str, file: Path, gguf_file: str | None) -> Base:
    """Create the base for a name that is a GGUF file."""
    if gguf_file is not None and gguf_file != file.name:
        what = f"`{gguf_file}` is not the file that `name_or_path` names"
        raise ModelError(Problem("", what, "remove `gguf_file`", key="model.gguf_file"))
    return Base(name, file.parent, gguf_file=file.name)


def _with_gguf(base: Base) -> Base:
    """Add the GGUF file to a base, if it has no other weights and exactly one such file."""
    found = sorted(file.name for file in base.path.glob(f"*{ENDING}"))
    if base.gguf_file is not None or not found or classify(base.path).weights:
        return base
    if len(found) > 1:
        what = f"the folder has {len(found)} GGUF files: {', '.join(found)}"
        raise ModelError(Problem("", what, f'choose one, such as `gguf_file = "{found[0]}"`', key="model.name_or_path"))
    return replace(base, gguf_file=found[0])


def packaged(name: str) -> Path:
    """Return the path of something inside the package, such as `lorans:nano`.

    Raises:
        ModelError: if it does not exist; the message lists the alternatives.
    """
    relative = name.removeprefix(PACKAGED)
    path = (ASSETS / relative).resolve()
    if not relative or ASSETS.resolve() not in path.parents or not path.exists():
        models = sorted(folder.parent.name for folder in ASSETS.glob("*/config.json"))
        data = sorted(str(file.relative_to(ASSETS)) for file in ASSETS.glob("*/*.jsonl"))
        there = ", ".join(f"{PACKAGED}{item}" for item in [*models, *data])
        raise ModelError(Problem("", f"`{name}` is not part of the package", f"available: {there}"))
    return path


def _candidates(name: str, folders: Sequence[Path]) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_absolute():
        return [path]
    return list(dict.fromkeys(folder / path for folder in folders))


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _checked(base: Base) -> Base:
    if base.gguf_file is not None:
        if not base.location.is_file():
            what = f"`{base.name}` has no file `{base.gguf_file}`"
            raise ModelError(Problem("", what, "write the name of a GGUF file in it", key="model.gguf_file"))
        return base
    check_model(classify(base.path))
    generation_settings(base.path)
    _ = base.facts  # reads settings and headers, and checks that they match
    return base


def _from_hub(name: str, revision: str, download: bool, gguf_file: str | None) -> Base | None:
    if not is_hub_id(name):
        what = f"`{name}` is neither a folder nor a hub id"
        remedy = "write `owner/name`, or a folder that exists"
        raise ModelError(Problem("", what, remedy, key="model.name_or_path"))
    if not download:
        return _in_cache(name, revision, gguf_file)
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise MissingError(
            Problem("", "models on the hub need huggingface_hub", "`pip install huggingface_hub`")
        ) from None
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
        # Only the weights that transformers loads, from the same commit: other files may take as much space again.
        snapshot_download(name, revision=path.name, allow_patterns=_weights(path, gguf_file))
    except errors.LocalEntryNotFoundError as error:
        answer = error.__cause__
        problem = (
            _hub_problem(name, revision, answer) if isinstance(answer, errors.HfHubHTTPError) else not_cached(name)
        )
        raise ModelError(problem) from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise ModelError(_hub_problem(name, revision, error)) from None
    return _checked(Base(name, path, commit=path.name, gguf_file=gguf_file))


def _in_cache(name: str, revision: str, gguf_file: str | None) -> Base | None:
    """Return the base for a hub id, if its settings and all its weights are in the cache."""
    path = cached_snapshot(name, revision)
    if path is None or (gguf_file is None and not (path / SETTINGS).is_file()):
        return None
    if not all((path / file).is_file() for file in _weights(path, gguf_file)):
        return None  # the settings are in the cache, but the weights are not
    return _checked(Base(name, path, commit=path.name, gguf_file=gguf_file))


def _weights(path: Path, gguf_file: str | None) -> list[str]:
    return list(weights_named(path)) if gguf_file is None else [gguf_file]


def not_cached(name: str) -> Problem:
    """Describe a hub id that is not in the cache and cannot be downloaded."""
    if variable := offline_variable():
        what = f"`{name}` is not in the hub's cache, and {variable} is set"
        return Problem("", what, 'unset it to download, or name a folder, or "lorans:nano"', key="model.name_or_path")
    what = f"`{name}` is not in the hub's cache, and the hub cannot be reached"
    return Problem("", what, 'check the connection, or name a folder, or "lorans:nano"', key="model.name_or_path")


def _hub_problem(name: str, revision: str, error: Exception) -> Problem:
    """Describe the hub's answer in one line."""
    key = "model.name_or_path"
    kind = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if kind == "GatedRepoError":
        return Problem("", f"`{name}` is gated", "accept its terms on the hub, then `hf auth login`", key=key)
    if kind == "RevisionNotFoundError":
        remedy = 'write "main", or a branch, tag or commit'
        return Problem("", f"`{name}` has no revision `{revision}`", remedy, key="model.revision")
    if kind == "RepositoryNotFoundError" or status in {401, 403, 404}:
        what = f"no model `{name}` on the hub, or it is private"
        return Problem("", what, "check the spelling, or `hf auth login`", key=key)
    answer = f"the hub answered {status}" if status else f"{kind}: {first_line(error)}"
    return Problem("", f"`{name}` cannot be downloaded: {answer}", "try again later, or name a folder", key=key)


def _tensors(files: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    """Read dtype and shape of every tensor, as it is without quantisation. Raises `ModelError`."""
    tensors: dict[str, Mapping[str, Any]] = {}
    for file in files:
        found = _unpacked(file, *read_header(file))
        if twice := tensors.keys() & found.keys():
            raise ModelError(Problem(str(file), f"`{min(twice)}` is also in another file", "fetch the model again"))
        tensors |= found
    return tensors


def _unpacked(file: Path, header: Tensors, start: int) -> Tensors:
    """Return the tensors of a weight file without quantisation, if the file itself describes it.

    Args:
        file: the weight file.
        header: dtype, shape and offsets of every stored tensor.
        start: offset of the data in the file.
    """
    with file.open("rb") as stream:

        def content(name: str) -> bytes:
            begin, end = header[name]["data_offsets"]
            stream.seek(start + begin)
            return stream.read(end - begin)

        tensors = header
        for kind in QUANTIZATIONS.values():
            try:
                tensors = kind.plain_tensors(tensors, content)
            except ValueError as error:
                raise ModelError(Problem(str(file), str(error), "fetch the model again")) from None
    return tensors


def _digest_weights(digest: Any, file: Path) -> None:
    header, start = read_header(file)
    digest.update(json.dumps(header, sort_keys=True).encode())
    with file.open("rb") as stream:
        for name in sorted(header):
            begin, end = header[name]["data_offsets"]
            stream.seek(start + begin)
            digest.update(stream.read(min(_SAMPLE_BYTES, end - begin)))
            stream.seek(start + max(begin, end - _SAMPLE_BYTES))
            digest.update(stream.read(min(_SAMPLE_BYTES, end - begin)))


def _digest_gguf(digest: Any, file: Path, header: GgufHeader) -> None:
    with file.open("rb") as stream:
        digest.update(stream.read(header.size))
        for begin, count in header.places:
            stream.seek(begin)
            digest.update(stream.read(min(_SAMPLE_BYTES, count)))
            stream.seek(begin + max(0, count - _SAMPLE_BYTES))
            digest.update(stream.read(min(_SAMPLE_BYTES, count)))


def read_facts(config: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Any]]) -> BaseFacts:
    """Compute the sizes of a model from its settings and its unquantised tensors."""
    text: Mapping[str, Any] = config.get("text_config") or config

    def size(*names: str, default: int = 0) -> int:
        found = next((text[name] for name in names if isinstance(text.get(name), int)), default)
        return int(found)

    hidden = size("hidden_size", "n_embd", "dim", "d_model")
    weights: dict[str, int] = {}
    for entry in tensors.values():
        weights[entry["dtype"]] = weights.get(entry["dtype"], 0) + math.prod(entry["shape"])
    return BaseFacts(
        model_type=str(config.get("model_type", "unknown")),
        parameters=sum(weights.values()),
        largest_dtype=max(weights, key=lambda dtype: weights[dtype], default="F32"),
        hidden_size=hidden,
        intermediate_size=size("intermediate_size", "n_inner", "hidden_dim", "ffn_dim", default=4 * hidden),
        num_hidden_layers=size("num_hidden_layers", "n_layer", "n_layers"),
        vocab_size=size("vocab_size"),
        max_position_embeddings=max(0, size("max_position_embeddings", "n_positions")) or None,
        quantization=config.get("quantization_config") or {},
        settings=config,
        shapes={name: entry["shape"] for name, entry in tensors.items()},
        matrices={
            name.removesuffix(".weight"): (entry["shape"][0], entry["shape"][1])
            for name, entry in tensors.items()
            if len(entry["shape"]) == 2 and name.endswith(".weight")
        },
        has_biases=any(
            len(tensors.get(f"{name.removesuffix('.bias')}.weight", {}).get("shape", ())) == 2
            for name in tensors
            if name.endswith(".bias")
        ),
    )
