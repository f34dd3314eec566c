"""`choice`: the right answer is the likeliest of several."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lora_ns.errors import DataError, Problem
from lora_ns.formats import RowFaultError
from lora_ns.formats.cells import found, is_there, listed, shown, text
from lora_ns.statistics import Measure, share
from lora_ns.suites.base import Asks, Gold, Suite
from lora_ns.table import Column

USUAL_ANSWERS = ("answer", "answerKey")
"""Columns with the right answer in MMLU and ARC."""

_CHOICES = 'write `["...", "..."]`, or `{"text": [...], "label": [...]}`'


@dataclass(frozen=True)
class Choices:
    """The answers that a row offers."""

    texts: tuple[str, ...]
    """What is scored as the answer: the texts of the choices, or their letters."""
    right: int
    question: str | None
    """The question as it is asked; None if the format of the run makes the prompt."""


class ChoiceSuite(Suite):
    """Share of questions whose right choice is the likeliest answer, as lm-evaluation-harness counts them.

    Rows are in the form of MMLU (a list of choices and an index) or of ARC (texts with labels).
    """

    kind: Literal["choice"] = "choice"
    question: Column = "question"
    """Column with the question; rows without it are asked in the format of the training rows."""
    choices: Column = "choices"
    """Column with the choices: a list of texts, or texts with labels."""
    answer: Column | None = None
    """Column with the index (from 0), letter, label or text of the right choice; default: `answer`, `answerKey`."""
    answer_with: Literal["text", "letter"] = "text"
    """Answer that is scored: the text of a choice, or its letter, with all choices listed below the question."""

    asks: ClassVar[Asks] = "choose"

    def own_question(self, values: Mapping[str, Any]) -> tuple[str, str] | None:
        """The question, if the row has one."""
        question = self.offered(values).question
        return None if question is None else (self.question, question)

    def check(self, gold: Gold) -> None:
        """Check that the row offers choices, one of which is right. Raises `RowFaultError`."""
        self.offered(gold.values)

    def offered(self, values: Mapping[str, Any]) -> Choices:
        """The choices of a row. Raises `RowFaultError`."""
        texts, labels = self._texts_and_labels(values)
        right = self._right(values, texts, labels)
        question = text(values, self.question) if is_there(values, self.question) else None
        if self.answer_with == "text":
            return Choices(texts, right, question)
        letters = labels or tuple(string.ascii_uppercase[: len(texts)])
        if len(letters) < len(texts):
            raise RowFaultError(f"{len(texts)} choices have no letters", 'write `answer_with = "text"`')
        lines = (f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True))
        return Choices(letters, right, None if question is None else "\n".join([question.strip(), *lines]))

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`acc_norm`, by the log-likelihood of a character, and `acc`, by that of the whole choice.

        Args:
            golds: the rows.
            answers: for each row, the loss of each choice summed over its tokens, with their number.
        """
        normalised, plain = [], []
        for gold, scored in zip(golds, answers, strict=True):
            offered = self.offered(gold.values)
            losses = [float(loss) for loss, _ in scored]
            if not all(math.isfinite(loss) for loss in losses):
                what = "the loss of one of its choices is no finite number"
                raise DataError(Problem(gold.where, what, "compute in another dtype, such as `--dtype float32`"))
            by_character = [loss / len(text) for loss, text in zip(losses, offered.texts, strict=True)]
            normalised.append(by_character.index(min(by_character)) == offered.right)
            plain.append(losses.index(min(losses)) == offered.right)
        return {"acc_norm": share(normalised), "acc": share(plain)}

    def _texts_and_labels(self, values: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The texts of the choices and their labels, which may be absent."""
        value: Any = found(values, self.choices)
        labels: Any = None
        if isinstance(value, Mapping):
            value, labels = value.get("text"), value.get("label")
            if not isinstance(labels, list):
                raise RowFaultError(f"`{self.choices}.label` is {shown(labels)} instead of a list", _CHOICES)
        texts = _distinct(value, self.choices)
        if labels is None:
            return texts, ()
        names = _distinct(labels, f"{self.choices}.label")
        if len(names) != len(texts):
            raise RowFaultError(f"`{self.choices}` has {len(texts)} texts, but {len(names)} labels", _CHOICES)
        return texts, names

    def _right(self, values: Mapping[str, Any], texts: Sequence[str], labels: Sequence[str]) -> int:
        """The index of the right choice. Raises `RowFaultError` if it is none of them, or may be several."""
        column = self.answer or next((name for name in USUAL_ANSWERS if is_there(values, name)), USUAL_ANSWERS[0])
        value = found(values, column)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RowFaultError(f"`{column}` is {shown(value)}", "write the index, the letter or the text of a choice")
        meant = _meant(value, texts, labels)
        if len(meant) == 1:
            return meant.pop()
        if meant:
            what = f"`{column}` is {shown(value)}, which could mean several of the choices"
            raise RowFaultError(what, "write the index as a number, from 0")
        known = listed(labels or string.ascii_uppercase[: len(texts)])
        raise RowFaultError(
            f"`{column}` is {shown(value)}, which is none of the choices",
            f"write {known}, an index from 0 to {len(texts) - 1}, or the text of a choice",
        )


def _distinct(values: Any, place: str) -> tuple[str, ...]:
    """Texts that are not empty and all different, at least two. Raises `RowFaultError`."""
    if not isinstance(values, list):
        raise RowFaultError(f"`{place}` is {shown(values)} instead of a list of choices", _CHOICES)
    if len(values) < 2:
        raise RowFaultError(f"`{place}` has {len(values)} of the two or more that a choice needs", "add the others")
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int | float) or not str(one).strip():
            raise RowFaultError(f"`{place}` has {shown(one)} among its texts", _CHOICES)
    texts = tuple(str(one).strip() for one in values)
    twice = next((text for number, text in enumerate(texts) if text in texts[:number]), None)
    if twice is not None:
        raise RowFaultError(f"`{place}` has {shown(twice)} twice", "each choice has to be another one")
    return texts


def _meant(value: str | int, texts: Sequence[str], labels: Sequence[str]) -> set[int]:
    """The choices that a value may mean: by its label alone if there are labels, else by index, letter or text."""
    written = str(value).strip()
    if written in labels:
        return {labels.index(written)}
    if isinstance(value, int):
        return {value} if 0 <= value < len(texts) and not labels else set()
    meant = {number for number, text in enumerate(texts) if text == written}
    if labels:
        return meant
    letters = string.ascii_uppercase[: len(texts)]
    if len(written) == 1 and written in letters:
        meant.add(letters.index(written))
    if written.isascii() and written.isdecimal() and int(written) < len(texts):
        meant.add(int(written))
    return meant
