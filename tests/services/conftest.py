"""Runs on the embedded base that several tests look at."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from services_recipes import CLASSES, RECIPE, run_recipe

from lora_ns.machine.hardware import detect, usable_cores
from lora_ns.machine.libraries import prepare
from lora_ns.run.directory import RunDir

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


@pytest.fixture(scope="session", autouse=True)
def _libraries() -> Iterator[None]:
    """The libraries, with threads for this worker's part of the cores: more wait for one another in every product."""
    import torch

    set_threads, most = torch.set_num_threads, max(1, usable_cores() // WORKERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda count: set_threads(min(count, most)))
        prepare(detect())
        gc.collect()
        gc.freeze()  # each run collects garbage several times, and half a million objects of the libraries are none
        yield


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., RunDir]:
    return lambda text, *overrides, **more: run_recipe(tmp_path, text, *overrides, **more)


@pytest.fixture(scope="session")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return run_recipe(tmp_path_factory.mktemp("lora"), RECIPE)


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return run_recipe(tmp_path_factory.mktemp("classes"), CLASSES)
