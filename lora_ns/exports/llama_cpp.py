"""llama.cpp's own programs: its quantiser, and its converter for the families that lorans does not write."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lora_ns.errors import MissingError, Problem, RunError, UsageError
from lora_ns.safety.interpreter import interpreter

QUANTISER, CONVERTER = "llama-quantize", "convert_hf_to_gguf.py"

QUANTISED = (
    "q4_k_m",
    "q5_k_m",
    "q6_k",
    "q4_k_s",
    "q5_k_s",
    "q3_k_m",
    "q3_k_s",
    "q3_k_l",
    "q2_k",
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "iq4_nl",
    "iq4_xs",
)
"""Types that the quantiser writes without calibration."""

_SOURCE = "git clone https://github.com/ggml-org/llama.cpp"
_BUILD = f"{_SOURCE} && cmake -S llama.cpp -B llama.cpp/build && cmake --build llama.cpp/build --target {QUANTISER}"
_PLACES = (".", "bin", "build/bin", "build/bin/Release")


def find_tool(name: str, needed_for: str, folder: Path | None) -> Path:
    """Return a program of llama.cpp.

    Args:
        name: `QUANTISER` or `CONVERTER`.
        needed_for: what needs it.
        folder: a folder of llama.cpp; None for the programs on the path.

    Raises:
        UsageError: if the folder is none.
        MissingError: if it is not there; the message has the commands that install it.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(Problem("--llama-cpp", f"{folder} is no folder", "name a folder of llama.cpp"))
    if folder is None:
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    else:
        for place in _PLACES:
            if (file := folder / place / name).is_file():
                return file.absolute()
    where = "on the path" if folder is None else f"in {folder}"
    command = f"{_BUILD if name == QUANTISER else _SOURCE}"
    what = f"{needed_for} needs llama.cpp's `{name}`, which is not {where}"
    raise MissingError(Problem("", what, f"install it, and add `--llama-cpp llama.cpp`: `{command}`"))


def convert(tool: Path, source: Path, file: Path, kind: str) -> None:
    """Write a model folder as a GGUF file with llama.cpp's converter. Raises `RunError` if it fails."""
    _run([*interpreter(), str(tool), str(source), "--outfile", str(file), "--outtype", kind])


def quantise(tool: Path, source: Path, file: Path, kind: str) -> None:
    """Quantise a GGUF file with llama.cpp's quantiser. Raises `RunError` if it fails."""
    _run([str(tool), str(source), str(file), kind.upper()])


def _run(command: list[str]) -> None:
    """Run a program. Raises `RunError` with the last line that it wrote if it fails."""
    tool = next(part for part in command if part.endswith((QUANTISER, CONVERTER)))
    try:
        done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    except OSError as error:
        raise RunError(Problem(tool, f"cannot be run: {error.strerror}", "install llama.cpp again")) from None
    if done.returncode:
        lines = [line for line in (*done.stdout.splitlines(), *done.stderr.splitlines()) if line.strip()]
        said = lines[-1].strip() if lines else f"it ended with {done.returncode}"
        raise RunError(Problem(tool, f"failed: {said}", "try a current version of llama.cpp"))
