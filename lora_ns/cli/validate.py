"""`lorans validate`: check recipes without torch, and on request their rows, model, one step or eight learned rows."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli.commands import is_own_process
from lora_ns.cli.options import AsJson, Overrides, RecipePaths, TrustRemoteCode
from lora_ns.cli.problems import print_problems, split_place
from lora_ns.cli.show import Progress, note, number, print_json, print_pairs
from lora_ns.cli.terminal import is_terminal, say, say_coloured
from lora_ns.cli.trust import trust_recipe
from lora_ns.errors import InterruptedRunError, LoransError, Problem, UsageError
from lora_ns.files.reading import is_folder
from lora_ns.files.shortage import exhaustion

if TYPE_CHECKING:
    from lora_ns.recipe.load import LoadedRecipe


def validate(
    context: typer.Context,
    recipes: RecipePaths = None,
    below: Annotated[bool, typer.Option("--all", help="Check every recipe below the current folder.")] = False,
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    data: Annotated[bool, typer.Option("--data", help="Read, render and check every row.")] = False,
    model: Annotated[
        bool,
        typer.Option(
            "--model",
            help="Add the adapter to the base, without loading weights. With --data, the base also ranks preference "
            "pairs, with its weights.",
        ),
    ] = False,
    step: Annotated[bool, typer.Option("--step", help="Train one step, save the adapter and reload it.")] = False,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn", help="Learn eight rows by heart, answer them with the saved adapter, and name what prevents it."
        ),
    ] = False,
    show: Annotated[
        int, typer.Option("--show", metavar="N", min=0, help="Print the first N rows as the model receives them.")
    ] = 0,
    row: Annotated[
        int | None,
        typer.Option("--row", metavar="K", help="Print row number K of the file.", show_default=False),
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Show token ids.")] = False,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Warn about missing rows, base and packages: another machine trains.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check recipes, and report every problem with its line.

    --data, --model, --step and --learn check more. The exit code is 2 if a
    recipe, its rows or its base are invalid or missing, 3 if a package is
    missing, and 1 if --learn does not certify a recipe. For several recipes it
    is the highest code.
    """
    shows = bool(show) or row is not None
    if ids and not shows:
        raise UsageError(Problem("--ids", "no rows to print", "add `--show 2`"))
    levels = {"data": data or shows, "model": model, "ranking": data and model, "step": step, "learn": learn}
    if elsewhere and any(levels.values()):
        what = "`--data`, `--model`, `--step`, `--learn` and `--show` need the rows and the base here"
        raise UsageError(Problem("--elsewhere", what, "remove `--elsewhere`, or these options"))
    paths = _chosen(recipes or [], below)
    is_last = isinstance(paths, Path) and is_own_process(context)
    options = _Options(tuple(overrides), levels, (show, row), elsewhere, trust_remote_code, strict, is_last)
    if isinstance(paths, Path):
        _validate_one(paths, options, ids, as_json)
    else:
        _validate_all(paths, options, ids, as_json)


@dataclass(frozen=True)
class _Options:
    """Checks to run on each recipe."""

    overrides: tuple[str, ...]
    levels: dict[str, bool]
    rows: tuple[int, int | None]
    """Number of first rows to show, and the number of a single row."""
    is_elsewhere: bool
    trusts: bool
    is_strict: bool
    is_last: bool
    """True if the process ends after one recipe."""


@dataclass(frozen=True)
class _Outcome:
    """Results for one recipe."""

    error: LoransError | None = None
    warnings: tuple[Problem, ...] = ()
    found: dict[str, Any] = field(default_factory=dict)
    """Results of the further levels by name."""
    exit_code: int = 0

    def plain(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        if self.error:
            return {"ok": False, "problems": [asdict(problem) for problem in self.error.problems]}
        warnings = {"warnings": _plain(list(self.warnings))} if self.warnings else {}
        levels = {name: _plain(part) for name, part in self.found.items()}
        return {"ok": not self.exit_code, "problems": [], **warnings, **levels}


def _chosen(named: list[Path], below: bool) -> Path | tuple[Path, ...]:
    """Return the only recipe that is named, or all that are found. Raises `UsageError` if there are none."""
    if below and named:
        raise UsageError(
            Problem("--all", "already means all recipes below the current folder", "remove `--all`, or the names")
        )
    if not below and not named:
        remedy = "name recipes or folders, or use `--all` for every recipe below this folder"
        raise UsageError(Problem("", "no recipe given", remedy))
    if len(named) == 1 and not is_folder(named[0]):
        return named[0]
    from lora_ns.recipe.find import MARKS, find_recipes

    found = find_recipes(named or [Path()])
    print_problems(found.unread, "warning")
    if found.others:
        shown = ", ".join(str(file) for file in found.others[:_MOST_OTHERS])
        more = f" and {len(found.others) - _MOST_OTHERS:,} more" if len(found.others) > _MOST_OTHERS else ""
        note(f"skipped TOML files without `{MARKS[0]}` and `[{MARKS[1]}]`: {shown}{more}")
    return found.paths


_MOST_OTHERS = 3


def _validate_one(recipe: Path, options: _Options, ids: bool, as_json: bool) -> None:
    outcome = _outcome(recipe, options)
    if as_json:
        print_json(outcome.plain())
    elif outcome.error:
        raise outcome.error
    else:
        _print(recipe, outcome, ids)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _validate_all(recipes: tuple[Path, ...], options: _Options, ids: bool, as_json: bool) -> None:
    codes, plain = [], {}
    for recipe in recipes:
        outcome = _outcome(recipe, options, is_alone=False)
        codes.append(outcome.exit_code)
        if as_json:
            plain[str(recipe)] = outcome.plain()
        else:
            _print(recipe, outcome, ids)
        del outcome
        gc.collect()  # free the rows and the model before the next recipe
    if as_json:
        print_json({"ok": not any(codes), "recipes": plain})
    else:
        wrong = sum(map(bool, codes))
        ending = f", {wrong:,} not ok" if wrong else ""
        say(f"{len(codes):,} recipe{'s' * (len(codes) != 1)}: {len(codes) - wrong:,} ok{ending}")
    if any(codes):
        raise typer.Exit(max(codes))


def _outcome(recipe: Path, options: _Options, is_alone: bool = True) -> _Outcome:
    """Run all checks on a recipe. Raises only errors that end the whole command."""
    try:
        return _checked(recipe, options)
    except InterruptedRunError:
        raise
    except LoransError as error:
        return _Outcome(error, exit_code=error.exit_code)
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        if is_alone or (failure := exhaustion(error)) is None:
            raise
        return _Outcome(failure, exit_code=failure.exit_code)


def _checked(recipe: Path, options: _Options) -> _Outcome:
    from lora_ns.machine.packages import can_train
    from lora_ns.services.check_recipe import check_recipe

    looks_further = any(options.levels.values())
    is_elsewhere = options.is_elsewhere or not (looks_further or can_train())
    checked = check_recipe(recipe, options.overrides, is_elsewhere)
    for text in checked.loaded.notes:
        note(text)
    trust_recipe(options.trusts, checked.loaded)
    found = _look_further(checked.loaded, options) if looks_further else {}
    findings = [finding for level in ("data", "ranking") if level in found for finding in found[level].findings]
    is_uncertified = "learn" in found and not found["learn"].passed
    is_wrong = any(finding.error or options.is_strict for finding in findings)
    return _Outcome(
        warnings=checked.warnings,
        found=found,
        exit_code=2 if is_wrong or (checked.warnings and options.is_strict) else int(is_uncertified),
    )


def _look_further(loaded: LoadedRecipe, options: _Options) -> dict[str, Any]:
    from lora_ns.machine.hardware import detect
    from lora_ns.machine.libraries import Noise
    from lora_ns.services import validate as service
    from lora_ns.services.learn.learn import check_covered
    from lora_ns.services.learn.learn import learn as certify
    from lora_ns.services.rank_pairs import rank_pairs

    levels = options.levels
    only_rows = options.is_last and not any(levels[level] for level in ("model", "step", "learn"))
    if levels["learn"]:
        check_covered(loaded)
    machine = detect()
    found: dict[str, Any] = {}
    with Progress(2) as progress, Noise() as noise:
        if levels["data"]:
            prepared = service.prepare_rows(loaded, machine, progress, only_rows)
            found["data"] = service.audit(prepared, machine)
            found["rows"] = service.show_rows(prepared, *options.rows)
        if levels["model"]:
            found["model"] = service.validate_model(loaded, machine, progress)
        if levels["ranking"] and (ranking := rank_pairs(prepared, machine, progress)):
            found["ranking"] = ranking
        if levels["step"]:
            found["step"] = service.validate_step(loaded, progress, noise)
        if levels["learn"]:
            found["learn"] = certify(loaded, machine, progress, noise)
    return found


def _plain(part: Any) -> Any:
    return [asdict(item) for item in part] if isinstance(part, list) else asdict(part)


def _print(recipe: Path, outcome: _Outcome, ids: bool) -> None:
    if outcome.error:
        print_problems(outcome.error.problems)
    print_problems(outcome.warnings, "warning")
    _print_found(outcome.found, ids)
    if not (outcome.error and _is_heading(recipe, outcome.error)):
        say_coloured([(f"{recipe}: ", None), ("not ok", "red") if outcome.exit_code else ("ok", "green")])


def _is_heading(recipe: Path, error: LoransError) -> bool:
    """True if a terminal has just shown the name of the recipe above its problems."""
    named = any(split_place(problem.where)[0] == str(recipe) for problem in error.problems)
    return named and is_terminal() and is_terminal(err=True)


def _print_found(found: dict[str, Any], ids: bool) -> None:
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
                ("modules", modules or "none (virtual tokens before every row)"),
                *(("note", note) for note in report.notes),
            ]
        )
    if "ranking" in found:
        findings.print_ranking(found["ranking"])
    if "step" in found:
        print_pairs([("one step", f"loss {number(found['step'].loss)}; saved and reloaded")])
    if "learn" in found:
        from lora_ns.cli.certificate import print_certificate

        print_certificate(found["learn"])
