"""Exporting a run: an artefact that others read, read back by its own reader and compared with the trained model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.opened import Opened, Trained, load, loading_of, open_run
from lora_ns.answers.probes import Comparison, Probe, ask_probes, compare, probes_of
from lora_ns.data.prepared import saved_rows
from lora_ns.errors import Problem, RunError, UsageError
from lora_ns.exports.factors import MERGED, Factors, factors_of, is_lora, whole_modules
from lora_ns.exports.plain import cut_all, write
from lora_ns.files.disk import follow_umask, sync, telling_disk_errors, write_atomic
from lora_ns.files.marks import MARK
from lora_ns.files.staging import folder, target_of
from lora_ns.files.strict_json import strict_json
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.load import load_base
from lora_ns.model.saved_adapter import load_adapter, load_trainable, put_in_place
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.run.outputs import check_output

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

REPORT = "export_report.json"
"""File of an artefact with its comparison."""

BOUNDS = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
"""Largest difference of two logits, relative to the largest logit, of an export without loss, by compute dtype."""


@dataclass(frozen=True)
class ExportResult:
    """The result of `lorans export`."""

    output: str
    kind: str
    rank: int
    layers: int
    lost: float
    """Largest share of the update of a layer that is lost, by its Frobenius norm."""
    comparison: Comparison
    bound: float | None
    """Largest allowed difference; None if the update was cut on purpose."""

    @property
    def is_verified(self) -> bool:
        """True if the artefact is within its bound."""
        return self.bound is None or self.comparison.largest_difference <= self.bound


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
    _check_method(run, manifest)
    check_output(output, run, manifest, base_path)
    target = target_of(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(Problem(str(output), "is there already", "choose another `--output`"))
    message = f"out of memory while converting an adapter of {manifest.base.parameters / 1e9:,.2f} billion parameters"
    observer.stage("loading the base and the adapter")
    with folder(target) as staged, telling_memory_errors(lambda: message, "free memory"):
        opened = open_run(run, base_path, force=force)
        result = _export(opened, staged, target, rank, energy, observer)
        text = strict_json({**asdict(result), "verified": result.is_verified, "run_id": manifest.run_id}, indent=2)
        with telling_disk_errors(target):
            write_atomic(staged / REPORT, f"{text}\n")
            follow_umask(staged)
            sync(staged)
            staged.rename(target)  # an empty folder there is replaced
            sync(target.parent)
    if not result.is_verified:
        what = f"the exported adapter differs from the trained model by {result.comparison.largest_difference:.1e}"
        remedy = f"do not use it: `{REPORT}` there says so; report this"
        raise RunError(Problem(str(output), f"{what} of the largest logit", remedy))
    return result


def _check_method(run: RunDir, manifest: Manifest) -> None:
    """Refuse methods that change no weights, and bases with new tokens. Raises `UsageError`."""
    method = manifest.recipe.peft
    if method.capabilities.merge is not True:
        what = f"{method.tag()} is no update of weights: {method.capabilities.merge}"
        raise UsageError(Problem(str(run.path), what, f"use it with PEFT: {run.adapter}"))
    if manifest.added_tokens:
        what = "the run added tokens to the base, and an adapter on the stored base has no place for them"
        raise UsageError(Problem(str(run.path), what, MERGED))


def _export(
    opened: Opened, staged: Path, target: Path, rank: int | None, energy: float | None, observer: Observer
) -> ExportResult:
    trained = load(opened)
    probes, dtype = _probes(opened), opened.manifest.plan.dtype.value
    expected = ask_probes(trained.model, probes, trained.model.device, dtype)
    observer.stage("converting the update of each layer")
    updates = _updates(trained)
    if not updates:
        raise UsageError(Problem(str(opened.run.path), "the adapter changes no layer", MERGED))
    whole = whole_modules(trained.model)
    updates, lost = cut_all(updates, rank, energy)
    with telling_disk_errors(target):
        found = write(staged, updates, trained.model.get_base_model(), whole, _record(trained.model))
        _copy_others(opened.run.adapter, staged)
    del trained
    observer.stage("reading it back, and comparing the logits")
    model = load_adapter(load_base(opened.base, loading_of(opened.manifest)), staged)
    comparison = compare(expected, ask_probes(model, probes, model.device, dtype))
    is_whole = rank is None and energy is None and not lost
    return ExportResult(
        str(target), "plain", found, len(updates), lost, comparison, BOUNDS[dtype] if is_whole else None
    )


def _probes(opened: Opened) -> list[Probe]:
    """The texts to compare on: rows that the run keeps, if they are there, and neutral ones."""
    rows: Sequence[Mapping[str, Any]] = ()
    for part in ("eval", "train"):
        if (opened.run.data / part).is_dir() and not rows:
            try:
                rows = [row for row, _ in zip(saved_rows(opened.run.data / part), range(8), strict=False)]
            except ValueError:
                continue
    return probes_of([row for row in rows if "input_ids" in row], opened.tokenizer)


def _updates(trained: Trained) -> dict[str, Factors]:
    """The updates of all layers against the stored base: of the adapter, and of those that were merged before it."""
    run, manifest = trained.run, trained.manifest
    earlier = [run.base_adapter(number) for number in range(len(manifest.base_adapters))]
    is_moved = not manifest.recipe.peft.keeps_base
    if not earlier and not is_moved and (not loading_of(manifest).quantization.bits or is_lora(trained.model)):
        return factors_of(trained.model)
    model, found = _base(trained), dict[str, Factors]()
    for adapter in (*earlier, run.adapter):
        adapted = load_trainable(model, adapter, has_head=adapter is run.adapter)
        for name, factors in factors_of(adapted, _base(trained) if is_moved else None).items():
            found[name] = found[name].beside(factors) if name in found else factors
        if adapter is not run.adapter:
            put_in_place(adapted)
            model = adapted.merge_and_unload(safe_merge=True)
    return found


def _base(opened: Opened) -> PreTrainedModel:
    """The stored base with whole weights, those of a quantised base as training had them."""
    loading = replace(loading_of(opened.manifest), device="cpu")
    if loading.quantization.bits is None:
        return load_base(opened.base, loading)
    return loading.quantization.in_full(load_base(opened.base, replace(loading, dtype="float32")))


def _copy_others(adapter: Path, staged: Path) -> None:
    """Copy tokenizer, template and generation settings."""
    for file in adapter.iterdir():
        if file.is_file() and file.name not in {WEIGHTS, "adapter_config.json", MARK}:
            shutil.copyfile(file, staged / file.name)


def _record(model: PeftModel) -> dict[str, Any]:
    """The fields of an adapter's configuration that describe its base and its task."""
    config = model.active_peft_config
    return {name: getattr(config, name) for name in ("base_model_name_or_path", "revision", "task_type")}
