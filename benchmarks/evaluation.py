"""Time of evaluating base and adapter on rows with answers, compared with the forward passes alone."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from lora_ns.answers.ask import ask
from lora_ns.answers.opened import load, open_run
from lora_ns.run.directory import RunDir
from lora_ns.services.evaluate import evaluate
from lora_ns.services.evaluate_suites import rows_of
from lora_ns.suites import HeldOutSuite

if TYPE_CHECKING:
    from lora_ns.answers.opened import Trained
    from lora_ns.data.rows import Row


def forward_passes(trained: Trained, sequences: list[list[int]]) -> float:
    """Seconds of a forward pass over each sequence, once with the adapter and once without it."""
    begin = time.perf_counter()
    with torch.no_grad():
        for ids in sequences:
            trained.model(input_ids=torch.tensor([ids]), use_cache=False)
        with trained.model.disable_adapter():
            for ids in sequences:
                trained.model(input_ids=torch.tensor([ids]), use_cache=False)
    return time.perf_counter() - begin


def whole_evaluation(trained: Trained, rows: list[Row]) -> float:
    """Seconds of all that `lorans eval` does with loaded weights: from the rows to the verdict and the files."""
    begin = time.perf_counter()
    evaluate(trained, rows, exact_match=False)
    return time.perf_counter() - begin


def main() -> None:
    """Measure both alternately."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run directory of a text run")
    parser.add_argument("--rows", type=Path, required=True, help="rows with answers, in the format of the run")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()

    trained = load(open_run(RunDir(asked.run)))
    suite = HeldOutSuite(path=str(asked.rows.absolute()))
    rows = list(rows_of(suite, trained.manifest, ()))[: asked.count]
    sequences = [ids for ids, _ in ask(trained, suite, rows, trained.manifest).items]
    trained.model.eval()
    forward_passes(trained, sequences[:4])
    pairs = [(forward_passes(trained, sequences), whole_evaluation(trained, rows)) for _ in range(asked.repeat)]
    alone, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"{len(rows)} rows, base and adapter, median of {asked.repeat}:")
    print(f"forward passes alone {alone:.2f} s, evaluation {whole:.2f} s: x {ratio:.2f}")


if __name__ == "__main__":
    main()
