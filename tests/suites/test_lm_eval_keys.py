"""Keys of the suite of lm-evaluation-harness: what a recipe may write, and what needs consent."""

import pytest

from lora_ns.errors import RecipeError, UsageError
from lora_ns.recipe.evaluation import Evaluation
from lora_ns.recipe.load import load_recipe
from lora_ns.suites import HeldOutSuite, LmEvalSuite


def test_it_is_named_after_its_task():
    assert (LmEvalSuite(task="arc_easy").title, LmEvalSuite(task="arc_easy", name="arc").title) == ("arc_easy", "arc")


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"include_path": "tasks"}, "evaluation.suites.0.include_path"),
        ({"path": "rows.jsonl", "max_samples": 3}, "evaluation.suites.0.path"),
    ],
)
def test_code_without_consent_and_rows_that_are_not_read_are_conflicts(keys, key):
    (conflict,) = LmEvalSuite(task="arc_easy", **keys).conflicts("evaluation.suites.0")
    assert conflict.keys == (key,)


def test_task_files_are_not_loaded_without_consent():
    LmEvalSuite(task="arc_easy").check_allowed()
    LmEvalSuite(task="mine", include_path="tasks", allow_code=True).check_allowed()
    with pytest.raises(UsageError, match="--allow-code"):
        LmEvalSuite(task="mine", include_path="tasks").check_allowed()


def test_a_recipe_needs_no_evaluation_rows_for_it(write_recipe):
    suite = "evaluation.suites=[{kind='%s'}]"
    task = "evaluation.suites=[{kind='lm-eval', task='arc_easy'}]"
    assert load_recipe(write_recipe(), [task]).recipe.evaluation.suites[0].title == "arc_easy"
    with pytest.raises(RecipeError, match="there are none"):
        load_recipe(write_recipe(), [suite % "held-out"])
    with pytest.raises(RecipeError, match="task"):
        load_recipe(write_recipe(), [suite % "lm-eval"])


def test_training_leaves_tasks_of_the_harness_to_eval():
    evaluation = Evaluation(suites=(LmEvalSuite(task="arc_easy"), HeldOutSuite()), exact_match=True)
    assert [suite.kind for suite in evaluation.asked] == ["exact-match", "held-out"]
