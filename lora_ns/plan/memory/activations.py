"""What a forward pass keeps for the backward pass, from the counts of `count`.

The counts are exact for the families in the table. Another family counts as the nearest of them, by its settings.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.methods import PeftMethod
from lora_ns.model.files import BaseFacts

COUNTED = Path(__file__).parent / "counted.json"

_FAMILY = {"gemma3": "gemma3_text", "xlm-roberta": "roberta", "camembert": "roberta", "electra": "bert"}
"""Families that store what another one does."""

_MLP = ("gate", "up_proj", "down", "fc", "intermediate.dense", "h_to_4h", "mlp", "w1", "w2", "w3")

LARGE = 32 * 2**20
"""Size above which the C library gives each tensor a mapping of its own."""


@dataclass(frozen=True)
class Step:
    """The forward pass whose activations are kept."""

    rows: int
    """Rows of a micro-batch; 1 if rows are packed into one."""
    length: int
    """Positions of each."""
    dtype: str
    attention: str
    """Attention kernel, by transformers' name, or `products`; see `model.short_rows`."""
    is_packed: bool = False
    is_even: bool = False
    """True if all rows have the same length, so that none is padded."""

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return 4 if self.dtype == "float32" else 2

    @property
    def tokens(self) -> int:
        """Positions of all rows."""
        return self.rows * self.length

    @property
    def has_mask(self) -> bool:
        """True if attention reads a mask of shape (rows, 1, length, length)."""
        is_padded = self.rows > 1 and not self.is_even
        return not self.attention.startswith("flash") and (self.is_packed or is_padded)


@dataclass(frozen=True)
class Kept:
    """Bytes that a step keeps until the backward pass."""

    small: int
    """In tensors of up to `LARGE` bytes."""
    large: int
    """In larger ones, or others that leave no gap."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.small + self.large

    def __mul__(self, times: int) -> Kept:
        """Return what several layers keep."""
        return Kept(self.small * times, self.large * times)

    def __add__(self, other: Kept) -> Kept:
        """Return the sum."""
        return Kept(self.small + other.small, self.large + other.large)


def layer_bytes(facts: BaseFacts, peft: PeftMethod, step: Step) -> Kept:
    """Return the bytes that one layer keeps.

    Args:
        facts: sizes of the base.
        peft: the recipe's `[peft]`.
        step: the forward pass.
    """
    counts = counted(facts.model_type, peft, step)["layer"]
    sizes = sizes_of(facts, step.length, rank_of(peft))
    found = Kept(0, 0)
    for name, size in counts.items():
        bytes_kept = step.tokens * sizes[name] * size
        if (name, step.attention) == ("scores", "products"):  # of equal parts, each of which fits the gap of another
            found += Kept(0, bytes_kept)
        else:
            found += _kept(bytes_kept, step.tokens * sizes[name] * step.item)
    if step.has_mask and "scores" not in counts:  # each layer keeps its own copy as numbers
        found += _kept(mask := step.tokens * step.length * step.item, mask)
    return found


def _kept(size: int, each: int) -> Kept:
    """Return bytes in tensors of a size."""
    return Kept(0, size) if each > LARGE else Kept(size, 0)


def kept_bytes(facts: BaseFacts, peft: PeftMethod, step: Step, checkpointing: bool) -> tuple[Kept, Kept]:
    """Return what all layers keep until the backward pass, and what one of them keeps.

    With gradient checkpointing, the first is the input of each layer: one layer at a time is computed again.
    """
    layer = layer_bytes(facts, peft, step)
    if not checkpointing:
        return layer * facts.num_hidden_layers, layer
    each = step.tokens * facts.hidden_size * step.item
    return _kept(each, each) * facts.num_hidden_layers, layer


def counted(model_type: str, peft: PeftMethod, step: Step) -> Mapping[str, Mapping[str, int]]:
    """Return bytes for each token, by the sizes that they grow with, in a layer and at the ends of a model."""
    table = _table()
    family = _FAMILY.get(model_type, model_type)
    variants = table[family if family in table else "llama"]
    attention = step.attention if step.attention in ("eager", "products") else "sdpa"
    dropout = "dropout " if _has_dropout(peft) else ""
    dtype = "float32" if step.dtype == "float32" else "bfloat16"
    targets = "all-linear" if _adapts_mlp(peft.targets_in(model_type)) else "attention"
    return variants[f"{dtype} {targets} {dropout}{attention}"]


def is_counted(model_type: str) -> bool:
    """Return whether the table has a family, or one that stores the same."""
    return _FAMILY.get(model_type, model_type) in _table()


@functools.cache
def _table() -> Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]:
    found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]] = json.loads(COUNTED.read_text(encoding="utf-8"))
    return found


def _adapts_mlp(targets: Any) -> bool:
    return isinstance(targets, str) or any(part in name for name in targets or () for part in _MLP)


def _has_dropout(peft: PeftMethod) -> bool:
    return any(bool(getattr(peft, name)) for name in type(peft).model_fields if name.endswith("_dropout"))


def rank_of(peft: PeftMethod) -> int:
    """Return the rank of a method's factors; 0 for methods without."""
    rank = getattr(peft, peft.rank_key, 0)
    return rank if isinstance(rank, int) else 0


def sizes_of(facts: BaseFacts, length: int, rank: int) -> Mapping[str, int]:
    """Return elements for each token, by the name of the size that they grow with."""
    text: Mapping[str, Any] = facts.settings.get("text_config") or facts.settings

    def size(*names: str, default: int) -> int:
        return next((text[name] for name in names if isinstance(text.get(name), int)), default)

    heads = size("num_attention_heads", "n_head", "n_heads", default=max(1, facts.hidden_size // 64))
    key_heads = size("num_key_value_heads", default=heads)
    width = size("head_dim", default=facts.hidden_size // heads)
    return named_sizes(facts.hidden_size, facts.intermediate_size, heads, key_heads, width, rank, length)


def named_sizes(
    hidden: int, intermediate: int, heads: int, key_heads: int, width: int, rank: int, length: int
) -> dict[str, int]:
    """Return elements for each token by the names of the table."""
    query, key = heads * width, key_heads * width
    return {
        "hidden": hidden,
        "intermediate": intermediate,
        "query": query,
        "key": key,
        "heads": heads,
        "rank": rank,
        "one": 1,
        "scores": heads * length,
        "gates": 2 * intermediate,
        "projections": query + 2 * key,
    }
