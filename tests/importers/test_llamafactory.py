"""LLaMA-Factory's keys, one by one: what of the recipe each becomes, or why it becomes nothing."""

import json

import pytest

from lora_ns.importers.llamafactory import LLAMAFACTORY

BASE = """\
model_name_or_path: some/base
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_alpha: 16
lora_target: all
dataset: rows
template: some_own
cutoff_len: 256
per_device_train_batch_size: 2
learning_rate: 1e-4
lr_scheduler_type: cosine
warmup_ratio: 0.03
num_train_epochs: 1
output_dir: out
"""


INFO = {
    "rows": {"file_name": "rows.json"},
    "plain": {"file_name": "plain.json", "columns": {"prompt": "q", "response": "a"}},
    "chats": {"file_name": "chats.json", "formatting": "sharegpt"},
    "held": {"file_name": "held.json"},
    "texts": {"file_name": "texts.txt", "columns": {"prompt": "text"}},
    "hub": {"hf_hub_url": "a/b", "subset": "c", "split": "test[:5%]"},
    "pairs": {"file_name": "p.json", "ranking": True, "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
}


@pytest.fixture
def lf(translate, tmp_path, monkeypatch):
    """Translates lines beside those of `BASE`, in a folder with a `dataset_info.json`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()

    def translates(lines="", info=INFO, gpus=1):
        (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
        own = {line.partition(":")[0] for line in lines.splitlines()}
        kept = [line for line in BASE.splitlines() if line.partition(":")[0] not in own]
        return translate("\n".join([*kept, lines]), "llamafactory", gpus)

    return translates


def of(translation, source):
    return [outcome for outcome in translation.outcomes if f"{outcome.key}.".startswith(f"{source}.")]


MAPPED = [
    ("learning_rate: 5.0e-6", "training.learning_rate", 5e-6),
    ("lora_rank: 64", "peft.lora_r", 64),
    ("lora_alpha: 7", "peft.lora_alpha", 7),
    ("lora_dropout: 0.1", "peft.lora_dropout", 0.1),
    ("lora_target: q_proj,v_proj", "peft.target_modules", ["q_proj", "v_proj"]),
    ("lora_target: [q_proj]", "peft.target_modules", ["q_proj"]),
    ("additional_target: embed_tokens,lm_head", "peft.modules_to_save", ["embed_tokens", "lm_head"]),
    ("use_dora: true", "peft.use_dora", True),
    ("use_rslora: true", "peft.use_rslora", True),
    ("loraplus_lr_ratio: 16.0", "peft.loraplus_lr_ratio", 16.0),
    ("pissa_init: true", "peft.init_lora_weights", "pissa_niter_16"),
    ("quantization_bit: 4", "quantization.method", "bnb-4bit"),
    ("quantization_bit: 8", "quantization.method", "bnb-8bit"),
    ("bf16: true", "model.dtype", "bfloat16"),
    ("fp16: true", "model.dtype", "float16"),
    ("flash_attn: fa2", "model.attn_implementation", "flash_attention_2"),
    ("model_revision: v2", "model.revision", "v2"),
    ("trust_remote_code: true", "model.trust_remote_code", True),
    ("add_tokens: <a>,<b>", "model.add_tokens", ["<a>", "<b>"]),
    ("disable_gradient_checkpointing: true", "training.gradient_checkpointing", False),
    ("cutoff_len: '2048'", "sft.max_seq_length", 2048),
    ("packing: true", "sft.packing", True),
    ("neat_packing: true", "sft.packing", True),
    ("train_on_prompt: true", "sft.train_on", "all"),
    ("mask_history: true", "sft.train_on", "last"),
    ("neftune_noise_alpha: 5", "sft.neftune_noise_alpha", 5),
    ("use_dft_loss: true", "sft.loss_type", "dft"),
    ("template: chatml", "sft.chat_template", "chatml"),
    ("template: llama3", "sft.chat_template", "llama-3"),
    ("template: qwen3_nothink", "sft.chat_template", "chatml"),
    ("template: gemma", "sft.system_role", "merge-into-user"),
    ("default_system: Be {brief}.", "dataset.system_template", "Be {{brief}}."),
    ("max_samples: 100", "dataset.max_samples", 100),
    ("val_size: 0.1", "dataset.eval_fraction", 0.1),
    ("eval_dataset: held", "dataset.eval_path", "data/held.json"),
    ("num_train_epochs: 3.0", "training.num_train_epochs", 3.0),
    ("max_steps: 12", "training.max_steps", 12),
    ("lr_scheduler_type: linear", "training.lr_scheduler_type", "linear"),
    ("warmup_steps: 20", "training.warmup_steps", 20),
    ("warmup_steps: 20\nwarmup_ratio: 0.1", "training.warmup_steps", 20),
    ("warmup_ratio: 0.1\nwarmup_steps: 0", "training.warmup_ratio", 0.1),
    ("optim: paged_adamw_8bit", "training.optim", "paged_adamw_8bit"),
    ("weight_decay: 0.01", "training.weight_decay", 0.01),
    ("max_grad_norm: 0.3", "training.max_grad_norm", 0.3),
    ("seed: 7", "training.seed", 7),
    ("logging_steps: 3", "training.logging_steps", 3),
    ("early_stopping_steps: 3", "training.early_stopping_patience", 3),
    ("full_determinism: true", "training.full_determinism", True),
    ("save_steps: 30", "training.save_steps", 30),
    ("dataloader_num_workers: 4", "training.dataloader_num_workers", 4),
    ("group_by_length: true", "training.group_by_length", True),
    ("train_sampling_strategy: group_by_length", "training.group_by_length", True),
    ("report_to: wandb", "tracking.report_to", ["wandb"]),
    ("deepspeed: examples/deepspeed/ds_z3_config.json", "distributed.zero_stage", 3),
    ("deepspeed: examples/deepspeed/ds_z2_offload_config.json", "distributed.offload_optimizer", "cpu"),
    ("deepspeed: examples/deepspeed/ds_z0_config.json", "distributed.strategy", "ddp"),
    ("deepspeed: own.json", "distributed.deepspeed_config", "own.json"),
    ("fsdp: full_shard auto_wrap offload", "distributed.cpu_offload", True),
]


OWN = {
    "train_sampling_strategy: group_by_length",  # written as lorans's default, over the other tool's
    "group_by_length: true",
}


@pytest.mark.parametrize(("text", "key", "value"), MAPPED, ids=[f"{text} {key}" for text, key, _ in MAPPED])
def test_a_key_becomes_one_of_the_recipe(lf, text, key, value):
    translation = lf(text)
    if text not in OWN:
        assert translation.recipe[key] == value
        assert type(translation.recipe[key]) is type(value)
    assert translation.recipe.get(key, value) == value
    assert {outcome.fate for outcome in of(translation, text.partition(":")[0])} <= {"mapped", "default"}
    assert not translation.refused


OTHERWISE = [
    ("stage: sft", "default"),
    ("do_train: true", "default"),
    ("template: qwen", "default"),
    ("template: deepseekr1", "default"),
    ("lora_target: all", "default"),
    ("lora_dropout: 0.0", "default"),
    ("mask_history: false", "default"),
    ("train_on_prompt: false", "default"),
    ("val_size: 0.0", "default"),
    ("report_to: none", "default"),
    ("optim: adamw_torch_fused", "default"),
    ("resize_vocab: true", "default"),
    ("warmup_steps: 0\nwarmup_ratio: 0.1", "unused"),
    ("warmup_ratio: 0.1\nwarmup_steps: 20", "unused"),
    ("warmup_ratio: 0.1\nwarmup_steps: 0.2", "unused"),
    ("use_fast_tokenizer: true", "default"),
    ("mix_strategy: concat", "unused"),
    ("flash_attn: auto", "unused"),
    ("plot_loss: true", "unused"),
    ("overwrite_cache: true", "unused"),
    ("overwrite_output_dir: true", "unused"),
    ("preprocessing_num_workers: 16", "unused"),
    ("ddp_timeout: 180000000", "unused"),
    ("resume_from_checkpoint: null", "unused"),
    ("quantization_type: nf4", "unused"),
    ("pissa_init: false", "unused"),
    ("buffer_size: 5", "unused"),
    ("pref_beta: 0.1", "unused"),
    ("freeze_trainable_layers: 2", "unused"),
    ("enable_thinking: false", "unused"),
    ("eval_steps: 5", "unused"),
    ("eval_strategy: steps", "unused"),
    ("use_unsloth: true", "unused"),
    ("run_name: x", "unused"),
    ("swanlab_api_key: abc", "unused"),
    ("disable_shuffling: false", "unused"),
    ("adapter_name_or_path: old", "refused"),
    ("template: default", "refused"),
    ("template: fewshot", "refused"),
    ("val_size: 200", "refused"),
    ("eval_dataset: chats", "refused"),
    ("eval_dataset: nobody", "refused"),
    ("lr_scheduler_type: cosine_with_min_lr", "refused"),
    ("quantization_bit: 3", "refused"),
    ("disable_shuffling: true", "refused"),
    ("pure_bf16: true", "refused"),
    ("max_samples: 0", "refused"),
    ("use_galore: true", "refused"),
    ("shift_attn: true", "refused"),
    ("use_llama_pro: true", "refused"),
    ("report_to: clearml", "refused"),
    ("tool_format: qwen", "refused"),
    ("rope_scaling: yarn", "refused"),
    ("lora_rank: many", "refused"),
    ("lora_alhpa: 3", "refused"),
    ("learning_rate: ${LR}", "refused"),
]


@pytest.mark.parametrize(("text", "fate"), OTHERWISE, ids=[text for text, _ in OTHERWISE])
def test_a_key_becomes_nothing_and_it_is_said_why(lf, text, fate):
    translation = lf(text)
    found = of(translation, text.partition(":")[0])
    assert [outcome.fate for outcome in found] == [fate] * len(found), found
    assert all(outcome.said for outcome in found)
    assert not translation.is_fatal


@pytest.mark.parametrize(
    "text",
    [
        *(f"stage: {name}" for name in ("kto", "ppo", "rm")),
        "stage: dpo",  # on rows with one answer
        "stage: dpo\ndataset: pairs\ntemplate: llama3\npref_loss: orpo",
        "dataset: pairs",
        *(f"finetuning_type: {name}" for name in ("full", "freeze", "oft")),
        "dataset: nobody",
        "dataset:",
        "dataset_dir: elsewhere",
        "dataset_dir: REMOTE:a/b",
        "model_name_or_path:",
        "train_from_scratch: true",
        "export_dir: merged",
        "train_dataset: rows.yaml",
        "do_train: false\ndo_predict: true",
        "do_train: false\ndataset:\ntask: mmlu_test\nstage:",
        "do_train: false\ndataset:\ndo_eval: true",
        "do_train: false\ndataset:\nstage:\ninfer_backend: vllm",
    ],
)
def test_another_training_is_refused_as_a_whole(lf, text):
    translation = lf(text)
    assert translation.is_fatal
    assert all(outcome.said != "lorans does not support this key" for outcome in translation.outcomes)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("export_dir: merged", "lorans merge"),
        ("do_train: false\ndo_predict: true", "lorans infer"),
        ("do_train: false\ndataset:\ndo_eval: true", "lorans eval"),
        ("do_train: false\ndataset:\nstage:", "lorans infer"),
    ],
)
def test_a_file_for_something_else_names_the_command(lf, text, command):
    assert command in lf(text).problems[0].remedy


def test_defaults_that_differ_are_written_out(translate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(INFO))
    least = "model_name_or_path: b\nstage: sft\ndo_train: true\ndataset: rows\ntemplate: qwen\n"
    translation = translate(least, "llamafactory", gpus=4)
    assert {one.recipe: one.value for one in translation.filled} == {
        "training.output_dir": "config",
        "peft.method": "lora",
        "peft.lora_r": 8,
        "peft.lora_alpha": 16,
        "training.global_batch_size": 32,
        "training.learning_rate": 5e-5,
        "training.lr_scheduler_type": "linear",
        "training.warmup_ratio": 0.0,
        "training.num_train_epochs": 3,
        "sft.max_seq_length": 2048,
        "sft.on_overflow": "truncate-prompt",
        "training.group_by_length": False,
    }


def test_alpha_is_twice_the_rank_unless_it_is_given(lf):
    assert lf("lora_rank: 64\nlora_alpha:").recipe["peft.lora_alpha"] == 128
    assert lf("lora_rank: 64\nlora_alpha: 16").recipe["peft.lora_alpha"] == 16


@pytest.mark.parametrize(("gpus", "rows", "accumulation", "batch"), [(1, 2, 1, 2), (4, 2, 8, 64)])
def test_batches_per_device_become_the_global_one(lf, gpus, rows, accumulation, batch):
    text = f"per_device_train_batch_size: {rows}\ngradient_accumulation_steps: {accumulation}"
    assert lf(text, gpus=gpus).recipe["training.global_batch_size"] == batch


@pytest.mark.parametrize(
    ("base", "is_in"), [("Qwen/Qwen3-8B", True), ("meta-llama/Llama-3.1-8B", True), ("Qwen/Qwen-7B", False)]
)
def test_code_of_a_base_is_asked_for_only_where_transformers_has_none(lf, base, is_in):
    recipe = lf(f"trust_remote_code: true\nmodel_name_or_path: {base}").recipe
    assert ("model.trust_remote_code" in recipe) != is_in


def test_thinking_is_switched_off_by_the_template(lf):
    recipe = lf("template: qwen3\nenable_thinking: false").recipe
    assert recipe["sft.chat_template_kwargs"] == {"enable_thinking": False}
    assert "sft.chat_template_kwargs" not in lf("template: qwen3").recipe


def test_tokens_of_one_key_are_kept_where_those_of_the_other_cannot_be_read(lf):
    translation = lf("add_tokens: {a: 1}\nadd_special_tokens: <b>")
    assert translation.recipe["model.add_tokens"] == ["<b>"]
    assert [outcome.key for outcome in translation.refused] == ["add_tokens.a"]


@pytest.mark.parametrize(
    ("base", "method", "bits"), [("a/b-GPTQ-Int8", "gptq", 8), ("a/b-gptq", "gptq", None), ("a/b-AWQ", "awq", None)]
)
def test_a_base_that_is_stored_in_fewer_bits_is_known_by_its_name(lf, base, method, bits):
    translation = lf(f"model_name_or_path: {base}\nquantization_bit: 4")
    assert (translation.recipe["quantization.method"], translation.recipe.get("quantization.bits")) == (method, bits)
    assert [outcome.fate for outcome in of(translation, "quantization_bit")] == ["unused"]


CHATML = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("chatml", CHATML),
        ("qwen3_nothink", CHATML),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
            "Q<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>",
        ),
        ("gemma", "<s><start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"),
    ],
)
def test_templates_that_are_said_to_print_the_same_do(lf, template, text):
    """The texts are LLaMA-Factory's, with `<s>` for the beginning token."""
    jinja2 = pytest.importorskip("jinja2")
    from lora_ns.data.chat_templates import BUILT_IN

    recipe = lf(f"template: {template}").recipe
    turns = [("system", "S"), ("user", "Q"), ("assistant", "A")]
    if recipe.get("sft.system_role") == "merge-into-user":
        turns = [("user", "S\n\nQ"), turns[2]]
    messages = [{"role": role, "content": content} for role, content in turns]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(BUILT_IN[recipe["sft.chat_template"]][0])
    assert template.render(messages=messages, bos_token="<s>", eos_token="</s>") == text


# Rows


def filled(recipe, row):
    """What lorans's formats make of a row: its turns, or its prompt and its answer."""
    from lora_ns.formats import FORMATS
    from lora_ns.formats.base import Columns, Conversation

    keys = {key.removeprefix("dataset."): value for key, value in recipe.items() if key.startswith("dataset.")}
    known = Columns.__dataclass_fields__
    form = FORMATS[keys["format"]](Columns(**{key: value for key, value in keys.items() if key in known}))
    example = form.example(row)
    if isinstance(example, Conversation):
        return [(message.role, message.content) for message in example.messages]
    return (example.prompt, example.completion)


ALPACA = {"file_name": "x.json"}
NAMED = {"file_name": "x.json", "columns": {"prompt": "q", "query": "c", "response": "a"}}
SYSTEM = {"file_name": "x.json", "columns": {"prompt": "q", "response": "a", "system": "s", "history": "h"}}
BEGIN = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
TURNS = {
    "file_name": "x.json",
    "formatting": "sharegpt",
    "columns": {"messages": "m"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


@pytest.mark.parametrize(
    ("template", "entry", "row", "becomes"),
    [
        (
            "qwen",
            ALPACA,
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            [("user", "Add.\n1 2"), ("assistant", "3")],
        ),
        ("qwen", ALPACA, {"instruction": "Go.", "input": "", "output": "3"}, [("user", "Go."), ("assistant", "3")]),
        ("qwen", NAMED, {"q": "Add.", "c": "1 2", "a": "3"}, [("user", "Add.\n1 2"), ("assistant", "3")]),
        (
            "qwen",
            SYSTEM,
            {"q": "Q", "a": "A", "s": "S", "h": [["x", "y"]]},
            [("system", "S"), ("user", "x"), ("assistant", "y"), ("user", "Q"), ("assistant", "A")],
        ),
        (
            "qwen",
            TURNS,
            {"m": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
            [("user", "Q"), ("assistant", "A")],
        ),
        (
            "qwen",
            {"file_name": "x.json", "formatting": "sharegpt"},
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            [("user", "Q"), ("assistant", "A")],
        ),
        (
            "qwen",
            {"file_name": "x.json", "formatting": "sharegpt"},
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "not named"},
            [("user", "Q"), ("assistant", "A")],
        ),
        (
            "alpaca",
            ALPACA,
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            (f"{BEGIN}### Instruction:\nAdd.\n1 2\n\n### Response:\n", "3"),
        ),
        (
            "alpaca",
            {"file_name": "x.json", "columns": {"prompt": "q", "query": "c", "response": "a", "system": "s"}},
            {"q": "Go.", "c": "", "a": "3", "s": "Be brief. "},
            ("Be brief. ### Instruction:\nGo.\n\n### Response:\n", "3"),
        ),
        ("empty", NAMED, {"q": "Go.", "c": "on", "a": "3"}, ("Go.\non", "3")),
    ],
)
def test_a_row_becomes_the_text_that_llamafactory_makes_of_it(lf, template, entry, row, becomes):
    assert filled(lf(f"template: {template}", {"rows": entry}).recipe, row) == becomes


PLACES = [
    ({"file_name": "x.json"}, {"path": "data/x.json"}),
    ({"file_name": "x.json", "split": "train[:10%]"}, {"path": "data/x.json", "slice": ":10%"}),
    (INFO["hub"], {"name": "a/b", "subset": "c", "train_split": "test", "slice": ":5%"}),
    ({"hf_hub_url": "a/b", "ms_hub_url": "c/d"}, {"name": "a/b"}),
    ({"file_name": "x.json", "num_samples": 9}, {"path": "data/x.json", "max_samples": 9}),
]


@pytest.mark.parametrize(("entry", "keys"), PLACES)
def test_one_data_set_is_the_table(lf, entry, keys):
    recipe = lf("", {"rows": entry}).recipe
    found = {key.removeprefix("dataset."): value for key, value in recipe.items() if key.startswith("dataset.")}
    assert {key: found[key] for key in keys} == keys
    assert {key for key in found if "template" not in key} == {*keys, "format", "ignore_columns"}


DPO = "stage: dpo\ndataset: pairs\n"


@pytest.mark.parametrize(
    ("lines", "key", "value"),
    [
        ("", "dpo.loss_type", ["sigmoid"]),
        ("pref_loss: ipo", "dpo.loss_type", ["ipo"]),
        ("pref_loss: hinge", "dpo.loss_type", ["hinge"]),
        ("pref_ftx: 0.2", "dpo.loss_type", ["sigmoid", "sft"]),
        ("pref_ftx: 0.2", "dpo.loss_weights", [1.0, 0.2]),
        ("pref_beta: 0.3", "dpo.beta", 0.3),
        ("ld_alpha: 0.5", "dpo.ld_alpha", 0.5),
        ("cutoff_len: 512", "dpo.max_seq_length", 512),
        ("template: llama3", "dpo.chat_template", "llama-3"),
        ("", "dataset.format", "preference"),
        ("", "dataset.columns", {"instruction": "q", "chosen": "c", "rejected": "r"}),
    ],
)
def test_preference_training_becomes_its_table(lf, lines, key, value):
    translation = lf(DPO + lines)
    assert translation.recipe[key] == value
    assert not translation.refused
    assert not [name for name in translation.recipe if name.startswith("sft.")]


@pytest.mark.parametrize(
    ("entry", "columns"),
    [
        (
            {"formatting": "sharegpt", "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "bad"}},
            {"rejected": "bad"},
        ),
        (
            {"columns": {"prompt": "p", "query": "x", "chosen": "a", "rejected": "b", "system": "s"}},
            {"instruction": "p", "input": "x", "chosen": "a", "rejected": "b", "system": "s"},
        ),
    ],
)
def test_the_columns_of_pairs_are_named(lf, entry, columns):
    info = {"rows": {"file_name": "x.json", "ranking": True, **entry}}
    assert lf("stage: dpo", info).recipe["dataset.columns"] == columns


@pytest.mark.parametrize(
    ("line", "fate"),
    [
        ("lora_dropout: 0.1", "unused"),
        ("packing: true", "unused"),
        ("ref_model: other/base", "refused"),
        ("dpo_label_smoothing: 0.1", "refused"),
        ("pref_bco_weight: 0.5", "refused"),
    ],
)
def test_a_key_that_pairs_do_not_have_is_left_out(lf, line, fate):
    translation = lf(DPO + line)
    assert [outcome.fate for outcome in of(translation, line.partition(":")[0])] == [fate]
    assert not translation.is_fatal


LOST = [
    {"ms_hub_url": "a/b"},
    {"om_hub_url": "a/b"},
    {"script_url": "x.py"},
    {"cloud_file_name": "s3://x"},
    {"columns": {"prompt": "q"}},
    {"file_name": "x.json", "ranking": True},
    {"file_name": "x.json", "columns": {"prompt": "q", "response": "a", "kto_tag": "k"}},
    {"file_name": "x.json", "columns": {"prompt": "q", "response": "a", "images": "i"}},
    {"file_name": "x.json", "columns": {"prompt": "q"}},
    {"file_name": "x.json", "formatting": "shargpt"},
    {"file_name": "x.json", "formatting": "sharegpt", "tags": {"role_tag": "who", "content_tag": "says"}},
    {"file_name": "x.json", "formatting": "sharegpt", "tags": {"role_tag": "from", "user_tag": "visitor"}},
    {"hf_hub_url": "a/b", "folder": "c"},
]


@pytest.mark.parametrize("entry", LOST, ids=[json.dumps(entry) for entry in LOST])
def test_rows_that_cannot_be_had_are_refused_with_their_place(lf, entry):
    translation = lf("", {"rows": entry})
    (end,) = of(translation, "dataset")
    assert (end.fate, end.fatal) == ("refused", True)
    assert "`rows` (data/dataset_info.json:1)" in end.said
    assert end.remedy
    assert not any(key.startswith("dataset.") for key in translation.recipe)


@pytest.mark.parametrize(
    ("lines", "weights", "stopping"),
    [
        ("", [None, None], None),
        ("mix_strategy: interleave_once", [None, None], None),
        ("mix_strategy: interleave_under", [1.0, 1.0], "first_exhausted"),
        ("mix_strategy: interleave_over\ninterleave_probs: 0.7,0.3", [0.7, 0.3], "all_exhausted"),
    ],
)
def test_several_data_sets_are_sources(lf, lines, weights, stopping):
    translation = lf(f"dataset: rows, chats\nmax_samples: 5\neval_dataset: held\n{lines}")
    recipe = translation.recipe
    assert [source.get("weight") for source in recipe["dataset.sources"]] == weights
    assert [source["format"] for source in recipe["dataset.sources"]] == ["messages", "sharegpt"]
    assert [source["max_samples"] for source in recipe["dataset.sources"]] == [5, 5]
    assert recipe.get("dataset.stopping_strategy") == stopping
    assert (recipe["dataset.eval_path"], recipe["dataset.format"]) == ("data/held.json", "messages")
    assert not translation.refused


def test_a_stream_is_read_by_one_process(lf):
    translation = lf("streaming: true\nmax_steps: 5\ndataloader_num_workers: 4")
    assert (translation.recipe["dataset.streaming"], translation.recipe["dataset.shuffle_buffer_size"]) == (True, 16384)
    assert [outcome.fate for outcome in of(translation, "dataloader_num_workers")] == ["unused"]


def test_texts_are_learned_whole(lf):
    recipe = lf("stage: pt\ndataset: texts").recipe
    assert (recipe["dataset.format"], recipe["sft.packing"], recipe["sft.on_overflow"]) == ("text", True, "split")
    alone = lf("stage: pt\ndataset: texts\npacking: false").recipe
    assert ("sft.packing" in alone, alone["sft.on_overflow"]) == (False, "truncate")


def test_the_list_of_data_sets_is_looked_for_beside_the_file_too(translate, tmp_path):
    folder = tmp_path / "project" / "data"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps(INFO))
    translation = translate(BASE, "llamafactory", name=str(tmp_path / "project" / "config.yaml"))
    assert translation.recipe["dataset.path"] == str(folder / "rows.json")


def test_data_sets_of_the_hub_need_no_list(lf):
    recipe = lf("dataset_dir: ONLINE\ndataset: a/b").recipe
    assert (recipe["dataset.name"], recipe["dataset.prompt_template"]) == ("a/b", "{instruction}\n{input}")


def test_no_key_is_in_two_places():
    keys = [key for step in LLAMAFACTORY.steps for key in step.keys]
    assert len(keys) == len(set(keys))
    assert not set(keys) & set(LLAMAFACTORY.rules)
