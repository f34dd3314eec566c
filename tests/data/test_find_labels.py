"""What a classifier is to predict, by its rows: what they cannot mean is told, with what to write instead."""

import json
from pathlib import Path

import pytest
from services_recipes import CLASSES
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.data.find_labels import find_labels
from lora_ns.data.sources import read_sources
from lora_ns.errors import DataError
from lora_ns.recipe.load import load_recipe, locating


@pytest.fixture
def labels_of(tmp_path):
    def labels_of(labels, *overrides, eval_labels=(["a"],)):
        for name, listed in (("classes.jsonl", labels), ("eval.jsonl", eval_labels)):
            rows = [{"text": f"t {number}", "label": label} for number, label in enumerate(listed)]
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "recipe.toml").write_text(CLASSES)
        loaded = load_recipe(Path("recipe.toml"), overrides)
        with locating(loaded):
            sources = read_sources(loaded.recipe, loaded.folder)
            return find_labels(sources.train, sources.format, loaded.recipe.objective)

    return labels_of


CLASSES_OF_TWO = ([1, 0], [0, 1])
NAMED = 'classification.labels=["a", "b"]'
SEVERAL = "classification.problem_type=multi_label_classification"


@pytest.mark.parametrize("overrides", [(), (NAMED,), (SEVERAL,), ('classification.labels=["a", "b", "c"]',)])
@pytest.mark.parametrize("rows", [CLASSES_OF_TWO, CLASSES_OF_TWO[::-1], ([1.0, 0.0], [0.0, 1.0]), ("[1, 0]", "[0,1]")])
def test_a_0_or_1_for_each_of_two_labels_is_refused(labels_of, rows, overrides):
    if isinstance(rows[0], str):
        overrides = (*overrides, SEVERAL)
    with pytest.raises(DataError, match="`label` has a 0 and a 1 in every row") as caught:
        labels_of(rows * 12, *overrides)
    assert 'such as ["a"] or [1], [] for none' in caught.value.problems[0].remedy


@pytest.mark.parametrize("overrides", [(), (NAMED,)])
@pytest.mark.parametrize("count", [3, 4, 9])
def test_a_0_or_1_for_each_of_more_labels_is_refused_with_its_row(labels_of, count, overrides):
    rows = [[int(number == holds) for number in range(count)] for holds in range(count)]
    (code, said) = validated(labels_of, rows, *overrides)
    assert code == 2
    assert "0 and 1 are read as names of labels" in said


@pytest.mark.parametrize(
    ("rows", "overrides"),
    [
        ([[0, 1], [1, 0], [2], [0]], ()),
        ([[0, 1], [1]], (NAMED,)),
        ([[0, 1], [1, 0], []], (NAMED,)),
        ([[0, 1]] * 4, ('classification.labels=["a", "b", "c"]',)),
        ([["a", "b"], ["b", "a"]], ()),
        ([["a", "b"]] * 4, ()),
        ([[1], [0]], ()),
    ],
)
def test_numbers_of_labels_that_hold_are_read(labels_of, rows, overrides):
    assert labels_of(rows, *overrides)


def test_all_lists_in_one_order_say_nothing_that_can_be_learned(labels_of):
    with pytest.raises(DataError, match="if both apply to every row, write their names"):
        labels_of([[0, 1]] * 4)


def test_rows_that_are_evaluated_are_looked_at_alike(labels_of):
    rows, two = [["a"], ["b"], ["a", "b"]], "dataset.eval_path=eval.jsonl"
    labels_of(rows, two, eval_labels=CLASSES_OF_TWO)
    pytest.importorskip("transformers")
    done = CliRunner().invoke(app, ["validate", "recipe.toml", "--data", "--set", two])
    assert "has a 0 and a 1 in every row" in str(done.exception)
    labels_of(rows, two, eval_labels=[[0, 1]])
    assert CliRunner().invoke(app, ["validate", "recipe.toml", "--data", "--set", two]).exit_code == 0


def validated(labels_of, rows, *overrides):
    try:
        labels_of(rows, *overrides)
    except DataError as error:
        return error.exit_code, str(error)
    pytest.importorskip("transformers")
    sets = [part for override in overrides for part in ("--set", override)]
    done = CliRunner().invoke(app, ["validate", "recipe.toml", "--data", *sets])
    return done.exit_code, done.output
