"""The base class of objectives: the hooks that the rest of lorans calls, with their defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.methods.capabilities import LORA_RATE
from lora_ns.objectives.rendering import Rendering
from lora_ns.objectives.watches import Watch
from lora_ns.rewards import RewardFunction
from lora_ns.table import Conflict, Table

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

Counted = Callable[[Any], Any]
"""Function that derives a trainer class whose evaluation loss is the mean over all items that `count_of` counts."""

TaskType = Literal["CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"]

Answers = Literal["text", "labels", "tags", "score"]

TEXT_AND_LABEL = ("dataset.text_column", "dataset.text_pair_column", "dataset.label_column")
"""Keys of labelled texts."""

_LOWEST_RATE, _HIGHEST_RATE, _LEAST_RANK = 5e-5, 1e-3, 2


class Objective(Table):
    """A training objective. To add one, write its class in a new file and add a line to `objectives/__init__.py`."""

    table: str
    """Tag of the union: the name of the TOML table, except for tagging, whose keys are in `[classification]`."""

    toml: ClassVar[str]
    """Name of the TOML table with its keys."""
    task_type: ClassVar[TaskType]
    """PEFT task type, which determines the head of the model."""
    examples: ClassVar[tuple[type, ...]]
    """Kinds of examples that it trains on. Formats that produce others are refused."""
    answers: ClassVar[Answers]
    """Kind of answers from `lorans infer`."""
    writes: ClassVar[tuple[str, ...]]
    """Columns that `lorans infer` writes."""
    inert: ClassVar[tuple[str, ...]] = ()
    """Dotted keys of other tables that have no effect with it."""
    forward_passes: ClassVar[int] = 1
    """Forward passes per row in a training step, including those of a reference model."""
    scores_every_token: ClassVar[bool] = False
    """True if a step computes logits over the vocabulary for each token, which takes memory."""
    next_token_loss: ClassVar[bool] = False
    """True if the loss is next-token cross entropy, so that positions outside the loss need no logits."""
    scores_whole: ClassVar[bool] = False
    """True if a head scores each sequence as a whole, so that no token of its own is in the loss."""
    has_reference: ClassVar[bool] = False
    """True if the loss compares the model with a reference, which is the start of training."""
    copies_adapter: ClassVar[bool] = False
    """True if its trainer adds a frozen copy of the adapter as the reference."""
    disables_dropout: ClassVar[bool] = False
    """True if its trainer turns all dropout off, that of the adapter too."""
    shows: ClassVar[Mapping[str, str]] = {}
    """Metrics that the display of a training shows beside the loss, by their names in `metrics.jsonl`, with labels."""
    divides_weights: ClassVar[bool | str] = True
    """Training with DeepSpeed or FSDP: True, or the reason why not."""
    divides_rows: ClassVar[bool] = False
    """True if a row can be split among processes (`context_parallel_size`)."""
    minimum: ClassVar[Mapping[str, Any]] = {}
    """Values for the keys of the table that have no default."""
    generates: ClassVar[bool] = False
    """True if a training step generates completions, so that its loss may be 0 although the model learns."""
    reads_hidden_states: ClassVar[bool] = False
    """True if the loss takes hidden states and the weight of the head, not virtual tokens or adapters on the head."""
    usual_rank: ClassVar[int] = 8
    """Default rank of LoRA on a base that is wide enough."""

    max_seq_length: int

    @classmethod
    def key(cls, name: str) -> str:
        """The dotted key of a field in the recipe."""
        return f"{cls.toml}.{name}"

    @classmethod
    def key_names(cls) -> tuple[str, ...]:
        """Keys of the TOML table."""
        return tuple(name for name in cls.model_fields if name != "table")

    @property
    def writes_text(self) -> bool:
        """True if the model generates text."""
        return self.answers == "text"

    @property
    def judges_answers(self) -> bool:
        """True if an evaluation row is answered right or wrong; False for scores, which are near or far."""
        return True

    @property
    def rendering(self) -> Rendering:
        """Rendering of conversations; the default for objectives without such keys."""
        return Rendering()

    @property
    def packs(self) -> bool:
        """True if short rows are packed into rows of `max_seq_length`."""
        return False

    @property
    def compares_rows(self) -> bool:
        """True if the loss of a row depends on the others of its batch: two rows or more, drawn at random."""
        return False

    @property
    def adds_up(self) -> bool | str:
        """True if the loss of a batch is the sum or the mean of those of its parts; otherwise the reason why not."""
        return "the loss of a row depends on the others of its batch" if self.compares_rows else True

    @property
    def completion_length(self) -> int:
        """Tokens of `max_seq_length` that are kept free for a generated completion."""
        return 0

    @property
    def group_size(self) -> int:
        """Sequences of a batch that belong together; the batch has to be a multiple of it."""
        return 1

    @property
    def uses_vllm(self) -> bool:
        """True if vLLM generates completions."""
        return False

    @property
    def eval_group_size(self) -> int:
        """The same for a batch of an evaluation."""
        return 1

    @property
    def usual_batch(self) -> int:
        """Default of the sequences in an optimizer step."""
        return 16

    @property
    def rows_for_a_step(self) -> int:
        """Rows that are enough for one step by default, and for the checks before it."""
        return 8

    @property
    def reward_functions(self) -> Sequence[RewardFunction]:
        """Reward functions that judge completions."""
        return ()

    def micro_batches(self, rows: int, at_once: int, accumulation: int, drops_last: bool) -> int:
        """Micro-batches of an epoch.

        Args:
            rows: number of training rows.
            at_once: sequences of a micro-batch in all processes.
            accumulation: micro-batches of an optimizer step.
            drops_last: True if an incomplete last micro-batch is dropped.
        """
        del accumulation
        return rows // at_once if drops_last else math.ceil(rows / at_once)

    @property
    def refers_once(self) -> bool:
        """True if the log-probabilities of the reference are computed before training, for all rows."""
        return False

    @property
    def noise(self) -> float:
        """Scale of the noise on embeddings in training, drawn separately in each process; 0 for none."""
        return 0.0

    @classmethod
    def rate(cls, width: int) -> float:
        """Peak learning rate of LoRA for a base with a `hidden_size` of `width`."""
        raise NotImplementedError

    @classmethod
    def usual_rate(cls, typical: float, width: int | None) -> float:
        """Default of the peak learning rate.

        Args:
            typical: learning rate of the method for text on a 7B base.
            width: `hidden_size` of the base; None if not yet known.

        Returns:
            The rate for the width, rounded to one digit, for methods that train at LoRA's rates; otherwise `typical`.
        """
        if typical != LORA_RATE or not width:
            return typical
        return float(f"{min(max(cls.rate(width), _LOWEST_RATE), _HIGHEST_RATE):.0e}")

    @classmethod
    def rank_for(cls, width: int | None) -> int:
        """Default rank of LoRA: the usual one, halved until it is at most a quarter of the width.

        Args:
            width: `hidden_size` of the base; None if not yet known.
        """
        rank = cls.usual_rank
        while width and rank > max(width // 4, _LEAST_RANK):
            rank //= 2
        return rank

    def conflicts(self) -> Iterator[Conflict]:
        """Keys of this table that cannot be combined."""
        yield from ()

    def lost_in_a_stream(self) -> Iterator[tuple[str, str, str]]:
        """Settings that need all rows at once, so that a stream is refused: dotted key, reason and remedy."""
        yield from ()

    def watches(self) -> Sequence[Watch]:
        """New watches of the logged rows of a run, which warn of a training that goes wrong."""
        return ()

    def label_notes(self, _desirable: int, _undesirable: int) -> Iterator[str]:
        """Notes on the numbers of desirable and undesirable answers, for objectives with labelled answers."""
        yield from ()

    @classmethod
    def starter_rows(cls, asked: str, answered: str) -> Sequence[Mapping[str, Any]]:
        """A few example rows for a new project. Templates name the columns `asked` and `answered`."""
        raise NotImplementedError

    # The trainer. Code of higher rooms that it needs is passed in.

    library: ClassVar[str]
    """Library of the trainer, by its name in messages."""
    upstream: ClassVar[str]
    """Dotted name of the library's trainer. One of `trl.experimental` may move or go in any release of TRL."""

    def config_class(self) -> Any:
        """Class of the training arguments."""
        raise NotImplementedError

    def arguments(self, row_parts: int) -> dict[str, Any]:
        """Training arguments in addition to those of every run; `row_parts` processes share each row."""
        raise NotImplementedError

    def trainer_class(self, counted: Counted) -> Any:
        """Class of the trainer, derived from the library's with `counted`."""
        raise NotImplementedError

    def trainer_kwargs(self, model: Any, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> dict[str, Any]:
        """Arguments of the trainer class in addition to model, rows and tokenizer."""
        raise NotImplementedError

    def complete(self, trainer: Any, labels: Sequence[str], rows: datasets.Dataset) -> None:
        """Set further attributes of a trainer after it is created."""
