"""The direction of a metric by its name is the one that its suite and its trainer say."""

import pytest

from lora_ns.recipe.best_metric import known_metrics
from lora_ns.recipe.directions import LOWER, is_lower_better
from lora_ns.recipe.load import load_recipe
from lora_ns.suites import SUITES


@pytest.mark.parametrize("name", SUITES)
def test_figures_of_suites(name):
    lower = SUITES[name].lower_is_better
    assert all(is_lower_better(f"eval_my suite.{figure}") for figure in lower)
    assert all(is_lower_better(f"eval_my suite.{figure}/a group") for figure in lower)


@pytest.mark.parametrize("figure", ["accuracy", "exact_match", "pass@1", "f1", "bleu"])
def test_other_figures_are_better_the_higher_they_are(figure):
    assert not is_lower_better(f"eval_my suite.{figure}")
    assert not is_lower_better(f"eval_{figure}")


def test_metrics_of_trainers(write_recipe):
    for name in known_metrics(load_recipe(write_recipe()).recipe):
        assert is_lower_better(f"eval_{name}") == (name in LOWER)
