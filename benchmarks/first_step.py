"""Time from the start of `lorans train` to its first step, compared with a bare script with the same imports."""

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
ROWS = ROOT / "lora_ns/assets/quickstart/train.jsonl"
RECIPE = """\
task_name = "first-step"
task_type = "CAUSAL_LM"
[model]
name_or_path = "lorans:nano"
dtype = "float32"
[peft]
method = "lora"
[dataset]
path = "lorans:quickstart/train.jsonl"
format = "messages"
[training]
output_dir = "run"
max_steps = 1
global_batch_size = 16
"""


def seconds_to_first_step(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Seconds until the process prints a line that starts with `step`; waits for its end."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        lines = []
        found = None
        for line in process.stderr:
            lines.append(line)
            if found is None and line.startswith("step"):
                found = time.perf_counter() - begin
    if found is None or process.returncode:
        raise SystemExit(f"{' '.join(command)} did not reach its first step:\n{''.join(lines)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="number of pairs, after one that is not counted")
    rounds = parser.parse_args().rounds
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    pairs = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
            lorans = [sys.executable, "-m", "lora_ns", "train", "recipe.toml"]
            bare = [
                sys.executable,
                str(ROOT / "benchmarks/bare.py"),
                str(ROOT / "lora_ns/assets/nano"),
                str(ROWS),
                "bare",
            ]
            environment["LORANS_CACHE"] = str(folder / "cache")
            pairs.append(tuple(seconds_to_first_step(command, folder, environment) for command in (lorans, bare)))
    ratios = [lorans / bare for lorans, bare in pairs[1:]]
    for lorans, bare in pairs[1:]:
        print(f"lorans {lorans:6.2f} s   bare {bare:6.2f} s   ratio {lorans / bare:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}, target: at most 1.1")


if __name__ == "__main__":
    main()
