"""From rows with labels or tags to what a classifier takes: the same for training, inference and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lora_ns.errors import ModelError, Problem
from lora_ns.formats import Example, Format, Labelled, RowFaultError, Tagged, TextClassification, TokenClassification
from lora_ns.model.tokenizing import encoded
from lora_ns.model.vocabulary import Vocabulary
from lora_ns.objectives.targets import Targets
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAIR_SEPARATOR = "\n"
"""What stands between two texts where the tokenizer puts nothing there."""


@dataclass(frozen=True)
class Fitted:
    """The inputs of a row, not padded, and no longer than the recipe allows."""

    inputs: dict[str, Any]
    length: int
    """Tokens before the cut."""
    first: dict[int, int] = field(default_factory=dict)
    """By the number of a word, its first token: for the words that have one and were not cut off."""
    lost_words: int = 0
    """Words that were cut off, with their tags."""
    tokenless: tuple[int, ...] = ()
    """The numbers of words that become no token, such as empty ones."""

    @property
    def tokens(self) -> int:
        """Tokens after the cut."""
        return len(self.inputs["input_ids"])


def separates_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts something between the two texts of a pair."""
    alone = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    return len(tokenizer("a", "a")["input_ids"]) > sum(map(len, alone))


class TextEncoder:
    """Encodes texts and pairs."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, vocabulary: Vocabulary | None = None) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        self.vocabulary = vocabulary or Vocabulary()
        self._between = "" if separates_pairs(tokenizer) else PAIR_SEPARATOR

    def encode(self, example: Example) -> Fitted:
        """The tokens of a text or a pair; of a pair that is too long, the longer text is cut first.

        Raises:
            RowFaultError: if the tokenizer gives up, or the base has no embedding for one of them.
        """
        assert isinstance(example, Labelled)
        texts = [example.text]
        if example.text_pair is not None:
            texts.append(f"{self._between}{example.text_pair}")
        whole = encoded(self.tokenizer, *texts)
        length = len(whole["input_ids"])
        if length > self.limit:
            whole = encoded(self.tokenizer, *texts, truncation=True, max_length=self.limit)
        self.vocabulary.check(whole["input_ids"])
        return Fitted({key: list(value) for key, value in whole.items()}, length)

    def learn(self, example: Example, targets: Targets) -> Fitted:
        """The tokens with what is to be predicted, as `labels`. Raises `RowFaultError`."""
        assert isinstance(example, Labelled)
        labels = targets.of(example.label)
        fitted = self.encode(example)
        fitted.inputs["labels"] = labels
        return fitted


class WordEncoder:
    """Encodes sentences that are words already, and knows at which token each word begins.

    Where a tokenizer takes the space before a word for a part of it, as RoBERTa's does, each word is given its space:
    its tokens are those that it has in running text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, vocabulary: Vocabulary | None = None) -> None:
        """Raises `ModelError` if the tokenizer cannot tell which token is of which word."""
        if not tokenizer.is_fast:
            what = f"{type(tokenizer).__name__} does not tell which token is of which word"
            raise ModelError(Problem("", what, "to tag words, choose a base with a fast tokenizer (tokenizer.json)"))
        self.tokenizer = tokenizer
        self.limit = limit
        self.vocabulary = vocabulary or Vocabulary()

    @cached_property
    def _space(self) -> str:
        return " " if self._needs_space() else ""

    def _needs_space(self) -> bool:
        plain = self.tokenizer("a b", add_special_tokens=False)["input_ids"]
        if plain == self._ids(["a", "b"]) or plain != self._ids(["a", " b"]):
            return False
        # A space that is a token of its own, and the first of every word, would say nothing of the word.
        return bool(str(self.tokenizer.decode(self._ids([" b"])[:1])).strip())

    def _ids(self, words: Sequence[str]) -> list[int]:
        return list(self.tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"])

    def encode(self, example: Example) -> Fitted:
        """The tokens of a sentence, its end cut off if it is too long.

        Raises:
            RowFaultError: if the tokenizer gives up, or the base has no embedding for one of them.
        """
        assert isinstance(example, Tagged)
        words = [f"{self._space}{word}" if word else word for word in example.words]
        whole = encoded(self.tokenizer, words, is_split_into_words=True)
        length = len(whole["input_ids"])
        first = cut = _first_tokens(whole)
        if length > self.limit:
            whole = encoded(self.tokenizer, words, is_split_into_words=True, truncation=True, max_length=self.limit)
            cut = _first_tokens(whole)
        self.vocabulary.check(whole["input_ids"])
        tokenless = tuple(number for number in range(len(words)) if number not in first)
        inputs = {key: list(value) for key, value in whole.items()}
        return Fitted(inputs, length, cut, len(first) - len(cut), tokenless)

    def learn(self, example: Example, targets: Targets) -> Fitted:
        """The tokens with `labels`: the tag of each word at its first token, and `IGNORED`. Raises `RowFaultError`."""
        assert isinstance(example, Tagged)
        tags = [targets.number(tag, "tag") for tag in example.tags]
        fitted = self.encode(example)
        if not fitted.first:
            raise RowFaultError("no word of this row becomes a token", "remove the row", "MASK001")
        labels = [IGNORED] * fitted.tokens
        for word, place in fitted.first.items():
            labels[place] = tags[word]
        fitted.inputs["labels"] = labels
        return fitted


def _first_tokens(encoded: Any) -> dict[int, int]:
    first: dict[int, int] = {}
    for place, word in enumerate(encoded.word_ids()):
        if word is not None:
            first.setdefault(word, place)
    return first


def make_encoder(
    form: Format, tokenizer: PreTrainedTokenizerBase, limit: int, vocabulary: Vocabulary | None = None
) -> TextEncoder | WordEncoder:
    """The encoder for rows of a format. Raises `ModelError` if the tokenizer does not fit it."""
    return (WordEncoder if isinstance(form, TokenClassification) else TextEncoder)(tokenizer, limit, vocabulary)


def label_notes(form: Format, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What there is to know of labels before a training: the class that is measured, and how pairs are joined."""
    if not isinstance(form, TextClassification):
        return ()
    notes = []
    if form.problem_type == "single_label_classification" and len(labels) == 2:
        notes.append(f"f1, precision and recall are those of class `{labels[1]}`, the second of two")
    if form.columns.text_pair_column and not separates_pairs(tokenizer):
        notes.append(
            "the base's tokenizer puts nothing between the two texts of a pair: they are joined by a line break, here "
            "and in `lorans infer`; whoever loads the adapter elsewhere has to put it there, too"
        )
    return tuple(notes)
