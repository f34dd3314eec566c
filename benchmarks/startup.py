"""CPU time of the start of every kind of command, compared with its budget, and of the imports that it consists of.

python benchmarks/startup.py --rounds 7 --json startup.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECIPE = str(ROOT / "recipes/nano/quickstart.toml")
ROWS = 1000
WORDS = ("the", "river", "runs", "past", "seven", "plum", "trees", "and", "an", "old", "stone", "bridge", "by", "a")
CHATS = """\
task_name = "chats"
task_type = "CAUSAL_LM"
[model]
name_or_path = "lorans:nano"
[peft]
method = "lora"
[dataset]
path = "rows.jsonl"
[training]
output_dir = "run"
max_steps = 1
global_batch_size = 8
[sft]
max_seq_length = 512
"""
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "--help": (["--help"], 0.4),
    "validate": (["validate", RECIPE], 0.6),
    "plan": (["plan", RECIPE], 0.7),
    "init": (["init", "new"], 0.8),
    f"validate --data, {ROWS:,} rows": (["validate", "chats.toml", "--data"], 3.0),
    "train, to the first step": (["train", "chats.toml", "--set", "training.output_dir=again"], None),
    "infer, one text": (["infer", "run", "--input", "Where does the river run?"], None),
}
"""Arguments and budget in CPU seconds. The last two import torch, whose time is not lorans's to choose."""
TORCHLESS = "import sys; sys.modules['torch'] = None; "
IMPORTS = {
    "the interpreter alone": "pass",
    "typer": "import typer",
    "pydantic": "import pydantic",
    "the command line of lorans": "import lora_ns.cli.app",
    "the recipe, with the command line": "import lora_ns.cli.app, lora_ns.recipe.load",
    "numpy": "import numpy",
    "tokenizers": "import tokenizers",
    "transformers' AutoTokenizer without torch": f"{TORCHLESS}from transformers import AutoTokenizer",
    "transformers' AutoTokenizer": "from transformers import AutoTokenizer",
    "datasets": "import datasets",
    "torch": "import torch",
    "accelerate": "import accelerate",
    "bitsandbytes": "import bitsandbytes",
    "peft": "import peft",
    "trl's SFTTrainer": "from trl import SFTTrainer",
}
"""Imports in a process of their own each; every one contains those that the library makes itself."""


@dataclass(frozen=True)
class Timing:
    """CPU seconds of several runs."""

    name: str
    median: float
    minimum: float
    budget: float | None = None


def environment() -> dict[str, str]:
    """The environment of a user, whose modules are compiled once and whose products have one thread."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def processor_seconds(command: list[str], folder: Path, until: str = "") -> float:
    """User and system time of one process and its children, or of the process until it prints a line.

    Args:
        command: the command.
        folder: its working folder.
        until: the beginning of the line on standard error; without it, the whole process is timed.
    """
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    found, said = None, []
    for line in process.stderr:
        said.append(line)
        if until and found is None and line.startswith(until):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            found = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or (until and found is None):
        raise SystemExit(f"{' '.join(command)} failed:\n{''.join(said)}")
    return found if found is not None else used.ru_utime + used.ru_stime


def write_rows(path: Path) -> None:
    """Write conversations of 20 to 60 words."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(ROWS):
            text = [WORDS[(number * 7 + place * 5) % len(WORDS)] for place in range(20 + number % 41)]
            turns = [("user", text[: len(text) // 2]), ("assistant", [str(number), *text[len(text) // 2 :]])]
            messages = [{"role": role, "content": " ".join(words)} for role, words in turns]
            file.write(json.dumps({"messages": messages}) + "\n")


def timed(names: dict[str, Callable[[], float]], budgets: dict[str, float | None], rounds: int) -> list[Timing]:
    """Time everything in turn, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name, measure in names.items():
            seconds = measure()
            if number:
                times[name].append(seconds)
    return [
        Timing(name, round(statistics.median(found), 3), round(min(found), 3), budgets.get(name))
        for name, found in times.items()
    ]


def measure_all(rounds: int) -> list[Timing]:
    """Time the commands and the imports in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "chats.toml").write_text(CHATS, encoding="utf-8")
        write_rows(folder / "rows.jsonl")
        lorans = [sys.executable, "-m", "lora_ns"]
        processor_seconds([*lorans, "train", "chats.toml"], folder)  # the run that `infer` opens

        def command(arguments: list[str]) -> Callable[[], float]:
            until = "step" if arguments[0] == "train" else ""

            def measure() -> float:
                for made in ("new", "again"):
                    shutil.rmtree(folder / made, ignore_errors=True)
                return processor_seconds([*lorans, *arguments], folder, until)

            return measure

        commands = {key: command(arguments) for key, (arguments, _) in COMMANDS.items()}
        budgets = {key: budget for key, (_, budget) in COMMANDS.items()}
        found = timed(commands, budgets, rounds)
        imports = {
            key: (lambda code=code: processor_seconds([sys.executable, "-c", code], folder))
            for key, code in IMPORTS.items()
        }
        return found + timed(imports, {}, rounds)


def main() -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each command, after one that is not counted")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args()
    found = measure_all(given.rounds)
    print(f"{'CPU seconds':<42} {'median':>8} {'minimum':>8} {'budget':>8}")
    for one in found:
        print(f"{one.name:<42} {one.median:8.2f} {one.minimum:8.2f} {one.budget or '-':>8}")
    if given.json:
        machine = {"python": platform.python_version(), "machine": platform.platform(), "cores": os.cpu_count()}
        given.json.write_text(json.dumps({**machine, "timings": [asdict(one) for one in found]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
