"""The parts of an adapted model that are merged one at a time: modules with parameters of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.merging.refusal import WholeModelError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn


@dataclass(frozen=True)
class Unit:
    """A module of the base that owns parameters."""

    name: str
    """Its name in the base."""
    module: Any

    @property
    def owner(self) -> nn.Module:
        """The module that holds the parameters of the base."""
        owner: nn.Module = self.module
        return owner

    def parameters(self) -> dict[str, tuple[nn.Module, str]]:
        """The parameters of the base by full name, each with its module and its name there."""
        return {
            ".".join(filter(None, (self.name, path, last))): (module, last)
            for path, module in self.owner.named_modules()
            for last, _ in module.named_parameters(recurse=False)
        }


class Plain(Unit):
    """A module without an adapter, with the modules inside it."""


class Adapted(Unit):
    """A layer with an adapter of PEFT."""

    @property
    def owner(self) -> nn.Module:
        """The layer inside the adapter's."""
        layer: nn.Module = self.module.get_base_layer()
        return layer

    def merge(self) -> None:
        """Merge the adapter into the layer in place, as `merge_and_unload` does. Nothing checks that it is finite."""
        self.module.merge(safe_merge=False, adapter_names=None)


class Replaced(Unit):
    """A module that was trained in full, and takes the place of the base's."""

    @property
    def owner(self) -> nn.Module:
        """The trained module."""
        trained: nn.Module = self.module.modules_to_save[self.module.active_adapters[0]]
        return trained


def find_units(adapted: PeftModel, tied: Mapping[str, str]) -> list[Unit]:
    """Return the parts of a model in its own order.

    Args:
        adapted: the base with its adapter.
        tied: names of tied weights, with the name of the weight that each is.

    Raises:
        WholeModelError: if the adapter changes more than single modules.
    """
    units = list(_units(adapted.get_base_model(), ""))
    both = {*tied, *tied.values()}
    for unit in units:
        if not isinstance(unit, Plain) and (found := both & unit.parameters().keys()):
            raise WholeModelError(f"the adapter changes `{min(found)}`, which is tied")
    return units


def _units(module: nn.Module, name: str) -> Iterator[Unit]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

    if isinstance(module, ModulesToSaveWrapper):
        yield Replaced(name, module)
    elif isinstance(module, AuxiliaryTrainingWrapper) or hasattr(module, "unload_and_optionally_merge_module"):
        raise WholeModelError(f"PEFT merges `{name}` together with other modules")
    elif isinstance(module, BaseTunerLayer):
        yield Adapted(name, module)
    else:
        inside = [unit for last, child in module.named_children() for unit in _units(child, _joined(name, last))]
        if not any(True for _ in module.named_parameters(recurse=False)):
            yield from inside
        elif all(isinstance(unit, Plain) for unit in inside):
            yield Plain(name, module)
        else:
            raise WholeModelError(f"`{name}` has parameters beside adapted modules")


def _joined(name: str, last: str) -> str:
    return f"{name}.{last}" if name else last
