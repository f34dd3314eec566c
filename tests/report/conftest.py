"""Run directories as training leaves them, written without training."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from reported_runs import write_reported_run

from lora_ns.run.directory import RunDir


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDir]:
    return functools.partial(write_reported_run, tmp_path)
