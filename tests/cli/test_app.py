"""The command line as a whole: exit codes, where messages go, and no traceback for what a user can cause."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from command_line import lorans
from minimal_recipe import MINIMAL

import lora_ns.cli.app
from lora_ns.errors import InterruptedRunError, Problem


def test_a_process_of_its_own_ends_with_the_exit_code():
    command = [sys.executable, "-m", "lora_ns", "validate", "none.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: none.toml")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["init", "--list"], 0),
        (["validate", "none.toml"], 2),
        (["plan", "none.toml"], 2),
        (["train", "none.toml"], 2),
        (["train", "."], 2),
        (["train", ".", "--resume"], 2),
        (["train", "none.toml", "--resume", "--overwrite"], 2),
        (["infer", "nowhere", "--input", "x"], 2),
        (["infer", ".", "--input", "x"], 2),
        (["merge", "nowhere", "--output", "out"], 2),
        (["eval", "nowhere"], 2),
        (["init", "new", "--recipe", "none"], 2),
        (["import", "none.yaml"], 2),
        (["no-such-command"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_the_exit_code_and_no_traceback(arguments, code):
    done = lorans(*arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert bool(done.stderr) == bool(code)


def test_problems_go_to_standard_error_one_a_line(write_recipe):
    path = write_recipe(MINIMAL.replace('"lora"', '"lora"\nlora_alfa = 1') + "sed = 1\n")
    done = lorans("validate", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: {path}:9: peft.lora_alfa: unknown key (did you mean `lora_alpha`?)",
        f"error: {path}:16: training.sed: unknown key (did you mean `seed`?)",
    ]


def test_validate_prints_json(write_recipe):
    done = lorans("validate", write_recipe(MINIMAL + "sed = 1\n"), "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["problems"][0]["remedy"] == "did you mean `seed`?"


def test_the_schema_is_json_and_closed():
    schema = json.loads(lorans("schema").stdout)
    assert schema["additionalProperties"] is False


def test_init_makes_a_folder_once(tmp_path):
    assert lorans("init", tmp_path / "new").returncode == 0
    assert lorans("validate", tmp_path / "new/recipe.toml").returncode == 0
    again = lorans("init", tmp_path / "new")
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_init_names_rows_that_are_there_from_where_the_recipe_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    assert lorans("init", "new", "--data", "rows.jsonl", "--recipe", "template").returncode == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        ".gitignore",
        "README.md",
        "recipe.schema.json",
        "recipe.toml",
    ]
    monkeypatch.chdir("/")
    assert lorans("plan", tmp_path / "new/recipe.toml", "--json").returncode == 0


def test_a_plan_prints_every_value_with_its_origin(write_recipe, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    path = write_recipe(MINIMAL + "global_batch_size = 8\n[sft]\nmax_seq_length = 64\n")
    plan = json.loads(lorans("plan", path, "--json", "--set", "training.seed=1").stdout)
    assert plan["max_steps"]["value"] == 5
    assert {plan[name]["origin"] for name in plan if isinstance(plan[name], dict) and "origin" in plan[name]} == {
        "computed",
        "recipe",
        "default",
    }


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, os.strerror(errno.EMFILE))])
def test_a_machine_with_too_little_is_a_message_wherever_it_is_found_out(monkeypatch, capsys, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(lora_ns.cli.app, "app", fail)
    with pytest.raises(SystemExit) as ended:
        lora_ns.cli.app.main([])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(("error: out of memory (", "error: too many open files ("))


def test_a_stop_by_the_user_is_no_error(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lora_ns.recipe.load.load_recipe", stop)
    done = lorans("plan", "recipe.toml")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


def test_a_run_that_was_stopped_is_no_error(monkeypatch):
    def stop(*_):
        told = Problem("", "stopped after step 1 of 3, which is saved", "`lorans train run --resume` goes on")
        raise InterruptedRunError(signal.SIGTERM, told)

    monkeypatch.setattr("lora_ns.recipe.load.load_recipe", stop)
    done = lorans("plan", "recipe.toml")
    assert done.returncode == 143
    assert done.stderr == "stopped after step 1 of 3, which is saved (`lorans train run --resume` goes on)\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail(**_):
        raise FileNotFoundError(errno.ENOENT, "x")

    monkeypatch.setattr(lora_ns.cli.app, "app", fail)
    with pytest.raises(FileNotFoundError):
        lora_ns.cli.app.main([])
