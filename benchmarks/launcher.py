"""Overhead of `lorans train --num-processes 2` over preparing the run and running its processes with bare torchrun."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECIPE = """\
task_name = "launcher"
task_type = "CAUSAL_LM"
[model]
name_or_path = "lorans:nano"
dtype = "float32"
[peft]
method = "lora"
[dataset]
path = "lorans:quickstart/train.jsonl"
max_samples = 256
[training]
output_dir = "run"
max_steps = 10
global_batch_size = 16
[distributed]
strategy = "ddp"
num_processes = 2
"""


def timed(folder: Path, command: str) -> tuple[float, str]:
    """Run a command, and return its duration in seconds and its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "LORANS_CACHE": str(folder / "cache")}
    begin = time.perf_counter()
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return time.perf_counter() - begin, done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds, after one that is not counted")
    found = []
    for _ in range(parser.parse_args().rounds + 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
            lorans = f"{sys.executable} -m lora_ns"
            all_of_it, _ = timed(folder, f"{lorans} train recipe.toml --no-cache")
            preparing, command = timed(folder, f"{lorans} launch-command recipe.toml --overwrite")
            bare, _ = timed(folder, command)
        found.append((all_of_it, preparing, bare))
    for all_of_it, preparing, bare in found[1:]:
        rest = all_of_it - preparing - bare
        print(f"lorans {all_of_it:6.1f} s   preparing {preparing:5.1f} s   torchrun {bare:6.1f} s   rest {rest:4.1f} s")
    print(f"median of the rest {statistics.median(a - p - b for a, p, b in found[1:]):.1f} s, target: at most 3")


if __name__ == "__main__":
    main()
