"""A batch in parts: whole rows, or whole documents of packed rows, that each take less memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lora_ns.model.short_rows import BOUNDS

Unit = Literal["rows", "tokens"]

_OF_THE_WHOLE = frozenset({"scored_positions"})
"""Inputs that a collator may find for a whole batch; a trainer finds those of a part itself."""


@dataclass(frozen=True)
class Divisible:
    """A collated batch that can be cut between its rows or documents."""

    inputs: Any
    """A mapping of tensors, or the prompts that completions are generated for."""
    sizes: tuple[int, ...]
    """Size of each piece that cannot be cut, in units."""
    unit: Unit = "rows"
    sides: int = 1
    """Sequences of each row. A batch has all first ones, then all second ones."""

    @classmethod
    def of(cls, inputs: Any, sides: int = 1, group: int = 1) -> Divisible | None:
        """Find the places where a batch can be cut; None if it has tensors that belong to no row.

        Args:
            inputs: a batch, as its collator returns it.
            sides: sequences of each row.
            group: prompts that stay together.
        """
        if isinstance(inputs, list):
            return cls(inputs, tuple(len(inputs[start : start + group]) for start in range(0, len(inputs), group)))
        if not isinstance(inputs, Mapping) or not inputs:
            return None
        if BOUNDS in inputs:
            return cls(inputs, tuple(inputs[BOUNDS].diff().tolist()), "tokens")
        tensors = [value for name, value in inputs.items() if getattr(value, "ndim", 0) and name not in _OF_THE_WHOLE]
        sequences = len(inputs["input_ids"]) if "input_ids" in inputs else len(tensors[0]) if tensors else 0
        rows = sequences // sides
        if any(len(value) not in {rows, rows * sides} for value in tensors):
            return None
        return cls(inputs, (1,) * rows, sides=sides)

    def parts(self, most: int | None, whole: Part | None = None) -> list[Part]:
        """The batch, or a part of it, in parts of at most `most` units; a piece that is larger is a part of its own."""
        first, end = (whole.first, whole.end) if whole else (0, len(self.sizes))
        if most is None or sum(self.sizes[first:end]) <= most:
            return [whole or self._part(first, end)]
        found, size = [], 0
        for number in range(first, end):
            if size and size + self.sizes[number] > most:
                found.append(self._part(first, number))
                first, size = number, 0
            size += self.sizes[number]
        return [*found, self._part(first, end)]

    def _part(self, first: int, end: int) -> Part:
        size, start, total = sum(self.sizes[first:end]), sum(self.sizes[:first]), sum(self.sizes)
        if size == total:
            return Part(self.inputs, first, end, size, 1.0)
        if isinstance(self.inputs, list):
            return Part(self.inputs[start : start + size], first, end, size, size / total)
        cut = self._packed(first, end, start, size) if self.unit == "tokens" else self._rows(first, end)
        kept = {name: value for name, value in cut if name not in _OF_THE_WHOLE}
        return Part(kept, first, end, size, size / total)

    def _rows(self, first: int, end: int) -> Iterator[tuple[str, Any]]:
        """Some rows of a batch."""
        rows = len(self.sizes)
        places = [side * rows + row for side in range(self.sides) for row in range(first, end)]
        for name, value in self.inputs.items():
            if not getattr(value, "ndim", 0):
                yield name, value
            else:
                yield name, value[places] if len(value) == rows * self.sides else value[first:end]

    def _packed(self, first: int, end: int, start: int, size: int) -> Iterator[tuple[str, Any]]:
        """Some documents of a batch that is one long row, with TRL's boundaries for kernels."""
        bounds = self.inputs[BOUNDS][first : end + 1] - start
        for name, value in self.inputs.items():
            if name.startswith("cu_seq_lens"):
                yield name, bounds
            elif name.startswith("max_length"):
                yield name, max(self.sizes[first:end])
            elif name == "seq_idx":
                yield name, value[:, start : start + size] - first
            else:
                yield name, value[:, start : start + size] if getattr(value, "ndim", 0) == 2 else value


@dataclass(frozen=True)
class Part:
    """A part of a batch."""

    inputs: Any
    first: int
    """Its first row or document in the batch."""
    end: int
    size: int
    share: float
    """Its size as a share of the batch."""

    @property
    def pieces(self) -> int:
        """Rows or documents in it."""
        return self.end - self.first

    def trimmed(self) -> Part:
        """The part without positions at the end that are padding in each of its rows."""
        mask = self.inputs.get("attention_mask") if isinstance(self.inputs, Mapping) else None
        if mask is None or not (seen := mask.any(0)).any():
            return self
        end = int(seen.nonzero()[-1]) + 1
        cut = {
            name: value[:, :end] if name in _OF_POSITIONS and value.shape == mask.shape else value
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=cut)


_OF_POSITIONS = frozenset({"input_ids", "attention_mask", "token_type_ids", "labels", "completion_mask"})
"""Inputs with a value for each position, in the same shape."""
