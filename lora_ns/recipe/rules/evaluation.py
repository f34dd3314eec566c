"""Rules of `[evaluation]` and `[generation]`."""

from __future__ import annotations

import re

from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.written import is_written
from lora_ns.safety.deadline import OverrunError, bounded
from lora_ns.table import Conflict

SAMPLING_KEYS = ("temperature", "top_p", "top_k")


def sampling_keys_need_it(recipe: Recipe) -> Conflict | None:
    """The details of drawing tokens need the drawing."""
    for key in SAMPLING_KEYS:
        if is_written(recipe, f"generation.{key}") and not recipe.generation.do_sample:
            what = f"`{key}` has no effect without `do_sample = true`: the likeliest token is taken"
            return Conflict((f"generation.{key}",), what, "add it, or remove this key")
    return None


def exact_match_has_rows(recipe: Recipe) -> Conflict | None:
    """Answers are compared on evaluation rows."""
    data = recipe.dataset
    if recipe.evaluation.exact_match and not (data.eval_split or data.eval_path or data.eval_fraction):
        return Conflict(
            ("evaluation.exact_match",),
            "there are no evaluation rows to answer",
            "add `eval_path`, `eval_split` or `eval_fraction`",
        )
    return None


def exact_match_keys_need_it(recipe: Recipe) -> Conflict | None:
    """The details of a comparison need the comparison."""
    for key in ("answer_pattern", "group_by", "max_samples"):
        if is_written(recipe, f"evaluation.{key}") and not recipe.evaluation.exact_match:
            return Conflict((f"evaluation.{key}",), f"`{key}` has no effect without `exact_match = true`", "add it")
    return None


def answer_pattern_is_a_pattern(recipe: Recipe) -> Conflict | None:
    """The answer's pattern is a regular expression with one group at most."""
    try:
        groups = bounded(lambda: re.compile(recipe.evaluation.answer_pattern or "")).groups
    except (re.error, RecursionError, OverflowError, OverrunError) as error:
        return Conflict(("evaluation.answer_pattern",), f"not a regular expression: {error}", 'such as "#### (.+)"')
    if groups > 1:
        return Conflict(
            ("evaluation.answer_pattern",), f"{groups} groups", "mark the answer by one group, others as `(?:...)`"
        )
    return None
