"""`lorans env-check`: can this environment train, and can it train this recipe?"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli.results import draw_panel
from lora_ns.cli.show import print_json
from lora_ns.cli.terminal import is_terminal, say, say_coloured, steered_errors

if TYPE_CHECKING:
    from lora_ns.machine.environment import Check, Needs, Report
    from lora_ns.recipe.load import LoadedRecipe
    from lora_ns.recipe.model import Model

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def env_check(
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Check for the needs of this recipe.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1.0, help="Time limit for each import.")] = 60.0,
) -> None:
    """Check Python, packages, memory, disk, GPUs, the sandbox and the hub, and print the command that fixes each fault.

    Exits with code 3 if something necessary does not work.
    """
    from lora_ns.machine.environment import Needs, check
    from lora_ns.recipe.load import load_recipe

    needs = Needs() if recipe is None else needs_of(load_recipe(recipe))
    with _progress():
        report = check(needs, timeout)
    if as_json:
        print_json(report.to_dict())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(3)


def needs_of(loaded: LoadedRecipe) -> Needs:
    """Return the needs of a recipe."""
    from lora_ns.machine.environment import Needs
    from lora_ns.recipe.optimizers import OPTIMIZERS
    from lora_ns.rewards import Code

    recipe = loaded.recipe
    distributed = getattr(recipe, "distributed", None)
    flash_attention = recipe.model.attn_implementation == "flash_attention_2"
    return Needs(
        quantization=recipe.quantization.library == "bitsandbytes"
        or OPTIMIZERS[recipe.training.optim].package == "bitsandbytes",
        deepspeed=getattr(distributed, "strategy", None) == "deepspeed",
        flash_attention=flash_attention,
        hub=_needs_hub(loaded),
        cuda=flash_attention,
        output_dir=Path(recipe.training.output_dir),
        trackers=recipe.tracking.report_to,
        sandbox=any(isinstance(reward, Code) for reward in recipe.objective.reward_functions),
        packages=(*recipe.quantization.packages, *(["gguf"] if _is_gguf(recipe.model) else [])),
    )


def _is_gguf(model: Model) -> bool:
    return model.gguf_file is not None or model.name_or_path.endswith(".gguf")


def _needs_hub(loaded: LoadedRecipe) -> bool:
    """Return whether the model or the rows must be fetched from the hub, because the cache lacks them."""
    from lora_ns.files.hub_cache import is_downloaded

    name, rows = loaded.recipe.model.name_or_path, loaded.recipe.dataset.name
    needs_base = not (name.startswith("lorans:") or Path(name).exists() or is_downloaded(name))
    needs_rows = not (rows is None or rows.startswith("lorans:") or is_downloaded(rows, "datasets"))
    return needs_base or needs_rows


def _progress() -> AbstractContextManager[object]:
    """Show a spinner on standard error, if it is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(file=steered_errors()).status("importing packages, each with a time limit")


def _show(report: Report) -> None:
    """Show every check, and for each fault the command that fixes it."""
    if is_terminal():
        _draw(report)
    else:
        _print_lines(report)


def _draw(report: Report) -> None:
    """Draw a panel of the checks, and below it each remedy alone on a line, so that it can be copied."""
    worst = max((check.status for check in report.checks), key=list(_COLOURS).index)
    draw_panel(
        "environment",
        ([(check.status, _COLOURS[check.status]), (check.name, "bold"), (check.fact, "")] for check in report.checks),
        _COLOURS[worst],
    )
    remedies: dict[str, list[str]] = {}
    for check in report.checks:
        if check.remedy and check.status != "ok":
            remedies.setdefault(check.remedy, []).append(check.name)
    for remedy, names in remedies.items():
        say(f"to fix {', '.join(names)}:")
        say_coloured([(f"  {remedy}", "cyan")])
    say_coloured([(_summary(report.checks), _COLOURS[worst])])


def _print_lines(report: Report) -> None:
    """Print one line per check, and under a fault the command that fixes it."""
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        say_coloured([(f"{check.status:<6}", _COLOURS[check.status]), (f"{check.name:<{width}}  {check.fact}", None)])
        if check.remedy and check.status != "ok":
            say_coloured([(f"{'':<6}{'':<{width}}  {check.remedy}", "cyan")])
    say(_summary(report.checks))


def _summary(checks: tuple[Check, ...]) -> str:
    failed = [check.name for check in checks if check.status == "fail"]
    if failed:
        return f"does not work: {', '.join(failed)}"
    warned = sum(check.status == "warn" for check in checks)
    return "everything necessary works" + (f", {warned} warning{'s' if warned > 1 else ''}" if warned else "")
