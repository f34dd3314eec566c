"""Descriptions of keys and their values, in messages, in the reference and in the JSON Schema."""

from typing import Annotated

import pytest
from pydantic import Field

from lora_ns.recipe.keys import describe
from lora_ns.recipe.objective_tables import json_schema
from lora_ns.recipe.reference import reference
from lora_ns.table import Table

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


Described = Annotated[int, Field(description="Of its type.")]


class Shared(Table):
    """A table from which another one derives."""

    kept: int = 1
    """Described where it
    is defined."""
    anew: int = 1
    """Described for all."""
    plain: int = 1
    typed: Described = 1


class Derived(Shared):
    """A table that derives from it."""

    anew: int = 2
    own: int = 1
    """Described here."""


def test_a_key_has_the_docstring_below_its_own_definition():
    told = {name: entry.get("description") for name, entry in Derived.model_json_schema()["properties"].items()}
    assert told == {
        "kept": "Described where it\nis defined.",
        "anew": None,
        "plain": None,
        "typed": "Of its type.",
        "own": "Described here.",
    }
    assert [Derived.described(key) for key in ("kept", "typed", "anew", "other")] == [
        "Described where it is defined.",
        "Of its type.",
        "",
        "unknown",
    ]
