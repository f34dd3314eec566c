"""Rules of `[evaluation]` and `[generation]`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lora_ns.formats import Preference
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.written import is_written
from lora_ns.safety.deadline import OverrunError, bounded
from lora_ns.suites import Suite
from lora_ns.table import Conflict

SAMPLING_KEYS = ("temperature", "top_p", "top_k")


def sampling_keys_need_it(recipe: Recipe) -> Conflict | None:
    """Sampling settings need sampling."""
    for key in SAMPLING_KEYS:
        if is_written(recipe, f"generation.{key}") and not recipe.generation.do_sample:
            what = f"`{key}` has no effect without `do_sample = true`"
            return Conflict((f"generation.{key}",), what, "add `do_sample = true`, or remove the key")
    return None


def exact_match_has_rows(recipe: Recipe) -> Conflict | None:
    """Exact match needs evaluation rows."""
    data = recipe.dataset
    if recipe.evaluation.exact_match and not (data.eval_split or data.eval_path or data.eval_fraction):
        return Conflict(
            ("evaluation.exact_match",),
            "exact match needs evaluation rows, and there are none",
            "add `eval_path`, `eval_split` or `eval_fraction`",
        )
    return None


def exact_match_keys_need_it(recipe: Recipe) -> Conflict | None:
    """Exact-match settings need exact match."""
    for key in ("answer_pattern", "group_by", "max_samples"):
        if is_written(recipe, f"evaluation.{key}") and not recipe.evaluation.exact_match:
            return Conflict((f"evaluation.{key}",), f"`{key}` has no effect without `exact_match = true`", "add it")
    return None


def asking_while_training_has_effect(recipe: Recipe) -> Conflict | None:
    """Asking during training needs something to ask, and evaluations to ask it at."""
    evaluation, data = recipe.evaluation, recipe.dataset
    key = "evaluation.while_training"
    if is_written(recipe, "evaluation.samples_while_training") and not evaluation.while_training:
        what = "`samples_while_training` has no effect without `while_training = true`"
        return Conflict(("evaluation.samples_while_training",), what, "add it, or remove the key")
    if not evaluation.while_training:
        return None
    if not evaluation.asked:
        what = "`while_training` has no effect without `exact_match = true` or suites"
        return Conflict((key,), what, "add one of them, or remove the key")
    if not (data.eval_split or data.eval_path or data.eval_fraction):
        what = "suites are asked at the evaluations during training, and there are no evaluation rows"
        return Conflict((key,), what, "add `eval_path`, `eval_split` or `eval_fraction`")
    return None


def answer_pattern_is_a_pattern(recipe: Recipe) -> Conflict | None:
    """The answer pattern is a regular expression with at most one group."""
    try:
        groups = bounded(lambda: re.compile(recipe.evaluation.answer_pattern or "")).groups
    except (re.error, RecursionError, OverflowError, OverrunError) as error:
        return Conflict(("evaluation.answer_pattern",), f"invalid regular expression: {error}", 'such as "#### (.+)"')
    if groups > 1:
        return Conflict(
            ("evaluation.answer_pattern",),
            f"it has {groups} groups",
            "keep one group for the answer, and write the others as `(?:...)`",
        )
    return None


def suites_have_own_names(recipe: Recipe) -> Conflict | None:
    """Suites have different names, by which reports and gates call them."""
    exact = "evaluation.exact_match"
    named = {"exact-match": exact} if recipe.evaluation.exact_match else {}
    for table, suite in _suites(recipe):
        key = f"{table}.name" if suite.name else f"{table}.kind"
        other = named.setdefault(suite.title, key)
        if other == exact:
            what = "`exact_match = true` is a suite `exact-match`, too"
            return Conflict((exact, key), what, "remove one of them, or write a `name`")
        if other != key:
            return Conflict((other, key), f"two suites are named `{suite.title}`", "write another `name`")
    return None


def suites_are_answered(recipe: Recipe) -> Conflict | None:
    """Suites measure text, or the loss of answers that are trained on; those of labels measure classes and scores."""
    objective = recipe.objective
    learns_answers = not objective.generates and Preference not in objective.examples
    for key, suite in _suites(recipe):
        if suite.asks == "label":
            if objective.answers == "labels":
                continue
            lacking = "gives texts no labels"
        elif objective.writes_text and (suite.asks != "loss" or learns_answers):
            continue
        else:
            lacking = "has no loss of answers" if objective.writes_text else "writes no text"
        what = f"a model of `[{objective.toml}]` {lacking}, which the suite `{suite.title}` measures"
        remedy = f"remove it: `lorans eval` reports the metrics of `[{objective.toml}]` on the evaluation rows"
        return Conflict((objective.toml, f"{key}.kind"), what, remedy)
    return None


def suites_have_rows(recipe: Recipe) -> Conflict | None:
    """Suites without a file need evaluation rows."""
    data = recipe.dataset
    for key, suite in _suites(recipe):
        if suite.asks_run_rows and not (data.eval_split or data.eval_path or data.eval_fraction):
            what = f"the suite `{suite.title}` asks the evaluation rows, and there are none"
            remedy = "name a file as its `path`, or add `eval_path`, `eval_split` or `eval_fraction`"
            return Conflict((f"{key}.kind",), what, remedy)
    return None


def suites_can_work(recipe: Recipe) -> Iterator[Conflict]:
    """Yield the conflicts between the keys of each suite."""
    for key, suite in _suites(recipe):
        yield from suite.conflicts(key)


def _suites(recipe: Recipe) -> Iterator[tuple[str, Suite]]:
    """Yield the suites with their dotted keys."""
    yield from ((f"evaluation.suites.{number}", suite) for number, suite in enumerate(recipe.evaluation.suites))
