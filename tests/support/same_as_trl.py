"""Comparison of a run with TRL's own trainer, which had the same rows, order, seed and adapter."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from lora_ns.run.directory import RunDir

BOUND = 1e-5
"""Largest difference in float32: absolute, or relative to values above 1."""


def each_length(few: int) -> pytest.MarkDecorator:
    """Parametrise a test with `steps`: a few, and ten in the matrix session."""
    return pytest.mark.parametrize("steps", [few, pytest.param(10, marks=pytest.mark.matrix)])


def lasting(steps: int) -> tuple[str, str]:
    """Overrides for a run of so many steps, with no evaluation before the last: it could draw random numbers."""
    return f"training.max_steps={steps}", f"training.eval_steps={steps}"


def check_same(
    run: RunDir,
    theirs: Sequence[Mapping[str, Any]],
    keys: Iterable[str],
    adapters: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]],
) -> None:
    """Check that a run logged the metrics and trained the adapter of TRL's own trainer; log the largest differences.

    Args:
        run: the finished run.
        theirs: the log of TRL's own trainer.
        keys: metrics to compare. Each must have been logged, and as often by both.
        adapters: parameters of the run at its start and its end, and those of TRL's own trainer.
    """
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    ours = [row for row in rows if "loss" in row]
    logs = {key: ([row[key] for row in ours if key in row], [row[key] for row in theirs if key in row]) for key in keys}
    for key, (found, expected) in logs.items():
        assert expected, key
        assert len(found) == len(expected), key
    start, end, trained = adapters
    assert any(not value.equal(start[name]) for name, value in end.items())
    logs["adapter"] = _numbers(end, end), _numbers(end, trained)
    apart = {key: _difference(*pair) for key, pair in logs.items()}
    logging.getLogger("same_as_trl").info("differences: %s", json.dumps(apart))
    assert {key: value for key, value in apart.items() if not value <= BOUND} == {}


def _numbers(names: Iterable[str], values: Mapping[str, Any]) -> list[float]:
    return [one for name in names for one in values[name].flatten().tolist()]


def _difference(found: Iterable[float], expected: Iterable[float]) -> float:
    return max(abs(one - other) / max(1.0, abs(other)) for one, other in zip(found, expected, strict=True))
