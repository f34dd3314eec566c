"""The table of guards: every line of it is there, once, and every test that it names exists."""

import ast
import functools
from pathlib import Path

import pytest
from mutants import PROJECT, guards

GUARDS = guards()


@functools.cache
def names_of(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.what)
def test_a_guard_is_there_and_its_tests_exist(guard):
    text = (PROJECT / guard.file).read_text()
    ast.parse(guard.broken(text))
    assert guard.tests
    for test in guard.tests:
        file, _, name = test.partition("::")
        assert not name or name.partition("[")[0] in names_of(PROJECT / file)


def test_no_guard_is_there_twice():
    assert len({guard.what for guard in GUARDS}) == len(GUARDS)
