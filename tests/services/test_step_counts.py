"""A training step dispatches hardly more than a bare loop, and does not wait for the device unless it logs."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")

SCRIPT = Path(__file__).parents[2] / "benchmarks/counts.py"
MOST = 1.15
"""Operators and launches of a step, as a multiple of those of a bare loop over the same adapter."""


@pytest.fixture(scope="module")
def counts():
    """The benchmark of the same name."""
    spec = importlib.util.spec_from_file_location("benchmark_of_counts", SCRIPT)
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    yield found
    del sys.modules[spec.name]


SETTINGS = [
    ("float32", 1, False),
    ("bfloat16", 4, False),
    pytest.param(("bfloat16", 1, True), marks=pytest.mark.matrix),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["one micro-batch", "four micro-batches", "packed"])
def test_a_step_costs_hardly_more_than_a_bare_loop_and_waits_for_nothing(counts, tmp_path, settings):
    found = counts.both(counts.Settings(*settings), tmp_path)
    ours, bare = found["lorans"].counts, found["bare"].counts
    assert ours["operators"] <= MOST * bare["operators"]
    assert ours["launches"] <= MOST * bare["launches"]
    # transformers looks for the documents of packed rows in their positions.
    assert ours["waits"] == (bare["waits"] if settings[-1] else 0)
    assert bare["launches"] > 500
