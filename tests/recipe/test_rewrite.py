"""A recipe's text with other values: everything else stays, and it is the same recipe as with `--set`."""

from pathlib import Path

import pytest
import tomllib

from lora_ns.recipe.lines import comments
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.rewrite import rewritten

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_shipped_recipe_is_rewritten_as_set_would_change_it(file: Path) -> None:
    text = file.read_text()
    new = rewritten(text, {"training.learning_rate": 0.00123, "training.seed": 7})
    assert new is not None
    changed = load_recipe(file, ["training.learning_rate=0.00123", "training.seed=7"]).recipe
    assert load_recipe(file, (), new).recipe == changed
    assert [comment for _, comment in comments(new)] == [comment for _, comment in comments(text)]
    untouched = [line for line in text.splitlines() if not line.startswith(("learning_rate", "seed"))]
    assert [line for line in untouched if line not in new.splitlines()] == []


@pytest.mark.parametrize(
    ("line", "value", "expected"),
    [
        ("a = 1", 2, "a = 2"),
        ("a = 1 # why", 2.5, "a = 2.5 # why"),
        ('a = "x # y"   # why', "z", 'a = "z"   # why'),
        ("a = ['q', 'v'] # why", ["q"], 'a = ["q"] # why'),
        ("  a=true", False, "  a=false"),
        ("a = 'it\\'", "b", 'a = "b"'),
        ("a = 1e-4", 1e-05, "a = 1e-05"),
    ],
)
def test_the_value_of_a_line_is_replaced_and_its_comment_kept(line: str, value: object, expected: str) -> None:
    new = rewritten(f"[t]\n{line}\nb = 1\n", {"t.a": value})
    assert new == f"[t]\n{expected}\nb = 1\n"
    assert tomllib.loads(new)["t"]["a"] == value


@pytest.mark.parametrize("text", ["[t]\na = [\n1,\n]\n", '[t]\na = """\nx"""\n', "t.b = 1\n"])
def test_what_cannot_be_replaced_in_its_line_is_left_to_the_caller(text: str) -> None:
    assert rewritten(text, {"t.a": 1}) is None


@pytest.mark.parametrize("text", ["", "x = 1\n", "[t]\n", "[t]\nb = 1\n\n# about u\n[u]\nc = 1\n", "[u]\nc = 1\n[t]"])
def test_a_missing_key_is_added_to_its_table(text: str) -> None:
    new = rewritten(text, {"t.a": 1})
    assert new is not None
    before = tomllib.loads(text)
    assert tomllib.loads(new) == {**before, "t": {**before.get("t", {}), "a": 1}}


def test_lines_of_alternative_keys_are_removed() -> None:
    assert rewritten("[t]\na = 1 # why\nb = 2\n", {"t.c": 3}, ["t.a", "t.z"]) == "[t]\nb = 2\nc = 3\n"
