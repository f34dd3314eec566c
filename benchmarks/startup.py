"""CPU time of the commands that need no torch, compared with their budgets."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECIPE = str(ROOT / "recipes/nano/quickstart.toml")
COMMANDS = {
    "--help": (["--help"], 0.4),
    "validate": (["validate", RECIPE], 0.6),
    "plan": (["plan", RECIPE], None),
    "init": (["init", "new"], None),
}


def processor_seconds(arguments: list[str]) -> float:
    """User and system time of one command and its child processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "lora_ns", *arguments]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each command, after one that is not counted")
    rounds = parser.parse_args().rounds
    print(f"{'command':<10} {'median':>8} {'minimum':>8} {'budget':>8}  CPU seconds")
    for name, (arguments, budget) in COMMANDS.items():
        times = sorted([processor_seconds(arguments) for _ in range(rounds + 1)][1:])
        print(f"{name:<10} {times[len(times) // 2]:8.2f} {times[0]:8.2f} {budget or '-':>8}")


if __name__ == "__main__":
    main()
