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


ROW_OF_ITS_OWN = 2_000_000
"""What attention to a row of its own costs, in numbers: each position of a layer costs its hidden size squared.

From runs on two cores: in a layer of hidden size 576 it takes as long as six positions.
"""


def is_faster_without_padding(padding: int, rows: int, hidden: int) -> bool:
    """Test that a CPU is faster with rows one by one than with some positions of padding.

    Args:
        padding: those of all rows.
        rows: number of rows.
        hidden: hidden size of the base.
    """
    return padding * hidden**2 > rows * ROW_OF_ITS_OWN


def is_faster_by_rows(tokens: int, rows: int, squares: int, hidden: int, by_products: bool) -> bool:
    """Test that a CPU attends to rows one by one faster than to all of them as one row, with a mask.

    Args:
        tokens: those of all rows.
        rows: number of rows.
        squares: sum of the squares of their lengths.
        hidden: hidden size of the base.
        by_products: True if each is attended to by products, with more operators than the fused kernel.
    """
    # From runs on two cores: 450 or 100 µs for a row, and 0.11 ns for each number that it leaves out.
    return (tokens**2 - squares) * hidden > rows * ROW_OF_ITS_OWN * (2.5 if by_products else 0.4)


def multiplies_short_rows(asked: str, device: str, dtype: str) -> bool:
    """Test that training attends to short rows by matrix products rather than with PyTorch's fused kernel.

    Args:
        asked: `attn_implementation` of the recipe.
        device: where the base is trained.
        dtype: the one it computes in.
    """
    return may_attend_by_rows(asked, device) and dtype == "bfloat16"
