"""The plan as a value: each derived number with where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from lora_ns.plan.settled import Settled

T = TypeVar("T")


class Derived(BaseModel, Generic[T]):
    """A value and where it came from."""

    model_config = ConfigDict(frozen=True)

    value: T
    origin: Literal["default", "recipe", "accelerate_config", "--set", "computed"]
    why: str = ""


def computed(value: T, why: str = "") -> Derived[T]:
    """A value that follows from others."""
    return Derived(value=value, origin="computed", why=why)


class Plan(BaseModel):
    """Every derived value of a run; None where it depends on data or a base that is not here yet."""

    model_config = ConfigDict(frozen=True)

    device: Derived[str]
    strategy: Derived[str] = Derived[str](value="none", origin="default")
    """How the work is divided among processes."""
    world_size: Derived[int] = Derived[int](value=1, origin="default")
    """Processes that train together."""
    dtype: Derived[str]
    attn_implementation: Derived[str]
    format: Derived[str | None] = Derived[str | None](value=None, origin="computed")
    """How rows are read."""
    train_rows: Derived[int | None]
    eval_rows: Derived[int | None]
    max_seq_length: Derived[int]
    global_batch_size: Derived[int]
    per_device_train_batch_size: Derived[int]
    gradient_accumulation_steps: Derived[int]
    per_device_eval_batch_size: Derived[int]
    gradient_checkpointing: Derived[bool]
    steps_per_epoch: Derived[int | None]
    max_steps: Derived[int | None]
    warmup_steps: Derived[int | None]
    logging_steps: Derived[int | None]
    eval_steps: Derived[int | None]
    save_steps: Derived[int | None]
    learning_rate: Derived[float]
    rank: Derived[int | None] = Derived[int | None](value=None, origin="default")
    """None of methods without one, and in runs of versions whose LoRA had one default."""
    base_parameters: Derived[int | None]
    adapter_parameters: Derived[int | None]
    memory_bytes: Derived[int | None]
    deepspeed: dict[str, Any] | None = None
    """DeepSpeed's whole configuration, if it trains."""
    notes: tuple[str, ...] = ()
    """What the user should know before starting."""

    @model_validator(mode="after")
    def _counts(self) -> Plan:
        """Whole numbers are counts: a plan is read again from the manifest of a run, which may be anything."""
        for name, derived in self:
            least = 1 if name in _AT_LEAST_ONE else 0
            if isinstance(derived, Derived) and isinstance(derived.value, int) and derived.value < least:
                raise ValueError(f"`{name}` is {derived.value:,}")
        return self


_AT_LEAST_ONE = frozenset(
    {
        *("world_size", "max_seq_length", "global_batch_size", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "per_device_eval_batch_size", "logging_steps", "eval_steps", "save_steps"),
    }
)
"""What is divided by, or would leave nothing to train on."""


@dataclass(frozen=True)
class DataFacts:
    """What is known of the rows when a plan is made."""

    train_rows: int | None = None
    eval_rows: int | None = None
    longest: int | None = None
    """Tokens of the longest row; None before the rows were tokenised."""
    why: str = ""
    """Where the number of training rows comes from, such as `1,024 rows packed into 210`."""
    notes: tuple[str, ...] = ()
    format: str | None = None
    """How rows are read, such as `question-answer`."""
    format_why: str = ""
    """What shows it, such as the columns."""


def written_value(settled: Settled, key: str, value: T) -> Derived[T]:
    """A value that the recipe gives or leaves to its default, with where it came from."""
    origin: Any = settled.origin(key)
    return Derived(value=value, origin=origin)


def planned_length(settled: Settled) -> Derived[int]:
    """The longest row in tokens, with where that came from."""
    objective = settled.recipe.objective
    key, value = objective.key("max_seq_length"), objective.max_seq_length
    if value == type(objective).model_fields["max_seq_length"].default or settled.origin(key) != "default":
        return written_value(settled, key, value)
    return computed(value, "the base has no more positions")
