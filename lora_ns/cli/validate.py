"""`lorans validate`: the recipe and its rules without torch, and on request its rows, its model, one real step."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli.options import AsJson, Overrides, RecipePath, TrustRemoteCode
from lora_ns.cli.show import Progress, note, number, print_json, print_pairs
from lora_ns.cli.terminal import say
from lora_ns.cli.trust import trust_recipe
from lora_ns.errors import LoransError, Problem, UsageError

if TYPE_CHECKING:
    from lora_ns.recipe.load import LoadedRecipe


def validate(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    data: Annotated[bool, typer.Option("--data", help="Read, render and check every row.")] = False,
    model: Annotated[bool, typer.Option("--model", help="Put the adapter onto the base, without its weights.")] = False,
    step: Annotated[bool, typer.Option("--step", help="Train one real step, save it, and open it again.")] = False,
    show: Annotated[
        int, typer.Option("--show", metavar="N", min=0, help="Print the first rows as the model sees them.")
    ] = 0,
    row: Annotated[
        int | None,
        typer.Option("--row", metavar="K", help="Print the row that the file gives this number.", show_default=False),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="With the tokens' numbers.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    strict: Annotated[bool, typer.Option("--strict", help="Take warnings for errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe: every problem at once, each with its place; --data, --model and --step look further."""
    shows = bool(show) or row is not None
    if ids and not shows:
        raise UsageError(Problem("--ids", "there are no rows to print", "add `--show 2`"))
    levels = {"data": data or shows, "model": model, "step": step}
    try:
        loaded = _checked(recipe, overrides)
        trust_recipe(trust_remote_code, loaded)
        missing = [] if levels["data"] or levels["step"] else _missing(loaded)
        found = _look_further(loaded, levels, (show, row)) if any(levels.values()) else {}
    except LoransError as error:
        if not as_json:
            raise
        print_json({"ok": False, "problems": [asdict(problem) for problem in error.problems]})
        raise typer.Exit(error.exit_code) from None
    findings = found["data"].findings if "data" in found else ()
    ok = not any(finding.error or strict for finding in findings) and not (missing and strict)
    if as_json:
        warnings = {"warnings": _plain(missing)} if missing else {}
        print_json({"ok": ok, "problems": [], **warnings, **{name: _plain(part) for name, part in found.items()}})
    else:
        for problem in missing:
            say(f"warning: {problem}", err=True)
        _print(str(recipe), found, ok, ids)
    if not ok:
        raise typer.Exit(2)


def _checked(recipe: Path, overrides: list[str]) -> LoadedRecipe:
    from lora_ns.data.named_files import check_named_files
    from lora_ns.machine.packages import check_installed, check_packages
    from lora_ns.recipe.load import load_recipe, locating

    loaded = load_recipe(recipe, overrides)
    for text in loaded.notes:
        note(text)
    check_named_files(loaded)
    if find_spec("transformers"):  # a machine that only looks at recipes has no packages to train with
        with locating(loaded):
            check_packages(loaded.recipe)
            check_installed(loaded.recipe.quantization, "quantization.method")
    return loaded


def _missing(loaded: LoadedRecipe) -> list[Problem]:
    from lora_ns.data.files.paths import missing_files

    return [problem.located(loaded.where) for problem in missing_files(loaded.recipe, loaded.folder)]


def _look_further(loaded: LoadedRecipe, levels: dict[str, bool], rows: tuple[int, int | None]) -> dict[str, Any]:
    from lora_ns.machine.hardware import detect
    from lora_ns.machine.libraries import Noise
    from lora_ns.services import validate as service

    machine = detect()
    found: dict[str, Any] = {}
    with Progress(2) as progress, Noise() as noise:
        if levels["data"]:
            prepared = service.prepare_rows(loaded, machine, progress)
            found["data"] = service.audit(prepared, machine)
            found["rows"] = service.show_rows(prepared, *rows)
        if levels["model"]:
            found["model"] = service.validate_model(loaded, machine, progress)
        if levels["step"]:
            found["step"] = service.validate_step(loaded, progress, noise)
    return found


def _plain(part: Any) -> Any:
    return [asdict(item) for item in part] if isinstance(part, list) else asdict(part)


def _print(recipe: str, found: dict[str, Any], ok: bool, ids: bool) -> None:
    from lora_ns.cli import findings

    for shown in found.get("rows", ()):
        findings.print_row(shown, ids)
    if "data" in found:
        findings.print_audit(found["data"])
    if "model" in found:
        report = found["model"]
        modules = ", ".join(f"{count} {name}" for name, count in report.modules.items())
        size = f"an adapter of {report.adapter_bytes / 1e6:,.1f} MB"
        print_pairs(
            [
                ("model", f"{report.model}, {number(report.parameters)} parameters"),
                ("trained", f"{number(report.trainable_parameters)}, {size}"),
                ("modules", modules or "none: tokens before every row"),
                *(("note", note) for note in report.notes),
            ]
        )
    if "step" in found:
        print_pairs([("one step", f"loss {number(found['step'].loss)}; saved and opened again")])
    say(f"{recipe}: {'ok' if ok else 'not ok'}")
