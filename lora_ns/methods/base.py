"""What all PEFT methods share: how their keys become arguments, and what they can be combined with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from lora_ns.methods.capabilities import Capabilities
from lora_ns.table import Extra, Name, NonNegativeInt, Table

ModuleNames = tuple[Name, ...]


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


class PeftMethod(Table):
    """What all methods share."""

    config_class: ClassVar[str]
    """Name of the configuration class in `peft`."""
    config_file: ClassVar[str]
    """The file inside `peft` that defines it."""
    capabilities: ClassVar[Capabilities]
    advice: ClassVar[str]
    """When to take this method, in one line, with its paper."""
    left_out: ClassVar[frozenset[str]] = frozenset({"method", "extra"})
    """Keys that are no fields of the PEFT configuration."""
    divisors: ClassVar[tuple[Divisor, ...]] = ()
    """Keys that have to fit the layers."""
    parents: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Files and names of the configuration classes that `config_class` is built on, beside PEFT's common ones."""

    extra: Extra = Field(default={})
    """Further fields of the method's PEFT configuration, by their PEFT names; checked against the installed version."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of the PEFT configuration class; targets that need the model are resolved by the engine."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name not in self.left_out}
        return {**{name: _plain(value) for name, value in own.items()}, **self.extra}


class TargetedMethod(PeftMethod):
    """A method that changes some layers."""

    target_modules: Literal["all-linear"] | ModuleNames = "all-linear"
    """Layers to adapt: `all-linear` (every linear layer that reads text but the head and routers), or ends of names."""
    modules_to_save: ModuleNames = ()
    """Modules trained and saved whole beside the adapter; a classification head is always among them."""


class LayeredMethod(TargetedMethod):
    """A method that can leave some of the model's layers alone."""

    layers_to_transform: tuple[NonNegativeInt, ...] = ()
    """Numbers of the layers to adapt; empty for all."""


def _plain(value: Any) -> Any:
    """A value as PEFT takes it: lists for tuples, nothing for an empty list or for what PEFT or the engine chooses."""
    if value == "auto":
        return None
    return (list(value) or None) if isinstance(value, tuple) else value
