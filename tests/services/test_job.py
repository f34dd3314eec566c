"""What a job does on a node: it begins, goes on, and knows when there is nothing left to do."""

import os
import shutil
import signal
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file
from services_recipes import RECIPE

from lora_ns.errors import InterruptedRunError, UsageError
from lora_ns.launch.jobs import make_job, new_job, write_job
from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services import job as service
from lora_ns.services.job import work


@pytest.fixture
def submitted(write_recipe, tmp_path):
    loaded = load_recipe(write_recipe(RECIPE))
    return make_job(loaded, "slurm", "new", {}, tmp_path)


class Stopping(SilentObserver):
    """A scheduler that wants its node back, and asks more than once."""

    def step(self, step: int, tokens: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)


class Told(SilentObserver):
    def __init__(self):
        self.notes = []

    def warn(self, text: str) -> None:
        self.notes.append(text)


def test_a_job_that_is_stopped_goes_on_where_it_was(submitted, write_recipe, lora_run):
    folder = new_job(submitted)
    write_recipe("edited = true\n")
    with Noise() as noise, pytest.raises(InterruptedRunError, match="stopped after step 3 of 6, which is saved"):
        work(folder, 0, None, Stopping(), noise)
    with Noise() as noise:
        assert work(folder, 0, None, SilentObserver(), noise).steps == 6
    expected, found = (load_file(run.adapter / WEIGHTS) for run in (lora_run, RunDir(Path(submitted.run))))
    for name, value in expected.items():
        assert torch.equal(found[name], value)
    told = Told()
    with Noise() as noise:
        assert work(folder, 0, None, told, noise) is None
    assert told.notes == [f"{submitted.run} is already finished"]


@pytest.mark.parametrize(
    ("mode", "submitted_at", "has_begun"),
    [
        ("new", "2000-01-01T00:00:00+00:00", True),
        ("overwrite", "2000-01-01T00:00:00+00:00", True),
        ("overwrite", "2100-01-01T00:00:00+00:00", False),
        ("resume", "2100-01-01T00:00:00+00:00", True),
    ],
)
def test_a_run_that_was_there_before_is_not_taken_for_the_jobs_own(submitted, lora_run, mode, submitted_at, has_begun):
    job = submitted.model_copy(update={"mode": mode, "submitted": submitted_at})
    assert service._has_begun(lora_run, job) is has_begun


def test_a_job_brings_back_what_a_killed_one_was_replacing_before_it_looks_whether_it_has_begun(submitted, lora_run):
    folder = new_job(submitted.model_copy(update={"submitted": "2100-01-01T00:00:00+00:00", "mode": "resume"}))
    run = RunDir(Path(submitted.run))
    shutil.copytree(lora_run.path, run.path, dirs_exist_ok=True)
    run._replaced.put_aside()
    told = Told()
    with Noise() as noise:
        assert work(folder, 0, None, told, noise) is None
    assert told.notes == [
        f"{run.path}: restored this run, because the command that was replacing it was killed",
        f"{run.path} is already finished",
    ]


def test_a_node_finds_its_run_again_on_another_machine(write_recipe, monkeypatch, tmp_path):
    earlier = tmp_path / "run.node-1.at-10.0.0.2"
    earlier.mkdir()
    (earlier / "mark").touch()
    now_at = tmp_path / "run.node-1.at-10.0.0.3"
    monkeypatch.setattr(service, "own_folder", lambda *_: now_at)
    loaded = load_recipe(write_recipe(RECIPE), [f'training.output_dir="{tmp_path}/run.node-1"'])
    assert service._own_run(loaded, 1) == now_at
    assert (now_at / "mark").exists()
    assert not earlier.exists()


def test_each_node_has_a_run_of_its_own_and_all_meet_at_the_first(submitted):
    job = submitted.model_copy(update={"nodes": 2})
    first, second = (service._placed(job, node, "a1:29500") for node in range(2))
    assert first == (f'training.output_dir="{job.run}"', 'distributed.rdzv_endpoint="a1:29500"')
    assert second == (f'training.output_dir="{job.run}.node-1"', 'distributed.rdzv_endpoint="a1:29500"')


def test_a_node_without_the_working_folder_says_so(submitted):
    folder = new_job(submitted)
    write_job(folder, submitted.model_copy(update={"working_folder": "/no/such"}))
    with Noise() as noise, pytest.raises(UsageError, match="/no/such: cannot be entered on this node"):
        work(folder, 0, None, SilentObserver(), noise)
