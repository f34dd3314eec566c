"""Observers of a run: they see its stages, steps and warnings, and the model from the base to the saved adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, Trainer

    from lora_ns.run.directory import RunDir


class Observer:
    """Base class of everything that follows a run: a display, a tracker, a report. Override the events that you need.

    `adapted`, `ready`, `begin`, each `step` and `saving` arrive in this order, with stages, rows and warnings in
    between. An exception from an observer ends the run.

    `adapted`, `ready` and `saving` pass the live objects, so they are called in the process that trains. With several
    processes, each calls its own observer, and none of these events reaches the observer of `lorans train`, which
    started them. An observer that keeps a model also keeps its memory, while the saved adapter is loaded again beside
    it.
    """

    def stage(self, text: str) -> None:
        """Start of a stage, such as `reading the data`."""

    def warn(self, text: str) -> None:
        """A warning for the user."""

    def rows(self, done: int, total: int) -> None:
        """Called while rows are tokenised or answered, with their number so far and in all."""

    def adapted(self, model: PeftModel) -> None:
        """The base has its adapter, new or the run's initial one; all trained parameters require a gradient.

        An initialisation that is computed from rows or weights is applied before `ready`. A checkpoint to resume from
        is loaded after that.
        """

    def ready(self, trainer: Trainer) -> None:
        """The trainer has its callbacks, and its optimizer if the method provides one; nothing is trained yet.

        You can add callbacks here, such as one that inspects every gradient.
        """

    def shows(self, metrics: Mapping[str, str]) -> None:
        """The metrics that matter to the objective beside the loss: names in the rows of `logged`, with labels.

        Called before `begin`. A held-out metric has the same name with `eval_` before it.
        """

    def begin(self, step: int, steps: int) -> None:
        """Training starts after `step` of `steps`."""

    def step(self, step: int, tokens: int) -> None:
        """A step is complete; `tokens` counts all tokens so far, without padding."""

    def logged(self, row: dict[str, Any]) -> None:
        """A new row of `metrics.jsonl`."""

    def saving(self, model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """The adapter of this model is about to be saved, with this tokenizer, from the last step or the best one.

        On each machine only the first process saves, and only its observer is called.
        """

    def ended(self, run: RunDir) -> None:
        """The run has ended: finished, failed or interrupted, as its manifest says. Training cannot fail any more.

        The observer of `lorans train` writes the report.
        """


class SilentObserver(Observer):
    """An observer that ignores every event."""
