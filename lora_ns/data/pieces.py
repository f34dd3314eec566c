"""The tokens of a sequence as pieces of text: which are in the loss, and which are special."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one kind in a shown row: `trained` or `context`, each also with ` special`."""

    text: str
    kind: str
    ids: tuple[int, ...]


def pieces_of(ids: Sequence[int], trained: Sequence[bool], tokenizer: PreTrainedTokenizerBase) -> tuple[Piece, ...]:
    """Divide a sequence into pieces; each special token is one of its own.

    Args:
        ids: the tokens.
        trained: for each token, True if its prediction is in the loss.
        tokenizer: decodes the tokens.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)

    def kind(number: int) -> str:
        learned = "trained" if trained[number] else "context"
        return f"{learned} special" if ids[number] in special else learned

    pieces: list[Piece] = []
    start = 0
    for number in range(1, len(ids) + 1):
        if number == len(ids) or kind(number) != kind(start) or "special" in kind(start):
            part = list(ids[start:number])
            pieces.append(Piece(str(tokenizer.decode(part)), kind(start), tuple(part)))
            start = number
    return tuple(pieces)
