"""`lorans infer`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli.options import AsJson, BasePath, Dtype, Force, Overrides, RunPath
from lora_ns.cli.show import forcing
from lora_ns.errors import Problem, UsageError

if TYPE_CHECKING:
    from lora_ns.rows import Row
    from lora_ns.services.trained import Trained


def infer(
    run: RunPath,
    text: Annotated[
        str | None, typer.Option("--input", "-i", help="One text to answer or classify.", show_default=False)
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input-file", help="A .txt with a text a line, or a .jsonl.", show_default=False)
    ] = None,
    output_file: Annotated[
        Path | None, typer.Option("--output-file", "-o", help="A .jsonl for the answers.", show_default=False)
    ] = None,
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output file that is there.")] = False,
    base: BasePath = None,
    dtype: Dtype = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Answer, classify or tag texts with a run's adapter; without an input, lines of standard input."""
    from lora_ns.engine import libraries
    from lora_ns.machine import detect
    from lora_ns.recipe.load import override_generation
    from lora_ns.rundir import RunDir, write_atomic

    if text is not None and input_file is not None:
        raise UsageError(Problem("", "--input and --input-file are both given", "keep one of them"))
    _check_free(output_file, overwrite)
    opened = RunDir.open(run)
    generation = override_generation(opened.read().recipe, overrides)
    texts = _texts(text, input_file)
    with forcing(force) as forced, libraries.Noise():
        libraries.prepare(detect())
        from lora_ns.services.infer import check_columns
        from lora_ns.services.infer import infer as service
        from lora_ns.services.trained import open_trained

        trained = open_trained(opened, base, dtype, forced)
        rows = _rows(trained, texts, input_file)
        check_columns(trained.manifest, rows)
        result = service(trained, rows, generation)
    lines = [json.dumps(row, ensure_ascii=False, default=str) for row in result.rows]
    if output_file is not None:
        write_atomic(output_file, "".join(f"{line}\n" for line in lines))
        typer.echo(f"{len(lines):,} rows written to {output_file}", err=True)
        return
    for line, row in zip(lines, result.rows, strict=True):
        typer.echo(line if as_json else _plain(row))


def _plain(row: dict[str, Any]) -> str:
    """An answer, a class with its probability, labels with theirs, a score, or words with their tags."""
    if "entities" in row:
        return _plain_tags(row)
    output = row["output"]
    if isinstance(output, list):
        return ", ".join(f"{name}  {row['scores'][name]:.4f}" for name in output) or "no label"
    if isinstance(output, float):
        return f"{output:.4f}"
    return f"{output}  {row['score']:.4f}" if "score" in row else str(output)


def _plain_tags(row: dict[str, Any]) -> str:
    words = next(value for value in row.values() if isinstance(value, list) and len(value) == len(row["tags"]))
    return " ".join(word if tag == "O" else f"{word}/{tag}" for word, tag in zip(words, row["tags"], strict=True))


def _check_free(file: Path | None, overwrite: bool) -> None:
    if file is not None and file.exists() and not overwrite:
        raise UsageError(Problem(str(file), "is there already", "name another file, or add `--overwrite`"))


def _texts(text: str | None, input_file: Path | None) -> list[str]:
    if text is not None:
        return [text]
    if input_file is None:
        return _lines("standard input", sys.stdin.read())
    if input_file.suffix == ".txt":
        try:
            return _lines(str(input_file), input_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(Problem(str(input_file), f"cannot be read: {error}")) from None
    return []


def _lines(where: str, text: str) -> list[str]:
    """The lines of a text; one that is blank would have no answer, and those after it another number."""
    lines = text.rstrip().splitlines()
    if not lines:
        remedy = "give `--input`, `--input-file`, or lines on standard input"
        raise UsageError(Problem("" if where == "standard input" else where, "nothing to answer", remedy))
    blank = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if blank:
        more = f", and {len(blank) - 1:,} more" if len(blank) > 1 else ""
        remedy = "remove it; texts of several lines go into a .jsonl file"
        raise UsageError(Problem(f"{where}:{blank[0]}", f"the line is blank{more}", remedy))
    return lines


def _rows(trained: Trained, texts: Sequence[str], input_file: Path | None) -> Sequence[Row]:
    from lora_ns.rows import read_rows
    from lora_ns.services.infer import as_row

    if input_file is not None and input_file.suffix != ".txt":
        return read_rows(input_file, column_names=trained.manifest.recipe.dataset.column_names)
    return [as_row(trained, text) for text in texts]
