"""`lorans export` and `lorans verify`."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from lora_ns.cli.options import AsJson, BasePath, Checkpoint, DtypeName, Force, Into, RunPath, TrustRemoteCode
from lora_ns.cli.results import show_result
from lora_ns.cli.show import Progress, forcing, note, number, print_json
from lora_ns.cli.trust import trust_run
from lora_ns.errors import Problem, UsageError

if TYPE_CHECKING:
    from lora_ns.answers.probes import Comparison
    from lora_ns.services.export import ExportResult
    from lora_ns.services.merge import MergeResult
    from lora_ns.services.verify import Proof
    from lora_ns.services.verify_lineage import LineageReport

Kind = Literal["plain", "merged", "quantized", "gguf", "ollama", "gguf-lora"]

_OPTIONS = {
    "plain": ("--rank", "--energy"),
    "merged": ("--dtype", "--max-shard-size", "--into"),
    "quantized": ("--type", "--into"),
    "gguf": ("--type", "--llama-cpp"),
    "ollama": ("--type", "--llama-cpp"),
    "gguf-lora": ("--rank", "--energy"),
}
"""Options of each kind."""


def export(
    run: RunPath,
    to: Annotated[
        Kind,
        typer.Option(
            "--to",
            metavar="KIND",
            help="Kind of artefact: plain, a LoRA that every reader reads alike; merged, a complete model; quantized, "
            "one in few bits; gguf, one file for llama.cpp; ollama, that file with a Modelfile; or gguf-lora, the "
            "adapter for llama.cpp.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write; or a file, NAME.gguf.", show_default=False)
    ],
    rank: Annotated[
        int | None,
        typer.Option(
            "--rank", min=1, help="Largest rank (plain); default: that of the update, up to 512.", show_default=False
        ),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            "--energy",
            min=0,
            max=1,
            help="Share of the squared singular values that each layer keeps, such as 0.99 (plain); default: all.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        DtypeName | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="Dtype of the weights (merged): float32, bfloat16 or float16; default: the base's own.",
            show_default=False,
        ),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            "--max-shard-size",
            metavar="SIZE",
            help="Largest size of a weight file, such as 5GB (merged); default: 50GB.",
            show_default=False,
        ),
    ] = None,
    into: Into = None,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="Type of the weights. quantized: nf4 (default), fp4, int8, torchao-int8, torchao-float8, gptq, awq; "
            "gguf and ollama: f16 (default), f32, bf16, q8_0, q4_k_m and others.",
            show_default=False,
        ),
    ] = None,
    llama_cpp: Annotated[
        Path | None,
        typer.Option(
            "--llama-cpp",
            metavar="FOLDER",
            help="Folder of llama.cpp with its converter and its quantiser (gguf); default: those on the path.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    base: BasePath = None,
    force: Force = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Export a run as an artefact that other programs read, and prove that it is the trained model.

    The artefact is read back by its own reader and compared with the trained model, stage by stage. The result is also
    in its `export_report.json`. The command ends with 1 if they differ. `--to merged` is `lorans merge` of one run.
    """
    from lora_ns.machine import libraries
    from lora_ns.machine.hardware import detect
    from lora_ns.run.directory import RunDir
    from lora_ns.services.export import export_plain
    from lora_ns.services.export_gguf import export_gguf
    from lora_ns.services.export_gguf_lora import export_gguf_lora
    from lora_ns.services.export_merged import export_merged
    from lora_ns.services.export_ollama import export_ollama
    from lora_ns.services.export_quantized import export_quantized

    given: dict[str, object] = {
        "--rank": rank,
        "--energy": energy,
        "--dtype": dtype,
        "--max-shard-size": max_shard_size,
        "--type": type_,
        "--llama-cpp": llama_cpp,
        "--into": into,
    }
    _check_options(to, given)
    source = RunDir.open_to_use(run, note)
    trust_run(trust_remote_code, source, base)
    with Progress(2) as progress, forcing(force) as forced, libraries.Noise(), contextlib.ExitStack() as stack:
        libraries.prepare(detect())
        from lora_ns.answers.checkpoints import at_checkpoint

        opened = stack.enter_context(at_checkpoint(source, checkpoint, progress.warn, base, forced))
        place = output.absolute()
        if to == "plain":
            result = export_plain(opened, place, rank, energy, base, forced, progress)
        elif to == "quantized":
            result = export_quantized(opened, place, type_ or "nf4", base, forced, progress, into == "original")
        elif to in {"gguf", "ollama"}:
            write = export_gguf if to == "gguf" else export_ollama
            result = write(opened, place, type_ or "f16", llama_cpp, base, forced, progress)
        elif to == "gguf-lora":
            result = export_gguf_lora(opened, place, rank, energy, base, forced, progress)
        else:
            chosen = into == "original"
            result = export_merged(opened, place, dtype, max_shard_size, base, forced, progress, None, chosen)
    _show(result, _next_commands(to, run, output), as_json)


def _show(result: ExportResult, commands: list[str], as_json: bool) -> None:
    """Show what was exported, its proof and its lineage."""
    if as_json:
        print_json(result)
    else:
        rows = [*rows_of(result), *rows_of_proof(result.proof), ("lineage", result.lineage)]
        show_result("exported", rows, commands)


def _next_commands(to: Kind, run: Path, output: Path) -> list[str]:
    """The command that takes an artefact further: into Ollama, or to its price in the figures of the run."""
    if to == "ollama":
        return [f"ollama create NAME -f {shlex.quote(f'{output}/Modelfile')}"]
    return [f"lorans eval {shlex.quote(str(run))} --model {shlex.quote(str(output))}"] if to == "quantized" else []


def _check_options(to: Kind, given: Mapping[str, object]) -> None:
    """Refuse options that a kind has not, and a share of nothing. Raises `UsageError`."""
    for option, value in given.items():
        if value is not None and option not in _OPTIONS[to]:
            raise UsageError(Problem(option, f"has no effect with `--to {to}`", "leave it out"))
    if given["--energy"] == 0:
        raise UsageError(Problem("--energy", "0 keeps nothing", "give a share such as 0.99"))


def verify(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CHECKPOINT|ARTEFACT",
            help="Run directory, a checkpoint, an adapter, a folder of `lorans merge` or `export`, or a GGUF file.",
            show_default=False,
        ),
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="RUN", help="Run whose trained model it must answer like.", show_default=False
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Run that it was made from; default: where its report says, or the folder around it.",
            show_default=False,
        ),
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also read all weights of a large base.")] = False,
    checkpoint: Checkpoint = None,
    base: BasePath = None,
    force: Force = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Verify that a model was made from its run, by its lineage; with --against, by its answers.

    The lineage has a hash of every file from base and rows to the model. The first link that is broken is named. It
    loads no model. With `--against`, files, chat template, token ids, stop tokens, sampling settings and answers are
    compared with the trained model of a run. The command ends with 1 if a link is broken or a stage differs.
    """
    if against is None:
        _check_unused(
            {"--checkpoint": checkpoint is not None, "--force": force, "--trust-remote-code": trust_remote_code},
            "only works with `--against`",
        )
        _verify_lineage(folder, run, base, deep, as_json)
    _check_unused({"--run": run is not None, "--deep": deep}, "has no effect with `--against`")
    assert against is not None, "the lineage has been verified"
    from lora_ns.answers.opened import open_run
    from lora_ns.exports.modelfile import MODELFILE
    from lora_ns.machine import libraries
    from lora_ns.machine.hardware import detect
    from lora_ns.run.directory import RunDir
    from lora_ns.services.verify import verify as service
    from lora_ns.services.verify_gguf import verify_gguf
    from lora_ns.services.verify_ollama import verify_ollama

    source = RunDir.open_to_use(against, note)
    trust_run(trust_remote_code, source, base)
    with Progress(1) as progress, forcing(force) as forced, libraries.Noise(), contextlib.ExitStack() as stack:
        libraries.prepare(detect())
        from lora_ns.answers.checkpoints import at_checkpoint

        opened = stack.enter_context(at_checkpoint(source, checkpoint, progress.warn, base, forced))
        trained, place = open_run(opened, base, force=forced), folder.absolute()
        if (folder / MODELFILE).is_file():
            proof = verify_ollama(trained, place, progress)
        else:
            proof = (verify_gguf if folder.suffix == ".gguf" else service)(trained, place, progress)
    if as_json:
        print_json(proof)
    else:
        show_result("compared", [("folder", proof.folder), ("run", proof.run), *rows_of_proof(proof)])
    raise typer.Exit(0 if proof.is_verified else 1)


def _check_unused(given: Mapping[str, bool], why: str) -> None:
    """Refuse options that have no effect. Raises `UsageError`."""
    for option in (option for option, is_given in given.items() if is_given):
        raise UsageError(Problem(option, why, "leave it out"))


def _verify_lineage(folder: Path, run: Path | None, base: Path | None, deep: bool, as_json: bool) -> NoReturn:
    """Verify a lineage, show it, and end the command."""
    from lora_ns.services.verify_lineage import verify_lineage

    report = verify_lineage(folder, run, base, deep)
    if as_json:
        print_json({**asdict(report), "whole": report.is_whole})
        raise typer.Exit(0 if report.is_whole else 1)
    for told in report.notes:
        note(told)
    show_result("lineage" if report.is_whole else "broken lineage", _rows_of_lineage(report))
    raise typer.Exit(0 if report.is_whole else 1)


def _rows_of_lineage(report: LineageReport) -> Iterator[tuple[str, str]]:
    """List the links of a lineage, and describe the first that is broken."""
    yield report.kind, report.place
    if report.run and report.run != report.place:
        yield "run", report.run
    if report.made_from:
        yield "made from", report.made_from
    for link in report.links:
        yield link.name, f"{link.state}: {link.what}"
    broken = report.first_broken
    if broken is None:
        if report.tip:
            yield "tip", report.tip
        return
    yield "broken link", broken.name
    facts = {"file": broken.file, "expected": broken.expected, "found": broken.found, "to do": broken.remedy}
    yield from ((name, text) for name, text in facts.items() if text)


def rows_of(result: ExportResult) -> Iterator[tuple[str, str]]:
    """Describe what was written."""
    from lora_ns.services.export import GgufFile, PlainLora, QuantizedModel

    made = result.made
    if isinstance(made, GgufFile):
        if result.kind == "ollama":
            yield "Modelfile", f"{result.output}/Modelfile"
        yield "GGUF file", result.output if result.output.endswith(".gguf") else f"{result.output}/{made.file}"
        yield "type", f"{made.type}, {made.size / 1e6:,.1f} MB"
        yield from (("note", note) for note in made.notes)
        return
    if isinstance(made, PlainLora):
        yield "GGUF LoRA" if result.kind == "gguf-lora" else "plain LoRA", result.output
        yield "rank", f"{made.rank}, with lora_alpha = {made.rank}, in {number(made.layers)} layers"
        if made.lost:
            yield "lost", f"up to {made.lost:.1%} of the update of a layer"
        return
    if isinstance(made, QuantizedModel):
        yield "quantised model", result.output
        yield "type", f"{made.type}, {number(made.parameters)} parameters in {made.size / 1e6:,.1f} MB"
        yield from _price(result, made.loss)
        return
    yield "merged model", result.output
    yield from _merged(made)
    yield from _price(result, made.loss)


def _merged(made: MergeResult) -> Iterator[tuple[str, str]]:
    if made.combined:
        yield "runs", made.combined
    yield "parameters", f"{number(made.parameters)} in {made.dtype}"
    if made.whole_model:
        yield "memory", f"the whole model, because {made.whole_model}"
    yield "merge check", f"passed (logits differ by at most {made.largest_difference:.1e} of the largest)"
    if made.dtype != "float32":
        yield "rounding", f"{made.rounded_difference:.1e} of the largest logit; `--dtype float32` avoids it"
    if made.int8_difference is not None:
        yield (
            "8 bits",
            f"training rounded the inputs of layers, the merged model does not: logits differ by "
            f"{made.int8_difference:.1e} of the largest, KL {made.int8_divergence:.1e}",
        )


def _price(result: ExportResult, loss: str | None) -> Iterator[tuple[str, str]]:
    """Describe what a choice costs."""
    if loss and (found := result.proof.comparison):
        away = f"logits differ by {found.largest_difference:.1e} of the largest, KL {found.divergence:.1e}"
        yield "price", f"{loss}: {away}"


def rows_of_proof(proof: Proof) -> Iterator[tuple[str, str]]:
    """Describe how an artefact compares."""
    for stage in proof.stages:
        if not stage.is_same:
            yield f"differs in {stage.name}", stage.fault
    if proof.first is None:
        same = ", ".join(stage.name for stage in proof.stages)
        yield "verified", f"the same {same}" if proof.bound is not None else f"the same {same}; a loss was asked for"
    if found := proof.comparison:
        if proof.others:
            yield "read by", " and ".join(["transformers", *(one.reader for one in proof.others)])
        yield "answers", _answers(found)
    for one in proof.others:
        yield f"in {one.reader}", _answers(one.comparison)


def _answers(found: Comparison) -> str:
    """Describe how answers compare."""
    return (
        f"on {found.probes} texts, logits differ by at most {found.largest_difference:.1e} of the largest, KL "
        f"{found.divergence:.1e}; {found.same_tokens:.1%} of the most probable tokens are the same"
    )
