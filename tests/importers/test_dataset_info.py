"""A `dataset_info.json` by itself: each data set as a table, and the training is asked for."""

import json

from lora_ns.files.reading import load_toml


def listed(translate, info):
    return translate(json.dumps(info), name="dataset_info.json")


def test_it_is_known_by_its_tables_and_asks_for_the_training(translate):
    translation = listed(translate, {"model": {"file_name": "x.json"}, "template": {"hf_hub_url": "a/b"}})
    assert translation.tool == "dataset_info"
    assert "import the YAML of the training run" in translation.problems[0].remedy


def test_each_data_set_is_shown_as_keys_of_a_recipe(translate):
    info = {
        "one.two": {"file_name": "x.json", "columns": {"prompt": "q", "response": "a"}},
        "texts": {"hf_hub_url": "a/b", "split": "test", "columns": {"prompt": "body"}},
    }
    first, second = listed(translate, info).notes
    name, _, keys = first.partition(" as `[dataset]`: ")
    assert name == "`one.two`"
    assert load_toml(f"dataset = {{ {keys} }}")["dataset"] == {
        "path": "x.json",
        "format": "question-answer",
        "columns": {"question": "q", "answer": "a"},
        "ignore_columns": ["system", "history", "tools", "input"],
    }
    assert 'train_split = "test", format = "text", columns = { text = "body" }' in second


def test_what_cannot_be_had_is_refused_and_the_others_are_shown(translate):
    info = {"lost": {"ms_hub_url": "a/b"}, "kept": {"file_name": "x.json", "file_nmae": "y"}}
    translation = listed(translate, info)
    assert {outcome.key: outcome.fate for outcome in translation.outcomes} == {
        "lost.ms_hub_url": "refused",
        "kept.file_name": "mapped",
        "kept.file_nmae": "unused",
    }
    assert len(translation.notes) == 1
