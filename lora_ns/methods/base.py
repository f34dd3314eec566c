"""The base classes of PEFT methods: the hooks that the rest of lorans calls, with their defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from lora_ns.methods.capabilities import Capabilities
from lora_ns.methods.tensors import Adapted, Layer, Shape, count, fitting_divisor
from lora_ns.table import Conflict, Extra, Fraction, Name, NonNegativeInt, PositiveFloat, PositiveInt, Refusal, Table

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback

ModuleNames = tuple[Name, ...]

Shapes = Sequence[tuple[int, int]]
"""Shapes of the adapted weights, as (rows, columns)."""


Rank = Annotated[PositiveInt, Field(description="Rank of the update.")]


InputDropout = Annotated[Fraction, Field(description="Dropout on the input of the adapter.")]


AdapterDropout = Annotated[Fraction, Field(description="Probability of skipping an adapter in a step.")]


Scale = Annotated[PositiveFloat, Field(description="Factor of the update.")]


PACKED_WEIGHTS = "it computes with the base weights themselves, which quantisation packs"
"""Reason why a method does not train over a quantised base."""


CHANGED_IN_PLACE = "it changes the output of such a layer in place, and autograd needs the old values"
"""Reason why a method does not train over quantised layers with biases."""


@dataclass(frozen=True)
class Divisor:
    """A key whose value must divide the sides of every adapted layer."""

    key: str
    sides: Literal["input", "output", "both"]
    most: int
    """Largest value that `auto` chooses."""
    even: bool = False
    """Require an even value."""


@dataclass(frozen=True)
class Names:
    """A key that names parts of the model, all of which must exist."""

    key: str
    of: Literal["module", "parameter", "adapted layer"]
    """Kind of the named parts."""
    are_patterns: bool = False
    """Allow patterns as names."""


@dataclass(frozen=True)
class TokenRows:
    """A key with token ids whose embedding rows are trained."""

    key: str
    beside_layers: bool
    """True if the method also adapts layers and, for text, trains the rows of the head; False for embeddings only."""


@dataclass(frozen=True)
class Factors:
    """Two low-rank factors for each layer, with `rank * (rows + columns)` parameters."""

    key: str
    """Key of the rank."""
    rank: int
    alpha: float | None = None
    """`lora_alpha`, if the update is scaled as in LoRA."""
    is_stabilised: bool = False
    """Divide `alpha` by the square root of the rank instead of the rank."""


@dataclass(frozen=True)
class Start:
    """An initialisation of LoRA's factors from base weights or training rows, computed before the run."""

    name: str
    """Its PEFT name."""
    reads_rows: bool
    """True if it uses training rows."""
    moves_base: bool
    """True if it subtracts the initial update from the base weights."""
    samples: int
    """Number of training rows to use."""
    rho: float
    """Maximum rank of a layer as a multiple of the configured rank, if it redistributes ranks."""
    kwargs: Mapping[str, Any]
    """Arguments of the method's PEFT configuration."""


@dataclass(frozen=True)
class StartMemory:
    """Memory to compute an initialisation, in addition to the weights and before the optimizer exists."""

    size: int = 0
    """Bytes, without activations."""
    has_backward_pass: bool = False
    """True if it also keeps activations, as a training step does."""


@dataclass(frozen=True)
class Rest:
    """The settings outside `[peft]` that the rules of a method read."""

    quantization: str
    """`quantization.method`."""
    bits: int | None
    """Bits per weight of a quantised base, otherwise None."""
    has_norms: bool
    """True if PEFT can compute the norms of the base weights, as DoRA needs."""
    adds_tokens: bool
    """True if `model.add_tokens` is not empty."""
    names_optimizer: bool
    """True if the recipe sets `training.optim`."""


_RESIZING = frozenset(
    {"boft_block_num", "config_A_B", "config_C", "config_D_E", "layer_replication", "lora_bias", "prefix_projection"}
    | {"proportional_parameters", "psoft_mag_a", "psoft_mag_b", "r", "target_modules_bd_a", "use_bdlora", "use_qalora"}
)
"""Fields of PEFT configurations without a key of their own that change the size of an adapter."""


OwnRule = Callable[[Any, Rest], Conflict | None]
"""A rule between the keys of a method, or between them and the rest of a recipe."""


class PeftMethod(Table):
    """Base class of all PEFT methods."""

    config_class: ClassVar[str]
    """Name of its configuration class in `peft`."""
    config_file: ClassVar[str]
    """File inside `peft` that defines the configuration class."""
    parents: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Files and names of the base classes of `config_class`, without those that all PEFT configurations share."""
    left_out: ClassVar[frozenset[str]] = frozenset({"method", "extra"})
    """Keys that are not fields of the PEFT configuration."""
    capabilities: ClassVar[Capabilities]
    advice: ClassVar[str]
    """Purpose of the method in one line, with its paper."""
    rules: ClassVar[tuple[OwnRule, ...]] = ()
    """Rules of the method. The tests have a recipe that breaks each."""
    divisors: ClassVar[tuple[Divisor, ...]] = ()
    """Keys whose values must divide the sides of layers."""
    names: ClassVar[tuple[Names, ...]] = ()
    """Keys other than `target_modules` that name parts of the model."""
    sizes: ClassVar[frozenset[str]] = frozenset()
    """Fields of the PEFT configuration other than the rank `r` that determine the size of tensors."""
    rank_key: ClassVar[str] = "r"
    """Key of the rank, if it has one."""
    token_rows: ClassVar[TokenRows | None] = None
    """Key for training the rows of single tokens, if it has one."""
    adapts_norms: ClassVar[bool] = False
    """Target all norms if PEFT has no default targets for the model family."""
    least_steps: ClassVar[int] = 1
    """Minimum number of steps of a run."""

    extra: Extra = Field(default={})
    """Further fields of the method's PEFT configuration, by their PEFT names; checked against the installed version."""

    @classmethod
    def tag(cls) -> str:
        """The name of the method in a recipe."""
        name: str = get_args(cls.model_fields["method"].annotation)[0]
        return name

    # PEFT configuration

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of the PEFT configuration class. Targets that depend on the model are resolved later."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name not in self.left_out}
        return {**{name: _plain(value) for name, value in own.items()}, **self.extra}

    def run_kwargs(self, steps: int, folder: str, gguf_file: str | None) -> dict[str, Any]:
        """Arguments of the PEFT configuration class that depend on the run.

        Args:
            steps: number of training steps.
            folder: folder of the tokenizer.
            gguf_file: GGUF file that contains the tokenizer, if the folder has none.

        Raises:
            ValueError: if the run is too short.
        """
        return {}

    def check_layers(self, layers: Mapping[str, Any]) -> None:
        """Refuse unsuitable target modules, given by name, that PEFT would accept. Raises `PlanError`."""

    # Size

    @property
    def targets(self) -> Literal["all-linear"] | ModuleNames:
        """Layers whose shapes determine the adapter's size: all linear ones, or suffixes of names."""
        return ()

    @property
    def virtual_length(self) -> int:
        """Number of positions that it prepends to every row."""
        return 0

    @property
    def factors(self) -> Factors | None:
        """Rank and scale of the factors, if the known rules for LoRA's rank and scale apply."""
        return None

    @property
    def open_rank_keys(self) -> tuple[str, ...]:
        """Keys whose absence lets lorans choose rank and scale by task and base; empty for a fixed default."""
        return ()

    def with_rank(self, rank: int, alpha: float) -> PeftMethod:
        """A copy with another rank and scale, if a recipe can leave them open."""
        return self

    def targets_in(self, family: str) -> Literal["all-linear"] | ModuleNames | None:
        """Layers that it adapts in a model family; None if that is unknown without the model.

        Args:
            family: `model_type` of the base.
        """
        return self.targets

    def trained_tensors(self, adapted: Adapted) -> list[Shape] | None:
        """Shapes of its trained tensors; None if the layers do not determine them.

        Args:
            adapted: layers that it adapts, and sizes of the base.
        """
        found = list[Shape]()
        for layer in adapted.layers:
            if (of_layer := self.trained_in(layer)) is None:
                return None
            found += of_layer
        return found

    def trained_in(self, layer: Layer) -> list[Shape] | None:
        """Shapes of the trained tensors of a layer, for methods that share none; None if unknown."""
        return None

    def frozen_bytes(self, adapted: Adapted) -> int:
        """Bytes that it holds besides trained tensors, such as random projections."""
        return sum(self.frozen_bytes_in(layer) for layer in adapted.layers)

    def frozen_bytes_in(self, layer: Layer) -> int:
        """Bytes that it holds for a layer besides trained tensors."""
        return 0

    def count_parameters(self, adapted: Adapted) -> int | None:
        """Number of its trained parameters; None if the layers do not determine it, or `extra` may change it.

        Args:
            adapted: layers that it adapts, and sizes of the base.
        """
        shapes = None if _RESIZING.intersection(self.extra) else self.trained_tensors(adapted)
        return None if shapes is None else count(shapes) or None

    def fitting(self, adapted: Adapted, value: int | None) -> int | None:
        """The value of its key that must divide the sides of layers, as it is chosen for a model.

        Args:
            adapted: layers that it adapts.
            value: the recipe's; None to choose one.
        """
        (divisor,) = self.divisors
        return fitting_divisor(adapted.sides(divisor.sides), divisor, value)

    # Initialisation

    @property
    def start(self) -> Start | None:
        """An initialisation to compute after the trainer is built. The adapter is first added with the default one."""
        return None

    @property
    def starts_later(self) -> bool:
        """True if its initialisation is computed after the trainer is built."""
        return self.start is not None

    @property
    def reads_rows(self) -> bool:
        """True if its initialisation uses training rows."""
        return self.start is not None and self.start.reads_rows

    @property
    def reads_tokens(self) -> bool:
        """True if its initialisation uses the tokens of training rows, not only the gradient of the trainer's loss."""
        return self.reads_rows

    @property
    def moves_base(self) -> bool:
        """True if its initialisation subtracts the initial update from the base weights."""
        return self.start is not None and self.start.moves_base

    @property
    def keeps_base(self) -> bool:
        """True if the base answers as it did alone as soon as the adapter is switched off."""
        return not self.moves_base

    def plainly_started(self) -> PeftMethod:
        """A copy with an initialisation that does not read base weights, for a base without weights."""
        return self

    def start_memory(self, shapes: Shapes, size: int, on_cpu: bool) -> StartMemory:
        """Memory that PEFT needs to compute the initialisation.

        Args:
            shapes: shapes of the adapted weights.
            size: bytes per weight.
            on_cpu: True if the model is in host memory, to which PEFT moves intermediate results.
        """
        return StartMemory()

    # Rows of single tokens

    @property
    def rows_beside_layers(self) -> tuple[int, ...]:
        """Ids of the tokens whose rows are trained in addition to the layers."""
        return tuple(getattr(self, self.token_rows.key)) if self.token_rows and self.token_rows.beside_layers else ()

    def with_rows(self, tokens: Sequence[int]) -> PeftMethod:
        """A copy that also trains the rows of added tokens. A rule refuses other methods with added tokens."""
        if not tokens or not self.token_rows or not self.token_rows.beside_layers:
            return self
        return self.model_copy(update={self.token_rows.key: (*self.rows_beside_layers, *tokens)})

    # Training

    def choose_optimizer(self, trainer: Any) -> None:
        """Set the method's own optimizer, if it has one, as the trainer's `optimizer` or factory `own_optimizer`."""

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks for the trainer."""
        return []

    def regularization(self, model: Any) -> Tensor | None:
        """A weighted term to add to the loss of a training step."""
        return None

    # Settings that it cannot be combined with, in addition to its rules and capabilities

    def refused_together(self, strategy: str) -> Iterable[Refusal]:
        """Settings that do not train in several processes with a `strategy`."""
        can = self.capabilities.ddp
        return (Refusal("peft.method", can is not True, f"{self.tag()} trains in one process: {can}"),)

    def refused_divided(self, strategy: str, bits: int | None) -> Iterable[Refusal]:
        """Settings that do not train on sharded weights, by `strategy` and bits of a quantised base."""
        can = self.capabilities.fsdp if strategy == "fsdp" else self.capabilities.zero3
        return (Refusal("peft.method", can is not True, f"{self.tag()} needs whole weights: {can}"),)

    def refused_with_a_copy(self) -> Iterable[Refusal]:
        """Settings that do not train if a frozen copy of the adapter is added as the reference."""
        can = self.capabilities.copied
        return (Refusal("peft.method", can is not True, f"{self.tag()}: {can}", "write `lora`"),)

    def refused_on(self, device: str, quantization: str) -> Iterable[Refusal]:
        """Settings that do not train on a device over a base with this quantisation."""
        return ()


class TargetedMethod(PeftMethod):
    """A method that adapts modules of the model."""

    target_modules: Literal["all-linear"] | ModuleNames = "all-linear"
    """Layers to adapt: `all-linear` (the text model's linear layers except head and routers), or suffixes of names."""
    modules_to_save: ModuleNames = ()
    """Modules to train and save in full, in addition to the adapter. A classification head is always included."""

    @property
    def targets(self) -> Literal["all-linear"] | ModuleNames:
        """The target modules of the recipe."""
        return self.target_modules


class LayeredMethod(TargetedMethod):
    """A method that can be limited to some of the model's layers."""

    layers_to_transform: tuple[NonNegativeInt, ...] = ()
    """Indices of the layers to adapt; empty for all."""


def _plain(value: Any) -> Any:
    """Convert a value for PEFT: tuples to lists, `auto` and empty tuples to None."""
    if value == "auto":
        return None
    return (list(value) or None) if isinstance(value, tuple) else value
