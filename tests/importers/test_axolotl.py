"""axolotl's keys, one by one: what of the recipe each becomes, or why it becomes nothing."""

import pytest
from import_accounts import check_mapped, ends, without

from lora_ns.importers.axolotl import AXOLOTL
from lora_ns.importers.axolotl_prompts import PROMPTS, templates_of

BASE = """\
base_model: some/base
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
datasets:
  - path: rows.jsonl
    type: {type}
micro_batch_size: 2
sequence_len: 256
num_epochs: 1
learning_rate: 1e-4
output_dir: out
"""
PLAIN = BASE.format(type="completion")
CHAT = BASE.format(type="chat_template")


MAPPED = [
    ("learning_rate: 2e-4", "training.learning_rate", 2e-4),
    ('learning_rate: "3e-5"', "training.learning_rate", 3e-5),
    ("lora_r: 64", "peft.lora_r", 64),
    ("lora_alpha: 7", "peft.lora_alpha", 7),
    ("lora_dropout: 0.1", "peft.lora_dropout", 0.1),
    ("num_epochs: 3", "training.num_train_epochs", 3),
    ("max_steps: 12", "training.max_steps", 12),
    ("sequence_len: '2048'", "sft.max_seq_length", 2048),
    ("sample_packing: true", "sft.packing", True),
    ("optimizer: adamw_bnb_8bit", "training.optim", "adamw_bnb_8bit"),
    ("lr_scheduler: linear", "training.lr_scheduler_type", "linear"),
    ("warmup_steps: 20", "training.warmup_steps", 20),
    ("warmup_steps: 1", "training.warmup_steps", 2),
    ("warmup_ratio: 0.1", "training.warmup_ratio", 0.1),
    ("warmup_steps: 0\nwarmup_ratio: 0.1", "training.warmup_steps", 0),
    ("warmup_steps: 20\nwarmup_ratio: 0", "training.warmup_steps", 20),
    ("weight_decay: 0.01", "training.weight_decay", 0.01),
    ("max_grad_norm: 0.3", "training.max_grad_norm", 0.3),
    ("adam_beta2: 0.95", "training.adam_beta2", 0.95),
    ("adam_epsilon: 1e-6", "training.extra.adam_epsilon", 1e-6),
    ("seed: 7", "training.seed", 7),
    ("logging_steps: 3", "training.logging_steps", 3),
    ("save_steps: 30", "training.save_steps", 30),
    ("saves_per_epoch: 4\nmax_steps: 90", "training.save_steps", 23),
    ("evals_per_epoch: 2\nmax_steps: 90\nval_set_size: 0.1", "training.eval_steps", 45),
    ("save_total_limit: 5", "training.save_total_limit", 5),
    ("early_stopping_patience: 3", "training.early_stopping_patience", 3),
    ("load_best_model_at_end: true", "training.load_best_model_at_end", True),
    ("metric_for_best_model: eval_loss", "training.metric_for_best_model", "eval_loss"),
    ("gradient_checkpointing: true", "training.gradient_checkpointing", True),
    ("gradient_checkpointing: unsloth", "training.gradient_checkpointing", True),
    ("group_by_length: false", "training.group_by_length", False),
    ("bf16: true", "model.dtype", "bfloat16"),
    ("fp16: true", "model.dtype", "float16"),
    ("bf16: false", "model.dtype", "float32"),
    ("load_in_4bit: true", "quantization.method", "bnb-4bit"),
    ("load_in_8bit: true", "quantization.method", "bnb-8bit"),
    ("adapter: qlora", "quantization.method", "bnb-4bit"),
    ("model_revision: v2", "model.revision", "v2"),
    ("tokens: [a, b]", "model.add_tokens", ["a", "b"]),
    ("special_tokens: {additional_special_tokens: [c]}", "model.add_tokens", ["c"]),
    ("peft_use_dora: true", "peft.use_dora", True),
    ("peft_use_rslora: true", "peft.use_rslora", True),
    ("peft_layers_to_transform: [0, 1]", "peft.layers_to_transform", [0, 1]),
    ("lora_modules_to_save: [norm]", "peft.modules_to_save", ["norm"]),
    ("lora_rank_pattern: {down_proj: 4}", "peft.rank_pattern", {"down_proj": 4}),
    ("loraplus_lr_ratio: 16", "peft.loraplus_lr_ratio", 16),
    ("peft_init_lora_weights: pissa", "peft.init_lora_weights", "pissa"),
    ("neftune_noise_alpha: 5", "sft.neftune_noise_alpha", 5),
    ("noisy_embedding_alpha: 5", "sft.neftune_noise_alpha", 5),
    ("train_on_inputs: true", "sft.train_on", "all"),
    ("excess_length_strategy: truncate", "sft.on_overflow", "truncate"),
    ("val_set_size: 0.05", "dataset.eval_fraction", 0.05),
    ("eval_batch_size: 4", "training.per_device_eval_batch_size", 4),
    ("wandb_project: p", "tracking.report_to", ["wandb"]),
    ("wandb_project: p", "tracking.project", "p"),
    ("use_tensorboard: true", "tracking.report_to", ["tensorboard"]),
    ("swanlab_project: p\nuse_swanlab: true", "tracking.project", "p"),
    ("use_comet: true", "tracking.report_to", ["comet_ml"]),
    ("wandb_entity: e\nwandb_project: p", "tracking.wandb_entity", "e"),
    ("mlflow_tracking_uri: http://a\nuse_mlflow: true", "tracking.mlflow_tracking_uri", "http://a"),
    ("deepspeed: deepspeed_configs/zero2.json", "distributed.zero_stage", 2),
    ("deepspeed: zero3_bf16_cpuoffload_params.json", "distributed.offload_param", "cpu"),
    ("deepspeed: own.json", "distributed.deepspeed_config", "own.json"),
    ("fsdp: [full_shard]", "distributed.strategy", "fsdp"),
    ("fsdp_config: {fsdp_offload_params: true}", "distributed.cpu_offload", True),
    ("test_datasets: [{path: held.jsonl, type: completion}]", "dataset.eval_path", "held.jsonl"),
]


@pytest.mark.parametrize(("text", "key", "value"), MAPPED, ids=[f"{text} {key}" for text, key, _ in MAPPED])
def test_a_key_becomes_one_of_the_recipe(translate, text, key, value):
    source = text.partition(":")[0]
    translation = translate(f"{without(PLAIN, source)}{text}\n", "axolotl")
    check_mapped(translation, source, key, value)


OTHERWISE = [
    ("bf16: auto", "default"),
    ("lora_dropout: 0", "default"),
    ("optimizer: adamw_torch_fused", "default"),
    ("optimizer: adamw_apex_fused", "default"),
    ("lr_scheduler: cosine", "default"),
    ("train_on_inputs: false", "default"),
    ("val_set_size: 0.0", "default"),
    ("seed: 42", "default"),
    ("shuffle_merged_datasets: true", "default"),
    ("tf32: true", "unused"),
    ("flash_attention: true", "unused"),
    ("strict: false", "unused"),
    ("pad_to_sequence_len: true", "unused"),
    ("dataset_prepared_path: x", "unused"),
    ("hub_model_id: a/b", "unused"),
    ("evals_per_epoch: 4", "unused"),
    ("saves_per_epoch: 4", "unused"),
    ("saves_per_epoch: 0", "unused"),
    ("saves_per_epoch: 4\nsave_steps: 10", "unused"),
    ("saves_per_epoch: 4\nmax_steps: 9\nnum_epochs: 0", "unused"),
    ("saves_per_epoch: 1", "default"),
    ("saves_per_epoch: often", "refused"),
    ("early_stopping_patience: false", "unused"),
    ("warmup_ratio: 0.1\nwarmup_steps: 0", "unused"),
    ("warmup_ratio: 0.1\nwarmup_steps: 20", "refused"),
    ("wandb_entity: e", "unused"),
    ("wandb_name: n", "unused"),
    ("chat_template: chatml", "unused"),
    ("special_tokens: {pad_token: x}", "unused"),
    ("plugins: [axolotl.integrations.liger.LigerPlugin]", "unused"),
    ("lora_fan_in_fan_out:", "unused"),
    ("eval_table_size: 5", "unused"),
    ("rl_beta: 0.1", "unused"),
    ("lora_model_dir: a", "refused"),
    ("lr_scheduler: rex", "refused"),
    ("val_set_size: 200", "refused"),
    ("special_tokens: {eos_token: x}", "refused"),
    ("special_tokens: {strange_token: x}", "refused"),
    ("plugins: [some.Plugin]", "refused"),
    ("shuffle_merged_datasets: false", "refused"),
    ("model_config: {rope: 1}", "refused"),
    ("s2_attention: true", "refused"),
    ("relora_steps: 5", "refused"),
    ("lora_droput: 0.1", "refused"),
    ("lora_r: many", "refused"),
    ("learning_rate: ${LR}", "refused"),
    ("trust_remote_code: maybe", "refused"),
]


@pytest.mark.parametrize(("text", "fate"), OTHERWISE, ids=[text for text, _ in OTHERWISE])
def test_a_key_becomes_nothing_and_it_is_said_why(translate, text, fate):
    source = text.partition(":")[0]
    translation = translate(f"{without(PLAIN, source)}{text}\n", "axolotl")
    found = [outcome for outcome in translation.outcomes if f"{outcome.key}.".startswith(f"{source}.")]
    assert [outcome.fate for outcome in found] == [fate] * len(found), found
    assert all(outcome.said for outcome in found)
    assert not translation.is_fatal


PAIRS = BASE.format(type="chat_template.default") + "rl: dpo\n"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("rl: dpo", "dpo.loss_type", ["sigmoid"]),
        ("rl: ipo", "dpo.loss_type", ["ipo"]),
        ("dpo_loss_type: [sigmoid, sft]", "dpo.loss_type", ["sigmoid", "sft"]),
        ("dpo_loss_type: [sigmoid, sft]\ndpo_loss_weights: [1, 0.5]", "dpo.loss_weights", [1.0, 0.5]),
        ("rl_beta: 0.3", "dpo.beta", 0.3),
        ("dpo_beta: 0.3", "dpo.beta", 0.3),
        ("dpo_label_smoothing: 0.1", "dpo.label_smoothing", 0.1),
        ("dpo_use_weighting: true", "dpo.use_weighting", True),
        ("sequence_len: 512", "dpo.max_seq_length", 512),
        ("chat_template: chatml", "dpo.chat_template", "chatml"),
    ],
)
def test_a_key_of_preference_training_becomes_one_of_its_table(translate, text, key, value):
    names = [line.partition(":")[0] for line in text.splitlines()]
    translation = translate(f"{without(PAIRS, *names)}{text}\n{'' if 'rl' in names else 'rl: dpo'}\n", "axolotl")
    assert translation.recipe[key] == value
    assert ends(translation, key="rl").fate == "mapped"
    assert not translation.is_fatal
    assert not [name for name in translation.recipe if name.startswith("sft.")]


@pytest.mark.parametrize(
    ("text", "fate"),
    [
        ("lora_dropout: 0.1", "unused"),
        ("sample_packing: true", "unused"),
        ("train_on_inputs: true", "unused"),
        ("precompute_ref_log_probs: true", "unused"),
        ("rpo_alpha: 1.0", "refused"),
        ("max_prompt_len: 256", "refused"),
    ],
)
def test_a_key_without_meaning_for_preferences_is_left_out(translate, text, fate):
    assert ends(translate(f"{PAIRS}{text}\n", "axolotl"), text.partition(":")[0]).fate == fate


PAIR_ROWS = [
    ("{path: a/b, type: chat_template.default}", {"format": "preference"}, None),
    ("{path: a/b, type: chat_template.argilla_chat}", {"format": "preference"}, None),
    (
        "{path: a/b, type: chat_template.default, field_messages: turns, field_chosen: good, field_rejected: bad}",
        {"format": "preference", "columns": {"messages": "turns", "chosen": "good", "rejected": "bad"}},
        None,
    ),
    ("{path: a/b, type: chatml.intel}", {"format": "preference"}, "chatml"),
    ("{path: a/b, type: chatml.argilla}", {"format": "preference"}, "chatml"),
    ("{path: a/b, type: llama3.ultra}", {"format": "preference"}, "llama-3"),
    ("{path: a/b, type: llama3.icr}", {"format": "preference"}, "llama-3"),
]
ONE_DATASET = "datasets:\n  - path: rows.jsonl\n    type: chat_template.default\n"


@pytest.mark.parametrize(("entry", "keys", "template"), PAIR_ROWS, ids=[row[0] for row in PAIR_ROWS])
def test_rows_of_preferences_are_read_with_the_template_of_their_type(translate, entry, keys, template):
    translation = translate(PAIRS.replace(ONE_DATASET, f"datasets: [{entry}]\n"), "axolotl")
    found = {key.removeprefix("dataset."): value for key, value in translation.recipe.items() if "dataset." in key}
    assert found == {"name": "a/b", **keys}
    assert translation.recipe.get("dpo.chat_template") == template
    assert not translation.refused


@pytest.mark.parametrize("kind", ["alpaca", "zephyr.nectar", "chatml.unheard", "{field_prompt: a}"])
def test_other_rows_of_preferences_are_refused(translate, kind):
    text = PAIRS.replace("type: chat_template.default", f"type: {kind}")
    assert translate(text, "axolotl").is_fatal


FATAL = [
    "rl: kto",
    "rl: grpo",
    "reward_model: true",
    "adapter: llama-adapter",
    "adapter:",
    "reinit_weights: true",
    "processor_type: AutoProcessor",
    "model_type: AutoModelForSequenceClassification",
    "pretraining_dataset: [{path: a}]",
    "datasets: [{path: a/b, type: input_output}]",
    "datasets: [{path: a/b, type: pygmalion}]",
    "datasets: [{path: a/b}]",
    "datasets: [{type: alpaca}]",
    "datasets: rows.jsonl",
    "datasets:",
]


@pytest.mark.parametrize("text", FATAL)
def test_another_training_is_refused_as_a_whole(translate, text):
    source = text.partition(":")[0]
    kept = (
        PLAIN.replace("datasets:\n  - path: rows.jsonl\n    type: completion\n", "") if source == "datasets" else PLAIN
    )
    assert translate(f"{without(kept, source)}{text}\n", "axolotl").is_fatal


@pytest.mark.parametrize(
    ("gpus", "rows", "accumulation", "batch"), [(1, 2, None, 2), (4, 2, None, 8), (4, 2, 8, 64), (3, 1, 5, 15)]
)
def test_batches_per_device_become_the_global_one(translate, gpus, rows, accumulation, batch):
    text = without(PLAIN, "micro_batch_size") + f"micro_batch_size: {rows}\n"
    text += f"gradient_accumulation_steps: {accumulation}\n" if accumulation else ""
    translation = translate(text, "axolotl", gpus)
    assert translation.recipe["training.global_batch_size"] == batch
    assert "training.gradient_accumulation_steps" not in translation.recipe


def test_defaults_that_differ_are_written_out(translate):
    least = "base_model: b\nadapter: lora\nlora_r: 8\nlora_alpha: 8\nlora_target_linear: true\nlearning_rate: 1e-4\n"
    translation = translate(f"{least}datasets: [{{path: a/b, type: alpaca}}]\n", "axolotl")
    filled = {one.recipe: one.value for one in translation.filled}
    assert filled == {
        "training.output_dir": "./model-out",
        "training.global_batch_size": 1,
        "training.warmup_ratio": 0.03,
        "training.num_train_epochs": 1,
        "training.save_total_limit": 4,
        "sft.max_seq_length": 512,
        "sft.on_overflow": "drop",
        "training.group_by_length": False,
    }


def test_all_linear_takes_in_the_layers_that_are_named_beside_it(translate):
    translation = translate(PLAIN + "lora_target_modules: [q_proj]\n", "axolotl")
    assert "peft.target_modules" not in translation.recipe  # lorans's own default
    assert ends(translation, "lora_target_modules").fate == "default"
    outside = translate(PLAIN + "lora_target_modules: [q_proj, lm_head]\n", "axolotl")
    assert ends(outside, "lora_target_modules").fate == "refused"


ROWS = [
    ("{path: a/b, type: completion}", {"name": "a/b", "format": "text"}),
    (
        "{path: a.jsonl, type: completion, field: body}",
        {"path": "a.jsonl", "format": "text", "columns": {"text": "body"}},
    ),
    (
        "{path: a/b, name: c, revision: r, split: 'test[:5%]', type: completion}",
        {"name": "a/b", "subset": "c", "revision": "r", "train_split": "test", "slice": ":5%", "format": "text"},
    ),
    (
        "{path: json, data_files: [x.jsonl, y.jsonl], type: completion}",
        {"path": ["x.jsonl", "y.jsonl"], "format": "text"},
    ),
    ("{path: a/b, type: chat_template}", {"name": "a/b", "format": "messages"}),
    (
        "{path: a/b, type: chat_template, field_messages: chat}",
        {"name": "a/b", "format": "messages", "columns": {"messages": "chat"}},
    ),
    (
        "{path: a/b, type: chat_template, field_messages: conversations, message_field_role: from, "
        "message_field_content: value}",
        {"name": "a/b", "format": "sharegpt"},
    ),
    ("{path: a/b, type: sharegpt}", {"name": "a/b", "format": "sharegpt"}),
]


@pytest.mark.parametrize(("entry", "keys"), ROWS, ids=[entry for entry, _ in ROWS])
def test_one_data_set_is_the_table(translate, entry, keys):
    kept = PLAIN.replace("datasets:\n  - path: rows.jsonl\n    type: completion\n", f"datasets: [{entry}]\n")
    translation = translate(kept, "axolotl")
    found = {key.removeprefix("dataset."): value for key, value in translation.recipe.items() if "dataset." in key}
    assert found == keys
    assert not [outcome for outcome in translation.refused if outcome.key.startswith("datasets")]


def test_data_sets_of_several_types_are_sources_with_a_form_each(translate):
    listed = "datasets: [{path: a/b, type: completion}, {path: c.jsonl, type: alpaca}]\n"
    translation = translate(PLAIN.replace("datasets:\n  - path: rows.jsonl\n    type: completion\n", listed), "axolotl")
    first, second = translation.recipe["dataset.sources"]
    assert first == {"name": "a/b", "format": "text"}
    assert (second["path"], second["format"]) == ("c.jsonl", "prompt-completion")


TURNS = [
    ("roles_to_train: [assistant]", False),
    ("roles_to_train: [gpt]", False),
    ("roles_to_train: [user]", True),
    ("train_on_eos: turn", False),
    ("train_on_eos: last", True),
    ("message_field_training: train", False),
    ("message_field_training: weight_of", True),
    ("message_field_training_detail: d", True),
    ("roles: {user: [human], assistant: [gpt]}", False),
    ("roles: {assistant: [narrator]}", True),
    ("chat_template: chatml", False),
    ("chat_template: tokenizer_default", False),
    ("chat_template: mistral_v1", True),
    ("chat_template_jinja: mine.jinja", False),
    ('chat_template_jinja: "{{ messages }}"', True),
    ("no_such_key: 1", True),
]


@pytest.mark.parametrize(("line", "is_refused"), TURNS, ids=[line for line, _ in TURNS])
def test_what_changes_the_tokens_that_are_learned_is_refused(translate, line, is_refused):
    text = CHAT.replace("    type: chat_template\n", f"    type: chat_template\n    {line}\n")
    translation = translate(text, "axolotl")
    assert bool(translation.refused) == is_refused, translation.refused


def test_the_chat_template_of_the_file_is_that_of_data_sets_without_one(translate):
    assert translate(f"{CHAT}chat_template: llama3\n", "axolotl").recipe["sft.chat_template"] == "llama-3"
    own = CHAT.replace("    type: chat_template\n", "    type: chat_template\n    chat_template: chatml\n")
    translation = translate(f"{own}chat_template: llama3\n", "axolotl")
    assert translation.recipe["sft.chat_template"] == "chatml"
    assert ends(translation, "chat_template").fate == "unused"


def filled(templates, row):
    """What lorans's format makes of a row."""
    from lora_ns.formats.base import Columns
    from lora_ns.formats.plain import PlainPromptCompletion

    keys = {key: value for key, value in templates.keys().items() if key != "format"}
    example = PlainPromptCompletion(Columns(**keys)).example(row)
    return example.prompt, example.completion


@pytest.mark.parametrize(
    ("kind", "row", "prompt"),
    [
        (
            "alpaca",
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            "Below is an instruction that describes a task, paired with an input that provides further context. Write "
            "a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n"
            "### Response:\n",
        ),
        (
            "alpaca",
            {"instruction": "Go.", "input": "", "output": "3"},
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nGo.\n\n### Response:\n",
        ),
        ("alpaca_chat.load_no_prompt", {"instruction": "Go.", "output": "3"}, "USER: Go.\nASSISTANT:"),
        (
            "alpaca_w_system.load_instruct",
            {"instruction": "Go.", "input": "x", "output": "3", "system": "Be brief."},
            "Be brief.\n\n### Instruction:\nGo.\n\n### Input:\nx\n\n### Response:\n",
        ),
        (
            "alpaca_w_system.load_chat",
            {"instruction": "Go.", "input": None, "output": "3", "system": ""},
            "USER: Go.\nASSISTANT:",
        ),
    ],
)
def test_a_type_has_the_prompt_that_axolotl_builds(kind, row, prompt):
    assert filled(templates_of(PROMPTS[kind]), row) == (prompt, "3")


def test_a_type_of_ones_own_has_its_prompts(translate):
    entry = (
        "{path: a.jsonl, type: {field_instruction: q, field_input: c, field_output: a, "
        'format: "[{input}] {instruction}:", no_input_format: "{instruction}:", system_prompt: "Say {x}. "}}'
    )
    text = PLAIN.replace("datasets:\n  - path: rows.jsonl\n    type: completion\n", f"datasets: [{entry}]\n")
    recipe = translate(text, "axolotl").recipe
    assert recipe["dataset.prompt_template"] == "Say {{x}}. [{c}] {q}:"
    assert recipe["dataset.fallback_prompt_templates"] == ["Say {{x}}. {q}:"]
    assert recipe["dataset.completion_template"] == "{a}"


def test_no_key_is_in_two_places():
    keys = [key for step in AXOLOTL.steps for key in step.keys]
    assert len(keys) == len(set(keys))
    assert not set(keys) & set(AXOLOTL.rules)


def test_several_times_per_epoch_say_how_to_write_them(translate):
    translation = translate(f"{PLAIN}val_set_size: 0.1\nevals_per_epoch: 4\nsaves_per_epoch: 2\n", "axolotl")
    for key, times, ours in (("evals_per_epoch", 4, "eval_steps"), ("saves_per_epoch", 2, "save_steps")):
        how = f"divide `steps_per_epoch` of `lorans plan` by {times}, and write `training.{ours}`"
        assert ends(translation, key).said == f"lorans's default is once per epoch; for {times} times, {how}"
        assert f"training.{ours}" not in translation.recipe
