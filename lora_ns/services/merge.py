"""Merging an adapter into its base: writes a complete Hugging Face model, after comparing the logits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.opened import Opened, load_whole_base, loading_of, reopen
from lora_ns.errors import Problem, RunError, UsageError
from lora_ns.files.disk import check_space, telling_disk_errors
from lora_ns.files.reading import read_json
from lora_ns.files.staging import folder, free_folder, put
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.shards import LARGEST_SHARD, bytes_of, rounded
from lora_ns.merging.stream import Merged, Merging, compared, stream
from lora_ns.model.files import Base
from lora_ns.model.load import Loading, never_quantised
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
    int8_difference: float | None
    """Largest difference between the logits of training in 8 bits and of the merged model, relative to the largest.

    LLM.int8 rounds the inputs of its layers, and a merged model does not. None for other bases.
    """
    int8_divergence: float | None
    """KL divergence of the merged model's predictions from those of training in 8 bits, in nats per token."""
    whole_model: str | None = None
    """The reason why the whole model was merged in memory; None if one module was at a time."""
    combined: str | None = None
    """The runs whose adapters were combined, with their weights and the method; None for a single one."""
    loss: str | None = None
    """The reason why the merged model is not the trained one, so that the distance is measured; else None."""


class Finish(Protocol):
    """What is done with the merged model before its folder gets its name."""

    def __call__(self, opened: Opened, staged: Path, merged: MergeResult) -> None:
        """Read the staged folder, or add files to it."""


def merge(
    run: RunDir,
    output: Path,
    base_path: Path | None = None,
    dtype: str | None = None,
    force: Force = REFUSED,
    observer: Observer | None = None,
    max_shard_size: str = LARGEST_SHARD,
    adapter: Path | None = None,
    finish: Finish | None = None,
    into_original: bool = False,
) -> MergeResult:
    """Merge a run's adapter into its base.

    One module at a time is in memory, or the whole model where that is needed. The base is read in the dtype of
    training. A base that was quantised for training is quantised and dequantised, so that the adapter is added to the
    same values that it was trained on. The sum is computed in float32 and rounded once.

    Args:
        run: the run directory.
        output: the folder to write; for a symbolic link, its target.
        base_path: path to the base model, if it has moved.
        dtype: the dtype to write, if not that of the stored base.
        force: the response to a part that does not match the manifest.
        observer: receives the stages.
        max_shard_size: largest size of a weight file, such as `5GB`.
        adapter: a LoRA on the run's base to merge instead of the run's own adapter.
        finish: receives the opened run and the folder while it has a temporary name.
        into_original: merge into the weights that the base had before it was quantised for training.

    Raises:
        UsageError: if the method cannot be merged, the output folder is not empty or is one of the inputs, a part does
            not match the manifest, or there are no original weights to choose.
        RunError: if the merged model's logits differ from the adapter's.
    """
    largest = bytes_of(max_shard_size)
    manifest = run.read()
    method = manifest.recipe.peft
    if method.capabilities.merge is not True:
        what = f"{method.tag()} cannot be merged: {method.capabilities.merge}"
        remedy = f"use it unmerged: `lorans infer {run.path}`, or PEFT with {run.adapter}"
        raise UsageError(Problem(str(run.path), what, remedy))
    check_output(output, run, manifest, base_path)
    target = free_folder(output)
    message = f"out of memory while merging {manifest.base.parameters / 1e9:,.2f} billion parameters in float32"
    observer = observer or SilentObserver()
    observer.stage("loading the base and the adapter")
    with (
        folder(target) as staged,
        telling_memory_errors(lambda: message, "free memory, or use the adapter unmerged"),
    ):
        merged = _merge(
            run, manifest, target, staged, base_path, dtype, force, observer, largest, adapter, finish, into_original
        )
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
    largest: int,
    adapter: Path | None,
    finish: Finish | None,
    into_original: bool,
) -> MergeResult:
    base, tokenizer = reopen(run, manifest, base_path, force)
    written = dtype or _stored_dtype(manifest.plan.dtype.value, base.facts.largest_dtype)
    merging = Merging(
        base=base,
        loading=_original(run, manifest, base) if into_original else _loading(run, manifest, base),
        adapter=adapter or run.adapter,
        output=output,
        dtype=written,
        generation=_generation(run.adapter / "generation_config.json"),
        largest_shard=largest,
        in_float32=manifest.recipe.peft.capabilities.hidden_tensors,
    )
    try:
        _check_streams(manifest, merging)
        observer.stage(f"merging module by module in {written}, and comparing the logits")
        result, reason = stream(merging, tokenizer, _PROBE, staged), None
    except WholeModelError as refusal:
        reason = str(refusal)
        check_space(output, (5 if written == "float32" else 3) * base.facts.parameters)
        observer.stage(f"merging the whole model in memory, because {reason}")
        result = _merge_whole(run, manifest, merging, tokenizer, staged, output)
    _check_difference(run, result)
    observer.stage("writing the tokenizer")
    with telling_disk_errors(output):
        tokenizer.save_pretrained(staged)
    loss = _loss(manifest, base, into_original)
    found = MergeResult(str(output), dtype=written, whole_model=reason, loss=loss, **asdict(result))
    if finish is not None:
        finish(Opened(run, manifest, base, tokenizer), staged, found)
    put(staged, output)
    return found


def _loss(manifest: Manifest, base: Base, into_original: bool) -> str | None:
    """The reason why a merged model answers otherwise than the trained one; None if it does not."""
    others = [
        *(["the original weights instead of the quantised ones of training"] if into_original else []),
        *([] if base.is_fingerprint(manifest.base.fingerprint) else ["another base than that of training"]),
    ]
    return f"merged into {', and '.join(others)}" if others else None


def _check_streams(manifest: Manifest, merging: Merging) -> None:
    """Check that a base is merged module by module. Raises `WholeModelError`."""
    reasons = (
        ("the base is a GGUF file", merging.base.gguf_file),
        ("earlier adapters are merged into the base first", manifest.base_adapters),
        ("the run adds tokens to the base", manifest.added_tokens),
    )
    for reason, applies in reasons:
        if applies:
            raise WholeModelError(reason)


def _check_difference(run: RunDir, merged: Merged) -> None:
    """Check the logits of the merged model. Raises `RunError`."""
    if not merged.largest_difference <= TOLERANCE:
        what = f"the merged model differs from the adapter by {merged.largest_difference:.1e} of the largest logit"
        raise RunError(Problem(str(run.path), what, "use the adapter unmerged, and report this"))


def _merge_whole(
    run: RunDir,
    manifest: Manifest,
    merging: Merging,
    tokenizer: PreTrainedTokenizerBase,
    staged: Path,
    output: Path,
) -> Merged:
    """Merge in memory, and write the weights and settings."""
    loading = merging.loading
    trained = _trained_logits(run, manifest, merging, tokenizer) if loading.quantization.rounds_inputs else None
    model = load_whole_base(run, manifest, merging.base, loading)
    if loading.quantization.bits is not None:
        model = loading.quantization.in_full(model)
    if merging.in_float32:
        model = model.float()
    adapted = load_adapter(model, merging.adapter).float()
    before = _logits(adapted, tokenizer)
    put_in_place(adapted)
    merged = adapted.merge_and_unload(safe_merge=True)
    exact = _logits(merged, tokenizer)
    _round(merged, merging.dtype)
    parameters = sum(parameter.numel() for parameter in merged.parameters())
    result = compared(parameters, before, exact, _logits(merged, tokenizer), trained)
    _check_difference(run, result)
    if loading.quantization.bits is not None:
        merged = never_quantised(merged)
    _save(merged, merging, tokenizer, staged, output)
    return result


def _trained_logits(run: RunDir, manifest: Manifest, merging: Merging, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Compute the logits of the adapter on the quantised base, as training did."""
    model = load_adapter(load_whole_base(run, manifest, merging.base, merging.loading), run.adapter)
    return _logits(model, tokenizer)


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


def _original(run: RunDir, manifest: Manifest, base: Base) -> Loading:
    """The arguments for loading the original weights of a base that was quantised. Raises `UsageError`."""
    loading = loading_of(manifest)
    if loading.quantization.bits is None:
        what = f"has no effect on {run.path}: its base was not quantised for training"
        raise UsageError(Problem("--into", what, "leave it out"))
    if base.facts.quantization:
        what = f"the base is stored quantised, and its original weights are not in {base.path}"
        remedy = "name the folder of the original model: `--base FOLDER --force`"
        raise UsageError(Problem("--into", what, remedy))
    return replace(loading, device="cpu", dtype="float32", quantization=NoQuantization())


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
    for name, parameter in model.named_parameters():
        parameter.data = rounded(name, parameter.data, dtype).float()


def _logits(model: Any, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    import torch

    model.eval()
    with torch.no_grad():
        logits: Tensor = model(**tokenizer(_PROBE, return_tensors="pt")).logits
    return logits


def _stored_dtype(computed: str, stored: str) -> str:
    """The dtype of the stored base, or the compute dtype if the base is stored in a quantised form."""
    return {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}.get(stored, computed)


def _save(model: Any, merging: Merging, tokenizer: PreTrainedTokenizerBase, staged: Path, output: Path) -> None:
    import torch

    with telling_disk_errors(output):
        model.to(getattr(torch, merging.dtype))
        model.generation_config = merging.generation
        model.config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(staged, max_shard_size=merging.largest_shard)
