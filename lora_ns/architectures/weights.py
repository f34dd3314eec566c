"""The weights of a model as values, and the list in which a family collects them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["embedding", "head", "linear", "router", "expert", "norm", "bias", "other"]
"""What a weight is for. `linear` is a matrix of the backbone, `head` one after it, `expert` a stack of matrices."""


@dataclass(frozen=True)
class Weight:
    """A weight of a model, by its name in transformers."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    tied_to: str = ""
    """Name of the weight that it shares its memory with, if that comes first."""
    is_transposed: bool = False
    """True for a matrix of (inputs, outputs), as the layers of GPT-2 store it."""
    has_own_class: bool = False
    """True for a matrix of a class of its family, which is a kind of linear layer."""

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def module(self) -> str:
        """Name of the module that owns it."""
        return self.name.rpartition(".")[0]


class Settings:
    """The settings of a model, with the defaults of its family for those that its `config.json` leaves out."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Keep both."""
        self._config, self._defaults = config, defaults

    def __call__(self, *names: str, default: int | None = None) -> int:
        """Return a number by its possible names.

        Raises:
            ValueError: if there is none, or it is negative.
        """
        for name in names:
            value = self._config.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                if value < 0:
                    raise ValueError(f"`{name}` is {value}")
                return value
        found = next((self._defaults[name] for name in names if self._defaults.get(name) is not None), default)
        if found is None:
            raise ValueError(f"`{names[0]}` is missing")
        return int(found)

    def is_set(self, name: str, default: bool = False) -> bool:
        """Return a switch."""
        value = self._config.get(name)
        return bool(self._defaults.get(name, default) if value is None else value)

    def get(self, name: str) -> Any:
        """Return any other setting; None if it is in neither."""
        value = self._config.get(name)
        return self._defaults.get(name) if value is None else value

    def is_null(self, name: str) -> bool:
        """True if the `config.json` sets a value to null."""
        return name in self._config and self._config[name] is None

    def nested(self, name: str, defaults: Mapping[str, Any]) -> Settings:
        """Return the settings of a part, such as the vision tower."""
        value = self._config.get(name)
        return Settings(value if isinstance(value, Mapping) else {}, defaults)


@dataclass
class Weights:
    """The list in which a family collects the weights of a model."""

    found: list[Weight] = field(default_factory=list)

    def add(self, name: str, shape: Sequence[int], kind: Kind) -> None:
        """Add a weight that is no part of a usual layer."""
        self.found.append(Weight(name, tuple(shape), kind))

    def linear(
        self,
        name: str,
        inputs: int,
        outputs: int,
        bias: bool = False,
        kind: Kind = "linear",
        tied_to: str = "",
        transposed: bool = False,
        own_class: bool = False,
    ) -> None:
        """Add a linear layer."""
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        self.found.append(Weight(f"{name}.weight", shape, kind, tied_to and f"{tied_to}.weight", transposed, own_class))
        if bias:
            self.found.append(Weight(f"{name}.bias", (outputs,), "bias"))

    def embedding(self, name: str, rows: int, width: int) -> None:
        """Add an embedding."""
        self.found.append(Weight(f"{name}.weight", (rows, width), "embedding"))

    def norm(self, name: str, width: int, bias: bool = False) -> None:
        """Add a norm."""
        self.found.append(Weight(f"{name}.weight", (width,), "norm"))
        if bias:
            self.found.append(Weight(f"{name}.bias", (width,), "norm"))

    def layer_norms(self, width: int, *names: str) -> None:
        """Add norms with weights and biases."""
        for name in names:
            self.norm(name, width, bias=True)

    def __iter__(self) -> Iterator[Weight]:
        """Iterate over the weights in the order in which they were added."""
        return iter(self.found)
