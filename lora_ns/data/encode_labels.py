"""From rows with labels or tags to the inputs of a classifier: the same in training, inference and evaluation."""

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
"""Separator of two texts for tokenizers that put nothing between them."""


@dataclass(frozen=True)
class Fitted:
    """The inputs of one row, unpadded and within the length limit."""

    inputs: dict[str, Any]
    length: int
    """Number of tokens before truncation."""
    first: dict[int, int] = field(default_factory=dict)
    """First token of each word, by the word's index; only words that have tokens and were not truncated."""
    lost_words: int = 0
    """Words that were truncated with their tags."""
    tokenless: tuple[int, ...] = ()
    """Indices of words that become no token, such as empty ones."""

    @property
    def tokens(self) -> int:
        """Number of tokens after truncation."""
        return len(self.inputs["input_ids"])


def separates_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """True if the tokenizer separates the two texts of a pair."""
    alone = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    return len(tokenizer("a", "a")["input_ids"]) > sum(map(len, alone))


class TextEncoder:
    """Encoder of texts and pairs of texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, vocabulary: Vocabulary | None = None) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        self.vocabulary = vocabulary or Vocabulary()
        self._between = "" if separates_pairs(tokenizer) else PAIR_SEPARATOR

    def encode(self, example: Example) -> Fitted:
        """Encode a text or a pair; of a pair that is too long, the longer text is truncated first.

        Raises:
            RowFaultError: if the tokenizer fails, or the base has no embedding for a token.
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
        """Encode a text or a pair, with its target as `labels`. Raises `RowFaultError`."""
        assert isinstance(example, Labelled)
        labels = targets.of(example.label)
        fitted = self.encode(example)
        fitted.inputs["labels"] = labels
        return fitted


class WordEncoder:
    """Encoder of sentences that are split into words, with the first token of each word.

    Some tokenizers, such as RoBERTa's, treat the space before a word as part of it. For them, each word gets a space in
    front, so that it has the same tokens as in running text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, vocabulary: Vocabulary | None = None) -> None:
        """Raise `ModelError` if the tokenizer cannot map tokens to words."""
        if not tokenizer.is_fast:
            what = f"{type(tokenizer).__name__} cannot map tokens to words"
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
        # If the space were a token by itself, the first token of every word would say nothing about the word.
        return bool(str(self.tokenizer.decode(self._ids([" b"])[:1])).strip())

    def _ids(self, words: Sequence[str]) -> list[int]:
        return list(self.tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"])

    def encode(self, example: Example) -> Fitted:
        """Encode a sentence, truncated at the end if it is too long.

        Raises:
            RowFaultError: if the tokenizer fails, or the base has no embedding for a token.
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
        """Encode a sentence with `labels`: each word's tag at its first token. Raises `RowFaultError`."""
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
    """Return the encoder for a format. Raises `ModelError` if the tokenizer does not support it."""
    return (WordEncoder if isinstance(form, TokenClassification) else TextEncoder)(tokenizer, limit, vocabulary)


def label_notes(form: Format, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return notes on labels before training: the class that metrics refer to, and the separator of pairs."""
    if not isinstance(form, TextClassification):
        return ()
    notes = []
    if form.problem_type == "single_label_classification" and len(labels) == 2:
        notes.append(f"f1, precision and recall refer to class `{labels[1]}`, the second of two")
    if form.columns.text_pair_column and not separates_pairs(tokenizer):
        notes.append(
            "the base's tokenizer puts nothing between the two texts of a pair: they are joined by a line break, here "
            "and in `lorans infer`; do the same if you use the adapter elsewhere"
        )
    return tuple(notes)
