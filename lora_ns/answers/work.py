"""Inference tasks, divided into batches that this process or several workers can compute independently."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from lora_ns.answers.drift import drift_from_base
from lora_ns.answers.generate import like_lengths, repetitions
from lora_ns.answers.label import Sentence, logits, prediction, score_sequences, tag_words
from lora_ns.answers.loss import choice_losses
from lora_ns.answers.opened import Opened, Trained, make_writer
from lora_ns.answers.weights import ADAPTER, Weights
from lora_ns.data.encode_labels import WordEncoder
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.recipe.generation import Generation

Kind = Literal["write", "classify", "tag", "score", "loss", "choose", "drift"]


@dataclass(frozen=True)
class Task:
    """Items to compute, and their division into batches. Items and results are JSON values."""

    kind: Kind
    items: Sequence[Any]
    """By kind: token ids of prompts, classifier inputs, sentences, sequences to score, token ids with labels, or those
    of all choices."""
    batches: Sequence[Sequence[int]]
    """Item indices of each batch; every item is in exactly one."""
    generation: Generation | None = None
    """The generation settings; only for `write` and `drift`."""
    weights: str = ADAPTER
    """The weights to compute with, as `Weights.using` takes them."""
    numbers: Sequence[int] = ()
    """Numbers of the batches, if they are some of a larger task; empty if they are all."""
    draws: Sequence[int] = ()
    """For each prompt to sample an answer to, the number of times that it comes before; empty for other kinds."""

    def number(self, batch: int) -> int:
        """The number of a batch in the whole task."""
        return self.numbers[batch] if self.numbers else batch

    def without(self, done: Collection[int]) -> Task:
        """The batches with an item that is not done, as they are: the last digits of results depend on their batch."""
        left = [batch for batch, places in enumerate(self.batches) if not all(place in done for place in places)]
        items = [place for batch in left for place in self.batches[batch]]
        new = {place: number for number, place in enumerate(items)}
        return replace(
            self,
            items=[self.items[place] for place in items],
            batches=[[new[place] for place in self.batches[batch]] for batch in left],
            numbers=[self.number(batch) for batch in left],
            draws=[self.draws[place] for place in items] if self.draws else (),
        )

    def batch(self, number: int) -> list[Any]:
        """The items of a batch."""
        return [self.items[place] for place in self.batches[number]]

    def batch_draws(self, number: int) -> list[int]:
        """The draws of the items of a batch; empty if there are none."""
        return [self.draws[place] for place in self.batches[number]] if self.draws else []

    def in_order(self, found: Sequence[Sequence[Any]]) -> list[Any]:
        """Rearrange the results of all batches into the order of the items."""
        places = [place for batch in self.batches for place in batch]
        by_place = dict(zip(places, (one for batch in found for one in batch), strict=True))
        return [by_place[place] for place in range(len(self.items))]


OnProgress = Callable[[int, int], None]
"""Called with the number of items done and the total."""


OnResult = Callable[[int, int, Any], None]
"""Called with each result as soon as it is known: index of the task, index of the item, result."""


def ignore_result(task: int, item: int, found: Any) -> None:
    """Ignore early results: an `OnResult` that does nothing."""


class Compute(Protocol):
    """A function that computes tasks, in this process or in workers."""

    def __call__(self, tasks: Sequence[Task], on_result: OnResult = ignore_result) -> list[list[Any]]:
        """Results of each task, in the order of its items. `on_result` gets each one early, in any order."""


def writing(prompts: Sequence[list[int]], generation: Generation, weights: str = ADAPTER, kind: Kind = "write") -> Task:
    """A task that generates answers, of the base for `drift`; prompts of similar length share a batch."""
    draws = repetitions(prompts) if generation.do_sample else ()
    return Task(kind, prompts, like_lengths(prompts, generation), generation, weights, draws=draws)


def in_turn(kind: Kind, items: Sequence[Any], size: int, weights: str = ADAPTER) -> Task:
    """A task whose batches follow the order of its items."""
    batches = [range(start, min(start + size, len(items))) for start in range(0, len(items), size)]
    return Task(kind, items, batches, weights=weights)


def row_progress(tasks: Sequence[Task], tell: OnProgress) -> Callable[[int], None]:
    """Convert a number of items done into rows done, for tasks that may hold several items of one row."""
    items, rows = sum(len(task.items) for task in tasks), min((len(task.items) for task in tasks), default=0)
    return lambda done: tell(done * rows // max(1, items), rows)


def compute_here(
    opened: Opened, tell: OnProgress = lambda *_: None, beside: Mapping[str, Opened] | None = None
) -> Compute:
    """Compute in this process. Weights that are not loaded yet are loaded with the first task, once.

    Args:
        opened: the run.
        tell: called with the number of rows done.
        beside: runs whose adapters share its load, by the names with which tasks ask for them.
    """
    loaded = functools.cache(opened.load)

    def compute(tasks: Sequence[Task], on_result: OnResult = ignore_result) -> list[list[Any]]:
        weights = Weights(loaded(), beside)
        done, found, tell_rows = 0, [], row_progress(tasks, tell)
        for position, task in enumerate(tasks):
            by_batch = []
            for number, places in enumerate(task.batches):
                with weights.using(task.weights) as trained:
                    of_batch = task.kind, task.batch(number), task.generation, task.batch_draws(number)
                    by_batch.append(compute_batch(trained, *of_batch))
                for place, one in zip(places, by_batch[-1], strict=True):
                    on_result(position, place, one)
                done += len(task.batches[number])
                tell_rows(done)
            found.append(task.in_order(by_batch))
        weights.restore()
        return found

    return compute


def compute_batch(
    trained: Trained, kind: Kind, items: Sequence[Any], generation: Generation | None, draws: Sequence[int]
) -> list[Any]:
    """The results of one batch, which depend only on its items and its draws.

    Raises:
        RunError: if there is not enough memory.
    """
    remedy = (
        "set a smaller `generation.batch_size` or `generation.max_batch_tokens`"
        if len(items) > 1
        else "free memory, or shorten the row"
    )
    with telling_memory_errors(lambda: f"out of memory at batch size {len(items):,}", remedy):
        return _compute_batch(trained, kind, items, generation, draws)


def _compute_batch(
    trained: Trained, kind: Kind, items: Sequence[Any], generation: Generation | None, draws: Sequence[int]
) -> list[Any]:
    trained.model.eval()
    if kind == "write":
        assert generation is not None, "a task of kind `write` has generation settings"
        writer = make_writer(trained.manifest, trained.model, trained.tokenizer)
        return [asdict(answer) for answer in writer.answer_batch(items, generation, draws)]
    if kind == "drift":
        assert generation is not None, "a task of kind `drift` has generation settings"
        return drift_from_base(trained, items, generation)
    if kind == "classify":
        return [prediction(trained, scores) for scores in logits(trained, items)]
    if kind == "tag":
        encoder = WordEncoder(trained.tokenizer, trained.manifest.recipe.objective.max_seq_length)
        return list(tag_words(trained, encoder, [Sentence.of_json(item) for item in items]))
    if kind == "score":
        return score_sequences(trained, items)
    dtype = trained.manifest.plan.dtype.value
    several = items if kind == "choose" else [[item] for item in items]
    losses = [[list(one) for one in choice_losses(trained.model, sequences, dtype)] for sequences in several]
    return losses if kind == "choose" else [one for (one,) in losses]
