"""Attention of short rows by matrix products, which a CPU computes faster in bfloat16 than PyTorch's fused kernel.

The fused kernel of a CPU saves memory, not time: forward and backward pass of rows of up to 512 tokens take it 1.5 to
2.5 times as long as the products of transformers' `eager` attention, if those are made for so few rows at a time that
their scores stay in the cache. Heads that share keys and values are multiplied together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from lora_ns.model.attention import LONGEST_IN_PRODUCTS

if TYPE_CHECKING:
    import torch

NAME = "products"
NAME_WITHOUT_MASK = "products_without_mask"


@contextlib.contextmanager
def short_rows_by_products(model: Any, is_wanted: bool) -> Iterator[None]:
    """Let a PEFT model train short rows by products, if it has scaled dot-product attention."""
    base = model.get_base_model()
    if not is_wanted or not looks_up_attention(base, ("sdpa",)):
        yield
        return
    _register()
    with attending_as(base.config, NAME):
        yield


@contextlib.contextmanager
def attending_as(config: Any, name: str) -> Iterator[None]:
    """Let a model with these settings use another attention, by its name in transformers' `AttentionInterface`."""
    before = config._attn_implementation
    config._attn_implementation_internal = name
    try:
        yield
    finally:
        config._attn_implementation_internal = before


def looks_up_attention(base: Any, names: Collection[str]) -> bool:
    """Test that all layers of a model look up one of these attentions by its name, as its own code may not do."""
    config = base.config
    is_one = config._attn_implementation in names and config.get_text_config() is config
    return is_one and bool(type(base)._can_set_attn_implementation())


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    if NAME not in AttentionInterface():
        AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])
        for name in (NAME, NAME_WITHOUT_MASK):
            AttentionInterface.register(name, attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' `sdpa_attention_forward` does; see there for the arguments.

    Evaluation, generation, long rows and all but bfloat16 on a CPU go to that function.
    """
    if not (module.training and _are_short(query, key) and not any(kwargs.get(name) is not None for name in _SPECIAL)):
        from transformers import AttentionInterface

        found: tuple[torch.Tensor, None] = AttentionInterface()["sdpa"](
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
        return found
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return by_products(query, key, value, attention_mask, dropout, scaling, bool(causal)), None


_SPECIAL = ("position_bias", "softcap", "cache")
"""Arguments of attention that products leave to transformers."""


def _are_short(query: torch.Tensor, key: torch.Tensor) -> bool:
    import torch

    is_fast = query.device.type == "cpu" and query.dtype is torch.bfloat16
    return is_fast and 1 < query.shape[2] == key.shape[2] <= LONGEST_IN_PRODUCTS


def by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float,
    is_causal: bool,
) -> torch.Tensor:
    """Attend with a few rows at a time.

    Args:
        query: shape (rows, heads, length, width).
        key: shape (rows, key heads, length, width).
        value: shape (rows, key heads, length, width of values).
        mask: shape (rows or 1, heads or 1, length, length), True where a position is seen, or numbers to add.
        dropout: share of the probabilities that is dropped.
        scaling: factor of the products of queries and keys.
        is_causal: True if positions see only earlier ones, where there is no mask.

    Returns:
        The mixed values, of shape (rows, length, heads, width of values).
    """
    import torch

    rows, heads, length, width = query.shape
    shared = heads // key.shape[1]
    added = _added(mask, is_causal, length, query.dtype)
    mixed = []
    step = max(1, LONGEST_IN_PRODUCTS // length)
    for start in range(0, rows, step):
        few = slice(start, start + step)
        keys, values = key[few].flatten(0, 1), value[few].flatten(0, 1)
        queries = (query[few] * scaling).reshape(len(keys), shared * length, width)
        scores = torch.bmm(queries, keys.transpose(1, 2)).view(-1, heads, length, length)
        if added is not None:
            scores += added[few] if len(added) > 1 else added
        chances = torch.nn.functional.dropout(scores.softmax(-1), dropout, training=dropout > 0)
        found = torch.bmm(chances.view(len(keys), shared * length, length), values)
        mixed.append(found.view(-1, heads, length, value.shape[-1]).transpose(1, 2))
    return torch.cat(mixed)


def _added(mask: torch.Tensor | None, is_causal: bool, length: int, dtype: torch.dtype) -> torch.Tensor | None:
    """What is added to the scores, of shape (rows or 1, heads or 1, length, length); None if every position is seen."""
    import torch

    if mask is None and is_causal:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril_()
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
