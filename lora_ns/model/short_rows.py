"""Attention of short rows by matrix products, which a CPU computes faster in bfloat16 than PyTorch's fused kernel.

The fused kernel of a CPU saves memory, not time: forward and backward pass of rows of up to 512 tokens take it 1.5 to
2.5 times as long as the products of transformers' `eager` attention, if those are made for so few rows at a time that
their scores stay in the cache. Heads that share keys and values are multiplied together.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.model.attention import LONGEST_IN_PRODUCTS

if TYPE_CHECKING:
    import torch

NAME = "products"
NAME_WITHOUT_MASK = "products_without_mask"

BOUNDS = "cu_seq_lens_q"
"""Argument of attention for rows that are one after another: where each begins, and where the last one ends."""


@contextlib.contextmanager
def attending_by_rows(model: Any, is_wanted: bool) -> Iterator[None]:
    """Let a PEFT model with scaled dot-product attention train with `attend`."""
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

    Evaluation, generation, long rows and all but bfloat16 on a CPU go to that function. Rows that are one after another
    are attended to one by one, if no mask says what they see.
    """
    if attention_mask is None and (bounds := kwargs.pop(BOUNDS, None)) is not None:
        one = functools.partial(attend, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs)
        return _one_by_one(functools.partial(one, module), (query, key, value), bounds.diff().tolist()), None
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


def _one_by_one(
    attend_to: Callable[..., tuple[torch.Tensor, None]], states: Sequence[torch.Tensor], lengths: list[int]
) -> torch.Tensor:
    """Attend to rows of these lengths that are one after another. `split`, as its backward pass is one copy."""
    import torch

    rows = zip(*(torch.split(state, lengths, dim=2) for state in states), strict=True)
    return torch.cat([attend_to(*row, None)[0] for row in rows], dim=1)


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

    length, is_causal = query.shape[2], is_causal and mask is None
    added = None if mask is None else _added(mask, query.dtype)
    blocks = _blocks(length) if is_causal else [slice(0, length)]
    step = max(1, LONGEST_IN_PRODUCTS // length)
    how = dropout, scaling, blocks, is_causal
    if len(query) <= step:  # `split` would copy the gradients once more
        whole: torch.Tensor = _products().apply(query, key, value, added, *how)
        return whole
    mixed = []
    parts = zip(*(torch.split(part, step) for part in (query, key, value)), strict=True)
    for number, part in enumerate(parts):
        few = slice(number * step, (number + 1) * step)
        seen = added[few] if added is not None and len(added) > 1 else added
        mixed.append(_products().apply(*part, seen, *how))
    return torch.cat(mixed)


_BLOCK = 160
"""About as many positions has a block: with fewer, the products that are left out take less time than the calls."""


def _blocks(length: int) -> list[slice]:
    """Divide the positions of a row, so that those of a block look only at what is before its end."""
    count = 1 + length // _BLOCK
    ends = [length * number // count for number in range(count + 1)]
    return [slice(*bounds) for bounds in itertools.pairwise(ends)]


@functools.cache
def _products() -> Any:
    """The autograd function that attends with a few rows at once; see `by_products` for its arguments.

    Its backward pass has no more operators than it needs: autograd's would take a sixth longer.
    """
    import torch

    class Products(torch.autograd.Function):
        """Heads that share keys and values are rows of one product."""

        @staticmethod
        def forward(
            ctx: Any,
            query: Any,
            key: Any,
            value: Any,
            added: torch.Tensor | None,
            dropout: float,
            scaling: float,
            blocks: list[slice],
            is_causal: bool,
        ) -> torch.Tensor:
            keys, values = key.flatten(0, 1), value.flatten(0, 1)
            mixed: torch.Tensor = query.new_empty(len(query), query.shape[2], query.shape[1], value.shape[-1])
            kept: list[Any] = []
            for block in blocks:
                part = query[:, :, block]
                queries = torch.mul(part, scaling, out=part.new_empty(part.shape)).view(len(keys), -1, part.shape[-1])
                scores = torch.bmm(queries, keys[:, : block.stop].transpose(1, 2))
                by_head = scores.view(*part.shape[:3], -1)
                if is_causal:
                    length = part.shape[2]
                    by_head[..., block].add_(_later(scores.dtype)[:length, :length])
                elif added is not None:
                    by_head.add_(added)
                chances = scores.softmax(-1)
                factors = torch.empty_like(chances).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
                found = torch.bmm(_dropped(chances, factors), values[:, : block.stop])
                mixed[:, block] = found.view(*part.shape[:3], -1).transpose(1, 2)
                kept += [queries, chances, factors]
            ctx.save_for_backward(key, value, *kept)
            ctx.scaling, ctx.blocks = scaling, blocks
            return mixed

        @staticmethod
        def backward(ctx: Any, *outer: Any) -> tuple[Any, ...]:
            key, value, *kept = ctx.saved_tensors
            keys, values, slope = key.flatten(0, 1), value.flatten(0, 1), outer[0].transpose(1, 2)
            of_query = key.new_empty(*outer[0].shape[:3], key.shape[-1]).transpose(1, 2)
            of_keys: Any = None
            of_values: Any = None
            for number, block in reversed([*enumerate(ctx.blocks)]):  # as the last one sees all positions
                queries, chances, factors = kept[3 * number : 3 * number + 3]
                seen, slopes = slice(0, block.stop), slope[:, :, block].reshape(len(keys), -1, slope.shape[-1])
                of_values = _plus(of_values, block.stop, _dropped(chances, factors).transpose(1, 2), slopes)
                of_chances = _dropped(torch.bmm(slopes, values[:, seen].transpose(1, 2)), factors)
                of_scores = torch.ops.aten._softmax_backward_data(of_chances, chances, -1, chances.dtype)
                part = of_query[:, :, block]
                torch.mul(torch.bmm(of_scores, keys[:, seen]).view(part.shape), ctx.scaling, out=part)
                of_keys = _plus(of_keys, block.stop, of_scores.transpose(1, 2), queries)
            return of_query, of_keys.view(key.shape), of_values.view(value.shape), *[None] * 5

    return Products


def _dropped(numbers: torch.Tensor, factors: torch.Tensor | None) -> torch.Tensor:
    return numbers if factors is None else numbers * factors


def _plus(total: torch.Tensor | None, end: int, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Add products to the positions before an end of a total, or begin one with them."""
    import torch

    if total is None:
        return torch.bmm(left, right)
    total[:, :end].baddbmm_(left, right)
    return total


@functools.cache
def _later(dtype: torch.dtype) -> torch.Tensor:
    """What hides from each position those after it."""
    import torch

    shape = LONGEST_IN_PRODUCTS, LONGEST_IN_PRODUCTS
    return torch.full(shape, torch.finfo(dtype).min, dtype=dtype).triu_(1)


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores, in the shape of the mask."""
    import torch

    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
