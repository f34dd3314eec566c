"""Batch encoding: many texts in one call to the tokenizer, on all cores, kept until they are needed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_ns.formats import Conversation, EndlessRowError, RowFaultError
from lora_ns.model.tokenizing import encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Memo:
    """Encodings that a renderer has computed in advance or needs repeatedly."""

    texts: dict[Conversation, str] = field(default_factory=dict)
    ids: dict[tuple[str, bool], list[int]] = field(default_factory=dict)
    endless: dict[Conversation, EndlessRowError] = field(default_factory=dict)
    shown: dict[Hashable, bool] = field(default_factory=dict)
    """Cache of `check_shown`: True if the template shows a kind of content."""
    _added_ids: frozenset[int] = frozenset()
    _added: re.Pattern[str] | None = None
    _rests: dict[str, list[int]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget the rows that were encoded in advance."""
        self.texts.clear()
        self.endless.clear()
        self.ids.clear()

    def encode(self, tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], with_special_tokens: bool) -> None:
        """Encode texts in one call and remember them; remembers none if the tokenizer fails on one.

        The failing text is reported later, when each text is encoded by itself.
        """
        listed = [text for text in dict.fromkeys(texts) if text]
        if not listed:
            return
        with contextlib.suppress(RowFaultError):
            many = encode_on_all_cores(tokenizer, listed, with_special_tokens)
            self.ids |= {(text, with_special_tokens): ids for text, ids in zip(listed, many, strict=True)}

    def marks(self, tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> list[tuple[int, int]]:
        """Return the positions after each added token of a text: the next character, and the next token.

        Returns an empty list if text and tokens disagree on the added tokens, for instance because one only matches as
        a whole word. Then they cannot be aligned by counting.
        """
        behind = [found.end() for found in self._pattern(tokenizer).finditer(text)]
        places = [place for place, token in enumerate(ids, start=1) if token in self._added_ids]
        return list(zip(behind, places, strict=True)) if len(behind) == len(places) else []

    def _pattern(self, tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
        """Return a pattern for the tokenizer's added tokens, longest first, as the tokenizer itself matches them."""
        if self._added is None:
            tokens = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
            self._added_ids = frozenset(tokens)
            longest_first = sorted(tokens.values(), key=len, reverse=True)
            self._added = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        return self._added

    def rest(self, tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
        """Encode a short text, with a cache."""
        if text not in self._rests:
            self._rests[text] = list(encoded(tokenizer, text, add_special_tokens=False)["input_ids"]) if text else []
        return self._rests[text]


def encode_on_all_cores(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], with_special_tokens: bool
) -> list[list[int]]:
    """Encode many texts. The tokenizer's threads are enabled for this call only, because they do not survive a fork.

    Raises `RowFaultError` if the tokenizer fails on one of the texts.
    """
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        ids: list[list[int]] = encoded(tokenizer, texts, add_special_tokens=with_special_tokens)["input_ids"]
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = before or "false"
    return ids
