"""Importer for axolotl: one YAML file per run, batches per device, and prompts in plain text.

Source for keys, meanings and defaults: axolotl's schema (`src/axolotl/utils/schemas/`) and the code that reads it.
"""

from __future__ import annotations

import re
from pathlib import PurePath

from lora_ns.importers import preferences, steps
from lora_ns.importers.axolotl_chat import chat_template, evaluation_rows, interval
from lora_ns.importers.axolotl_data import datasets
from lora_ns.importers.axolotl_keys import RULES
from lora_ns.importers.base import Importer, Step
from lora_ns.importers.draft import Draft

# Model and task


def _task(draft: Draft) -> None:
    """Translate the base, which has to be a causal language model, and the name of the run."""
    draft.recipe["task_type"] = "CAUSAL_LM"
    steps.task_name(draft, "output_dir", "hub_model_id")
    draft.path("model.name_or_path", draft.text("base_model"), "base_model")
    draft.put("training.output_dir", draft.text("output_dir", "./model-out"), "output_dir")
    for key in ("base_model_config", "tokenizer_config", "cls_model_config"):
        if draft.has(key) and draft.get(key) == draft.get("base_model"):
            draft.same(key, "it is the base model itself")
        elif draft.has(key):
            draft.refuse(key, "lorans uses the files of the base model", "save both in one folder")


_RL = {"dpo": "sigmoid", "ipo": "ipo"}
"""Values of `rl` that lorans imports, with their loss."""


def _objective(draft: Draft) -> None:
    """Translate `rl` to `[dpo]`, and refuse other training than that."""
    kind = draft.text("rl")
    if kind in _RL:
        draft.objective = "dpo"
        preferences.losses(draft, "dpo_loss_type", _RL[kind], "dpo_loss_weights", "rl")
    elif draft.has("rl"):
        what = f"lorans imports supervised fine-tuning and DPO only, not `{draft.get('rl')}`"
        draft.refuse("rl", what, "use axolotl for this run, or remove `rl` to import the rest", fatal=True)
    for key in ("dpo_loss_type", "dpo_loss_weights"):
        if draft.has(key) and not draft.is_accounted(key):
            draft.unused(key, "it only applies to `rl: dpo`")


# Adapter and quantisation


def _adapter(draft: Draft) -> None:
    """Translate the adapter; full fine-tuning and other adapters are refused."""
    adapter = draft.text("adapter")
    if adapter in ("lora", "qlora"):
        draft.put("peft.method", "lora", "adapter")
        _stored(draft, adapter)
        for name in ("lora_r", "lora_alpha"):
            if not draft.has(name):
                draft.note(f"`{name}` is missing, and axolotl has no default: lorans uses its own")
        return
    for key in _STORED:
        draft.unused(key, "it only applies to the base of an adapter")
    if adapter is not None:
        draft.refuse("adapter", "lorans imports LoRA adapters only", "write `lora` or `qlora`", fatal=True)
    elif not draft.is_refused("adapter"):
        what = "`adapter` is missing, so this is full fine-tuning; lorans trains adapters"
        draft.refuse_file(what, "add `adapter: lora`, `lora_r: 16` and `lora_alpha: 32`, and raise the learning rate")


_STORED = ("load_in_4bit", "load_in_8bit", "gptq")


def _stored(draft: Draft, adapter: str) -> None:
    """Translate the quantisation of the base."""
    if draft.flag("gptq"):
        draft.put("quantization.method", "gptq", "gptq")
    elif adapter == "qlora":
        draft.put("quantization.method", "bnb-4bit", "load_in_4bit", "adapter")
    elif draft.flag("load_in_4bit"):
        draft.put("quantization.method", "bnb-4bit", "load_in_4bit")
    elif draft.flag("load_in_8bit"):
        draft.put("quantization.method", "bnb-8bit", "load_in_8bit")
    for key in _STORED:
        if draft.has(key) and not draft.is_accounted(key):
            draft.flag(key)
            draft.same(key, "the base keeps its own dtype unless `quantization.method` is set")


_PATTERN = re.compile(r"[\\^$*+?()\[\]|]")


_OUTSIDE = ("lm_head", "embed_tokens", "embed_out", "wte")
"""Layers that `all-linear` does not include."""


def _targets(draft: Draft) -> None:
    """Translate the target modules; `lora_target_linear` adds all linear layers to those that are listed."""
    key, every = "lora_target_modules", "lora_target_linear"
    named = draft.names(key)
    if any(_PATTERN.search(name) for name in named):
        draft.refuse(key, "lorans takes suffixes of names, not patterns", "list them, such as `q_proj`, `v_proj`")
        named = []
    if draft.flag(every):
        if outside := [name for name in named if name in _OUTSIDE]:
            what = f"`all-linear` does not include `{outside[0]}`, and cannot be combined with other names"
            draft.refuse(key, what, f"train it in full: `lora_modules_to_save: [{outside[0]}]`")
        if draft.has(key) and not draft.is_refused(key):
            draft.same(key, f"`{every}` includes them")
        said = "without the head and the experts' routers"
        draft.put("peft.target_modules", "all-linear", every, own="all-linear", said=said)
        return
    if draft.has(every):
        draft.same(every, f"only the modules in `{key}` are adapted")
    if named == ["all-linear"]:
        draft.put("peft.target_modules", "all-linear", key, own="all-linear")
    elif named:
        draft.put("peft.target_modules", named, key)
    elif not draft.is_refused(key) and draft.has("adapter") and not draft.has("lora_target_parameters"):
        draft.note(f"neither `{key}` nor `{every}` is set: lorans adapts all linear layers")


def _quantization(draft: Draft) -> None:
    """Translate overrides of bitsandbytes' configuration; lorans has two of its keys."""
    own = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    for leaf in draft.source.below("bnb_config_kwargs"):
        name = leaf.rpartition(".")[2]
        if name in own and draft.recipe.get("quantization.method") == "bnb-4bit":
            draft.put(f"quantization.{name}", draft.get(leaf), leaf, own=own[name])
        elif name in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
            draft.unused(leaf, "lorans uses `model.dtype` for computation")
        else:
            draft.refuse(leaf, "lorans does not support this setting", "remove it if you do not need it")


def _dtype(draft: Draft) -> None:
    """Translate the dtype: bf16 takes precedence over fp16; float32 if both are off; `auto` is lorans's default."""
    kinds = {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16", "float16": "float16", "float32": "float32"}
    values = {key: draft.get(key) for key in kinds if draft.has(key)}
    asked = [key for key, value in values.items() if value is True or value == "full"]
    for key, value in values.items():
        if value not in (True, False, "auto", "full"):
            draft.refuse(key, "lorans has no such dtype", "write true, false or auto")
        elif key in asked[:1]:
            draft.put("model.dtype", kinds[key], key)
        elif value == "auto" and not asked:
            draft.same(key, "lorans chooses the best dtype for the device by default")
        elif value is False:
            draft.same(key, "another dtype is used")
        else:
            draft.unused(key, f"`{asked[0]}` takes precedence")
    if not asked and values.get("bf16") is False:
        draft.put("model.dtype", "float32", "bf16", said="axolotl uses float32 if bf16 and fp16 are off")


# Tokens


_USUAL: tuple[tuple[str, dict[str, str]], ...] = (
    (
        r"mistral|mixtral|llama-?2|code-?llama|tiny-?llama|vicuna|zephyr|openhermes",
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    ),
    (r"llama-?3", {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}),
    (r"qwen", {"eos_token": "<|endoftext|>"}),
    (r"gemma", {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}),
)
"""Special tokens of base models, by a pattern for their names."""


def _tokens(draft: Draft) -> None:
    """Translate new tokens, and check that special tokens are those of the base."""
    base = str(draft.get("base_model") or "").lower()
    usual = next((tokens for pattern, tokens in _USUAL if re.search(pattern, base)), {})
    added = draft.names("tokens")
    extra = draft.names("special_tokens.additional_special_tokens")
    keys = [key for key in ("tokens", "special_tokens.additional_special_tokens") if draft.has(key)]
    for leaf in draft.source.below("special_tokens"):
        role, value = leaf.rpartition(".")[2], draft.get(leaf)
        if role == "pad_token":
            draft.unused(leaf, "padding has no effect on the loss")
        elif role in ("bos_token", "eos_token", "unk_token") and value is not None:
            if value == usual.get(role):
                draft.same(leaf, "it is the base's own token")
            elif role == "eos_token" and _ends_turns(draft, value):
                draft.same(leaf, "the chat template ends every answer with it")
            else:
                what = "lorans uses the special tokens of the base"
                draft.refuse(
                    leaf, what, "remove it if the base has the same token, otherwise change it in the base's tokenizer"
                )
        elif role != "additional_special_tokens" and value is not None:
            draft.refuse(leaf, "unknown to axolotl", "remove it")
    if added or extra:
        said = "lorans trains only the rows of these tokens"
        draft.put("model.add_tokens", list(dict.fromkeys([*added, *extra])), *keys, said=said)


_ENDS = {"chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "gemma": "<end_of_turn>"}


def _ends_turns(draft: Draft, token: str) -> bool:
    """True if a token ends the turns of the chosen chat template, or all rows use that of the base."""
    chosen = draft.recipe.get(draft.own("sft.chat_template"))
    sources = draft.recipe.get("dataset.sources", [{"format": draft.recipe.get("dataset.format")}])
    is_chat = all(source["format"] in ("messages", "sharegpt", "preference") for source in sources)
    return _ENDS.get(str(chosen)) == token or (chosen is None and is_chat)


# Training


def _training(draft: Draft) -> None:
    _batches(draft)
    steps.optimizer(draft, "optimizer", "adamw_torch_fused")
    steps.scheduler(draft, "lr_scheduler", "cosine")
    _warmup(draft)
    _epochs(draft)
    rate = draft.number("learning_rate")
    draft.put("training.learning_rate", rate, "learning_rate")
    if rate is None and not draft.has("learning_rate"):
        draft.note("`learning_rate` is missing, though axolotl requires it: lorans uses its own default")
    interval(draft, "save")
    draft.put("training.save_total_limit", draft.whole("save_total_limit", 4), "save_total_limit", own=2)


def _batches(draft: Draft) -> None:
    """Translate the batch size. `batch_size` is per device too, and only counts without gradient accumulation steps."""
    total, rows = draft.whole("batch_size"), draft.whole("micro_batch_size", 1)
    if total is not None and not draft.has("gradient_accumulation_steps"):
        accumulation = max(1, total // max(1, rows))
        said = f"{rows} x {accumulation} x {draft.gpus} GPU{'s' if draft.gpus != 1 else ''}"
        keys = ("batch_size", "micro_batch_size")
        draft.put("training.global_batch_size", rows * accumulation * draft.gpus, *keys, said=said)
        return
    if draft.has("batch_size"):
        draft.unused("batch_size", "`gradient_accumulation_steps` takes precedence")
    steps.global_batch(draft, "micro_batch_size", "gradient_accumulation_steps", per_device_default=1)


def _warmup(draft: Draft) -> None:
    steps.warmup(draft, "warmup_steps", "warmup_ratio", 0.03, takes_one=True, zero_wins=True)
    if draft.recipe.get("training.warmup_steps") == 1:
        draft.put("training.warmup_steps", 2, "warmup_steps", said="axolotl uses 2 instead of 1")


def _epochs(draft: Draft) -> None:
    most = draft.whole("max_steps")
    if most is not None and most > 0:
        draft.put("training.max_steps", most, "max_steps")
        if draft.has("num_epochs"):
            draft.unused("num_epochs", "`max_steps` takes precedence")
        return
    if draft.has("max_steps"):
        draft.unused("max_steps", "it is off")
    draft.put("training.num_train_epochs", draft.number("num_epochs", 1), "num_epochs")


_LENGTH = "`sequence_len`"


def _lengths(draft: Draft) -> None:
    """Translate the maximum length, the handling of longer rows, packing, and grouping by length without packing."""
    draft.put("sft.max_seq_length", draft.whole("sequence_len", 512), "sequence_len")
    key = "excess_length_strategy"
    ways = {"drop": "drop", "truncate": "truncate", "raise": "error"}
    way = draft.text(key, "drop")
    sources = draft.recipe.get("dataset.sources", [{"format": draft.recipe.get("dataset.format")}])
    texts = [source["format"] == "text" for source in sources]
    if all(texts) and not draft.has(key):
        way, ways = "split", {"split": "split"}  # as the type `completion` does
    elif any(texts):
        draft.note(
            f"axolotl splits `completion` texts longer than {_LENGTH}; here they are treated like the other rows"
        )
    if way in ways:
        said = "" if draft.has(key) else "axolotl's default for longer rows"
        draft.put("sft.on_overflow", ways[way], key, said=said)
    else:
        draft.refuse(key, "lorans has no such strategy for longer rows", f"write one of: {', '.join(ways)}")
    packs = draft.flag("sample_packing")
    draft.put("sft.packing", packs, "sample_packing", own=False)
    if draft.has("group_by_length") or not packs:
        draft.put("training.group_by_length", draft.flag("group_by_length"), "group_by_length", own=True)


# Strategies and trackers


_ZERO: dict[str, dict[str, object]] = {
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "zero3_bf16": {"zero_stage": 3},
    "zero3_bf16_cpuoffload_all": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
    "zero3_bf16_cpuoffload_params": {"zero_stage": 3, "offload_param": "cpu"},
}
"""DeepSpeed files that axolotl includes, by name, with the corresponding recipe keys."""


def _processes(draft: Draft) -> None:
    """Translate DeepSpeed or FSDP, which distribute memory and do not change results."""
    if draft.has("deepspeed"):
        _deepspeed(draft)
    if not any(draft.has(key) for key in ("fsdp", "fsdp_config")):
        return
    if draft.has("deepspeed"):
        for key in ("fsdp", "fsdp_config"):
            draft.refuse(key, "`deepspeed` is also set", "remove one of them")
        return
    draft.put("distributed.strategy", "fsdp", "fsdp", "fsdp_config")
    for leaf in draft.source.below("fsdp_config"):
        name = leaf.rpartition(".")[2].removeprefix("fsdp_")
        if name in ("offload_params", "reshard_after_forward"):
            own = name == "reshard_after_forward"
            recipe = "distributed.reshard_after_forward" if own else "distributed.cpu_offload"
            draft.put(recipe, draft.flag(leaf), leaf, own=own)
        else:
            draft.unused(leaf, "it does not change results; lorans wraps the base's own blocks")


def _deepspeed(draft: Draft) -> None:
    value = draft.get("deepspeed")
    if not isinstance(value, str):
        draft.refuse(
            "deepspeed", "lorans reads it from a file", "save it as JSON, and set `distributed.deepspeed_config`"
        )
        return
    name = PurePath(draft.text("deepspeed", "")).stem.removesuffix("_torch_compile")
    draft.put("distributed.strategy", "deepspeed", "deepspeed")
    if name in _ZERO:
        for key, ours in _ZERO[name].items():
            draft.put(f"distributed.{key}", ours, "deepspeed")
    else:
        draft.path("distributed.deepspeed_config", value, "deepspeed")


_TRACKERS = (
    ("wandb", "use_wandb", "wandb_project", "wandb_name"),
    ("mlflow", "use_mlflow", "mlflow_experiment_name", "mlflow_run_name"),
    ("trackio", "use_trackio", "trackio_project_name", "trackio_run_name"),
    ("tensorboard", "use_tensorboard", "", ""),
    ("swanlab", "use_swanlab", "swanlab_project", "swanlab_experiment_name"),
    ("comet_ml", "use_comet", "comet_project_name", ""),
)
_PLACES = (("wandb", "wandb_entity"), ("mlflow", "mlflow_tracking_uri"))
"""Keys that say where a tracker keeps its runs; `[tracking]` has them under the same names."""


def _places(draft: Draft, used: list[str]) -> None:
    """Translate where trackers keep their runs."""
    for tracker, key in _PLACES:
        if draft.has(key) and tracker in used:
            draft.put(f"tracking.{key}", draft.text(key), key)
        elif draft.has(key):
            draft.unused(key, f"{tracker} is off")


def _trackers(draft: Draft) -> None:
    """Translate the trackers. A tracker is on if its switch is, or without a switch if its project is set."""
    used = []
    for tracker, switch, project, run in _TRACKERS:
        for key in filter(None, (project, run)):
            draft.text(key)
        is_on = draft.flag(switch) if draft.has(switch) else bool(project) and draft.has(project)
        used += [(tracker, [key for key in (switch, project) if key and draft.has(key)], project, run)] if is_on else []
        for key in (switch, project, run):
            if key and draft.has(key) and not is_on:
                draft.unused(key, f"{tracker} is off")
    _places(draft, [tracker for tracker, _, _, _ in used])
    if not used:
        return
    keys = [key for _, given, _, _ in used for key in given]
    draft.put("tracking.report_to", [tracker for tracker, _, _, _ in used], *keys)
    for number, (_, _, project, run) in enumerate(used):
        for key, recipe in ((project, "tracking.project"), (run, "tracking.run_name")):
            if key and draft.has(key):
                if number == 0:
                    draft.put(recipe, draft.text(key), key)
                else:
                    draft.unused(key, f"lorans has one name for all trackers, here that of {used[0][0]}")


def _keys(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STEPS = (
    Step(_task, _keys("base_model output_dir base_model_config tokenizer_config cls_model_config")),
    Step(_objective, _keys("rl dpo_loss_type dpo_loss_weights")),
    Step(_adapter, _keys("adapter load_in_4bit load_in_8bit gptq")),
    Step(_targets, _keys("lora_target_linear lora_target_modules")),
    Step(_quantization, ("bnb_config_kwargs",)),
    Step(_dtype, _keys("bf16 fp16 bfloat16 float16 float32")),
    Step(datasets, _keys("datasets pretraining_dataset")),
    Step(chat_template, _keys("chat_template chat_template_jinja train_on_inputs")),
    Step(evaluation_rows, _keys("test_datasets val_set_size eval_steps eval_strategy evals_per_epoch")),
    Step(_tokens, _keys("tokens special_tokens")),
    Step(
        _training,
        _keys(
            "micro_batch_size gradient_accumulation_steps batch_size optimizer lr_scheduler warmup_steps warmup_ratio "
            "num_epochs max_steps learning_rate save_steps save_strategy saves_per_epoch save_total_limit"
        ),
    ),
    Step(_lengths, _keys("sequence_len excess_length_strategy sample_packing group_by_length")),
    Step(_processes, _keys("deepspeed fsdp fsdp_config")),
    Step(_trackers, (*(key for row in _TRACKERS for key in row[1:] if key), *(key for _, key in _PLACES))),
)


AXOLOTL = Importer(
    name="axolotl",
    signs=_keys(
        "base_model adapter datasets micro_batch_size sequence_len sample_packing pad_to_sequence_len num_epochs "
        "val_set_size dataset_prepared_path lora_target_linear train_on_inputs evals_per_epoch saves_per_epoch "
        "flash_attention lora_modules_to_save tokenizer_type"
    ),
    rules=RULES,
    steps=_STEPS,
)
