"""Exporting the adapter of a run alone as a GGUF file, for llama.cpp's `--lora`."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.gguf_model import trained_configuration
from lora_ns.answers.opened import open_run
from lora_ns.errors import MissingError, Problem, UsageError
from lora_ns.exports.gguf_lora import check_family, write_adapter
from lora_ns.exports.plain import cut_all
from lora_ns.files.disk import telling_disk_errors
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.model.gguf import ENDING
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.run.outputs import check_output
from lora_ns.services.export import (
    ExportResult,
    PlainLora,
    check_convertible,
    load_layers,
    proven,
    updates_of,
    write_report,
)
from lora_ns.services.export_gguf import put, report_name, staged_file
from lora_ns.services.verify import prove
from lora_ns.services.verify_gguf import GgufLora


def export_gguf_lora(
    run: RunDir,
    output: Path,
    rank: int | None = None,
    energy: float | None = None,
    base_path: Path | None = None,
    force: Force = REFUSED,
    observer: Observer | None = None,
) -> ExportResult:
    """Write a run's adapter as a GGUF LoRA in float32, read it back, and compare it with the trained model.

    Args:
        run: the run directory.
        output: the file to write, which ends with `.gguf`.
        rank: the largest rank; None for that of the update.
        energy: the share of the sum of squared singular values that each layer keeps; None for all.
        base_path: path to the base model, if it has moved.
        force: the response to a part that does not match the manifest.
        observer: receives the stages.

    Raises:
        UsageError: if the adapter cannot be written as LoRA, llama.cpp has no place for it, or the output is there.
        RunError: if the file differs from the trained model; it is kept, and its report says so.
    """
    observer, manifest = observer or SilentObserver(), run.read()
    check_convertible(run, manifest)
    if importlib.util.find_spec("gguf") is None:
        raise MissingError(Problem("", "`--to gguf-lora` needs `gguf`", "`pip install 'lora-ns[gguf]'`"))
    if output.suffix != ENDING:
        raise UsageError(Problem(str(output), "does not end with .gguf", f"name a file, such as adapter{ENDING}"))
    check_output(output, run, manifest, base_path)
    opened = open_run(run, base_path, force=force)
    config = trained_configuration(opened)
    check_family(config)
    message = f"out of memory while converting an adapter of {manifest.base.parameters / 1e9:,.2f} billion parameters"
    observer.stage("loading the base and the adapter")
    with (
        staged_file(output, "f32", manifest) as (file, staged, target),
        telling_memory_errors(lambda: message, "free memory"),
    ):
        updates, lost = cut_all(updates_of(load_layers(opened)), rank, energy)
        if not updates:
            raise UsageError(Problem(str(run.path), "the adapter changes no layer", "use `--to gguf`"))
        with telling_disk_errors(target):
            write_adapter(file, manifest.recipe.task_name, updates, config)
        is_cut = rank is not None or energy is not None or lost > 0
        proof = prove(opened, file, GgufLora(opened, file), observer, lossy=is_cut)
        made = PlainLora(next(iter(updates.values())).rank, len(updates), lost)
        result = ExportResult(str(target), "gguf-lora", made, replace(proof, folder=str(target)))
        alone = file if target.suffix == ENDING else None
        result = write_report(staged / report_name(target), result, run, manifest, opened, alone=alone)
        with telling_disk_errors(target):
            put(staged, file, target)
    return proven(result)
