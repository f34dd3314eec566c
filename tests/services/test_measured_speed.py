"""The speed that a plan takes from an earlier run of the recipe on this machine."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from run_folders import manifest, rows, write_run

from lora_ns.machine.gpus import machine_with
from lora_ns.machine.hardware import Machine
from lora_ns.plan.speed import Measured
from lora_ns.recipe.load import load_recipe
from lora_ns.services.measured_speed import measured_speed

HERE = Machine("AMD EPYC", 2, True, 24 * 10**9, 20 * 10**9)
ALIKE = {
    "base": {"name": "lorans:nano"},
    "machine": {"cpu": "AMD EPYC"},
    "plan": {"device": {"value": "cpu", "origin": "computed"}},
}


def measured(write_recipe, tmp_path, table, logged, machine=HERE):
    write_run(tmp_path / "run", table, logged)
    return measured_speed(load_recipe(write_recipe()).recipe, tmp_path, machine)


def test_the_speed_is_that_between_the_first_and_the_last_logged_step(write_recipe, tmp_path):
    assert measured(write_recipe, tmp_path, manifest(**ALIKE), rows(since=30.0)) == Measured(50.0, "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"base": {"name": "owner/other"}},
        {"machine": {"cpu": "Intel"}},
        {"plan": {"device": {"value": "cuda", "origin": "computed"}}},
        {"plan": "damaged", "machine": None, "base": []},
    ],
    ids=["base", "processor", "device", "damaged"],
)
def test_a_run_of_another_kind_says_nothing(write_recipe, tmp_path, changes):
    assert measured(write_recipe, tmp_path, manifest(**{**ALIKE, **changes}), rows()) is None


@pytest.mark.parametrize(
    "logged",
    [(), list(rows(1)), [{"step": 1}, {"step": 2}], [*rows(1), *rows(1)]],
    ids=["none", "one", "bare", "twice"],
)
def test_a_run_with_too_few_steps_says_nothing(write_recipe, tmp_path, logged):
    assert measured(write_recipe, tmp_path, manifest(**ALIKE), logged) is None


def test_a_broken_manifest_or_another_gpu_says_nothing(write_recipe, tmp_path):
    assert measured(write_recipe, tmp_path, "{", rows()) is None
    other = replace(machine_with("H100", HERE), cpu="AMD EPYC")
    assert measured_speed(load_recipe(write_recipe()).recipe, tmp_path, other) is None


def test_a_recipe_without_a_run_has_no_speed(write_recipe, tmp_path):
    assert measured_speed(load_recipe(write_recipe()).recipe, tmp_path, HERE) is None
