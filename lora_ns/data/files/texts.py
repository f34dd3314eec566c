"""Rows of plain texts, and of sentences in CoNLL format."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lora_ns.data.files.json import shortened_value
from lora_ns.data.files.kind import FileKind
from lora_ns.data.files.layout import Layout
from lora_ns.data.files.lines import decoded_line, numbered_lines, too_long_line
from lora_ns.data.files.packing import DamagedError, decoded_text, opened_file, without_end
from lora_ns.data.files.tables import tabbed_rows
from lora_ns.data.rows import Outcome, Row
from lora_ns.errors import DataError, Problem
from lora_ns.files.reading import LARGEST_ROW, LARGEST_TEXT

# One sentence a row


class Conll(FileKind):
    """Sentences as tagged words."""

    suffixes = (".conll", ".iob", ".bio")

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:  # noqa: ARG002 -- it leaves nothing open
        """Yield the sentences."""
        return _conll(path)


def _conll(path: Path) -> Iterator[Outcome]:
    """Yield sentences in CoNLL format: one word per line, first column token, last column tag, then a blank line."""
    width = 0
    words: list[tuple[str, str]] = []
    first, broken, size = 1, False, 0
    with opened_file(path) as file:
        for number, line in itertools.chain(numbered_lines(path, file), [(0, b"")]):
            text = _conll_line(path, number, line)
            size = 0 if not words else size + len(text)
            if size > LARGEST_ROW:
                raise DataError(too_long_line(f"{path}:{first}", "a sentence"))
            if not text or text.startswith(_DOCUMENT):
                if words and not broken:
                    yield Row(f"{path}:{first}", {"tokens": [word for word, _ in words], "tags": [t for _, t in words]})
                words, broken = [], False
                continue
            if not words and not broken and _is_comment(text):
                continue
            cells = _conll_cells(text)
            width = width or len(cells)
            problem = _conll_problem(cells, width)
            if problem and not broken:
                yield Problem(f"{path}:{number}", *problem)
            broken = broken or problem is not None
            first = first if words else number
            words.append((cells[0], cells[-1]))


_DOCUMENT = "-DOCSTART-"


_TAG = re.compile(r"O|[BIESLU]-\S+")


def _conll_line(path: Path, number: int, line: bytes | None) -> str:
    text = decoded_line(path, number, line)
    return text.strip(" \r\n") if text.strip() else ""


def _conll_cells(text: str) -> list[str]:
    """Split a line at tabs if it has any, otherwise at spaces; other white space belongs to the text."""
    if "\t" in text:
        return [cell.strip(" ") for cell in text.split("\t")]
    return [cell for cell in text.split(" ") if cell]


def _is_comment(text: str) -> bool:
    """True for a comment before a sentence, such as `# id = 7`, but not for the word `#` with its tag."""
    cells = _conll_cells(text)
    return text.startswith("#") and "\t" not in text and not (len(cells) > 1 and _TAG.fullmatch(cells[-1]))


def _conll_problem(cells: Sequence[str], width: int) -> tuple[str, str] | None:
    """Return error message and remedy for a line."""
    if len(cells) == 1:
        return f"`{shortened_value(cells[0])}` has no tag", "a line is a word, a tab or space, and its tag"
    if len(cells) != width:
        return f"{len(cells)} columns, but the first line has {width}", "a blank line ends a sentence"
    if not cells[0]:
        return "a tag without a word", "remove the line, or make it blank"
    if not cells[-1]:
        return f"`{shortened_value(cells[0])}` has an empty tag", "a word outside of all entities has the tag O"
    return None


# One row a file


class Text(FileKind):
    """Plain text, or a table with tabs whose columns the recipe names."""

    suffixes = (".txt",)
    is_table = True
    is_plain_text = True

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:
        """Yield the file as one row, its lines, or the rows of the table."""
        if layout.column_names or layout.delimiter:
            return tabbed_rows(path, layout)
        return _text_lines(path) if layout.sample_by == "line" else _text(path)

    def column_remedy(self, names: Sequence[str], remedy: str) -> str:  # noqa: ARG002 -- a text has one column
        """Suggest that it may be a table."""
        return "it is read as one text: if it is a table with tabs, write `column_names = [...]`"


def _text(path: Path) -> Iterator[Outcome]:
    """Yield the whole file as one row."""
    try:
        content = decoded_text(path, LARGEST_TEXT, "split it")
    except DamagedError:
        raise
    except DataError as error:
        yield from error.problems  # an unreadable row
    else:
        if content.strip():
            yield Row(str(path), {"text": content})


def _text_lines(path: Path) -> Iterator[Outcome]:
    """Yield each line as a row, except blank lines."""
    with opened_file(path) as file:
        for number, line in numbered_lines(path, file):
            try:
                text = without_end(decoded_line(path, number, line))
            except DataError as error:
                yield from error.problems
            else:
                if text.strip():
                    yield Row(f"{path}:{number}", {"text": text})
