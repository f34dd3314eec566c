"""What all tests share: no network, no changed environment, recipes in a folder of their own."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

MINIMAL = """\
task_name = "task"
task_type = "CAUSAL_LM"

[model]
name_or_path = "lorans:nano"

[peft]
method = "lora"

[dataset]
path = "train.jsonl"

[training]
output_dir = "run"
"""


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str = MINIMAL) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
