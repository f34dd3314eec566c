"""`lorans plan --measure`: memory and speed of a few real steps, and nothing left of them."""

import json
import signal
import subprocess
from types import SimpleNamespace

import pytest
from command_line import lorans
from services_recipes import RECIPE

pytest.importorskip("torch")

from lora_ns.errors import RunError, UsageError
from lora_ns.recipe.load import load_recipe
from lora_ns.services.measure import _failure, check_measurable


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE)
    return file


def test_the_plan_has_what_a_few_steps_took(recipe, tmp_path):
    more = ("--set", "evaluation.before_training=true", "--set", "tracking.report_to=['tensorboard']")
    done = lorans("plan", recipe, "--measure", "--json", *more, LORANS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    measured = plan["memory_bytes"]
    assert measured["why"].startswith("measured in 3 steps on this machine; estimated: 0.")
    estimate = sum(size for name, size in plan["memory"].items() if name != "mapped")
    assert measured["value"] != estimate
    assert 0.7 < measured["value"] / estimate < 1.4
    assert plan["tokens_per_second"]["value"] > 0
    assert plan["tokens_per_second"]["why"].startswith("measured in 3 steps")
    assert plan["max_steps"]["value"] == 6
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.toml", "cache"}
    (remembered,) = (tmp_path / "cache").glob("memory-*")
    assert json.loads(remembered.read_text())["measured"] == measured["value"]


def test_what_the_steps_refuse_is_refused(recipe, tmp_path):
    done = lorans("plan", recipe, "--measure", "--set", "training.extra.adam_epsilon=-1.0")
    assert done.returncode == 2
    assert "training.extra.adam_epsilon: -1.0: input should be at least 0" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--gpu", "H100"), "leave `--gpu` and `--fit` out"),
        (("--fit", "24GB"), "leave `--gpu` and `--fit` out"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_trained(recipe, monkeypatch, words, told):
    monkeypatch.setattr("lora_ns.services.measure.measure", lambda _: pytest.fail("trained"))
    done = lorans("plan", recipe, "--measure", *words)
    assert done.returncode == 2
    assert told in done.stderr


def test_several_processes_are_not_measured_by_one(recipe):
    loaded = load_recipe(recipe)
    with pytest.raises(UsageError, match="trains in one process, and this recipe in 2"):
        check_measurable(loaded, SimpleNamespace(world_size=SimpleNamespace(value=2)))
    check_measurable(loaded, SimpleNamespace(world_size=SimpleNamespace(value=1)))


def test_a_process_that_the_system_ends_is_out_of_memory(tmp_path):
    found = _failure(tmp_path, subprocess.CompletedProcess([], -signal.SIGKILL, "", ""))
    assert isinstance(found, RunError)
    assert "memory runs out" in str(found)
    bug = _failure(tmp_path, subprocess.CompletedProcess([], 1, "", "Traceback\nValueError: odd\n"))
    assert "ValueError: odd" in str(bug)
    assert not isinstance(bug, UsageError)
