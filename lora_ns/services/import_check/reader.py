"""Interface of a tool's reader: effective settings of a configuration, and token ids and loss mask of its rows."""

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
    """A sequence of a row and its loss mask."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def labels(self) -> list[int]:
        """Token ids in the loss, and `IGNORED` elsewhere."""
        return [token if in_loss else IGNORED for token, in_loss in zip(self.ids, self.trained, strict=True)]

    @property
    def count(self) -> int:
        """Number of tokens in the loss; the first token is never predicted."""
        return sum(self.trained[1:])

    def trained_only_here(self, other: Tokens) -> list[int]:
        """Return the token ids that are in the loss here but not in `other`, which has the same ids."""
        pairs = zip(self.ids, self.trained, other.trained, strict=False)
        return [token for token, here, there in pairs if here and not there]

    def trains_like(self, other: Tokens) -> bool:
        """Return whether ids and labels are equal. The label of the first token does not count."""
        return self.ids == other.ids and self.trained[1:] == other.trained[1:]


class LeftOutError(Exception):
    """The tool does not train on a row; the message is the reason."""


class UnsupportedError(Exception):
    """The reader does not support a key, value or row, so rows cannot be compared; the message names it."""


def value_of(source: Source, key: str, reader: Callable[[Any], Any], default: Any) -> Any:
    """Return a value of a configuration; the default if it is absent or unreadable, which the import reports."""
    value = source.get(key)
    try:
        return default if value is None else reader(value)
    except UnreadableError:
        return default


class RowReader(Protocol):
    """Conversion of rows to tokens as a tool does it, with its own copy of the tokenizer."""

    def read(self, dataset: int, row: Mapping[str, Any]) -> list[Tokens]:
        """Convert a row to its sequences.

        Args:
            dataset: index of the dataset in the configuration.
            row: values by column.

        Raises:
            LeftOutError: if the tool does not train on the row.
            UnsupportedError: if the reader does not support the row or its dataset.
        """

    def reason(self, theirs: Tokens, ours: Tokens) -> str:
        """Explain a difference of labels, if possible by a key such as `train_on_inputs: true`; empty if unknown."""


@dataclass(frozen=True)
class Rate:
    """A learning rate schedule, in the terms of `transformers.get_scheduler`."""

    peak: float | None
    shape: str
    warmup: int | None
    steps: int | None
    settings: Mapping[str, Any] | str | None = None
    """Further arguments of the schedule, or their JSON: `lr_scheduler_kwargs`."""


@dataclass(frozen=True)
class Numbers:
    """Effective settings of one side, by the names in `ORDER`; None if unknown."""

    values: Mapping[str, Any]
    rate: Rate


ORDER = (
    *("rank", "alpha", "scaling", "dropout", "target modules", "modules to save", "layers"),
    *("learning rate", "schedule", "warm-up steps", "steps", "epochs", "rows", "global batch size"),
    *("max length", "longer rows", "packing", "precision", "quantization"),
    *("optimizer", "weight decay", "gradient clipping", "loss on"),
)
"""Names of the settings, in the order of the report."""


@dataclass(frozen=True)
class ToolReader:
    """Reader of a tool's configuration and rows."""

    numbers: Callable[[Source, int, int | None], Numbers]
    """Function of a configuration, the number of GPUs and the number of rows, None if unknown."""
    rows: Callable[[Source, PreTrainedTokenizerBase], RowReader]
    """Function of a configuration and a tokenizer, which the reader may change."""
    why: Mapping[str, str]
    """Known reasons for a difference, by the name of the setting."""
