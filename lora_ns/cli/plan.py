"""`lorans plan`: every number that a run would use, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lora_ns.cli.options import AsJson, Overrides, RecipePath
from lora_ns.cli.show import number, print_json

if TYPE_CHECKING:
    from lora_ns.plan import Plan
    from lora_ns.recipe.load import LoadedRecipe


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
        typer.echo(f"{name:<28} {shown:>12}  {value.origin}{why}".rstrip())
    if made.deepspeed:
        typer.echo(f"deepspeed {json.dumps(made.deepspeed, indent=2)}")
    for note in made.notes:
        typer.echo(f"note: {note}")


def plan_of(loaded: LoadedRecipe) -> Plan:
    """The plan of a recipe on this machine, from what can be known without downloading or tokenising."""
    from lora_ns.basemodel import find_base
    from lora_ns.machine import detect
    from lora_ns.plan import DataFacts, fit_to_machine, make_plan
    from lora_ns.zero import with_deepspeed

    model = loaded.recipe.model
    folders = [loaded.path.parent, Path.cwd()]
    base = find_base(model.name_or_path, model.revision, folders, download=False, gguf_file=model.gguf_file)
    train, evaluation, notes = _rows(loaded)
    why = "rows of the files" if train is not None else ""
    machine = detect()
    made = make_plan(loaded, machine, base, DataFacts(train, evaluation, why=why, notes=tuple(notes)))
    return with_deepspeed(fit_to_machine(loaded, machine, base.facts if base else None), made)


def _rows(loaded: LoadedRecipe) -> tuple[int | None, int | None, list[str]]:
    """Numbers of training and evaluation rows, if they are in files; packed rows are known once they are packed."""
    data = loaded.recipe.dataset
    if not all(part.path for part in data.parts().values()):
        return None, None, []
    packed = loaded.recipe.task_type == "CAUSAL_LM" and loaded.recipe.sft.packing
    if data.sources:
        from lora_ns.engine.sources import notes, read_sources

        sources = read_sources(loaded)
        rows = len(sources.train.rows)
        return None if packed else rows, len(sources.eval.rows) if sources.eval else 0, notes(sources)
    train: int | None
    train, told = (None, []) if data.streaming else _count(loaded)
    if data.eval_path:
        evaluation, more = _count(loaded, for_evaluation=True)
        return train, evaluation, told + more
    if train is None:
        return None, 0, told
    held_out = max(1, round(data.eval_fraction * train)) if data.eval_fraction else 0
    kept = train - held_out
    return None if packed else kept, min(held_out, data.max_eval_samples or held_out), told


def _count(loaded: LoadedRecipe, for_evaluation: bool = False) -> tuple[int, list[str]]:
    from lora_ns.engine.sources import read_part
    from lora_ns.rows import told_left_out

    _, found = read_part(loaded, loaded.recipe.dataset, for_evaluation=for_evaluation)
    kind = "evaluation" if for_evaluation else "training"
    return len(found.rows), [f"{kind} rows: {told_left_out(found.left_out)}"] if found.left_out else []
