"""Mixing of sources, and held-out rows for evaluation."""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

from lora_ns.data.find_labels import problem_type_of
from lora_ns.data.rows import Row, for_each
from lora_ns.data.source import Part, Source
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Format, RowFaultError, TextClassification
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.recipe import Recipe


def set_aside(recipe: Recipe, parts: Sequence[Part]) -> tuple[list[Part], Source]:
    """Hold out the evaluation share, drawn with the seed; the other rows keep their order."""
    table = recipe.dataset
    rows = [(number, row) for number, part in enumerate(parts) for row in part.source.rows]
    count = max(1, round(table.eval_fraction * len(rows)))
    if count >= len(rows):
        what, remedy = f"{len(rows)} rows cannot be split", "give more rows, or `eval_path`"
        raise DataError(Problem("", what, remedy, key="dataset.eval_fraction"))
    groups = _groups(table, parts)
    seed = recipe.training.seed
    if groups is None:
        drawn = sorted(random.Random(seed).sample(range(len(rows)), count))
        kept = drawn[: table.max_eval_samples]
    else:
        drawn = _draw(groups, range(len(rows)), count, seed)
        fewer = table.max_eval_samples
        kept = drawn if fewer is None or fewer >= count else _draw(groups, drawn, fewer, seed)
    aside = set(drawn)
    rest = [
        _without(part, [row for at, (owner, row) in enumerate(rows) if owner == number and at not in aside])
        for number, part in enumerate(parts)
    ]
    held_out = [rows[at][1] for at in kept]
    name = f"{', '.join(part.source.name for part in parts)} (held out)"
    return rest, replace(parts[0].source, name=name, rows=held_out, left_out=(), notes=())


def _without(part: Part, rows: list[Row]) -> Part:
    if not rows:
        what = f"{part.key}: no row of {part.source.name} is left to train on"
        raise DataError(Problem(part.source.name, what, "give it more rows, or lower `eval_fraction`"))
    source = replace(part.source, rows=rows)
    return replace(part, source=source, held_out=len(part.source.rows) - len(rows))


def _draw(groups: Sequence[Any], places: Sequence[int], count: int, seed: int) -> list[int]:
    """Draw a number of places with the seed, in proportion to the size of each group; returns them sorted."""
    members: dict[Any, list[int]] = {}
    for place in places:
        members.setdefault(groups[place], []).append(place)
    ordered = [members[group] for group in sorted(members)]
    draw = random.Random(seed)
    shares = apportion(count, [len(group) for group in ordered])
    return sorted(place for group, share in zip(ordered, shares, strict=True) for place in draw.sample(group, share))


def _groups(table: Dataset, parts: Sequence[Part]) -> list[tuple[int, str]] | None:
    """Return the stratum of every row: source and class, or a column's value; None without stratification."""
    column = table.stratify_by_column
    kind = problem_type_of(parts[0].form)
    has_classes = isinstance(parts[0].form, TextClassification) and kind == "single_label_classification"
    by_class = column == "auto" and has_classes
    if column in {"auto", "none"} and not by_class:
        if len(parts) == 1:
            return None
        return [(number, "") for number, part in enumerate(parts) for _ in part.source.rows]

    def group(row: Row, form: Format) -> str:
        if by_class:
            with contextlib.suppress(RowFaultError):  # reported by `find_labels`
                return form.answer(row.values)
            return ""
        if column not in row.values:
            raise RowFaultError(
                f"no column `{column}`, which `stratify_by_column` names", f"columns: {', '.join(row.values)}"
            )
        return json.dumps(row.values[column], sort_keys=True, default=str)

    return [
        (number, value)
        for number, part in enumerate(parts)
        for value in for_each(part.source.rows, functools.partial(group, form=part.form))
    ]


MOST_REPEATED = 100
"""Limit on how often mixing may repeat all rows; more is probably a mistake in a weight."""


def mix(recipe: Recipe, parts: Sequence[Part]) -> tuple[Source, list[Part]]:
    """Combine the training rows of all sources: concatenated, or mixed by weight."""
    data = recipe.dataset
    sizes = [len(part.source.rows) for part in parts]
    weights = [part.weight for part in parts if part.weight is not None]
    if weights:
        _check_weights(data, parts, weights)
        turns = interleave(sizes, weights, recipe.training.seed, data.stopping_strategy)
    else:
        turns = [(number, place) for number, size in enumerate(sizes) for place in range(size)]
    turns = turns[: data.max_samples]
    rows = [parts[number].source.rows[place] for number, place in turns]
    used = Counter(number for number, _ in turns)
    source = Source(
        f"{', '.join(part.source.name for part in parts)} ({len(parts)} sources)",
        rows,
        _shared_classes(parts),
        [problem for part in parts for problem in part.source.left_out],
    )
    return source, [replace(part, used=used[number]) for number, part in enumerate(parts)]


def _check_weights(table: Dataset, parts: Sequence[Part], weights: Sequence[float]) -> None:
    """Refuse weights with which `all_exhausted` would repeat the other sources too often."""
    total = sum(len(part.source.rows) for part in parts)
    if table.stopping_strategy == "first_exhausted":
        return
    turns = [len(part.source.rows) * sum(weights) / weight for part, weight in zip(parts, weights, strict=True)]
    if max(turns) > MOST_REPEATED * total:
        key = f"{parts[turns.index(max(turns))].key}.weight"
        what = f"needs about {max(turns):,.0f} rows until all {total:,} have been used once"
        raise DataError(Problem("", what, 'give it more weight, or write "first_exhausted"', key=key))


def _shared_classes(parts: Sequence[Part]) -> Mapping[str, tuple[str, ...]]:
    """Return the class names of columns for which all sources agree, including their order."""
    first = parts[0].source.classes
    return {
        column: names
        for column, names in first.items()
        if all(part.source.classes.get(column) == names for part in parts)
    }


StoppingStrategy = Literal["first_exhausted", "all_exhausted"]


def apportion(count: int, sizes: Sequence[int]) -> list[int]:
    """Divide `count` rows among groups in proportion to their sizes, by largest remainders.

    A group of two or more rows gives at least one and keeps at least one, if that is possible for all groups.
    """
    total = sum(sizes)
    ideal = [Fraction(count * size, total) for size in sizes]
    least = [int(size > 1) for size in sizes]
    most = [max(0, size - 1) for size in sizes]
    if sum(least) > count:
        least = [0] * len(sizes)
    if sum(most) < count:
        most = list(sizes)
    given = [min(max(int(part), low), high) for part, low, high in zip(ideal, least, most, strict=True)]
    step = 1 if sum(given) < count else -1
    # The group with the largest deficit comes first; ties go to the first group.
    lacking = [(step * (given[group] - ideal[group]), group) for group in range(len(sizes))]
    heapq.heapify(lacking)
    for _ in range(abs(count - sum(given))):
        while True:
            gap, group = heapq.heappop(lacking)
            if least[group] <= given[group] + step <= most[group]:
                break
        given[group] += step
        heapq.heappush(lacking, (gap + 1, group))
    return given


def interleave(
    sizes: Sequence[int], weights: Sequence[float], seed: int, strategy: StoppingStrategy
) -> list[tuple[int, int]]:
    """Return source and row of each turn: sources drawn by weight, rows of each in order.

    Like `datasets.interleave_datasets`, it ends when one source is exhausted, or when all are. Until then, an exhausted
    source starts again.
    """
    draw = random.Random(seed)
    bounds = list(itertools.accumulate(weights))
    ends = any if strategy == "first_exhausted" else all
    turns: list[tuple[int, int]] = []
    places = [0] * len(sizes)
    exhausted = [False] * len(sizes)
    while not ends(exhausted):
        (source,) = draw.choices(range(len(sizes)), cum_weights=bounds)
        turns.append((source, places[source]))
        places[source] = (places[source] + 1) % sizes[source]
        exhausted[source] |= not places[source]
    return turns
