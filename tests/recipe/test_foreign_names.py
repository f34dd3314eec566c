"""Names of other tools lead to the key and the value that have the same effect."""

import pytest
from minimal_recipe import MINIMAL

from lora_ns.errors import RecipeError, plain_name
from lora_ns.recipe.advice import OWN
from lora_ns.recipe.advise import setting_of
from lora_ns.recipe.foreign_names import KEYS, VALUES
from lora_ns.recipe.keys import known_keys
from lora_ns.recipe.load import load_recipe

ADVICE = [*KEYS.items(), *((f"{key}={value}", row) for key, rows in VALUES.items() for value, row in rows.items())]


def fixed(advice):
    return {keys[0]: value for keys, value in advice.keys.items() if value is not OWN}


@pytest.mark.parametrize(("name", "advice"), ADVICE, ids=[name for name, _ in ADVICE])
def test_what_is_advised_exists_and_is_read(write_recipe, name, advice):
    for row in (advice, *advice.values.values()):
        assert row.keys or row.remark
        assert {key for keys in row.keys for key in keys} <= set(known_keys()) | {"task_type"}
        settings = fixed(row)
        if settings.get("task_type", "CAUSAL_LM") == "CAUSAL_LM" and len(settings) == len(row.keys):
            load_recipe(write_recipe(), [f"{key}={toml(value)}" for key, value in settings.items()])


def toml(value):
    return str(value).lower() if isinstance(value, bool) else repr(value)


def test_no_name_is_a_key_that_it_leads_to():
    own = {plain_name(key.rpartition(".")[2]): key for key in known_keys()}
    for name, advice in KEYS.items():
        for keys in advice.keys:
            assert plain_name(keys[0].rpartition(".")[2]) != name or own[name] not in keys, name


def remedy(write_recipe, table, line, *overrides):
    text = MINIMAL
    if table == "peft" and line.startswith("method"):
        text = text.replace('method = "lora"', line)
    elif not table:
        text = f"{line}\n{text}"
        if line.startswith("task_type"):
            text = line + "\n" + MINIMAL.replace('task_type = "CAUSAL_LM"\n', "")
    elif f"[{table}]" in text:
        text = text.replace(f"[{table}]", f"[{table}]\n{line}")
    else:
        text = f"{text}\n[{table}]\n{line}\n"
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(text), list(overrides))
    return caught.value.problems[0].remedy


BROUGHT = [
    # keys, in the table where people write them
    ("training", "lr = 1e-4", "write `learning_rate = 0.0001`"),
    ("training", 'lr = "2e-4"', "write `learning_rate = 0.0002`"),
    ("training", "epochs = 3", "write `num_train_epochs = 3`"),
    ("training", "num_epochs = 3", "write `num_train_epochs = 3`"),
    (
        "training",
        "micro_batch_size = 2",
        "write `per_device_train_batch_size = 2` (`training.global_batch_size` is the batch of one step)",
    ),
    ("training", "batch_size = 8", "write `global_batch_size = 8` (the rows of one optimizer step, over all devices)"),
    (
        "training",
        "train_batch_size = 8",
        "write `global_batch_size = 8` (the rows of one optimizer step, over all devices)",
    ),
    ("training", "eval_batch_size = 8", "write `per_device_eval_batch_size = 8`"),
    ("training", "grad_accum = 4", "write `gradient_accumulation_steps = 4`"),
    ("training", "gradient_clipping = 1.0", "write `max_grad_norm = 1.0`"),
    ("training", "clip_grad_norm = 1", "write `max_grad_norm = 1`"),
    ("training", 'optimizer = "adamw_torch"', 'write `optim = "adamw_torch"`'),
    ("training", 'lr_scheduler = "linear"', 'write `lr_scheduler_type = "linear"`'),
    ("training", "warmup = 10", "write `warmup_steps = 10` (or `warmup_ratio`, a share)"),
    ("training", "sequence_len = 512", "write `max_seq_length = 512` in `[sft]`"),
    ("training", "cutoff_len = 512", "write `max_seq_length = 512` in `[sft]`"),
    ("sft", "max_length = 512", "write `max_seq_length = 512`"),
    ("sft", "max_len = 512", "write `max_seq_length = 512`"),
    ("sft", "sample_packing = true", "write `packing = true`"),
    ("sft", "train_on_inputs = true", 'write `train_on = "all"`'),
    ("sft", "train_on_inputs = false", 'write `train_on = "assistant"`'),
    ("sft", "mask_history = true", 'write `train_on = "last"`'),
    ("sft", 'template = "chatml"', 'write `chat_template = "chatml"` (leave it out to use the tokenizer\'s own)'),
    ("training", "evaluation_strategy = 'steps'", "write the number of steps, such as `eval_steps = 100`"),
    ("training", "eval_strategy = 'epoch'", "remove it: this is what happens anyway"),
    ("training", "bf16 = true", 'write `dtype = "bfloat16"` in `[model]`'),
    ("training", "fp16 = false", "remove it: this is what happens anyway"),
    (
        "training",
        "push_to_hub = true",
        "lorans uploads nothing while it trains; run `hf upload NAME RUN/adapter` afterwards",
    ),
    ("training", "resume_from_checkpoint = true", "remove it, and run `lorans train RECIPE --resume`"),
    ("model", 'torch_dtype = "bf16"', 'write `dtype = "bfloat16"`'),
    ("model", 'torch_dtype = "float16"', 'write `dtype = "float16"`'),
    ("model", "load_in_4bit = true", 'write `method = "bnb-4bit"` in `[quantization]`'),
    ("model", "load_in_8bit = true", 'write `method = "bnb-8bit"` in `[quantization]`'),
    ("model", "load_in_8bit = false", "remove it: this is what happens anyway"),
    ("model", "quantization_bit = 4", 'write `method = "bnb-4bit"` in `[quantization]`'),
    ("model", "flash_attention = true", 'write `attn_implementation = "flash_attention_2"`'),
    ("model", 'flash_attn = "fa2"', 'write `attn_implementation = "flash_attention_2"`'),
    ("", 'base_model = "a/b"', 'write `name_or_path = "a/b"` in `[model]`'),
    ("", 'model_name_or_path = "a/b"', 'write `name_or_path = "a/b"` in `[model]`'),
    ("model", 'model_id = "a/b"', 'write `name_or_path = "a/b"`'),
    ("peft", "r = 8", "write `lora_r = 8`"),
    ("peft", "rank = 8", "write `lora_r = 8`"),
    ("peft", "lora_rank = 8", "write `lora_r = 8`"),
    ("peft", "alpha = 16", "write `lora_alpha = 16`"),
    ("peft", "dropout = 0.1", "write `lora_dropout = 0.1`"),
    ("peft", 'lora_target = "all"', 'write `target_modules = "all-linear"`'),
    ("peft", 'lora_target_modules = ["q_proj"]', 'write `target_modules = ["q_proj"]`'),
    ("peft", "lora_target_linear = true", 'write `target_modules = "all-linear"`'),
    ("peft", "dora = true", "write `use_dora = true`"),
    ("peft", "rslora = true", "write `use_rslora = true`"),
    ("peft", "pissa_init = true", 'write `init_lora_weights = "pissa"`'),
    ("dataset", 'data_path = "x.json"', 'write `path = "x.json"` (`dataset.name` if it is on the hub)'),
    ("dataset", "val_set_size = 0.1", "write `eval_fraction = 0.1` (a share of the rows, below 1)"),
    (
        "dataset",
        'validation_file = "v.json"',
        'write `eval_path = "v.json"` (`dataset.eval_split` for a split of the hub dataset)',
    ),
    (
        "",
        "num_gpus = 2",
        'write `num_processes = 2` in `[distributed]` (with `strategy = "ddp"`; or run `lorans train RECIPE --gpus N`)',
    ),
    (
        "",
        'deepspeed = "z3.json"',
        'write `strategy = "deepspeed"` and `deepspeed_config = "z3.json"` in `[distributed]`',
    ),
    ("", 'wandb_project = "p"', 'write `report_to = ["wandb"]` and `project = "p"` in `[tracking]`'),
    ("dpo", "dpo_beta = 0.3", "write `beta = 0.3`"),
    ("training", "dpo_beta = 0.3", "write `beta = 0.3` in `[dpo]`"),
    ("training", "pref_beta = 0.3", "write `beta = 0.3` in `[dpo]`"),
    ("", 'rl = "dpo"', 'write `loss_type = ["sigmoid"]` in `[dpo]`'),
    ("", 'rl = "ipo"', 'write `loss_type = ["ipo"]` in `[dpo]`'),
    ("", 'rl = "grpo"', "write a table `[grpo]` with its rewards instead"),
    ("", 'lm_eval_tasks = ["gsm8k"]', "write a table `[[evaluation.suites]]` for each"),
    ("", 'rlhf_type = "dpo"', 'write `loss_type = ["sigmoid"]` in `[dpo]`'),
    ("dpo", 'pref_loss = "hinge"', 'write `loss_type = ["hinge"]`'),
    ("dpo", 'pref_loss = "orpo"', "write a table `[orpo]` instead"),
    ("training", "simpo_gamma = 0.5", "`simpo_gamma` belongs in `[cpo]`"),
    ("training", 'stage = "dpo"', 'write `loss_type = ["sigmoid"]` in `[dpo]`'),
    ("model", 'ref_model = "a/b"', "remove it: the reference is the start, which `init_adapter` in `[model]` sets"),
    (
        "dpo",
        "reference_free = true",
        "lorans always compares with the base; a small `beta` in `[dpo]` holds the model less",
    ),
    (
        "dpo",
        "max_prompt_length = 512",
        "each side is limited as a whole: write `max_seq_length` in `[dpo]`, and `on_overflow` for longer ones",
    ),
    ("dpo", "max_length = 512", "write `max_seq_length = 512`"),
    (
        "dpo",
        "rpo_alpha = 1.0",
        'write `loss_type = ["sigmoid", "sft"]` and the weight of each as `loss_weights` in `[dpo]`',
    ),
    ("generation", "max_tokens = 64", "write `max_new_tokens = 64`"),
    ("training", "Learning-Rate = 1e-4", "did you mean `learning_rate`?"),
    # values
    ("peft", 'method = "dora"', 'write `method = "lora"` and `use_dora = true`'),
    ("peft", 'method = "rslora"', 'write `method = "lora"` and `use_rslora = true`'),
    ("peft", 'method = "lora+"', 'write `method = "lora"` and `loraplus_lr_ratio = 16`'),
    ("peft", 'method = "lora_fa"', 'write `method = "lora"` and `use_lora_fa = true`'),
    ("peft", 'method = "pissa"', 'write `method = "lora"` and `init_lora_weights = "pissa"`'),
    ("peft", 'method = "qlora"', 'write `method = "lora"` and `method = "bnb-4bit"` in `[quantization]`'),
    ("peft", 'method = "LoRA"', "did you mean `lora`? `lorans methods` lists them"),
    ("peft", 'method = "bone"', 'write `method = "miss"`'),
    (
        "peft",
        'method = "full"',
        "lorans trains adapters, not all weights; a LoRA of a high rank is the nearest: `lora_r = 256` with rsLoRA",
    ),
    ("quantization", 'method = "4bit"', 'write `method = "bnb-4bit"`'),
    ("quantization", 'method = "nf4"', 'write `method = "bnb-4bit"`'),
    ("quantization", "method = 8", 'write `method = "bnb-8bit"`'),
    ("distributed", 'strategy = "zero3"', 'write `strategy = "deepspeed"` and `zero_stage = 3`'),
    ("distributed", 'strategy = "FSDP2"', 'write `strategy = "fsdp"`'),
    ("training", 'optim = "adamw"', 'write `optim = "adamw_torch"`'),
]


@pytest.mark.parametrize(("table", "line", "told"), BROUGHT, ids=[f"{table}.{line}" for table, line, _ in BROUGHT])
def test_a_name_that_people_bring_leads_to_key_and_value(write_recipe, table, line, told):
    assert remedy(write_recipe, table, line) == told


@pytest.mark.parametrize(
    ("table", "line", "told"),
    [
        ("", 'task_type = "sft"', 'write `task_type = "CAUSAL_LM"`; expected'),
        ("", 'task_type = "ner"', 'write `task_type = "TOKEN_CLS"`; expected'),
        ("", 'task_type = "dpo"', 'write `task_type = "CAUSAL_LM"` and `loss_type = ["sigmoid"]` in `[dpo]`; expected'),
        (
            "",
            'task_type = "ppo"',
            "lorans has no PPO; `[grpo]` needs no value model, and learns from rewards; expected",
        ),
        ("dpo", 'loss_type = "ipo"', 'write `loss_type = ["ipo"]`; expected'),
        ("", 'task_type = "orpo"', 'write `task_type = "CAUSAL_LM"` and a table `[orpo]`; expected'),
        ("model", 'dtype = "bf16"', 'write `dtype = "bfloat16"`; expected'),
        ("model", 'attn_implementation = "fa2"', 'write `attn_implementation = "flash_attention_2"`; expected'),
        ("dataset", 'format = "chat_template"', 'write `format = "messages"`; expected'),
        ("peft", 'target_modules = "all"', 'write `target_modules = "all-linear"`; expected'),
        ("peft", 'target_modules = "q_proj,v_proj"', 'write `target_modules = ["q_proj", "v_proj"]`; expected'),
        ("peft", "init_lora_weights = true", 'write `init_lora_weights = "default"`; expected'),
        ("peft", 'lora_r = "16"', "write 16, without quotes; expected"),
        ("training", 'learning_rate = "2e-4"', "write 0.0002, without quotes; expected"),
        ("sft", 'packing = "true"', "write true, without quotes; expected"),
        ("sft", 'train_on = "completion"', 'write `train_on = "assistant"`; expected'),
        ("tracking", 'report_to = "wandb"', 'write `report_to = ["wandb"]`; expected'),
        ("tracking", 'report_to = ["none"]', 'write a list: `[]` for none, or such as `["wandb"]`; expected'),
        ("training", 'lr_scheduler_type = "linear_with_warmup"', 'write `lr_scheduler_type = "linear"`; expected'),
    ],
)
def test_a_value_that_people_bring_leads_to_the_one_here(write_recipe, table, line, told):
    assert remedy(write_recipe, table, line).startswith(told)


def test_a_text_in_the_place_of_a_table_is_put_into_it(write_recipe):
    def told(text, table):
        with pytest.raises(RecipeError) as caught:
            load_recipe(write_recipe(text))
        return next(problem.remedy for problem in caught.value.problems if problem.key == table)

    assert told(MINIMAL.replace("[model]\nname_or_path", "model"), "model").startswith(
        'write `name_or_path = "lorans:nano"` in `[model]`'
    )
    text = 'peft = "lora"\n' + MINIMAL.replace('[peft]\nmethod = "lora"\n', "")
    assert told(text, "peft") == 'write `method = "lora"` in `[peft]`'


def test_an_override_gets_its_advice_as_an_override(write_recipe):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(), ["training.lr=1e-4"])
    assert caught.value.problems[0].remedy == "write `training.learning_rate=0.0001`"


def test_names_follow_the_method_and_the_objective(write_recipe):
    text = MINIMAL.replace('"lora"', '"loha"').replace("[training]", "[training]\nseq_len = 64")
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(text), ["task_type=SEQ_CLS", "peft.rank=4"])
    assert [problem.remedy for problem in caught.value.problems] == [
        "write `peft.r=4`",
        "write `max_seq_length = 64` in `[classification]`",
    ]


@pytest.mark.parametrize(
    ("option", "value", "only", "told"),
    [
        ("lr", "1e-4", "", "training.learning_rate=1e-4"),
        ("learning-rate", "", "", "training.learning_rate=..."),
        ("epochs", "3", "", "training.num_train_epochs=3"),
        ("output-dir", "out", "", "training.output_dir=out"),
        ("max-new-tokens", "64", "generation", "generation.max_new_tokens=64"),
        ("seed", "1", "", "training.seed=1"),
        ("seed", "1", "generation", "generation.seed=1"),
        ("batch-size", "8", "", "training.global_batch_size=8"),
        ("batch-size", "8", "generation", "generation.batch_size=8"),
        ("lora-r", "8", "", "peft.lora_r=8"),
        ("load_in_4bit", "", "", 'quantization.method="bnb-4bit"'),
        ("lr", "1", "generation", ""),
        ("stage", "dpo", "", 'task_type="CAUSAL_LM" --set dpo.loss_type=["sigmoid"]'),
        ("dpo-beta", "0.3", "", "dpo.beta=0.3"),
        ("pref-loss", "ipo", "", 'dpo.loss_type=["ipo"]'),
        ("colour", "", "", ""),
    ],
)
def test_an_option_of_another_tool_stands_for_an_override(option, value, only, told):
    assert setting_of(option, value, only) == told
