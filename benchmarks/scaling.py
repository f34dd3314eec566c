"""Two processes with one core each, compared with one process on one core: the same steps on the same batches."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECIPE = """\
task_name = "scaling"
task_type = "CAUSAL_LM"
[model]
name_or_path = "{model}"
dtype = "float32"
[peft]
method = "lora"
[dataset]
path = "{rows}"
max_samples = 512
[training]
output_dir = "run"
max_steps = {steps}
global_batch_size = 16
per_device_train_batch_size = 4
[sft]
on_overflow = "drop"
max_seq_length = 512
"""


def seconds_of_training(folder: Path, recipe: str, processes: int) -> float:
    """Duration of all training steps, without preparation and saving, with one core per process."""
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:processes]))
    several = ["--num-processes", str(processes)] if processes > 1 else []
    command = [sys.executable, "-m", "lora_ns", "train", "recipe.toml", "--overwrite", *several]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    subprocess.run(["taskset", "-c", cores, *command], cwd=folder, env=environment, check=True, capture_output=True)
    manifest = json.loads((folder / "run/manifest.json").read_text(encoding="utf-8"))
    assert manifest["distributed"]["world_size"] == processes
    return float(manifest["metrics"]["train_runtime"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="lorans:nano")
    parser.add_argument("--rows", default="lorans:quickstart/train.jsonl")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3, help="number of pairs")
    asked = parser.parse_args()
    recipe = RECIPE.format(model=asked.model, rows=asked.rows, steps=asked.steps)
    found = []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as name:
            one, two = (seconds_of_training(Path(name), recipe, count) for count in (1, 2))
        found.append(one / (2 * two))
        print(f"one process {one:6.1f} s   two {two:6.1f} s   efficiency {found[-1]:.2f}", flush=True)
    print(f"median efficiency {statistics.median(found):.2f}, target: at least 0.85")


if __name__ == "__main__":
    main()
