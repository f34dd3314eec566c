"""Importer for LLaMA-Factory: one YAML file per run, and `dataset_info.json` for the datasets.

Source for keys, meanings and defaults: `src/llamafactory/hparams/`, and transformers' `TrainingArguments`, which
LLaMA-Factory extends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

from lora_ns.importers import steps
from lora_ns.importers.base import Importer, Step
from lora_ns.importers.draft import Draft
from lora_ns.importers.llamafactory_chat import chat_template, trained_tokens
from lora_ns.importers.llamafactory_data import (
    Entry,
    RowOptions,
    datasets,
    entries_of,
    is_dataset_info,
    table_of,
)
from lora_ns.importers.llamafactory_evaluation import evaluation_rows
from lora_ns.importers.llamafactory_keys import RULES
from lora_ns.importers.llamafactory_uses import of_training, other_use
from lora_ns.importers.written import toml_value

# Model and task


def _use(draft: Draft) -> None:
    """Refuse a file that does not configure a training run."""
    if use := other_use(draft.source):
        draft.refuse_file(use.what, use.remedy)
        for leaf in draft.source.leaves:
            if use.has_own_keys or leaf.partition(".")[0] in LLAMAFACTORY.known:
                draft.unused(leaf, use.why)


def _task(draft: Draft) -> None:
    """Translate the base, which has to be a causal language model, and require LoRA."""
    draft.recipe["task_type"] = "CAUSAL_LM"
    steps.task_name(draft)
    draft.path("model.name_or_path", draft.text("model_name_or_path"), "model_name_or_path")
    if not draft.has("model_name_or_path"):
        draft.refuse_file("no `model_name_or_path`", "add it, with the name of the base model")
    draft.put("training.output_dir", draft.text("output_dir", draft.recipe["task_name"]), "output_dir")
    kind = draft.text("finetuning_type", "lora")
    if kind == "lora":
        draft.put("peft.method", "lora", "finetuning_type")
    else:
        what = f"`{kind}` trains the base's own weights; lorans trains adapters"
        remedy = "write `lora`, with `lora_rank: 16`, and make the learning rate about ten times as high"
        if kind == "oft":
            what, remedy = "lorans imports LoRA adapters only", 'write the recipe yourself, with `peft.method = "oft"`'
        draft.refuse("finetuning_type", what, remedy, fatal=True)
    if draft.has("do_train"):
        draft.same("do_train", "it is what `lorans train` does")
    _remote_code(draft)


def _stage(draft: Draft) -> None:
    """Choose the objective, and refuse those that lorans does not import."""
    stage = draft.text("stage", "sft")
    if stage == "sft" and draft.has("stage"):
        draft.same("stage", "lorans trains on answers by default")
    elif stage == "pt":
        draft.put("dataset.format", "text", "stage")
    elif stage == "dpo":
        draft.objective = "dpo"
        _preferences(draft)
    elif stage != "sft":
        what = f"lorans imports supervised fine-tuning, continued pretraining and DPO, not `{stage}`"
        remedy = "use LLaMA-Factory for this run, or train on the answers with `stage: sft`"
        draft.refuse("stage", what, remedy, fatal=True)
    for key in _OF_PAIRS:
        if draft.has(key) and not draft.is_accounted(key):
            draft.unused(key, "it only applies to `stage: dpo`")


_OF_PAIRS = ("pref_loss", "pref_ftx")


def _preferences(draft: Draft) -> None:
    """Translate the loss of `stage: dpo`, to which `pref_ftx` adds that of the chosen answers."""
    loss, share = draft.text("pref_loss", "sigmoid"), draft.number("pref_ftx", 0.0)
    if loss not in ("sigmoid", "hinge", "ipo"):
        what, remedy = f"lorans imports DPO, not `{loss}`", "write one of: sigmoid, hinge, ipo"
        for key in ("pref_loss", "stage"):
            draft.refuse(key, what, remedy, fatal=True)
    elif share:
        draft.put("dpo.loss_type", [loss, "sft"], "stage", "pref_loss", "pref_ftx")
        said = "lorans averages this loss over all tokens of a batch, LLaMA-Factory first over those of a row"
        draft.put("dpo.loss_weights", [1.0, float(share)], "pref_ftx", said=said)
    else:
        draft.put("dpo.loss_type", [loss], "stage", "pref_loss")
        if draft.has("pref_ftx"):
            draft.same("pref_ftx", "no loss of the chosen answers is added")


_IN_TRANSFORMERS = re.compile(
    r"qwen-?(1\.5|2|3)|llama-?[234]|code-?llama|tiny-?llama|mistral|mixtral|ministral|gemma|smollm|olmo|granite|glm-?4-"
    r"|yi-|deepseek-(llm|coder)|phi-(2|3|4)",
    re.IGNORECASE,
)
"""Names of bases whose code is in transformers; LLaMA-Factory's examples set `trust_remote_code` for all bases."""


def _remote_code(draft: Draft) -> None:
    """Translate `trust_remote_code`, which most files set and few bases need."""
    key, base = "trust_remote_code", str(draft.get("model_name_or_path") or "")
    is_pinned = draft.has("model_revision")
    if draft.flag(key) and not is_pinned and (found := _IN_TRANSFORMERS.search(PurePath(base).name)):
        draft.unused(key, f"transformers has the code of `{found[0]}` models")
    else:
        draft.put("model.trust_remote_code", draft.flag(key), key, own=False)


# Adapter, base and tokens


def _adapter(draft: Draft) -> None:
    rank = draft.whole("lora_rank", 8)
    draft.put("peft.lora_r", rank, "lora_rank")
    alpha = draft.number("lora_alpha") or None
    if alpha is None and not draft.is_refused("lora_alpha"):
        said = "LLaMA-Factory's default of `lora_alpha`: twice the rank"
        draft.put("peft.lora_alpha", 2 * rank, "lora_alpha", said=said)
    draft.put("peft.lora_alpha", alpha, "lora_alpha")
    named = draft.names("lora_target") or ["all"]
    if named == ["all"]:
        said = "without the head and the experts' routers"
        draft.put("peft.target_modules", "all-linear", "lora_target", own="all-linear", said=said)
    else:
        draft.put("peft.target_modules", named, "lora_target")
    if draft.flag("pissa_init"):
        times = draft.whole("pissa_iter", 16)
        value = "pissa" if times == -1 else f"pissa_niter_{times}"
        draft.put("peft.init_lora_weights", value, "pissa_init", "pissa_iter")
    else:
        for key in ("pissa_init", "pissa_iter"):
            if draft.has(key):
                draft.unused(key, "PiSSA is off")


def _quantization(draft: Draft) -> None:
    """Translate the quantisation: that of a base that is already quantised, as its name shows, or bitsandbytes."""
    base = PurePath(str(draft.get("model_name_or_path") or "")).name
    if stored := re.search(r"(gptq|awq)(?:-int(\d))?", base, re.IGNORECASE):
        draft.put("quantization.method", stored[1].lower(), "model_name_or_path")
        draft.put("quantization.bits", int(stored[2]) if stored[2] else None, "model_name_or_path", own=4)
        for key in ("quantization_bit", "quantization_method", "quantization_type", "double_quantization"):
            if draft.has(key):
                draft.unused(key, "the base is already quantised")
        return
    bits, method = draft.whole("quantization_bit"), draft.text("quantization_method", "bnb")
    own = {"quantization_type": "nf4", "double_quantization": True}
    recipe = {"quantization_type": "bnb_4bit_quant_type", "double_quantization": "bnb_4bit_use_double_quant"}
    if bits is not None and (bits not in (4, 8) or method not in ("bnb", "bitsandbytes")):
        what = f"lorans does not quantise to {bits} bits with `{method}`"
        draft.refuse("quantization_bit", what, "write 4 or 8, with `quantization_method: bnb`")
    elif bits is not None:
        draft.put("quantization.method", f"bnb-{bits}bit", "quantization_bit", "quantization_method")
    for key, value in own.items():
        if bits == 4 and not draft.is_refused("quantization_bit"):
            found = draft.flag(key, True) if value is True else draft.text(key, "nf4")
            draft.put(f"quantization.{recipe[key]}", found, key, own=value)
        elif draft.has(key):
            draft.unused(key, "it only applies to 4 bits with bitsandbytes")
    if draft.has("quantization_method") and not draft.is_accounted("quantization_method"):
        draft.unused("quantization_method", "the base is not quantised")


def _dtype(draft: Draft) -> None:
    kinds = {"bf16": "bfloat16", "fp16": "float16"}
    asked = [key for key in kinds if draft.flag(key)]
    for key, kind in kinds.items():
        if key in asked[:1]:
            draft.put("model.dtype", kind, key)
        elif draft.has(key) and not draft.is_refused(key):
            said = "another dtype is used" if asked else "lorans chooses the best dtype for the device by default"
            draft.same(key, said)


def _tokens(draft: Draft) -> None:
    """Translate new tokens; lorans always adds their embeddings."""
    found = {key: draft.names(key) for key in ("add_tokens", "add_special_tokens")}
    keys = [key for key in found if draft.has(key) and not draft.is_refused(key)]
    added = [name for key in keys for name in found[key]]
    if added:
        said = "lorans trains only the embeddings of these tokens"
        draft.put("model.add_tokens", list(dict.fromkeys(added)), *keys, said=said)
    if draft.has("resize_vocab"):
        draft.same("resize_vocab", "lorans always adds embeddings for new tokens")
    if draft.has("new_special_tokens_config"):
        what = "lorans initialises new tokens in its own way, not from descriptions"
        draft.refuse("new_special_tokens_config", what, "list the tokens in `add_tokens`")


# Training


def _training(draft: Draft) -> None:
    steps.global_batch(draft, "per_device_train_batch_size", "gradient_accumulation_steps", per_device_default=8)
    draft.put("training.learning_rate", draft.number("learning_rate", 5e-5), "learning_rate")
    steps.optimizer(draft, "optim", "adamw_torch_fused")
    steps.scheduler(draft, "lr_scheduler_type", "linear")
    steps.warmup(draft, "warmup_steps", "warmup_ratio", 0.0)
    most = draft.whole("max_steps")
    if most is not None and most > 0:
        draft.put("training.max_steps", most, "max_steps")
        if draft.has("num_train_epochs"):
            draft.unused("num_train_epochs", "`max_steps` takes precedence")
    else:
        if draft.has("max_steps"):
            draft.unused("max_steps", "it is off")
        draft.put("training.num_train_epochs", draft.number("num_train_epochs", 3), "num_train_epochs")
    steps.interval(draft, "save_steps", "save_strategy", "training.save_steps")


def _evaluation(draft: Draft) -> None:
    strategy = "eval_strategy" if draft.has("eval_strategy") else "evaluation_strategy"
    if evaluation_rows(draft):
        steps.interval(draft, "eval_steps", strategy, "training.eval_steps")
    for key in ("eval_steps", "eval_strategy", "evaluation_strategy", "do_eval"):
        if draft.has(key) and not draft.is_accounted(key):
            draft.unused(key, "lorans evaluates if there are evaluation rows; see `val_size` and `eval_dataset`")


def _lengths(draft: Draft) -> None:
    """Translate the maximum length, the handling of longer rows, packing, and grouping by length without packing."""
    draft.put("sft.max_seq_length", draft.whole("cutoff_len", 2048), "cutoff_len")
    is_text = draft.get("stage") == "pt"
    packs = draft.flag("packing", is_text) or draft.flag("neat_packing")
    way, said = _overflow(draft, is_text, packs)
    draft.put("sft.on_overflow", way, said=said)
    keys = [key for key in ("packing", "neat_packing") if draft.has(key)] or ["packing"]
    if packs:
        draft.put("sft.packing", True, *keys, said="rows do not attend to one another, as with `neat_packing`")
    else:
        draft.put("sft.packing", False, *keys, own=False)
    keys = ["group_by_length", "train_sampling_strategy"]
    if any(draft.has(key) for key in keys) or not packs:
        groups = draft.flag("group_by_length") or draft.text("train_sampling_strategy") == "group_by_length"
        draft.put("training.group_by_length", groups, *keys, own=True)


def _overflow(draft: Draft, is_text: bool, packs: bool) -> tuple[str, str]:
    """Return the closest strategy for longer rows, and LLaMA-Factory's own strategy in words."""
    if is_text and packs:
        return "split", "LLaMA-Factory splits longer texts"
    if is_text:
        return "truncate", "LLaMA-Factory truncates longer texts"
    forms = [draft.recipe.get("dataset.format"), *(one["format"] for one in draft.recipe.get("dataset.sources", []))]
    if "sharegpt" in forms or ("messages" in forms and "dataset.prompt_template" not in draft.recipe):
        return "truncate", "LLaMA-Factory shortens prompt and answer; lorans truncates at the end"
    return "truncate-prompt", "LLaMA-Factory shortens prompt and answer; lorans removes the beginning of the prompt"


def _stream(draft: Draft) -> None:
    is_stream = draft.flag("streaming")
    draft.put("dataset.streaming", is_stream, "streaming", own=False)
    if is_stream:
        draft.put("dataset.shuffle_buffer_size", draft.whole("buffer_size", 16384), "buffer_size")
    elif draft.has("buffer_size"):
        draft.unused("buffer_size", "it only applies to streaming")


# Strategies and trackers


_ZERO: Mapping[str, Mapping[str, object]] = {
    "ds_z0_config": {"strategy": "ddp"},
    "ds_z2_config": {"zero_stage": 2},
    "ds_z2_offload_config": {"zero_stage": 2, "offload_optimizer": "cpu"},
    "ds_z3_config": {"zero_stage": 3},
    "ds_z3_offload_config": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
}
"""LLaMA-Factory's own DeepSpeed files, by name, with the corresponding recipe keys."""


def _processes(draft: Draft) -> None:
    """Translate DeepSpeed or FSDP, which distribute memory and do not change results."""
    if draft.has("deepspeed"):
        value = draft.get("deepspeed")
        if not isinstance(value, str):
            remedy = "save it as JSON, and set `distributed.deepspeed_config`"
            draft.refuse("deepspeed", "lorans reads it from a file", remedy)
        else:
            draft.put("distributed.strategy", "deepspeed", "deepspeed")
            for key, ours in _ZERO.get(PurePath(value).stem, {}).items():
                draft.put(f"distributed.{key}", ours, "deepspeed")
            if PurePath(value).stem not in _ZERO:
                draft.path("distributed.deepspeed_config", draft.text("deepspeed"), "deepspeed")
    keys = [key for key in ("fsdp", "fsdp_config") if draft.has(key)]
    if keys and draft.has("deepspeed"):
        for key in keys:
            draft.refuse(key, "`deepspeed` is also set", "remove one of them")
    elif keys:
        draft.put("distributed.strategy", "fsdp", *keys, said="lorans wraps the base's own blocks")
        draft.put("distributed.cpu_offload", "offload" in str(draft.get("fsdp")).split() or None, "fsdp")


def _trackers(draft: Draft) -> None:
    steps.report_to(draft, "report_to")
    for key in ("run_name", "project"):
        if draft.has(key) and "tracking.report_to" in draft.recipe:
            draft.put(f"tracking.{key}", draft.text(key), key)
        elif draft.has(key):
            draft.unused(key, "lorans reports to no tracker")


def _keys(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STEPS = (
    Step(_use, ()),
    Step(of_training(_task), _keys("finetuning_type do_train model_name_or_path output_dir trust_remote_code")),
    Step(of_training(_stage), ("stage", *_OF_PAIRS)),
    Step(of_training(_adapter), _keys("lora_rank lora_alpha lora_target pissa_init pissa_iter")),
    Step(
        of_training(_quantization),
        _keys("quantization_bit quantization_method quantization_type double_quantization"),
    ),
    Step(of_training(_dtype), _keys("bf16 fp16")),
    Step(of_training(_tokens), _keys("add_tokens add_special_tokens resize_vocab new_special_tokens_config")),
    Step(of_training(datasets), _keys("dataset dataset_dir mix_strategy interleave_probs max_samples")),
    Step(
        of_training(_evaluation),
        _keys("eval_dataset val_size eval_steps eval_strategy evaluation_strategy do_eval"),
    ),
    Step(of_training(chat_template), _keys("template default_system enable_thinking preserve_thinking")),
    Step(of_training(trained_tokens), _keys("train_on_prompt mask_history")),
    Step(
        of_training(_training),
        _keys(
            "per_device_train_batch_size gradient_accumulation_steps learning_rate optim lr_scheduler_type "
            "warmup_steps warmup_ratio max_steps num_train_epochs save_steps save_strategy"
        ),
    ),
    Step(of_training(_lengths), _keys("cutoff_len packing neat_packing group_by_length train_sampling_strategy")),
    Step(of_training(_stream), _keys("streaming buffer_size")),
    Step(of_training(_processes), _keys("deepspeed fsdp fsdp_config")),
    Step(of_training(_trackers), _keys("report_to run_name project")),
)


LLAMAFACTORY = Importer(
    name="llamafactory",
    signs=_keys(
        "stage finetuning_type lora_target cutoff_len template dataset_dir lora_rank plot_loss overwrite_cache "
        "preprocessing_num_workers quantization_bit export_dir export_size export_device export_legacy_format "
        "adapter_name_or_path infer_backend mask_history neat_packing eval_dataset val_size max_samples model_class "
        "kernel_config dist_config quant_config"
    ),
    rules=RULES,
    steps=_STEPS,
)


# `dataset_info.json` on its own


def _listed(draft: Draft) -> None:
    """Show each dataset as keys of `[dataset]`, for a recipe that you write yourself."""
    names = entries_of(draft.source)
    remedy = "import the YAML of the training run; lorans reads this file with it"
    draft.refuse_file("this file lists datasets and does not configure a training run", remedy)
    tables = []
    for name in names:
        is_text = draft.has(f"{name}.columns.prompt") and not draft.has(f"{name}.columns.response")
        options = RowOptions(is_pretraining=is_text, are_pairs=draft.flag(f"{name}.ranking"))
        table = table_of(Entry(draft, name, draft.source.path.parent), options)
        if table is not None:
            rows = {("train_split" if key == "split" else key): value for key, value in table.items()}
            text = ", ".join(f"{key} = {toml_value(value)}" for key, value in rows.items())
            draft.note(f"`{name}` as `[dataset]`: {text}")
            tables.append((name, table))
        else:
            for leaf in draft.source.below(name):
                if not draft.is_accounted(leaf):
                    draft.unused(leaf, "the dataset is not carried over")
    leaves = [leaf for name, _ in tables for leaf in draft.source.below(name) if not draft.is_accounted(leaf)]
    if leaves:
        draft.put("dataset.sources", [table for _, table in tables], *leaves)


DATASET_INFO = Importer(
    name="dataset_info",
    signs=(),
    rules={},
    steps=(Step(_listed, ()),),
    looks=is_dataset_info,
)
"""Importer for LLaMA-Factory's list of datasets, if you name it instead of the training configuration."""
