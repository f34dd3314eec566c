"""Advice for a name of another tool: the keys of a recipe to write instead, with their values, and a remark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lora_ns.errors import plain_name
from lora_ns.objectives import OBJECTIVES

OWN: Final = object()
"""Stands for the user's own value in `Advice.keys`."""


@dataclass(frozen=True)
class Advice:
    """A replacement for a foreign name."""

    keys: Mapping[tuple[str, ...], Any] = field(default_factory=dict)
    """Values by dotted keys; of several keys, the first that the recipe's method and objective have. `OWN` as a value
    is the user's own."""
    remark: str = ""
    """An explanation to show after the keys, or instead of them."""
    values: Mapping[str, Advice] = field(default_factory=dict)
    """Advice for some values of a foreign key, by their plain spelling; it comes before the rest."""

    def on(self, value: Any) -> Advice:
        """Return the advice for a value: a switch that is off needs no key."""
        if (found := self.values.get(plain_name(value))) is not None:
            return found
        return REMOVE if value is False and OWN not in self.keys.values() and self.keys else self


def to_key(*keys: str, remark: str = "", values: Mapping[Any, Advice] | None = None) -> Advice:
    """Advise a key of another name, with the same values but for those that are listed."""
    return Advice({keys: OWN}, remark, {plain_name(value): advice for value, advice in (values or {}).items()})


def write(remark: str = "", /, values: Mapping[Any, Advice] | None = None, **settings: Any) -> Advice:
    """Advise keys with fixed values, written as `table__key=value`."""
    keys: dict[tuple[str, ...], Any] = {(name.replace("__", "."),): value for name, value in settings.items()}
    return Advice(keys, remark, {plain_name(value): advice for value, advice in (values or {}).items()})


def objective_key(name: str, remark: str = "") -> Advice:
    """Advise a key of the same name in each table of an objective that has it."""
    keys = dict.fromkeys(kind.key(name) for kind in OBJECTIVES.values() if name in kind.key_names())
    return to_key(*keys, remark=remark)


def each(names: str, advice: Advice) -> dict[str, Advice]:
    """Give the same advice for several names, which are separated by spaces."""
    return dict.fromkeys(names.split(), advice)


def no_key(remark: str, values: Mapping[Any, Advice] | None = None) -> Advice:
    """Advise without a key, because none has this effect."""
    return Advice({}, remark, {plain_name(value): advice for value, advice in (values or {}).items()})


REMOVE: Final = no_key("remove it: this is what happens anyway")
"""Advice for a key whose effect lorans always has."""
