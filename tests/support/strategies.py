"""Runs of two processes: prepared here, trained in one shared pair of processes, and checked."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import ranks_driver
from services_recipes import RECIPE, run_recipe

import lora_ns.services.after_training
import lora_ns.services.resume
import lora_ns.services.train
from lora_ns.launch.torchrun import environment
from lora_ns.machine.hardware import usable_cores
from lora_ns.run.directory import RunDir

THREADS = max(1, usable_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
"""Number of threads of a run of one process, see `conftest`."""
ZERO = 'distributed.strategy="deepspeed"'
STRATEGIES: Mapping[str, Sequence[str]] = {
    "ddp": ('distributed.strategy="ddp"',),
    "fsdp": ('distributed.strategy="fsdp"',),
    **{f"zero{stage}": (ZERO, f"distributed.zero_stage={stage}") for stage in (1, 2, 3)},
}


@dataclass(frozen=True)
class Cell:
    """A recipe that two processes train."""

    overrides: Sequence[str] = ()
    interrupted: bool = False
    """The run is interrupted, and must resume to the same bits."""
    seal: float = 1e-6
    """Largest difference between the logits of the saved adapter and those of the trained model."""


NF4 = ('quantization.method="bnb-4bit"',)
CLUSTER: Mapping[str, Cell] = {
    "lora": Cell(interrupted=True),
    "dora": Cell(("peft.use_dora=true",), interrupted=True),
    "ia3": Cell(('peft.method="ia3"',), interrupted=True),
    "prompt-tuning": Cell(('peft.method="prompt-tuning"',), interrupted=True),
    "lora+": Cell(("peft.loraplus_lr_ratio=4",)),
    "nf4": Cell(NF4, interrupted=True),
    "packing": Cell(("sft.packing=true", "dataset.max_samples=400")),
    "checkpointing": Cell(("training.gradient_checkpointing=true",)),
    "accumulation": Cell(("training.per_device_train_batch_size=1",)),
}
"""Cells for every strategy, trained in a separate session."""
CLUSTER_STEPS = 20
EPOCHS = ("dataset.max_samples=11", "training.group_by_length=false")
ROW_PARTS: Mapping[str, Mapping[str, Cell]] = {
    "zero2": {
        **{name: CLUSTER[name] for name in ("lora", "dora", "nf4", "checkpointing", "accumulation")},
        "short-epochs": Cell(EPOCHS, interrupted=True),
    },
    "zero3": {"lora": CLUSTER["lora"]},
}
"""Cells for two processes that share each row."""
BY_DDP_ALONE: Mapping[str, Cell] = {
    "adalora": Cell(('peft.method="adalora"',), seal=1e-5),  # saved with fewer ranks, so the order of summation differs
    "kasa": Cell(("peft.use_kasa=true", "peft.lora_r=8"), interrupted=True),
}
"""Cells that only DDP supports."""
STARTS: Mapping[str, Cell] = {
    start: Cell((f"peft.init_lora_weights={start}", *more), interrupted=True, seal=1e-5)
    for start, more in {
        **dict.fromkeys(("corda", "eva", "lora_ga"), ("peft.init_samples=12",)),
        **dict.fromkeys(("olora", "pissa", "pissa_niter_16"), ()),
    }.items()
}
"""Initialisations that one process computes for all."""
_OPTIMIZER = "distributed.offload_optimizer=cpu"
OFFLOADED: Mapping[str, Cell] = {
    "zero2": Cell((_OPTIMIZER,), interrupted=True),
    "zero3": Cell((_OPTIMIZER, "distributed.offload_param=cpu"), interrupted=True),
}
"""Cells with CPU offload, by strategy."""
SAMPLE: Mapping[str, Mapping[str, Cell]] = {
    "ddp": {"lora_ga": STARTS["lora_ga"]},
    "zero3": {"dora": CLUSTER["dora"]},
    "fsdp": {"nf4": CLUSTER["nf4"]},
}
"""Cells that are trained in every test run."""
SHARED = (
    "training.per_device_train_batch_size=2",
    "training.per_device_eval_batch_size=2",
    "training.learning_rate=1e-3",
    "dataset.max_eval_samples=7",
    "training.save_steps=3",
    "training.save_total_limit=5",
)


def offered() -> list[str]:
    """Strategies that can run here."""
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    return [name for name in STRATEGIES if has_deepspeed or not name.startswith("zero")]


def prepare_run(folder: Path, *overrides: str, processes: int = 2) -> RunDir:
    """Prepare a run of two processes, on one machine or on two, up to the start of the processes."""
    folder.mkdir(parents=True)
    return prepared(lambda: run_recipe(folder, RECIPE, *SHARED, *overrides, f"distributed.num_processes={processes}"))


def prepared(start: Callable[[], object]) -> RunDir:
    """Call `start`, and return its run in the state before the processes are started."""
    found: list[RunDir] = []

    def keep(run: RunDir, *_: object) -> object:
        assert (run.data / "train").is_dir(), "the rows are tokenised before a process could wait for another"
        found.append(run)
        return lora_ns.services.after_training.JudgedTraining(str(run.path), "", 0, 0, {})

    with pytest.MonkeyPatch.context() as patch, as_many_cores_as_threads():
        patch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)
        patch.setattr("lora_ns.plan.processes._division_problems", lambda *_: [])
        for module in (lora_ns.services.resume, lora_ns.services.train):
            patch.setattr(module, "execute_ranks", keep)
        start()
    return found[0]


@contextlib.contextmanager
def as_many_cores_as_threads() -> Iterator[None]:
    """Limit the cores, so that a subprocess computes an initialisation with as many threads as this process.

    The signs of its directions depend on the number of threads.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:THREADS])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def drive(runs: Sequence[str]) -> None:
    """Train prepared runs, one after the other; a `+` before a run interrupts it once, see `ranks_driver`."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*torchrun, "--no_python", sys.executable, ranks_driver.__file__, *runs]
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    ended = subprocess.run(command, env=environment(surroundings, 2, 2), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[:20000]


def check_trained(run: RunDir) -> None:
    """Raise the error of a rank, if there is one, and check that the run is finished."""
    for file in sorted(run.path.glob("failed-*.json")):
        raise AssertionError(json.loads(file.read_text())["trace"])
    assert run.read().status == "finished"
