"""What every PEFT method answers: the questions that the rest of lorans asks of `[peft]`, with the usual answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from lora_ns.methods.capabilities import Capabilities
from lora_ns.table import Conflict, Extra, Fraction, Name, NonNegativeInt, PositiveFloat, PositiveInt, Refusal, Table

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback

ModuleNames = tuple[Name, ...]

Shapes = Sequence[tuple[int, int]]
"""Rows and columns of the weights that are adapted."""


Rank = Annotated[PositiveInt, Field(description="Rank of the update.")]


InputDropout = Annotated[Fraction, Field(description="Dropout on the input of the adapter.")]


AdapterDropout = Annotated[Fraction, Field(description="Share of the adapters that is left out in a step.")]


Scale = Annotated[PositiveFloat, Field(description="The update is multiplied by this.")]


PACKED_WEIGHTS = "it computes with the base weights themselves, which are packed in a few bits"
"""Why a method does not train over a quantised base."""


CHANGED_IN_PLACE = "it adds to what such a layer gives in place, where autograd needs the old values"
"""Why a method does not train over quantised layers with biases."""


@dataclass(frozen=True)
class Divisor:
    """A key whose value has to divide the sides of every layer that is adapted."""

    key: str
    sides: Literal["input", "output", "both"]
    most: int
    """The largest value that `auto` takes."""
    even: bool = False
    """Whether the value has to be even."""


@dataclass(frozen=True)
class Names:
    """A key that names parts of the model, each of which has to be there."""

    key: str
    of: Literal["module", "parameter", "adapted layer"]
    """The parts that it names."""
    are_patterns: bool = False
    """Whether a name may be a pattern."""


@dataclass(frozen=True)
class TokenRows:
    """A key with tokens whose rows are trained."""

    key: str
    beside_layers: bool
    """Whether layers are adapted as well, and for text the rows of the head; otherwise the embeddings' rows alone."""


@dataclass(frozen=True)
class Factors:
    """Two factors of low rank for each layer, which together are as many numbers as `rank` rows and columns of it."""

    key: str
    """The key of the rank."""
    rank: int
    alpha: float | None = None
    """`lora_alpha`, if the scale of the update is LoRA's."""
    is_stabilised: bool = False
    """Whether `alpha` is divided by the root of the rank, not by the rank."""


@dataclass(frozen=True)
class Start:
    """An initialisation of LoRA's factors that needs the base's weights or training rows, computed before the run."""

    name: str
    """Its PEFT name."""
    reads_rows: bool
    """Whether it looks at training rows."""
    moves_base: bool
    """Whether it takes off the base weights what the factors begin with."""
    samples: int
    """Training rows that it looks at."""
    rho: float
    """How many times the rank it may give to a layer, of those that move ranks."""
    kwargs: Mapping[str, Any]
    """Arguments of the method's PEFT configuration."""


@dataclass(frozen=True)
class StartMemory:
    """What computing the start of an adapter takes beside the weights, before there is an optimizer."""

    size: int = 0
    has_backward_pass: bool = False
    """Whether it keeps activations as a step does."""


@dataclass(frozen=True)
class Rest:
    """What the rules of a method read of the rest of the recipe."""

    quantization: str
    """`quantization.method`."""
    bits: int | None
    """Bits of a weight of the base, if it is quantised."""
    has_norms: bool
    """Whether PEFT unpacks the norms of the base's weights."""
    adds_tokens: bool
    """Whether `model.add_tokens` names some."""
    names_optimizer: bool
    """Whether the recipe itself gives `training.optim`."""


OwnRule = Callable[[Any, Rest], Conflict | None]
"""A rule between the keys of one method, or between them and the rest of a recipe."""


class PeftMethod(Table):
    """What all methods share."""

    config_class: ClassVar[str]
    """Name of the configuration class in `peft`."""
    config_file: ClassVar[str]
    """The file inside `peft` that defines it."""
    parents: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Files and names of the configuration classes that `config_class` is built on, beside PEFT's common ones."""
    left_out: ClassVar[frozenset[str]] = frozenset({"method", "extra"})
    """Keys that are no fields of the PEFT configuration."""
    capabilities: ClassVar[Capabilities]
    advice: ClassVar[str]
    """When to take this method, in one line, with its paper."""
    rules: ClassVar[tuple[OwnRule, ...]] = ()
    """Its own rules; the tests have a recipe that breaks each."""
    divisors: ClassVar[tuple[Divisor, ...]] = ()
    """Keys that have to fit the layers."""
    names: ClassVar[tuple[Names, ...]] = ()
    """Keys that name parts of the model, beside `target_modules`."""
    sizes: ClassVar[frozenset[str]] = frozenset()
    """Fields of the PEFT configuration that tensors are as large as, beside the rank `r`."""
    rank_key: ClassVar[str] = "r"
    """The key of the rank, if it has one."""
    token_rows: ClassVar[TokenRows | None] = None
    """Where it trains the rows of single tokens."""
    adapts_norms: ClassVar[bool] = False
    """Whether it takes all norms of a family of models that PEFT has no targets for."""
    least_steps: ClassVar[int] = 1
    """Steps of the shortest run."""

    extra: Extra = Field(default={})
    """Further fields of the method's PEFT configuration, by their PEFT names; checked against the installed version."""

    @classmethod
    def tag(cls) -> str:
        """The name that a recipe calls it by."""
        name: str = get_args(cls.model_fields["method"].annotation)[0]
        return name

    # Its PEFT configuration

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of the PEFT configuration class; targets that need the model are resolved by the engine."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name not in self.left_out}
        return {**{name: _plain(value) for name, value in own.items()}, **self.extra}

    def run_kwargs(self, steps: int, folder: str, gguf_file: str | None) -> dict[str, Any]:
        """Arguments that follow from the run.

        Args:
            steps: how long it is.
            folder: where the tokenizer is.
            gguf_file: the file that has the tokenizer, if the folder itself has none.

        Raises:
            ValueError: if the run is too short.
        """
        return {}

    def check_layers(self, layers: Mapping[str, Any]) -> None:
        """Refuse modules of a model, by their names, that PEFT would not refuse. Raises `PlanError`."""

    # Its size

    @property
    def targets(self) -> Literal["all-linear"] | ModuleNames:
        """Layers that it changes, as far as their weights tell its size: all linear ones, or ends of names."""
        return ()

    @property
    def virtual_length(self) -> int:
        """Positions that it puts before every row."""
        return 0

    @property
    def factors(self) -> Factors | None:
        """Its factors, if it is a LoRA in what is known of ranks and scales."""
        return None

    @property
    def open_rank_keys(self) -> tuple[str, ...]:
        """Keys that leave the rank to task and base where a recipe has none of them; empty if it has a default."""
        return ()

    def with_rank(self, rank: int, alpha: float) -> PeftMethod:
        """The method with another rank and scale, if a recipe can leave them open."""
        return self

    def count_parameters(self, shapes: Shapes, hidden_size: int, layers: int) -> int | None:
        """Parameters of the adapter; None where sizes do not tell.

        Args:
            shapes: of the weights that are adapted.
            hidden_size: width of the base.
            layers: of the base.
        """
        return None

    # Its start

    @property
    def start(self) -> Start | None:
        """Its start, if that is computed once the trainer is there; the adapter is put onto the base plain."""
        return None

    @property
    def starts_later(self) -> bool:
        """Whether its start is computed once the trainer is there."""
        return self.start is not None

    @property
    def reads_rows(self) -> bool:
        """Whether its start looks at the training rows."""
        return self.start is not None and self.start.reads_rows

    @property
    def moves_base(self) -> bool:
        """Whether its start takes off the base weights what the adapter begins with."""
        return self.start is not None and self.start.moves_base

    def plainly_started(self) -> PeftMethod:
        """The method without a start that is computed from the base's weights: for a base that has none."""
        return self

    def start_memory(self, shapes: Shapes, size: int, on_cpu: bool) -> StartMemory:
        """What PEFT holds while it computes the start.

        Args:
            shapes: of the weights that are adapted.
            size: bytes of one of their numbers.
            on_cpu: whether what PEFT moves to the host's memory stays in the same one.
        """
        return StartMemory()

    # Rows of single tokens

    @property
    def rows_beside_layers(self) -> tuple[int, ...]:
        """Tokens whose rows are trained beside the layers."""
        return tuple(getattr(self, self.token_rows.key)) if self.token_rows and self.token_rows.beside_layers else ()

    def with_rows(self, tokens: Sequence[int]) -> PeftMethod:
        """The method with rows for added tokens, which a rule leaves to methods that train them beside the layers."""
        if not tokens or not self.token_rows or not self.token_rows.beside_layers:
            return self
        return self.model_copy(update={self.token_rows.key: (*self.rows_beside_layers, *tokens)})

    # Its training

    def choose_optimizer(self, trainer: Any) -> None:
        """Give a trainer an optimizer of the method's own: as `optimizer`, or what makes it as `own_optimizer`."""

    def callbacks(self) -> list[TrainerCallback]:
        """What happens at the steps of its training."""
        return []

    def regularization(self, model: Any) -> Tensor | None:
        """What it adds to the loss of a training step, weighted."""
        return None

    # What it does not go with, beside its rules and capabilities

    def refused_together(self, strategy: str) -> Iterable[Refusal]:
        """What several processes do not train, by their `strategy`."""
        can = self.capabilities.ddp
        return (Refusal("peft.method", can is not True, f"{self.tag()} trains in one process: {can}"),)

    def refused_divided(self, strategy: str, bits: int | None) -> Iterable[Refusal]:
        """What needs whole weights, by the `strategy` that divides them and the bits of a quantised base."""
        can = self.capabilities.fsdp if strategy == "fsdp" else self.capabilities.zero3
        return (Refusal("peft.method", can is not True, f"{self.tag()} needs whole weights: {can}"),)

    def refused_on(self, device: str, quantization: str) -> Iterable[Refusal]:
        """What does not train on a device over a base that is quantised so."""
        return ()


class TargetedMethod(PeftMethod):
    """A method that changes some layers."""

    target_modules: Literal["all-linear"] | ModuleNames = "all-linear"
    """Layers to adapt: `all-linear` (every linear layer that reads text but the head and routers), or ends of names."""
    modules_to_save: ModuleNames = ()
    """Modules trained and saved whole beside the adapter; a classification head is always among them."""

    @property
    def targets(self) -> Literal["all-linear"] | ModuleNames:
        """As the recipe names them."""
        return self.target_modules


class LayeredMethod(TargetedMethod):
    """A method that can leave some of the model's layers alone."""

    layers_to_transform: tuple[NonNegativeInt, ...] = ()
    """Numbers of the layers to adapt; empty for all."""


def _plain(value: Any) -> Any:
    """A value as PEFT takes it: lists for tuples, nothing for an empty list or for what PEFT or the engine chooses."""
    if value == "auto":
        return None
    return (list(value) or None) if isinstance(value, tuple) else value
