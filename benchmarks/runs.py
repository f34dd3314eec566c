"""Time `lorans runs` and the first page of `lorans board` with many runs, copied from a real one.

python benchmarks/runs.py outputs/quickstart --runs 500
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


def main() -> None:
    """Copy the run, time both commands, and print seconds of wall time, the best of three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--runs", type=int, default=500)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy_run(given.run, Path(folder), given.runs)
        print(f"lorans runs, {given.runs} runs: {min(listing_seconds(folder) for _ in range(3)):.2f} s")
        print(f"lorans board, first page: {min(page_seconds(folder) for _ in range(3)):.2f} s")


def copy_run(run: Path, folder: Path, count: int) -> None:
    """Copy a run, without its large files, with an id and a learning rate of its own each."""
    manifest = json.loads((run / "manifest.json").read_text())
    for number in range(count):
        copy = folder / f"group{number // 50}" / f"run{number}"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.arrow", "*.safetensors", "*.pt", "*.pth"))
        manifest["run_id"], manifest["recipe"]["training"]["learning_rate"] = f"run-{number}", 1e-4 * (1 + number)
        (copy / "manifest.json").write_text(json.dumps(manifest))


def listing_seconds(folder: str) -> float:
    """Return the seconds that the whole command takes."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lora_ns", "runs", folder], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def page_seconds(folder: str) -> float:
    """Return the seconds from the request to the end of the first page of a board that was just started."""
    command = [sys.executable, "-m", "lora_ns", "board", folder, "--port", "0"]
    board = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert board.stdout is not None
        address = next(found[0] for line in board.stdout if (found := re.search(r"http://\S+", line)))
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        begin = time.perf_counter()
        opener.open(address).read()
        return time.perf_counter() - begin
    finally:
        board.terminate()
        board.wait()


if __name__ == "__main__":
    main()
