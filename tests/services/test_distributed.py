"""Two processes on a CPU give the adapter of one, stop and go on as one does, and say what went wrong in which."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("torch")

import psutil
import torch
from safetensors.torch import load_file
from services_recipes import RECIPE, run_recipe
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import InterruptedRunError, LoransError, MissingError, RunError
from lora_ns.files.marks import MARK
from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.resume import resume

pytestmark = pytest.mark.slow

TWO = ('distributed.strategy="ddp"', "distributed.num_processes=2")
SHARED = (
    "training.per_device_train_batch_size=2",
    "training.per_device_eval_batch_size=2",
    "dataset.max_eval_samples=7",
    "training.save_steps=3",
    "training.save_total_limit=5",
)
HOSTILE = {"MASTER_PORT": "1", "OMP_NUM_THREADS": "1", "RANK": "3", "WORLD_SIZE": "5", "ACCELERATE_USE_FSDP": "true"}
BREAKS = """\
import atexit, os, pathlib
if os.environ.get("RANK") == "1":
    pathlib.Path({place!r}).touch()
    atexit.register(os.abort)
"""
"""Python of a process that breaks after its work."""


@pytest.fixture(autouse=True)
def _enough_cores(monkeypatch):
    monkeypatch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)


class Told(SilentObserver):
    def __init__(self):
        self.warned = []

    def warn(self, text):
        self.warned.append(text)


def rows(run, *names):
    logged = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    kept = [{name: row[name] for name in ("step", *names) if name in row} for row in logged]
    return [row for row in kept if len(row) > 1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes with LoRA, started where everything else was launched otherwise; and what was told of it.

    At its end, one of them would break, as it does while the destructors of some libraries run.
    """
    folder = tmp_path_factory.mktemp("pair")
    config = folder / "home" / "accelerate" / "default_config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("distributed_type: FSDP\nnum_processes: 7\nuse_cpu: false\n")
    (folder / "sitecustomize.py").write_text(BREAKS.format(place=str(folder / "broken")))
    observer = Told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)
        patch.setenv("HF_HOME", str(folder / "home"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        for name, value in HOSTILE.items():
            patch.setenv(name, value)
        return run_recipe(folder, RECIPE, *SHARED, *TWO, observer=observer), observer.warned[0]


def assert_same(run, alone, world=1):
    manifest = run.read()
    assert manifest.status == "finished"
    assert manifest.distributed.model_dump() == {"strategy": "ddp", "world_size": 2, "backend": "gloo"}
    assert alone.read().distributed.world_size == world
    expected, got = load_file(alone.adapter / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)
    for mine, other in zip(rows(run, "loss", "eval_loss"), rows(alone, "loss", "eval_loss"), strict=True):
        assert mine == pytest.approx(other, abs=1e-4)
    for name in ("before/eval_loss", "eval_loss", "eval_mean_token_accuracy"):
        assert manifest.metrics[name] == pytest.approx(alone.read().metrics[name], abs=1e-4)
    assert manifest.seal.largest_difference < 1e-6


def test_two_processes_give_the_adapter_of_one_whatever_the_surroundings_say(trained, pair):
    run, warned = pair
    assert all(f"`{name}`" in warned for name in HOSTILE)
    assert "default_config.yaml" in warned
    assert_same(run, trained(RECIPE, *SHARED))


class At(SilentObserver):
    """Does something after a step."""

    def __init__(self, step, act):
        self._step, self._act = step, act

    def step(self, step, tokens):
        if step == self._step:
            self._act()


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(trained, pair, tmp_path):
    whole, _ = pair
    are_there = []

    def act():
        are_there.append(RunDir(tmp_path / "run")._has_ranks())
        os.kill(os.getpid(), signal.SIGTERM)

    stop = At(2, act)
    with pytest.raises(InterruptedRunError, match=r"stopped after step [2-5] of 6, which is saved") as caught:
        trained(RECIPE, *SHARED, *TWO, observer=stop)
    assert caught.value.signal_number == signal.SIGTERM
    run = RunDir.open(tmp_path / "run")
    assert run.read().status == "interrupted"
    assert (are_there, run._has_ranks()) == ([True], False)
    with Noise() as noise:
        assert resume(run, SilentObserver(), noise).steps == 6
    expected, got = load_file(whole.adapter / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert rows(run, "loss", "eval_loss") == rows(whole, "loss", "eval_loss")


def test_a_rank_that_breaks_after_its_work_does_not_lose_the_run(pair):
    run, _ = pair
    assert (run.path.parent / "broken").exists()
    assert run.read().status == "finished"


def test_a_rank_that_is_killed_ends_the_run_and_is_named(trained, tmp_path):
    ended = []

    def kill():
        os.kill(int((tmp_path / "run/ranks/rank1.pid").read_text()), signal.SIGKILL)
        ended.append(time.monotonic())

    with pytest.raises(RunError, match=r"rank 1 was killed by SIGKILL|rank 0 on .*: another process was lost: "):
        trained(RECIPE, *SHARED, *TWO, "training.max_steps=500", observer=At(1, kill))
    assert time.monotonic() - ended[0] < 60
    check_nothing_is_left(tmp_path / "run")


@pytest.mark.cluster
def test_a_rank_that_hangs_ends_the_run_once_the_others_have_waited(trained, tmp_path):
    def hang():
        os.kill(int((tmp_path / "run/ranks/rank1.pid").read_text()), signal.SIGSTOP)

    steps = ("training.max_steps=500", "distributed.timeout=10")
    with pytest.raises(RunError, match=r"rank 0 on .*: another process was lost: .*\(.*`lorans train .* --resume`"):
        trained(RECIPE, *SHARED, *TWO, *steps, observer=At(1, hang))
    check_nothing_is_left(tmp_path / "run")


def check_nothing_is_left(run):
    assert RunDir.open(run).read().status == "failed"
    for file in (run / "ranks").glob("*.pid"):
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(file.read_text()))
            assert process.status() == psutil.STATUS_ZOMBIE or process.wait(10) is None  # what is killed takes a moment


@pytest.mark.cluster
def test_what_a_rank_says_comes_through(trained, tmp_path):
    with pytest.raises(LoransError, match=r"rank [01] on .*: .*(nan|inf).*\(lower `training.learning_rate`") as caught:
        trained(RECIPE, *SHARED, *TWO, "training.learning_rate=1e30", "training.warmup_steps=0")
    assert caught.value.exit_code == 1
    assert RunDir.open(tmp_path / "run").read().status == "failed"


def test_a_recipe_is_prepared_for_another_launcher(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    shared = [word for override in (*SHARED, *TWO) for word in ("--set", override)]
    result = CliRunner().invoke(app, ["launch-command", "recipe.toml", *shared])
    assert result.exit_code == 0
    assert (
        f"--nproc_per_node 2 --max_restarts 0 --no_python {sys.executable} -P -m lora_ns rank {tmp_path}/run"
        in result.stdout
    )
    run = RunDir.open(tmp_path / "run")
    assert run.read().status == "started"
    assert (run.data / "train").is_dir()
    again = CliRunner().invoke(app, ["launch-command", "run"])
    assert again.stdout == result.stdout
    alone = CliRunner().invoke(app, ["launch-command", "recipe.toml", "--set", "training.output_dir=alone"])
    assert "the recipe trains in one process" in str(alone.exception)
    assert not (tmp_path / "alone/manifest.json").exists()


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")


def launched(folder, launcher, *options, recipe=RECIPE):
    """`lorans train` as another launcher starts it; how it ended."""
    (folder / "recipe.toml").write_text(recipe)
    shared = [word for override in SHARED for word in ("--set", override)]
    command = [sys.executable, *launcher, "-m", "lora_ns", "train", "recipe.toml", *shared, *options]
    surroundings = {**os.environ, "ACCELERATE_USE_CPU": "true", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)


@pytest.mark.cluster
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(TORCHRUN, id="torchrun"),
        pytest.param((*ACCELERATE, "--mixed_precision", "no", "--dynamo_backend", "no"), id="accelerate"),
    ],
)
def test_another_launcher_may_start_the_command_itself(trained, tmp_path, launcher):
    done = launched(tmp_path, launcher)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("adapter check") == 1
    (tmp_path / "alone").mkdir()
    assert_same(RunDir.open(tmp_path / "run"), run_recipe(tmp_path / "alone", RECIPE, *SHARED))


def test_what_another_launcher_has_decided_is_not_said_again(tmp_path):
    done = launched(tmp_path, TORCHRUN, "--num-processes", "2")
    assert "torchrun or accelerate started this command and sets the number of processes" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.cluster
def test_another_launcher_starts_all_again_from_the_last_checkpoint(tmp_path, pair):
    file = tmp_path / "run/ranks/rank1.pid"
    killer = threading.Thread(target=kill_after_a_checkpoint, args=(tmp_path / "run/checkpoints/checkpoint-3", file))
    killer.start()
    done = launched(tmp_path, (*TORCHRUN, "--max_restarts", "1"))
    killer.join()
    assert done.returncode == 0, done.stderr[-4000:]
    assert_same(RunDir.open(tmp_path / "run"), pair[0], world=2)


def kill_after_a_checkpoint(checkpoint, pid):
    while not (checkpoint / MARK).exists():
        threading.Event().wait(0.05)
    os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.cluster
def test_a_tokenizer_that_is_slower_than_processes_wait_for_one_another(tmp_path):
    class Slow(SilentObserver):
        def stage(self, text):
            if text == "reading the data":
                time.sleep(40)

    run = run_recipe(tmp_path, RECIPE, *SHARED, *TWO, "distributed.timeout=10", observer=Slow())
    assert run.read().status == "finished"


DEEPSPEED = ('distributed.strategy="deepspeed"', "distributed.num_processes=2")


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("import", "`deepspeed` is installed but cannot be imported: ImportError: libaio.so.1: cannot open"),
        ("compiler", "DeepSpeed compiles an extension for the CPU, and there is no `no-such-compiler`"),
    ],
)
def test_a_deepspeed_that_cannot_work_is_told_before_a_run_is_made(tmp_path, monkeypatch, breaks, message):
    if breaks == "compiler":
        monkeypatch.setenv("CXX", "no-such-compiler")
    else:
        package = tmp_path / "broken" / "deepspeed"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('raise ImportError("libaio.so.1: cannot open shared object file")')
        monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
        monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(MissingError, match=re.escape(message)):
        run_recipe(tmp_path, RECIPE, *DEEPSPEED)
    assert not (tmp_path / "run").exists()
