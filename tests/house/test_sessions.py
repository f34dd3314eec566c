"""Sessions that are named exist, `.ci/run` runs what `nox -s lint` runs, and pytest finds each file of tests."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SESSIONS = {node.name: node for node in ast.parse((ROOT / "noxfile.py").read_text()).body if hasattr(node, "name")}
PLACES = ("*.md", "pyproject.toml", "benchmarks/*.md", "docs/*.md", "tests/**/*.py", "tests/**/*.toml")
TEXTS = [file.read_text(encoding="utf-8") for place in PLACES for file in ROOT.glob(place)]
NAMED = sorted({name for text in TEXTS for name in re.findall(r"nox -s ([a-z]+)", text)})


@pytest.mark.parametrize("name", NAMED)
def test_a_session_that_is_named_exists(name):
    assert name in SESSIONS


def test_what_runs_before_a_merge_has_all_of_the_lint_session():
    calls = [node for node in ast.walk(SESSIONS["lint"]) if isinstance(node, ast.Call)]
    runs = [call for call in calls if ast.unparse(call.func) == "session.run"]
    commands = [" ".join(ast.literal_eval(argument) for argument in run.args) for run in runs]
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert "ruff check ." in commands
    assert [line for line in lines if line in commands] == commands


def test_each_file_of_tests_has_a_name_of_its_own():
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest takes two files of one name for one"
