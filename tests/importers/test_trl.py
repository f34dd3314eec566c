"""TRL's keys, one by one: what of the recipe each becomes, or why it becomes nothing."""

from dataclasses import fields

import pytest
from import_accounts import check_mapped, ends, without

from lora_ns.importers.trl import TRL
from lora_ns.services.import_ import import_config

BASE = """\
model_name_or_path: some/base
use_peft: true
lora_target_modules: all-linear
per_device_train_batch_size: 2
learning_rate: 1e-4
max_length: 256
output_dir: out
"""
ROWS = "datasets: [{path: a/b, columns: [%s]}]\n"
CHAT = BASE + ROWS % "messages"


MAPPED = [
    ("learning_rate: 2e-4", "training.learning_rate", 2e-4),
    ("lora_r: 64", "peft.lora_r", 64),
    ("lora_dropout: 0.2", "peft.lora_dropout", 0.2),
    ("lora_target_modules: [q_proj, v_proj]", "peft.target_modules", ["q_proj", "v_proj"]),
    ("lora_modules_to_save: [norm]", "peft.modules_to_save", ["norm"]),
    ("use_dora: true", "peft.use_dora", True),
    ("load_in_4bit: true", "quantization.method", "bnb-4bit"),
    ("load_in_8bit: true", "quantization.method", "bnb-8bit"),
    ("torch_dtype: bfloat16", "model.dtype", "bfloat16"),
    ("dtype: float16", "model.dtype", "float16"),
    ("bf16: true", "model.dtype", "bfloat16"),
    ("bf16: false", "model.dtype", "float32"),
    ("fp16: true", "model.dtype", "float16"),
    ("model_revision: v2", "model.revision", "v2"),
    ("max_length: 2048", "sft.max_seq_length", 2048),
    ("packing: true", "sft.packing", True),
    ("loss_type: dft", "sft.loss_type", "dft"),
    ("neftune_noise_alpha: 5", "sft.neftune_noise_alpha", 5),
    ("chat_template_path: mine.jinja", "sft.chat_template", "mine.jinja"),
    ("completion_only_loss: false", "sft.train_on", "all"),
    ("assistant_only_loss: false", "sft.train_on", "all"),
    ("num_train_epochs: 2", "training.num_train_epochs", 2),
    ("max_steps: 12", "training.max_steps", 12),
    ("optim: paged_adamw_8bit", "training.optim", "paged_adamw_8bit"),
    ("lr_scheduler_type: linear", "training.lr_scheduler_type", "linear"),
    ("warmup_steps: 20", "training.warmup_steps", 20),
    ("warmup_steps: 20\nwarmup_ratio: 0.1", "training.warmup_steps", 20),
    ("warmup_ratio: 0.1\nwarmup_steps: 0", "training.warmup_ratio", 0.1),
    ("warmup_steps: 0.1", "training.warmup_ratio", 0.1),
    ("warmup_ratio: 0.1", "training.warmup_ratio", 0.1),
    ("weight_decay: 0.01", "training.weight_decay", 0.01),
    ("max_grad_norm: 0.2", "training.max_grad_norm", 0.2),
    ("adam_epsilon: 1e-6", "training.extra.adam_epsilon", 1e-6),
    ("seed: 7", "training.seed", 7),
    ("logging_steps: 3", "training.logging_steps", 3),
    ("save_steps: 30", "training.save_steps", 30),
    ("save_total_limit: 5", "training.save_total_limit", 5),
    ("full_determinism: true", "training.full_determinism", True),
    ("load_best_model_at_end: true", "training.load_best_model_at_end", True),
    ("test_split_size: 0.1", "dataset.eval_fraction", 0.1),
    ("report_to: [wandb]", "tracking.report_to", ["wandb"]),
    ("run_name: n", "tracking.run_name", "n"),
    ("deepspeed: own.json", "distributed.deepspeed_config", "own.json"),
    ("fsdp: full_shard auto_wrap", "distributed.strategy", "fsdp"),
    ("fsdp_config: {fsdp_offload_params: true}", "distributed.cpu_offload", True),
]


@pytest.mark.parametrize(("text", "key", "value"), MAPPED, ids=[f"{text} {key}" for text, key, _ in MAPPED])
def test_a_key_becomes_one_of_the_recipe(translate, text, key, value):
    source = text.partition(":")[0]
    translation = translate(f"{without(CHAT, source)}{text}\n", "trl")
    check_mapped(translation, source, key, value)


OTHERWISE = [
    ("lora_dropout: 0", "default"),
    ("assistant_only_loss: true", "default"),
    ("lr_scheduler_type: cosine", "default"),
    ("dtype: auto", "default"),
    ("eos_token: <|im_end|>", "default"),
    ("load_in_4bit: false", "default"),
    ("warmup_steps: 0\nwarmup_ratio: 0.1", "unused"),
    ("warmup_ratio: 0.1\nwarmup_steps: 20", "unused"),
    ("report_to: none", "default"),
    ("loss_type: nll", "default"),
    ("push_to_hub: true", "unused"),
    ("hub_model_id: a/b", "unused"),
    ("attn_implementation: flash_attention_2", "unused"),
    ("gradient_checkpointing_kwargs: {use_reentrant: false}", "unused"),
    ("use_liger_kernel: true", "unused"),
    ("eval_strategy: epoch", "unused"),
    ("max_steps: -1", "unused"),
    ("shuffle_dataset: true", "unused"),
    ("wandb_project: p", "unused"),
    ("dataset_name: x/y", "unused"),
    ("dataset_splits: [train, test]", "unused"),
    ("dataset_train_split: tr", "unused"),
    ("dataset_kwargs: {add_special_tokens: false}", "unused"),
    ("hf_token: hf_notasecretnotasecret", "unused"),
    ("test_split_size: 200", "refused"),
    ("lora_target_modules: '.*proj'", "refused"),
    ("lr_scheduler_type: cosine_with_restarts", "refused"),
    ("packing_strategy: wrapped\npacking: true", "refused"),
    ("truncation_mode: keep_end", "refused"),
    ("chat_template_path: some/other-model", "refused"),
    ("chat_template: chatml", "refused"),
    ("max_length:", "refused"),
    ("learning_rate: ${LR}", "refused"),
    ("report_to: clearml", "refused"),
    ("deepspeed: {zero_optimization: {stage: 2}}", "refused"),
    ("lora_alfa: 3", "refused"),
]


@pytest.mark.parametrize(("text", "fate"), OTHERWISE, ids=[text for text, _ in OTHERWISE])
def test_a_key_becomes_nothing_and_it_is_said_why(translate, text, fate):
    source = text.partition(":")[0]
    translation = translate(f"{without(CHAT, source)}{text}\n", "trl")
    found = [outcome for outcome in translation.outcomes if f"{outcome.key}.".startswith(f"{source}.")]
    assert found
    assert [outcome.fate for outcome in found] == [fate] * len(found), found
    assert all(outcome.said for outcome in found)
    assert not translation.is_fatal


PAIRS = "command: trl dpo\n" + BASE + ROWS % "prompt, chosen, rejected"


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("", "dpo.loss_type", ["sigmoid"]),
        ("", "dataset.format", "preference"),
        ("loss_type: ipo", "dpo.loss_type", ["ipo"]),
        ("loss_type: [sigmoid, sft]", "dpo.loss_type", ["sigmoid", "sft"]),
        ("loss_type: [sigmoid, sft]\nloss_weights: [1.0, 0.5]", "dpo.loss_weights", [1.0, 0.5]),
        ("beta: 0.3", "dpo.beta", 0.3),
        ("ld_alpha: 0.5", "dpo.ld_alpha", 0.5),
        ("f_divergence_type: js_divergence", "dpo.f_divergence_type", "js_divergence"),
        ("use_weighting: true", "dpo.use_weighting", True),
        ("max_length: 512", "dpo.max_seq_length", 512),
        ("learning_rate:", "training.learning_rate", 1e-6),
    ],
)
def test_dpo_becomes_its_table(translate, text, key, value):
    translation = translate(f"{without(PAIRS, *(line.partition(':')[0] for line in text.splitlines()))}{text}\n", "trl")
    assert translation.recipe[key] == value
    assert not translation.refused
    assert not [name for name in translation.recipe if name.startswith("sft.")]


@pytest.mark.parametrize(
    ("text", "fate"),
    [
        ("lora_dropout: 0.1", "unused"),
        ("precompute_ref_log_probs: true", "unused"),
        ("disable_dropout: true", "default"),
        ("disable_dropout: false", "refused"),
        ("max_prompt_length: 512", "refused"),
        ("sync_ref_model: true", "refused"),
        ("rpo_alpha: 1.0", "refused"),
    ],
)
def test_a_key_of_dpo_without_the_same_meaning_is_left_out(translate, text, fate):
    translation = translate(f"{PAIRS}{text}\n", "trl")
    assert ends(translation, text.partition(":")[0]).fate == fate
    assert not translation.is_fatal


@pytest.mark.parametrize("text", ["desirable_weight: 1.0", "num_generations: 8", "loss_type: simpo"])
def test_another_trainers_keys_are_refused_beside_dpo(translate, text):
    assert translate(f"{PAIRS}{text}\n", "trl").is_fatal


@pytest.mark.parametrize(("name", "is_fatal"), [("config_dpo.yaml", False), ("config.yaml", True)])
def test_the_name_of_a_file_says_which_preferences_it_is_for(translate, name, is_fatal):
    translation = translate(without(PAIRS, "command") + "beta: 0.1\n", "trl", name=name)
    assert translation.is_fatal == is_fatal
    assert is_fatal or any("`trl dpo` from the name" in note for note in translation.notes)


FATAL = [
    "use_peft: false",
    "use_peft:",
    "reward_funcs: [accuracy]",
    "num_generations: 4",
    "beta: 0.1",
    "desirable_weight: 1.0",
    "center_rewards_coefficient: 0.01",
    "datasets: [{path: a/b, columns: [chosen, rejected]}]",
    "datasets: [{path: a/b, columns: [image]}]",
    "datasets: [{columns: [messages]}]",
    "datasets: rows.jsonl",
    "datasets:",
    "dataset_kwargs: {skip_prepare_dataset: true}",
]


@pytest.mark.parametrize("text", FATAL)
def test_another_training_is_refused_as_a_whole(translate, text):
    assert translate(f"{without(CHAT, text.partition(':')[0])}{text}\n", "trl").is_fatal


def test_defaults_that_differ_are_written_out(translate):
    least = f"model_name_or_path: b\nuse_peft: true\nload_in_4bit: true\n{ROWS % 'messages'}"
    filled = {one.recipe: one.value for one in translate(least, "trl").filled}
    assert filled == {
        "training.output_dir": "trainer_output",
        "peft.lora_r": 16,
        "peft.lora_alpha": 32,
        "peft.lora_dropout": 0.05,
        "peft.target_modules": ["q_proj", "v_proj"],
        "quantization.bnb_4bit_use_double_quant": False,
        "sft.train_on": "all",
        "training.global_batch_size": 8,
        "training.lr_scheduler_type": "linear",
        "training.warmup_ratio": 0.0,
        "training.num_train_epochs": 3,
        "training.learning_rate": 2e-5,
        "sft.max_seq_length": 1024,
        "sft.on_overflow": "truncate",
        "training.group_by_length": False,
    }


LEARNED = [
    ("messages", "", "messages", "all"),
    ("messages", "assistant_only_loss: true\n", "messages", "assistant"),
    ("conversations", "", "sharegpt", "all"),
    ("text", "", "text", "all"),
    ("prompt, completion", "", "prompt-completion", "assistant"),
    ("prompt, completion", "completion_only_loss: true\n", "prompt-completion", "assistant"),
    ("prompt, completion", "completion_only_loss: false\n", "prompt-completion", "all"),
    ("", "", "messages", "all"),
    ("", "completion_only_loss: true\n", "prompt-completion", "assistant"),
    ("", "assistant_only_loss: true\n", "messages", "assistant"),
    ("", "dataset_text_field: text\n", "text", "all"),
]


@pytest.mark.parametrize(("columns", "more", "form", "learned"), LEARNED)
def test_the_loss_is_on_what_trl_learns_of_such_rows(translate, columns, more, form, learned):
    recipe = translate(BASE + (ROWS % columns) + more, "trl").recipe
    assert recipe["dataset.format"] == form
    assert recipe.get("sft.train_on", "assistant") == learned


def test_what_the_rows_are_is_said_where_it_is_assumed(translate):
    translation = translate(f"{BASE}dataset_name: a/b\n", "trl")
    assert translation.recipe["dataset.format"] == "messages"
    assert any("lorans assumes" in note for note in translation.notes)


DATA = [
    ("dataset_name: a/b", {"name": "a/b"}),
    ("dataset_name: rows.jsonl", {"path": "rows.jsonl"}),
    ("dataset_name: a/b\ndataset_config: en\ndataset_train_split: tr", {"subset": "en", "train_split": "tr"}),
    ("dataset_name: a/b\neval_strategy: epoch", {"eval_split": "test"}),
    ("dataset_name: a/b\ndataset_test_split: held\nevaluation_strategy: steps", {"eval_split": "held"}),
    ("datasets: [{path: json, data_files: [a.jsonl]}]", {"path": "a.jsonl"}),
    ("datasets: [{path: a/b, name: c, split: 'dev[:5%]'}]", {"subset": "c", "train_split": "dev", "slice": ":5%"}),
    ("datasets: [{path: a/b, fraction: 0.3}]", {"name": "a/b"}),
    ("dataset_mixture: {datasets: [{id: a/b, config: default, weight: 0.25}]}", {"name": "a/b", "slice": ":25%"}),
    ("dataset_mixture: {datasets: [{id: a/b}], test_split_size: 0.1}", {"eval_fraction": 0.1}),
    ("dataset_mixer: {a/b: 0.5}\ndataset_splits: [train_sft]", {"train_split": "train_sft", "slice": ":50%"}),
]


@pytest.mark.parametrize(("text", "keys"), DATA, ids=[text for text, _ in DATA])
def test_rows_are_those_that_trl_reads(translate, text, keys):
    translation = translate(f"{BASE}{text}\n", "trl")
    assert {key: translation.recipe.get(f"dataset.{key}") for key in keys} == keys
    assert not translation.refused


def test_data_sets_follow_one_another_or_have_their_shares(translate):
    plain = translate(f"{BASE}datasets: [{{path: a/b}}, {{path: c.jsonl}}]\n", "trl").recipe["dataset.sources"]
    assert plain == [{"name": "a/b", "format": "messages"}, {"path": "c.jsonl", "format": "messages"}]
    shares = f"{BASE}datasets: [{{path: a/b, fraction: 3}}, {{path: c/d, fraction: 1}}]\n"
    assert [one["weight"] for one in translate(shares, "trl").recipe["dataset.sources"]] == [3, 1]
    handbook = f"{BASE}dataset_mixture: {{datasets: [{{id: a/b, weight: 1.0}}, {{id: c/d, weight: 0.5}}]}}\n"
    first, second = translate(handbook, "trl").recipe["dataset.sources"]
    assert "weight" not in first
    assert (second["slice"], "weight" in second) == (":50%", False)
    assert translate(f"{BASE}datasets: [{{path: a, fraction: 1}}, {{path: b}}]\n", "trl").is_fatal
    assert translate(handbook.replace("0.5", "0.333"), "trl").is_fatal


OLD = ["max_seq_length: 99", "torch_dtype: bfloat16", "warmup_ratio: 0.1", "evaluation_strategy: epoch"]


@pytest.mark.parametrize("text", OLD)
def test_old_names_are_understood_and_named(translate, text):
    key = text.partition(":")[0]
    outcome = ends(translate(f"{without(CHAT, 'max_length')}test_split_size: 0.1\n{text}\n", "trl"), key)
    assert outcome.fate in ("mapped", "default")
    assert "removed from" in outcome.said


TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def test_a_chat_template_becomes_a_file_beside_the_recipe(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(f'{CHAT}chat_template: "{TEMPLATE}"\n')
    shown = import_config(config)
    assert [(one.key, one.remedy) for one in shown.translation.refused] == [
        ("chat_template", "use `-o FILE` to write both")
    ]
    written = import_config(config, tmp_path / "mine.toml")
    assert written.is_whole
    assert 'chat_template = "mine.jinja"' in (tmp_path / "mine.toml").read_text()
    assert (tmp_path / "mine.jinja").read_text() == TEMPLATE


def test_no_file_is_replaced_and_none_is_written_for_nothing(tmp_path):
    from lora_ns.errors import UsageError

    config = tmp_path / "config.yaml"
    config.write_text(f'{CHAT}chat_template: "{TEMPLATE}"\n')
    (tmp_path / "mine.jinja").write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.jinja: already exists"):
        import_config(config, tmp_path / "mine.toml")
    assert (tmp_path / "mine.jinja").read_text() == "mine"
    assert not (tmp_path / "mine.toml").exists()
    config.write_text(f'{without(CHAT, "use_peft")}chat_template: "{TEMPLATE}"\n')
    assert import_config(config, tmp_path / "other.toml").text is None
    assert not (tmp_path / "other.jinja").exists()


def test_every_key_of_the_installed_trl_is_known():
    pytest.importorskip("torch")
    trl = pytest.importorskip("trl")
    for table in (trl.SFTConfig, trl.ModelConfig, trl.ScriptArguments, trl.DatasetMixtureConfig):
        missing = {field.name for field in fields(table)} - set(TRL.known)
        assert not missing


def test_the_defaults_are_those_of_the_installed_trl():
    pytest.importorskip("torch")
    trl = pytest.importorskip("trl")
    given = {field.name: field.default for table in (trl.SFTConfig, trl.ModelConfig) for field in fields(table)}
    expected = {
        "learning_rate": 2e-5,
        "max_length": 1024,
        "packing": False,
        "num_train_epochs": 3.0,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": "linear",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "use_bnb_nested_quant": False,
        "assistant_only_loss": False,
        "completion_only_loss": None,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "eval_strategy": "no",
        "warmup_steps": 0,
        "truncation_mode": "keep_start",
        "use_peft": False,
    }
    assert {key: given[key] for key in expected} == expected


def test_no_key_is_in_two_places():
    keys = [key for step in TRL.steps for key in step.keys]
    assert len(keys) == len(set(keys))
    assert not set(keys) & set(TRL.rules)
