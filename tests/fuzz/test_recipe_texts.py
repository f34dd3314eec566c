"""Recipes, overrides and accelerate's files, changed at random: a recipe, or located problems."""

import json
from pathlib import Path

import pytest
from campaign import ends_well, fuzz, holds_for, lasts
from hypothesis import strategies as st
from minimal_recipe import MINIMAL
from mutations import HOSTILE_TEXT, changed, values

from lora_ns.errors import RecipeError
from lora_ns.files.reading import decode
from lora_ns.recipe.accelerate_file import parse_accelerate
from lora_ns.recipe.keys import known_keys
from lora_ns.recipe.load import load_recipe

RECIPES = [MINIMAL.encode(), *(path.read_bytes() for path in sorted(Path("recipes").rglob("*.toml")))]
YAML = [path.read_bytes() for path in sorted(Path("recipes").rglob("*.yaml"))]
KEYS = sorted(known_keys())

recipes = changed(RECIPES) | st.binary(max_size=200)
overrides = st.lists(
    st.builds(
        lambda key, value: f"{key}={value}",
        st.sampled_from(KEYS) | st.text(max_size=9) | st.builds(lambda key: f"{key}.0", st.sampled_from(KEYS)),
        st.builds(lambda value: json.dumps(value, ensure_ascii=False), values)
        | st.text(max_size=9)
        | st.sampled_from(HOSTILE_TEXT),
    ),
    min_size=1,
    max_size=3,
)


def read_recipe(content: bytes) -> None:
    ends_well(lambda: load_recipe(Path("recipe.toml"), (), decode(content, "recipe.toml", RecipeError)))


def read_overrides(given: list[str]) -> None:
    ends_well(lambda: load_recipe(Path("recipe.toml"), given, MINIMAL))


def read_yaml(content: bytes) -> None:
    ends_well(lambda: parse_accelerate(Path("a.yaml"), decode(content, "a.yaml", RecipeError), Path()))


KINDS = {
    "recipes": (recipes, read_recipe),
    "overrides": (overrides, read_overrides),
    "yaml": (changed(YAML) | st.binary(max_size=100), read_yaml),
}


@pytest.mark.parametrize(("strategy", "check"), KINDS.values(), ids=KINDS)
def test_a_sample(strategy, check):
    holds_for(strategy, check)


@fuzz
@pytest.mark.parametrize(("strategy", "check"), KINDS.values(), ids=KINDS)
def test_for_a_while(strategy, check):
    lasts(strategy, check)
