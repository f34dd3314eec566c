"""A run that is interrupted anywhere keeps what was there, or goes on to the adapter of one that nobody disturbed.

`LORANS_INTERRUPTIONS=100 pytest -m cluster tests/services/test_interruptions.py` interrupts so many times at random;
`LORANS_SEED` draws others.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import time

import pytest

pytest.importorskip("torch")

import torch
from interruptions import interrupted_at_random
from safetensors.torch import load_file
from services_recipes import RECIPE, resumed, run_recipe

from lora_ns.errors import InterruptedRunError
from lora_ns.files.disk import hash_folder, sha256_file
from lora_ns.launch.ranks import _event_handler
from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.parallel.stop import EndedEarly, StopSignal
from lora_ns.recipe.load import load_recipe
from lora_ns.run.best_adapter import find_best
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.train import train
from lora_ns.services.verify_lineage import verify_lineage

SHORT = RECIPE.replace("max_steps = 6", "max_steps = 3").replace("max_samples = 64", "max_samples = 24")


class Signalled(SilentObserver):
    """Sends a signal when something is told."""

    def __init__(self, number, when):
        self._number, self._when = number, when

    def _look(self, *told):
        if told == self._when:
            self._when = None
            os.kill(os.getpid(), self._number)
            time.sleep(0)  # where a signal is looked at

    def stage(self, text):
        self._look("stage", text)

    def begin(self, step, steps):
        self._look("begin", step)

    def step(self, step, tokens):
        self._look("step", step)

    def logged(self, row):
        self._look("evaluated" if "eval_loss" in row else "logged", row["step"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run_recipe(tmp_path_factory.mktemp("undisturbed"), SHORT)


def check_same(run, undisturbed):
    expected, got = load_file(undisturbed.adapter / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert run.read().status == "finished"
    assert [file.name for file in run.path.iterdir() if file.name.startswith(".")] == []


def overwritten(run, undisturbed, observer):
    """Begin to replace a finished run by another one, which is interrupted; what was there before, and the error."""
    shutil.copytree(undisturbed.path, run.path)
    before = hash_folder(run.path)
    recipe = run.path.parent / "recipe.toml"
    recipe.write_text(SHORT)
    with Noise() as noise, pytest.raises(InterruptedRunError) as caught:
        train(load_recipe(recipe), observer, noise, overwrite=True)
    return before, caught.value


@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGHUP, ("stage", "reading the data")),
        (signal.SIGINT, ("stage", "loading the base")),
        (signal.SIGTERM, ("begin", 0)),
        (signal.SIGUSR1, ("evaluated", 0)),
    ],
    ids=str,
)
def test_a_run_that_was_to_be_replaced_is_back_if_no_step_was_completed(tmp_path, undisturbed, number, when):
    run = RunDir(tmp_path / "run")
    before, error = overwritten(run, undisturbed, Signalled(number, when))
    assert str(error).endswith("run was not replaced; repeat the command)")
    assert error.signal_number == number
    assert hash_folder(run.path) == before


def test_what_would_end_a_process_ends_a_training_that_is_saved_and_has_replaced_the_old_run(tmp_path, undisturbed):
    run = RunDir(tmp_path / "run")
    _, error = overwritten(run, undisturbed, Signalled(signal.SIGHUP, ("step", 1)))
    assert (error.signal_number, run.put_aside) == (signal.SIGHUP, None)
    assert "stopped after step 1 of 3, which is saved" in str(error)
    with pytest.raises(InterruptedRunError, match="stopped after step 2 of 3, which is saved"):
        resumed(run, Signalled(signal.SIGUSR1, ("step", 2)))
    resumed(run)
    check_same(run, undisturbed)


@pytest.mark.parametrize("is_signalled", [False, True])
def test_of_several_processes_the_command_forgets_what_is_replaced_at_their_first_step(tmp_path, is_signalled):
    run, result, stop = RunDir(tmp_path), {}, StopSignal(int(signal.SIGHUP) if is_signalled else 0)
    (tmp_path / ".replaced" / "adapter").mkdir(parents=True)
    tell = _event_handler(run, SilentObserver(), stop, result)
    tell({"event": "begin", "values": [0, 3]})
    tell({"event": "logged", "values": [{"step": 0, "eval_loss": 1.0}]})
    assert run.put_aside
    with pytest.raises(EndedEarly) if is_signalled else contextlib.nullcontext():
        tell({"event": "step", "values": [1, 10]})
    assert bool(run.put_aside) is is_signalled
    tell({"event": "result", "values": [{"steps": 3}]})
    assert result == {"steps": 3}


KEEPS_BEST = (
    *("dataset.max_samples=16", "dataset.max_eval_samples=4", "training.global_batch_size=4"),
    *("training.eval_steps=1", "training.save_steps=2", "training.load_best_model_at_end=true"),
    *("training.early_stopping_patience=4", "training.early_stopping_threshold=100.0", "peft.lora_dropout=0.1"),
)
"""Every evaluation is better than the one before, and none by more than the threshold: the run ends after step 5."""


def train_until_killed(folder, when):
    run_recipe(folder, RECIPE, *KEEPS_BEST, observer=Signalled(signal.SIGKILL, when))


@pytest.mark.matrix
def test_a_killed_run_ends_early_with_the_best_adapter_as_the_undisturbed_one_does(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = run_recipe(tmp_path / "whole", RECIPE, *KEEPS_BEST)
    assert whole.read().ended
    for when, best in ((("evaluated", 3), 2), (("step", 4), 3)):
        folder = tmp_path / f"{when[0]}-{when[1]}"
        folder.mkdir()
        process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=(folder, when))
        process.start()
        process.join()
        run = RunDir.open(folder / "run")
        assert (process.exitcode, run.read().status) == (-signal.SIGKILL, "running")
        found = find_best(run, run.read().run_id)
        assert found.record.step == best
        resumed(run)
        now, before = run.read(), whole.read()
        assert (now.ended, now.best, now.adapter_step) == (before.ended, before.best, before.adapter_step)
        for name in (f"adapter/{WEIGHTS}", f"best/{WEIGHTS}"):
            assert sha256_file(run.path / name) == sha256_file(whole.path / name)
        assert not run.best_of_checkpoint.exists()
        assert verify_lineage(run.path).is_whole


@pytest.mark.cluster
@pytest.mark.slow
def test_random_interruptions(tmp_path):
    count, seed = (
        int(os.environ.get(name, value)) for name, value in (("LORANS_INTERRUPTIONS", 10), ("LORANS_SEED", 1))
    )
    assert interrupted_at_random(tmp_path, count, seed, tmp_path / "log.txt") == []
