"""What every objective answers holds together: its keys, its formats, its table in a recipe."""

import json

import jsonschema
import pytest

from lora_ns.errors import RecipeError
from lora_ns.formats import FORMATS, Columns, detect
from lora_ns.objectives import OBJECTIVES, objective_of
from lora_ns.recipe.keys import known_keys
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.objective_tables import as_tables, fields_of, json_schema
from lora_ns.recipe.recipe import Recipe
from lora_ns.rewards.checks import FEWEST_GROUPS

EACH = pytest.mark.parametrize("kind", OBJECTIVES.values(), ids=OBJECTIVES)


def tables(kind, **own):
    return {
        "task_name": "task",
        "task_type": kind.task_type,
        "model": {"name_or_path": "lorans:nano"},
        "peft": {"method": "lora"},
        "dataset": {"path": "rows.jsonl"},
        "training": {"output_dir": "run"},
        **({kind.toml: {**kind.minimum, **own}} if own else {}),
    }


def read(values):
    return Recipe.model_validate_json(json.dumps(fields_of(values)))


@EACH
def test_an_objective_is_chosen_by_its_task_and_its_table(kind):
    assert type(read(tables(kind)).objective) is objective_of(kind.task_type)
    assert type(read(tables(kind, max_seq_length=7)).objective) is kind
    assert read(tables(kind, max_seq_length=7)).objective.max_seq_length == 7


@EACH
def test_a_recipe_written_as_tables_is_read_as_the_same_recipe(kind):
    recipe = read(tables(kind, max_seq_length=7))
    assert read(as_tables(recipe)) == recipe


@EACH
def test_the_schema_takes_what_is_read_and_has_no_key_of_the_code(kind):
    schema = jsonschema.Draft202012Validator(json_schema())
    assert schema.is_valid(tables(kind))
    assert schema.is_valid(tables(kind, max_seq_length=7))
    for wrong in ({"max_seq_length": "7"}, {"table": kind.toml}, {"max_length": 7}):
        assert not schema.is_valid(tables(kind, **wrong))


@EACH
def test_names_of_the_code_are_no_keys_of_a_recipe(write_recipe, kind):
    for owner, override in (("objective", "objective.table=sft"), (f"{kind.toml}.table", f"{kind.toml}.table=sft")):
        with pytest.raises(RecipeError) as raised:
            load_recipe(write_recipe(), [f"task_type={kind.task_type}", override])
        assert ("unknown key", owner) in [(problem.what, problem.key) for problem in raised.value.problems]


@EACH
def test_what_has_no_effect_are_keys_of_other_tables(kind):
    known = set(known_keys())
    owners = {key.partition(".")[0] for key in known}
    assert set(kind.inert) <= known | owners
    assert not any(key.startswith(f"{kind.toml}.") for key in kind.inert)


@EACH
def test_rows_to_start_from_are_read_by_a_format_that_it_learns_from(kind):
    rows = kind.starter_rows("prompt", "completion")
    form, _ = detect(Columns(), list(rows[0]), rows[0], kind.examples)
    assert FORMATS[form.name].makes[0] in kind.examples
    assert {type(form.example(row)) for row in rows} <= set(kind.examples)


@EACH
def test_every_format_is_of_one_family_of_objectives(kind):
    mine = [name for name, form in FORMATS.items() if set(form.makes) <= set(kind.examples)]
    assert mine
    assert not [name for name, form in FORMATS.items() if name not in mine and set(form.makes) & set(kind.examples)]


@pytest.mark.parametrize(
    ("task", "table", "own_task"), [("SEQ_CLS", "dpo", "CAUSAL_LM"), ("CAUSAL_LM", "reward", "SEQ_CLS")]
)
def test_the_table_of_another_task_is_refused_with_both_ways_out(write_recipe, task, table, own_task):
    with pytest.raises(RecipeError) as raised:
        load_recipe(write_recipe(), [f"task_type={task}", f"{table}={{max_seq_length=64}}"])
    (problem,) = [found for found in raised.value.problems if found.key == table]
    assert problem.remedy == f'remove it, or write `task_type = "{own_task}"`'


@EACH
def test_the_one_step_of_validate_has_rows_for_a_step_and_for_the_look_at_rewards(kind):
    objective = read(tables(kind, max_seq_length=1024)).objective
    if objective.generates:
        assert objective.rows_for_a_step >= objective.usual_batch // objective.group_size
    if objective.reward_functions:
        assert objective.rows_for_a_step >= FEWEST_GROUPS
