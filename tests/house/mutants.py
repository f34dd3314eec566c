"""Breaks each guard of `mutants.toml` in a copy of the project, and sees that the tests that hold it fail then.

    python tests/house/mutants.py [--broken-only] [WORD ...]

Only guards whose `what` has one of the words, or whose `file` is one of them, if there are any. The tests have to pass
before anything is broken, which `--broken-only` leaves out. Ends with 1 if a mutant survives.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_suffix(".toml")
COPIED = ("lora_ns", "tests", "recipes", "docs", "pyproject.toml", "README.md", "noxfile.py", "constraints.txt")
LONGEST = 600
"""Seconds that the tests of one mutant may take; a test that hangs then has noticed it."""
NOTHING_RUN = (3, 4, 5)
"""How pytest ends where a test that is named does not exist, or cannot be run."""
NOT_COLLECTED = "error during collection"
"""What pytest says where a mutant is no Python, so that no test has seen it."""


@dataclass(frozen=True)
class Guard:
    """One promise, the line that keeps it, and the tests that hold it."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def broken(self, text: str) -> str:
        """The file without the guard. Raises `ValueError` unless the line is there exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: {text.count(self.old)} times instead of once: {self.old!r}")
        return text.replace(self.old, self.new)


def guards() -> list[Guard]:
    """The table."""
    table: dict[str, Any] = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return [Guard(**{**row, "tests": tuple(row["tests"])}) for row in table["guard"]]


def run_tests(folder: Path, tests: Iterable[str], longest: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run tests in a copy, up to the first that fails. Raises `subprocess.TimeoutExpired`."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **pipes) as process:
        try:
            said = process.communicate(timeout=longest)
        finally:  # a mutant may have left processes behind, which is what some guards are for
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, *said)


def outcome(folder: Path, guard: Guard) -> str:
    """`killed` and by what, `survived`, or why it cannot be said."""
    file = folder / guard.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(guard.broken(whole), encoding="utf-8")
    try:
        ended = run_tests(folder, guard.tests, LONGEST)
    except subprocess.TimeoutExpired:
        return f"killed by {LONGEST} s"
    finally:
        file.write_text(whole, encoding="utf-8")
    if ended.returncode in NOTHING_RUN or NOT_COLLECTED in ended.stdout:
        return f"cannot be said: {last_line(ended)}"
    return "survived" if ended.returncode == 0 else f"killed by {failed(ended)}"


def failed(ended: subprocess.CompletedProcess[str]) -> str:
    """The test that failed, without its folder; how the process ended, if it ended before that was said."""
    lines = [line.split(" - ")[0] for line in ended.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[0].split(" ", 1)[1] if lines else f"exit code {ended.returncode}"


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    """What pytest says at its end."""
    return next(reversed([*ended.stderr.splitlines(), *ended.stdout.splitlines()]), "")


def copied(folder: Path) -> None:
    """Copy what tests need of the project."""
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(words: list[str]) -> int:
    """Break each guard in turn; 1 if any of them is not killed."""
    is_checked_first = "--broken-only" not in words
    words = [word for word in words if word != "--broken-only"]
    chosen = [
        guard for guard in guards() if not words or any(word in guard.what or word == guard.file for word in words)
    ]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is ended, too
    left, first = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copied(folder)
        if is_checked_first:
            whole = run_tests(folder, dict.fromkeys(test for guard in chosen for test in guard.tests))
            if whole.returncode:
                say(f"the tests do not pass as things are:\n{whole.stdout}{whole.stderr}")
                return 1
        for number, guard in enumerate(chosen, start=1):
            began = time.monotonic()
            found = outcome(folder, guard)
            left += not found.startswith("killed")
            say(f"{number}/{len(chosen)} {guard.what} ({guard.file}): {found} after {time.monotonic() - began:.0f} s")
    say(f"{len(chosen) - left} of {len(chosen)} killed in {time.monotonic() - first:.0f} s")
    return min(left, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
