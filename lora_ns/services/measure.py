"""A few real steps of a recipe in a process of its own, whose memory and speed correct its plan.

`python -m lora_ns.services.measure FOLDER` is that process; it reads what to train from a file in the folder, and
leaves there its run, or the problem that ended it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from lora_ns.errors import LoransError, Problem, RunError, UsageError
from lora_ns.files.temporary import temporary_folder
from lora_ns.launch.tethered import tethered
from lora_ns.launch.torchrun import dump_error, load_error
from lora_ns.machine.hardware import Machine
from lora_ns.plan.memory.allocator import LIBRARIES_ON_GPU
from lora_ns.plan.plan import Plan, computed
from lora_ns.plan.speed import Measured
from lora_ns.recipe.load import LoadedRecipe, load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.run.tail import MetricsTail
from lora_ns.safety.interpreter import interpreter
from lora_ns.services.measured_speed import tokens_per_second

STEPS = 3
"""Steps of a measurement. The first takes the longest rows, and memory from the system that later steps use again."""

_REQUEST, _PROBLEM = "request.json", "problem.json"


@dataclass(frozen=True)
class MeasuredSteps:
    """What a few steps took."""

    steps: int
    memory_bytes: int
    """Largest memory of the process on a CPU; on a GPU, what PyTorch reserved, and the libraries."""
    estimated_bytes: int | None
    """What the plan of these steps estimated."""
    tokens_per_second: float | None
    """Speed from the second step on."""

    @property
    def speed(self) -> Measured | None:
        """The speed for a plan."""
        return None if self.tokens_per_second is None else Measured(self.tokens_per_second, f"{self.steps} steps")


def check_measurable(loaded: LoadedRecipe, plan: Plan) -> None:
    """Check that one process of this machine trains what the recipe does. Raises `UsageError`."""
    if plan.world_size.value > 1 or loaded.recipe.distributed.shards:
        how = f"in {plan.world_size.value}" if plan.world_size.value > 1 else "divides its base"
        what = f"--measure trains in one process, and this recipe {how}"
        remedy = "leave `--measure` out, or add `--set distributed.strategy=none` for the memory of one process alone"
        raise UsageError(Problem(loaded.where("distributed"), what, remedy))


def measure(loaded: LoadedRecipe) -> MeasuredSteps:
    """Train a few steps of a recipe in a temporary folder, without evaluation, checkpoints, suites and trackers.

    Raises:
        LoransError: as `train` does.
    """
    with temporary_folder() as folder:
        request = {"path": str(loaded.path), "overrides": list(loaded.overrides), "text": loaded.text}
        (folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")
        command = tethered([*interpreter(), "-m", "lora_ns.services.measure", str(folder)])
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode:
            raise _failure(folder, done)
        return _found(RunDir.open(folder / "run"))


def _failure(folder: Path, done: subprocess.CompletedProcess[str]) -> LoransError:
    """The error that ended the process."""
    if (folder / _PROBLEM).is_file():
        return load_error(json.loads((folder / _PROBLEM).read_text(encoding="utf-8")))
    if done.returncode == -signal.SIGKILL:
        what = "the system ended the steps of `--measure`, as it does if memory runs out"
        return RunError(Problem("", what, "see the estimate with `lorans plan` alone, and plan smaller batches"))
    said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    return RunError(Problem("", f"the steps of `--measure` failed: {said}", "`lorans train` shows the whole error"))


def _found(run: RunDir) -> MeasuredSteps:
    manifest, rows = run.read(), MetricsTail(run.metrics).read()[0]
    metrics = manifest.metrics
    reserved = metrics.get("peak_reserved_bytes")
    taken = metrics["peak_memory_bytes"] if reserved is None else reserved + LIBRARIES_ON_GPU
    planned = manifest.plan.memory_bytes.value
    return MeasuredSteps(
        manifest.plan.max_steps.value or STEPS,
        int(taken),
        None if planned is None else planned + manifest.plan.mapped_bytes,
        tokens_per_second(rows),
    )


def corrected(plan: Plan, found: MeasuredSteps, machine: Machine) -> Plan:
    """Return a plan with the measured memory. Its terms stay those of the estimate."""
    estimated = "" if found.estimated_bytes is None else f"; estimated: {found.estimated_bytes / 1e9:.2f} GB"
    why = f"measured in {found.steps} steps on {machine.gpus[0].name if machine.gpus else 'this machine'}{estimated}"
    return plan.model_copy(update={"memory_bytes": computed(found.memory_bytes, why)})


def short_recipe(loaded: LoadedRecipe, folder: Path) -> LoadedRecipe:
    """The recipe of a measurement: the same steps, as few as show memory and speed, and nothing beside them."""
    recipe = loaded.recipe.as_trial()
    steps = max(STEPS, recipe.peft.least_steps)
    training = {
        "output_dir": str(folder / "run"),
        "max_steps": steps,
        "warmup_steps": 0,
        "warmup_ratio": 0.0,
        "logging_steps": 1,
        "save_steps": steps + 1,
        "eval_steps": None,
        "extra": {**recipe.training.extra, "save_strategy": "no"},
    }
    nothing_held_out = {"eval_path": None, "eval_split": None, "eval_fraction": 0.0}
    changed = recipe.model_copy(
        update={
            "training": recipe.training.model_copy(update=training),
            "dataset": recipe.dataset.model_copy(update=nothing_held_out),
            "evaluation": recipe.evaluation.model_copy(update={"group_by": None}),
        }
    )
    return replace(loaded, recipe=changed)


def main(folder: Path) -> None:
    """Train the steps that a request names; see the module."""
    from lora_ns.machine.libraries import Noise
    from lora_ns.services.train import train

    request = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    loaded = load_recipe(Path(request["path"]), request["overrides"], request["text"])
    try:
        with Noise() as noise:
            train(short_recipe(loaded, folder), SilentObserver(), noise)
    except LoransError as error:
        report = dump_error(error, Problem("", str(error)))
        (folder / _PROBLEM).write_text(json.dumps(report), encoding="utf-8")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
