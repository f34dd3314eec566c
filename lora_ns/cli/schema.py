"""`lorans schema`: the JSON Schema of a recipe, for editors."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON Schema of a recipe, for the completion and checks of editors."""
    from lora_ns.cli.show import print_json
    from lora_ns.recipe.objective_tables import json_schema

    print_json(json_schema())
