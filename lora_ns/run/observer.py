"""Who watches a run: its stages, steps and warnings, and the model on its way from the base to what is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, Trainer


class Observer:
    """Who is told how a run goes: a display, a tracker, a report. Each overrides what it wants to hear of.

    `adapted`, `ready`, `begin`, each `step` and `saving` are told in this order, with stages, rows and warnings in
    between. What an observer raises ends the run.

    `adapted`, `ready` and `saving` hand out what is trained itself, so they are told where it is trained: of several
    processes, each tells an observer of its own, and none of it reaches that of `lorans train`, which has started them.
    Who keeps a model keeps its memory too, while what was saved is loaded again beside it.
    """

    def stage(self, text: str) -> None:
        """What happens now, such as `reading the data`."""

    def warn(self, text: str) -> None:
        """Something that the user should know."""

    def adapted(self, model: PeftModel) -> None:
        """The base has its adapter, new or as the run began with, and what is trained of them requires a gradient.

        A start that is computed from rows or weights is there from `ready` on. The checkpoint that a run goes on from
        is loaded after that.
        """

    def ready(self, trainer: Trainer) -> None:
        """The trainer has its callbacks, and an optimizer if the method brings one; it has trained nothing yet.

        More callbacks can be added, such as one that looks at every gradient.
        """

    def begin(self, step: int, steps: int) -> None:
        """Training begins after this step, of so many."""

    def step(self, step: int, tokens: int) -> None:
        """A step was done; tokens so far, padding not counted."""

    def logged(self, row: dict[str, Any]) -> None:
        """A row of `metrics.jsonl`."""

    def saving(self, model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """The adapter of this model is saved next, with this tokenizer, as the last step or the best one has left it.

        Of the processes of a machine, the first one saves, and it alone tells this.
        """


class SilentObserver(Observer):
    """Nobody is told."""
