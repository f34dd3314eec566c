"""What the attention of a base looks at and how it is computed, from settings alone."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST_IN_PRODUCTS = 512
"""Positions of the longest rows that are faster by matrix products, see `model.short_rows`."""


def sees_whole_rows(layer_types: Iterable[str] | None, window: int | None, chunk: int | None) -> bool:
    """Test that every layer attends to all earlier positions.

    Args:
        layer_types: `layer_types` of the settings, None for a base without.
        window: `sliding_window`, which holds for all layers if no types are given.
        chunk: `attention_chunk_size`.
    """
    kinds = set(layer_types or ())
    return kinds <= {"full_attention"} and chunk is None and (bool(kinds) or window is None)


def may_attend_by_rows(asked: str, device: str) -> bool:
    """Test that training may attend to rows one by one, by products or not; see `training.padding_free`.

    Args:
        asked: `attn_implementation` of the recipe.
        device: where the base is trained.
    """
    return asked == "auto" and device == "cpu"


def multiplies_short_rows(asked: str, device: str, dtype: str) -> bool:
    """Test that training attends to short rows by matrix products rather than with PyTorch's fused kernel.

    Args:
        asked: `attn_implementation` of the recipe.
        device: where the base is trained.
        dtype: the one it computes in.
    """
    return may_attend_by_rows(asked, device) and dtype == "bfloat16"
