"""Descriptions of keys and their values, in messages, in the reference and in the JSON Schema."""

import pytest

from lora_ns.recipe.keys import describe
from lora_ns.recipe.objective_tables import json_schema
from lora_ns.recipe.reference import reference

TEXT = {"type": "string"}
FILLED = {"type": "string", "minLength": 1}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (TEXT, "a string"),
        (FILLED, "a non-empty string"),
        ({"type": "boolean"}, "true or false"),
        ({"type": "integer", "minimum": 1}, "a whole number from 1"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "a number from 0 below 1"),
        ({"type": "object"}, "a table"),
        ({"type": "array"}, "a list"),
        ({"type": "array", "items": TEXT}, "a list of strings"),
        ({"type": "array", "items": FILLED}, "a list of non-empty strings"),
        ({"type": "array", "items": {"type": "integer", "minimum": 0}}, "a list of whole numbers from 0"),
        ({"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}}, "a list of numbers above 0"),
        ({"type": "array", "items": {"$ref": "#/$defs/RowSource"}}, "a list of tables"),
        ({"type": "array", "items": {"type": "string", "enum": ["a", "b"]}}, 'a list with any of: "a", "b"'),
        ({"anyOf": [FILLED, {"type": "array", "items": FILLED}]}, "a non-empty string or a list of non-empty strings"),
    ],
)
def test_the_values_of_a_key_are_described_in_english(schema, told):
    assert describe(schema) == told


def test_a_description_is_one_line():
    schema = json_schema()
    tables = [*schema["$defs"].values(), schema]
    told = [entry.get("description", "") for table in tables for entry in table.get("properties", {}).values()]
    assert any(told)
    assert not [text for text in told if "\n" in text]
    assert "with\\nits" not in reference()
