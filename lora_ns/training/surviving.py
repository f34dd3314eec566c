"""Steps that do not fit into memory: they are done again in parts, with the same loss and the same gradients.

The trainer keeps its batches, so the order of rows, the number of steps and checkpoints stay those of the plan.
"""

from __future__ import annotations

import copy
import functools
import gc
import json
import operator
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from lora_ns.files.shortage import is_out_of_memory
from lora_ns.recipe.distributed import OneProcess
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import HalvedRecord, Manifest
from lora_ns.run.observer import Observer
from lora_ns.table import IGNORED
from lora_ns.training.halves import Divisible, Part, Unit

T = TypeVar("T")

Batches = Literal["train", "evaluation"]
"""Batches that are divided alike, by the field of the record."""


@dataclass
class Room:
    """How much of a batch fits into memory at once, as far as a run has found out."""

    found: HalvedRecord = field(default_factory=HalvedRecord)
    """What earlier steps have found, also those before a resume."""
    not_in_training: str = ""
    """The reason why parts of a step would not train as the whole; empty if they do."""
    not_in_evaluation: str = ""
    """The same for a batch of an evaluation."""
    tell: Callable[[HalvedRecord, str, dict[str, int]], None] = lambda *_: None
    """Receives a change with a sentence for the user and a row of metrics, once the step has been done."""

    @property
    def record(self) -> HalvedRecord | None:
        """What was found, if memory ever ran out."""
        return None if self.found == HalvedRecord() else self.found

    def halve(self, part: Part, unit: Unit, of: Batches, failure: str) -> None:
        """Allow half of a part from now on. Raises `MemoryError` if it cannot be cut."""
        if part.pieces < 2:
            raise MemoryError(failure)
        self.found = self.found.model_copy(update={of: -(-part.size // 2), "unit": unit})

    def told(self, before: HalvedRecord, step: int, size: int, of: Batches) -> None:
        """Report a change since `before`.

        Args:
            before: what was known before the batch.
            step: steps that are complete.
            size: most units of the batch that were tried at once.
            of: whether it was a batch of the training or of an evaluation.
        """
        now, unit = self.found, self.found.unit
        most = getattr(now, of)
        if now == before:
            return
        what = f"step {step + 1}" if of == "train" else f"an evaluation after step {step}"
        same = " and the same loss" if of == "train" else ""
        again = f"it was done again with {most:,} at once{same}, as all that follows will be"
        row = (
            {"step": step + 1, f"{unit}_at_once": most} if of == "train" else {"step": step, "evaluated_at_once": most}
        )
        self.tell(now, f"{what} ran out of memory with {size:,} {unit} at once; {again}", row)


class Surviving:
    """A part of trainers that do a batch again in parts if memory runs out; without a `room`, that is an error."""

    room: Room | None = None
    model: Any
    optimizer: Any
    state: Any
    data_collator: Any
    count_of: Callable[[Any], Any]
    part_of: Callable[[Any, float], Any]
    _prepare_inputs: Callable[[Any], Any]
    current_gradient_accumulation_steps: float

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Train on a batch, in as many parts as memory needs."""
        one, room = functools.partial(super().training_step, model), self.room  # type: ignore[misc]
        if room is None or room.not_in_training:
            return one(inputs, num_items_in_batch)
        if isinstance(inputs, list):  # prompts, whose completions are generated together
            model.train()
            inputs = self._prepare_inputs(inputs)
        batch = Divisible.of(inputs, getattr(self.data_collator, "sides", 1))
        if batch is None:
            return one(inputs, num_items_in_batch)
        steps, counter = self.current_gradient_accumulation_steps, getattr(self, "_step", None)
        is_mean_of_items = num_items_in_batch is None and "labels" in inputs

        def share_of(part: Part) -> float:
            """The share of a part in the loss of the batch."""
            items = float(self.count_of(inputs)) if is_mean_of_items else 0.0
            return float(self.count_of(part.inputs)) / items if items else part.share

        def work(part: Part) -> Any:
            """The loss of a part, by its share of the batch."""
            if counter is not None:
                self._step = counter
            if part.share < 1:
                share = share_of(part)
                # The trainer divides a mean by the number of batches.
                self.current_gradient_accumulation_steps = steps / max(share, _TINY)
                part = replace(part, inputs=self.part_of(part.trimmed().inputs, share))
            return one(part.inputs, num_items_in_batch)

        try:
            found = self._in_parts(batch, work, "train", _trained_by(self))
        finally:
            self.current_gradient_accumulation_steps = steps
        losses = [loss for _, loss in found]
        return sum(losses[1:], losses[0])

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch, in as many parts as memory needs."""
        one, room = functools.partial(super().prediction_step, model), self.room  # type: ignore[misc]
        sides, group = getattr(self.data_collator, "sides", 1), getattr(self, "num_generations_eval", 1)
        batch = None if room is None or room.not_in_evaluation else Divisible.of(inputs, sides, group)
        if batch is None:
            return one(inputs, *args, **kwargs)
        found = self._in_parts(batch, lambda part: one(part.inputs, *args, **kwargs), "evaluation", ())
        return found[0][1] if len(found) == 1 else _joined(found)

    def _in_parts(
        self, batch: Divisible, work: Callable[[Part], T], of: Batches, trained: Sequence[Any]
    ) -> list[tuple[Part, T]]:
        """What `work` returns for each part of a batch. A part that memory has no room for is halved until it has.

        Raises:
            MemoryError: if there is no room for a single row or document.
        """
        room, known = self.room or Room(), (self.room or Room()).found
        waiting, found, first = batch.parts(getattr(known, of)), [], None
        while waiting:
            before = _Before(self, trained)
            first = first or before
            if (result := before.tried(functools.partial(work, waiting[0]))) is not None:
                before.add_gradients()
                found.append((waiting.pop(0), result))
                continue
            room.halve(waiting[0], batch.unit, of, before.failure)
            waiting = [part for whole in waiting for part in batch.parts(getattr(room.found, of), whole)]
        if first and of == "train":
            first.join_metrics([part.share for part, _ in found])
        room.told(known, self.state.global_step, getattr(known, of) or sum(batch.sizes), of)
        return found


_TINY = 1e-30
"""Share of a part without an item in the loss."""


@functools.cache
def surviving(trainer_class: Any) -> Any:
    """A trainer class that does a step or an evaluation batch again in parts if memory runs out."""

    class SurvivingTrainer(Surviving, trainer_class):  # type: ignore[misc, unused-ignore]
        """See `Surviving`."""

    return SurvivingTrainer


def _joined(found: Sequence[tuple[Part, Any]]) -> tuple[Any, Any, Any]:
    """Loss, logits and labels of a batch from those of its parts."""
    from transformers.trainer_pt_utils import nested_concat

    def concatenated(number: int) -> Any:
        values = [result[number] for _, result in found]
        if values[0] is None:
            return None
        return functools.reduce(lambda one, other: nested_concat(one, other, IGNORED), values)

    return sum(part.share * result[0] for part, result in found), concatenated(1), concatenated(2)


def _trained_by(trainer: Any) -> list[Any]:
    """The parameters that a trainer trains."""
    if trainer.optimizer is None:
        return [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    return [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]


class _Before:
    """The state of a trainer before a batch, to which it returns when memory runs out."""

    def __init__(self, trainer: Any, trained: Sequence[Any]) -> None:
        import torch

        self.failure = ""
        self._trainer, self._trained = trainer, trained
        self._random, self._device = torch.get_rng_state(), trainer.args.device
        self._random_there = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        self._counts = {name: copy.copy(vars(trainer)[name]) for name in _COUNTS if name in vars(trainer)}
        self._logged = [(kept, {name: len(values) for name, values in kept.items()}) for kept in _metrics_of(trainer)]
        self._gradients = [(parameter, parameter.grad) for parameter in trained if parameter.grad is not None]
        for parameter, _ in self._gradients:  # those of a failed attempt must not be added to them
            parameter.grad = None

    def tried(self, work: Callable[[], T]) -> T | None:
        """The result of `work`; None if memory ran out, and then all is as before."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.failure = str(error) or "out of memory"
            _drop_frames(error)  # which keep the tensors of the attempt
        self._return()
        return None

    def _return(self) -> None:
        import torch

        for parameter in self._trained:
            parameter.grad = None
        vars(self._trainer).update({name: copy.copy(value) for name, value in self._counts.items()})
        for kept, lengths in self._logged:
            for name in list(kept):
                del kept[name][lengths.get(name, 0) :]
                if name not in lengths:
                    del kept[name]
        gc.collect()
        if self._random_there is not None:
            torch.cuda.empty_cache()
            torch.cuda.set_rng_state(self._random_there, self._device)
        torch.set_rng_state(self._random)

    def add_gradients(self) -> None:
        """Add the gradients from before to those of the batch, as the backward pass would have done."""
        import torch

        both = [(before, parameter) for parameter, before in self._gradients if parameter.grad is not None]
        if both:
            torch._foreach_add_([before for before, _ in both], [parameter.grad for _, parameter in both])
        for parameter, before in self._gradients:
            parameter.grad = before

    def join_metrics(self, shares: Sequence[float]) -> None:
        """Give a batch one value of each metric, as without parts."""
        if len(shares) == 1:
            return
        for kept, lengths in self._logged:
            for name, values in kept.items():
                first = lengths.get(name, 0)
                if len(new := values[first:]) > 1:
                    values[first:] = [_joined_metric(name, new, shares)]


def _joined_metric(name: str, values: Sequence[Any], shares: Sequence[float]) -> Any:
    """A metric of a batch from those of its parts, numbers or tensors that are on the device until they are logged.

    A part without rows that the metric is about has none.
    """
    if name.startswith(("min_", "max_")):
        return min(values) if name.startswith("min_") else max(values)
    weights = shares if len(shares) == len(values) else [1.0] * len(values)
    return sum(map(operator.mul, values, weights)) / sum(weights)


_COUNTS = ("_total_train_tokens", "_step", "_current_train_step_time", "samples", "eval_margins")
"""What TRL's trainers and those of `objectives` count while they compute a loss."""


def _metrics_of(trainer: Any) -> list[dict[str, list[float]]]:
    """TRL's metrics of the batches since the last log, of training and of evaluations."""
    both = [vars(trainer).get(name) or {} for name in ("_metrics", "_stored_metrics")]
    return [kept for modes in both for kept in modes.values()]


def _drop_frames(error: BaseException | None) -> None:
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def room_of(run: RunDir, manifest: Manifest, observer: Observer) -> Room:
    """The room of a run, which begins with what its earlier steps have found."""
    recipe, found = manifest.recipe, manifest.halved or HalvedRecord()
    together = (
        ""
        if isinstance(recipe.distributed, OneProcess)
        else "several processes train together, and would wait for the one that ran out"
    )
    adds_up = recipe.objective.adds_up
    compares = adds_up if recipe.objective.compares_rows and isinstance(adds_up, str) else ""

    def tell(found: HalvedRecord, text: str, row: dict[str, int]) -> None:
        run.update(halved=found)
        with run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        observer.warn(text)

    return Room(found, together or (adds_up if isinstance(adds_up, str) else ""), together or compares, tell)
