"""Rules of `[evaluation]` and `[generation]`."""

from __future__ import annotations

import re

from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.written import is_written
from lora_ns.safety.deadline import OverrunError, bounded
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
