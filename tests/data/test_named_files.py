"""Files that a recipe names beside its rows: what trains would refuse of them, validate and plan refuse, too."""

import json
import os

import pytest
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import UsageError

SECRET = "hf_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA2b"
KEYED = '{"wandb": {"api_key": "abcdef"}}'
OWN = "distributed.deepspeed_config=own.json"
TEMPLATE = "sft.chat_template=own.jinja"
ZERO = ["distributed.strategy=deepspeed", "distributed.num_processes=1"]
THROUGH = "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 2\n  deepspeed_config_file: "

CASES = {
    "no DeepSpeed file": ({}, [*ZERO, OWN], "own.json cannot be read: no such file"),
    "a secret by its key": (
        {"own.json": '{"wandb": {"api_key": "abcdef"}}'},
        [*ZERO, OWN],
        "own.json:1: wandb.api_key",
    ),
    "a secret by its shape": (
        {"own.json": json.dumps({"tags": [SECRET]})},
        [*ZERO, OWN],
        "contains a Hugging Face token",
    ),
    "no number": (
        {"own.json": '{"zero_optimization": {"stage": 2e400}}'},
        [*ZERO, OWN],
        "2e400 is not a finite number",
    ),
    "not a number": ({"own.json": '{"steps_per_print": NaN}'}, [*ZERO, OWN], "NaN is not a finite number"),
    "a stage in quotes": ({"own.json": '{"zero_optimization": {"stage": "2"}}'}, [*ZERO, OWN], 'stage` is "2"'),
    "another stage": ({"own.json": '{"zero_optimization": {"stage": 3}}'}, [*ZERO, OWN], "stage` is 3"),
    "what the recipe decides": ({"own.json": '{"fp16": {}}'}, [*ZERO, OWN], "`fp16` cannot be set in this file"),
    "no JSON": ({"own.json": "{"}, [*ZERO, OWN], "own.json:1: not JSON"),
    "a DeepSpeed file that is a pipe": ({"own.json": None}, [*ZERO, OWN], "own.json is a pipe, not a file"),
    "a device through a file of accelerate's": (
        {"own.yaml": f"{THROUGH}/dev/zero\n"},
        ["distributed.accelerate_config=own.yaml"],
        "own.yaml:4: distributed.deepspeed_config: /dev/zero is a device, not a file",
    ),
    "a secret through a file of accelerate's": (
        {"own.yaml": f"{THROUGH}own.json\n", "own.json": KEYED},
        ["distributed.accelerate_config=own.yaml"],
        "own.json:1: wandb.api_key",
    ),
    "no template": ({}, [TEMPLATE], "`own.jinja` is neither a file nor one of chatml"),
    "a template that is a pipe": ({"own.jinja": None}, [TEMPLATE], "own.jinja is a pipe, not a file"),
    "a template that is a device": ({}, ["sft.chat_template=/dev/zero"], "/dev/zero is a device, not a file"),
    "a secret in a template": (
        {"own.jinja": f"{{# a\n{SECRET} #}}"},
        [TEMPLATE],
        "own.jinja:2: contains a Hugging Face",
    ),
    "a template that is no text": ({"own.jinja": b"\xff"}, [TEMPLATE], "own.jinja: not UTF-8 at byte 1"),
}


def problems(command, path, overrides):
    done = CliRunner().invoke(app, [command, str(path), *(part for one in overrides for part in ("--set", one))])
    assert isinstance(done.exception, UsageError)
    return [str(problem) for problem in done.exception.problems]


@pytest.fixture
def recipe(write_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{number} + 1", "completion": str(number + 1)} for number in range(64)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_recipe()


@pytest.mark.parametrize("name", CASES)
def test_what_train_refuses_of_a_named_file_validate_and_plan_refuse(recipe, tmp_path, name):
    files, overrides, expected = CASES[name]
    for file, content in files.items():
        if content is None:
            os.mkfifo(tmp_path / file)
        else:
            (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    told = {command: problems(command, recipe, overrides) for command in ("validate", "plan", "train")}
    assert told["validate"] == told["plan"] == told["train"]
    assert expected in told["validate"][0]
    assert not any("abcdef" in line or SECRET in line for line in told["validate"])
    assert not (tmp_path / "run").exists()


def test_all_files_are_told_of_at_once(recipe, tmp_path):
    (tmp_path / "own.json").write_text("[]")
    told = problems("validate", recipe, [*ZERO, OWN, TEMPLATE])
    assert [("own.jinja" in line, "own.json" in line) for line in told] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    "own", ["{}", '{"train_batch_size": 3}', '{"gradient_clipping": "auto", "zero_optimization": {"stage": 2}}']
)
def test_what_only_a_plan_can_tell_is_left_to_it(recipe, tmp_path, own):
    (tmp_path / "own.json").write_text(own)
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    chosen = [part for one in (*ZERO, OWN, TEMPLATE) for part in ("--set", one)]
    assert CliRunner().invoke(app, ["validate", str(recipe), *chosen]).exit_code == 0


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_rows_that_are_no_file_are_a_warning(recipe, tmp_path, kind):
    rows = tmp_path / "rows.jsonl"
    if kind == "a pipe":
        os.mkfifo(rows)
    else:
        rows.symlink_to("/dev/zero")
    done = CliRunner().invoke(app, ["validate", str(recipe), "--set", "dataset.path=rows.jsonl"])
    assert done.exit_code == 0
    assert f"warning: --set: dataset.path: {rows} is no file" in done.output
