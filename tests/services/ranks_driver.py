"""A rank that trains one prepared run after another in the same process group: the libraries are imported once.

Arguments: the runs. What goes wrong in one is written beside it, and the next is begun.
"""

import json
import sys
import traceback
from pathlib import Path

import accelerate.state as accelerate_state
from accelerate.utils import DistributedType
from torch import distributed

from lora_ns.engine.callbacks import SilentObserver
from lora_ns.engine.distributed import Rank, join
from lora_ns.engine.libraries import Noise
from lora_ns.rundir import RunDir
from lora_ns.services import train


def divide_on_a_cpu() -> None:
    """accelerate divides weights on GPUs alone, though `fully_shard` works on a CPU: call the processes otherwise."""
    begin = accelerate_state.PartialState.__init__

    def renamed(self: accelerate_state.PartialState, *arguments: object, **named: object) -> None:
        begin(self, *arguments, **named)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    accelerate_state.PartialState.__init__ = renamed


def main() -> None:
    """Train all of them."""
    runs = [Path(name) for name in sys.argv[1:]]
    if RunDir.open(runs[0]).read().recipe.distributed.strategy == "fsdp":
        divide_on_a_cpu()
    join(Rank.of(), "cpu", 60)
    end = distributed.destroy_process_group
    train.join = lambda *_: None
    distributed.destroy_process_group = lambda *_: None
    for path in runs:
        accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerate_state.GradientState._reset_state()
        run = RunDir.open(path)
        run.ranks.mkdir(exist_ok=True)
        try:
            with Noise() as noise:
                train.train_rank(run, SilentObserver(), noise, is_launched=True)
        except Exception as error:
            told = {"kind": type(error).__name__, "what": str(error), "trace": traceback.format_exc()}
            (path / f"failed-{Rank.of().number}.json").write_text(json.dumps(told))
    end()


if __name__ == "__main__":
    main()
