"""`lorans sweep` and `lorans find-lr`: what is wrong is told before a library is loaded."""

from pathlib import Path

import pytest
from command_line import lorans
from minimal_recipe import MINIMAL


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(MINIMAL)
    return file


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "no key has more than one value"),
        (["--set", "peft.lora_r=8"], "no key has more than one value"),
        (["--set", "training.learning_rate=log(1,0)"], "no range"),
    ],
)
def test_values_that_cannot_be_swept_end_with_2(recipe: Path, words: list[str], part: str) -> None:
    ended = lorans("sweep", recipe, *words)
    assert ended.returncode == 2
    assert part in ended.stderr


@pytest.mark.parametrize("command", ["sweep", "find-lr"])
def test_a_missing_recipe_ends_with_2(tmp_path: Path, command: str) -> None:
    ended = lorans(command, tmp_path / "none.toml", "--set", "peft.lora_r=8,16")
    assert ended.returncode == 2
    assert "none.toml" in ended.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--set", "peft.lora_rank=8,16"], "lora_rank"),
        (["--set", "peft.lora_r=8,16", "--metric", "bleu"], "--metric"),
        (["--set", "peft.lora_r=8,16", "--set", "dataset.streaming=true"], "stream"),
        (["--set", "peft.lora_r=2,4,8", "--trials", "2", "--sampler", "grid"], "grid of 3"),
    ],
)
def test_a_sweep_that_cannot_work_ends_with_2(recipe: Path, words: list[str], part: str) -> None:
    pytest.importorskip("optuna")
    ended = lorans("sweep", recipe, *words)
    assert ended.returncode == 2
    assert part in ended.stderr


@pytest.mark.parametrize("line", ["streaming = true\n", ""])
def test_a_search_without_rows_to_compare_by_ends_with_2(recipe: Path, line: str) -> None:
    recipe.write_text(MINIMAL.replace("[dataset]\n", f"[dataset]\n{line}"))
    assert lorans("find-lr", recipe).returncode == 2
