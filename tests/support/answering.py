"""A separate process that opens saved runs and computes their logits, without any state from their training.

Its argument is the number of threads, on which the last bits depend. Each line of its input is a run and, after a tab,
the file for its logits.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from lora_ns.answers.opened import open_trained
from lora_ns.machine.hardware import detect
from lora_ns.machine.libraries import prepare
from lora_ns.model.load import computing
from lora_ns.run.directory import RunDir

PROBE = "Spell plum backwards."


def answer(model: Any, tokenizer: Any, dtype: str) -> torch.Tensor:
    """Logits of a short text, computed in the run's dtype."""
    model.eval()
    with torch.no_grad(), computing("cpu", dtype):
        logits: torch.Tensor = model(**tokenizer(PROBE, return_tensors="pt")).logits
    return logits.float()


def main() -> None:
    """Answer every line of the input."""
    prepare(detect())
    torch.set_num_threads(int(sys.argv[1]))
    for line in sys.stdin:
        run, out = line.rstrip("\n").split("\t")
        trained = open_trained(RunDir.open(Path(run)))
        torch.save(answer(trained.model, trained.tokenizer, trained.manifest.plan.dtype.value), out)
        sys.stdout.write("\nanswered\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
