"""Breaks each guard of `mutants.toml` in a copy of the project, and sees that the tests that hold it fail then.

    python tests/mutants.py [WORD ...]

Only guards whose `what` has one of the words, if there are any. Ends with 1 if a mutant survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
COPIED = ("lora_ns", "tests", "recipes", "docs", "pyproject.toml", "README.md", "noxfile.py", "constraints.txt")
LONGEST = 600
"""Seconds that the tests of one mutant may take; a test that hangs then has noticed it."""
NO_TESTS = (4, 5)
"""How pytest ends where a test that is named does not exist."""


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


def outcome(folder: Path, guard: Guard) -> str:
    """`killed`, `survived`, or why it cannot be said."""
    file = folder / guard.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(guard.broken(whole), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "", "-p", "no:cacheprovider", *guard.tests]
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        ended = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        return "killed"
    finally:
        file.write_text(whole, encoding="utf-8")
    if ended.returncode in NO_TESTS:
        return f"no such test: {ended.stdout.strip().splitlines()[-1:]}"
    return "survived" if ended.returncode == 0 else "killed"


def main(words: list[str]) -> int:
    """Break each guard in turn; how many are not killed."""
    chosen = [guard for guard in guards() if not words or any(word in guard.what for word in words)]
    left = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in COPIED:
            source = PROJECT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        for number, guard in enumerate(chosen, start=1):
            began = time.monotonic()
            found = outcome(folder, guard)
            left += found != "killed"
            sys.stdout.write(
                f"{number}/{len(chosen)} {found} after {time.monotonic() - began:.0f} s: {guard.what} ({guard.file})\n"
            )
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - left} of {len(chosen)} killed\n")
    return min(left, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
