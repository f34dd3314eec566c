"""Exporting a run as one GGUF file, for llama.cpp, Ollama and LM Studio."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.gguf_model import configuration, trained_configuration
from lora_ns.answers.opened import Opened, open_run
from lora_ns.errors import MissingError, ModelError, Problem, UsageError, did_you_mean
from lora_ns.exports.gguf_file import TYPES, Model, write_model
from lora_ns.exports.gguf_settings import FAMILIES, family_of, notes_of, settings_of
from lora_ns.exports.gguf_tokens import vocabulary_of
from lora_ns.exports.lineage import REPORT
from lora_ns.exports.llama_cpp import CONVERTER, QUANTISED, QUANTISER, convert, find_tool, quantise
from lora_ns.exports.record import record_file
from lora_ns.files.disk import check_space, follow_umask, sync, telling_disk_errors
from lora_ns.files.reading import read_json
from lora_ns.files.staging import folder, target_of
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.model.files import Base
from lora_ns.model.gguf import ENDING
from lora_ns.run.directory import RunDir
from lora_ns.run.lineage import lineage_file
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.run.outputs import check_output
from lora_ns.services.export import ExportResult, GgufFile, proven, write_report
from lora_ns.services.merge import merge
from lora_ns.services.verify import Proof
from lora_ns.services.verify_gguf import verify_gguf

BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 9}
"""Bits of a weight, rounded up; those of llama.cpp's other types are fewer than the last."""


@dataclass(frozen=True)
class _Tools:
    """The programs of llama.cpp that a type or a family needs."""

    quantiser: Path | None
    converter: Path | None


def export_gguf(
    run: RunDir,
    output: Path,
    kind: str = "f16",
    llama_cpp: Path | None = None,
    base_path: Path | None = None,
    force: Force = REFUSED,
    observer: Observer | None = None,
) -> ExportResult:
    """Merge a run's adapter into its base, write one GGUF file, read it back, and compare it with the trained model.

    Args:
        run: the run directory.
        output: the file to write, which ends with `.gguf`, or a folder for it; for a symbolic link, its target.
        kind: llama.cpp's name of the type of the weights, such as `f16`.
        llama_cpp: a folder of llama.cpp with its converter and its quantiser; None for those on the path.
        base_path: path to the base model, if it has moved.
        force: the response to a part that does not match the manifest.
        observer: receives the stages.

    Raises:
        UsageError: if the type is unknown, llama.cpp has no such model or tokenizer, or the output cannot be written.
        MissingError: if a package or a program is missing.
        RunError: if the file differs from the trained model; it is kept, and its report says so.
    """
    return export_packaged(run, output, kind, llama_cpp, base_path, force, observer, _Alone())


class Packaging(Protocol):
    """What a GGUF file is written with."""

    @property
    def kind(self) -> str:
        """Kind of the artefact."""

    def prepare(self, opened: Opened, output: Path) -> None:
        """Refuse, before anything is written, what cannot be packaged. Raises `UsageError`."""

    def prove(self, opened: Opened, file: Path, made: GgufFile, observer: Observer) -> tuple[GgufFile, Proof]:
        """Write what belongs to a file beside it, and compare all of it with the trained model."""

    def describe(self, staged: Path, result: ExportResult, run: RunDir) -> None:
        """Write the card."""


class _Alone:
    """The file alone."""

    kind = "gguf"

    def prepare(self, opened: Opened, output: Path) -> None:
        """Accept any run."""

    def prove(self, opened: Opened, file: Path, made: GgufFile, observer: Observer) -> tuple[GgufFile, Proof]:
        """Compare the file."""
        return made, verify_gguf(opened, file, observer)

    def describe(self, staged: Path, result: ExportResult, run: RunDir) -> None:
        """Write none."""


def export_packaged(
    run: RunDir,
    output: Path,
    kind: str,
    llama_cpp: Path | None,
    base_path: Path | None,
    force: Force,
    observer: Observer | None,
    packaging: Packaging,
) -> ExportResult:
    """Export a run as a GGUF file with what belongs to it; arguments and errors as in `export_gguf`."""
    observer, kind, manifest = observer or SilentObserver(), kind.lower(), run.read()
    _check(run, manifest, kind, packaging.kind)
    check_output(output, run, manifest, base_path)
    opened = open_run(run, base_path, force=force)
    tools = _tools(opened, kind, llama_cpp)
    packaging.prepare(opened, output)
    message = f"out of memory while exporting {manifest.base.parameters / 1e9:,.2f} billion parameters"
    with (
        staged_file(output, kind, manifest) as (file, staged, target),
        telling_memory_errors(lambda: message, "free memory"),
    ):
        check_space(target, manifest.base.parameters * (4 + BITS.get(kind, 32 + 9) // 8 + 1))
        merge(run, staged / "merged", base_path, "float32", force, observer)
        observer.stage(f"writing the GGUF file in {kind}")
        with telling_disk_errors(target):
            made = _write(staged, file, kind, tools, opened)
        shutil.rmtree(staged / "merged")
        made, proof = packaging.prove(opened, file, made, observer)
        result = ExportResult(str(target), packaging.kind, made, replace(proof, folder=str(target)))
        alone = file if target.suffix == ENDING else None
        result = write_report(staged / report_name(target), result, run, manifest, opened, alone=alone)
        packaging.describe(staged, result, run)
        with telling_disk_errors(target):
            put(staged, file, target)
    return proven(result)


def _check(run: RunDir, manifest: Manifest, kind: str, to: str) -> None:
    """Check the type, the task and the package. Raises `UsageError` or `MissingError`."""
    known = (*TYPES, *QUANTISED)
    if kind not in known:
        remedy = did_you_mean(kind, known, beside=f"one of: {', '.join(known)}")
        raise UsageError(Problem("--type", f"`{kind}` is no type of GGUF weights that lorans writes", remedy))
    if not manifest.recipe.objective.writes_text:
        what = "the run trained a classifier, and llama.cpp writes text"
        raise UsageError(Problem(str(run.path), what, "export it as a merged model instead: `--to merged`"))
    if importlib.util.find_spec("gguf") is None:
        what = f"`--to {to}` needs `gguf`, which is not installed"
        raise MissingError(Problem("", what, "`pip install 'lora-ns[gguf]'`"))


def _tools(opened: Opened, kind: str, llama_cpp: Path | None) -> _Tools:
    """Find the programs of llama.cpp that are needed. Raises `MissingError`, or `UsageError` for what none can do."""
    config = trained_configuration(opened)
    converter = quantiser = None
    if family_of(config) is None:
        known = ", ".join(FAMILIES)
        needed = f"a model of the family `{config.get('model_type')}` (lorans itself writes {known})"
        converter = find_tool(CONVERTER, needed, llama_cpp)
    else:
        try:
            settings_of(config)
            vocabulary_of(opened.tokenizer, config["vocab_size"], opened.manifest.stop_token_ids)
        except UsageError:
            if llama_cpp is None or not (llama_cpp / CONVERTER).is_file():
                raise
            converter = llama_cpp / CONVERTER
    if kind in QUANTISED:
        quantiser = find_tool(QUANTISER, f"the type `{kind}`", llama_cpp)
    return _Tools(quantiser, converter)


def report_name(target: Path) -> str:
    """The name of the report: beside a file, or in a folder."""
    return f"{target.name}.{REPORT}" if target.suffix == ENDING else REPORT


def beside(target: Path) -> tuple[str, str, str]:
    """The names of the report, the record and the lineage beside a file."""
    return report_name(target), record_file(target).name, lineage_file(target).name


@contextmanager
def staged_file(output: Path, kind: str, manifest: Manifest) -> Iterator[tuple[Path, Path, Path]]:
    """Yield the file to write, its staging folder and the target. Raises `UsageError` if that is there already."""
    target = target_of(output)
    is_file = target.suffix == ENDING
    places = [target]
    if is_file:
        places += [place for name in beside(target) if not _is_left_over(place := target.with_name(name), target)]
    for place in places:
        if place.exists() and (is_file or not place.is_dir() or any(place.iterdir())):
            raise UsageError(Problem(str(place), "is there already", "choose another `--output`"))
    name = target.name if is_file else f"{manifest.recipe.task_name}-{kind.upper()}{ENDING}"
    with folder(target) as staged:
        yield staged / name, staged, target


def _is_left_over(place: Path, target: Path) -> bool:
    """True for a part of an artefact whose file is not there, since the command was killed before it named that."""
    try:
        table = read_json(place)
        key = {record_file(target): "manifest", lineage_file(target): "links"}.get(place)
        is_own = key in table if key else table["output"] == str(target)
    except (UsageError, KeyError, TypeError):
        return False
    return is_own and not target.exists()


def _write(staged: Path, file: Path, kind: str, tools: _Tools, opened: Opened) -> GgufFile:
    """Write the merged model as a file, with llama.cpp's programs where they are needed."""
    merged, manifest = staged / "merged", opened.manifest
    config = configuration(Base(str(merged), merged), manifest.recipe.model.trust_remote_code)
    first, own = (kind, file) if tools.quantiser is None else ("f32", staged / "whole.gguf")
    if tools.converter is not None:
        convert(tools.converter, merged, own, first)
    else:
        vocabulary = vocabulary_of(opened.tokenizer, config["vocab_size"], manifest.stop_token_ids)
        write_model(own, merged, Model(manifest.recipe.task_name, config, vocabulary), first)
    if tools.quantiser is not None:
        quantise(tools.quantiser, own, file, kind)
        own.unlink()
    if not file.is_file():
        raise ModelError(Problem(str(file), "llama.cpp's program has not written it", "try a current llama.cpp"))
    notes = notes_of(config) if family_of(config) else ()
    return GgufFile(file.name, kind, file.stat().st_size, str(tools.converter) if tools.converter else "lorans", notes)


def put(staged: Path, file: Path, target: Path) -> None:
    """Give the file and its report their names once both are on the disk."""
    follow_umask(staged)
    sync(staged)
    if target.suffix == ENDING:
        for name in beside(target):
            (staged / name).rename(target.with_name(name))
        file.rename(target)
    else:
        staged.rename(target)  # an empty folder there is replaced
    sync(target.parent)
