"""A base and rows by their hub ids, against a stand-in for the hub."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from families import write_data
from hub_stand_in import COMMIT, hub, offline_environment

import lora_ns
from lora_ns.basemodel import ASSETS

RECIPE = """\
task_name = "hub"
task_type = "CAUSAL_LM"
[model]
name_or_path = "owner/nano"
[peft]
method = "lora"
[dataset]
name = "openai/gsm8k"
subset = "main"
eval_split = "test"
format = "messages"
prompt_template = "{question}"
completion_template = "{answer}"
[training]
output_dir = "run"
max_steps = 2
"""
ROOT = str(Path(lora_ns.__file__).parent.parent)


def lorans(folder, *arguments, **environment):
    command = [sys.executable, "-m", "lora_ns", *arguments]
    environment = offline_environment(HF_HOME=str(folder / "home"), PYTHONPATH=ROOT, **environment)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_run_on_what_the_hub_has_is_used_offline_later(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    write_data(tmp_path / "hub/gsm8k", "openai/gsm8k")
    with hub({"models/owner/nano": ASSETS / "nano", "datasets/openai/gsm8k": tmp_path / "hub/gsm8k"}) as endpoint:
        trained = lorans(tmp_path, "train", "recipe.toml", HF_ENDPOINT=endpoint)
    assert trained.returncode == 0, trained.stderr
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["base"]["commit"] == COMMIT
    assert manifest["data"]["train"]["source"] == "openai/gsm8k/main[train]"
    assert manifest["data"]["train"]["rows"] == 24
    used = lorans(tmp_path, "infer", "run", "--input", "What is 1 + 1?", HF_HUB_OFFLINE="1")
    assert used.returncode == 0, used.stderr
    assert used.stdout


@pytest.mark.parametrize("name", ["absent", "gated"])
def test_a_data_set_that_the_hub_refuses_is_told_and_nothing_is_written(tmp_path, name):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("openai/gsm8k", f"owner/{name}"))
    with hub({"models/owner/nano": ASSETS / "nano"}) as endpoint:
        done = lorans(tmp_path, "train", "recipe.toml", HF_ENDPOINT=endpoint)
    told = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert told.startswith(f"error: recipe.toml:8: dataset.name: owner/{name}/main[train] cannot be read: ")
    assert ("gated" in told) == (name == "gated")
    assert not (tmp_path / "run").exists()


def test_a_stream_from_the_hub_is_pinned_to_its_commit(tmp_path):
    text = RECIPE.replace('subset = "main"', 'subset = "main"\nstreaming = true')
    (tmp_path / "recipe.toml").write_text(text)
    write_data(tmp_path / "hub/gsm8k", "openai/gsm8k")
    with hub({"models/owner/nano": ASSETS / "nano", "datasets/openai/gsm8k": tmp_path / "hub/gsm8k"}) as endpoint:
        trained = lorans(tmp_path, "train", "recipe.toml", HF_ENDPOINT=endpoint)
    assert trained.returncode == 0, trained.stderr
    record = json.loads((tmp_path / "run/manifest.json").read_text())["data"]["train"]
    assert (record["source"], record["rows"], record["commit"]) == ("openai/gsm8k/main[train]", 24, COMMIT)
