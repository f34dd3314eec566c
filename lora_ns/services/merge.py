"""Merging an adapter into its base: writes a complete Hugging Face model, after comparing the logits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.opened import load_whole_base, loading_of, reopen
from lora_ns.errors import Problem, RunError, UsageError
from lora_ns.files.disk import check_space, follow_umask, telling_disk_errors
from lora_ns.files.reading import read_json
from lora_ns.files.staging import folder, target_of
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.model.files import Base
from lora_ns.model.load import Loading, difference, never_quantised
from lora_ns.model.saved_adapter import load_adapter, put_in_place
from lora_ns.quantizers import NoQuantization
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.run.outputs import check_output

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedTokenizerBase

TOLERANCE = 1e-3
"""Largest difference between the logits before and after merging in float32, relative to the largest logit."""


_PROBE = "The quick brown fox jumps over the lazy dog. 12 + 7 = 19."


@dataclass(frozen=True)
class MergeResult:
    """The result of `lorans merge`."""

    output: str
    parameters: int
    dtype: str
    largest_difference: float
    """Largest difference between the logits before and after merging, both in float32, relative to the largest."""
    rounded_difference: float
    """The same difference after rounding the weights to the output dtype."""


def merge(
    run: RunDir,
    output: Path,
    base_path: Path | None = None,
    dtype: str | None = None,
    force: Force = REFUSED,
    observer: Observer | None = None,
) -> MergeResult:
    """Merge a run's adapter into its base.

    The base is loaded on the CPU, in the dtype of training. A base that was quantised for training is quantised and
    dequantised, so that the adapter is added to the same values that it was trained on. The sum is computed in float32
    and rounded once.

    Args:
        run: the run directory.
        output: the folder to write; for a symbolic link, its target.
        base_path: path to the base model, if it has moved.
        dtype: the dtype to write, if not that of the stored base.
        force: the response to a part that does not match the manifest.
        observer: receives the stages.

    Raises:
        UsageError: if the method cannot be merged, the output folder is not empty or is one of the inputs, or a part
            does not match the manifest.
        RunError: if the merged model's logits differ from the adapter's.
    """
    manifest = run.read()
    method = manifest.recipe.peft
    if method.capabilities.merge is not True:
        what = f"{method.tag()} cannot be merged: {method.capabilities.merge}"
        remedy = f"use it unmerged: `lorans infer {run.path}`, or PEFT with {run.adapter}"
        raise UsageError(Problem(str(run.path), what, remedy))
    check_output(output, run, manifest, base_path)
    target = target_of(output)
    if target.exists() and not target.is_dir():
        raise UsageError(Problem(str(output), "is not a folder", "choose another `--output`"))
    if target.exists() and any(target.iterdir()):
        raise UsageError(Problem(str(output), "is not empty", "choose another `--output`"))
    message = f"out of memory while merging {manifest.base.parameters / 1e9:,.2f} billion parameters in float32"
    observer = observer or SilentObserver()
    observer.stage("loading the base and the adapter")
    with (
        folder(target) as staged,
        telling_memory_errors(lambda: message, "free memory, or use the adapter unmerged"),
    ):
        merged = _merge(run, manifest, target, staged, base_path, dtype, force, observer)
    return replace(merged, output=str(output))


def _merge(
    run: RunDir,
    manifest: Manifest,
    output: Path,
    staged: Path,
    base_path: Path | None,
    dtype: str | None,
    force: Force,
    observer: Observer,
) -> MergeResult:
    method = manifest.recipe.peft
    base, tokenizer = reopen(run, manifest, base_path, force)
    generation = _generation(run.adapter / "generation_config.json")
    written = dtype or _stored_dtype(manifest.plan.dtype.value, base.facts.largest_dtype)
    check_space(output, (5 if written == "float32" else 3) * base.facts.parameters)
    loading = _loading(run, manifest, base)
    model = load_whole_base(run, manifest, base, loading)
    if loading.quantization.bits is not None:
        model = loading.quantization.in_full(model)
    if method.capabilities.hidden_tensors:
        model = model.float()
    adapted = load_adapter(model, run.adapter).float()
    observer.stage("merging, and comparing the logits")
    before = _logits(adapted, tokenizer)
    put_in_place(adapted)
    merged = adapted.merge_and_unload(safe_merge=True)
    exact = difference(before, _logits(merged, tokenizer))
    if not exact <= TOLERANCE:
        what = f"the merged model differs from the adapter by {exact:.1e} of the largest logit"
        raise RunError(Problem(str(run.path), what, "use the adapter unmerged, and report this"))
    _round(merged, written)
    rounded = difference(before, _logits(merged, tokenizer))
    if loading.quantization.bits is not None:
        merged = never_quantised(merged)
    observer.stage(f"writing the merged model in {written}")
    _save(merged, written, tokenizer, generation, staged, output)
    parameters = sum(parameter.numel() for parameter in merged.parameters())
    return MergeResult(str(output), parameters, written, exact, rounded)


def _loading(run: RunDir, manifest: Manifest, base: Base) -> Loading:
    """The arguments for loading the base to merge into. Raises `UsageError` if its weights cannot be dequantised."""
    loading = replace(loading_of(manifest), device="cpu")
    if loading.quantization.bits is not None:
        loading = replace(loading, dtype="float32")
    if not loading.quantization.only_stored:
        return loading
    if base.facts.quantization:
        what = f"PEFT cannot merge into a base that is stored in {loading.quantization.method} format"
        remedy = "merge into the full-precision model with `--base FOLDER --force`, or use the adapter unmerged"
        raise UsageError(Problem(str(run.path), what, remedy))
    return replace(loading, quantization=NoQuantization())


_RESTORE = "restore it, or train again"


def _generation(file: Path) -> GenerationConfig:
    """The generation settings of the merged model. Raises `UsageError` if the file is broken, as `--force` allows."""
    from transformers import GenerationConfig

    try:
        settings = GenerationConfig(**read_json(file))
    except UsageError as fault:
        raise UsageError(Problem(str(file), f"cannot be used: {fault.problems[0].what}", _RESTORE)) from None
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(Problem(str(file), f"cannot be used: {reason}", _RESTORE)) from error
    return settings


def _round(model: Any, dtype: str) -> None:
    """Round the weights to a dtype but keep them in float32, so that the logits can be compared before saving."""
    import torch

    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()


def _logits(model: Any, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    import torch

    model.eval()
    with torch.no_grad():
        logits: Tensor = model(**tokenizer(_PROBE, return_tensors="pt")).logits
    return logits


def _stored_dtype(computed: str, stored: str) -> str:
    """The dtype of the stored base, or the compute dtype if the base is stored in a quantised form."""
    return {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}.get(stored, computed)


def _save(
    model: Any, dtype: str, tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig, staged: Path, output: Path
) -> None:
    import torch

    with telling_disk_errors(output):
        model.to(getattr(torch, dtype))
        model.generation_config = generation
        model.config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        follow_umask(staged)
        if output.exists():
            output.rmdir()
        staged.rename(output)
