"""One forward pass through the adapted, the merged and the rounded model at once, which merges as it goes.

Each row of the batch belongs to one of these models. A module is read when the pass reaches it, answers each row with
the weights of its model, is written, and is freed. Nothing is read twice, and only one module is in memory.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_ns.errors import LoransError, Problem, RunError, first_line
from lora_ns.files.shortage import is_out_of_memory
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.shards import ShardWriter
from lora_ns.merging.stored import BLOCK
from lora_ns.merging.units import Adapted, Plain, Unit
from lora_ns.merging.values import Values

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn

_LARGE = 1 << 22
"""Values of a linear layer above which its outputs are computed in parts."""


@dataclass
class Lockstep:
    """Merges the units of a model while its forward pass runs."""

    values: Values
    writer: ShardWriter
    names: Mapping[str, str]
    """Names in the files of the model's parameters."""
    dtype: str
    """The dtype of the files."""
    done: set[str] = field(default_factory=set)
    """Names of the merged and replaced units."""

    @property
    def rows(self) -> int:
        """Rows of the batch: adapted and merged, and rounded if that differs."""
        return 2 if self.dtype == "float32" else 3

    def run(self, adapted: PeftModel, units: Sequence[Unit], inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the pass over one row of inputs, and merge the units that it did not reach.

        Returns:
            The logits of each model, in order.

        Raises:
            WholeModelError: if the modules do not work one at a time.
        """
        length = inputs["input_ids"].shape[1]
        if length % self.rows == 0:  # rows are told apart by their number
            inputs = {name: value[:, :-1] for name, value in inputs.items()}
        batch = {name: value.expand(self.rows, -1).clone() for name, value in inputs.items()}
        logits = self._logits(adapted, units, batch)
        if logits.device.type == "meta" or logits.shape[0] != self.rows:
            raise WholeModelError("its modules do not work one at a time")
        for unit in units:
            if not isinstance(unit, Plain) and unit.name not in self.done:
                self._finish(unit)
        return logits

    def _logits(self, adapted: PeftModel, units: Sequence[Unit], batch: Mapping[str, Tensor]) -> Tensor:
        import torch

        for unit in units:
            if isinstance(unit.module, torch.nn.Embedding):
                unit.module.padding_idx = None  # it matters for gradients only, and few rows are in memory
            unit.module.forward = _Once(self, unit, unit.module.forward)
        try:
            with torch.no_grad():
                logits: Tensor = adapted(**batch).logits
        except (LoransError, WholeModelError):
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
        self._load(unit)
        outputs = [forward(*arguments.part(0).positional, **arguments.part(0).named)]
        self._merge(unit)
        outputs.append(forward(*arguments.part(1).positional, **arguments.part(1).named))
        self._write(unit)
        if self.rows > 2:
            outputs.append(forward(*arguments.part(2).positional, **arguments.part(2).named))
        self._free(unit)
        return joined(outputs)

    def _plain(self, unit: Plain, forward: Callable[..., Any], arguments: _Arguments) -> Any:
        if self.rows == 2 or not any(map(self._is_rounded, unit.parameters())):
            return self._with_weights(unit, forward, arguments, rounded=False)
        exact = self._with_weights(unit, forward, arguments.part(0, 2), rounded=False)
        rounded = self._with_weights(unit, forward, arguments.part(2), rounded=True)
        return joined([exact, rounded] if arguments.are_divided else [exact, exact, rounded])

    def _is_rounded(self, parameter: str) -> bool:
        return self.values.dtype(parameter) != self.dtype

    def _with_weights(self, unit: Plain, forward: Callable[..., Any], given: _Arguments, *, rounded: bool) -> Any:
        """Run a module without an adapter, with as little of its weights in memory as possible."""
        import torch

        module, parameters = unit.module, unit.parameters()
        weight = f"{unit.name}.weight"
        has_one_input = len(given.positional) == 1 and not given.named
        if has_one_input and isinstance(module, torch.nn.Embedding) and module.padding_idx is None:
            ids, inverse = given.positional[0].unique(return_inverse=True)
            with _holding({parameters[weight]: self._settled(self.values.rows(weight, ids), rounded)}):
                return forward(inverse)
        if has_one_input and type(module) is torch.nn.Linear and module.weight.numel() > _LARGE:
            return self._in_parts(unit, forward, given.positional[0], rounded=rounded)
        with _holding(
            {place: self._settled(self.values.assembled(name), rounded) for name, place in parameters.items()}
        ):
            return forward(*given.positional, **given.named)

    def _in_parts(self, unit: Plain, forward: Callable[..., Any], inputs: Tensor, *, rounded: bool) -> Tensor:
        """Compute the outputs of a large linear layer from some of its rows at a time."""
        import torch

        count, width = unit.module.weight.shape
        parts = []
        step = max(1, _LARGE // width)
        for first in range(0, count, step):
            held = {
                place: self._settled(self.values.rows(name, slice(first, first + step)), rounded)
                for name, place in unit.parameters().items()
            }
            with _holding(held):
                parts.append(forward(inputs))
        return torch.cat(parts, dim=-1)

    def _settled(self, values: Tensor, rounded: bool) -> Tensor:
        import torch

        return values.to(getattr(torch, self.dtype)).float() if rounded and values.is_floating_point() else values

    def _load(self, unit: Unit) -> None:
        if isinstance(unit, Adapted):
            for name, (module, last) in unit.parameters().items():
                module.register_parameter(last, _parameter(self.values.whole(name)))

    def _merge(self, unit: Unit) -> None:
        if isinstance(unit, Adapted):
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

        dtype = getattr(torch, self.dtype)
        for block in torch.split(values.view(-1), BLOCK):
            if not block.isfinite().all():
                what = f"merging gives `{name}` values that are not finite"
                raise RunError(Problem("", what, "train again with a smaller learning rate"))
            rounded = block.to(dtype) if block.is_floating_point() else block
            yield rounded
            block.copy_(rounded)

    def _free(self, unit: Unit) -> None:
        for module, last in unit.parameters().values():
            module.register_parameter(last, _parameter(getattr(module, last).detach().to("meta")))
        release()

    def _finish(self, unit: Unit) -> None:
        """Merge a unit that the pass did not reach."""
        self._load(unit)
        self._merge(unit)
        self._write(unit)
        self._free(unit)


def release() -> None:
    """Give freed memory back to the system. The C library keeps it in pieces that later modules do not fit into."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


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
        return self.lockstep.answer(self.unit, self.forward, _Arguments(positional, named, self.lockstep.rows))


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


def _parameter(values: Tensor) -> Any:
    import torch

    return torch.nn.Parameter(values, requires_grad=False)
