"""The metric that chooses the best evaluation of a run, and its direction, which is known by its name."""

from __future__ import annotations

from lora_ns.objectives import LabelObjective
from lora_ns.recipe.directions import LOWER
from lora_ns.recipe.recipe import Recipe

USUAL = "loss"
"""The metric of a recipe that needs one and names none."""

_OF_LABELS = (
    *("accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation", "precision", "recall", "subset_accuracy"),
    *("pearson", "spearman"),
)

_OF_ANSWERS = (
    *("mean_token_accuracy", "exact_match", "rewards/accuracies", "rewards/margins", "rewards/chosen"),
    *("accuracy", "margin", "reward"),
)


def best_metric(recipe: Recipe) -> str | None:
    """Return the metric that chooses the best evaluation, without `eval_`; None if the recipe asks for none."""
    training = recipe.training
    if training.metric_for_best_model is not None:
        return training.metric_for_best_model.removeprefix("eval_")
    return USUAL if training.load_best_model_at_end or training.early_stopping_patience else None


def known_metrics(recipe: Recipe) -> tuple[str, ...]:
    """Return the metrics of the objective whose direction is known; suites have further ones, as `NAME.FIGURE`."""
    if isinstance(recipe.objective, LabelObjective):
        return (*LOWER, *_OF_LABELS)
    return (USUAL, *_OF_ANSWERS)


def is_higher_better(recipe: Recipe, name: str) -> bool | None:
    """Return the direction of a metric; None if it is unknown.

    `training.extra.greater_is_better` sets that of any metric.
    """
    if (told := recipe.training.extra.get("greater_is_better")) is not None:
        return bool(told)
    if name in known_metrics(recipe):
        return name not in LOWER
    title, _, figure = name.partition(".")
    for suite in recipe.evaluation.suites:
        if figure and suite.title == title:
            return figure.partition("/")[0] not in suite.lower_is_better
    whole, _, group = name.partition("/")
    return whole not in LOWER if group and whole in known_metrics(recipe) else None


def is_of_a_suite(recipe: Recipe, name: str) -> bool:
    """Return whether a metric is measured by exact match or a suite, which are asked during training on request."""
    title = name.partition(".")[0] if "." in name else ""
    return name.partition("/")[0] == "exact_match" or title in {suite.title for suite in recipe.evaluation.suites}
