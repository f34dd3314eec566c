"""Every command of docs/tutorial.md, run in order in an empty folder.

`python website/tutorial.py`: each command has to succeed, and to print the lines that the page shows, numbers aside. An
argument is a folder to write the outputs to, one file for each command.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(bash|text)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d.,e+-]*")


def steps(text: str) -> list[tuple[str, str]]:
    """The commands of the page, each with the output that is shown below it, empty if there is none."""
    part = text.partition("<!-- tutorial: start -->")[2].partition("<!-- tutorial: end -->")[0]
    found: list[tuple[str, str]] = []
    for language, block in FENCE.findall(part):
        if language == "bash":
            found.append((block, ""))
        else:
            found[-1] = (found[-1][0], block)
    return found


def run(commands: list[str], folder: Path) -> list[str]:
    """Run the commands in one shell, and return what each printed."""
    mark = "=== next command ==="
    script = f"\necho '{mark}'\n".join(commands)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    asked = ["bash", "-euo", "pipefail", "-c", f"exec 2>&1\n{script}"]
    process = subprocess.run(asked, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        sys.exit(f"{process.stdout}\nended with {process.returncode}")
    printed = process.stdout.replace(f"{folder}/shelf/", "")
    return [output.strip("\n") for output in printed.split(f"{mark}\n")]


def missing(shown: str, output: str) -> list[str]:
    """The lines that a page shows and a command did not print, numbers aside."""
    lines = {_bare(line) for line in output.splitlines()}
    return [line for line in shown.splitlines() if line != "..." and _bare(line) not in lines]


def _bare(line: str) -> str:
    """Return a line without numbers and white space that differ by machine; one core counts as several."""
    return " ".join(NUMBER.sub("0", line.replace("1 core,", "1 cores,")).split())


def main(keep: Path | None) -> None:
    """Run the page; exit with what it shows and no command printed."""
    found = steps((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        outputs = run([command for command, _ in found], Path(folder))
    for number, output in enumerate(outputs):
        if keep:
            (keep / f"{number:02}.txt").write_text(output + "\n", encoding="utf-8")
    faults = [line for (_, shown), output in zip(found, outputs, strict=True) for line in missing(shown, output)]
    if faults:
        sys.exit("docs/tutorial.md shows what no command printed:\n" + "\n".join(faults))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
