"""The options for several processes, and the commands that start them."""

import json

import pytest
from launched_by import LAUNCHED
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import UsageError


@pytest.fixture(autouse=True)
def _rows(tmp_path, monkeypatch):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 32)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def told(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, UsageError)
    return str(result.exception)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--num-processes", "2", "--gpus", "2"), "both set the number of processes"),
        (("--gpus", "many"), 'write "auto" or a number from 1'),
        (("--gpus", "0"), 'write "auto" or a number from 1'),
        (("--gpus", "auto"), "this machine has no GPU (`--num-processes N` trains on the CPU)"),
        (("--num-processes", "1000", "--dry-run"), "distributed.num_processes: 1000 processes, but this machine"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(write_recipe, options, expected):
    assert expected in told("train", write_recipe(), *options)


@pytest.mark.parametrize("command", ["infer", "eval"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--num-processes", "2", "--gpus", "2"), "both set the number of processes"),
        (("--gpus", "many"), 'write "auto" or a number from 1'),
        (("--gpus", "auto"), "--gpus: this machine has no GPU (`--num-processes N` "),
    ],
)
def test_rows_are_shared_by_the_options_of_training(tmp_path, command, options, expected):
    assert expected in told(command, tmp_path, *options)


def test_the_processes_are_in_the_plan(write_recipe, monkeypatch):
    monkeypatch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)
    result = CliRunner().invoke(app, ["train", str(write_recipe()), "--num-processes", "2", "--dry-run"])
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if line.startswith("world_size"))
    assert line.split() == ["world_size", "2", "--set"]


@pytest.mark.parametrize(
    ("kind", "strategy"), [("MULTI_GPU", "ddp"), ("DEEPSPEED", "deepspeed"), ("NO", "ddp"), ("MULTI_CPU", "ddp")]
)
def test_a_number_of_processes_leaves_the_strategy_to_accelerates_file(
    write_recipe, minimal, tmp_path, monkeypatch, kind, strategy
):
    monkeypatch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)
    (tmp_path / "own.yaml").write_text(f"distributed_type: {kind}\nnum_processes: 8\n")
    recipe = write_recipe(f'{minimal}\n[distributed]\naccelerate_config = "own.yaml"\n')
    result = CliRunner().invoke(app, ["train", str(recipe), "--num-processes", "2", "--dry-run", "--json"])
    plan = json.loads(result.stdout)
    assert (plan["strategy"]["value"], plan["world_size"]["value"]) == (strategy, 2)
    assert any("8" in note or kind == "NO" for note in plan["notes"])


def test_a_rank_needs_a_launcher(tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert f"the command that `lorans launch-command {tmp_path}` prints" in told("rank", tmp_path)


@pytest.mark.parametrize("command", ["infer", "eval"])
def test_each_process_of_a_launcher_would_do_all_of_it(command, monkeypatch, tmp_path):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert "torchrun or accelerate started 8 processes" in told(command, tmp_path)
    assert "torchrun or accelerate started this command and sets" in told("train", tmp_path, "--num-processes", "2")
