"""The settings that a replay changes, one at a time, each with what it means if that cures the run."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lora_ns.objectives import LabelObjective, Sft
from lora_ns.plan.rates import usual_rate_of
from lora_ns.services.explain.replay import Window
from lora_ns.services.explain.trouble import Kind
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Factor:
    """One change of a window."""

    name: str
    """What is changed, in a table of replays."""
    code: str
    """The cause, if the change cures the run."""
    change: Callable[[Window], Window]
    applies: Callable[[Window], bool]
    against: tuple[Kind, ...]
    """Troubles that it may cure."""
    key: str
    """Key of the recipe."""
    remedy: Callable[[Window], str]
    """What to write instead."""


def factors_of(window: Window, kind: Kind) -> list[Factor]:
    """The changes that a window allows and that may cure a trouble, in the order in which they are tried."""
    return [factor for factor in FACTORS if kind in factor.against and factor.applies(window)]


def _rate(times: float, *against: Kind) -> Factor:
    shown = f"learning rate x {times:g}" if times > 1 else f"learning rate / {1 / times:g}"

    def remedy(window: Window) -> str:
        bound = "at least" if times > 1 else "at most"
        return f"write {bound} {times * window.manifest.plan.learning_rate.value:.2g}; `lorans find-lr` finds the rate"

    return Factor(
        shown,
        "rate-too-low" if times > 1 else "rate-too-high",
        lambda window: replace(window, rate=window.rate * times),
        lambda _: True,
        against,
        "training.learning_rate",
        remedy,
    )


def _usual(window: Window) -> float:
    """The factor from the rate of a window to the usual one."""
    usual = usual_rate_of(window.manifest.recipe, window.prepared.base.facts)
    return usual / window.manifest.plan.learning_rate.value


_FAR = 200
"""Factor from the usual rate beyond which that is tried, too."""

_USUAL_RATE = Factor(
    "the usual learning rate",
    "rate-too-low",
    lambda window: replace(window, rate=window.rate * _usual(window)),
    lambda window: _usual(window) > _FAR,
    ("flat",),
    "training.learning_rate",
    lambda window: f"leave it out, or write {_usual(window) * window.manifest.plan.learning_rate.value:.2g}",
)


def _clipped(window: Window) -> float:
    limit = window.manifest.recipe.training.max_grad_norm
    return limit / 10 if limit else 1.0


def _clip(window: Window) -> Window:
    return window.with_training(max_grad_norm=_clipped(window))


def _in_full(window: Window) -> Window:
    model = window.manifest.recipe.model.model_copy(update={"dtype": "float32"})
    return window.with_recipe(model=model).with_plan(dtype="float32")


def _reorder(window: Window) -> Window:
    training = window.manifest.recipe.training
    return window.with_training(extra={**training.extra, "data_seed": training.seed + 1})


def _unpack(window: Window) -> Window:
    """The rows of packed sequences, each on its own."""
    objective = window.manifest.recipe.objective.model_copy(update={"packing": False})
    return window.with_recipe(objective=objective).with_rows(unpacked(window.prepared.data[0]))


def unpacked(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows of packed sequences, by their `seq_lengths`."""
    import datasets

    found: dict[str, list[Any]] = {"input_ids": [], "labels": [], "length": []}
    for row in rows:
        start = 0
        for length in row["seq_lengths"]:
            for name in ("input_ids", "labels"):
                found[name].append(row[name][start : start + length])
            found["length"].append(length)
            start += length
    return datasets.Dataset.from_dict(found)


def _fixed(remedy: str) -> Callable[[Window], str]:
    return lambda _: remedy


FACTORS = (
    _rate(1 / 2, "broken", "diverged"),
    _rate(1 / 10, "broken", "diverged", "flat"),
    _rate(10, "flat"),
    _rate(100, "flat"),
    _USUAL_RATE,
    Factor(
        "gradients clipped",
        "gradients-too-large",
        _clip,
        lambda _: True,
        ("broken", "diverged"),
        "training.max_grad_norm",
        lambda window: f"write {_clipped(window):g}",
    ),
    Factor(
        "float32",
        "dtype",
        _in_full,
        lambda window: window.manifest.plan.dtype.value != "float32",
        ("broken", "diverged", "flat"),
        "model.dtype",
        _fixed('write "float32"'),
    ),
    Factor(
        "another order of the rows",
        "order",
        _reorder,
        lambda window: window.prepared.stream is None,
        ("broken", "diverged"),
        "training.seed",
        _fixed("look at the rows of these steps; another seed avoids their order, not their content"),
    ),
    Factor(
        "no packing",
        "packing",
        _unpack,
        lambda window: "seq_lengths" in window.prepared.data[0].column_names,
        ("broken", "diverged", "flat"),
        "sft.packing",
        _fixed("write `packing = false`"),
    ),
)
"""Changes in the order in which they are tried."""


def can_exchange(window: Window) -> bool:
    """True if the answers of a window's rows can be exchanged between them."""
    objective: Any = window.manifest.recipe.objective
    rows = window.prepared.data[0]
    is_plain = window.prepared.stream is None and "seq_lengths" not in rows.column_names
    if isinstance(objective, Sft):
        first = rows.select(range(min(_LOOKED_AT, len(rows))))["labels"]
        return is_plain and any(row[0] == IGNORED for row in first)
    return is_plain and isinstance(objective, LabelObjective)


_LOOKED_AT = 50
"""Rows in which a text without loss is looked for."""


def exchanged(window: Window) -> Window:
    """The rows of a window with their answers exchanged at random, so that these say nothing about the prompts.

    Labels are exchanged as they are; of a text, what follows the first trained token. Tags are exchanged between the
    words of all rows.
    """
    rows, recipe = window.prepared.data[0], window.manifest.recipe
    order = list(range(len(rows)))
    random.Random(recipe.training.seed).shuffle(order)
    if isinstance(recipe.objective, Sft):
        return window.with_rows(_spliced(rows, order))
    labels: list[Any] = rows["labels"][:]
    is_tagged = recipe.task_type == "TOKEN_CLS"
    mixed = _shuffled_tags(labels, recipe.training.seed) if is_tagged else [labels[by] for by in order]
    return window.with_rows(rows.remove_columns("labels").add_column("labels", mixed, feature=rows.features["labels"]))


def _shuffled_tags(labels: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
    tags = [tag for row in labels for tag in row if tag != IGNORED]
    random.Random(seed).shuffle(tags)
    rest = iter(tags)
    return [[tag if tag == IGNORED else next(rest) for tag in row] for row in labels]


def _spliced(rows: datasets.Dataset, order: Sequence[int]) -> datasets.Dataset:
    """The beginning of each row with the rest of another one."""
    import datasets

    ids, labels = rows["input_ids"][:], rows["labels"][:]
    starts = [next((at for at, one in enumerate(row) if one != IGNORED), len(row)) for row in labels]
    new_ids = [[*ids[to][: starts[to]], *ids[by][starts[by] :]] for to, by in enumerate(order)]
    new_labels = [[*labels[to][: starts[to]], *labels[by][starts[by] :]] for to, by in enumerate(order)]
    lengths = [len(row) for row in new_ids]
    return datasets.Dataset.from_dict({"input_ids": new_ids, "labels": new_labels, "length": lengths})
