"""What a run's model is asked, in batches that are computed each on its own: in this process, or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from lora_ns.answers.generate import like_lengths
from lora_ns.answers.label import Sentence, logits, said_of, tag_words
from lora_ns.answers.loss import sequence_loss
from lora_ns.answers.opened import Opened, Trained, load, make_writer
from lora_ns.data.encode_labels import WordEncoder
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.recipe.generation import Generation

Kind = Literal["write", "classify", "tag", "loss"]


@dataclass(frozen=True)
class Task:
    """Items, and which of them are computed together. What it holds, and what is found, are values of JSON."""

    kind: Kind
    items: Sequence[Any]
    """Token ids of prompts; inputs of a classifier; sentences; token ids with their labels."""
    batches: Sequence[Sequence[int]]
    """Numbers of items, each in one batch."""
    generation: Generation | None = None
    """How it is written."""

    def batch(self, number: int) -> list[Any]:
        """The items of a batch."""
        return [self.items[place] for place in self.batches[number]]

    def in_order(self, found: Sequence[Sequence[Any]]) -> list[Any]:
        """What was found for each batch, by item."""
        places = [place for batch in self.batches for place in batch]
        by_place = dict(zip(places, (one for batch in found for one in batch), strict=True))
        return [by_place[place] for place in range(len(self.items))]


Tell = Callable[[int, int], None]
"""Told how many items are done, and how many there are."""


Heard = Callable[[int, int, Any], None]
"""Told what was found as soon as it is: the number of the task, that of the item, and what was found."""


def unheard(task: int, item: int, found: Any) -> None:
    """Nobody waits for a part of what is found."""


class Compute(Protocol):
    """Where it is computed."""

    def __call__(self, tasks: Sequence[Task], heard: Heard = unheard) -> list[list[Any]]:
        """What is found for the items of each task; `heard` is told of it as it comes, in whatever order."""


def writing(prompts: Sequence[list[int]], generation: Generation) -> Task:
    """Answers to prompts; those of like length are written together."""
    return Task("write", prompts, like_lengths(prompts, generation.batch_size), generation)


def in_turn(kind: Kind, items: Sequence[Any], size: int) -> Task:
    """Batches in the order of the items."""
    return Task(kind, items, [range(start, min(start + size, len(items))) for start in range(0, len(items), size)])


def telling_rows(tasks: Sequence[Task], tell: Tell) -> Callable[[int], None]:
    """Tell of rows: one that several tasks have an item for is done once, when so much of all items is."""
    items, rows = sum(len(task.items) for task in tasks), min((len(task.items) for task in tasks), default=0)
    return lambda done: tell(done * rows // max(1, items), rows)


def compute_here(opened: Opened, tell: Tell = lambda *_: None) -> Compute:
    """Compute in this process; the weights are loaded when the first task comes, if they are not there yet."""

    def compute(tasks: Sequence[Task], heard: Heard = unheard) -> list[list[Any]]:
        trained = opened if isinstance(opened, Trained) else load(opened)
        done, found, tell_rows = 0, [], telling_rows(tasks, tell)
        for position, task in enumerate(tasks):
            by_batch = []
            for number, places in enumerate(task.batches):
                by_batch.append(compute_batch(trained, task.kind, task.batch(number), task.generation, number))
                for place, one in zip(places, by_batch[-1], strict=True):
                    heard(position, place, one)
                done += len(task.batches[number])
                tell_rows(done)
            found.append(task.in_order(by_batch))
        return found

    return compute


def compute_batch(
    trained: Trained, kind: Kind, items: Sequence[Any], generation: Generation | None, number: int
) -> list[Any]:
    """What the model says of the items of one batch, which depends on nothing but them and the batch's number.

    Raises:
        RunError: if there is too little memory for them.
    """
    remedy = "set a smaller `generation.batch_size`" if len(items) > 1 else "free some memory, or shorten the row"
    with telling_memory_errors(lambda: f"out of memory with {len(items):,} rows at once", remedy):
        return _compute_batch(trained, kind, items, generation, number)


def _compute_batch(
    trained: Trained, kind: Kind, items: Sequence[Any], generation: Generation | None, number: int
) -> list[Any]:
    trained.model.eval()
    if kind == "write":
        assert generation is not None, "who asks for answers says how they are written"
        writer = make_writer(trained.manifest, trained.model, trained.tokenizer)
        return [asdict(answer) for answer in writer.answer_batch(items, generation, number)]
    if kind == "classify":
        return [said_of(trained, scores) for scores in logits(trained, items)]
    if kind == "tag":
        encoder = WordEncoder(trained.tokenizer, trained.manifest.recipe.objective.max_seq_length)
        return list(tag_words(trained, encoder, [Sentence.of_json(item) for item in items]))
    return [list(sequence_loss(trained.model, ids, labels, trained.manifest.plan.dtype.value)) for ids, labels in items]
