"""Several machines, as network namespaces: they train the adapter of one process, and survive one that is killed."""

import contextlib
import json
import random
import re
import subprocess
import time

import pytest

pytest.importorskip("torch")

import namespaces
import torch
from safetensors.torch import load_file
from services_recipes import RECIPE

from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(not namespaces.can_be_made(), reason="needs root and iproute2, for network namespaces"),
]

STEPS = 12
TEXT = (
    RECIPE.replace("max_steps = 6", f"max_steps = {STEPS}\nsave_steps = 2\nsave_total_limit = 3")
    .replace("learning_rate = 5e-3", "learning_rate = 1e-3")
    .replace("global_batch_size = 8", "global_batch_size = 6\nper_device_train_batch_size = 1")
)
RESTARTS = ("--set", "distributed.max_restarts=3", "--set", "distributed.timeout=120")
KILLS = 10


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The adapter of one process."""
    from services_recipes import run_recipe

    run = run_recipe(tmp_path_factory.mktemp("alone"), TEXT)
    return load_file(run.adapter / WEIGHTS)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipe.toml").write_text(TEXT)
    return tmp_path


def steps(run):
    """Steps that a machine has done."""
    try:
        return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    except (FileNotFoundError, IndexError):
        return 0


def wait_for_step(folder, wanted, process):
    while steps(namespaces.run_of(folder, 0)) < wanted:
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError((folder / "out").read_text())


def check_finished(folder, count, alone):
    for number in range(count):
        run = RunDir.open(namespaces.run_of(folder, number))
        manifest = run.read()
        assert manifest.status == "finished"
        assert manifest.distributed.model_dump() == {"strategy": "ddp", "world_size": count, "backend": "gloo"}
        assert manifest.seal.largest_difference < 1e-6
        got = load_file(run.adapter / WEIGHTS)
        for name, value in alone.items():
            torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)


def check_survives(folder, alone, killed, step):
    """A machine is killed after a step, and gets its command again; both finish with the adapter of one process."""
    with namespaces.machines(2) as names:
        running = [namespaces.start(name, folder, 2, *RESTARTS) for name in names]
        wait_for_step(folder, step, running[0])
        namespaces.kill(running[killed], namespaces.run_of(folder, killed))
        running[killed] = namespaces.start(names[killed], folder, 2, *RESTARTS, "--resume")
        assert [process.wait(300) for process in running] == [0, 0]
    check_finished(folder, 2, alone)


def test_a_machine_is_killed_and_comes_back_and_the_adapter_is_that_of_one_process(folder, alone):
    check_survives(folder, alone, killed=1, step=5)


@pytest.mark.parametrize("count", [2, 3])
def test_machines_train_the_adapter_of_one_process(folder, alone, count):
    with namespaces.machines(count) as names:
        running = [namespaces.start(name, folder, count) for name in names]
        assert [process.wait(300) for process in running] == [0] * count
    check_finished(folder, count, alone)


@pytest.mark.parametrize("killed", [0, 1])
def test_the_others_stop_soon_and_say_so(folder, killed):
    with namespaces.machines(2) as names:
        running = [namespaces.start(name, folder, 2) for name in names]
        wait_for_step(folder, 3, running[0])
        namespaces.kill(running[killed], namespaces.run_of(folder, killed))
        begun = time.monotonic()
        assert running[1 - killed].wait(60) == 1
        assert time.monotonic() - begun < 30
    told = (folder / f"{names[1 - killed]}.out").read_text().splitlines()[-1]
    assert "another process was lost" in told
    assert f"[{namespaces.address(killed)}]" in told
    assert "--resume` continues the run" in told


def test_another_recipe_on_a_machine_is_told_with_rank_and_host(folder):
    with namespaces.machines(2) as names:
        running = [
            namespaces.start(name, folder, 2, "--set", f"training.seed={seed}") for seed, name in enumerate(names)
        ]
        assert [process.wait(120) for process in running] == [1, 1]
    told = (folder / f"{names[0]}.out").read_text().splitlines()[-1]
    assert re.search(r"differs from rank 0 on \S+ in recipe: ", told)


@pytest.fixture
def small_disk(folder):
    """A disk of its own for the run of the second machine."""
    run = namespaces.run_of(folder, 1)
    run.mkdir()
    size = f"size={300 * 2**20}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(run)], check=True, capture_output=True)
    yield run
    subprocess.run(["umount", "--lazy", str(run)], check=True, capture_output=True)


def test_a_full_disk_of_one_machine_is_told_with_its_rank(folder, small_disk):
    with namespaces.machines(2) as names:
        running = [namespaces.start(name, folder, 2) for name in names]
        wait_for_step(folder, 3, running[0])
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(2**20)):
                pass
        assert [process.wait(60) for process in running] == [1, 1]
    told = (folder / f"{names[1]}.out").read_text().splitlines()[-1]
    assert "rank 1 on " in told
    assert "no space left on the disk" in told
    assert "another process was lost" in (folder / f"{names[0]}.out").read_text().splitlines()[-1]


@pytest.mark.parametrize("seed", range(KILLS))
def test_nothing_is_lost_whenever_a_machine_is_killed(folder, alone, seed):
    """Also the one where they meet: every second time."""
    check_survives(folder, alone, killed=seed % 2, step=random.Random(seed).randint(1, STEPS - 2))
