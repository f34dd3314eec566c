"""What a kind of data file answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from lora_ns.data.files.layout import Layout
from lora_ns.data.rows import Outcome


class FileKind(ABC):
    """A kind of data file: how its names end, and how its rows are read."""

    suffixes: ClassVar[tuple[str, ...]]
    """How names of such files end, in lower case."""
    can_be_packed: ClassVar[bool] = True
    """Whether such a file is read packed as well."""
    is_table: ClassVar[bool] = False
    """Whether it may be a table without a header, whose columns the recipe names."""
    is_plain_text: ClassVar[bool] = False
    """Whether it is one text that is learned whole; to `infer`, a prompt on each line."""
    whole: ClassVar[tuple[str, str] | None] = None
    """Why its rows cannot be read one by one, and what to do, if they cannot."""

    @abstractmethod
    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:
        """The rows of a file, and problems of single ones.

        Raises:
            DataError: because of what spoils the whole file.
        """

    def notes(self, path: Path, layout: Layout) -> Sequence[str]:  # noqa: ARG002 -- for kinds that have some
        """How a file is read, where its name does not say so."""
        return ()

    def column_remedy(self, names: Sequence[str], remedy: str) -> str:  # noqa: ARG002 -- for kinds that look at them
        """What to do about columns of these names that fit nothing; `remedy` is what is said of any file."""
        return remedy
