"""Runs compared: their recipes, data, versions and machines, their curves, and their figures on the same items."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from lora_ns.errors import LoransError, Problem, RecipeError, UsageError
from lora_ns.files.reading import LARGEST_LIST, is_folder, read_bytes, read_text
from lora_ns.recipe.lines import line_numbers
from lora_ns.recipe.overrides import origin_of
from lora_ns.report.curves import Curves, read_curves
from lora_ns.run.overview import Overview, data_of, evaluations_of, number_in, overview, text_in, within
from lora_ns.run.paths import RunPaths
from lora_ns.services.list_runs import flat


@dataclass(frozen=True)
class Differing:
    """A value that is not the same in all runs."""

    key: str
    values: tuple[Any, ...]
    """Of each run; None if a run does not have it."""
    origins: tuple[str, ...] = ()
    """Of each run, for a key of the recipe: `recipe`, `--set`, `default` or `unknown`."""


@dataclass(frozen=True)
class Paired:
    """A later run against the first one, on the items that both have answered."""

    run: int
    """Place of the run among those compared, from 0."""
    items: int
    """Items that both have."""
    of_items: int
    """Items of the run that has more."""
    verdict: str
    reason: str
    """The verdict with its numbers."""


@dataclass(frozen=True)
class Measured:
    """A figure of each run."""

    name: str
    values: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    """Of each run, at 95 %."""
    is_share: bool = False
    """True for a share of the items, which is shown in percent."""
    paired: tuple[Paired, ...] = ()


@dataclass(frozen=True)
class RunsDiff:
    """The comparison of runs. Tables list only what differs; figures are all listed."""

    names: tuple[str, ...]
    """A short name of each run."""
    runs: tuple[Overview, ...]
    recipe: tuple[Differing, ...]
    data: tuple[Differing, ...]
    versions: tuple[Differing, ...]
    machine: tuple[Differing, ...]
    metrics: tuple[Measured, ...]
    curves: tuple[Curves, ...] = field(repr=False)
    """Of each run."""
    notes: tuple[str, ...] = ()


def diff_runs(paths: Sequence[Path]) -> RunsDiff:
    """Compare runs with the first of them.

    Raises:
        UsageError: if there are fewer than two, one is named twice, or one is no run or has an unreadable manifest.
    """
    if len(paths) < 2:
        raise UsageError(Problem("", "one run alone has nothing to be compared with", "name two or more runs"))
    twice = next((path for path, count in Counter(path.resolve() for path in paths).items() if count > 1), None)
    if twice is not None:
        raise UsageError(Problem(str(twice), "is named twice", "name different runs"))
    runs = [_opened(path) for path in paths]
    notes: list[str] = []
    curves = [_curves(path, notes) for path in paths]
    manifests = [run.manifest for run in runs]
    origins = [_origins(path, manifest) for path, manifest in zip(paths, manifests, strict=True)]
    return RunsDiff(
        tuple(short_names([path.absolute() for path in paths])),
        tuple(runs),
        _recipes([flat(manifest.get("recipe")) for manifest in manifests], origins),
        differing([_data(manifest) for manifest in manifests]),
        differing([{"lorans": manifest.get("lorans"), **flat(manifest.get("packages"))} for manifest in manifests]),
        differing([_machine(manifest) for manifest in manifests]),
        (*_evaluated(paths, notes), *_logged(manifests)),
        tuple(curves),
        tuple(notes),
    )


def _opened(path: Path) -> Overview:
    if not is_folder(path):
        raise UsageError(Problem(str(path), "no such run directory", "name the `output_dir` of a run"))
    found = overview(path, measures_size=False)
    if not found.manifest:
        raise UsageError(Problem(str(path), "; ".join(found.notes), "name another run"))
    return found


def _curves(path: Path, notes: list[str]) -> Curves:
    try:
        found = read_curves(RunPaths(path).metrics)
    except LoransError as error:
        notes.append(str(error))
        return Curves()
    notes += [f"{path}: {note}" for note in found.notes]
    return found


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that differ from each other."""
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths) and depth < max(len(path.parts) for path in paths):
        depth += 1
    return [str(Path(*path.parts[-depth:])) for path in paths]


# What differs


def differing(tables: Sequence[Mapping[str, Any]]) -> tuple[Differing, ...]:
    """Return the keys whose values are not the same in all tables."""
    keys = dict.fromkeys(itertools.chain.from_iterable(tables))
    rows = (Differing(key, tuple(table.get(key) for table in tables)) for key in keys)
    return tuple(row for row in rows if any(value != row.values[0] for value in row.values[1:]))


_NO_SETTINGS = frozenset({"training.output_dir"})
"""Keys of a recipe that differ in every run."""


def _recipes(recipes: Sequence[Mapping[str, Any]], origins: Sequence[_Origins]) -> tuple[Differing, ...]:
    tables = {one.objective for one in origins}
    owner = f"{tables.pop()}." if len(tables) == 1 else "objective."
    return tuple(
        Differing(row.key.replace("objective.", owner, 1), row.values, tuple(one.of(row.key) for one in origins))
        for row in differing(recipes)
        if row.key not in _NO_SETTINGS
    )


@dataclass(frozen=True)
class _Origins:
    """Where the values of a run's recipe come from."""

    lines: Mapping[str, int]
    overrides: tuple[str, ...]
    objective: str
    is_known: bool = True

    def of(self, key: str) -> str:
        """Return the origin of a key of the recipe as the manifest has it, whose objective is in one table."""
        written = key.replace("objective.", f"{self.objective}.", 1) if key.startswith("objective.") else key
        try:
            return origin_of(self.lines, self.overrides, written) if self.is_known else "unknown"
        except RecipeError:
            return "unknown"


def _origins(path: Path, manifest: Mapping[str, Any]) -> _Origins:
    given = manifest.get("overrides")
    overrides = tuple(one for one in given if isinstance(one, str)) if isinstance(given, list) else ()
    objective = text_in(manifest, "recipe", "objective", "table") or "objective"
    try:
        return _Origins(line_numbers(read_text(RunPaths(path).recipe)), overrides, objective)
    except UsageError:
        return _Origins({}, overrides, objective, is_known=False)


_OF_ROWS = ("rows", "dropped", "truncated", "tokens", "trained_tokens", "left_out", "sha256")


def _data(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the manifest records about the rows, the base and the template, by name."""
    found: dict[str, Any] = {"training rows": data_of(manifest), "format": within(manifest, "data", "format")}
    for part, name in (("train", "training rows"), ("eval", "evaluation rows")):
        source = within(manifest, "data", part)
        if part == "eval":
            found[name] = within(source, "source")
        found |= {f"{name}, {key}": within(source, key) for key in _OF_ROWS}
    return found | {
        "base, fingerprint": within(manifest, "base", "fingerprint"),
        "tokenizer, fingerprint": within(manifest, "base", "tokenizer_fingerprint"),
        "chat template, sha256": manifest.get("chat_template_sha256"),
    }


_VARYING = frozenset({"available_bytes"})
"""Facts of a machine that change from minute to minute."""


def _machine(manifest: Mapping[str, Any]) -> dict[str, Any]:
    machine = manifest.get("machine")
    facts = {key: value for key, value in machine.items() if key not in _VARYING} if isinstance(machine, dict) else {}
    plan = {name: within(manifest, "plan", name, "value") for name in ("device", "dtype", "world_size", "strategy")}
    return {**flat(facts), **plan}


# Figures


def _logged(manifests: Sequence[Mapping[str, Any]]) -> Iterator[Measured]:
    """Yield the final metrics of the manifests. They have no items, and so no intervals."""
    tables = [table if isinstance(table := manifest.get("metrics"), dict) else {} for manifest in manifests]
    for name in dict.fromkeys(itertools.chain.from_iterable(tables)):
        values = tuple(number_in(table, name) for table in tables)
        if not str(name).startswith("baseline/") and any(value is not None for value in values):
            yield Measured(str(name), values, tuple(None for _ in values))


@dataclass(frozen=True)
class _Evaluation:
    """The newest evaluation of a run: figures by suite and name, and scores by suite, name and item."""

    figures: Mapping[tuple[str, str], tuple[float | None, tuple[float, float] | None]]
    shares: frozenset[tuple[str, str]]
    lower_is_better: frozenset[tuple[str, str]]
    scores: Mapping[tuple[str, str], Mapping[str, float]]


def _evaluated(paths: Sequence[Path], notes: list[str]) -> list[Measured]:
    """Return the figures of each run's newest evaluation, with a paired test against the first run."""
    found = [_evaluation(RunPaths(path), notes) for path in paths]
    keys = dict.fromkeys(itertools.chain.from_iterable(one.figures for one in found))
    pairs = {key: _paired(key, found) for key in keys}
    try:
        tested = _tested(pairs, found)
    except ImportError:
        notes.append("numpy and scipy are not installed, so runs are not tested against each other")
        tested = {}
    return [
        Measured(
            suite if name in {suite, ""} else f"{suite}.{name}",
            tuple(one.figures.get((suite, name), (None, None))[0] for one in found),
            tuple(one.figures.get((suite, name), (None, None))[1] for one in found),
            any((suite, name) in one.shares for one in found),
            tested.get((suite, name), ()),
        )
        for suite, name in keys
    ]


def _evaluation(files: RunPaths, notes: list[str]) -> _Evaluation:
    for folder in evaluations_of(files):
        try:
            suites = within(from_json(read_bytes(folder / "results.json")), "suites")
            scores = _scores(folder / "items.jsonl")
        except (LoransError, ValueError) as error:
            notes.append(f"{folder}: skipped: {error}")
            continue
        listed = [suite for suite in suites if isinstance(suite, Mapping)] if isinstance(suites, list) else []
        return _Evaluation(
            {key: figure for suite in listed for key, figure in _figures(suite)},
            frozenset((_title(suite), name) for suite in listed for name in _names(suite, "shares")),
            frozenset((_title(suite), name) for suite in listed for name in _names(suite, "lower_is_better")),
            scores,
        )
    return _Evaluation({}, frozenset(), frozenset(), {})


def _title(suite: Mapping[str, Any]) -> str:
    return text_in(suite, "name") or ""


def _names(suite: Mapping[str, Any], key: str) -> list[str]:
    found = suite.get(key)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _figures(
    suite: Mapping[str, Any],
) -> Iterator[tuple[tuple[str, str], tuple[float | None, tuple[float, float] | None]]]:
    figures = within(suite, "whole", "figures")
    for name, systems in figures.items() if isinstance(figures, Mapping) else ():
        figure = within(systems, _ADAPTER)
        if not isinstance(figure, Mapping):
            continue
        low, high = number_in(figure, "low"), number_in(figure, "high")
        ends = None if low is None or high is None else (low, high)
        yield (_title(suite), str(name)), (number_in(figure, "value"), ends)


_ADAPTER = "adapter"


def _scores(file: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Return the adapter's scores by suite and figure, each by the question and answer that identify an item."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    seen: Counter[tuple[str, str]] = Counter()
    for line in read_bytes(file, most=LARGEST_LIST).split(b"\n"):
        try:
            row = from_json(line) if line else None
        except ValueError:
            continue
        if not isinstance(row, dict):
            continue
        suite = text_in(row, "suite") or ""
        told = {key: row[key] for key in ("question", "expected") if key in row} or {"item": row.get("item")}
        item = json.dumps(told, sort_keys=True)
        seen[suite, item] += 1
        scores = within(row, "scores", _ADAPTER)
        for name in scores if isinstance(scores, Mapping) else ():
            if (value := number_in(scores, name)) is not None:
                found.setdefault((suite, str(name)), {})[f"{item} {seen[suite, item]}"] = value
    return found


_Pair = tuple[int, list[float], list[float], int]
"""A run's place, the scores of the first run and of this one on the items of both, and the larger number of items."""


def _paired(key: tuple[str, str], found: Sequence[_Evaluation]) -> list[_Pair]:
    first = found[0].scores.get(key, {})
    pairs = []
    for place, one in enumerate(found[1:], start=1):
        scores = one.scores.get(key, {})
        shared = [item for item in first if item in scores]
        if len(shared) > 1:
            of_items = max(len(first), len(scores))
            pairs.append((place, [first[item] for item in shared], [scores[item] for item in shared], of_items))
    return pairs


def _tested(
    pairs: Mapping[tuple[str, str], list[_Pair]], found: Sequence[_Evaluation]
) -> dict[tuple[str, str], tuple[Paired, ...]]:
    """Test each pair; p-values are corrected for all runs and figures together (Holm)."""
    from lora_ns.statistics import adjust, compare, mean, share

    made = []
    for key, listed in pairs.items():
        is_lower = any(key in one.lower_is_better for one in found)
        for place, first, other, of_items in listed:
            is_right = key in {*itertools.chain.from_iterable(one.shares for one in found)} and {*first, *other} <= {
                0,
                1,
            }
            one, two = ((share([bool(v) for v in side]) if is_right else mean(side)) for side in (first, other))
            made.append((key, place, of_items, compare(one, two, higher_is_better=not is_lower)))
    tested: dict[tuple[str, str], tuple[Paired, ...]] = {}
    for (key, place, of_items, _), done in zip(made, adjust([one[3] for one in made]), strict=True):
        paired = Paired(place, done.items, of_items, done.verdict, done.reason)
        tested[key] = (*tested.get(key, ()), paired)
    return tested
