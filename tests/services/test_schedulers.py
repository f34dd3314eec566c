"""A real SLURM and a real Ray on this machine: what they start, stop and start again is the run of one process."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("torch")

import namespaces
import slurm_here
import torch
from safetensors.torch import load_file
from services_recipes import RECIPE, run_recipe

from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir
from lora_ns.services import submit as service

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
needs_slurm = pytest.mark.skipif(not slurm_here.can_be_made(), reason="needs root, slurm-wlm and munge")

STEPS = 24
TEXT = (
    RECIPE.replace("max_steps = 6", f"max_steps = {STEPS}\nsave_steps = 2\nsave_total_limit = 3")
    .replace("learning_rate = 5e-3", "learning_rate = 1e-3")
    .replace("global_batch_size = 8", "global_batch_size = 8\nper_device_train_batch_size = 2")
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The adapter of one process that nobody disturbed."""
    return load_file(run_recipe(tmp_path_factory.mktemp("alone"), TEXT).adapter / WEIGHTS)


def lorans(*arguments, inside=()):
    done = subprocess.run(
        [*inside, sys.executable, "-m", "lora_ns", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(run, inside=()):
    if inside:
        return json.loads(lorans("status", str(run), "--json", inside=inside))
    return asdict(service.status(Path(run)))


def wait_until(is_so, run, inside=()):
    """Ask until it is so; not all the time, since what is asked for needs the cores."""
    between = threading.Event()
    for _ in range(600):
        found = status(run, inside)
        if is_so(found):
            return found
        between.wait(0.5)
    raise AssertionError(lorans("status", str(run), "--log", inside=inside))


def scontrol(*words):
    subprocess.run(["scontrol", *words], check=True, capture_output=True)


def check(run, alone, tolerance):
    opened = RunDir.open(Path(run))
    assert opened.read().status == "finished"
    assert opened.read().seal.largest_difference < 1e-6
    found = load_file(opened.adapter / WEIGHTS)
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, atol=tolerance, rtol=0)


@pytest.fixture(params=[0, 30], ids=["at once", "after a while"])
def preempting(request, tmp_path):
    with slurm_here.cluster(tmp_path / "slurm", request.param):
        yield


@pytest.fixture
def slurm(tmp_path):
    with slurm_here.cluster(tmp_path / "slurm"):
        yield


TO_SLURM = ("--to", "slurm", "--time", "60", "-o", "partition=low")


@needs_slurm
@pytest.mark.parametrize("processes", [1, 2])
def test_a_preempted_job_is_queued_again_and_goes_on(preempting, write_recipe, alone, processes):
    several = ("--set", "distributed.strategy=ddp", "--set", f"distributed.num_processes={processes}")
    options = several if processes > 1 else ()
    lorans("submit", str(write_recipe(TEXT)), *TO_SLURM, *options)
    wait_until(lambda found: found["step"] >= 5, "run")
    subprocess.run(
        ["sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=true"],
        check=True,
        capture_output=True,
    )
    again = wait_until(lambda found: found["job"]["state"] == "PENDING", "run")
    assert again["job"]["restarts"] == 1
    assert again["step"] < STEPS
    scontrol("update", f"jobid={again['id']}", "StartTime=now")  # SLURM lets a job that it stopped rest for two minutes
    done = wait_until(lambda found: found["job"]["is_over"], "run")
    assert (done["job"]["state"], done["status"]) == ("COMPLETED", "finished")
    check("run", alone, 0.0 if processes == 1 else 1e-4)


@needs_slurm
def test_a_job_near_the_end_of_its_time_saves_and_is_queued_again(slurm, write_recipe, alone):
    lorans("submit", str(write_recipe(TEXT)), *TO_SLURM)
    found = wait_until(lambda found: found["step"] >= 3, "run")
    subprocess.run(["scancel", "--signal=USR2", found["id"]], check=True)
    again = wait_until(lambda found: found["job"]["restarts"] == 1, "run")
    assert again["status"] == "interrupted"
    assert "which is saved" in again["error"]
    wait_until(lambda found: found["job"]["state"] == "PENDING", "run")
    scontrol("update", f"jobid={again['id']}", "StartTime=now")
    wait_until(lambda found: found["job"]["is_over"], "run")
    check("run", alone, 0.0)


@needs_slurm
def test_a_cancelled_job_stays_away_and_is_gone_on_with_by_another(slurm, write_recipe, alone):
    recipe = str(write_recipe(TEXT))
    lorans("submit", recipe, *TO_SLURM)
    found = wait_until(lambda found: found["step"] >= 3, "run")
    subprocess.run(["scancel", found["id"]], check=True)
    wait_until(lambda found: found["job"]["state"] == "CANCELLED", "run")
    told = lorans("status", "run")
    assert "`lorans submit RECIPE --resume`" in told
    lorans("submit", recipe, *TO_SLURM, "--resume")
    wait_until(lambda found: found["job"]["is_over"], "run")
    check("run", alone, 0.0)


@needs_slurm
def test_an_array_trains_each_recipe_and_a_broken_one_says_why(slurm, write_recipe, alone, tmp_path):
    good = str(write_recipe(TEXT))
    bad = tmp_path / "bad.toml"
    bad.write_text(TEXT.replace('"run"', '"bad"').replace("lorans:quickstart/train.jsonl", "none.jsonl"))
    lorans("submit", good, str(bad), *TO_SLURM, "-o", "cpus-per-task=1")
    wait_until(lambda found: found["job"]["is_over"], "run")
    failed = wait_until(lambda found: found["job"]["is_over"], "bad")
    check("run", alone, 0.0)
    assert failed["job"]["state"] == "FAILED"
    assert "none.jsonl" in lorans("status", "bad", "--log")


@needs_slurm
def test_jobs_share_a_sweep_and_one_that_is_stopped_goes_on(slurm, write_recipe):
    pytest.importorskip("optuna")
    recipe, values = str(write_recipe(TEXT)), ("--set", "training.learning_rate=1e-3,2e-3,3e-3,4e-3,5e-3,6e-3")
    values = (*values, "--set", "dataset.eval_fraction=0.25", "-o", "swept")
    lorans("sweep", recipe, *values, *TO_SLURM[:4], "--option", "cpus-per-task=1", "--jobs", "2")
    first = sweep_until(lambda found: found["done"] >= 1)
    subprocess.run(["scancel", "--signal=USR2", first["jobs"][0]["id"]], check=True)
    again = sweep_until(lambda found: any(job["state"]["restarts"] for job in found["jobs"]))
    for job in again["jobs"]:
        if job["state"]["restarts"]:
            scontrol("update", f"jobid={job['id']}", "StartTime=now")
    last = sweep_until(lambda found: all(job["state"]["is_over"] for job in found["jobs"]))
    assert (last["status"], last["done"]) == ("finished", 6)
    assert {job["state"]["state"] for job in last["jobs"]} == {"COMPLETED"}
    trials = json.loads(Path("swept/result.json").read_text())["trials"]
    assert len(trials) == 6
    assert "trials" in lorans("status", "swept", "--log")


def sweep_until(is_so):
    """Ask for the status of the sweep until it is so."""
    between = threading.Event()
    for _ in range(600):
        found = json.loads(lorans("status", "swept", "--json"))
        if is_so(found):
            return found
        between.wait(0.5)
    raise AssertionError(lorans("status", "swept", "--log"))


@pytest.mark.skipif(not namespaces.can_be_made(), reason="needs root and iproute2, for network namespaces")
@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "a node is lost"])
def test_ray_trains_on_two_nodes(write_recipe, alone, tmp_path, killed):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs ray")
    ray = str(Path(sys.executable).with_name("ray"))
    recipe = str(write_recipe(TEXT))
    with namespaces.machines(2) as names:
        places = [("ip", "netns", "exec", name) for name in names]
        head = namespaces.address(0)
        joined = (
            ["--head", "--dashboard-host", head, "--temp-dir", f"/tmp/ray-{os.getpid()}"],
            ["--address", f"{head}:6379"],
        )
        try:
            for number, (place, how) in enumerate(zip(places, joined, strict=True)):
                words = [ray, "start", *how, "--node-ip-address", namespaces.address(number), "--num-cpus", "2"]
                subprocess.run([*place, *words], check=True, capture_output=True)
            options = ("-o", f"address=http://{head}:8265", "-o", "max-failures=2")
            count = ("--nodes", "2", "--set", "distributed.num_processes=1")
            lorans("submit", recipe, "--to", "ray", *options, *count, inside=places[0])
            if killed:
                wait_until(lambda found: found["step"] >= 5, "run", places[0])
                subprocess.run(["pkill", "-KILL", "-f", "ray::RayTrainWorker"], check=True)
            done = wait_until(lambda found: found["job"]["is_over"], "run", places[0])
            assert (done["job"]["state"], done["status"]) == ("SUCCEEDED", "finished")
        finally:
            for place in places:
                subprocess.run([*place, ray, "stop", "--force"], check=False, capture_output=True)
    check("run", alone, 1e-4)
