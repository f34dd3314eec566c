"""Context parallelism: the positions of a training row are divided among the processes, by DeepSpeed's Ulysses.

Each process computes its positions of every row. Within attention alone they are exchanged, so that it has all
positions of some heads (Jacobs et al. 2023, arXiv 2309.14509). Evaluation rows stay whole, and are dealt.

transformers' own loss for it is a mean of the means of micro-batches, with gradients as many times too large as there
are processes: here the loss stays TRL's, over the tokens of the whole batch, and each process adds the part of its own.
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
"""What is known to see every earlier position in every layer, and to know a position by `position_ids` alone."""


_KEY = "distributed.context_parallel_size"


_KERNEL = "sdpa"


_NAME = "ulysses"


def check_heads(model: PreTrainedModel, parts: int) -> None:
    """See that a base's attention can be divided by its heads.

    Raises:
        PlanError: if it is another one, or its heads do not divide.
    """
    if parts == 1:
        return
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ()) or {"full_attention"}
    is_full = layers == {"full_attention"} and not _slides(config)
    what = None
    if config.model_type not in MODEL_TYPES or not is_full:
        known = ", ".join(MODEL_TYPES)
        what = f"{config.model_type}{'' if is_full else ' with a sliding window'} is not divided, only {known} are"
    elif config.num_attention_heads % parts or config.num_key_value_heads % parts:
        heads = f"{config.num_attention_heads} heads and {config.num_key_value_heads} of keys and values"
        what = f"the base has {heads}, which {parts} processes cannot divide"
    if what:
        raise PlanError(Problem("", f"{_KEY}: {what}", "write 1"))


def _slides(config: Any) -> bool:
    """Whether a layer sees a window alone, where the settings do not say it layer by layer."""
    return getattr(config, "layer_types", None) is None and bool(getattr(config, "sliding_window", None))


class RowPart:
    """A collator that hands on one process's positions of each row, with the labels that they predict."""

    def __init__(
        self, whole: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]], number: int, parts: int
    ):
        """Cut what another collator makes.

        Args:
            whole: pads each row to the same number of positions, a multiple of `parts`.
            number: of this process.
            parts: processes that share a row.
        """
        self._whole, self._number, self._parts = whole, number, parts

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Tensors of shape (rows, positions / parts)."""
        import torch

        batch = self._whole(rows)
        count, width = batch["input_ids"].shape
        batch["labels"] = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
        batch["shift_labels"] = batch["labels"]  # what is predicted may lie in another process
        batch["position_ids"] = torch.arange(width).expand(count, -1)
        size = width // self._parts
        mine = slice(size * self._number, size * (self._number + 1))
        return {name: values[:, mine].contiguous() for name, values in batch.items()}


@contextlib.contextmanager
def cutting_rows(trainer: Any) -> Iterator[None]:
    """A loader that is made meanwhile cuts its rows."""
    from torch import distributed

    whole = trainer.data_collator
    trainer.data_collator = RowPart(whole, distributed.get_rank(), trainer.row_parts)
    try:
        yield
    finally:
        trainer.data_collator = whole


def undealt(loader: Any) -> Any:
    """A loader that gives each process all batches, as one process has them, and not its share of them.

    This is how transformers takes back what accelerate does, for samplers that deal for themselves.
    """
    batches = loader.batch_sampler
    batches.num_processes, batches.process_index, batches.even_batches = 1, 0, False
    return loader


@contextlib.contextmanager
def divided_attention(model: PeftModel, parts: int) -> Iterator[None]:
    """Attention in training steps is over all positions of a row, of which each process has its part."""
    if parts == 1:
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface

    base: Any = model.get_base_model()
    AttentionInterface.register(_NAME, _attention(base.config.get_text_config()))
    # Rows are padded on the right, where no position of a row sees it: they need no mask but the causal one.
    AttentionMaskInterface.register(_NAME, lambda *_, **__: None)
    base.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        base.set_attn_implementation(_KERNEL)


def _attention(config: Any) -> Callable[..., Any]:
    """DeepSpeed's attention for a model of these settings, as transformers calls it."""
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
