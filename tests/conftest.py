"""What all tests share: no network, no changed environment, recipes in a folder of their own."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from minimal_recipe import MINIMAL

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str = MINIMAL) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
