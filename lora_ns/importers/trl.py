"""Importer for TRL: the YAML of `trl sft --config`, and its variants in the alignment handbook and open-r1.

Source for keys, meanings and defaults: `ScriptArguments`, `DatasetMixtureConfig`, `SFTConfig` and `ModelConfig` in
`trl/`, and `TrainingArguments` in transformers. Batches are per device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lora_ns.importers import steps, training_arguments
from lora_ns.importers.base import Importer, Step
from lora_ns.importers.draft import Draft
from lora_ns.importers.preferences import trains_pairs
from lora_ns.importers.trl_data import DATA_KEYS, rows
from lora_ns.importers.trl_keys import OTHER_TRAININGS, RULES
from lora_ns.importers.trl_pairs import objective


def _task(draft: Draft) -> None:
    """Translate the base, which has to be a causal language model, and the objective."""
    draft.recipe["task_type"] = "CAUSAL_LM"
    steps.task_name(draft, "output_dir", "hub_model_id", "run_name")
    draft.path("model.name_or_path", draft.text("model_name_or_path"), "model_name_or_path")
    draft.put("training.output_dir", draft.text("output_dir", "trainer_output"), "output_dir")
    objective(draft)


def _adapter(draft: Draft) -> None:
    """Translate LoRA and the quantisation; refuse full fine-tuning, which is TRL's default."""
    if not draft.flag("use_peft"):
        if draft.is_refused("use_peft"):
            draft.refuse_file("`use_peft` is neither true nor false", "write `use_peft: true`")
        elif draft.has("use_peft"):
            what = "this is full fine-tuning; lorans trains adapters"
            remedy = "write `use_peft: true`, and make the learning rate about ten times as high"
            draft.refuse("use_peft", what, remedy, fatal=True)
        else:
            what = "`use_peft` is missing, so this is full fine-tuning; lorans trains adapters"
            draft.refuse_file(what, "add `use_peft: true`, and make the learning rate about ten times as high")
        for key in _LORA_KEYS:
            if draft.has(key):
                draft.unused(key, "TRL only reads it with `use_peft: true`")
        return
    draft.put("peft.method", "lora", "use_peft")
    draft.put("peft.lora_r", draft.whole("lora_r", 16), "lora_r")
    draft.put("peft.lora_alpha", draft.number("lora_alpha", 32), "lora_alpha")
    draft.put("peft.lora_dropout", draft.number("lora_dropout", 0.05), "lora_dropout", own=0.0)
    _targets(draft)
    if draft.flag("load_in_4bit"):
        draft.put("quantization.method", "bnb-4bit", "load_in_4bit")
        kind = draft.text("bnb_4bit_quant_type", "nf4")
        draft.put("quantization.bnb_4bit_quant_type", kind, "bnb_4bit_quant_type", own="nf4")
        nested = draft.flag("use_bnb_nested_quant")
        draft.put("quantization.bnb_4bit_use_double_quant", nested, "use_bnb_nested_quant", own=True)
    elif draft.flag("load_in_8bit"):
        draft.put("quantization.method", "bnb-8bit", "load_in_8bit")
    for key in ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant"):
        if draft.has(key) and not draft.is_accounted(key):
            draft.same(key, "the base keeps its own dtype unless `quantization.method` is set")


_LORA_KEYS = (
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "load_in_4bit", "load_in_8bit"),
    *("bnb_4bit_quant_type", "use_bnb_nested_quant"),
)


_PATTERN = re.compile(r"[\\^$*+?()\[\]|]")


_USUAL: tuple[tuple[str, list[str]], ...] = (
    (r"pythia|neox|falcon|bloom", ["query_key_value"]),
    (r"gpt2|gpt-2", ["c_attn"]),
    (r"phi-(1|2)", ["q_proj", "v_proj", "fc1", "fc2"]),
)
"""PEFT's default target modules by a pattern for the base's name; for other bases they are `_MOST`."""


_MOST = ["q_proj", "v_proj"]


def _targets(draft: Draft) -> None:
    key = "lora_target_modules"
    named = draft.names(key)
    if any(_PATTERN.search(name) for name in named):
        draft.refuse(key, "lorans takes suffixes of names, not patterns", "list them, such as `q_proj`, `v_proj`")
    elif named == ["all-linear"]:
        draft.put("peft.target_modules", "all-linear", key, own="all-linear")
    elif named:
        draft.put("peft.target_modules", named, key)
    elif not draft.is_refused(key):
        base = str(draft.get("model_name_or_path") or "").lower()
        usual = next((layers for pattern, layers in _USUAL if re.search(pattern, base)), _MOST)
        draft.put("peft.target_modules", usual, key, said="PEFT's default for this base")


def _forms(draft: Draft) -> list[str | None]:
    """Return the format of each dataset; None if the file does not name it."""
    sources = draft.recipe.get("dataset.sources")
    if sources is None:
        return [draft.recipe.get("dataset.format")]
    return [source.get("format") for source in sources]


def _pin(draft: Draft, form: str, why: str) -> None:
    """Set the format of datasets without one, so that rows in another format are errors."""
    if "dataset.sources" in draft.recipe:
        sources = draft.recipe["dataset.sources"]
        draft.recipe["dataset.sources"] = [{**one, "format": one.get("format", form)} for one in sources]
    elif "dataset.format" not in draft.recipe and any(key.startswith("dataset.") for key in draft.recipe):
        draft.put("dataset.format", form, said=why)


_COMPLETION, _ASSISTANT = "completion_only_loss", "assistant_only_loss"


def _loss(draft: Draft) -> None:
    """Translate the choice of tokens that are trained on; TRL's default depends on the columns of the rows."""
    if trains_pairs(draft):
        _pin(draft, "preference", "`trl dpo` trains pairs")
        for name in (_COMPLETION, _ASSISTANT, "dataset_text_field"):
            if draft.has(name):
                draft.unused(name, "both answers of a pair are trained")
        return
    _text_field(draft)
    key = "sft.train_on"
    if draft.flag(_ASSISTANT):
        _pin(draft, "messages", "`assistant_only_loss` is for conversations")
        draft.put(key, "assistant", _ASSISTANT, own="assistant")
    elif draft.flag(_COMPLETION):
        _pin(draft, "prompt-completion", "`completion_only_loss` is for prompts with completions")
        draft.put(key, "assistant", _COMPLETION, own="assistant")
    elif draft.has(_COMPLETION):
        draft.put(key, "all", _COMPLETION)
    else:
        _loss_by_columns(draft, key)
    for name in (_COMPLETION, _ASSISTANT):
        if draft.has(name) and not draft.is_accounted(name):
            draft.same(name, f"`{key}` selects the trained tokens")


def _text_field(draft: Draft) -> None:
    """Translate the column of plain text, which also sets the format if nothing else does."""
    key = "dataset_text_field"
    column = draft.text(key)
    if column is None or draft.is_accounted(key):
        return
    if _forms(draft) == [None]:
        draft.put("dataset.format", "text", key)
        draft.put("dataset.columns", {"text": column} if column != "text" else None, key)
    else:
        draft.same(key, "it only applies to rows of plain text")


def _loss_by_columns(draft: Draft, key: str) -> None:
    forms = _forms(draft)
    if "prompt-completion" in forms and set(forms) <= {"prompt-completion", "text"}:
        return  # lorans does the same by default
    if None in forms:
        _pin(draft, "messages", "the file does not name the format of its rows")
        draft.note(
            "the file does not name the format of its rows; lorans assumes conversations (`messages`), and TRL trains "
            'on all of their tokens. For texts, write `format = "text"`; for prompts with completions, write '
            '`format = "prompt-completion"` and `train_on = "assistant"`'
        )
    said = "" if draft.has(_ASSISTANT) else "TRL trains on all tokens of conversations and texts"
    draft.put(key, "all", _ASSISTANT, said=said)


def _template(draft: Draft) -> None:
    """Translate the chat template: Jinja in the file, a path, or the base's own template."""
    text, path = "chat_template", "chat_template_path"
    conversations = any(form in ("messages", "sharegpt", "preference") for form in _forms(draft))
    value = draft.get(text)
    if value is not None and not conversations:
        draft.unused(text, "the rows are plain text")
    elif isinstance(value, str) and ("{{" in value or "{%" in value):
        draft.file("sft.chat_template", value, ".jinja", text)
    elif value is not None:
        draft.refuse(text, "not a Jinja template", "write the path of a .jinja file to `chat_template_path`")
    where = draft.text(path)
    if where is not None and where.endswith((".jinja", ".jinja2", ".j2")):
        draft.path("sft.chat_template", where, path)
    elif where is not None and where == draft.text("model_name_or_path"):
        draft.same(path, "lorans uses the base's own template")
    elif where is not None:
        remedy = "save that model's template as a .jinja file, and write its path"
        draft.refuse(path, "lorans reads a template from a file", remedy)
    if draft.has("eos_token"):
        if conversations:
            draft.same("eos_token", "lorans trains on the token that ends an answer in the chat template")
        else:
            what = "lorans uses the special tokens of the base"
            remedy = "remove it if the base has the same token, otherwise change it in the base's tokenizer"
            draft.refuse("eos_token", what, remedy)


def _training(draft: Draft) -> None:
    steps.global_batch(draft, "per_device_train_batch_size", "gradient_accumulation_steps", per_device_default=8)
    steps.optimizer(draft, "optim", "adamw_torch_fused")
    steps.scheduler(draft, "lr_scheduler_type", "linear")
    steps.warmup(draft, "warmup_steps", "warmup_ratio", 0.0)
    if draft.has("warmup_ratio"):
        draft.amend("warmup_ratio", "removed from transformers (now `warmup_steps`, with a value below 1)")
    training_arguments.duration(draft, "num_train_epochs", 3)
    usual = 1e-6 if trains_pairs(draft) else 2e-5
    draft.put("training.learning_rate", draft.number("learning_rate", usual), "learning_rate")
    steps.interval(draft, "save_steps", "save_strategy", "training.save_steps")
    steps.report_to(draft, "report_to")


_LENGTHS = ("max_length", "max_seq_length")


def _lengths(draft: Draft) -> None:
    """Translate the maximum length, packing, and the handling of longer rows, which TRL truncates at the end."""
    for name in _LENGTHS:
        if draft.source.values.get(name, "") is None:
            what = "TRL does not truncate rows without it, but lorans needs a maximum length"
            draft.refuse(name, what, "write the number of tokens of the longest row")
    given = next((name for name in _LENGTHS if draft.has(name)), _LENGTHS[0])
    draft.put("sft.max_seq_length", draft.whole(given, 1024), given)
    if given == _LENGTHS[0] and draft.has(_LENGTHS[1]):
        draft.unused(_LENGTHS[1], "`max_length` takes precedence")
    if draft.has(_LENGTHS[1]):
        draft.amend(_LENGTHS[1], "removed from TRL (now `max_length`)")
    way = _packing(draft)
    if draft.text("truncation_mode", "keep_start") != "keep_start":
        what = "lorans removes the end of a row, or the beginning of its prompt"
        draft.refuse("truncation_mode", what, "set `sft.on_overflow`")
    key = "truncation_mode" if way == "truncate" else "packing_strategy"
    draft.put("sft.on_overflow", way, key, said="" if draft.has(key) else "TRL's default for longer rows")
    if draft.own("sft.packing") not in draft.recipe:
        _grouping(draft)


def _packing(draft: Draft) -> str:
    """Write `sft.packing`, and return the value of `sft.on_overflow`."""
    packs, key = draft.flag("packing"), "packing_strategy"
    strategy = draft.text(key, "bfd")
    draft.put("sft.packing", packs, "packing", own=False)
    if not packs and draft.has(key):
        draft.unused(key, "packing is off")
    elif strategy in ("bfd_split", "bfd-requeue") and _forms(draft) == ["text"]:
        return "split"
    elif strategy != "bfd":
        draft.refuse(key, "lorans packs whole rows only", "write `bfd`")
    elif draft.has(key):
        draft.same(key, "lorans packs whole rows by default")
    return "truncate"


def _grouping(draft: Draft) -> None:
    """Translate grouping by length, which is lorans's default; refuse to keep the order of the rows."""
    key = "group_by_length" if draft.has("group_by_length") else "train_sampling_strategy"
    value: Any = draft.flag(key) if key == "group_by_length" else draft.text(key, "random") == "group_by_length"
    if draft.text("train_sampling_strategy", "random") == "sequential":
        draft.refuse(key, "lorans shuffles the rows", "remove it if you do not need it")
    draft.put("training.group_by_length", value, key, own=True)


def _dtype(draft: Draft) -> None:
    old = draft.has("torch_dtype") and not draft.has("dtype")
    training_arguments.dtype(draft, "torch_dtype" if old else "dtype", "float32")
    if draft.has("torch_dtype"):
        if not old:
            draft.unused("torch_dtype", "`dtype` takes precedence")
        draft.amend("torch_dtype", "removed from TRL (now `dtype`)")


def _project(draft: Draft) -> None:
    key = "wandb_project" if draft.has("wandb_project") else "project"
    if "wandb" in draft.recipe.get("tracking.report_to", ()) or key == "project":
        draft.put("tracking.project", draft.text(key), key)
    elif draft.has(key):
        draft.unused(key, "W&B is not used")
    if draft.has("project") and not draft.is_accounted("project"):
        draft.unused("project", f"`{key}` takes precedence")


def _keys(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STEPS = (
    Step(_task, ("model_name_or_path", "output_dir", "command", "loss_weights", *OTHER_TRAININGS)),
    Step(_adapter, ("use_peft", *_LORA_KEYS)),
    Step(_dtype, _keys("bf16 fp16 dtype torch_dtype")),
    Step(rows, DATA_KEYS),
    Step(_loss, _keys("completion_only_loss assistant_only_loss")),
    Step(_template, _keys("chat_template chat_template_path eos_token")),
    Step(
        _training,
        _keys(
            "per_device_train_batch_size gradient_accumulation_steps optim lr_scheduler_type warmup_steps warmup_ratio "
            "num_train_epochs max_steps learning_rate save_steps save_strategy report_to"
        ),
    ),
    Step(
        _lengths,
        _keys(
            "max_length max_seq_length packing packing_strategy truncation_mode group_by_length train_sampling_strategy"
        ),
    ),
    Step(training_arguments.processes, _keys("deepspeed fsdp fsdp_config")),
    Step(_project, _keys("wandb_project project")),
)


_RULES: Mapping[str, Any] = {**training_arguments.ARGUMENTS, **RULES}


TRL = Importer(
    name="trl",
    signs=_keys(
        "use_peft dataset_name dataset_mixture dataset_mixer datasets dataset_config dataset_train_split "
        "model_revision attn_implementation lora_target_modules max_seq_length assistant_only_loss "
        "completion_only_loss hub_strategy gradient_checkpointing_kwargs log_level logging_strategy use_vllm "
        "reward_funcs max_prompt_length max_completion_length dataset_text_field"
    ),
    rules=_RULES,
    steps=_STEPS,
)
