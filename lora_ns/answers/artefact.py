"""Opening an artefact to answer as the run that it was made from: an adapter, a model or a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.gguf_model import GgufAdapter, GgufModel, alone, configuration, needs_configuration
from lora_ns.answers.opened import Opened, Trained, computing_in, loading_of, open_run, reopen_base
from lora_ns.answers.plain_model import model_of
from lora_ns.errors import Problem, UsageError
from lora_ns.exports.record import RECORD, Record, read_record
from lora_ns.files.disk import sha256_file
from lora_ns.files.reading import is_file, is_folder
from lora_ns.files.temporary import temporary_folder
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.machine.hardware import detect
from lora_ns.methods.lora import Lora
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import PACKAGED, Base
from lora_ns.model.folder import ADAPTER, SETTINGS, read_object
from lora_ns.model.gguf import ENDING, read_gguf
from lora_ns.model.load import load_base
from lora_ns.model.saved_adapter import load_adapter
from lora_ns.model.tokenizer import base_tokenizer, choose_pad_token, load_tokenizer, template_hash
from lora_ns.plan.plan import Derived
from lora_ns.quantizers import NoQuantization
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["adapter", "model", "gguf", "gguf-lora"]

AGAINST = "export the run again, or answer from this alone with `--against RUN`"


@dataclass(frozen=True)
class Artefact:
    """What a run was exported as, found but not opened."""

    place: Path
    """The folder, or the GGUF file."""
    kind: Kind
    record: Record
    """Its run, from its own record or from the run itself."""
    source: RunDir | None = None
    """The run, if it was named."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the run."""
        return self.record.manifest


@dataclass(frozen=True)
class PlainAdapter(Opened):
    """An adapter folder on its base. Its run directory is the folder."""

    @property
    def adapter(self) -> Path:
        """The folder of the adapter."""
        return self.run.path

    def load(self) -> Trained:
        """Load base and adapter. Raises `ModelError` or `UsageError`."""
        message = f"out of memory while loading a base of {self.manifest.base.parameters / 1e9:,.2f} billion parameters"
        with telling_memory_errors(lambda: message, "free memory, or choose a smaller dtype with `--dtype`"):
            model = load_adapter(load_base(self.base, loading_of(self.manifest)), self.run.path)
        return Trained(self.run, self.manifest, self.base, self.tokenizer, model)


def is_run(place: Path) -> bool:
    """True if a folder is a run directory."""
    return is_file(RunDir(place).manifest_file)


def is_artefact(place: Path) -> bool:
    """True if a file or folder looks like something that a run was made into, and is no run itself."""
    if is_run(place) or not is_folder(place):
        return is_file(place)
    return any(is_file(place / name) for name in (ADAPTER, SETTINGS)) or any(place.glob(f"*{ENDING}"))


def find_artefact(place: Path, against: Path | None = None) -> Artefact:
    """Find an artefact and the record of its run; nothing is loaded.

    Args:
        place: a folder with an adapter or a model, or a GGUF file.
        against: the run that it was made from, if it has no record or another run counts.

    Raises:
        UsageError: if this is no artefact, or nothing tells its run.
    """
    file, kind = _kind_of(place)
    source = RunDir.open(against) if against else None
    record = Record(kind, source.read()) if source else read_record(file)
    if record is None:
        raise UsageError(_without_record(place))
    if kind in {"gguf", "gguf-lora"} and not record.manifest.recipe.objective.writes_text:
        raise UsageError(Problem(str(file), "its run trained a classifier, and a GGUF file is none", "name a folder"))
    return Artefact(file, kind, replace(record, manifest=_on_this_machine(record.manifest)), source)


def _on_this_machine(manifest: Manifest) -> Manifest:
    """The manifest with the CPU for a device of the training that this machine does not have."""
    plan, machine = manifest.plan, detect()
    if {"cuda": bool(machine.gpus), "mps": machine.mps}.get(plan.device.value, True):
        return manifest
    device = Derived[str](value="cpu", origin="computed", why=f"this machine has no {plan.device.value}")
    kernel = "eager" if plan.attn_implementation.value == "eager" else "sdpa"
    attention = plan.attn_implementation.model_copy(update={"value": kernel})
    moved = plan.model_copy(update={"device": device, "attn_implementation": attention})
    return manifest.model_copy(update={"plan": moved})


def _kind_of(place: Path) -> tuple[Path, Kind]:
    """The folder or file of an artefact, and its kind. Raises `UsageError`."""
    if is_folder(place):
        files = sorted(place.glob(f"*{ENDING}"))
        if is_file(place / ADAPTER):
            return place, "adapter"
        if is_file(place / SETTINGS):
            return place, "model"
        if len(files) == 1:
            return _kind_of(files[0])
        what = f"has {len(files)} GGUF files" if files else "is neither an adapter nor a model"
        remedy = f"name one, such as {files[0]}" if files else "name what `lorans export` made of a run"
        raise UsageError(Problem(str(place), what, remedy))
    if place.suffix != ENDING:
        raise UsageError(Problem(str(place), "is a file", "name a run, a folder of `lorans export`, or a GGUF file"))
    read_gguf(place)
    from gguf import GGUFReader  # `read_gguf` has found that it is installed

    entry = GGUFReader(place).get_field("general.type")
    return place, "gguf-lora" if entry is not None and entry.contents() == "adapter" else "gguf"


def _without_record(place: Path) -> Problem:
    if is_run(place.absolute().parent):
        return Problem(str(place), "is a part of a run", f"name the run: {place.absolute().parent}")
    return Problem(str(place), f"has no {RECORD}, so it is not known how its rows are read", AGAINST)


def open_place(
    place: Path,
    base_path: Path | None = None,
    dtype: str | None = None,
    force: Force = REFUSED,
    against: Path | None = None,
) -> Opened:
    """Open a run or an artefact; arguments and errors as in `open_run` and `find_artefact`."""
    if not is_artefact(place):
        return open_run(RunDir.open(place), base_path, dtype, force)
    return open_artefact(find_artefact(place, against), base_path, dtype, force)


def open_artefact(
    artefact: Artefact, base_path: Path | None = None, dtype: str | None = None, force: Force = REFUSED
) -> Opened:
    """Open an artefact to answer as its run does. The other arguments are those of `open_run`.

    Raises:
        UsageError: if its chat template is not that of the run, or its adapter fits no base.
        ModelError: if the base of an adapter is missing or another one, or a model or tokenizer cannot be read.
    """
    source = artefact.source
    if artefact.kind == "adapter" and source and _is_own(artefact, source):
        return open_run(source, base_path, dtype, force)
    opened = _OPENERS[artefact.kind](artefact, base_path, force)
    if template_hash(opened.tokenizer) != artefact.manifest.chat_template_sha256:
        what = "its chat template is not that of the run"
        force.refuse(Problem(str(artefact.place), what, "restore it, or export the run again"))
    return opened if dtype is None else computing_in(opened, dtype)


def _is_own(artefact: Artefact, source: RunDir) -> bool:
    """True if an adapter is the run's own, which may belong to a base with the adapters of earlier runs."""
    file = artefact.place / WEIGHTS
    return is_file(file) and sha256_file(file) == source.read().adapter.get(WEIGHTS)


def base_of(artefact: Artefact, base_path: Path | None = None, force: Force = REFUSED) -> Base | None:
    """Find the base that an adapter belongs to; None for a whole model. Raises `ModelError`."""
    if artefact.kind in {"model", "gguf"}:
        return None
    return reopen_base(_on_base(artefact), base_path, force)


def _adapter(artefact: Artefact, base_path: Path | None, force: Force) -> Opened:
    place, manifest = artefact.place, artefact.manifest
    settings = read_object(place / ADAPTER)
    if not is_file(place / WEIGHTS):
        raise UsageError(Problem(str(place), f"{WEIGHTS} is missing", "export the run again"))
    peft = Lora(method="lora") if settings.get("peft_type") == "LORA" else manifest.recipe.peft
    own = {
        "recipe": manifest.recipe.model_copy(update={"peft": peft}),
        "adapter": {WEIGHTS: sha256_file(place / WEIGHTS)},
        "base_adapters": (),
        "init_adapter": None,
    }
    base = base_of(artefact, base_path, force)
    assert base is not None, "an adapter has a base"
    tokenizer = _padded(load_tokenizer(place, manifest.recipe.model.trust_remote_code), manifest)
    return PlainAdapter(RunDir(place), manifest.model_copy(update=own), base, tokenizer)


def _on_base(artefact: Artefact) -> Manifest:
    """The manifest with the path of the base that an adapter names, which its record leaves out."""
    manifest, base = artefact.manifest, artefact.manifest.base
    if base.commit or base.name.startswith(PACKAGED) or Path(base.path).is_absolute() or artefact.kind != "adapter":
        return manifest
    name = read_object(artefact.place / ADAPTER).get("base_model_name_or_path")
    folder = Path(name) if isinstance(name, str) else Path(base.path)
    path = folder.parent if base.gguf_file and folder.name == base.gguf_file else folder
    return manifest.model_copy(update={"base": base.model_copy(update={"path": str(path)})})


def _model(artefact: Artefact, base_path: Path | None, force: Force) -> Opened:
    del base_path, force
    settings = read_object(artefact.place / SETTINGS)
    opened = model_of(artefact.manifest, RunDir(artefact.place), artefact.place)
    dtype = settings.get("dtype") or settings.get("torch_dtype")
    # Kernels of quantised weights may need the dtype that these were written for.
    return computing_in(opened, dtype) if settings.get("quantization_config") and isinstance(dtype, str) else opened


def _gguf(artefact: Artefact, base_path: Path | None, force: Force) -> Opened:
    manifest, file = artefact.manifest, artefact.place
    config = _configuration(artefact, base_path, force)
    base = Base(str(file), file.absolute().parent, gguf_file=file.name)
    own = {
        "recipe": manifest.recipe.model_copy(update={"quantization": NoQuantization(), "peft": Lora(method="lora")}),
        "adapter": {WEIGHTS: base.fingerprint},
        "base_adapters": (),
        "init_adapter": None,
        "added_tokens": (),
    }
    with alone(file, config) as found:
        tokenizer = _tokenizer(artefact, found)
    return GgufModel(RunDir(file), manifest.model_copy(update=own), base, tokenizer, config)


def _gguf_lora(artefact: Artefact, base_path: Path | None, force: Force) -> Opened:
    manifest, file = artefact.manifest, artefact.place
    base = base_of(artefact, base_path, force)
    assert base is not None, "an adapter has a base"
    own = {
        "recipe": manifest.recipe.model_copy(update={"peft": Lora(method="lora")}),
        "adapter": {WEIGHTS: sha256_file(file)},
        "base_adapters": (),
        "init_adapter": None,
    }
    config = configuration(base, manifest.recipe.model.trust_remote_code)
    return GgufAdapter(RunDir(file), manifest.model_copy(update=own), base, _tokenizer(artefact, base), config)


def _configuration(artefact: Artefact, base_path: Path | None, force: Force) -> Mapping[str, Any]:
    """The `config.json` of the model in a GGUF file. Raises `UsageError` if one is needed, and there is none."""
    if artefact.record.config is not None:
        return artefact.record.config
    if not needs_configuration(read_gguf(artefact.place), {}):
        return {}
    if artefact.source is None:
        what = "transformers does not read all settings of such a model from the file"
        raise UsageError(Problem(str(artefact.place), what, AGAINST))
    trust = artefact.manifest.recipe.model.trust_remote_code
    return configuration(reopen_base(artefact.manifest, base_path, force), trust)


def _tokenizer(artefact: Artefact, base: Base) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file: the run's own, that of its record, or else that of a base. Raises `ModelError`."""
    trust = artefact.manifest.recipe.model.trust_remote_code
    if artefact.source:
        return _padded(load_tokenizer(artefact.source.adapter, trust), artefact.manifest)
    if not artefact.record.tokenizer:
        return _padded(base_tokenizer(base, trust), artefact.manifest)
    with temporary_folder() as folder:
        for name, text in artefact.record.tokenizer.items():
            (folder / name).write_text(text, encoding="utf-8")
        return _padded(load_tokenizer(folder), artefact.manifest)


def _padded(tokenizer: PreTrainedTokenizerBase, manifest: Manifest) -> PreTrainedTokenizerBase:
    choose_pad_token(tokenizer, manifest.stop_token_ids)
    return tokenizer


_OPENERS: Mapping[Kind, Callable[[Artefact, Path | None, Force], Opened]] = {
    "adapter": _adapter,
    "model": _model,
    "gguf": _gguf,
    "gguf-lora": _gguf_lora,
}
