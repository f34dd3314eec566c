"""The processes that lorans starts import nothing from the folder that they are started in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lora_ns
from lora_ns.safety.interpreter import interpreter

PACKAGE = str(Path(lora_ns.__file__).parent.parent)
SHADOWED = ("json", "typer", "torch", "rich", "pydantic")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules of well-known names, each of which leaves a mark."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in (*SHADOWED, "sitecustomize"):
        (folder / f"{name}.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'MARKER')!r}).touch()\n")
    return folder


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the option is of 3.11")
@pytest.mark.parametrize("arguments", [["-c", "import json"], ["-m", "json.tool", "--help"]])
def test_a_module_in_the_working_folder_is_not_imported(hostile: Path, tmp_path: Path, arguments: list[str]) -> None:
    subprocess.run([*interpreter(), *arguments], cwd=hostile, check=True, capture_output=True)
    assert not (tmp_path / "MARKER").exists()
    subprocess.run([sys.executable, *arguments], cwd=hostile, check=False, capture_output=True)
    assert (tmp_path / "MARKER").exists()


def test_python_m_lora_ns_imports_nothing_from_the_working_folder(hostile: Path, tmp_path: Path) -> None:
    surroundings = {**os.environ, "PYTHONPATH": PACKAGE}
    command = [sys.executable, "-m", "lora_ns", "--version"]
    done = subprocess.run(command, cwd=hostile, env=surroundings, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"lorans {lora_ns.__version__}\n"), done.stderr
    assert not (tmp_path / "MARKER").exists()


def test_every_process_is_started_by_it() -> None:
    """No module of the package writes the interpreter into a command by itself."""
    sources = {file: file.read_text(encoding="utf-8") for file in Path(lora_ns.__file__).parent.rglob("*.py")}
    assert [file.name for file, text in sources.items() if "[sys.executable" in text or "(sys.executable," in text] == [
        "interpreter.py"
    ]
