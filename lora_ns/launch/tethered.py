"""Running a command that ends with its parent process: `python -m lora_ns.launch.tethered PARENT COMMAND ...`.

`torchrun` does not watch the process that started it, and would keep training without it. This module asks the kernel
to kill it with its parent, then replaces itself by the command, which so keeps the process id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from lora_ns.safety.interpreter import interpreter

_PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str]) -> list[str]:
    """The command line that runs a command so that, on Linux, it ends with this process."""
    return [*interpreter(), "-m", __name__, str(os.getpid()), *command]


def end_with(parent: int) -> None:
    """Ask the kernel to kill this process when `parent` ends; exit now if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


def main() -> None:
    """Tie this process to its parent, and replace it by the command."""
    for name in {"SIGUSR1", "SIGUSR2"} & signal.Signals.__members__.keys():
        signal.signal(signal.Signals[name], signal.SIG_IGN)  # schedulers signal all processes; the parent handles it
    end_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
