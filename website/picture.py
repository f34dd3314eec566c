"""The picture of README, `docs/assets/quickstart.svg`: the quickstart is run, and what it printed last is drawn.

`python website/picture.py`; with the transcript of an earlier run (`build/quickstart.ansi`), that one is drawn again.
"""

import fcntl
import inspect
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "assets" / "quickstart.svg"

TRANSCRIPT = ROOT / "build" / "quickstart.ansi"

TRAIN = "lorans train recipes/nano/quickstart.toml"
INFER = 'lorans infer outputs/quickstart --input "Spell planet backwards."'

COLUMNS = 104
LAST = 3
"""Lines of progress that are shown."""


def on_terminal(command: str, folder: Path) -> tuple[str, str]:
    """Run a command with its results on a terminal and its progress in a pipe; return both texts."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    env = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as progress:
        process = subprocess.Popen(command, shell=True, cwd=folder, env=env, stdout=theirs, stderr=progress)
        os.close(theirs)
        printed = b""
        while True:
            try:
                read = os.read(ours, 65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not read:
                break
            printed += read
        if process.wait():
            progress.seek(0)
            sys.exit(progress.read())
        progress.seek(0)
        return printed.decode().replace("\r\n", "\n").rstrip(), progress.read().rstrip()


def transcript() -> str:
    """Run the quickstart in an empty folder, and return the last lines of it as a terminal gets them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipes").symlink_to(ROOT / "recipes")
        printed, progress = on_terminal(TRAIN, folder)
        answer, _ = on_terminal(INFER, folder)
    steps = [line for line in progress.splitlines() if line.startswith("step ") or "saved" in line][-LAST:]
    printed = "\n".join(without(f"{folder}/", line) for line in printed.splitlines())
    return "\n".join([f"$ {TRAIN}", "...", *steps, printed, "", f"$ {INFER}", answer])


def without(name: str, line: str) -> str:
    """Return a line of the panel without a folder in it, as wide as before."""
    short = line.replace(name, "")
    edge = short.rfind("\x1b[32m│")
    return short if edge < 1 else short[:edge] + " " * (len(line) - len(short)) + short[edge:]


def draw(text: str) -> str:
    """Return the SVG of a transcript, without fonts from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text))
    usual = inspect.signature(Console.export_svg).parameters["code_format"].default
    bare = re.sub(r"@font-face \{\{.*?\}\}\n", "", usual, flags=re.DOTALL)
    bare = bare.replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono")
    svg = console.export_svg(title="lorans", theme=DIMMED_MONOKAI, code_format=bare, unique_id="quickstart")
    assert "http" not in svg.replace("http://www.w3.org", "").replace("https://www.textualize.io", "")
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text("utf-8") if len(sys.argv) > 1 else transcript()
    if len(sys.argv) == 1:
        TRANSCRIPT.parent.mkdir(exist_ok=True)
        TRANSCRIPT.write_text(text, encoding="utf-8")
    PICTURE.write_text(draw(text), encoding="utf-8")
