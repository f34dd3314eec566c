"""Exporting a run: an artefact that others read, read back by its own reader and compared with the trained model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.gguf_model import trained_configuration
from lora_ns.answers.opened import Opened, Trained, load, loading_of, open_run, stored_base
from lora_ns.errors import Problem, RunError, UsageError
from lora_ns.exports.card import CARD, card
from lora_ns.exports.factors import MERGED, Factors, factors_of, is_lora, whole_modules
from lora_ns.exports.lineage import REPORT, write_lineage
from lora_ns.exports.plain import cut_all, write
from lora_ns.exports.record import RECORD, write_record
from lora_ns.files.disk import telling_disk_errors, write_atomic
from lora_ns.files.marks import MARK
from lora_ns.files.staging import folder, free_folder, put
from lora_ns.files.strict_json import strict_json
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.skeleton import attach, load_skeleton
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.saved_adapter import load_trainable, put_in_place
from lora_ns.quantizers import NoQuantization
from lora_ns.run.artefacts import keep_proof
from lora_ns.run.directory import RunDir
from lora_ns.run.lineage import LINEAGE
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.run.outputs import check_output
from lora_ns.services.merge import MergeResult
from lora_ns.services.verify import Proof, verify

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PlainLora:
    """An adapter as plain LoRA, in PEFT's files or as GGUF."""

    rank: int
    layers: int
    lost: float
    """Largest share of the update of a layer that is lost, by its Frobenius norm."""


@dataclass(frozen=True)
class GgufFile:
    """A model as a GGUF file."""

    file: str
    type: str
    """llama.cpp's name of the type of its weights."""
    size: int
    """Size in bytes."""
    converter: str
    """`lorans`, or the path of llama.cpp's converter."""
    notes: tuple[str, ...]
    """What llama.cpp computes otherwise, and no short text shows."""


@dataclass(frozen=True)
class QuantizedModel:
    """A merged model in few bits."""

    type: str
    parameters: int
    size: int
    """Bytes of the weights."""
    loss: str | None = None
    """What else than quantisation changes the answers; None for nothing."""


@dataclass(frozen=True)
class ExportResult:
    """The result of `lorans export`."""

    output: str
    kind: str
    made: PlainLora | MergeResult | GgufFile | QuantizedModel
    proof: Proof
    lineage: str = ""
    """The tip of the artefact's lineage."""


def export_plain(
    run: RunDir,
    output: Path,
    rank: int | None = None,
    energy: float | None = None,
    base_path: Path | None = None,
    force: Force = REFUSED,
    observer: Observer | None = None,
) -> ExportResult:
    """Write a run's adapter as a LoRA that every reader reads alike, and compare it with the trained model.

    Args:
        run: the run directory.
        output: the folder to write; for a symbolic link, its target.
        rank: the largest rank; None for that of the update, up to 512.
        energy: the share of the sum of squared singular values that each layer keeps; None for all.
        base_path: path to the base model, if it has moved.
        force: the response to a part that does not match the manifest.
        observer: receives the stages.

    Raises:
        UsageError: if the adapter cannot be written as plain LoRA, or the output cannot be written.
        RunError: if the artefact differs from the trained model; the folder is kept, and its report says so.
    """
    observer = observer or SilentObserver()
    manifest = run.read()
    check_convertible(run, manifest)
    check_output(output, run, manifest, base_path)
    target = free_folder(output)
    message = f"out of memory while converting an adapter of {manifest.base.parameters / 1e9:,.2f} billion parameters"
    observer.stage("loading the base and the adapter")
    with folder(target) as staged, telling_memory_errors(lambda: message, "free memory"):
        opened = open_run(run, base_path, force=force)
        made = _write_plain(opened, staged, target, rank, energy, observer)
        is_cut = rank is not None or energy is not None or made.lost > 0
        proof = replace(verify(opened, staged, observer, lossy=is_cut), folder=str(target))
        result = ExportResult(str(output), "plain", made, proof)
        result = write_report(staged / REPORT, result, run, manifest)
        write_card(staged, result, run)
        put(staged, target)
    return proven(result)


def write_report(
    file: Path,
    result: ExportResult,
    run: RunDir,
    manifest: Manifest,
    gguf: Opened | None = None,
    others: Sequence[RunDir] = (),
    alone: Path | None = None,
) -> ExportResult:
    """Write what was made and how it compares, and beside it the record of the run and the lineage.

    Args:
        file: the file of the report. Everything else in the artefact is complete, except its card.
        result: what was made.
        run: the run, with the adapter that it was made from.
        manifest: the manifest of the run.
        gguf: the opened run, for a GGUF file, whose record has parts of it.
        others: runs that are combined with it.
        alone: the GGUF file, if it is no folder's.

    Returns:
        The result with the tip of the lineage.
    """
    table: dict[str, Any] = {**asdict(result), "verified": result.proof.is_verified, "run_id": manifest.run_id}
    table["step"] = manifest.adapter_step
    table.pop("lineage")  # which has the hash of this report
    parts = (trained_configuration(gguf), gguf.run.adapter) if gguf else ()
    with telling_disk_errors(file):
        write_atomic(file, f"{strict_json(table, indent=2)}\n")
        write_record(file.with_name(file.name.replace(REPORT, RECORD)), result.kind, manifest, *parts)
        lineage = file.with_name(file.name.replace(REPORT, LINEAGE))
        tip = write_lineage(lineage, result.kind, run, others, alone)
    return replace(result, lineage=tip)


def write_card(place: Path, result: ExportResult, run: RunDir) -> None:
    """Write the model card of a folder."""
    with telling_disk_errors(place):
        write_atomic(place / CARD, card(run, result.kind, about_proof(result), result.lineage))


def about_proof(result: ExportResult) -> str:
    """Describe how an artefact compares with the trained model, and why it may differ."""
    made = result.made
    if not isinstance(made, (MergeResult, QuantizedModel)):
        return str(result.proof)
    loss = f" It was {made.loss}: the difference is measured, and has no bound." if made.loss else ""
    combined = made.combined if isinstance(made, MergeResult) else None
    runs = f" The trained model is here the combination of runs: {combined}." if combined else ""
    return f"{result.proof}{runs}{loss}"


def proven(result: ExportResult) -> ExportResult:
    """Return a result without faults; its run keeps the proof for its report. Raises `RunError`."""
    proof = result.proof
    keep_proof(Path(proof.run), result.kind, Path(result.output), proof.is_verified, str(proof))
    if (fault := proof.first) is None:
        return result
    what = f"is not the trained model: {fault.name}: {fault.fault}"
    raise RunError(Problem(result.output, what, f"do not use it, as `{REPORT}` there says, and report this"))


def check_convertible(run: RunDir, manifest: Manifest) -> None:
    """Refuse methods that change no weights, and bases with new tokens. Raises `UsageError`."""
    method = manifest.recipe.peft
    if method.capabilities.merge is not True:
        what = f"{method.tag()} is no update of weights: {method.capabilities.merge}"
        raise UsageError(Problem(str(run.path), what, f"use it with PEFT: {run.adapter}"))
    if manifest.added_tokens:
        what = "the run added tokens to the base, and an adapter on the stored base has no place for them"
        raise UsageError(Problem(str(run.path), what, MERGED))


def _write_plain(
    opened: Opened, staged: Path, target: Path, rank: int | None, energy: float | None, observer: Observer
) -> PlainLora:
    trained = load_layers(opened)
    observer.stage("converting the update of each layer")
    updates, lost = cut_all(updates_of(trained), rank, energy)
    if not updates:
        raise UsageError(Problem(str(opened.run.path), "the adapter changes no layer", MERGED))
    with telling_disk_errors(target):
        bare = trained.model.get_base_model()
        found = write(staged, updates, bare, whole_modules(trained.model), describe_base(trained.model))
        _copy_others(opened.run.adapter, staged)
    return PlainLora(found, len(updates), lost)


def load_layers(opened: Opened) -> Trained:
    """Load a run to read its updates: without the weights of the base if the adapter alone has them."""
    manifest = opened.manifest
    if not manifest.recipe.peft.keeps_base or manifest.base_adapters or not has_skeleton(opened):
        return load(opened)
    try:
        adapted = attach(skeleton_of(opened), opened.run.adapter)
    except WholeModelError:
        return load(opened)
    if not is_lora(adapted):
        return load(opened)
    return Trained(opened.run, manifest, opened.base, opened.tokenizer, adapted)


def has_skeleton(opened: Opened) -> bool:
    """True if the layers of the base are known without its weights."""
    is_packed = opened.base.facts.quantization and opened.manifest.recipe.quantization.quant_method != "bitsandbytes"
    return not (opened.base.gguf_file or is_packed or opened.manifest.added_tokens)


def skeleton_of(opened: Opened) -> PreTrainedModel:
    """The base without weights. Its layers are not quantised."""
    loading = replace(loading_of(opened.manifest), quantization=NoQuantization())
    return load_skeleton(opened.base, loading)


def updates_of(trained: Trained) -> dict[str, Factors]:
    """The updates of all layers against the stored base: of the adapter, and of those that were merged before it."""
    run, manifest = trained.run, trained.manifest
    earlier = [run.base_adapter(number) for number in range(len(manifest.base_adapters))]
    is_moved = not manifest.recipe.peft.keeps_base
    if not earlier and not is_moved and (not loading_of(manifest).quantization.bits or is_lora(trained.model)):
        return factors_of(trained.model)
    model, found = stored_base(trained), dict[str, Factors]()
    for adapter in (*earlier, run.adapter):
        adapted = load_trainable(model, adapter, has_head=adapter is run.adapter)
        for name, factors in factors_of(adapted, stored_base(trained) if is_moved else None).items():
            found[name] = found[name].beside(factors) if name in found else factors
        if adapter is not run.adapter:
            put_in_place(adapted)
            model = adapted.merge_and_unload(safe_merge=True)
    return found


def _copy_others(adapter: Path, staged: Path) -> None:
    """Copy tokenizer, template and generation settings."""
    for file in adapter.iterdir():
        if file.is_file() and file.name not in {WEIGHTS, "adapter_config.json", MARK, LINEAGE}:
            shutil.copyfile(file, staged / file.name)


def describe_base(model: PeftModel) -> dict[str, Any]:
    """The fields of an adapter's configuration that describe its base and its task."""
    config = model.active_peft_config
    return {name: getattr(config, name) for name in ("base_model_name_or_path", "revision", "task_type")}
