"""The format of tagged words, such as named entities in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lora_ns.formats.base import Columns, Example, RowFaultError, Tagged, Values
from lora_ns.formats.cells import cells_of, shown, used_columns
from lora_ns.formats.classification import class_name


@dataclass(frozen=True)
class TokenClassification:
    """A list of words and a list of their tags."""

    name: ClassVar[str] = "token-classification"
    makes: ClassVar[tuple[type[Example], ...]] = (Tagged,)
    reads: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    aliases: ClassVar[Mapping[str, str]] = {"words": "tokens", "labels": "tags", "ner_tags": "tags"}
    signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    templates: ClassVar[tuple[str, ...]] = ()

    columns: Columns

    def used(self, names: Collection[str]) -> list[str]:
        """The columns of the words and of the tags."""
        return used_columns(self.columns, self.reads, names)

    @property
    def word_column(self) -> str:
        """The column of the words in the data."""
        return self._own("tokens")

    @property
    def tag_column(self) -> str:
        """The column of the tags in the data."""
        return self._own("tags")

    def example(self, values: Values) -> Tagged:
        """The words with their tags."""
        words = self._words(values)
        tags = self._list(values, "tags")
        if len(words) != len(tags):
            what = f"{len(words):,} words in `{self.word_column}`, but {len(tags):,} tags in `{self.tag_column}`"
            raise RowFaultError(what, "each word needs one tag")
        remedy = "a tag is a name or a whole number"
        return Tagged(words, tuple(class_name(f"{self.tag_column}[{at}]", tag, remedy) for at, tag in enumerate(tags)))

    def prompt(self, values: Values) -> Tagged:
        """The words without their tags."""
        return Tagged(self._words(values))

    def question(self, text: str) -> Values:
        """A row with the words of a text, split at white space."""
        return {self.word_column: text.split()}

    def answer(self, values: Values) -> str:
        """The tags, separated by spaces."""
        return " ".join(self.example(values).tags)

    def _own(self, name: str) -> str:
        return self.columns.columns.get(name, name)

    def _words(self, values: Values) -> tuple[str, ...]:
        words = self._list(values, "tokens")
        if not words:
            raise RowFaultError(f"`{self.word_column}` has no words", "remove the row")
        for number, word in enumerate(words):
            if isinstance(word, bool) or not isinstance(word, (str, int, float)):
                raise RowFaultError(f"`{self.word_column}[{number}]` is {shown(word)} instead of text")
        return tuple(map(str, words))

    def _list(self, values: Values, name: str) -> Sequence[Any]:
        cells = cells_of(values, self.columns)
        if not cells.has(name):
            raise RowFaultError(f"no column `{self._own(name)}`", f"columns: {', '.join(values)}")
        found = cells.get(name)
        if not isinstance(found, (list, tuple)):
            raise RowFaultError(f"`{self._own(name)}` is {shown(found)} instead of a list")
        return found


@dataclass(frozen=True)
class Entity:
    """A span of words of one type, from `start` to `end` (exclusive)."""

    type: str
    start: int
    end: int


def has_scheme(tags: Sequence[str]) -> bool:
    """True for tags in an IOB scheme: `O`, `B-x`, `I-x`, and optionally `E-x`, `S-x`."""
    marked = [tag for tag in tags if tag != "O"]
    return bool(marked) and all(tag[:2] in {"B-", "I-", "E-", "S-"} for tag in marked)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a tag sequence, as conlleval reads them: an `I-` tag that continues no entity starts one."""
    found: list[Entity] = []
    before = "O"
    for number, tag in enumerate(tags):
        kind = tag[2:]
        joins = tag[:2] in {"I-", "E-"} and before[:2] in {"B-", "I-"} and before[2:] == kind
        if joins:
            found[-1] = Entity(kind, found[-1].start, number + 1)
        elif tag[:2] in {"B-", "I-", "E-", "S-"}:
            found.append(Entity(kind, number, number + 1))
        before = tag
    return found
