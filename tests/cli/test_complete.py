"""What the tab key offers, asked the way that the shells ask."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lora_ns
from lora_ns.cli import complete
from lora_ns.cli.app import app
from lora_ns.errors import RecipeError
from lora_ns.recipe.keys import UNIONS, choices, known_keys, tag_of
from lora_ns.recipe.load import load_recipe

PROGRAM = "import sys; sys.argv[0] = 'lorans'; from lora_ns.cli.app import main; main()"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "outputs/run").mkdir(parents=True)
    (tmp_path / "outputs/run/manifest.json").write_text("{}")
    (tmp_path / "recipes/deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("recipe.toml", "recipes/deep/other.toml", ".hidden/secret.toml", "rows.jsonl"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment(folder, **more):
    path = os.pathsep.join([str(Path(lora_ns.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "HOME": str(folder), "PYTHONPATH": path, **more}


def asked(shell, line):
    words = line.split(" ")
    more = {
        "bash": {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    done = CliRunner().invoke(app, env={"_LORANS_COMPLETE": f"complete_{shell}", **more}, prog_name="lorans")
    assert done.exit_code == 0
    return done.stdout


LINES = {
    "lorans tr": "train",
    "lorans plan re": "recipe.toml",
    "lorans plan recipes/": "recipes/deep/other.toml",
    "lorans infer ": "outputs/run",
    "lorans train --resume o": "outputs/run",
    "lorans train recipe.toml --set training.se": "training.seed=",
    "lorans train recipe.toml --set peft.method": "peft.method=prefix-tuning",
    "lorans init new --recipe gs": "gsm8k",
    "lorans init new --method ia": "ia3",
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_are_offered_what_fits(folder, shell, line):
    offered = asked(shell, line)
    assert LINES[line] in offered
    assert "secret" not in offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_once_it_is_installed(folder):
    """`--install-completion` writes what bash loads, and the function in it finds the recipe."""
    (folder / "lorans").write_text(f"#!{sys.executable}\n{PROGRAM}\n")
    (folder / "lorans").chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", "lorans --install-completion; true"], env=environment(folder, PATH=path), check=True)
    typed = "COMP_WORDS=(lorans validate rec); COMP_CWORD=2; _lorans_completion lorans"
    ask = f". {folder}/.bashrc; {typed}; echo ${{COMPREPLY[0]}}"
    done = subprocess.run(
        ["bash", "--norc", "-c", ask], env=environment(folder, PATH=path), capture_output=True, text=True, check=True
    )
    assert done.stdout == "recipe.toml\n"


def test_paths_are_offered_as_they_were_typed(folder):
    assert complete.recipe_files("") == ["recipe.toml", "recipes/deep/other.toml"]
    assert complete.recipe_files(f"{folder}/recipes/") == [f"{folder}/recipes/deep/other.toml"]
    assert complete.recipe_files("nowhere/x") == []
    assert complete.recipes_and_runs("") == ["recipe.toml", "recipes/deep/other.toml", "outputs/run"]


def test_home_stays_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert complete.recipe_files("~/rec") == ["~/recipe.toml", "~/recipes/deep/other.toml"]


def is_refused(path, override, *more):
    """Whether the value itself is what is wrong; it may well need other keys beside it."""
    try:
        load_recipe(path, [override, *more])
    except RecipeError as error:
        return any(f"{override.partition('=')[0]}: got" in problem.what for problem in error.problems)
    return False


@pytest.mark.parametrize("key", [key for key in known_keys() if choices(key)])
def test_every_value_that_is_offered_is_taken(key, write_recipe):
    table = key.partition(".")[0]
    tag = tag_of(table)
    methods = [[f"{table}.{tag}={name}"] for name in UNIONS.get(table, ()) if not key.endswith(f".{tag}")] or [[]]
    for value in choices(key):
        assert not all(is_refused(write_recipe(), f"{key}={value}", *method) for method in methods), value
