"""The figure that a bisection follows: a suite, one of its figures, and a group of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_ns.data.rows import Row
from lora_ns.errors import Problem, UsageError, did_you_mean
from lora_ns.recipe.recipe import Recipe
from lora_ns.services.evaluate import usual_suites
from lora_ns.suites import SUITES, CodeSuite, Suite

_OPTION = "--metric"


@dataclass(frozen=True)
class Metric:
    """A figure of a suite, on all of its rows or on those of a group."""

    suite: Suite
    figure: str
    group: str | None = None

    def __str__(self) -> str:
        return f"{self.suite.title}.{self.figure}{'' if self.group is None else f'/{self.group}'}"

    @property
    def higher_is_better(self) -> bool:
        """False for losses."""
        return self.figure not in self.suite.lower_is_better

    def rows_of(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The rows that count: of the first `max_samples`, those of the group.

        Raises:
            UsageError: if there are none.
        """
        chosen = rows[: self.suite.max_samples] if self.suite.max_samples else rows
        if not chosen:
            what = f"the suite `{self.suite.title}` has no rows"
            remedy = "give a file with `--data`, or as `path` of the suite"
            raise UsageError(Problem(self.suite.path or "", what, remedy))
        column = self.suite.group_by
        if self.group is None:
            return chosen
        if column is None:
            what = f"the suite `{self.suite.title}` has no groups"
            raise UsageError(Problem(_OPTION, what, f"leave `/{self.group}` out, or set `group_by` of the suite"))
        groups = {str(row.values.get(column)) for row in chosen}
        if self.group not in groups:
            hint = did_you_mean(self.group, groups) or f"one of: {', '.join(sorted(groups))}"
            raise UsageError(Problem(_OPTION, f"no row has the group `{self.group}` in column `{column}`", hint))
        return [row for row in chosen if str(row.values.get(column)) == self.group]


def metric_of(text: str | None, recipe: Recipe, allow_code: bool = False) -> Metric:
    """Find a figure by the name that gates give it.

    Args:
        text: the name, such as `gsm8k.number`, `exact_match/old`, or `gsm8k` for the first figure of that suite. None
            is exact match if the recipe asks for it, otherwise the first figure of its first suite, otherwise the loss
            on the evaluation rows.
        recipe: the recipe of the run.
        allow_code: whether generated programs may run.

    Raises:
        UsageError: if there is no such figure, or the run writes no text.
    """
    if not recipe.objective.writes_text:
        what = f"a run of `[{recipe.objective.toml}]` writes no text"
        raise UsageError(Problem(_OPTION, what, "compare checkpoints by the metrics in metrics.jsonl"))
    name, slash, group = (text or _usual(recipe)).partition("/")
    suite, figure = _named(name, _known(recipe))
    if suite.is_against_base:
        what = f"the suite `{suite.title}` compares with the base alone, and checkpoints have to be compared here"
        raise UsageError(Problem(_OPTION, what, "name the figure of a skill, such as `exact_match/old`"))
    if suite.asks == "drift":
        what = "the distance from the base grows with training, and breaks nothing"
        raise UsageError(Problem(_OPTION, what, "name the figure of a skill, such as `exact_match/old`"))
    if isinstance(suite, CodeSuite):
        suite = suite.model_copy(update={"allow_code": allow_code})
    return Metric(suite, figure, group if slash else None)


def _usual(recipe: Recipe) -> str:
    """The title of the suite to follow if none is named. Raises `UsageError` if there is none."""
    of_recipe = [suite.title for suite in recipe.evaluation.suites]
    if recipe.evaluation.exact_match:
        return "exact-match"
    usual = [suite.title for suite in usual_suites(recipe, exact_match=False)]
    if of_recipe or usual:
        return (of_recipe or usual)[0]
    what = f"a run of `[{recipe.objective.toml}]` has no usual figure"
    raise UsageError(Problem(_OPTION, what, "name one, such as `--metric exact_match`"))


def _known(recipe: Recipe) -> dict[str, Suite]:
    """The suites of a recipe by title: those of the run itself, and those with tables of their own."""
    return {one.title: one for one in (*usual_suites(recipe, exact_match=True), *recipe.evaluation.suites)}


def _named(name: str, known: Mapping[str, Suite]) -> tuple[Suite, str]:
    """The suite and figure with a name. Raises `UsageError`."""
    if name in known or name in SUITES:
        suite = _suite(name, known)
        return suite, _figures(suite)[0]
    title, dot, figure = name.rpartition(".")
    if dot and (title in known or title in SUITES):
        suite = _suite(title, known)
        if figure in _figures(suite):
            return suite, figure
        hint = did_you_mean(figure, _figures(suite)) or f"one of: {', '.join(_figures(suite))}"
        raise UsageError(Problem(_OPTION, f"the suite `{title}` has no figure `{figure}`", hint))
    plain = {figure: suite for suite in reversed(list(known.values())) for figure in _figures(suite)}
    if name in plain:
        return plain[name], name
    names = [*plain, *(f"{suite.title}.{figure}" for suite in known.values() for figure in _figures(suite)), *SUITES]
    hint = did_you_mean(name, names) or f"one of: {', '.join(names)}"
    raise UsageError(Problem(_OPTION, f"there is no figure `{name}`", hint))


def _suite(name: str, known: Mapping[str, Suite]) -> Suite:
    """A suite of the recipe, or a kind with its usual settings. Raises `UsageError`."""
    return known[name] if name in known else SUITES[name].with_usual_settings()


def _figures(suite: Suite) -> list[str]:
    """The names of the figures of a suite."""
    return list(suite.measure([], []))
