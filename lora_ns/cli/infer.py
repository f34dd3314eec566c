"""`lorans infer`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lora_ns.cli import complete
from lora_ns.cli.answering import AskedRun
from lora_ns.cli.options import (
    AnyPath,
    AsJson,
    BasePath,
    Checkpoint,
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
    from lora_ns.answers.journal import Journal
    from lora_ns.answers.opened import Opened
    from lora_ns.data.rows import Outcome
    from lora_ns.files.staging import Output
    from lora_ns.recipe.generation import Generation
    from lora_ns.services.infer import InferResult, Keep
    from lora_ns.services.infer_adapters import Computing


ErrorsChoice = Literal["stop", "rows"]


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


Adapters = Annotated[
    list[Path] | None,
    typer.Option(
        "--adapter",
        metavar="RUN|ARTEFACT",
        help="Another run or adapter folder on the same base, which answers each row, too. Repeat it for more.",
        show_default=False,
        autocompletion=complete.run_folders,
    ),
]


BaseToo = Annotated[bool, typer.Option("--base-too", help="Let the base without an adapter answer each row, too.")]


Errors = Annotated[
    ErrorsChoice,
    typer.Option(
        "--errors",
        help="For a row that cannot be answered: `stop` before any row is answered, or write the `rows` with an error.",
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
    adapter: Adapters = None,
    base_too: BaseToo = False,
    errors: Errors = "stop",
    against: Against = None,
    checkpoint: Checkpoint = None,
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
    asked = [AskedRun.of_place(run, num_processes, gpus, "answers", against)]
    asked += [AskedRun.of_place(other, num_processes, gpus, "answers") for other in adapter or ()]
    generation = override_generation(asked[0].manifest.recipe, overrides)
    texts = _texts(text, input_file, errors == "rows")
    for one in asked:
        _trust(trust_remote_code, one, base)
    with _output(output_file, overwrite, asked, base, input_file) as file:
        with (
            Progress(2) as progress,
            forcing(force) as forced,
            libraries.Noise(),
            asked[0].at_prepared(checkpoint, base, forced, progress.warn) as first,
        ):
            from lora_ns.answers.journal import Journal

            asked[0] = first
            opened = [one.open(base, dtype, forced) for one in asked]
            asking = _Asking(opened, base_too, errors == "rows", generation)
            rows = asking.rows(texts, input_file, progress.warn)
            by_run = {id(one): folder for one, folder in zip(opened, asked, strict=True)}
            journal = Journal(file.target, resume, progress.warn) if file and file.target else None
            with _keeping(file, len(rows), progress.warn) as keep:
                result = asking.answer(
                    rows,
                    lambda one, beside: by_run[id(one)].compute(one, progress, base, dtype, force, beside),
                    journal,
                    keep,
                    progress.warn,
                )
        _print(result, file, as_json)
        if journal:
            journal.forget()
    if result.failed == len(result.rows):
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Asking:
    """What is asked, and how."""

    opened: Sequence[Opened]
    base_too: bool
    tolerant: bool
    generation: Generation

    @property
    def several(self) -> bool:
        """True if each row gets several answers."""
        return self.base_too or len(self.opened) > 1

    def rows(self, texts: Mapping[str, str], input_file: Path | None, tell: Callable[[str], None]) -> Sequence[Outcome]:
        """Read the rows, with the problems of those that cannot be read if these are to be rows, too."""
        from lora_ns.services.infer import check_columns, unasked_note
        from lora_ns.services.infer_adapters import OUTPUTS

        manifest = self.opened[0].manifest
        rows = _rows(self.opened[0], texts, input_file, self.tolerant)
        check_columns(manifest, rows, self.tolerant, (OUTPUTS,) if self.several else ())
        if warning := unasked_note(manifest, rows, str(input_file)):
            tell(warning)
        return rows

    def answer(
        self,
        rows: Sequence[Outcome],
        computing: Computing,
        journal: Journal | None,
        keep: Keep,
        tell: Callable[[str], None],
    ) -> InferResult:
        """Answer all rows."""
        from lora_ns.services.infer import infer as service
        from lora_ns.services.infer_adapters import adapters_of, infer_adapters, loaded_alone, together

        first, *others = self.opened
        if not self.several:
            compute = computing(first, {})
            compute = journal.keeping([first], compute) if journal else compute
            return service(first, rows, self.generation, compute, keep, self.tolerant)
        adapters = adapters_of(first, others, self.base_too)
        if alone := loaded_alone(adapters):
            tell(f"asked one after the other, each with a load of its own: {', '.join(alone)}")
        compute = together(adapters, computing)
        compute = journal.keeping([one.opened for one in adapters], compute) if journal else compute
        return infer_adapters(adapters, rows, self.generation, compute, keep, self.tolerant)


def _trust(is_given: bool, asked: AskedRun, base: Path | None) -> None:
    """Allow the code of a run or an artefact, if the user consents. Raises `LoransError`."""
    if asked.artefact is None:
        trust_run(is_given, asked.folder, base)
    else:
        trust_artefact(is_given, asked.artefact, base)


@contextlib.contextmanager
def _output(
    output_file: Path | None, overwrite: bool, asked: Sequence[AskedRun], base: Path | None, input_file: Path | None
) -> Iterator[Output | None]:
    """Open the output file, if there is one. Raises `UsageError` if the command also reads it."""
    from lora_ns.files.staging import output
    from lora_ns.run.outputs import check_beside, check_output
    from lora_ns.services.infer import check_answers

    if output_file is None:
        yield None
        return
    for one in asked:
        if one.artefact is None:
            check_output(output_file, one.folder, one.manifest, base)
        else:
            check_beside(output_file, one.artefact.place)
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


def _print(result: InferResult, file: Output | None, as_json: bool) -> None:
    """Write the answers to their file, or to standard output, where a terminal gets escaped JSON."""
    escaped = file is None and sys.stdout.isatty()
    lines = [_json(row, escaped) for row in result.rows]
    if file is not None:
        file.write(lines)
        say(f"{len(lines):,} rows written to {file.path}", err=True)
    else:
        for line, row in zip(lines, result.rows, strict=True):
            hand_over(line if as_json else _shown(row))
    if result.failed:
        say(f"{result.failed:,} of {len(lines):,} rows could not be answered: they have an `error`", err=True)


def _shown(row: dict[str, Any]) -> str:
    """Format a row: its answer, those of several adapters with their names, or its error."""
    if "outputs" in row:
        given = {name: value for name, value in row.items() if name != "outputs"}
        return "\n".join(f"{name}: {_shown({**given, **one})}" for name, one in row["outputs"].items())
    return f"error: {row['error']['what']}" if "error" in row else _plain(row)


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


def _texts(text: str | None, input_file: Path | None, tolerant: bool) -> dict[str, str]:
    """The texts to answer by their places; none if the input file has rows. With `tolerant`, some may be blank."""
    from lora_ns.data.files.read import prompts_of, read_prompts

    if text is not None:
        return {"input": check_text(text, "--input")}
    if input_file is None:
        where, lines = "standard input", prompts_of(Path("standard input"), sys.stdin.buffer)
    elif _has_prompts(input_file):
        where, lines = str(input_file), read_prompts(input_file)
    else:
        return {}
    if not lines:
        remedy = "give `--input`, `--input-file`, or lines on standard input"
        raise UsageError(Problem("" if input_file is None else where, "nothing to answer", remedy))
    if not tolerant:
        _check_not_blank(where, lines)
    return {f"{where}:{number}": line for number, line in enumerate(lines, start=1)}


def _has_prompts(file: Path) -> bool:
    """Return whether a file has lines of text rather than rows."""
    from lora_ns.data.files.kinds import find_kind

    kind = find_kind(file)
    return kind is not None and kind.is_plain_text


_BLANK = "remove it; texts of several lines go into a .jsonl file"


def _check_not_blank(where: str, lines: Sequence[str]) -> None:
    """Check that no text is blank: it would have no answer, and shift the numbers of the rest. Raises `UsageError`."""
    blank = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if blank:
        more = f", and {len(blank) - 1:,} more" if len(blank) > 1 else ""
        raise UsageError(Problem(f"{where}:{blank[0]}", f"the line is blank{more}", _BLANK))


def _rows(opened: Opened, texts: Mapping[str, str], input_file: Path | None, tolerant: bool) -> Sequence[Outcome]:
    from lora_ns.data.files.paths import layout_of
    from lora_ns.data.files.read import read_outcomes, read_rows
    from lora_ns.services.infer import as_row

    if input_file is not None and not _has_prompts(input_file):
        read = read_outcomes if tolerant else read_rows
        return read(input_file, layout=layout_of(opened.manifest.recipe.dataset))
    return [
        as_row(opened, text, where) if text.strip() or not tolerant else Problem(where, "the line is blank", _BLANK)
        for where, text in texts.items()
    ]
