"""Rows of plain texts, and of sentences in CoNLL form."""

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
    """Sentences of words with a tag each."""

    suffixes = (".conll", ".iob", ".bio")

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:  # noqa: ARG002 -- it leaves nothing open
        """The sentences."""
        return _conll(path)


def _conll(path: Path) -> Iterator[Outcome]:
    """Sentences of CoNLL: a word a line, first its token and last its tag, and a blank line after the last word."""
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
    """The columns of a line: between tabs if it has one, otherwise between spaces; other white space is text."""
    if "\t" in text:
        return [cell.strip(" ") for cell in text.split("\t")]
    return [cell for cell in text.split(" ") if cell]


def _is_comment(text: str) -> bool:
    """Whether a line before a sentence is a remark, such as `# id = 7`, rather than the word `#` with its tag."""
    cells = _conll_cells(text)
    return text.startswith("#") and "\t" not in text and not (len(cells) > 1 and _TAG.fullmatch(cells[-1]))


def _conll_problem(cells: Sequence[str], width: int) -> tuple[str, str] | None:
    """What is wrong with a line, and what to do."""
    if len(cells) == 1:
        return f"`{shortened_value(cells[0])}` has no tag", "a line is a word, a tab or space, and its tag"
    if len(cells) != width:
        return f"{len(cells)} columns, and the first line has {width}", "a blank line ends a sentence"
    if not cells[0]:
        return "a tag without a word", "take the line out, or put a blank line there"
    if not cells[-1]:
        return f"`{shortened_value(cells[0])}` has an empty tag", "a word outside of everything has the tag O"
    return None


# One row a file


class Text(FileKind):
    """Plain text, or a table with tabs whose columns the recipe names."""

    suffixes = (".txt",)
    is_table = True
    is_plain_text = True

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:
        """The file as one row, its lines, or the rows of the table."""
        if layout.column_names or layout.delimiter:
            return tabbed_rows(path, layout)
        return _text_lines(path) if layout.sample_by == "line" else _text(path)

    def column_remedy(self, names: Sequence[str], remedy: str) -> str:  # noqa: ARG002 -- a text has one column
        """That it may be a table."""
        return "it is read as one text: if it is a table with tabs, name its columns by `column_names = [...]`"


def _text(path: Path) -> Iterator[Outcome]:
    """The whole file as one row."""
    try:
        content = decoded_text(path, LARGEST_TEXT, "split it")
    except DamagedError:
        raise
    except DataError as error:
        yield from error.problems  # a row that cannot be read
    else:
        if content.strip():
            yield Row(str(path), {"text": content})


def _text_lines(path: Path) -> Iterator[Outcome]:
    """Each line as a row; one that is blank is none."""
    with opened_file(path) as file:
        for number, line in numbered_lines(path, file):
            try:
                text = without_end(decoded_line(path, number, line))
            except DataError as error:
                yield from error.problems
            else:
                if text.strip():
                    yield Row(f"{path}:{number}", {"text": text})
