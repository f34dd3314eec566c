"""An observer of a trial: what the loss covers, how the answers get better, and when to stop."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_ns.answers.generate import Writer
from lora_ns.answers.read_along import read_along
from lora_ns.recipe.generation import Generation
from lora_ns.run.observer import Observer
from lora_ns.services.learn.certificate import Loss
from lora_ns.services.learn.rows import Item
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

EVERY = 5
"""Steps between two looks at the answers."""

LEARNED = 0.05
"""Mean loss of the answers' tokens below which correct answers count as certain."""

NOTHING_LEFT = 2e-3
"""Training loss from which on further steps change nothing."""

FLAT_AFTER, FLAT = 20, 0.98
"""Steps after which a loss above this share of the first one is not worth further steps.

A stricter rule is wrong: LoKr may have half of its first loss left after 75 steps, and learns the rows by step 150.
"""

RUNAWAY = 3.0
"""Factor by which a loss may rise above its first value; a diverging one rises further."""


@dataclass
class Watch(Observer):
    """Measures of one training."""

    display: Observer
    """Receives the steps."""
    items: Sequence[Item]
    is_text: bool
    stops: tuple[int, ...]
    before: Generation
    """Settings with which the untrained model is asked."""
    prompts: Sequence[list[int]] = ()
    """Prompts to ask the untrained model, if it is asked."""
    steps: int = 0
    known: int = 0
    gradient: float = 0.0
    change: float = 0.0
    trainable: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    read_right: int = 0
    ends_right: int = 0
    broken: str = ""
    looked_at: int = -1
    """Step of the last look."""
    covered: Loss = field(default_factory=Loss)
    _trainer: Callable[[], Any] = lambda: None
    _batches: list[tuple[list[int], list[int]]] = field(default_factory=list)
    _logged: list[float] = field(default_factory=list)
    _begun: dict[str, Any] = field(default_factory=dict)

    def ready(self, trainer: Trainer) -> None:
        """Read along with the trainer."""
        self._trainer = weakref.ref(trainer)
        trainer.add_callback(_callback(self, trainer))
        if self.is_text:
            trainer.compute_loss = self._reading(trainer.compute_loss)

    def _reading(self, compute_loss: Callable[..., Any]) -> Callable[..., Any]:
        """The trainer's loss function, with the tokens and labels of each row kept until every row was seen."""

        def reading(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if len(self._batches) < _MOST_BATCHES:
                ids, labels = inputs["input_ids"].tolist(), inputs["labels"].tolist()
                self._batches += zip(ids, labels, strict=True)
            return compute_loss(model, inputs, *args, **kwargs)

        return reading

    def fail(self, error: str) -> None:
        """Take the error that ended the training, and measure the model as it is, if it is still there."""
        self.broken = self.broken or error
        trainer = self._trainer()
        if trainer is not None and self._begun:
            self.finish(trainer)

    # Called by the callback

    def measure_before(self, trainer: Any) -> None:
        """Measure the untrained model."""
        trained = _trained(trainer.model)
        self.trainable = sum(value.numel() for value in trained.values())
        self._begun = {name: value.detach().to("cpu", copy=True) for name, value in trained.items()}
        if self.is_text:
            self.look(trainer)
            self.loss_before = self.loss_after
            self.known = self._known(trainer) if self.prompts else 0

    def _known(self, trainer: Any) -> int:
        """Number of rows that the untrained model answers correctly."""
        writer = Writer(trainer.model, trainer.processing_class, self.stops, _dtype(trainer))
        answers = writer.answer(self.prompts, self.before)
        return sum(one.text in item.expected for one, item in zip(answers, self.items, strict=True))

    def look(self, trainer: Any) -> None:
        """Read the rows, and count those whose answers are predicted correctly."""
        if self.looked_at == self.steps:
            return
        self.looked_at = self.steps
        model = trainer.model
        was_training = model.training
        model.eval()
        losses: list[float] = []
        self.read_right = self.ends_right = 0
        for item in self.items:
            predicted, each = read_along(model, item.input_ids, _dtype(trainer))
            answer = range(max(1, item.start), item.end)
            losses += [each[at] for at in answer]
            self.read_right += all(predicted[at] == item.input_ids[at] for at in answer)
            self.ends_right += item.has_end and predicted[item.end] == item.input_ids[item.end]
        model.train(was_training)
        self.loss_after = sum(losses) / max(1, len(losses))

    def log(self, logs: dict[str, float]) -> None:
        """Take a logged row."""
        if "loss" in logs:
            self._logged.append(logs["loss"])
            norm = logs.get("grad_norm", 0.0)
            self.gradient = max(self.gradient, norm) if math.isfinite(norm) else self.gradient
            if not math.isfinite(logs["loss"]) or not math.isfinite(norm):
                self.broken = f"after step {self.steps}, the loss is {logs['loss']:g} and the gradient norm {norm:g}"

    def is_over(self, trainer: Any) -> bool:
        """Decide after a step whether to stop."""
        if self.broken:
            return True
        latest, first = self._logged[-2:], self._logged[0] if self._logged else math.nan
        is_done = len(latest) == 2 and max(latest) < NOTHING_LEFT
        if self.steps % EVERY and not is_done:
            return False
        if self.is_text:
            self.look(trainer)
            assert self.loss_after is not None
            assert self.loss_before is not None
            if self.read_right == self.ends_right == len(self.items) and self.loss_after < LEARNED:
                return True
            if self.loss_after > RUNAWAY * self.loss_before + RUNAWAY and self.steps >= 2 * EVERY:
                self.broken = (
                    f"the loss rises from {self.loss_before:.3g} to {self.loss_after:.3g} in {self.steps} steps"
                )
                return True
        is_flat = self.steps >= FLAT_AFTER and min(self._logged[-EVERY:]) > FLAT * first
        return is_done or is_flat

    def finish(self, trainer: Any) -> None:
        """Measure the trained model."""
        if self.is_text:
            self.look(trainer)
        self.covered = covered(self.items, self._batches)
        now = _trained(trainer.model)
        squares = [
            float((now[name].detach().cpu() - value).norm()) ** 2 for name, value in self._begun.items() if name in now
        ]
        self.change = math.sqrt(sum(squares))


_MOST_BATCHES = 64
"""Rows of batches to keep; packed ones hold several rows of the recipe."""


def _trained(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _dtype(trainer: Any) -> str:
    return "bfloat16" if trainer.args.bf16 else "float16" if trainer.args.fp16 else "float32"


def covered(items: Sequence[Item], batches: Sequence[tuple[list[int], list[int]]]) -> Loss:
    """Count the tokens of the rows that batches have in the loss.

    Args:
        items: the rows.
        batches: token ids and labels of each row of a batch, which may hold several rows.
    """
    answer = learned = ends = learned_ends = elsewhere = leaked = 0
    for item in items:
        labels = _labels_of(item.input_ids, batches)
        answer += item.end - item.start
        ends += item.has_end
        if labels is None:
            continue
        learned += sum(label != IGNORED for label in labels[item.start : item.end])
        learned_ends += item.has_end and labels[item.end] != IGNORED
        elsewhere += sum(label != IGNORED for label in labels[: item.start])
        leaked += sum(label != IGNORED and not own for label, own in zip(labels, item.trained, strict=True))
    return Loss(answer, learned, ends, learned_ends, elsewhere, leaked)


def _labels_of(ids: Sequence[int], batches: Sequence[tuple[list[int], list[int]]]) -> list[int] | None:
    """The labels of a row in the first batch that contains its tokens."""
    wanted = list(ids)
    for row, labels in batches:
        for start in range(len(row) - len(wanted) + 1):
            if row[start] == wanted[0] and row[start : start + len(wanted)] == wanted:
                return labels[start : start + len(wanted)]
    return None


def _callback(watch: Watch, trainer: Any) -> TrainerCallback:
    from transformers import TrainerCallback

    class LearnCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Passes the events of a training to its watch."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.measure_before(trainer)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            watch.log(logs)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.steps = state.global_step
            watch.display.rows(state.global_step, state.max_steps)
            control.should_training_stop = control.should_training_stop or watch.is_over(trainer)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            watch.finish(trainer)

    return LearnCallback()
