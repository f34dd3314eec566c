"""Evaluation items that training rows hold: a long run of words of theirs, or the same short question and answer.

The index grows with the items. Training rows pass through it one by one, and none of them is kept.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lora_ns.data.audit import normal_text

RUN = 13
"""Words of a run that tells one text from another (Brown et al. 2020, appendix C)."""

ENOUGH = 0.5
"""Share of the runs of a question or an answer that one training row has to hold."""

MOST_QUESTIONS = 10
"""Different questions of training rows up to which the runs that they hold are an item's, and no common phrase."""


@dataclass(frozen=True)
class Turn:
    """A part of a row: a question, or whatever else stands before an answer, or an answer."""

    text: str
    is_answer: bool = False


Dialogue = tuple[Turn, ...]
"""The turns of a row, in order. Raw text is one turn."""


@dataclass(frozen=True)
class Item:
    """An evaluation item as training would see it."""

    question: Dialogue
    answer: str = ""


@dataclass(frozen=True)
class Overlap:
    """The training row that holds an item."""

    row: str
    share: float
    """Share of the runs of the item's question or answer that the row holds; 1 for the same question and answer."""


def search(
    suites: Sequence[Sequence[Item]], rows: Iterable[tuple[str, Sequence[Dialogue]]]
) -> list[list[Overlap | None]]:
    """Search the items of suites in training rows; returns for each item the first row that holds most of it.

    Args:
        suites: the items of each suite. A run of words that several items of a suite share counts for none of them, and
            neither do the words with which all its questions, or all its answers, begin or end.
        rows: the training rows with their places; a preference pair has two dialogues.
    """
    indexes = {tuple(items): _Index(items) for items in suites}
    for where, dialogues in rows:
        for dialogue in dialogues:
            passage = _Passage(dialogue)
            for index in indexes.values():
                index.look_up(where, passage)
    return [indexes[tuple(items)].overlaps() for items in suites]


_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""Characters of scripts without spaces between words: each counts as a word."""

_SIGNS = re.compile(r"[-+*/^=<>%\u00d7\u00f7\u2212\u00b1]")
"""Marks that change the meaning of a short text, such as `7 - 2`."""


def _words(text: str) -> list[str]:
    normal = normal_text(text)
    return (normal if normal.isascii() else _UNSPACED.sub(r" \g<0> ", normal)).split()


def _signs(turns: Iterable[Turn]) -> str:
    return "".join(sign for turn in turns for sign in _SIGNS.findall(turn.text))


def _runs(words: Sequence[str]) -> set[int]:
    """Return the hashes of all runs of words."""
    return set(map(hash, zip(*(words[start:] for start in range(RUN)), strict=False)))


class _Passage:
    """A dialogue of a training row, read once for all indexes."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.turns = dialogue
        self.words: list[str] = []
        self.ends = [0]
        """Number of words before each turn, and of all."""
        for turn in dialogue:
            self.words += _words(turn.text)
            self.ends.append(len(self.words))
        self.runs = _runs(self.words)

    def asked(self) -> int:
        """Return a hash of everything but the answers."""
        parts = zip(self.turns, self.ends, self.ends[1:], strict=False)
        return hash(tuple(word for turn, start, end in parts if not turn.is_answer for word in self.words[start:end]))

    def exchanges(self, longest: int) -> Iterator[tuple[str, Sequence[Turn], str]]:
        """Yield each question of up to `longest` words with its turns and its answer.

        The question is the last turn before an answer, and all turns before it. A text without an answer is a question.
        """
        places = [place for place, turn in enumerate(self.turns) if place and turn.is_answer]
        for place in places or [len(self.turns)]:
            answer = " ".join(self.words[self.ends[place] : self.ends[place + 1]]) if places else ""
            for first in {0, place - 1}:
                start, end = self.ends[first], self.ends[place]
                if 0 < end - start <= longest:
                    yield " ".join(self.words[start:end]), self.turns[first:place], answer


@dataclass(frozen=True)
class _Entry:
    """The words of one or several equal items."""

    question: tuple[str, ...]
    answer: tuple[str, ...]
    signs: str
    """Signs of the question."""
    all_signs: str

    @classmethod
    def of(cls, item: Item) -> _Entry:
        question = tuple(word for turn in item.question for word in _words(turn.text))
        signs = _signs(item.question)
        return cls(question, tuple(_words(item.answer)), signs, signs + _signs([Turn(item.answer)]))


_SHARED = -1
"""In place of the part that a run belongs to, if several items have it."""


class _Index:
    """The items of a suite. Part `2 n` is the question of entry `n`, and part `2 n + 1` its answer."""

    def __init__(self, items: Sequence[Item]) -> None:
        numbers: dict[_Entry, int] = {}
        self._entry_of = [numbers.setdefault(_Entry.of(item), len(numbers)) for item in items]
        self._entries = list(numbers)
        self._parts: dict[int, int] = {}
        for part, words in self._telling():
            for run in _runs(words):
                if self._parts.setdefault(run, part) // 2 != part // 2:
                    self._parts[run] = _SHARED
        self._sizes = Counter(self._parts.values())
        self._by_question: dict[str, list[int]] = {}
        self._by_text: dict[str, list[int]] = {}
        for number, entry in enumerate(self._entries):
            if entry.question:
                self._by_question.setdefault(" ".join(entry.question), []).append(number)
                self._by_text.setdefault(" ".join(entry.question + entry.answer), []).append(number)
        self._longest = max((len(entry.question + entry.answer) for entry in self._entries), default=0)
        self._found: dict[int, Overlap] = {}
        """By part, for runs of words."""
        self._asked: dict[int, set[int]] = {}
        """The questions of the rows that hold a part."""
        self._whole: dict[int, Overlap] = {}
        """By entry, for the same question and answer."""

    def _telling(self) -> Iterator[tuple[int, Sequence[str]]]:
        """Yield the parts with the words that are not those of all questions, or of all answers."""
        questions, _, after = _without_common([entry.question for entry in self._entries])
        answers, before, _ = _without_common([entry.answer for entry in self._entries])
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            is_short = len(question) < RUN and len(answer) < RUN
            yield 2 * number, (*question, *answer) if is_short and not after and not before else question
            yield 2 * number + 1, answer

    def look_up(self, where: str, passage: _Passage) -> None:
        """Note the items that a dialogue holds."""
        held = Counter(self._parts[run] for run in self._parts.keys() & passage.runs)
        for part, count in held.items():
            share = count / self._sizes[part]
            if part == _SHARED or share < ENOUGH:
                continue
            asked = self._asked.setdefault(part, set())
            if len(asked) <= MOST_QUESTIONS:
                asked.add(passage.asked())
            known = self._found.get(part)
            if known is None or known.share < share:
                self._found[part] = Overlap(where, share)
        for number in self._same(passage):
            self._whole.setdefault(number, Overlap(where, 1.0))

    def _same(self, passage: _Passage) -> Iterator[int]:
        """Yield the entries whose question a dialogue asks and whose answer it gives, or whose whole text it is."""
        for question, turns, answer in passage.exchanges(self._longest):
            for number in self._by_question.get(question, ()):
                entry = self._entries[number]
                is_given = not entry.answer or f" {' '.join(entry.answer)} " in f" {answer} "
                if is_given and entry.signs == _signs(turns):
                    yield number
            for number in self._by_text.get(question, ()):
                if self._entries[number].all_signs == _signs(turns):
                    yield number

    def overlaps(self) -> list[Overlap | None]:
        """Return what was found for each item."""
        best = dict(self._whole)
        for part, overlap in self._found.items():
            known = best.get(part // 2)
            if len(self._asked[part]) <= MOST_QUESTIONS and (known is None or known.share < overlap.share):
                best[part // 2] = overlap
        return [best.get(number) for number in self._entry_of]


def _without_common(texts: Sequence[tuple[str, ...]]) -> tuple[Sequence[Sequence[str]], int, int]:
    """Return texts without the words with which all of them begin and end, and the numbers of those words.

    They are a template's, which training rows have as well.
    """
    if len(texts) < 2:
        return texts, 0, 0
    before = _common(texts)
    rest = [text[before:] for text in texts]
    after = _common([text[::-1] for text in rest])
    return [text[: len(text) - after] for text in rest], before, after


def _common(texts: Sequence[tuple[str, ...]]) -> int:
    """Return the number of words with which all texts begin."""
    return sum(1 for _ in itertools.takewhile(lambda words: len(set(words)) == 1, zip(*texts, strict=False)))
