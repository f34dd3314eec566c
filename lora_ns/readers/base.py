"""The base class of readers: programs that load an adapter folder, and what each makes of it."""

from __future__ import annotations

import math
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lora_ns.readers.adapter import PROMPTS, Adapter, Kind, Layer

Severity = Literal["refused", "wrong", "right"]
"""`refused`: the reader stops with an error. `wrong`: it loads another model than was trained, and does not stop.
`right`: it reads this as it was trained, perhaps if something is done that the finding names."""


@dataclass(frozen=True)
class Factor:
    """Layers of a kind that a reader scales alike."""

    kind: str
    """Last part of their names, such as `q_proj`."""
    layers: int
    read: float
    """Scale that the reader applies."""
    trained: float
    """Scale that the adapter was trained with."""

    @property
    def strength(self) -> float:
        """The update of the reader as a multiple of the trained one."""
        return self.read / self.trained if self.trained else math.inf


@dataclass(frozen=True)
class Finding:
    """One thing that a reader makes of an adapter."""

    severity: Severity
    about: str
    """Field of the configuration or tensor that it is about; empty if it is about the whole adapter."""
    what: str
    remedy: str = ""
    factors: tuple[Factor, ...] = ()


@dataclass(frozen=True)
class Field:
    """A field of `adapter_config.json` that a reader refuses or ignores."""

    name: str
    severity: Severity
    what: str
    is_set: Callable[[Any], bool] = bool


@dataclass(frozen=True)
class Stored:
    """Tensors of a purpose that a reader refuses or leaves out."""

    kinds: tuple[Kind, ...]
    severity: Severity
    what: str


class Reader(ABC):
    """A program that loads adapters. To add one, write its class in a new file, named in `readers/__init__.py`."""

    name: ClassVar[str]
    """Name for `--for`."""
    title: ClassVar[str]
    described: ClassVar[str]
    """Version whose source this class describes."""

    @abstractmethod
    def read(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield what the reader makes of an adapter."""


class LoraReader(Reader):
    """A reader of LoRA alone, which has its own code for the configuration, the names and the scale."""

    fields: ClassVar[Sequence[Field]] = ()
    stored: ClassVar[Sequence[Stored]] = ()
    ignored: ClassVar[Sequence[str]] = ()
    """Fields on which the trained scale depends, and which the reader ignores."""

    def read(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield refusals of fields and tensors, then the names, then the scale."""
        if not adapter.is_lora:
            what = f"reads LoRA adapters only, and this is one of the type {adapter.peft_type}"
            yield Finding("refused", "peft_type", what, merge_remedy(adapter))
            return
        for known in self.fields:
            if known.is_set(adapter.config.get(known.name)):
                yield Finding(known.severity, known.name, known.what, merge_remedy(adapter))
        for tensors in self.stored:
            if names := adapter.of_kind(*tensors.kinds):
                yield Finding(tensors.severity, names[0], counted(tensors.what, names), merge_remedy(adapter))
        yield from self.names(adapter)
        yield from self.more(adapter)
        yield from self.scales(adapter)

    @abstractmethod
    def names(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield what the reader makes of names that are not PEFT's."""

    @abstractmethod
    def more(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield findings that no table describes."""

    def formula(self, adapter: Adapter) -> str:
        """Write how the reader scales."""
        del adapter
        return "lora_alpha / rank of the tensor"

    @abstractmethod
    def scale(self, adapter: Adapter, layer: Layer) -> float:
        """Return the factor with which the reader adds the product of a layer's factors."""

    def scales(self, adapter: Adapter) -> Iterator[Finding]:
        """Yield the comparison of the reader's scale with the trained one."""
        factors = grouped(adapter, lambda layer: self.scale(adapter, layer))
        wrong = [one for one in factors if not is_near(one.read, one.trained)]
        if not factors:
            yield no_factors(adapter)
            return
        if not wrong:
            what = f"scales by {self.formula(adapter)} = {shown_scales(factors)}, as trained"
            yield Finding("right", "", what, factors=factors)
            return
        about = ", ".join(name for name in self.ignored if adapter.config.get(name)) or "lora_alpha"
        yield Finding("wrong", about, self._wrongly(adapter, factors, wrong), self._plainly(adapter), factors)

    def _wrongly(self, adapter: Adapter, factors: Sequence[Factor], wrong: Sequence[Factor]) -> str:
        trained = trained_formula(adapter)
        if len({(one.read, one.trained) for one in factors}) == 1:
            one = factors[0]
            read = f"scales by {self.formula(adapter)} = {one.read:.4g}"
            return f"{read}, the adapter was trained with {trained} = {one.trained:.4g}: {strength(one.strength)}"
        shown = [
            f"`{one.kind}` by {one.read:.4g} instead of {one.trained:.4g} ({strength(one.strength)})" for one in wrong
        ]
        more = f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
        layers, total = sum(one.layers for one in wrong), sum(one.layers for one in factors)
        return f"scales {layers} of {total} layers wrongly: {', '.join(shown[:_MOST])}{more}"

    def _plainly(self, adapter: Adapter) -> str:
        patterns = adapter.config.get("rank_pattern") or adapter.config.get("alpha_pattern")
        if adapter.config.get("use_rslora") and not patterns and self.takes_alpha(alpha := _plain_alpha(adapter)):
            return in_a_copy(adapter, f'write `"use_rslora": false` and `"lora_alpha": {alpha:.10g}`: the same adapter')
        if adapter.run is not None:
            run = shlex.quote(str(adapter.run))
            return f"`lorans export {run} --to plain` writes the same adapter with alpha = r for every layer"
        return merge_remedy(adapter)

    def takes_alpha(self, alpha: float) -> bool:
        """True if the reader accepts a value of `lora_alpha`."""
        return alpha > 0


_MOST = 4
"""Maximum number of kinds of layers in a sentence; `--json` has all."""


def grouped(adapter: Adapter, scale: Callable[[Layer], float]) -> tuple[Factor, ...]:
    """Group the layers by their kind and by both scales."""
    counts: dict[tuple[str, float, float], int] = {}
    for layer in adapter.layers:
        key = (layer.kind, scale(layer), layer.scale)
        counts[key] = counts.get(key, 0) + 1
    return tuple(Factor(kind, count, read, trained) for (kind, read, trained), count in counts.items())


def is_near(one: float, other: float) -> bool:
    """True if two scales are equal within the rounding of float32."""
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)


def no_factors(adapter: Adapter) -> Finding:
    """Return the finding about a LoRA adapter without factors."""
    what = "finds no factors by PEFT's names, so the adapter has no effect"
    return Finding("wrong", adapter.weights_file.name, what, "save the adapter again, with PEFT")


def trained_formula(adapter: Adapter) -> str:
    """Write the formula of the scale in training."""
    return "lora_alpha / sqrt(r)" if adapter.config.get("use_rslora") else "lora_alpha / r"


def strength(factor: float) -> str:
    """Describe an update as a multiple of the trained one."""
    if factor == 0 or math.isinf(factor):
        return "without effect" if factor == 0 else "trained without effect"
    return f"{1 / factor:.4g} times too weak" if factor < 1 else f"{factor:.4g} times too strong"


def counted(what: str, names: Sequence[str]) -> str:
    """Add the number of tensors to a sentence about them."""
    return f"{what} ({len(names)} tensor{'s' if len(names) > 1 else ''})"


def in_a_copy(adapter: Adapter, advice: str) -> str:
    """Advise to change a file; of a run, in a copy, since lorans refuses a run whose files were changed."""
    return advice if adapter.run is None else f"in a copy of the folder, {advice}"


_UNMERGED = PROMPTS | {"ADAPTION_PROMPT", "BEFT", "LILY"}
"""Types that PEFT cannot merge."""


def merge_remedy(adapter: Adapter) -> str:
    """Advise to merge the adapter, which every reader of models then reads alike."""
    if adapter.peft_type in _UNMERGED or adapter.config.get("alora_invocation_tokens"):
        return "load it with PEFT: such an adapter cannot be merged"
    if adapter.run is not None:
        return f"merge it: `lorans merge {shlex.quote(str(adapter.run))} --output merged`"
    return "merge it into its base with PEFT's `merge_and_unload`, and use the merged model"


def shown_scales(factors: Sequence[Factor]) -> str:
    """Write the trained scale, or the range of it."""
    values = sorted({one.trained for one in factors})
    return f"{values[0]:.4g}" if len(values) == 1 else f"{values[0]:.4g} to {values[-1]:.4g}"


def _plain_alpha(adapter: Adapter) -> float:
    """Return the alpha with which lora_alpha / r is the trained scale of rsLoRA."""
    return round(adapter.lora_alpha * math.sqrt(adapter.r), 6)
