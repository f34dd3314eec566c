"""A training within a limit on the memory of its process: `python limited.py FOLDER MEGABYTES OVERRIDE...`."""

import resource
import sys
from pathlib import Path

from services_recipes import RECIPE, run_recipe

from lora_ns.run.observer import SilentObserver


class Limited(SilentObserver):
    """An observer that leaves the process so many bytes for training, beyond what it has before the first step."""

    def __init__(self, room: int) -> None:
        self.room = room

    def begin(self, step: int, steps: int) -> None:
        status = Path("/proc/self/status").read_text()
        data = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (data + self.room, resource.RLIM_INFINITY))

    def saving(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    folder, megabytes, *overrides = sys.argv[1:]
    run_recipe(Path(folder), RECIPE, *overrides, observer=Limited(int(megabytes) * 1_000_000))
