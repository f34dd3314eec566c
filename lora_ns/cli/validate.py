"""`lorans validate`: the recipe and its rules, without torch."""

from __future__ import annotations

import typer

from lora_ns.cli.options import AsJson, Overrides, RecipePath
from lora_ns.cli.show import print_json


def validate(recipe: RecipePath, overrides: Overrides = [], as_json: AsJson = False) -> None:  # noqa: B006 -- typer's "none"
    """Check the keys of a recipe and the rules between them; every problem at once, each with its line."""
    from lora_ns.errors import RecipeError
    from lora_ns.recipe.load import load_recipe

    try:
        load_recipe(recipe, overrides)
    except RecipeError as error:
        if not as_json:
            raise
        problems = [{"where": item.where, "what": item.what, "remedy": item.remedy} for item in error.problems]
        print_json({"ok": False, "problems": problems})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json({"ok": True, "problems": []})
    else:
        typer.echo(f"{recipe}: ok")
