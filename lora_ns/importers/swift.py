"""Importer for ms-swift: the options of `swift sft` in a script, its YAML, or the `args.json` of a run.

Source for keys, meanings and defaults: `swift/arguments/` and `swift/trainers/arguments.py`.
"""

from __future__ import annotations

import math
import re
from typing import Any

from lora_ns.importers import steps, training_arguments
from lora_ns.importers.base import Importer, Step
from lora_ns.importers.draft import Draft
from lora_ns.importers.swift_data import DATA_KEYS, rows
from lora_ns.importers.swift_keys import RULES

_ONLY, _KEEP = "lorans imports supervised fine-tuning only", "use ms-swift for this run"


def _task(draft: Draft) -> None:
    """Require fine-tuning or continued pretraining of a causal language model; refuse everything else."""
    draft.recipe["task_type"] = "CAUSAL_LM"
    steps.task_name(draft, "output_dir", "model")
    name = draft.text("model")
    draft.path("model.name_or_path", name, "model")
    last = (name or "model").rstrip("/").rpartition("/")[2]
    draft.put("training.output_dir", draft.text("output_dir", f"output/{last}"), "output_dir")
    if draft.has("command"):
        if draft.get("command") in ("swift sft", "swift pt"):
            draft.same("command", "lorans imports supervised fine-tuning and continued pretraining")
        else:
            draft.refuse("command", _ONLY, _KEEP, fatal=True)
    if draft.has("rlhf_type"):
        draft.refuse("rlhf_type", _ONLY, _KEEP, fatal=True)
    if draft.has("task_type"):
        if draft.text("task_type") == "causal_lm":
            draft.same("task_type", "lorans imports causal language models")
        else:
            what = "lorans imports causal language models only"
            draft.refuse("task_type", what, "write the recipe yourself, with `task_type`", fatal=True)
    world = draft.whole("global_world_size", 1)
    if draft.has("global_world_size"):
        draft.unused("global_world_size", "it is the number of GPUs, unless you set `--gpus N`")
        draft.gpus = world if draft.gpus == 1 and world > 1 else draft.gpus
    if name and not steps.is_local(name) and not draft.flag("use_hf"):
        draft.note(
            "ms-swift downloads models and datasets from ModelScope; lorans uses the same names on the Hugging Face Hub"
        )


_TUNERS = ("tuner_type", "train_type", "sft_type")
"""The key, and its old names."""


def _adapter(draft: Draft) -> None:
    key = next((name for name in _TUNERS if draft.has(name)), _TUNERS[0])
    kind = draft.text(key, "lora")
    if kind == "lora":
        draft.put("peft.method", "lora", key)
    elif not draft.is_refused(key):
        is_full = kind == "full"
        what = "this is full fine-tuning; lorans trains adapters" if is_full else f"lorans does not import `{kind}`"
        remedy = "write `tuner_type: lora`, and make the learning rate about ten times as high"
        draft.refuse(key, what, remedy, fatal=True)
    for old in _TUNERS:
        if draft.has(old) and old != key:
            draft.unused(old, f"`{key}` takes precedence")
        if draft.has(old) and old != _TUNERS[0]:
            draft.amend(old, "removed from ms-swift (now `tuner_type`)")
    draft.put("peft.lora_r", draft.whole("lora_rank", 8), "lora_rank")
    draft.put("peft.lora_alpha", draft.number("lora_alpha", 32), "lora_alpha")
    draft.put("peft.lora_dropout", draft.number("lora_dropout", 0.05), "lora_dropout", own=0.0)
    _targets(draft)
    _quantization(draft)


def _targets(draft: Draft) -> None:
    key, every = "target_modules", "all-linear"
    named = draft.names(key)
    if draft.has("target_regex"):
        draft.refuse("target_regex", "lorans takes suffixes of names, not patterns", "list them in `target_modules`")
    elif named in ([], [every]):
        draft.put("peft.target_modules", every, key, own=every)
    elif any(name.startswith("all-") or re.search(r"[\\^$*+?()\[\]|]", name) for name in named):
        draft.refuse(key, "lorans takes `all-linear` alone, or suffixes of names", "list them, such as `q_proj`")
    else:
        draft.put("peft.target_modules", named, key)


_STORED = ("quant_method", "quant_bits", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")


def _quantization(draft: Draft) -> None:
    method, bits = draft.text("quant_method"), draft.text("quant_bits")
    if method in (None, "bnb") and bits in ("4", "8"):
        draft.put("quantization.method", f"bnb-{bits}bit", "quant_bits", "quant_method")
        if bits == "4":
            kind = draft.text("bnb_4bit_quant_type", "nf4")
            draft.put("quantization.bnb_4bit_quant_type", kind, "bnb_4bit_quant_type", own="nf4")
            double = draft.flag("bnb_4bit_use_double_quant", True)
            draft.put("quantization.bnb_4bit_use_double_quant", double, "bnb_4bit_use_double_quant", own=True)
    elif bits not in (None, "0"):
        for key in ("quant_method", "quant_bits"):
            what = "lorans does not support this quantisation"
            draft.refuse(key, what, "see docs/bases.md for supported quantisations")
    for key in _STORED:
        if draft.has(key) and not draft.is_accounted(key):
            draft.same(key, "the base keeps its own dtype unless `quantization.method` is set")


_LOSSES = {"default": "assistant", "last_round": "last", "all": "all"}


def _loss(draft: Draft) -> None:
    """Translate the choice of turns that are trained on; `swift pt` trains on whole texts, without a chat template."""
    key, is_text = "loss_scale", draft.get("command") == "swift pt"
    has_template = draft.flag("use_chat_template", not is_text)
    if not has_template:
        draft.put("dataset.format", "text", "use_chat_template", said="without a chat template, rows are texts")
    elif draft.has("use_chat_template"):
        draft.same("use_chat_template", "lorans renders conversations with the chat template")
    asked = draft.text(key, "all" if is_text else "default")
    if asked in _LOSSES:
        draft.put("sft.train_on", _LOSSES[asked], key, own="assistant")
    elif not draft.is_refused(key):
        strategy, _, rest = asked.partition("+")
        draft.put("sft.train_on", _LOSSES.get(strategy, "assistant"), own="assistant")
        what = f"lorans trains on a whole turn or not at all, and has no equivalent of `{rest or strategy}`"
        draft.refuse(key, what, f"write one of: {', '.join(_LOSSES)}")


def _template(draft: Draft) -> None:
    """Translate ms-swift's template; one of the base's own family becomes the base's own chat template."""
    key = "template"
    name = draft.text(key)
    if name is None:
        return
    family = re.split(r"[^a-z]", name.lower())[0]
    base = re.sub(r"[^a-z0-9]", "", str(draft.get("model") or "").lower())
    if name == "chatml":
        draft.put("sft.chat_template", "chatml", key)
    elif draft.recipe.get("dataset.format") == "text":
        draft.unused(key, "the rows are plain text")
    elif family and family in base:
        draft.same(key, "lorans uses the base's own template; if it has none, set `sft.chat_template`")
    else:
        what = f"lorans has no chat template equal to `{name}`, which is not of the base's family"
        draft.refuse(key, what, "save it as a .jinja file, and write its path to `sft.chat_template`")


_WAYS = {"delete": "drop", "right": "truncate", "split": "split"}


def _lengths(draft: Draft) -> None:
    """Translate the maximum length, the handling of longer rows, packing, and grouping by length without packing."""
    key = "truncation_strategy"
    way = draft.text(key, "delete")
    most = draft.whole("max_length")
    draft.put("sft.max_seq_length", most, "max_length")
    if way not in _WAYS:
        what = "lorans removes the end of a row, or the beginning of its prompt"
        draft.refuse(key, what, "set `sft.on_overflow`")
    elif most is not None or draft.has(key):
        draft.put("sft.on_overflow", _WAYS[way], key)
    if most is None and not draft.is_refused("max_length"):
        draft.note(
            "`max_length` is missing: ms-swift's limit is the context length of the base; set `sft.max_seq_length`"
        )
    packs = draft.flag("packing")
    draft.put("sft.packing", packs, "packing", own=False)
    if not packs:
        draft.put("training.group_by_length", draft.flag("group_by_length"), "group_by_length", own=True)
    elif draft.has("group_by_length"):
        draft.unused("group_by_length", "it does not apply to packed rows")


def _training(draft: Draft) -> None:
    per_device = draft.whole("per_device_train_batch_size", 1)
    accumulation = max(1, math.ceil(16 / max(1, per_device * draft.gpus)))
    steps.global_batch(
        draft,
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        per_device_default=1,
        accumulation_default=accumulation,
    )
    steps.optimizer(draft, "optim", "adamw_torch_fused")
    steps.scheduler(draft, "lr_scheduler_type", "cosine")
    steps.warmup(draft, "warmup_steps", "warmup_ratio", 0.0, takes_one=True)
    training_arguments.duration(draft, "num_train_epochs", 3)
    draft.put("training.learning_rate", draft.number("learning_rate", 1e-4), "learning_rate")
    draft.put("training.weight_decay", draft.number("weight_decay", 0.1), "weight_decay", own=0.0)
    draft.put("training.adam_beta2", draft.number("adam_beta2", 0.95), "adam_beta2", own=0.999)
    steps.interval(draft, "save_steps", "save_strategy", "training.save_steps")
    trackers: Any = draft.get("report_to")
    if trackers is None:
        draft.put("tracking.report_to", ["tensorboard"], "report_to")
    steps.report_to(draft, "report_to")


def _dtype(draft: Draft) -> None:
    training_arguments.dtype(draft, "torch_dtype", "auto")


def _keys(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STEPS = (
    Step(_task, _keys("model output_dir command rlhf_type task_type global_world_size")),
    Step(_adapter, (*_TUNERS, *_keys("lora_rank lora_alpha lora_dropout target_modules target_regex"), *_STORED)),
    Step(_dtype, _keys("torch_dtype bf16 fp16")),
    Step(rows, DATA_KEYS),
    Step(_loss, _keys("loss_scale use_chat_template")),
    Step(_template, ("template",)),
    Step(_lengths, _keys("max_length truncation_strategy packing group_by_length")),
    Step(
        _training,
        _keys(
            "per_device_train_batch_size gradient_accumulation_steps optim lr_scheduler_type warmup_steps warmup_ratio "
            "num_train_epochs max_steps learning_rate weight_decay adam_beta2 save_steps save_strategy report_to"
        ),
    ),
    Step(training_arguments.processes, _keys("deepspeed fsdp fsdp_config")),
)


_IN_STEPS = {key for step in _STEPS for key in step.keys}


SWIFT = Importer(
    name="ms-swift",
    signs=_keys(
        "tuner_type train_type sft_type swift_version split_dataset_ratio loss_scale attn_impl lazy_tokenize "
        "truncation_strategy quant_bits quant_method ckpt_dir target_regex padding_free model_author use_hf "
        "use_chat_template tuner_backend agent_template add_version val_dataset"
    ),
    rules={key: rule for key, rule in {**training_arguments.ARGUMENTS, **RULES}.items() if key not in _IN_STEPS},
    steps=_STEPS,
)
