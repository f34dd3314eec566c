"""Files that a recipe names beside its rows: what trains would refuse of them, validate and plan refuse, too."""

import json
import os
import shutil

import pytest
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import UsageError
from lora_ns.model.files import ASSETS

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
    done = CliRunner().invoke(app, [command, str(path), *sets(overrides)])
    assert isinstance(done.exception, UsageError)
    return [str(problem) for problem in done.exception.problems]


@pytest.fixture
def recipe(write_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{number} + 1", "completion": str(number + 1)} for number in range(64)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_recipe()


OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A machine that trains, a cache that is empty, and no word on whether the hub may be reached."""
    monkeypatch.setattr("lora_ns.machine.packages.can_train", lambda: True)
    for name in (*OFFLINE, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


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
    assert CliRunner().invoke(app, ["validate", str(recipe), *sets([*ZERO, OWN, TEMPLATE])]).exit_code == 0


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_rows_that_are_no_file_are_found(recipe, hub, tmp_path, kind):
    rows = tmp_path / "rows.jsonl"
    if kind == "a pipe":
        os.mkfifo(rows)
    else:
        rows.symlink_to("/dev/zero")
    assert problems("validate", recipe, ["dataset.path=rows.jsonl"]) == [
        f"--set: dataset.path: {rows} is no file (name a file)"
    ]


HUB_ROWS = "dataset={name='owner/rows'}"
HUB_BASE = "model.name_or_path=owner/base"
NOT_HERE = {
    "no rows": (["dataset.path=none.jsonl"], ["dataset.path: no file `none.jsonl`"]),
    "no rows match": (["dataset.path=['train.jsonl', 'none/*.csv']"], ["dataset.path: no file matches `none/*.csv`"]),
    "no evaluation rows": (["dataset.eval_path=held.jsonl"], ["dataset.eval_path: no file `held.jsonl`"]),
    "a folder without rows": (["dataset.path=empty"], ["dataset.path: folder `empty` has no data file"]),
    "no base": (["model.name_or_path=./base"], ["model.name_or_path: no folder `./base`"]),
    "no base in the package": (["model.name_or_path=lorans:mini"], ["`lorans:mini` is not part of the package"]),
    "no GGUF file": (["model.name_or_path=base.gguf"], ["model.name_or_path: no file `base.gguf`"]),
    "a folder that is no base": (["model.name_or_path=empty"], ["no config.json, so this is not a model"]),
    "no hub id": (["model.name_or_path=a b"], ["model.name_or_path: `a b` is neither a folder nor a hub id"]),
    "no hub id of rows": (["dataset={name='a/b/c'}"], ["dataset.name: `a/b/c` is neither a hub id nor a folder here"]),
    "no reward model": (
        ["grpo={rewards=[{run='none'}]}"],
        ["grpo.rewards.0.run: no such run directory: "],
    ),
    "all at once": (
        ["model.name_or_path=./base", "dataset.path=none.jsonl", "dataset.eval_path=held.jsonl"],
        ["name_or_path: no folder `./base`", "path: no file `none.jsonl`", "eval_path: no file `held.jsonl`"],
    ),
}


@pytest.mark.parametrize("name", NOT_HERE)
def test_what_is_not_here_is_found_without_reading_rows_or_fetching(recipe, tmp_path, hub, name):
    overrides, expected = NOT_HERE[name]
    (tmp_path / "empty").mkdir()
    told = problems("validate", recipe, overrides)
    assert [part in line for part, line in zip(expected, told, strict=True)] == [True] * len(expected)
    done = CliRunner().invoke(app, ["validate", str(recipe), "--elsewhere", *sets(overrides)])
    assert done.exit_code == 0
    assert [line for line in done.stderr.splitlines() if line.startswith("warning: ")] == [
        f"warning: {line}" for line in told
    ]
    assert (
        CliRunner().invoke(app, ["validate", str(recipe), "--elsewhere", "--strict", *sets(overrides)]).exit_code == 2
    )


def test_a_machine_that_cannot_train_warns_of_what_it_lacks(recipe, monkeypatch, hub):
    monkeypatch.setattr("lora_ns.machine.packages.can_train", lambda: False)
    done = CliRunner().invoke(app, ["validate", str(recipe), "--json", *sets(["dataset.path=none.jsonl"])])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["problems"]) == (0, True, [])
    assert [warning["key"] for warning in found["warnings"]] == ["dataset.path"]


@pytest.mark.parametrize("variable", OFFLINE)
@pytest.mark.parametrize(("override", "key"), [(HUB_BASE, "model.name_or_path"), (HUB_ROWS, "dataset.name")])
def test_offline_what_the_cache_does_not_have_is_found(recipe, hub, monkeypatch, variable, override, key):
    assert CliRunner().invoke(app, ["validate", str(recipe), "--set", override]).exit_code == 0
    monkeypatch.setenv(variable, "1")
    if key == "model.name_or_path" and variable == "HF_DATASETS_OFFLINE":  # the base may be fetched
        assert CliRunner().invoke(app, ["validate", str(recipe), "--set", override]).exit_code == 0
        return
    (told,) = problems("validate", recipe, [override])
    assert told.startswith(f"--set: {key}: `owner/")
    assert f"and {variable} is set" in told


def test_offline_what_the_cache_has_is_there(recipe, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commit = "0123456789" * 4
    model = hub / "hub/models--owner--base"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(commit)
    shutil.copytree(ASSETS / "nano", model / "snapshots" / commit)
    (hub / "datasets/owner___rows").mkdir(parents=True)
    overrides = [HUB_BASE, HUB_ROWS]
    assert CliRunner().invoke(app, ["validate", str(recipe), *sets(overrides)]).exit_code == 0
    (model / "snapshots" / commit / "model.safetensors").unlink()
    (told,) = problems("validate", recipe, overrides)
    assert "`owner/base` is not in the hub's cache" in told


def test_a_folder_with_the_name_of_a_dataset_is_read_in_its_place(recipe, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "owner/rows").mkdir(parents=True)
    assert CliRunner().invoke(app, ["validate", str(recipe), "--set", HUB_ROWS]).exit_code == 0


def sets(overrides):
    return [part for one in overrides for part in ("--set", one)]
