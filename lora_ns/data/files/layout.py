"""Options for reading files whose kind allows several ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layout:
    """Options for reading files whose kind allows several ways."""

    column_names: Sequence[str] = ()
    """Columns of tables, which then have no header; a `.txt` file becomes a table."""
    delimiter: str | None = None
    """Delimiter of a table's cells; if it is None, that of a `.csv` follows from its first line (`sniff_delimiter`)."""
    sample_by: Literal["document", "line"] = "document"
    """Reading of `.txt` files: the file is one row, or each line is."""


PLAIN = Layout()
