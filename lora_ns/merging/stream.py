"""The streaming merge of one adapter."""

from __future__ import annotations

import gc
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, RunError
from lora_ns.files.disk import check_space, telling_disk_errors
from lora_ns.merging.layout import Layout
from lora_ns.merging.lockstep import Lockstep, Model
from lora_ns.merging.opening import read_base
from lora_ns.merging.pool import Spilled, release
from lora_ns.merging.shards import Entry, ShardWriter
from lora_ns.merging.skeleton import attach, is_absent
from lora_ns.merging.units import Adapted, Unit, find_units
from lora_ns.merging.values import Values
from lora_ns.model.adapter import adapted_modules
from lora_ns.model.files import Base
from lora_ns.model.folder import WEIGHTS
from lora_ns.model.load import Loading, difference, divergence

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

_SMALL_FILES = 64_000_000
"""Bytes for tokenizer and settings."""


@dataclass(frozen=True)
class Merged:
    """The result of a streaming merge."""

    parameters: int
    largest_difference: float
    """Largest difference between the logits before and after merging, relative to the largest."""
    rounded_difference: float
    """The same difference after rounding."""
    int8_difference: float | None = None
    """The largest difference between the logits of training in 8 bits and of the merged model, relative to the largest.

    LLM.int8 rounds the inputs of its layers, and a merged model does not. None for other bases.
    """
    int8_divergence: float | None = None
    """The KL divergence between their predictions, in nats, as the mean over all positions."""


@dataclass(frozen=True, kw_only=True)
class Merging:
    """What is merged, and into which files."""

    base: Base
    loading: Loading
    adapter: Path
    output: Path
    """The folder of the merged model, as messages name it."""
    dtype: str
    """The dtype to write."""
    generation: GenerationConfig
    """The generation settings of the merged model."""
    largest_shard: int
    """Bytes of a weight file, unless a single tensor has more."""
    in_float32: bool = False
    """True if the adapter must be created on a base in float32."""


def stream(merging: Merging, tokenizer: PreTrainedTokenizerBase, text: str, folder: Path) -> Merged:
    """Merge an adapter into its base module by module, and write the weights into a folder.

    Args:
        merging: base, adapter and files.
        tokenizer: the tokenizer of the run.
        text: the text of which adapted and merged model are compared.
        folder: the folder to write; other files are left to the caller.

    Raises:
        WholeModelError: with the reason, if the whole model is needed. No weights are left in the folder.
        RunError: if there is no space.
    """
    skeleton, plan, values = read_base(merging.base, merging.loading)
    parameters = sum(value.numel() for value in skeleton.parameters())
    with telling_disk_errors(merging.output):
        logits = _write_weights(merging, skeleton, plan, values, dict(tokenizer(text, return_tensors="pt")), folder)
        _save_settings(skeleton, merging, tokenizer, folder)
    return compared(parameters, **logits)


def _write_weights(
    merging: Merging,
    skeleton: PreTrainedModel,
    plan: Layout,
    values: Values,
    inputs: Mapping[str, Tensor],
    folder: Path,
) -> dict[Model, Tensor]:
    """Merge, and write the weights of the merged model. Returns the logits of each model."""
    entries = [Entry(tensor.name, _written(tensor.dtype, merging.dtype), tensor.shape) for tensor in plan.tensors]
    check_space(merging.output, sum(entry.size for entry in entries) + _SMALL_FILES)
    adapted = attach(skeleton, merging.adapter, in_float32=merging.in_float32).eval()
    spilled = Spilled(folder, filterfalse(is_absent, adapted.parameters()))
    gc.collect()
    release()
    units = find_units(adapted, skeleton.all_tied_weights_keys)
    names = {name: tensor.name for name, tensor in plan.parameters.items()}
    with ShardWriter(folder, entries, merging.largest_shard) as writer:
        lockstep = Lockstep(values, writer, spilled, names, merging.dtype, merging.loading.quantization.rounds_inputs)
        logits = lockstep.run(adapted, units, inputs)
        _check_count(merging, adapted, units, lockstep.done)
        for tensor in plan.tensors:
            if tensor.name in writer.left:
                writer.write(tensor.name, values.blocks(tensor))
        writer.finish()
    values.pool.clear()
    return logits


def compared(
    parameters: int, adapted: Tensor, merged: Tensor, rounded: Tensor | None = None, trained: Tensor | None = None
) -> Merged:
    """Compare the logits of the models: with its adapter, merged, rounded, and as it was trained in 8 bits."""
    exact = difference(adapted, merged)
    return Merged(
        parameters,
        exact,
        exact if rounded is None else difference(adapted, rounded),
        None if trained is None else difference(trained, merged),
        None if trained is None else divergence(trained, merged),
    )


def _written(dtype: str, wanted: str) -> str:
    """Return the dtype to write for one of the model: integers stay."""
    import torch

    return wanted if getattr(torch, dtype).is_floating_point else dtype


def _save_settings(skeleton: PreTrainedModel, merging: Merging, tokenizer: Any, folder: Path) -> None:
    """Write the settings and the code of the model, as `save_pretrained` does."""
    import torch

    with torch.device("meta"):
        empty = type(skeleton)(skeleton.config).to(getattr(torch, merging.dtype))
    empty.config.pad_token_id = tokenizer.pad_token_id
    empty.generation_config = merging.generation
    with TemporaryDirectory(dir=folder) as name:  # it would remove the weights from theirs
        empty.save_pretrained(name, state_dict={})
        (Path(name) / WEIGHTS).unlink(missing_ok=True)
        for file in Path(name).iterdir():
            file.rename(folder / file.name)


def _check_count(merging: Merging, adapted: PeftModel, units: Sequence[Unit], done: Collection[str]) -> None:
    """Check that every adapted module was merged. Raises `RunError`."""
    merged = sum(isinstance(unit, Adapted) and unit.name in done for unit in units)
    count = sum(adapted_modules(adapted).values())
    if merged != count:
        what = f"{merged} of {count} adapted modules were merged"
        raise RunError(Problem(str(merging.adapter), what, "use the adapter unmerged, and report this"))
