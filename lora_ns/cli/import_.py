"""`lorans import`: convert a configuration of another fine-tuning tool to a recipe."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli import complete
from lora_ns.cli.import_checked import checked_lines, checked_plain
from lora_ns.cli.options import AsJson
from lora_ns.cli.show import print_json
from lora_ns.cli.terminal import hand_over, say
from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import exists
from lora_ns.safety.credentials import HIDDEN, is_secret_name, scrubbed

if TYPE_CHECKING:
    from lora_ns.importers.draft import Outcome, Translation
    from lora_ns.services.import_ import Imported
    from lora_ns.services.import_check.check import ImportCheck


Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Recipe to write. Standard output if omitted.", show_default=False),
]


OriginalGpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        metavar="N",
        min=1,
        help="Number of GPUs of the original run. Default: that of the script, or 1.",
        show_default=False,
    ),
]


Tool = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="TOOL",
        help="Tool that the file belongs to, if it is not detected.",
        show_default=False,
        autocompletion=complete.tools,
    ),
]


Check = Annotated[
    bool, typer.Option("--check", help="Compare settings, learning rates and tokens with the other tool's.")
]


CheckedData = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="ROWS", help="File of rows to check with, instead of the recipe's.", show_default=False
    ),
]


CheckedBase = Annotated[
    str | None,
    typer.Option("--base", metavar="FOLDER", help="Base model whose tokenizer the check uses.", show_default=False),
]


CheckedRows = Annotated[
    int, typer.Option("--rows", metavar="N", min=1, help="Number of rows of each dataset to check.")
]


CheckedRecipe = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe to check, instead of the imported one.", show_default=False)
]


def import_(
    file: Annotated[Path, typer.Argument(help="Configuration of the other tool.", show_default=False)],
    output: Output = None,
    gpus: OriginalGpus = None,
    tool: Tool = None,
    check: Check = False,
    data: CheckedData = None,
    base: CheckedBase = None,
    rows: CheckedRows = 50,
    recipe: CheckedRecipe = None,
    as_json: AsJson = False,
) -> None:
    """Convert a configuration of another tool to a recipe, and report on every key.

    --check compares the recipe with the other tool. The exit code is 2 if a key was not carried over or something
    differs, and 3 if the rows, the tokenizer or torch are missing, so that not everything was compared.
    """
    from lora_ns.services.import_ import import_config

    _check_options(check, {"--data": data, "--base": base, "--recipe": recipe})
    if recipe is not None and output is not None:
        raise UsageError(
            Problem("--recipe", "it names an existing recipe, but `-o` writes a new one", "leave out one of them")
        )
    imported = import_config(file, output, gpus, tool)
    devices = gpus or imported.translation.source.gpus or 1
    found = _checked(imported, devices, rows, data, base, recipe) if check and imported.text is not None else None
    if as_json:
        print_json({**_plain(imported), **({"check": checked_plain(found)} if found else {})})
    else:
        if imported.text is not None and output is None and recipe is None:
            hand_over(imported.text.rstrip("\n"))
        for line in _account(imported):
            say(line, err=output is None)
        for line in ("", *checked_lines(found)) if found else ():
            say(line, err=output is None)
    if code := _exit_code(imported, found):
        raise typer.Exit(code)


def _check_options(check: bool, options: Mapping[str, object]) -> None:
    """Refuse options of the check without `--check`, and missing files. Raises `UsageError`."""
    given = [name for name, value in options.items() if value is not None]
    if given and not check:
        raise UsageError(Problem(given[0], "this option has no effect without `--check`", "add `--check`"))
    for name in given:
        if name != "--base" and not exists(Path(str(options[name]))):  # before anything is written
            raise UsageError(Problem(name, f"no file `{options[name]}`", "name an existing file"))


def _checked(
    imported: Imported, gpus: int, rows: int, data: Path | None, base: str | None, recipe: Path | None
) -> ImportCheck:
    from lora_ns.machine.hardware import detect
    from lora_ns.machine.libraries import Noise
    from lora_ns.services.import_check.check import CheckOptions, check_import

    with Noise():
        return check_import(imported, detect(), CheckOptions(gpus, rows, data, base, recipe))


def _exit_code(imported: Imported, found: ImportCheck | None) -> int:
    if not imported.is_whole or (found and found.is_different):
        return 2
    return 3 if found and not found.is_proven else 0


def _plain(imported: Imported) -> dict[str, Any]:
    translation = imported.translation
    return {
        "ok": imported.is_whole,
        "tool": translation.tool,
        "file": str(translation.source.path),
        "outcomes": [{**asdict(outcome), "value": _safe(outcome)} for outcome in translation.outcomes],
        "defaults": [asdict(filled) for filled in translation.filled],
        "notes": list(translation.notes),
        "problems": [asdict(problem) for problem in translation.problems],
        "recipe": imported.text,
        "written": str(imported.output) if imported.output else None,
    }


def _safe(outcome: Outcome) -> Any:
    """Convert the value of a source key to JSON, without secrets."""
    return HIDDEN if is_secret_name(outcome.key.rpartition(".")[2]) else _as_json(outcome.value)


def _as_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_json(part) for part in value]
    if isinstance(value, dict):
        return {str(key): _as_json(part) for key, part in value.items()}
    is_json = value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and isfinite(value))
    return scrubbed(value) if isinstance(value, str) else value if is_json else str(value)


_WIDTH = 80


_HEADINGS = {
    "mapped": "carried over",
    "default": "same as lorans's default",
    "unused": "not needed",
    "refused": "not carried over",
}


def _account(imported: Imported) -> Iterator[str]:
    """Report the outcome of every key, by fate. The keys that need a decision come last."""
    translation = imported.translation
    total = len(translation.outcomes)
    yield f"{translation.source.path}: a configuration of {translation.tool} with {total} key{'s' * (total != 1)}"
    for fate, heading in _HEADINGS.items():
        outcomes = [outcome for outcome in translation.outcomes if outcome.fate == fate and not outcome.is_blank]
        if fate == "refused" and translation.filled:
            yield from _filled(translation)
        if not outcomes:
            continue
        yield ""
        yield f"{heading}: {len(outcomes)}"
        for outcome in outcomes:
            yield from _row(f"{outcome.line:>4}  {outcome.shown}", _described(outcome))
    if blank := [outcome.key for outcome in translation.outcomes if outcome.is_blank]:
        yield ""
        yield f"blank: {len(blank)}"
        indent = " " * 6
        yield from textwrap.wrap(", ".join(blank), _WIDTH, initial_indent=indent, subsequent_indent=indent)
    last = [*_remarks(translation), *_verdict(imported)]
    yield from ("", *last) if last else ()


def _remarks(translation: Translation) -> Iterator[str]:
    for note in translation.notes:
        yield from textwrap.wrap(f"note: {note}", _WIDTH, subsequent_indent="  ", break_long_words=False)
    for problem in translation.problems:
        yield from textwrap.wrap(f"error: {problem}", _WIDTH, subsequent_indent="  ", break_long_words=False)


def _filled(translation: Translation) -> Iterator[str]:
    from lora_ns.importers.written import toml_value

    yield ""
    yield f"added, because the defaults differ: {len(translation.filled)}"
    for filled in translation.filled:
        yield from _row(f"      {filled.recipe} = {toml_value(filled.value)}", filled.said)


def _described(outcome: Outcome) -> str:
    became = ""
    if outcome.fate == "mapped":
        keys = [f"`{key}`" for key in outcome.recipe]
        became = " and ".join(keys if len(keys) <= 2 else [keys[0], f"{len(keys) - 1} more"])
    remedy = f" ({outcome.remedy})" if outcome.remedy else ""
    return ": ".join(part for part in (became, outcome.said) if part) + remedy


def _row(left: str, right: str) -> Iterator[str]:
    """Lay out a key and its outcome, side by side if they fit, otherwise below each other."""
    indent = " " * 34
    lines = textwrap.wrap(right, _WIDTH - len(indent), break_long_words=False) or [""]
    if len(left) < len(indent):
        yield f"{left:<{len(indent)}}{lines[0]}".rstrip()
        lines = lines[1:]
    else:
        yield from textwrap.wrap(left, _WIDTH, subsequent_indent="      ", drop_whitespace=False, break_long_words=True)
    yield from (f"{indent}{line}" for line in lines)


def _verdict(imported: Imported) -> Iterator[str]:
    refused = len(imported.translation.refused)
    if imported.text is None:
        yield "no recipe written: without these keys it would train something else"
    elif refused:
        keys = f"{refused} key{'s' if refused != 1 else ''}"
        yield f"{imported.output or 'the recipe'} lacks {keys} that may change the result; see its first lines"
    elif imported.output:
        yield f"wrote {imported.output}; to check it:"
        yield f"  lorans validate {imported.output}"
