"""A problem names its key, and gets its place in the recipe once, where a command ends."""

import pytest

from lora_ns.errors import (
    DataError,
    InterruptedRunError,
    LoransError,
    MissingError,
    ModelError,
    PlanError,
    Problem,
    RecipeError,
    RunError,
    UsageError,
    at_key,
)
from lora_ns.recipe.load import load_recipe, locating

KINDS = (RunError, UsageError, RecipeError, DataError, ModelError, PlanError, MissingError, LoransError)


@pytest.fixture
def loaded(write_recipe):
    return load_recipe(write_recipe(), ["training.seed=1"])


def raised(loaded, error):
    with pytest.raises(type(error)) as caught, locating(loaded):
        raise error from KeyError("why")
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_every_expected_failure_is_located_and_keeps_its_kind_and_its_cause(loaded, kind):
    problem = Problem("", "is wrong", "mend it", "CODE1", key="peft.method")
    found = raised(loaded, kind(problem))
    (told,) = found.problems
    assert str(told) == f"{loaded.where('peft.method')}: [CODE1] peft.method: is wrong (mend it)"
    assert isinstance(found.__cause__, KeyError)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (Problem("", "is wrong", key="training.seed"), "--set: training.seed: is wrong"),
        (Problem("rows.jsonl:3", "is wrong", key="training.seed"), "rows.jsonl:3: training.seed: is wrong"),
        (Problem("", "rows.jsonl: is wrong", place="training.seed"), "--set: rows.jsonl: is wrong"),
        (Problem("", "is wrong"), "is wrong"),
    ],
)
def test_what_is_located_is_what_has_a_key_and_no_place(loaded, problem, told):
    assert [str(one) for one in raised(loaded, UsageError(problem)).problems] == [told]


def test_the_innermost_place_stays(loaded, write_recipe):
    inner = load_recipe(write_recipe(), ["peft.lora_r=4"])
    error = raised(inner, UsageError(Problem("", "is wrong", key="peft.lora_r")))
    assert str(raised(loaded, error)) == "--set: peft.lora_r: is wrong"


def test_a_run_that_was_stopped_keeps_its_signal(loaded):
    assert raised(loaded, InterruptedRunError(15, Problem("", "stopped", key="training.seed"))).signal_number == 15


def test_a_bug_stays_a_bug(loaded):
    with pytest.raises(ZeroDivisionError), locating(loaded):
        raise ZeroDivisionError


def test_what_reads_a_file_learns_the_key_that_names_it():
    with pytest.raises(UsageError) as caught, at_key("sft.chat_template"):
        raise UsageError([Problem("", "is gone"), Problem("own.jinja:2", "is wrong")])
    assert [str(problem) for problem in caught.value.problems] == [
        "sft.chat_template: is gone",
        "own.jinja:2: is wrong",
    ]
