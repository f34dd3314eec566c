"""A reader of another tool's configuration: its effective numbers, and the tokens that it makes of a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lora_ns.importers.source import Source
from lora_ns.importers.values import UnreadableError
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokens:
    """A sequence of a row, with the tokens that are in the loss."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def labels(self) -> list[int]:
        """Token ids to predict, and `IGNORED` elsewhere."""
        return [token if learn else IGNORED for token, learn in zip(self.ids, self.trained, strict=True)]

    @property
    def count(self) -> int:
        """Number of tokens in the loss; the first token is never predicted."""
        return sum(self.trained[1:])

    def learned_beyond(self, other: Tokens) -> list[int]:
        """Return the tokens of this sequence that are learned where those of another with the same ids are not."""
        pairs = zip(self.ids, self.trained, other.trained, strict=False)
        return [token for token, here, there in pairs if here and not there]

    def teaches_the_same(self, other: Tokens) -> bool:
        """True if ids are equal, and labels are wherever they count."""
        return self.ids == other.ids and self.trained[1:] == other.trained[1:]


class LeftOutError(Exception):
    """The tool does not train on a row; the message says why."""


class UnreadError(Exception):
    """Something that the reader does not know, so that nothing is said of these rows; the message names it."""


def value_of(source: Source, key: str, reader: Callable[[Any], Any], default: Any) -> Any:
    """Return a value of a configuration; the default if it is absent or cannot be read, which the account says."""
    value = source.get(key)
    try:
        return default if value is None else reader(value)
    except UnreadableError:
        return default


class RowReader(Protocol):
    """What a tool makes of rows, by its configuration and with its own copy of the tokenizer."""

    def read(self, dataset: int, row: Mapping[str, Any]) -> list[Tokens]:
        """Return the sequences of a row.

        Args:
            dataset: number of the dataset in the configuration, from 0.
            row: the columns.

        Raises:
            LeftOutError: if the tool does not train on the row.
            UnreadError: if the reader does not know what the tool does with it.
        """

    def reason(self, theirs: Tokens, ours: Tokens) -> str:
        """Return the source's key that explains a difference of labels, such as `train_on_inputs: true`, or nothing."""


@dataclass(frozen=True)
class Rate:
    """A learning rate schedule, in the terms of `transformers.get_scheduler`."""

    peak: float | None
    shape: str
    warmup: int | None
    steps: int | None


@dataclass(frozen=True)
class Numbers:
    """The effective numbers of one side, by the names of `ORDER`; None for what is not known."""

    values: Mapping[str, Any]
    rate: Rate


ORDER = (
    *("rank", "alpha", "scaling", "dropout", "adapted", "trained whole", "layers"),
    *("learning rate", "schedule", "warm-up steps", "steps", "epochs", "rows", "rows per step"),
    *("longest row", "longer rows", "packing", "precision", "base stored as"),
    *("optimizer", "weight decay", "gradient clipping", "loss on"),
)
"""The numbers, in the order in which they are shown."""


@dataclass(frozen=True)
class ToolReader:
    """The reader of a tool."""

    numbers: Callable[[Source, int, int | None], Numbers]
    """From a configuration, the number of GPUs and the number of rows, if known."""
    rows: Callable[[Source, PreTrainedTokenizerBase], RowReader]
    """From a configuration and a tokenizer that the reader may change."""
    why: Mapping[str, str]
    """Known reasons for a difference, by the name of the number."""
