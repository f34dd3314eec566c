"""How files are read whose kind leaves it open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """How files are read whose kind leaves it open."""

    column_names: Sequence[str] = ()
    """Columns of tables, which have no header then; a `.txt` file becomes a table."""
    delimiter: str | None = None
    """What separates the cells of a table; found from the first line of a `.csv` if absent (`sniff_delimiter`)."""
    sample_by: Literal["document", "line"] = "document"
    """Whether a `.txt` file is one row, or each of its lines is."""


PLAIN = Layout()
