"""Whole configurations of each tool: every key of them has one end, and what is written is a recipe."""

from pathlib import Path

import pytest

from lora_ns.files.reading import load_toml
from lora_ns.importers.registry import IMPORTERS, importer_for
from lora_ns.importers.source import is_blank, parse_source, read_source
from lora_ns.importers.written import as_toml
from lora_ns.recipe.load import load_recipe
from lora_ns.services.import_ import import_config

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*/*"))
IDS = [f"{path.parent.name}-{path.stem}" for path in SAMPLES]


def test_every_tool_has_samples():
    assert {path.parent.name for path in SAMPLES} == set(IMPORTERS)


@pytest.mark.parametrize("path", SAMPLES, ids=IDS)
def test_a_sample_is_known_by_its_keys(path):
    assert importer_for(read_source(path)).name == path.parent.name


@pytest.mark.parametrize("path", SAMPLES, ids=IDS)
def test_every_leaf_has_exactly_one_end_which_says_something(path):
    imported = import_config(path)
    source = imported.translation.source
    outcomes = imported.translation.outcomes
    assert [outcome.key for outcome in outcomes] == list(source.leaves)
    for outcome in outcomes:
        assert outcome.fate in ("mapped", "default", "unused", "refused")
        assert outcome.said or outcome.recipe, outcome
        assert bool(outcome.remedy) or outcome.fate != "refused", outcome
        assert outcome.said != "lorans does not support this key", f"a step has forgotten {outcome.key}"


@pytest.mark.parametrize("path", SAMPLES, ids=IDS)
def test_what_is_mapped_is_in_the_recipe_and_comes_from_the_source(path):
    translation = import_config(path).translation
    for outcome in translation.outcomes:
        if outcome.fate == "mapped":
            assert outcome.recipe, outcome
            assert set(outcome.recipe) <= set(translation.recipe), outcome
        if is_blank(outcome.value):
            assert outcome.fate in ("unused", "refused")
    filled = {one.recipe for one in translation.filled}
    named = {key for outcome in translation.outcomes for key in outcome.recipe}
    assert set(translation.recipe) <= filled | named | {"task_name", "task_type"}


@pytest.mark.parametrize("path", SAMPLES, ids=IDS)
def test_what_is_written_is_a_recipe(path, tmp_path):
    imported = import_config(path)
    if imported.translation.is_fatal:
        assert imported.text is None
        return
    loaded = load_recipe(tmp_path / "recipe.toml", text=imported.text)
    assert loaded.recipe.peft.method == "lora"
    for refused in imported.translation.refused:
        assert refused.key in imported.text


@pytest.mark.parametrize("path", SAMPLES, ids=IDS)
def test_a_key_that_nobody_knows_is_refused_whatever_is_around_it(path):
    text = path.read_text()
    if path.suffix not in (".yaml", ".yml"):
        pytest.skip("not YAML")
    importer = IMPORTERS[path.parent.name]
    source = parse_source(path, f"{text}\nzzz_unheard_of: 1\n")
    end = importer.translate(source, 1).outcomes[-1]
    assert (end.key, end.fate, end.said) == ("zzz_unheard_of", "refused", f"unknown to {importer.name}")


@pytest.mark.parametrize("path", SAMPLES, ids=IDS)
def test_the_toml_says_what_the_translation_says(path):
    translation = import_config(path).translation
    tables = load_toml(as_toml(translation))
    for key, value in translation.recipe.items():
        found = tables
        for name in key.split("."):
            found = found[name]
        assert found == value
