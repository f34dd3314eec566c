"""`lorans infer`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli import complete
from lora_ns.cli.answering import AskedRun
from lora_ns.cli.options import (
    AnyPath,
    AsJson,
    BasePath,
    Dtype,
    Force,
    Gpus,
    NumProcesses,
    Overrides,
    TrustRemoteCode,
)
from lora_ns.cli.show import Progress, forcing
from lora_ns.cli.terminal import hand_over, say
from lora_ns.cli.trust import trust_artefact, trust_run
from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import check_text

if TYPE_CHECKING:
    from lora_ns.answers.opened import Opened
    from lora_ns.data.rows import Row
    from lora_ns.files.staging import Output
    from lora_ns.services.infer import Keep


Text = Annotated[
    str | None, typer.Option("--input", "-i", help="A text to answer, classify, score or tag.", show_default=False)
]


InputFile = Annotated[
    Path | None,
    typer.Option(
        "--input-file",
        help="File of inputs: a .txt with one text per line, or rows such as a .jsonl.",
        show_default=False,
    ),
]


OutputFile = Annotated[
    Path | None, typer.Option("--output-file", "-o", help="File for the answers, a .jsonl.", show_default=False)
]


Resume = Annotated[
    bool, typer.Option("--resume", help="Answer the rows that a killed or stopped command with the same -o left.")
]


OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")]


Against = Annotated[
    Path | None,
    typer.Option(
        "--against",
        metavar="RUN",
        help="The run that an artefact was made from, if the artefact does not say it itself.",
        show_default=False,
        autocompletion=complete.run_folders,
    ),
]


def infer(
    run: AnyPath,
    text: Text = None,
    input_file: InputFile = None,
    output_file: OutputFile = None,
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    overwrite: OverwriteFile = False,
    resume: Resume = False,
    against: Against = None,
    base: BasePath = None,
    dtype: Dtype = None,
    force: Force = False,
    trust_remote_code: TrustRemoteCode = False,
    num_processes: NumProcesses = None,
    gpus: Gpus = None,
    as_json: AsJson = False,
) -> None:
    """Answer, classify, score or tag texts with a run, or with what it was exported or merged as.

    Without --input or --input-file, each line of standard input is one text.
    """
    from lora_ns.machine import libraries
    from lora_ns.recipe.load import override_generation

    if text is not None and input_file is not None:
        raise UsageError(Problem("", "--input and --input-file are both given", "keep one of them"))
    if resume and output_file is None:
        raise UsageError(Problem("--resume", "there is no file to go on with", "name it with `-o`"))
    asked = AskedRun.of_place(run, num_processes, gpus, "answers", against)
    generation = override_generation(asked.manifest.recipe, overrides)
    texts = _texts(text, input_file)
    if asked.artefact is None:
        trust_run(trust_remote_code, asked.folder, base)
    else:
        trust_artefact(trust_remote_code, asked.artefact, base)
    with _output(output_file, overwrite, asked, base, input_file) as file:
        with Progress(2) as progress, forcing(force) as forced, libraries.Noise():
            libraries.prepare(asked.machine, asked.processes)
            from lora_ns.answers.journal import Journal
            from lora_ns.services.infer import check_columns, unasked_note
            from lora_ns.services.infer import infer as service

            opened = asked.open(base, dtype, forced)
            rows = _rows(opened, texts, input_file)
            check_columns(opened.manifest, rows)
            if warning := unasked_note(opened.manifest, rows, str(input_file)):
                progress.warn(warning)
            compute = asked.compute(opened, progress, base, dtype, force)
            journal = Journal(file.target, resume) if file and file.target else None
            compute = journal.keeping(opened, compute) if journal else compute
            with _keeping(file, len(rows), progress.warn) as keep:
                result = service(opened, rows, generation, compute, keep)
        _print(result.rows, file, as_json)
        if journal:
            journal.forget()


@contextlib.contextmanager
def _output(
    output_file: Path | None, overwrite: bool, asked: AskedRun, base: Path | None, input_file: Path | None
) -> Iterator[Output | None]:
    """Open the output file, if there is one. Raises `UsageError` if the command also reads it."""
    from lora_ns.files.staging import output
    from lora_ns.run.outputs import check_beside, check_output
    from lora_ns.services.infer import check_answers

    if output_file is None:
        yield None
        return
    if asked.artefact is None:
        check_output(output_file, asked.folder, asked.manifest, base)
    else:
        check_beside(output_file, asked.artefact.place)
    check_answers(output_file, input_file)
    with output(output_file, overwrite) as file:
        yield file


@contextlib.contextmanager
def _keeping(file: Output | None, count: int, tell: Callable[[str], None]) -> Iterator[Keep]:
    """Collect rows as they are answered, so that an error or a signal does not lose them."""
    answered: dict[int, dict[str, Any]] = {}
    try:
        yield answered.__setitem__ if file else lambda *_: None
    except BaseException:
        if file and answered and (kept := file.keep(_json(answered[number]) for number in sorted(answered))):
            tell(f"{len(answered):,} of {count:,} rows were answered; they are in {kept}; `--resume` answers the rest")
        raise


def _json(row: dict[str, Any], is_escaped: bool = False) -> str:
    return json.dumps(row, ensure_ascii=is_escaped, default=str)


def _print(rows: Sequence[dict[str, Any]], file: Output | None, as_json: bool) -> None:
    """Write the answers to their file, or to standard output, where a terminal gets escaped JSON."""
    escaped = file is None and sys.stdout.isatty()
    lines = [_json(row, escaped) for row in rows]
    if file is not None:
        file.write(lines)
        say(f"{len(lines):,} rows written to {file.path}", err=True)
        return
    for line, row in zip(lines, rows, strict=True):
        hand_over(line if as_json else _plain(row))


def _plain(row: dict[str, Any]) -> str:
    """Format an answer, a class or labels with their probability, scores, or words with their tags."""
    if "entities" in row:
        return _plain_tags(row)
    if "output" not in row:
        return "  ".join(f"{row[name]:.4f}" for name in ("score", "rejected_score") if name in row)
    output = row["output"]
    if isinstance(output, list):
        return ", ".join(f"{name}  {row['scores'][name]:.4f}" for name in output) or "no label"
    if isinstance(output, float):
        return f"{output:.4f}"
    return f"{output}  {row['score']:.4f}" if "score" in row else str(output)


def _plain_tags(row: dict[str, Any]) -> str:
    words = next(value for value in row.values() if isinstance(value, list) and len(value) == len(row["tags"]))
    return " ".join(word if tag == "O" else f"{word}/{tag}" for word, tag in zip(words, row["tags"], strict=True))


def _texts(text: str | None, input_file: Path | None) -> list[str]:
    from lora_ns.data.files.read import prompts_of, read_prompts

    if text is not None:
        return [check_text(text, "--input")]
    if input_file is None:
        return _lines("standard input", prompts_of(Path("standard input"), sys.stdin.buffer))
    return _lines(str(input_file), read_prompts(input_file)) if _has_prompts(input_file) else []


def _has_prompts(file: Path) -> bool:
    """Return whether a file has lines of text rather than rows."""
    from lora_ns.data.files.kinds import find_kind

    kind = find_kind(file)
    return kind is not None and kind.is_plain_text


def _lines(where: str, lines: list[str]) -> list[str]:
    """Check that no text is blank: it would have no answer, and shift the numbers of the rest."""
    if not lines:
        remedy = "give `--input`, `--input-file`, or lines on standard input"
        raise UsageError(Problem("" if where == "standard input" else where, "nothing to answer", remedy))
    blank = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if blank:
        more = f", and {len(blank) - 1:,} more" if len(blank) > 1 else ""
        remedy = "remove it; texts of several lines go into a .jsonl file"
        raise UsageError(Problem(f"{where}:{blank[0]}", f"the line is blank{more}", remedy))
    return lines


def _rows(opened: Opened, texts: Sequence[str], input_file: Path | None) -> Sequence[Row]:
    from lora_ns.data.files.paths import layout_of
    from lora_ns.data.files.read import read_rows
    from lora_ns.services.infer import as_row

    if input_file is not None and not _has_prompts(input_file):
        return read_rows(input_file, layout=layout_of(opened.manifest.recipe.dataset))
    return [as_row(opened, text) for text in texts]
