"""One forward pass through the adapted, the merged and the rounded model at once, which merges as it goes.

Over a base whose layers round their inputs, a fourth model computes as training did.

Each row of the batch belongs to one of these models. A module is read when the pass reaches it, answers each row with
the weights of its model, is written, and is freed. Nothing is read twice, and only one module is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from lora_ns.errors import LoransError, Problem, RunError, first_line
from lora_ns.files.shortage import is_out_of_memory
from lora_ns.merging.pool import Pool, Spilled, release
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.shards import ShardWriter, is_finite, rounded
from lora_ns.merging.skeleton import absent
from lora_ns.merging.stored import BLOCK
from lora_ns.merging.units import Adapted, Plain, Unit
from lora_ns.merging.values import Values

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

_LARGE = 1 << 20
"""Values of a linear layer above which its outputs are computed in parts."""


Model = Literal["trained", "adapted", "merged", "rounded"]
"""A model to which a row belongs: as training computed it, with its adapter, merged, or rounded to the files' dtype."""


_Way = Literal["trained", "exact", "rounded"]
"""The weights with which a module without an adapter answers."""


@dataclass
class Lockstep:
    """Merges the units of a model while its forward pass runs."""

    values: Values
    writer: ShardWriter
    adapter: Spilled
    """The parameters of the adapter."""
    names: Mapping[str, str]
    """Names in the files of the model's parameters."""
    dtype: str
    """The dtype of the files."""
    rounds_inputs: bool = False
    """True if quantised layers round their inputs, so that training had other answers than their weights give."""
    done: set[str] = field(default_factory=set)
    """Names of the merged and replaced units."""
    _blocks: Pool = field(default_factory=Pool)
    """A pool of its own, so that small blocks do not take the memory of weights."""

    @property
    def models(self) -> tuple[Model, ...]:
        """The model of each row of the batch: always the adapted and the merged one, and others that differ."""
        first: tuple[Model, ...] = ("trained",) if self.rounds_inputs else ()
        last: tuple[Model, ...] = () if self.dtype == "float32" else ("rounded",)
        return (*first, "adapted", "merged", *last)

    def run(self, adapted: PeftModel, units: Sequence[Unit], inputs: Mapping[str, Tensor]) -> dict[Model, Tensor]:
        """Run the pass over one row of inputs, and merge the units that it did not reach.

        Returns:
            The logits of each model.

        Raises:
            WholeModelError: if the modules do not work one at a time.
        """
        rows = len(self.models)
        if inputs["input_ids"].shape[1] % rows == 0:  # rows are told apart by their number
            inputs = {name: value[:, :-1] for name, value in inputs.items()}
        batch = {name: value.expand(rows, -1).clone() for name, value in inputs.items()}
        logits = self._logits(adapted, units, batch)
        if logits.shape[0] != rows or logits.isnan().any():  # as the weights of modules that did not run are
            raise WholeModelError("its modules do not work one at a time")
        for unit in units:
            if not isinstance(unit, Plain) and unit.name not in self.done:
                self._finish(unit)
        return dict(zip(self.models, logits, strict=True))

    def _logits(self, adapted: PeftModel, units: Sequence[Unit], batch: Mapping[str, Tensor]) -> Tensor:
        import torch

        for unit in units:
            if isinstance(unit.module, torch.nn.Embedding):
                unit.module.padding_idx = None  # it matters for gradients only, and few rows are in memory
            unit.module.forward = _Once(self, unit, unit.module.forward)
        try:
            with torch.no_grad():
                logits: Tensor = adapted(**batch).logits
        except (LoransError, WholeModelError, OSError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise WholeModelError(f"its modules do not work one at a time: {first_line(error)}") from error
        finally:
            for unit in units:
                del unit.module.forward
        return logits

    def answer(self, unit: Unit, forward: Callable[..., Any], arguments: _Arguments) -> Any:
        """Return a module's outputs for every row."""
        if isinstance(unit, Plain):
            return self._plain(unit, forward, arguments)
        outputs = []
        self._load(unit)
        for row, model in enumerate(self.models):
            if model == "merged":
                self._merge(unit)
            if model == "rounded":
                self._write(unit)
            given = arguments.part(row)
            with _computing(self._quantised(unit) if model == "trained" else {}):
                outputs.append(forward(*given.positional, **given.named))
        if "rounded" not in self.models:
            self._write(unit)
        self._free(unit)
        return joined(outputs)

    def _plain(self, unit: Plain, forward: Callable[..., Any], arguments: _Arguments) -> Any:
        ways = [(way, len(list(same))) for way, same in groupby(self._way(unit, model) for model in self.models)]
        if len(ways) == 1:
            return self._with_weights(unit, forward, arguments, ways[0][0])
        outputs, first = [], 0
        for way, count in ways:
            found = self._with_weights(unit, forward, arguments.part(first, count), way)
            outputs += [found] if arguments.are_divided else [found] * count
            first += count
        return joined(outputs)

    def _way(self, unit: Plain, model: Model) -> _Way:
        if model == "trained" and any(map(self.values.is_quantised, unit.parameters())):
            return "trained"
        is_rounded = any(self.values.dtype(name) != self.dtype for name in unit.parameters())
        return "rounded" if model == "rounded" and is_rounded else "exact"

    def _quantised(self, unit: Unit) -> dict[nn.Module, nn.Module]:
        """Return the quantised layers for those of a module, by the layer that each replaces."""
        return {
            module: self.values.layer(name)
            for name, (module, last) in unit.parameters().items()
            if last == "weight" and self.values.is_quantised(name)
        }

    def _with_weights(self, unit: Plain, forward: Callable[..., Any], given: _Arguments, way: _Way) -> Any:
        """Run a module without an adapter, with as little of its weights in memory as possible."""
        import torch

        module, parameters = unit.module, unit.parameters()
        quantised = self._quantised(unit) if way == "trained" else {}
        if module in quantised:
            return quantised[module](*given.positional, **given.named)
        weight = f"{unit.name}.weight"
        has_one_input = len(given.positional) == 1 and not given.named
        if has_one_input and isinstance(module, torch.nn.Embedding) and module.padding_idx is None:
            ids, inverse = given.positional[0].unique(return_inverse=True)
            with _holding({parameters[weight]: self._settled(weight, self.values.rows(weight, ids), way)}):
                return forward(inverse)
        is_large = type(module) is torch.nn.Linear and module.weight.numel() > _LARGE
        if has_one_input and is_large and not self.values.is_quantised(weight):  # that can be read as a whole only
            return self._in_parts(unit, forward, given.positional[0], way)
        held = {place: self._settled(name, self.values.assembled(name), way) for name, place in parameters.items()}
        with _holding(held), _computing(quantised):
            return forward(*given.positional, **given.named)

    def _in_parts(self, unit: Plain, forward: Callable[..., Any], inputs: Tensor, way: _Way) -> Tensor:
        """Compute the outputs of a large linear layer from some of its rows at a time."""
        import torch

        self.values.pool.clear()
        count, width = unit.module.weight.shape
        parts = []
        step = max(1, _LARGE // width)
        for first in range(0, count, step):
            held = {
                place: self._settled(name, self.values.rows(name, slice(first, first + step)), way)
                for name, place in unit.parameters().items()
            }
            with _holding(held):
                parts.append(forward(inputs))
            del held
        return torch.cat(parts, dim=-1)

    def _settled(self, name: str, values: Tensor, way: _Way) -> Tensor:
        import torch

        if way != "rounded" or not values.is_floating_point():
            return values
        return self.values.pool.cast(rounded(name, values, self.dtype, self.values.pool), torch.float32)

    def _load(self, unit: Unit) -> None:
        if isinstance(unit, Adapted):
            for name, (module, last) in unit.parameters().items():
                module.register_parameter(last, _parameter(self.values.whole(name)))
            release()  # what it took to quantise them

    def _merge(self, unit: Unit) -> None:
        if isinstance(unit, Adapted):
            with self.values.pool.for_results():
                unit.merge()
        self.done.add(unit.name)

    def _write(self, unit: Unit) -> None:
        """Write the parameters of a module, and leave them as rounded as they are in the file."""
        for name, (module, last) in unit.parameters().items():
            if name not in self.names:
                raise WholeModelError(f"`{name}` is not a tensor of its own in the base")
            self.writer.write(self.names[name], self._rounded(name, getattr(module, last).detach()))

    def _rounded(self, name: str, values: Tensor) -> Iterator[Tensor]:
        """Yield a parameter in blocks, and round it in place. Raises `RunError` if a value is not finite."""
        import torch

        for block in torch.split(values.view(-1), BLOCK):
            if not is_finite(block):
                what = f"merging gives `{name}` values that are not finite"
                raise RunError(Problem("", what, "train again with a smaller learning rate"))
            written = rounded(name, block, self.dtype, self._blocks) if block.is_floating_point() else block
            yield written
            block.copy_(written)

    def _free(self, unit: Unit) -> None:
        for module, last in unit.parameters().values():
            module.register_parameter(last, absent(getattr(module, last)))
        self.adapter.release()
        release()

    def _finish(self, unit: Unit) -> None:
        """Merge a unit that the pass did not reach."""
        self._load(unit)
        self._merge(unit)
        self._write(unit)
        self._free(unit)


@dataclass(frozen=True)
class _Arguments:
    """Arguments of a module for every row."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    rows: int

    @property
    def are_divided(self) -> bool:
        """True if an argument has parts for the rows; otherwise all rows have the same."""
        return any(self._is_divided(value) for value in (*self.positional, *self.named.values()))

    def _is_divided(self, value: Any) -> bool:
        import torch

        return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] % self.rows == 0

    def part(self, first: int, count: int = 1) -> _Arguments:
        """The arguments for some rows."""

        def cut(value: Any) -> Any:
            if not self._is_divided(value):
                return value
            size = value.shape[0] // self.rows
            return value[first * size : (first + count) * size]

        named = {name: cut(value) for name, value in self.named.items()}
        return _Arguments(tuple(cut(value) for value in self.positional), named, self.rows)


@dataclass
class _Once:
    """The forward pass of a unit, which can be run a single time."""

    lockstep: Lockstep
    unit: Unit
    forward: Callable[..., Any]
    was_run: bool = False

    def __call__(self, *positional: Any, **named: Any) -> Any:
        if self.was_run and not isinstance(self.unit, Plain):
            raise WholeModelError(f"the model uses `{self.unit.name}` more than once")
        self.was_run = True
        rows = len(self.lockstep.models)
        return self.lockstep.answer(self.unit, self.forward, _Arguments(positional, named, rows))


def joined(outputs: Sequence[Any]) -> Any:
    """Join outputs along the rows, whatever a module returns."""
    import torch

    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(outputs))
    if isinstance(first, tuple):
        return tuple(joined(parts) for parts in zip(*outputs, strict=True))
    if first is None:
        return None
    raise WholeModelError(f"a module returns {type(first).__name__}")


class _holding:  # noqa: N801 -- reads as a verb in `with`
    """Give modules their parameters for a while."""

    def __init__(self, values: Mapping[tuple[nn.Module, str], Tensor]) -> None:
        self._values = values
        self._before = {place: place[0]._parameters[place[1]] for place in values}

    def __enter__(self) -> None:
        for (module, last), value in self._values.items():
            module.register_parameter(last, _parameter(value))

    def __exit__(self, *_: object) -> None:
        for (module, last), value in self._before.items():
            module.register_parameter(last, value)


class _computing:  # noqa: N801 -- reads as a verb in `with`
    """Let layers compute as others do for a while."""

    def __init__(self, others: Mapping[nn.Module, nn.Module]) -> None:
        self._others = others

    def __enter__(self) -> None:
        for layer, other in self._others.items():
            layer.forward = other.forward

    def __exit__(self, *_: object) -> None:
        for layer in self._others:
            del layer.forward


def _parameter(values: Tensor) -> Any:
    import torch

    return torch.nn.Parameter(values, requires_grad=False)
