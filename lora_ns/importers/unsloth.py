"""Importer for unsloth: the YAML or JSON of `unsloth train --config`, also from Unsloth Studio, or its options.

Source for keys, meanings and defaults: `unsloth_cli/config.py`, and the trainer that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lora_ns.importers import steps, training_arguments
from lora_ns.importers.base import Importer, Step
from lora_ns.importers.draft import Draft, Translation
from lora_ns.importers.rules import Rule, among, each, maps, refused, same, unused
from lora_ns.importers.source import Source
from lora_ns.importers.values import flag, number, whole


def _task(draft: Draft) -> None:
    """Require supervised fine-tuning of a causal language model with LoRA; refuse everything else."""
    draft.recipe["task_type"] = "CAUSAL_LM"
    steps.task_name(draft, "training.output_dir", "model")
    draft.path("model.name_or_path", draft.text("model"), "model")
    draft.put("training.output_dir", draft.text("training.output_dir", "./outputs"), "training.output_dir")
    if draft.has("command"):
        draft.same("command", "lorans imports supervised fine-tuning")
    key = "training.training_type"
    if draft.text(key, "lora").lower() != "lora":
        what = "this is full fine-tuning; lorans trains adapters"
        remedy = "write `training_type: lora`, and make the learning rate about ten times as high"
        draft.refuse(key, what, remedy, fatal=True)
    draft.put("peft.method", "lora", key)


_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _adapter(draft: Draft) -> None:
    draft.put("peft.lora_r", draft.whole("lora.lora_r", 64), "lora.lora_r")
    draft.put("peft.lora_alpha", draft.number("lora.lora_alpha", 16), "lora.lora_alpha")
    draft.put("peft.lora_dropout", draft.number("lora.lora_dropout", 0.0), "lora.lora_dropout", own=0.0)
    key = "lora.target_modules"
    named = draft.names(key) or _LAYERS
    draft.put("peft.target_modules", "all-linear" if named == ["all-linear"] else named, key, own="all-linear")
    stored = "training.load_in_4bit"
    if draft.flag(stored, True):
        draft.put("quantization.method", "bnb-4bit", stored)
    elif draft.has(stored):
        draft.same(stored, "the base keeps its own dtype unless `quantization.method` is set")


_FORMS: Mapping[str, dict[str, Any]] = {
    "messages": {"format": "messages"},
    "chatml": {"format": "messages"},
    "conversational": {"format": "messages"},
    "sharegpt": {"format": "sharegpt"},
    "raw": {"format": "text"},
}


_BEFORE = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n"
)


_ALPACA: Mapping[str, Any] = {
    "format": "prompt-completion",
    "prompt_template": f"{_BEFORE}{{input}}\n\n### Response:\n",
    "fallback_prompt_templates": [f"{_BEFORE}\n\n### Response:\n"],
    "completion_template": "{output}",
}
"""unsloth's text of an Alpaca row, which has an input section even if the row has no input."""


def _rows(draft: Draft) -> None:
    """Translate the location of the rows, their format, and the choice of tokens that are trained on."""
    files, name = draft.names("data.local_dataset"), draft.text("data.dataset")
    if files:
        draft.path("dataset.path", files if len(files) > 1 else files[0], "data.local_dataset")
        if name is not None:
            draft.unused("data.dataset", "`local_dataset` takes precedence")
    elif name is not None and steps.is_local(name):
        draft.path("dataset.path", name, "data.dataset")
    elif name is not None:
        draft.put("dataset.name", name, "data.dataset")
    elif not (draft.is_refused("data.dataset") or draft.is_refused("data.local_dataset")):
        draft.refuse_file("no dataset to train on", "add `data.dataset` or `data.local_dataset`")
    key = "data.format_type"
    kind = draft.text(key, "auto").lower()
    if kind == "auto":
        said = "the file does not name the format of its rows"
        draft.put("dataset.format", "messages", key, said=said)
        draft.note(
            "the file does not name the format of its rows; lorans assumes conversations (`messages`). For rows with "
            '`conversations`, write `format = "sharegpt"`; for Alpaca rows, import it with `format_type: alpaca`'
        )
    elif kind == "alpaca" or kind in _FORMS:
        for recipe, value in (_ALPACA if kind == "alpaca" else _FORMS[kind]).items():
            draft.put(f"dataset.{recipe}", value, key)
    else:
        draft.refuse(key, "unsloth has no such format", "write one of: alpaca, chatml, sharegpt, raw, auto", fatal=True)
    only = "training.train_on_completions"
    trained = "assistant" if draft.flag(only) and kind != "raw" else "all"
    draft.put("sft.train_on", trained, only, own="assistant")


def _training(draft: Draft) -> None:
    own = "training."
    steps.global_batch(
        draft,
        f"{own}batch_size",
        f"{own}gradient_accumulation_steps",
        per_device_default=2,
        accumulation_default=4,
    )
    steps.optimizer(draft, f"{own}optim", "adamw_8bit")
    steps.scheduler(draft, f"{own}lr_scheduler_type", "linear")
    _warmup(draft)
    most = draft.whole(f"{own}max_steps", 0)
    if most > 0:
        draft.put("training.max_steps", most, f"{own}max_steps")
        if draft.has(f"{own}num_epochs"):
            draft.unused(f"{own}num_epochs", "`max_steps` takes precedence")
    else:
        if draft.has(f"{own}max_steps"):
            draft.unused(f"{own}max_steps", "it is off")
        draft.put("training.num_train_epochs", draft.number(f"{own}num_epochs", 3), f"{own}num_epochs")
    draft.put("training.learning_rate", draft.number(f"{own}learning_rate", 2e-4), f"{own}learning_rate")
    draft.put("training.weight_decay", draft.number(f"{own}weight_decay", 0.01), f"{own}weight_decay", own=0.0)
    draft.put("training.seed", draft.whole(f"{own}random_seed", 3407), f"{own}random_seed", own=42)
    draft.put("sft.max_seq_length", draft.whole(f"{own}max_seq_length", 2048), f"{own}max_seq_length")
    draft.put("sft.on_overflow", "truncate", said="unsloth truncates longer rows at the end")
    packs = draft.flag(f"{own}packing")
    draft.put("sft.packing", packs, f"{own}packing", own=False)
    if not packs:
        draft.put("training.group_by_length", False, own=True, said="unsloth does not group rows by length")
    every = draft.whole(f"{own}save_steps", 0)
    if every > 0:
        draft.put("training.save_steps", every, f"{own}save_steps")
    elif draft.has(f"{own}save_steps"):
        draft.unused(f"{own}save_steps", "it is off; lorans saves a checkpoint once per epoch")


def _warmup(draft: Draft) -> None:
    """Translate the warm-up: a fraction of the run takes precedence over a number of steps."""
    number, ratio = "training.warmup_steps", "training.warmup_ratio"
    if not draft.has(ratio):
        draft.put("training.warmup_steps", draft.whole(number, 5), number)
        return
    draft.put("training.warmup_ratio", draft.number(ratio), ratio)
    if draft.has(number):
        draft.unused(number, "`warmup_ratio` takes precedence")


def _trackers(draft: Draft) -> None:
    own = "logging."
    switches = {"wandb": f"{own}enable_wandb", "tensorboard": f"{own}enable_tensorboard"}
    used = [tracker for tracker, switch in switches.items() if draft.flag(switch)]
    if used:
        draft.put("tracking.report_to", used, *(switches[tracker] for tracker in used))
    if "wandb" in used:
        draft.put("tracking.project", draft.text(f"{own}wandb_project", "unsloth-training"), f"{own}wandb_project")
    for key in (*switches.values(), f"{own}wandb_project"):
        if draft.has(key) and not draft.is_accounted(key):
            draft.unused(key, "lorans does not report to this tracker")


_SECRET = unused("lorans reads secrets from the environment, such as `HF_TOKEN`")


_RULES: Mapping[str, Rule] = {
    "training.gradient_checkpointing": among(
        "training.gradient_checkpointing",
        {"unsloth": True, "true": True, True: True, "none": False, "false": False, False: False},
    ),
    "lora.use_rslora": maps("peft.use_rslora", flag, own=False),
    "lora.use_dora": maps("peft.use_dora", flag, own=False),
    "lora.use_loftq": refused(
        "lorans does not support LoftQ", "see `peft.init_lora_weights` for other initialisations, such as `pissa`"
    ),
    **each("lora.vision_all_linear lora.finetune_vision_layers", unused("lorans trains on text only")),
    **each(
        "lora.finetune_language_layers lora.finetune_attention_modules lora.finetune_mlp_modules",
        same(
            "lorans adapts the layers in `target_modules`",
            True,
            remedy="remove these layers from `target_modules`",
            read=flag,
        ),
    ),
    **each("logging.wandb_token logging.hf_token hf_token wandb_token", _SECRET),
    "logging.tensorboard_dir": unused("lorans writes its logs to the run directory"),
    **each("dry_run resume resume_from_checkpoint", unused("use `lorans train --resume RUN`")),
    "environment": training_arguments.ARGUMENTS["environment"],
    "training.eval_steps": unused("there are no evaluation rows; set `dataset.eval_fraction` to evaluate", number),
    "training.logging_steps": maps("training.logging_steps", whole),
}


def _keys(text: str, before: str = "") -> tuple[str, ...]:
    return tuple(f"{before}{name}" for name in text.split())


_STEPS = (
    Step(_task, _keys("model command training.output_dir training.training_type")),
    Step(_adapter, (*_keys("lora_r lora_alpha lora_dropout target_modules", "lora."), "training.load_in_4bit")),
    Step(_rows, (*_keys("dataset local_dataset format_type", "data."), "training.train_on_completions")),
    Step(
        _training,
        _keys(
            "batch_size gradient_accumulation_steps warmup_steps max_steps num_epochs learning_rate weight_decay "
            "random_seed max_seq_length packing save_steps optim lr_scheduler_type warmup_ratio",
            "training.",
        ),
    ),
    Step(_trackers, _keys("enable_wandb enable_tensorboard wandb_project", "logging.")),
)


@dataclass(frozen=True)
class _Unsloth(Importer):
    """Importer that recognises unsloth by keys within tables, and puts options into the tables of its files."""

    def likeness(self, source: Source) -> int:
        tables = [source.values.get(name) for name in ("data", "training")]
        own = [f"{name}.{key}" for name in ("data", "training") for key in (source.get(name) or ())]
        return sum(key in self.known for key in own) if all(isinstance(table, dict) for table in tables) else 0

    def translate(self, source: Source, gpus: int) -> Translation:
        return super().translate(_in_tables(source, self.known) if source.tool else source, gpus)


def _in_tables(source: Source, known: tuple[str, ...]) -> Source:
    """Return options under their keys in a file: `--lora-r` as `lora.lora_r`."""
    places = {key.rpartition(".")[2]: key for key in known if "." in key}
    names = {key: places.get(key, key) for key in source.values}
    return replace(
        source,
        values={names[key]: value for key, value in source.values.items()},
        lines={names[key]: line for key, line in source.lines.items()},
        leaves=tuple(names[leaf] for leaf in source.leaves),
    )


UNSLOTH = _Unsloth(name="unsloth", signs=(), rules=_RULES, steps=_STEPS)
