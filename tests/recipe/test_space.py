"""Values of `lorans sweep`: lists and ranges, and what is refused before anything trains."""

import itertools
import math
from pathlib import Path

import pytest
from minimal_recipe import MINIMAL

from lora_ns.errors import RecipeError
from lora_ns.recipe.space import Choices, Range, check_space, read_space


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("peft.lora_r=8,16,32", Choices(("8", "16", "32"))),
        ("peft.lora_r= 8 , 8 ,16", Choices(("8", "16"))),
        ("training.lr_scheduler_type=cosine,linear", Choices(('"cosine"', '"linear"'))),
        ('dataset.path="a,b",c', Choices(('"a,b"', '"c"'))),
        ('peft.target_modules=["q","v"],["q"]', Choices(('["q", "v"]', '["q"]'))),
        ("training.learning_rate=log(1e-5,1e-3)", Range("log", 1e-5, 1e-3)),
        ("peft.lora_dropout=uniform(0, 0.1)", Range("uniform", 0, 0.1)),
        ("peft.lora_r=int(2,64)", Range("int", 2, 64)),
    ],
)
def test_values_are_read(written: str, values: object) -> None:
    space = read_space([written, "training.seed=1"])
    assert [key.values for key in space.keys] == [values]
    assert space.fixed == ("training.seed=1",)


@pytest.mark.parametrize(
    ("written", "part"),
    [
        (["training.seed=1"], "no key has more than one value"),
        ([], "no key has more than one value"),
        (["training.learning_rate=log(0,1)"], "above 0"),
        (["training.learning_rate=log(1,0.1)"], "no range"),
        (["training.learning_rate=log(1)"], "two numbers"),
        (["training.learning_rate=log(1,nan)"], "no range"),
        (["peft.lora_r=int(1.5,8)"], "whole numbers"),
        (["peft.lora_r=8,,16"], "empty value"),
        (["training.output_dir=a,b"], "changes no result"),
        (["peft.lora_r=8,16", "peft.lora_r=int(1,8)"], "varied twice"),
        (["peft.lora_r"], "write `table.key=value`"),
    ],
)
def test_what_is_no_space_is_refused(written: list[str], part: str) -> None:
    with pytest.raises(RecipeError, match=part):
        read_space(written)


@pytest.mark.parametrize("kind", ["log", "uniform", "int"])
@pytest.mark.parametrize("points", [1, 2, 5])
def test_a_grid_of_a_range_stays_within_it_and_is_evenly_spread(kind: str, points: int) -> None:
    values = [float(text) for text in Range(kind, 1, 16).grid(points)]  # type: ignore[arg-type]
    assert len(values) == points
    assert all(1 <= value <= 16 for value in values)
    steps = [(math.log(b / a) if kind == "log" else b - a) for a, b in itertools.pairwise(values)]
    assert all(math.isclose(step, steps[0], rel_tol=0.3) for step in steps)


@pytest.mark.parametrize("trials", [4, 7, 12, 100])
def test_a_grid_has_at_most_as_many_combinations_as_trials(trials: int) -> None:
    space = read_space(["peft.lora_r=4,8", "training.learning_rate=log(1e-5,1e-3)", "peft.lora_dropout=uniform(0,0.1)"])
    listed = space.listed(trials)
    assert listed.is_listed
    assert len(listed.combinations()) <= trials


@pytest.mark.parametrize(
    ("written", "part"),
    [
        ("peft.lora_rank=8,16", "lora_rank"),
        ("peft.lora_r=0,-1", "lora_r"),
        ("peft.lora_r=int(0,8)", "lora_r"),
        ("training.learning_rate=fast,slow", "learning_rate"),
    ],
)
def test_a_key_without_a_valid_value_is_refused_before_anything_trains(tmp_path: Path, written: str, part: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(MINIMAL)
    with pytest.raises(RecipeError, match=part):
        check_space(file, MINIMAL, read_space([written]))


def test_one_invalid_value_of_a_list_is_left_to_its_trial(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(MINIMAL)
    assert check_space(file, MINIMAL, read_space(["peft.lora_r=0,8"])).recipe.peft.tag() == "lora"
