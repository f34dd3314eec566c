"""The tokens that a base has embeddings for; a tokenizer may have more, with ids beyond the matrix."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lora_ns.errors import ModelError, Problem
from lora_ns.formats import RowFaultError
from lora_ns.model.files import Base, BaseFacts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEDY = "use the tokenizer that belongs to the base"


_CODE = "TOK001"


_SHOWN = 3


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer compared with the embeddings of a base."""

    embeddings: int = 0
    """Rows of the embedding matrix; 0 if unknown."""
    beyond: Mapping[int, str] = field(default_factory=dict)
    """Tokens without a row, by id."""
    added: frozenset[int] = frozenset()
    """Tokens that get a new row."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, before any row is checked."""
        if not self.beyond:
            return ()
        named = ", ".join(f"{number} (`{token}`)" for number, token in sorted(self.beyond.items())[:_SHOWN])
        more = ", ..." if len(self.beyond) > _SHOWN else ""
        count = f"{len(self.beyond):,} tokens of the tokenizer have"
        return (
            f"{count} no embedding in the base, which has {self.embeddings:,}: {named}{more}; rows must not use them",
        )

    def check(self, ids: Iterable[int]) -> None:
        """Refuse a row with a token that has no embedding. Raises `RowFaultError`."""
        if not self.beyond:
            return
        found = next((number for number in ids if number in self.beyond), None)
        if found is not None:
            raise RowFaultError(f"has {self._named(found)}", f"{_REMEDY}, or change the row", _CODE)

    def check_special(self, where: str, kind: str, ids: Iterable[int]) -> None:
        """Refuse special tokens that have no embedding. Raises `ModelError`."""
        if not self.embeddings:
            return
        for number in ids:
            if number in self.beyond or (number >= self.embeddings and number not in self.added):
                raise ModelError(Problem(where, f"the {kind} is {self._named(number)}", _REMEDY, _CODE))

    def _named(self, number: int) -> str:
        token = f" (`{self.beyond[number]}`)" if number in self.beyond else ""
        return f"token {number}{token}, but the base has {self.embeddings:,} embeddings"


def vocabulary(base: Base, tokenizer: PreTrainedTokenizerBase, added: Collection[int] = ()) -> Vocabulary:
    """Compare a tokenizer with the embeddings of a base; `added` are tokens that get a new row."""
    count, new = embeddings(base.facts), frozenset(added)
    if not count:
        return Vocabulary()
    tokens = tokenizer.get_vocab().items()
    beyond = {number: token for token, number in tokens if number >= count and number not in new}
    return Vocabulary(count, beyond, new)


def embeddings(facts: BaseFacts) -> int:
    """Return the rows of the embedding matrix, which some models pad beyond their vocabulary; 0 if unknown."""
    stored = [
        rows
        for name, (rows, columns) in facts.matrices.items()
        if columns == facts.hidden_size and _is_embedding(name.rpartition(".")[2])
    ]
    return max([facts.vocab_size, *stored]) if facts.vocab_size else 0


def _is_embedding(name: str) -> bool:
    return name == "wte" or ("emb" in name and "position" not in name)
