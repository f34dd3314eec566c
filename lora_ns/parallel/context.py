"""Context parallelism with DeepSpeed's Ulysses: the positions of a training row are divided among the processes.

Each process computes its positions of every row. Inside attention, the processes exchange data so that each has all
positions of some heads (Jacobs et al. 2023, arXiv 2309.14509). Evaluation rows stay whole and are distributed by row.

With Ulysses, transformers uses a mean of micro-batch means as loss, and its gradients are too large by a factor of the
number of processes. lorans keeps TRL's loss over the tokens of the whole batch, to which each process adds its part.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.errors import PlanError, Problem
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types that attend to all earlier positions in every layer, and take positions from `position_ids` alone."""


_KEY = "distributed.context_parallel_size"


_KERNEL = "sdpa"


_NAME = "ulysses"


def check_heads(model: PreTrainedModel, parts: int) -> None:
    """Check that the attention heads of a base can be divided among `parts` processes.

    Raises:
        PlanError: if the model type is not supported, or the number of heads is not divisible.
    """
    if parts == 1:
        return
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ()) or {"full_attention"}
    is_full = layers == {"full_attention"} and not _slides(config)
    what = None
    if config.model_type not in MODEL_TYPES or not is_full:
        known = ", ".join(MODEL_TYPES)
        what = f"{config.model_type}{'' if is_full else ' with a sliding window'} is not supported, only {known}"
    elif config.num_attention_heads % parts or config.num_key_value_heads % parts:
        heads = f"{config.num_attention_heads} attention heads and {config.num_key_value_heads} key-value heads"
        what = f"the base has {heads}, which {parts} processes cannot divide evenly"
    if what:
        raise PlanError(Problem("", f"{_KEY}: {what}", "write 1"))


def _slides(config: Any) -> bool:
    """True if some layer uses a sliding window and the configuration does not list the layers' types."""
    return getattr(config, "layer_types", None) is None and bool(getattr(config, "sliding_window", None))


class RowPart:
    """A collator that returns one process's positions of each row, and the labels that they predict."""

    def __init__(
        self, whole: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]], number: int, parts: int
    ):
        """Wrap another collator.

        Args:
            whole: collator that pads each row to the same number of positions, a multiple of `parts`.
            number: index of this process.
            parts: number of processes that share a row.
        """
        self._whole, self._number, self._parts = whole, number, parts

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return tensors of shape (rows, positions / parts)."""
        import torch

        batch = self._whole(rows)
        count, width = batch["input_ids"].shape
        batch["labels"] = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
        batch["shift_labels"] = batch["labels"]  # the predicted token may be in another process
        batch["position_ids"] = torch.arange(width).expand(count, -1)
        size = width // self._parts
        mine = slice(size * self._number, size * (self._number + 1))
        return {name: values[:, mine].contiguous() for name, values in batch.items()}


@contextlib.contextmanager
def cutting_rows(trainer: Any) -> Iterator[None]:
    """Divide the rows of every data loader that is created in this context."""
    from torch import distributed

    whole = trainer.data_collator
    trainer.data_collator = RowPart(whole, distributed.get_rank(), trainer.row_parts)
    try:
        yield
    finally:
        trainer.data_collator = whole


def undealt(loader: Any) -> Any:
    """Make a loader yield all batches in each process, not only the process's share.

    This undoes accelerate's sharding in the same way as transformers, for samplers that shard by themselves.
    """
    batches = loader.batch_sampler
    batches.num_processes, batches.process_index, batches.even_batches = 1, 0, False
    return loader


@contextlib.contextmanager
def divided_attention(model: PeftModel, parts: int) -> Iterator[None]:
    """Use divided attention in training steps: over all positions of a row, of which each process holds a part."""
    if parts == 1:
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface

    base: Any = model.get_base_model()
    AttentionInterface.register(_NAME, _attention(base.config.get_text_config()))
    # Rows are padded on the right, and no position of a row attends to the padding: the causal mask is enough.
    AttentionMaskInterface.register(_NAME, lambda *_, **__: None)
    base.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        base.set_attn_implementation(_KERNEL)


def _attention(config: Any) -> Callable[..., Any]:
    """Return DeepSpeed's attention for this model configuration, as a function that transformers can call."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    kernel = ALL_ATTENTION_FUNCTIONS[_KERNEL]

    @functools.cache
    def divided(rows: int) -> Any:
        from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
        from torch import distributed

        return UlyssesSPAttentionHF(
            attn=kernel,
            batch_size=rows,
            attn_head_count=config.num_attention_heads,
            attn_head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            kv_head_count=config.num_key_value_heads,
            num_hidden_layers=config.num_hidden_layers,
            process_group=distributed.group.WORLD,
            seq_length_is_variable=True,
        )

    def attend(module: Any, query: Any, key: Any, value: Any, _mask: Any, *more: Any, **named: Any) -> Any:
        attention = divided(len(query)) if module.training else kernel
        return attention(module, query, key, value, None, *more, **named)

    return attend
