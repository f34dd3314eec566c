"""Exporting a run as a model in few bits."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.opened import Opened, loading_of, open_run
from lora_ns.answers.probes import Reply, ask_probes
from lora_ns.errors import MissingError, Problem, UsageError, did_you_mean
from lora_ns.exports.lineage import REPORT
from lora_ns.files.disk import check_space, telling_disk_errors
from lora_ns.files.staging import folder, free_folder, put
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.model.files import find_base
from lora_ns.model.folder import SETTINGS, WEIGHTS, classify
from lora_ns.model.load import Loading, load_base
from lora_ns.quantizers import Quantization
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.run.outputs import check_output
from lora_ns.services.calibrate import calibrated
from lora_ns.services.export import ExportResult, QuantizedModel, proven, write_card, write_report
from lora_ns.services.merge import merge
from lora_ns.services.verify import probes_of_run, verify

_TABLES: Mapping[str, Mapping[str, str]] = {
    "nf4": {"method": "bnb-4bit", "bnb_4bit_quant_type": "nf4"},
    "fp4": {"method": "bnb-4bit", "bnb_4bit_quant_type": "fp4"},
    "int8": {"method": "bnb-8bit"},
    "torchao-int8": {"method": "torchao", "quant_type": "Int8WeightOnlyConfig"},
    "torchao-float8": {"method": "torchao", "quant_type": "Float8WeightOnlyConfig"},
    "gptq": {"method": "gptq"},
    "awq": {"method": "awq"},
}

TYPES = tuple(_TABLES)
"""Types of quantised weights, by bitsandbytes, torchao and GPT-QModel."""


def quantiser(kind: str) -> Quantization:
    """The quantiser of a type. Raises `UsageError`, or `MissingError` if its package is missing."""
    if kind not in _TABLES:
        remedy = did_you_mean(kind, TYPES, beside=f"one of: {', '.join(TYPES)}")
        raise UsageError(Problem("--type", f"`{kind}` is no type of quantised weights that lorans writes", remedy))
    found: Quantization = TypeAdapter(Quantization).validate_python(_TABLES[kind])
    missing = [name for name in found.packages if importlib.util.find_spec(name) is None]
    if missing:
        what = f"`--type {kind}` needs `{missing[0]}`, which is not installed"
        raise MissingError(Problem("", what, f"`pip install 'lora-ns[{found.extra}]'`"))
    return found


def export_quantized(
    run: RunDir,
    output: Path,
    kind: str = "nf4",
    base_path: Path | None = None,
    force: Force = REFUSED,
    observer: Observer | None = None,
    into_original: bool = False,
) -> ExportResult:
    """Merge a run's adapter into its base, quantise the result, and compare it with the trained model.

    The folder must give the same answers as the model that was written, if lorans wrote it. What quantisation costs is
    measured.

    Args:
        run: the run directory.
        output: the folder to write; for a symbolic link, its target.
        kind: the type of the weights, such as `nf4`.
        base_path: path to the base model, if it has moved.
        force: the response to a part that does not match the manifest.
        observer: receives the stages.
        into_original: merge into the weights that the base had before it was quantised for training.

    Raises:
        UsageError: if the type is unknown, or as `merge` does.
        MissingError: if a package is missing.
        RunError: if the folder read back is another model; it is kept, and its report says so.
    """
    observer, manifest = observer or SilentObserver(), run.read()
    quantization = quantiser(kind)
    check_output(output, run, manifest, base_path)
    target = free_folder(output)
    message = f"out of memory while quantising {manifest.base.parameters / 1e9:,.2f} billion parameters"
    with folder(target) as staged, telling_memory_errors(lambda: message, "free memory"):
        check_space(target, 4 * manifest.base.parameters)
        merged = staged / "merged"
        found = merge(run, merged, base_path, None, force, observer, into_original=into_original)
        observer.stage(f"quantising to {kind}")
        opened = open_run(run, base_path, force=force)
        loading = replace(loading_of(manifest), quantization=quantization, dtype=found.dtype, added_tokens=())
        if quantization.only_stored:
            replies = None  # another library writes it, and lorans asks it once it is read back
            with telling_disk_errors(target):
                calibrated(opened, merged, staged, kind)
                _copy_others(merged, staged)
        else:
            replies = _write(opened, merged, staged, target, loading)
        shutil.rmtree(merged)
        size = sum((staged / name).stat().st_size for name in classify(staged).weights or (WEIGHTS,))
        made = QuantizedModel(kind, found.parameters, size, found.loss)
        proof = replace(verify(opened, staged, observer, lossy=True, made=replies), folder=str(target))
        result = ExportResult(str(output), "quantized", made, proof)
        result = write_report(staged / REPORT, result, run, manifest)
        write_card(staged, result, run)
        put(staged, target)
    return proven(result)


def _write(opened: Opened, merged: Path, staged: Path, target: Path, loading: Loading) -> list[Reply]:
    """Quantise and write a merged model, with everything else that is in its folder; returns its answers."""
    base = find_base(str(merged), "main", [], download=False)
    assert base is not None, "a folder is never on the hub"
    model = load_base(base, loading)
    with telling_disk_errors(target):
        model.save_pretrained(staged)
        _copy_others(merged, staged)
    probes, _ = probes_of_run(opened)
    return ask_probes(model, probes, model.device, loading.dtype)


def _copy_others(merged: Path, staged: Path) -> None:
    """Copy what is neither weights nor configuration."""
    for file in merged.iterdir():
        if file.is_file() and not file.name.startswith("model") and file.name != SETTINGS:
            shutil.copyfile(file, staged / file.name)
