"""Runs on the embedded base that several tests look at."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from services_recipes import CLASSES, RECIPE, run_recipe

from lora_ns.engine.libraries import prepare
from lora_ns.machine import detect
from lora_ns.rundir import RunDir


@pytest.fixture(scope="session", autouse=True)
def _libraries() -> None:
    prepare(detect())
    gc.collect()
    gc.freeze()  # each run collects garbage several times, and half a million objects of the libraries are none


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., RunDir]:
    return lambda text, *overrides, **more: run_recipe(tmp_path, text, *overrides, **more)


@pytest.fixture(scope="session")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return run_recipe(tmp_path_factory.mktemp("lora"), RECIPE)


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return run_recipe(tmp_path_factory.mktemp("classes"), CLASSES)
