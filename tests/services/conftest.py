"""Runs on the embedded base that several tests look at."""

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from services_recipes import CLASSES, RECIPE, run_recipe

from lora_ns.machine.hardware import detect, usable_cores
from lora_ns.machine.libraries import prepare
from lora_ns.model.files import ASSETS
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
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and rows of its own, and a run of these, with dropout and packing, that has two checkpoints.

    A test that changes a file puts it back.
    """
    folder = tmp_path_factory.mktemp("local")
    shutil.copytree(ASSETS / "nano", folder / "base")
    for name in ("train", "eval"):
        shutil.copy(ASSETS / f"quickstart/{name}.jsonl", folder / f"{name}.jsonl")
    text = RECIPE.replace("lorans:nano", "base").replace("lorans:quickstart/", "")
    changes = ("training.save_steps=3", "training.save_total_limit=4", "peft.lora_dropout=0.1", "sft.packing=true")
    run_recipe(folder, text, *changes, "training.global_batch_size=2")
    return folder


@pytest.fixture(scope="session")
def early_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that early stopping has ended after step 4, with checkpoints of steps 3 and 4, and the best of step 2.

    The best one has the highest loss, which is that of the first evaluation, between two checkpoints.
    """
    sizes = ("dataset.max_samples=16", "dataset.max_eval_samples=4", "training.global_batch_size=4")
    evaluated = ("training.eval_steps=2", "training.save_steps=3", "evaluation.before_training=false")
    highest = ("training.load_best_model_at_end=true", "training.extra.greater_is_better=true")
    end = ("training.early_stopping_patience=1", "training.early_stopping_threshold=100.0")
    return run_recipe(tmp_path_factory.mktemp("early"), RECIPE, *sizes, *evaluated, *highest, *end)


@pytest.fixture(scope="session")
def classifier_run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return run_recipe(tmp_path_factory.mktemp("classes"), CLASSES)
