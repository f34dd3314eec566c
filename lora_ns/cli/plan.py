"""`lorans plan`: every number that a run would use, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.cli.options import AsJson, Overrides, RecipePath
from lora_ns.cli.show import number, print_json
from lora_ns.cli.terminal import say

if TYPE_CHECKING:
    from lora_ns.plan.plan import DataFacts, Plan
    from lora_ns.recipe.load import LoadedRecipe
    from lora_ns.recipe.recipe import Recipe


def plan(recipe: RecipePath, overrides: Overrides = [], as_json: AsJson = False) -> None:  # noqa: B006 -- typer's "none"
    """Print every derived value of a run with its origin, without running anything."""
    from lora_ns.recipe.load import load_recipe

    made = plan_of(load_recipe(recipe, overrides))
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    for name in type(made).model_fields:
        if name in ("deepspeed", "notes"):
            continue
        value = getattr(made, name)
        shown = f"{value.value / 1e9:.2f} GB" if name == "memory_bytes" and value.value else number(value.value)
        why = f"  {value.why}" if value.why else ""
        say(f"{name:<28} {shown:>12}  {value.origin}{why}".rstrip())
    if made.deepspeed:
        say(f"deepspeed {json.dumps(made.deepspeed, indent=2)}")
    for note in made.notes:
        say(f"note: {note}")


def plan_of(loaded: LoadedRecipe) -> Plan:
    """The plan of a recipe on this machine, from what can be known without downloading or tokenising."""
    from lora_ns.data.named_files import check_named_files
    from lora_ns.machine.hardware import detect
    from lora_ns.model.find import recipe_base_here
    from lora_ns.plan.deepspeed import with_deepspeed
    from lora_ns.plan.make import make_plan
    from lora_ns.plan.settle import settle
    from lora_ns.recipe.load import locating

    check_named_files(loaded)
    with locating(loaded):
        base = recipe_base_here(loaded.recipe.model, loaded.folder)
        machine, facts = detect(), _facts(loaded.recipe, loaded.folder)
        settled = settle(loaded, machine, base)
        return with_deepspeed(settled.recipe, settled.folder, make_plan(settled, machine, base, facts))


def _facts(recipe: Recipe, folder: Path) -> DataFacts:
    """What is known of rows in files, which are read and not rendered; packed rows are known once they are packed.

    Raises:
        DataError: as a training would, with what cannot be read.
    """
    from lora_ns.plan.plan import DataFacts

    data = recipe.dataset
    if not all(part.path for part in data.parts().values()):
        return DataFacts()
    from lora_ns.data.columns import refuse_unused
    from lora_ns.data.sources import notes, read_sources, told_format

    sources = read_sources(recipe, folder)
    refuse_unused(sources)
    is_packed = recipe.objective.packs
    name, why = told_format(sources)
    return DataFacts(
        train_rows=None if is_packed or sources.is_stream else len(sources.train.rows),
        eval_rows=len(sources.eval.rows) if sources.eval else 0,
        why="" if is_packed or sources.is_stream else "rows of the files",
        notes=tuple(notes(sources)),
        format=name,
        format_why=why,
    )
