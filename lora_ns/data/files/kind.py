"""Interface of a kind of data file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from lora_ns.data.files.layout import Layout
from lora_ns.data.rows import Outcome


class FileKind(ABC):
    """A kind of data file: its suffixes, and its reader."""

    suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of such files, in lower case."""
    can_be_packed: ClassVar[bool] = True
    """True if such a file may also be compressed."""
    is_table: ClassVar[bool] = False
    """True if it may be a table without a header, whose columns the recipe names."""
    is_plain_text: ClassVar[bool] = False
    """True if it is one text that is learned whole; for `infer`, each line is a prompt."""
    whole: ClassVar[tuple[str, str] | None] = None
    """Error message and remedy if its rows cannot be read one by one."""

    @abstractmethod
    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:
        """Yield the rows of a file, and the problems of single rows.

        Raises:
            DataError: if the whole file is unusable.
        """

    def notes(self, path: Path, layout: Layout) -> Sequence[str]:  # noqa: ARG002 -- for kinds that have some
        """Return notes on the way a file is read, if its name does not tell."""
        return ()

    def column_remedy(self, names: Sequence[str], remedy: str) -> str:  # noqa: ARG002 -- for kinds that look at them
        """Return the remedy for columns of these names that fit no format; `remedy` is the general one."""
        return remedy
