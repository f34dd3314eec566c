"""Whether each extra can be installed with constraints.txt: `python tests/house/extras.py [PYTHON ...]`.

uv only resolves and installs nothing, which takes a second for each extra where pip takes a minute.
"""

import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).parents[2]
AT_ONCE = 4


def extras() -> dict[str, list[str]]:
    """The extras of the package, with their requirements."""
    import tomllib  # not in Python 3.10, on which nothing here runs

    table: dict[str, list[str]] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    return table


def conflict(extra: str, python: str) -> str:
    """Why an extra cannot be installed; empty if it can."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--python-version", python]
    command += ["-c", "constraints.txt", "--extra", extra, "pyproject.toml"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    return done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""


def main(pythons: Sequence[str]) -> int:
    """Resolve every extra; returns the number that cannot be installed."""
    asked = [(extra, python) for extra in extras() for python in pythons]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda one: conflict(*one), asked))
    for (extra, python), text in zip(asked, found, strict=True):
        sys.stdout.write(f"{extra} on Python {python}: {text or 'resolves'}\n")
    return sum(map(bool, found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [platform.python_version()]))
