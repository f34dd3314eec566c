"""unsloth's keys, one by one: what of the recipe each becomes, or why it becomes nothing."""

import json

import pytest

from lora_ns.formats.base import Columns
from lora_ns.formats.plain import PlainPromptCompletion
from lora_ns.importers.unsloth import UNSLOTH

BASE = {"model": "acme/base", "data.dataset": "acme/chats", "data.format_type": "chatml", "training.output_dir": "out"}


def config(**keys):
    """A file of dotted keys, written with `__` for the dot; None leaves one out."""
    tables = {"data": {}, "training": {}}
    for key, value in {**BASE, **{key.replace("__", "."): value for key, value in keys.items()}}.items():
        owner, _, name = key.rpartition(".")
        if value is not None:
            (tables.setdefault(owner, {}) if owner else tables)[name] = value
    return json.dumps(tables)


MAPPED = [
    ("training__learning_rate", "2e-5", "training.learning_rate", 2e-5),
    ("training__batch_size", 8, "training.global_batch_size", 32),
    ("training__gradient_accumulation_steps", 1, "training.global_batch_size", 2),
    ("training__num_epochs", 2, "training.num_train_epochs", 2),
    ("training__max_steps", 60, "training.max_steps", 60),
    ("training__save_steps", 20, "training.save_steps", 20),
    ("training__max_seq_length", 512, "sft.max_seq_length", 512),
    ("training__optim", "adamw_torch", "training.optim", "adamw_torch"),
    ("training__warmup_ratio", 0.1, "training.warmup_ratio", 0.1),
    ("training__packing", True, "sft.packing", True),
    ("training__random_seed", 7, "training.seed", 7),
    ("training__train_on_completions", False, "sft.train_on", "all"),
    ("training__gradient_checkpointing", "unsloth", "training.gradient_checkpointing", True),
    ("training__gradient_checkpointing", "none", "training.gradient_checkpointing", False),
    ("training__load_in_4bit", True, "quantization.method", "bnb-4bit"),
    ("lora__lora_r", 8, "peft.lora_r", 8),
    ("lora__target_modules", "q_proj, v_proj", "peft.target_modules", ["q_proj", "v_proj"]),
    ("lora__use_rslora", True, "peft.use_rslora", True),
    ("lora__use_dora", True, "peft.use_dora", True),
    ("data__local_dataset", ["a.jsonl"], "dataset.path", "a.jsonl"),
    ("data__format_type", "sharegpt", "dataset.format", "sharegpt"),
    ("data__format_type", "raw", "dataset.format", "text"),
    ("logging__enable_wandb", True, "tracking.report_to", ["wandb"]),
]


@pytest.mark.parametrize(("source", "value", "key", "ours"), MAPPED)
def test_a_key_becomes_one_of_the_recipe(translate, source, value, key, ours):
    translation = translate(config(**{source: value}), "unsloth")
    assert translation.recipe[key] == ours
    end = next(outcome for outcome in translation.outcomes if outcome.key == source.replace("__", "."))
    assert (end.fate, key in end.recipe) == ("mapped", True)


OTHERWISE = [
    ("training__train_on_completions", True, "default"),
    ("training__load_in_4bit", False, "default"),
    ("lora__finetune_mlp_modules", True, "default"),
    ("lora__finetune_vision_layers", True, "unused"),
    ("training__max_steps", 0, "unused"),
    ("training__save_steps", 0, "unused"),
    ("logging__wandb_project", "p", "unused"),
    ("logging__hf_token", "hf_notasecretnotasecret", "unused"),
    ("lora__use_loftq", False, "unused"),
    ("lora__use_loftq", True, "refused"),
    ("lora__finetune_attention_modules", False, "refused"),
    ("training__learning_rate", "${LR}", "refused"),
    ("training__learning_rat", 1, "refused"),
]


@pytest.mark.parametrize(("source", "value", "fate"), OTHERWISE)
def test_a_key_becomes_nothing_and_it_is_said_why(translate, source, value, fate):
    translation = translate(config(**{source: value}), "unsloth")
    end = next(outcome for outcome in translation.outcomes if outcome.key == source.replace("__", "."))
    assert (end.fate, bool(end.said)) == (fate, True)
    assert not translation.is_fatal


@pytest.mark.parametrize(
    "keys", [{"training__training_type": "full"}, {"data__dataset": None}, {"data__format_type": "parquet"}]
)
def test_another_training_is_refused_as_a_whole(translate, keys):
    assert translate(config(**keys), "unsloth").is_fatal


def test_defaults_that_differ_are_written_out(translate):
    found = {one.recipe: one.value for one in translate(config(training__output_dir=None), "unsloth").filled}
    assert found == {
        "training.output_dir": "./outputs",
        "peft.method": "lora",
        "peft.lora_r": 64,
        "peft.lora_alpha": 16,
        "peft.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "quantization.method": "bnb-4bit",
        "sft.train_on": "all",
        "training.global_batch_size": 8,
        "training.optim": "adamw_bnb_8bit",
        "training.lr_scheduler_type": "linear",
        "training.warmup_steps": 5,
        "training.num_train_epochs": 3,
        "training.learning_rate": 2e-4,
        "training.weight_decay": 0.01,
        "training.seed": 3407,
        "sft.max_seq_length": 2048,
        "sft.on_overflow": "truncate",
        "training.group_by_length": False,
    }


@pytest.mark.parametrize(("given", "shown"), [("1 2", "1 2"), ("", ""), (None, "")])
def test_a_row_of_alpaca_has_the_text_that_unsloth_makes(translate, given, shown):
    recipe = translate(config(data__format_type="alpaca"), "unsloth").recipe
    names = ("prompt_template", "fallback_prompt_templates", "completion_template")
    columns = Columns(**{name: recipe[f"dataset.{name}"] for name in names})
    example = PlainPromptCompletion(columns).example({"instruction": "Add.", "input": given, "output": "3"})
    assert example.completion == "3"
    assert example.prompt.endswith(f"### Instruction:\nAdd.\n\n### Input:\n{shown}\n\n### Response:\n")


def test_what_the_rows_are_is_said_where_it_is_assumed(translate):
    translation = translate(config(data__format_type="auto"), "unsloth")
    assert translation.recipe["dataset.format"] == "messages"
    assert any("lorans assumes" in note for note in translation.notes)


def test_options_are_the_keys_of_a_file(translate):
    text = "unsloth train --model m --dataset a/b --format-type raw --lora-r 8 --packing"
    translation = translate(text, name="train.sh")
    assert {outcome.key for outcome in translation.outcomes} == {
        *("command", "model", "data.dataset", "data.format_type", "lora.lora_r", "training.packing")
    }
    assert not translation.refused


def test_no_key_is_in_two_places():
    keys = [key for step in UNSLOTH.steps for key in step.keys]
    assert len(keys) == len(set(keys))
    assert not set(keys) & set(UNSLOTH.rules)
