"""The plan as a value: every derived number with its origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from lora_ns.plan.settled import Settled

T = TypeVar("T")


class Derived(BaseModel, Generic[T]):
    """A value with its origin and the reason for it."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    value: T
    origin: Literal["default", "recipe", "accelerate_config", "init_adapter", "--set", "computed"]
    why: str = ""


def computed(value: T, why: str = "") -> Derived[T]:
    """Return a value that follows from others."""
    return Derived(value=value, origin="computed", why=why)


NEW_ADAPTER = "new adapter"
"""Value of `start` for an adapter that is not that of an earlier run."""


class Plan(BaseModel):
    """Every derived value of a run; None if it depends on rows that are not read yet, or on a missing base."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    device: Derived[str]
    strategy: Derived[str] = Derived[str](value="none", origin="default")
    """Distributed strategy."""
    world_size: Derived[int] = Derived[int](value=1, origin="default")
    """Number of processes."""
    objective: Derived[str | None] = Derived[str | None](value=None, origin="default")
    """Training objective, by the name of its table; None in runs of older versions."""
    start: Derived[str] = Derived[str](value=NEW_ADAPTER, origin="default")
    """The adapter that training starts from: a new one, or that of an earlier run."""
    reference: Derived[str] = Derived[str](value="none", origin="default")
    """The model that the objective compares with."""
    dtype: Derived[str]
    attn_implementation: Derived[str]
    format: Derived[str | None] = Derived[str | None](value=None, origin="computed")
    """Row format."""
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
    """None for methods without a rank, and in runs of older versions, whose LoRA had a fixed default."""
    base_parameters: Derived[int | None]
    adapter_parameters: Derived[int | None]
    memory_bytes: Derived[int | None]
    tokens_per_second: Derived[int | None] = Derived[int | None](value=None, origin="computed")
    """Tokens that all processes train on in a second, as assumed from the rate of the GPU."""
    duration_seconds: Derived[int | None] = Derived[int | None](value=None, origin="computed")
    energy_wh: Derived[int | None] = Derived[int | None](value=None, origin="computed")
    """Energy of the GPUs in watt-hours."""
    disk_bytes: Derived[int | None] = Derived[int | None](value=None, origin="computed")
    """Size of the run directory."""
    memory: dict[str, int] = {}
    """Bytes of each term of `memory_bytes`, by name; empty if it is not known, and in runs of older versions."""
    mapped_bytes: int = 0
    """Weight files that stay mapped beside it; the system takes their memory back when it needs it."""
    deepspeed: dict[str, Any] | None = None
    """The complete DeepSpeed configuration, if the run uses DeepSpeed."""
    notes: tuple[str, ...] = ()
    """Notes that the user should read before starting."""

    @model_validator(mode="after")
    def _counts(self) -> Plan:
        """Refuse numbers that cannot be counts: a plan is also read from a manifest, which may have been changed."""
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
"""Numbers that are divisors, or would leave nothing to train on."""


@dataclass(frozen=True)
class DataFacts:
    """Facts about the rows when a plan is made."""

    train_rows: int | None = None
    eval_rows: int | None = None
    longest: int | None = None
    """Tokens of the longest row; None before tokenisation."""
    why: str = ""
    """Origin of the number of training rows, such as `1,024 rows packed into 210`."""
    notes: tuple[str, ...] = ()
    format: str | None = None
    """Row format, such as `question-answer`."""
    format_why: str = ""
    """Evidence for the format, such as the columns."""
    eval_why: str = ""
    """Reason why the number of evaluation rows is unknown."""
    mean_length: float | None = None
    """Tokens of a row on average."""
    trained_share: float = 1.0
    """Part of the tokens that are in the loss; 1 before tokenisation."""


def written_value(settled: Settled, key: str, value: T) -> Derived[T]:
    """Return a value that the recipe sets or leaves at its default, with its origin."""
    origin: Any = settled.origin(key)
    return Derived(value=value, origin=origin)


def planned_objective(settled: Settled) -> Derived[str | None]:
    """Return the objective, with its origin and its upstream trainer."""
    objective, origin = settled.recipe.objective, settled.origin(settled.recipe.objective.toml)
    why = (type(objective).__doc__ or "").partition("\n")[0].removesuffix(".")
    return Derived[str | None].model_validate({"value": objective.table, "origin": origin, "why": why})


def planned_length(settled: Settled) -> Derived[int]:
    """Return the maximum length of a row in tokens, with its origin."""
    objective = settled.recipe.objective
    key, value = objective.key("max_seq_length"), objective.max_seq_length
    if value == type(objective).model_fields["max_seq_length"].default or settled.origin(key) != "default":
        return written_value(settled, key, value)
    return computed(value, "the maximum of the base")
