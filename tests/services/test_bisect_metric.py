"""A bisection follows a figure of a skill, and says so of the others."""

import pytest

pytest.importorskip("torch")

from lora_ns.errors import UsageError
from lora_ns.recipe.load import load_recipe
from lora_ns.services.bisect_metric import metric_of

SUITE = """
[[evaluation.suites]]
kind = "judge"
endpoint = "http://localhost:1/v1/chat/completions"
model = "one"
path = "rows.jsonl"
"""


@pytest.mark.parametrize(("name", "told"), [("drift", "breaks nothing"), ("judge", "compares with the base alone")])
def test_figures_that_belong_to_no_skill_are_refused(write_recipe, minimal, name, told):
    recipe = load_recipe(write_recipe(minimal + SUITE)).recipe
    with pytest.raises(UsageError, match=told):
        metric_of(name, recipe)
