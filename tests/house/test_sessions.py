"""What the documents and the tests call `nox -s NAME` is a session, and pytest finds each file of tests."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SESSIONS = {node.name for node in ast.parse((ROOT / "noxfile.py").read_text()).body if hasattr(node, "name")}
PLACES = ("*.md", "pyproject.toml", "benchmarks/*.md", "docs/*.md", "tests/**/*.py", "tests/**/*.toml")
TEXTS = [file.read_text(encoding="utf-8") for place in PLACES for file in ROOT.glob(place)]
NAMED = sorted({name for text in TEXTS for name in re.findall(r"nox -s ([a-z]+)", text)})


@pytest.mark.parametrize("name", NAMED)
def test_a_session_that_is_named_exists(name):
    assert name in SESSIONS


def test_each_file_of_tests_has_a_name_of_its_own():
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest takes two files of one name for one"
