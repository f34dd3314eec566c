"""A rank that trains several prepared runs in one process group, so that libraries are imported only once.

The arguments are runs. A run after a `+` is interrupted before its last checkpoint, and resumed. The runs of two
machines with one process each are joined by a comma, and resumed with exchanged ranks. The error of a run is written
into its folder, and the next run follows.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import accelerate.state as accelerate_state
from accelerate.utils import DistributedType
from poisoner import Poisoner
from services_recipes import interrupt
from torch import distributed

import lora_ns.training.rank
from lora_ns.machine.libraries import Noise
from lora_ns.parallel.group import Rank, join, meet
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver

AS_TRAINED_AT_ONCE = "adapter-at-once"

POISON = "poison.json"
"""File of a run with the steps whose gradient is not finite."""


_strategies = [""]
"""The strategy of the current run."""


def divide_on_a_cpu() -> None:
    """Make accelerate shard weights on a CPU, which `fully_shard` supports, by renaming the distributed type."""
    begin = accelerate_state.PartialState.__init__

    def renamed(self: accelerate_state.PartialState, *arguments: object, **named: object) -> None:
        begin(self, *arguments, **named)
        if self.distributed_type == DistributedType.MULTI_CPU and _strategies[-1] == "fsdp":
            self.distributed_type = DistributedType.MULTI_GPU

    accelerate_state.PartialState.__init__ = renamed


def train_one(run: RunDir) -> None:
    """Train a run as a rank."""
    accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate_state.GradientState._reset_state()
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        os.environ.pop(name, None)
    _strategies[-1] = run.read().recipe.distributed.strategy
    run.ranks.mkdir(exist_ok=True)
    with Noise() as noise:
        lora_ns.training.rank.train_rank(run, _observer(run), noise, is_launched=True)


def _observer(run: RunDir) -> SilentObserver:
    """An observer, which spoils the gradient of the last rank in the steps that the file `POISON` of the run has."""
    file = run.path / POISON
    if not file.is_file() or os.environ["RANK"] == "0":
        return SilentObserver()
    return Poisoner(*json.loads(file.read_text()))


def interrupt_once_trained(run: RunDir, rank: Rank) -> None:
    """Reset a run to its state before the last step, keeping the saved adapter aside."""
    meet()
    if rank.is_first:
        shutil.move(run.adapter, run.path / AS_TRAINED_AT_ONCE)
        interrupt(run, run.read().plan.max_steps.value)
    meet()


def run_here(runs: Sequence[Path]) -> tuple[RunDir, Rank]:
    """The run and rank of this process; with several runs, each process has one, as if on its own machine."""
    number = int(os.environ["RANK"])
    is_shared = len(runs) == 1
    os.environ["LOCAL_RANK"] = str(number if is_shared else 0)
    os.environ["LOCAL_WORLD_SIZE"] = str(2 if is_shared else 1)
    return RunDir.open(runs[0 if is_shared else number]), Rank.of()


def train_and_go_on(runs: Sequence[Path], is_interrupted: bool) -> None:
    """Train as a rank of the runs, and resume after an interruption."""
    run, rank = run_here(runs)
    train_one(run)
    if is_interrupted:
        interrupt_once_trained(run, rank)
        train_one(run_here(runs[::-1])[0])


def main() -> None:
    """Train all runs."""
    rank = Rank.of()
    divide_on_a_cpu()
    join(rank, "cpu", 60)
    end = distributed.destroy_process_group
    lora_ns.training.rank.join = lambda *_: None
    distributed.destroy_process_group = lambda *_: None
    for name in sys.argv[1:]:
        runs = [Path(run) for run in name.removeprefix("+").split(",")]
        try:
            train_and_go_on(runs, name.startswith("+"))
        except Exception as error:
            told = {"kind": type(error).__name__, "what": str(error), "trace": traceback.format_exc()}
            for run in runs:
                (run / f"failed-{rank.number}.json").write_text(json.dumps(told))
    end()


if __name__ == "__main__":
    main()
