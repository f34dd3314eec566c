"""ms-swift's options, one by one: what of the recipe each becomes, or why it becomes nothing."""

import pytest

from lora_ns.importers.swift import SWIFT

BASE = {"model": "acme/qwen-chat", "use_hf": "true", "dataset": "rows.jsonl", "max_length": "256", "output_dir": "out"}


def script(command="swift sft", before="", **options):
    given = {**BASE, **options}
    return f"{before}{command} " + " ".join(f"--{key} {value}" for key, value in given.items() if value is not None)


MAPPED = [
    ("learning_rate", "2e-4", "training.learning_rate", 2e-4),
    ("lora_rank", "64", "peft.lora_r", 64),
    ("lora_dropout", "0.2", "peft.lora_dropout", 0.2),
    ("target_modules", "q_proj v_proj", "peft.target_modules", ["q_proj", "v_proj"]),
    ("train_type", "lora", "peft.method", "lora"),
    ("lorap_lr_ratio", "8", "peft.loraplus_lr_ratio", 8),
    ("init_weights", "pissa", "peft.init_lora_weights", "pissa"),
    ("quant_bits", "4", "quantization.method", "bnb-4bit"),
    ("quant_bits", "8", "quantization.method", "bnb-8bit"),
    ("torch_dtype", "bfloat16", "model.dtype", "bfloat16"),
    ("new_special_tokens", "'<a>' '<b>'", "model.add_tokens", ["<a>", "<b>"]),
    ("loss_scale", "last_round", "sft.train_on", "last"),
    ("loss_scale", "all", "sft.train_on", "all"),
    ("enable_dft_loss", "true", "sft.loss_type", "dft"),
    ("truncation_strategy", "right", "sft.on_overflow", "truncate"),
    ("truncation_strategy", "delete", "sft.on_overflow", "drop"),
    ("packing", "true", "sft.packing", True),
    ("weight_decay", "0.05", "training.weight_decay", 0.05),
    ("warmup_ratio", "0.05", "training.warmup_ratio", 0.05),
    ("num_train_epochs", "2", "training.num_train_epochs", 2),
    ("max_steps", "30", "training.max_steps", 30),
    ("split_dataset_ratio", "0.01", "dataset.eval_fraction", 0.01),
    ("val_dataset", "held.jsonl", "dataset.eval_path", "held.jsonl"),
    ("columns", """'{"ask": "query", "reply": "response"}'""", "dataset.format", "question-answer"),
    ("deepspeed", "zero3", "distributed.zero_stage", 3),
    ("deepspeed", "own.json", "distributed.deepspeed_config", "own.json"),
    ("template", "chatml", "sft.chat_template", "chatml"),
    ("report_to", "wandb", "tracking.report_to", ["wandb"]),
    ("streaming", "true", "dataset.streaming", True),
]


@pytest.mark.parametrize(("option", "value", "key", "ours"), MAPPED)
def test_an_option_becomes_a_key_of_the_recipe(translate, option, value, key, ours):
    translation = translate(script(**{option: value}), name="train.sh")
    assert translation.recipe[key] == ours
    assert type(translation.recipe[key]) is type(ours)
    found = [outcome for outcome in translation.outcomes if f"{outcome.key}.".startswith(f"{option}.")]
    assert {outcome.fate for outcome in found} == {"mapped"}


OTHERWISE = [
    ("target_modules", "all-linear", "default"),
    ("loss_scale", "default", "default"),
    ("template", "qwen", "default"),
    ("tuner_backend", "unsloth", "default"),
    ("attn_impl", "flash_attn", "unused"),
    ("padding_free", "true", "unused"),
    ("dataset_num_proc", "4", "unused"),
    ("freeze_vit", "true", "unused"),
    ("use_galore", "false", "unused"),
    ("eval_steps", "20", "unused"),
    ("warmup_steps", "0 --warmup_ratio 0.1", "unused"),
    ("warmup_ratio", "0.1 --warmup_steps 20", "refused"),
    ("loss_scale", "hermes", "refused"),
    ("template", "llama3", "refused"),
    ("truncation_strategy", "left", "refused"),
    ("system", "'Be brief.'", "refused"),
    ("model_author", "me", "refused"),
    ("target_regex", "'.*proj'", "refused"),
    ("target_modules", "all-embedding", "refused"),
    ("quant_method", "hqq --quant_bits 4", "refused"),
    ("adapters", "run/checkpoint-9", "refused"),
    ("sequence_parallel_size", "2", "refused"),
    ("learning_rate", "$LR", "refused"),
    ("learning_rate", "$(expr 1 / 2)", "refused"),
    ("report_to", "clearml", "refused"),
    ("lora_rnak", "8", "refused"),
]


@pytest.mark.parametrize(("option", "value", "fate"), OTHERWISE)
def test_an_option_becomes_nothing_and_it_is_said_why(translate, option, value, fate):
    translation = translate(script(**{option: value}), name="train.sh")
    end = next(outcome for outcome in translation.outcomes if outcome.key == option)
    assert (end.fate, bool(end.said)) == (fate, True)
    assert not translation.is_fatal


FATAL = [
    {"command": "swift rlhf"},
    {"command": "swift rlhf", "beta": "0.1", "reward_funcs": "accuracy", "sleep_level": "1"},
    {"command": "swift sft", "rlhf_type": "dpo"},
    {"command": "swift sft", "tuner_type": "full"},
    {"command": "swift sft", "tuner_type": "adalora"},
    {"command": "swift sft", "task_type": "seq_cls"},
    {"command": "swift sft", "dataset": None},
    {"command": "swift sft", "dataset": "swift/self-cognition"},
]


@pytest.mark.parametrize("options", FATAL)
def test_another_training_is_refused_as_a_whole(translate, options):
    translation = translate(script(**options), name="train.sh")
    assert translation.is_fatal
    assert not [outcome for outcome in translation.outcomes if "unknown to" in outcome.said]


def test_defaults_that_differ_are_written_out(translate):
    filled = {one.recipe: one.value for one in translate(script(output_dir=None), name="train.sh").filled}
    assert filled == {
        "training.output_dir": "output/qwen-chat",
        "peft.method": "lora",
        "peft.lora_r": 8,
        "peft.lora_alpha": 32,
        "peft.lora_dropout": 0.05,
        "sft.on_overflow": "drop",
        "training.group_by_length": False,
        "training.global_batch_size": 16,
        "training.warmup_ratio": 0.0,
        "training.num_train_epochs": 3,
        "training.learning_rate": 1e-4,
        "training.weight_decay": 0.1,
        "training.adam_beta2": 0.95,
        "tracking.report_to": ["tensorboard"],
    }


DATA = [
    ("acme/rows", {"name": "acme/rows"}),
    ("HF::acme/rows:en", {"name": "acme/rows", "subset": "en"}),
    ("'acme/rows#500'", {"name": "acme/rows", "max_samples": 500}),
    ("'rows.jsonl#20'", {"path": "rows.jsonl", "max_samples": 20}),
]


@pytest.mark.parametrize(("named", "keys"), DATA)
def test_a_data_set_is_what_its_name_says(translate, named, keys):
    recipe = translate(script(dataset=named), name="train.sh").recipe
    assert {key.removeprefix("dataset."): value for key, value in recipe.items() if key.startswith("dataset.")} == keys
    both = translate(script(dataset=f"{named} other.jsonl", interleave_prob="0.3 0.7"), name="train.sh").recipe
    assert both["dataset.sources"] == [{**keys, "weight": 0.3}, {"path": "other.jsonl", "weight": 0.7}]


def test_pretraining_learns_all_of_a_text(translate):
    recipe = translate(script("swift pt"), name="train.sh").recipe
    assert (recipe["dataset.format"], recipe["sft.train_on"]) == ("text", "all")


def test_the_accumulation_that_is_absent_makes_a_batch_of_sixteen(translate):
    text = script(before="NPROC_PER_NODE=4 ", per_device_train_batch_size="2")
    assert translate(text, name="train.sh", gpus=4).recipe["training.global_batch_size"] == 16


def test_a_factor_of_a_batch_that_cannot_be_read_takes_the_other_with_it(translate):
    text = script(per_device_train_batch_size="2", gradient_accumulation_steps="$STEPS")
    ends = {outcome.key: outcome.fate for outcome in translate(text, name="train.sh").outcomes}
    assert (ends["per_device_train_batch_size"], ends["gradient_accumulation_steps"]) == ("refused", "refused")


def test_no_key_is_in_two_places():
    keys = [key for step in SWIFT.steps for key in step.keys]
    assert len(keys) == len(set(keys))
    assert not set(keys) & set(SWIFT.rules)
