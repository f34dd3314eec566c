"""What the attention of a base looks at, from its settings alone."""

from __future__ import annotations

from collections.abc import Iterable


def sees_whole_rows(layer_types: Iterable[str] | None, window: int | None, chunk: int | None) -> bool:
    """Test that every layer attends to all earlier positions.

    Args:
        layer_types: `layer_types` of the settings, None for a base without.
        window: `sliding_window`, which holds for all layers if no types are given.
        chunk: `attention_chunk_size`.
    """
    kinds = set(layer_types or ())
    return kinds <= {"full_attention"} and chunk is None and (bool(kinds) or window is None)
