"""A base and rows by their hub ids, against a stand-in for the hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import hub_stand_in
from families import write_data
from hub_stand_in import COMMIT, hub, offline_environment

import lora_ns
from lora_ns.model.files import ASSETS

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
RECIPES = {
    "run": RECIPE,
    "stream": RECIPE.replace('subset = "main"', 'subset = "main"\nstreaming = true'),
    **{name: RECIPE.replace("openai/gsm8k", f"owner/{name}") for name in ("absent", "gated")},
}
TRAIN_ALL = """
import json, sys
from command_line import lorans
trained = {name: lorans("train", f"{name}.toml") for name in sys.argv[1:]}
print(json.dumps({name: [done.returncode, done.stderr] for name, done in trained.items()}))
"""


def python(folder, *arguments, **environment):
    folders = [Path(lora_ns.__file__).parent.parent, Path(hub_stand_in.__file__).parent]
    path = os.pathsep.join(map(str, folders))
    environment = offline_environment(HF_HOME=str(folder / "home"), PYTHONPATH=path, **environment)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of all runs, and how each ended, with the exit code and what it told; one process trains them all."""
    folder = tmp_path_factory.mktemp("hub")
    for name, text in RECIPES.items():
        (folder / f"{name}.toml").write_text(text.replace('"run"', f'"{name}"'))
    write_data(folder / "hub/gsm8k", "openai/gsm8k")
    with hub({"models/owner/nano": ASSETS / "nano", "datasets/openai/gsm8k": folder / "hub/gsm8k"}) as endpoint:
        done = python(folder, "-c", TRAIN_ALL, *RECIPES, HF_ENDPOINT=endpoint)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_a_run_on_what_the_hub_has_is_used_offline_later(trained):
    folder, ended = trained
    assert ended["run"][0] == 0, ended["run"]
    manifest = json.loads((folder / "run/manifest.json").read_text())
    assert manifest["base"]["commit"] == COMMIT
    assert manifest["data"]["train"]["source"] == "openai/gsm8k/main[train]"
    assert manifest["data"]["train"]["rows"] == 24
    used = python(folder, "-m", "lora_ns", "infer", "run", "--input", "What is 1 + 1?", HF_HUB_OFFLINE="1")
    assert used.returncode == 0, used.stderr
    assert used.stdout


def test_what_was_fetched_is_validated_and_planned_offline_without_the_hubs_libraries(trained):
    folder, _ = trained
    checked = python(folder, "-m", "lora_ns", "validate", "run.toml", "absent.toml", "--json", HF_HUB_OFFLINE="1")
    found = json.loads(checked.stdout)["recipes"]
    assert (checked.returncode, found["run.toml"]) == (2, {"ok": True, "problems": []})
    assert [problem["key"] for problem in found["absent.toml"]["problems"]] == ["dataset.name"]
    planned = json.loads(python(folder, "-m", "lora_ns", "plan", "run.toml", "--json", HF_HUB_OFFLINE="1").stdout)
    manifest = json.loads((folder / "run/manifest.json").read_text())
    for key in ("train_rows", "eval_rows", "steps_per_epoch", "base_parameters"):
        assert planned[key]["value"] == manifest["plan"][key]["value"]


@pytest.mark.parametrize("name", ["absent", "gated"])
def test_a_data_set_that_the_hub_refuses_is_told_and_nothing_is_written(trained, name):
    folder, ended = trained
    code, said = ended[name]
    told = said.splitlines()[-1]
    assert code == 2
    assert told.startswith(f"error: {name}.toml:8: dataset.name: owner/{name}/main[train] cannot be read: ")
    assert ("gated" in told.partition("cannot be read")[2]) == (name == "gated")
    assert not (folder / name).exists()


def test_a_stream_from_the_hub_is_pinned_to_its_commit(trained):
    folder, ended = trained
    assert ended["stream"][0] == 0, ended["stream"]
    record = json.loads((folder / "stream/manifest.json").read_text())["data"]["train"]
    assert (record["source"], record["rows"], record["commit"]) == ("openai/gsm8k/main[train]", 24, COMMIT)
