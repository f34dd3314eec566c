"""What llama.cpp makes of a text with the tokenizer in a GGUF file, as `src/llama-vocab.cpp` does it."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from lora_ns.errors import Problem, UsageError
from lora_ns.exports.gguf_tokens import CONTROL, SPLITTINGS, UNKNOWN, USER_DEFINED, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TextReader:
    """The tokenizer of a GGUF file.

    Raises:
        UsageError: if it is of a kind that lorans does not know.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        if vocabulary.model not in {"gpt2", "llama"} or (
            vocabulary.model == "gpt2" and vocabulary.pre not in SPLITTINGS
        ):
            what = f"its tokenizer (`{vocabulary.model}`, `{vocabulary.pre}`) is none that lorans can rebuild"
            raise UsageError(Problem("", what, "compare the token ids with llama.cpp's own `llama-tokenize`"))

    def __call__(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text, special tokens in it included."""
        found = list(self._ids_of(text))
        if not add_special_tokens:
            return found
        ids, flags = self._vocabulary.ids, self._vocabulary.flags
        is_llama = self._vocabulary.model == "llama" or self._vocabulary.pre in {"llama-bpe", "tekken"}
        first = [ids["bos"]] if flags.get("add_bos_token", is_llama) and "bos" in ids else []
        last = [ids["eos"]] if flags.get("add_eos_token", False) and "eos" in ids else []
        return [*first, *found, *last]

    @cached_property
    def _by_token(self) -> Mapping[str, int]:
        return {token: number for number, token in enumerate(self._vocabulary.tokens)}

    @cached_property
    def _marked(self) -> re.Pattern[str] | None:
        """A pattern of the tokens that are searched in a text before anything else, the longest first."""
        kinds = {CONTROL, USER_DEFINED, UNKNOWN}
        pairs = zip(self._vocabulary.tokens, self._vocabulary.types, strict=True)
        marked = sorted((token for token, kind in pairs if kind in kinds and token), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, marked))})") if marked else None

    def _ids_of(self, text: str) -> Iterator[int]:
        parts = self._marked.split(text) if self._marked else [text]
        is_after_special = True
        for place, part in enumerate(parts):
            if place % 2:
                yield self._by_token[part]
                is_after_special = True
            elif part:
                yield from (
                    self._bytes_merged(part)
                    if self._vocabulary.model == "gpt2"
                    else self._pieces(part, is_after_special)
                )
                is_after_special = False

    def _bytes_merged(self, text: str) -> list[int]:
        return list(self._byte_level.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _byte_level(self) -> Tokenizer:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers

        splitting, known = SPLITTINGS[self._vocabulary.pre], self._by_token
        pairs = [tuple(merge.split(" ", 1)) for merge in self._vocabulary.merges]
        merges = [(left, right) for left, right in pairs if {left, right, left + right} <= known.keys()]
        tokenizer = Tokenizer(models.BPE(dict(known), merges, ignore_merges=splitting.whole_words))
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in splitting.patterns]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, last])
        return tokenizer

    def _pieces(self, text: str, is_after_special: bool) -> Iterator[int]:
        """Merge neighbours whose union is a token, that with the highest score first, the leftmost of equals."""
        if self._vocabulary.flags.get("add_space_prefix", True) and is_after_special:
            text = f" {text}"
        pieces: list[str] = list(text.replace(" ", "▁"))
        after, before = list(range(1, len(pieces) + 1)), list(range(-1, len(pieces) - 1))
        queue: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right < len(pieces) and (union := pieces[left] + pieces[right]) in self._by_token:
                heapq.heappush(queue, (-self._vocabulary.scores[self._by_token[union]], left, right, union))

        for place in range(1, len(pieces)):
            offer(place - 1, place)
        while queue:
            _, left, right, union = heapq.heappop(queue)
            if not pieces[left] or not pieces[right] or pieces[left] + pieces[right] != union:
                continue
            pieces[left], pieces[right] = union, ""
            after[left] = after[right]
            if after[right] < len(pieces):
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        for piece in filter(None, pieces):
            yield from self._of_piece(piece)

    def _of_piece(self, piece: str) -> list[int]:
        if piece in self._by_token:
            return [self._by_token[piece]]
        return [self._by_token.get(f"<0x{byte:02X}>", self._vocabulary.ids.get("unk", 0)) for byte in piece.encode()]
