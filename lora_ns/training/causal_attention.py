"""Causal attention without a mask, for rows that are padded at their end.

With a mask, attention takes a slower kernel. With or without one, transformers looks at each batch to learn whether it
needs a mask, and a GPU stands still until the host knows (`masking_utils`). It makes no mask for an attention that it
does not know, so this module registers scaled dot-product attention under a name of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lora_ns.model.attention import sees_whole_rows
from lora_ns.model.short_rows import NAME as PRODUCTS
from lora_ns.model.short_rows import NAME_WITHOUT_MASK, attending_as, looks_up_attention

NAME = "sdpa_without_mask"

_WITHOUT_MASK = {"sdpa": NAME, PRODUCTS: NAME_WITHOUT_MASK}


@contextlib.contextmanager
def attention_without_mask(model: Any) -> Iterator[None]:
    """Let a causal model attend without masks, if all its layers attend to the whole row.

    Its rows must not be packed, nor padded in front.
    """
    config = model.config
    if not attends_to_whole_rows(model):
        yield
        return
    _register()
    with attending_as(config, _WITHOUT_MASK[config._attn_implementation]):
        yield


def attends_to_whole_rows(model: Any) -> bool:
    """Test that all layers of a model use scaled dot-product attention over all earlier positions."""
    config = model.config
    names = ("layer_types", "sliding_window", "attention_chunk_size")
    sees_all = sees_whole_rows(*(getattr(config, name, None) for name in names))
    return sees_all and looks_up_attention(model, _WITHOUT_MASK)


def _register() -> None:
    from transformers import AttentionInterface

    known = AttentionInterface()
    if NAME not in known:
        AttentionInterface.register(NAME, known["sdpa"])
