"""A command that ends with the process that started it: `python -m lora_ns.launch.tethered PARENT COMMAND ...`.

`torchrun` knows nothing of the process that started it, and would train on without it. This takes the command's place
once the kernel has been asked to end it with its parent, so the command keeps its process id.
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
    """The command line that starts a command so that it ends with this process, where the system is Linux."""
    return [*interpreter(), "-m", __name__, str(os.getpid()), *command]


def end_with(parent: int) -> None:
    """Have the kernel kill this process as soon as `parent` is gone; end now if it is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


def main() -> None:
    """Become the command of the command line."""
    for name in {"SIGUSR1", "SIGUSR2"} & signal.Signals.__members__.keys():
        signal.signal(signal.Signals[name], signal.SIG_IGN)  # schedulers send them to all; the parent sees to them
    end_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
