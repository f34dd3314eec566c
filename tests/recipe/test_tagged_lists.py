"""Lists of tables of several classes: rewards and suites are read, explained and described alike."""

import json
from typing import get_args

import pytest
from minimal_recipe import MINIMAL, needed

from lora_ns.errors import RecipeError
from lora_ns.files.reading import tomllib
from lora_ns.recipe.keys import as_toml, schema_of
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.objective_tables import as_tables, json_schema
from lora_ns.recipe.reference import reference
from lora_ns.recipe.tagged_lists import TAGGED_LISTS

CLASSES = [(key, tag) for key, listed in TAGGED_LISTS.items() for tag in listed.classes]
every_list = pytest.mark.parametrize("key", TAGGED_LISTS)
every_class = pytest.mark.parametrize(("key", "tag"), CLASSES, ids=[f"{key} {tag}" for key, tag in CLASSES])


def written(key, *tables):
    """A recipe with these tables in a list, each as lines of TOML."""
    rows = MINIMAL.replace('path = "train.jsonl"', 'path = "train.jsonl"\neval_path = "eval.jsonl"')
    return rows + "".join(f"[[{key}]]\n{table}\n" for table in tables)


def smallest(key, tag):
    """The smallest table of a class, as lines of TOML."""
    listed = TAGGED_LISTS[key]
    fields = listed.classes[tag].model_fields.items()
    required = {name: get_args(info.annotation) for name, info in fields if info.is_required()}
    chosen = {name: next((one for one in of if isinstance(one, str)), "own.py:own") for name, of in required.items()}
    keys = {listed.tag: tag, **chosen}
    return "\n".join(f"{name} = {as_toml(value)}" for name, value in keys.items())


@pytest.fixture(scope="module")
def page():
    return reference()


@pytest.fixture(scope="module")
def definitions():
    return json_schema()["$defs"]


def problems(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return [str(problem).replace(str(path), "recipe.toml") for problem in caught.value.problems]


def first_line(text, *tables):
    return text.splitlines().index(f"[[{tables[0]}]]") + 1


def test_the_lists_are_those_of_rewards_and_suites():
    assert set(TAGGED_LISTS) == {"grpo.rewards", "rloo.rewards", "evaluation.suites"}


@every_list
def test_a_misspelt_tag_names_the_likely_one_and_all(write_recipe, key):
    listed = TAGGED_LISTS[key]
    text = written(key, f'{listed.tag} = "numbr"', "")
    line = first_line(text, key)
    choices = f"one of: {', '.join(listed.classes)}"
    assert problems(write_recipe(text)) == [
        f'recipe.toml:{line + 1}: {key}.0.{listed.tag}: got "numbr" (did you mean `number`? {choices})',
        f"recipe.toml:{line + 2}: {key}.1.{listed.tag}: required ({choices})",
    ]


@every_list
def test_each_wrong_key_of_a_table_is_explained_with_its_own_value(write_recipe, key):
    listed = TAGGED_LISTS[key]
    text = written(key, f'{listed.tag} = "number"\ntolerance = -1\ntolerence = 2\ncolumn = 3')
    line = first_line(text, key)
    assert problems(write_recipe(text)) == [
        f"recipe.toml:{line + 2}: {key}.0.tolerance: got -1 (expected a number from 0)",
        f"recipe.toml:{line + 3}: {key}.0.tolerence: unknown key (did you mean `tolerance`?)",
        f"recipe.toml:{line + 4}: {key}.0.column: got 3 (expected a non-empty string)",
    ]


@every_list
@pytest.mark.parametrize("value", ["1", "[1]", "[[]]", "{a = 1}", '"exact"'])
def test_what_is_no_list_of_tables_is_one_problem(write_recipe, key, value):
    (told,) = problems(write_recipe(), f"{key}={value}")
    assert told.startswith(f"--set: {key}")


@every_list
def test_a_table_in_the_list_can_be_overridden(write_recipe, key):
    listed = TAGGED_LISTS[key]
    path = write_recipe(written(key, f'{listed.tag} = "number"'))
    tables = as_tables(load_recipe(path, [f"{key}.0.tolerance=0.5"]).recipe)
    owner, _, name = key.partition(".")
    assert [table["tolerance"] for table in tables[owner][name]] == [0.5]
    assert problems(path, f"{key}.1.tolerance=0.5") == [
        f"--set: `{key}.1.tolerance=0.5`: no index `1` in a list of 1 (indices start at 0)"
    ]


@every_list
def test_an_unknown_key_of_the_owner_is_no_table_of_the_list(write_recipe, key):
    owner, _, name = key.partition(".")
    (told,) = problems(write_recipe(), *needed(owner), f"{owner}.{name}x=[]")
    assert told == f"--set: {key}x: unknown key (did you mean `{name}`?)"


def test_a_list_in_a_table_that_has_none_is_one_problem_and_hides_no_other(write_recipe):
    told = problems(write_recipe(), "sft.rewards=[{name = 1}]", "training.warmup_ratio=0.1", "training.warmup_steps=3")
    assert [one.split(": ")[1] for one in told] == ["sft.rewards", "training.warmup_steps"]


@every_class
def test_the_smallest_table_of_a_class_comes_back_from_toml_as_it_was(key, tag):
    listed = TAGGED_LISTS[key]
    model = listed.classes[tag]
    table = tomllib.loads(smallest(key, tag))
    made = model.model_validate_json(json.dumps(table))
    assert listed.class_of(table) is model
    assert listed.tag_of(table) == tag
    assert model.model_validate_json(made.model_dump_json()) == made


@every_class
def test_every_key_of_a_class_is_described(key, tag, page):
    listed = TAGGED_LISTS[key]
    owner, _, name = key.partition(".")
    tables = {owner: {name: [{listed.tag: tag}]}}
    assert all(schema_of(f"{key}.0.{field}", tables) for field in listed.classes[tag].model_fields)
    assert f'## `[[{key}]]` with `{listed.tag} = "{tag}"`' in page


@every_list
def test_a_stand_in_is_a_valid_table(key):
    listed = TAGGED_LISTS[key]
    assert listed.class_of(listed.stand_in).model_validate_json(json.dumps(listed.stand_in))


@every_class
def test_the_schema_of_recipes_has_every_class(key, tag, definitions):
    assert TAGGED_LISTS[key].classes[tag].__name__ in definitions
