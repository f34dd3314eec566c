"""Repair of an adapter that made its base forget: fewer intruder dimensions, written only if the skill is back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lora_ns.answers.opened import Opened, load_whole_base, loading_of
from lora_ns.errors import Problem, UsageError
from lora_ns.files.disk import follow_umask, telling_disk_errors
from lora_ns.files.staging import folder, target_of
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.methods.lora import Lora
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.saved_adapter import load_adapter
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer
from lora_ns.run.outputs import check_output
from lora_ns.services.bisect_metric import Metric
from lora_ns.services.bisect_systems import Asker, Course, Point, Reading
from lora_ns.services.evaluate import usual_suites
from lora_ns.statistics import Comparison, Verdict, adjust

REPAIRED_NAME = "repaired"
KEPT = (0.75, 0.5, 0.25, 0.0)
"""Parts of the intruder dimensions to keep; the first is that of the paper."""


@dataclass(frozen=True)
class Repair:
    """An adapter with reduced intruder dimensions, measured on the same items."""

    layers: int
    """Number of layers that have intruder dimensions."""
    kept: float | None = None
    """Part of the intruder dimensions that it keeps; None if no layer has any."""
    reading: Reading | None = None
    """Its figure, with a verdict against the adapter of the run, corrected for all parts that were tried."""
    against_good: str = ""
    """Verdict against the system that counts as good, with its reason."""
    is_back: bool = False
    """True if it is better than the adapter and not worse than the good system."""
    cost: str = ""
    """Verdict against the adapter by the loss on the evaluation rows of the run; empty if it was not measured."""
    cost_verdict: Verdict | None = None
    output: str | None = None
    """The folder, written only if it is better than the adapter of the run."""


def check_repairable(run: RunDir, manifest: Manifest, output: Path, base_path: Path | None) -> None:
    """Check that intruder dimensions of an adapter can be reduced, and that a folder can be written.

    Raises:
        UsageError: if they cannot.
    """
    if (reason := reason_against(manifest)) is not None:
        remedy = "leave `--repair` out; training with rows of the old skill mixed in works for every method"
        raise UsageError(Problem("--repair", f"intruder dimensions cannot be reduced: {reason}", remedy))
    check_output(output, run, manifest, base_path)
    target = target_of(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(Problem(str(output), "is not an empty folder", "choose another folder for `--repair`"))


def reason_against(manifest: Manifest) -> str | None:
    """The reason for which the intruder dimensions of a run's adapter cannot be reduced; None if they can."""
    return next(_reasons_against(manifest), None)


def _reasons_against(manifest: Manifest) -> Iterator[str]:
    """The reasons for which PEFT cannot reduce intruder dimensions: it changes the factors of layers alone."""
    method = manifest.recipe.peft
    if not isinstance(method, Lora):
        yield f"PEFT does that for LoRA, and this is {method.tag()}"
        return
    for key in ("use_dora", "use_kasa", "target_parameters", "trainable_token_indices", "modules_to_save"):
        if getattr(method, key):
            yield f"the adapter has `{key}`, which PEFT would leave out"
    if method.bias != "none":
        yield "the adapter has biases, which PEFT would leave out"
    if not method.keeps_base:
        yield f'`init_lora_weights = "{method.init_lora_weights}"` has changed the weights of the base'
    if manifest.recipe.quantization.bits is not None:
        yield "PEFT cannot decompose quantised weights"


def repair(asker: Asker, course: Course, good: str, output: Path, observer: Observer) -> Repair:
    """Reduce the intruder dimensions of a run's adapter (Shuttleworth et al. 2024, arXiv 2410.21228) and measure it.

    The folder has the files of the adapter with other weights, plain PEFT. It is written if the repaired adapter is
    better than that of the run, by the test that found the break.

    Args:
        asker: asks for the broken skill.
        course: the systems of the run.
        good: name of the system that counts as good.
        output: the folder to write.
        observer: receives the stages.

    Raises:
        UsageError: if the folder cannot be written.
        RunError: if there is not enough memory.
    """
    target = target_of(output)
    with folder(target) as staged, telling_disk_errors(output):
        observer.stage("reducing intruder dimensions")
        layers = _reduce(asker.opened, staged)
        if not layers:
            return Repair(0)
        observer.stage(f"asking {len(KEPT)} repaired adapters")
        found = _choose(asker, course, good, staged)
        point = found.point
        cost = _cost(asker, point, course.end)
        if found.is_better:
            if target.exists():
                target.rmdir()
            Path(point.weights).rename(target)
            follow_umask(target)
    return Repair(
        layers,
        found.kept,
        replace(asker.reading(point, None), against=course.end.name, verdict=found.verdict, reason=found.reason),
        found.against_good,
        found.is_back,
        cost.reason if cost else "",
        cost.verdict if cost else None,
        str(output) if found.is_better else None,
    )


@dataclass(frozen=True)
class _Tried:
    """A part of the intruder dimensions that was tried."""

    kept: float
    point: Point
    verdict: Verdict
    """Against the adapter."""
    reason: str
    against_good: str
    is_back: bool

    @property
    def is_better(self) -> bool:
        """True if it is better than the adapter."""
        return self.verdict == "better"


def _choose(asker: Asker, course: Course, good: str, staged: Path) -> _Tried:
    """Ask the reduced adapters; the mildest that has the skill back is chosen, otherwise the best."""
    points = [Point(f"{REPAIRED_NAME} {kept:g}", course.end.step, str(staged / str(kept))) for kept in KEPT]
    begin = next(one for one in course.all() if one.name == good)
    asker.ask(*points)
    compared = adjust([asker.compare(point, course.end) for point in points])
    tried = []
    for kept, point, found in zip(KEPT, points, compared, strict=True):
        beside = asker.compare(point, begin)
        is_back = found.verdict == "better" and beside.verdict != "worse"
        tried.append(_Tried(kept, point, found.verdict, found.reason, beside.reason, is_back))
    sign = 1 if asker.metric.higher_is_better else -1
    best = max(tried, key=lambda one: (one.is_better, sign * asker.figure(one.point).value))
    return next((one for one in tried if one.is_back), best)


def _cost(asker: Asker, repaired: Point, adapter: Point) -> Comparison | None:
    """Compare the losses on the evaluation rows of the run; None if it stores none, or these are what was measured."""
    opened = asker.opened
    usual = usual_suites(opened.manifest.recipe, exact_match=False)
    if not usual or not opened.manifest.data.eval_rows or (asker.is_usual and asker.metric.suite.asks == "loss"):
        return None
    suite = usual[0]
    return Asker.of(opened, Metric(suite, next(iter(suite.lower_is_better))), None, asker.compute).compare(
        repaired, adapter
    )


def _reduce(opened: Opened, staged: Path) -> int:
    """Write a copy of the adapter for each part to keep, and return the number of layers with intruder dimensions."""
    import torch
    from peft import get_peft_model_state_dict
    from peft.tuners.lora.intruders import reduce_intruder_dimension
    from safetensors.torch import load_file, save_file

    manifest, adapter = opened.manifest, opened.run.adapter
    saved, changed = load_file(adapter / WEIGHTS), set()
    message = "out of memory while reducing intruder dimensions, which decomposes each adapted weight of the base"
    with telling_memory_errors(lambda: message, "free memory, or leave `--repair` out"), torch.random.fork_rng():
        bare = load_whole_base(opened.run, manifest, opened.base, loading_of(manifest))
        model = load_adapter(bare, adapter)
        for number, kept in enumerate(KEPT):
            name = f"reduced{number}"
            with torch.no_grad():
                reduce_intruder_dimension(model, new_adapter_name=name, mitigation_lambda=kept, logging_sink=None)
            reduced = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
            new = {key: value.to("cpu", saved[key].dtype).contiguous() for key, value in reduced.items()}
            model.delete_adapter(name)
            shutil.copytree(adapter, staged / str(kept))
            save_file(new, staged / str(kept) / WEIGHTS, metadata={"format": "pt"})
            changed |= {key.rpartition(".lora_")[0] for key, value in new.items() if not torch.equal(value, saved[key])}
    return len(changed)
