"""What every objective answers: the questions that the rest of lorans asks of what a run learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.methods.capabilities import LORA_RATE
from lora_ns.objectives.rendering import Rendering
from lora_ns.table import Conflict, Table

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

Counted = Callable[[Any], Any]
"""From a trainer class to one whose evaluation loss is the mean over all that `count_of` counts."""

TaskType = Literal["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"]

Answers = Literal["text", "labels", "tags"]

TEXT_AND_LABEL = ("dataset.text_column", "dataset.text_pair_column", "dataset.label_column")
"""Keys of texts that have labels."""

_LOWEST_RATE, _HIGHEST_RATE, _LEAST_RANK = 5e-5, 1e-3, 2


class Objective(Table):
    """What a run learns. A new objective is a class of its own file, and a line in `objectives/__init__.py`."""

    table: str
    """Tag of the union: the name of the TOML table, but for tagging, whose keys are in `[classification]`."""

    toml: ClassVar[str]
    """Name of the TOML table that has the keys."""
    task_type: ClassVar[TaskType]
    """PEFT's name of the task, which decides the head of the model."""
    examples: ClassVar[tuple[type, ...]]
    """Kinds of examples that it learns from; formats that make others are refused."""
    answers: ClassVar[Answers]
    """What `lorans infer` answers with."""
    writes: ClassVar[tuple[str, ...]]
    """Columns that `lorans infer` writes its answers to."""
    inert: ClassVar[tuple[str, ...]] = ()
    """Dotted keys of other tables that have no effect with it."""
    forward_passes: ClassVar[int] = 1
    """Forward passes for each row in a training step, those of a reference model among them."""
    scores_every_token: ClassVar[bool] = False
    """Whether a step computes scores over the whole vocabulary for each token, which take memory."""
    next_token_loss: ClassVar[bool] = False
    """Whether the loss is the cross entropy of next tokens, so that positions outside of it need no scores."""
    divides_rows: ClassVar[bool] = False
    """Whether a row can be divided among processes (`context_parallel_size`)."""
    usual_rank: ClassVar[int] = 8
    """Rank of LoRA in a recipe that names none, on a base that is wide enough."""

    max_seq_length: int

    @classmethod
    def key(cls, name: str) -> str:
        """The dotted key of a field, as recipes write it."""
        return f"{cls.toml}.{name}"

    @classmethod
    def key_names(cls) -> tuple[str, ...]:
        """Names of the keys in the TOML table."""
        return tuple(name for name in cls.model_fields if name != "table")

    @property
    def writes_text(self) -> bool:
        """Whether the model learns to write text."""
        return self.answers == "text"

    @property
    def rendering(self) -> Rendering:
        """How conversations become text; as it is by default for what has no such keys."""
        return Rendering()

    @property
    def packs(self) -> bool:
        """Whether several short rows become one of `max_seq_length`."""
        return False

    @property
    def noise(self) -> float:
        """Noise on the embeddings in training, which each process draws for itself; 0 is none."""
        return 0.0

    @classmethod
    def rate(cls, width: int) -> float:
        """Peak learning rate of LoRA for a base of this width (`hidden_size`)."""
        raise NotImplementedError

    @classmethod
    def usual_rate(cls, typical: float, width: int | None) -> float:
        """Peak learning rate of a recipe that names none.

        Args:
            typical: the method's rate for text on a base of 7 billion parameters.
            width: `hidden_size` of the base; None if it is not known yet.

        Returns:
            `typical` for methods whose rates are not LoRA's; else the rate for the width, to one digit.
        """
        if typical != LORA_RATE or not width:
            return typical
        return float(f"{min(max(cls.rate(width), _LOWEST_RATE), _HIGHEST_RATE):.0e}")

    @classmethod
    def rank_for(cls, width: int | None) -> int:
        """Rank of LoRA in a recipe that names none: the usual one, halved to at most a quarter of the width.

        Args:
            width: `hidden_size` of the base; None if it is not known yet.
        """
        rank = cls.usual_rank
        while width and rank > max(width // 4, _LEAST_RANK):
            rank //= 2
        return rank

    def conflicts(self) -> Iterator[Conflict]:
        """Keys of this table that do not go together."""
        yield from ()

    def lost_in_a_stream(self) -> Iterator[tuple[str, str, str]]:
        """What needs all rows at once, which a stream never has: the dotted key, why, and what to write."""
        yield from ()

    @classmethod
    def starter_rows(cls, asked: str, answered: str) -> Sequence[Mapping[str, Any]]:
        """A few rows for a new project to replace; templates name the columns `asked` and `answered`."""
        raise NotImplementedError

    # The trainer; what it needs of the house is handed in.

    library: ClassVar[str]
    """The library whose trainer it is, as messages name it."""

    def config_class(self) -> Any:
        """Class of the trainer's arguments."""
        raise NotImplementedError

    def arguments(self, row_parts: int) -> dict[str, Any]:
        """Arguments of the trainer beside those of every run; `row_parts` processes share each row."""
        raise NotImplementedError

    def trainer_class(self, counted: Counted) -> Any:
        """Class of the trainer, made over the library's by `counted`."""
        raise NotImplementedError

    def trainer_kwargs(self, model: Any, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> dict[str, Any]:
        """What the trainer is made with beside model, rows and tokenizer."""
        raise NotImplementedError

    def complete(self, trainer: Any, labels: Sequence[str], rows: datasets.Dataset) -> None:
        """Give a trainer that was made what its class needs beside the arguments."""
