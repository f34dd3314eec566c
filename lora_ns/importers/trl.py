"""TRL: the YAML of `trl sft --config`, also as the alignment handbook and open-r1 write it; batches are per device.

Keys, their meaning and their defaults are those of `ScriptArguments`, `DatasetMixtureConfig`, `SFTConfig` and
`ModelConfig` in `trl/`, and of `TrainingArguments` in transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lora_ns.importers import steps, training_arguments
from lora_ns.importers.base import Importer, Step
from lora_ns.importers.draft import Draft
from lora_ns.importers.trl_data import DATA_KEYS, rows
from lora_ns.importers.trl_keys import OTHER_TRAININGS, RULES


def _task(draft: Draft) -> None:
    """A causal language model by supervised fine-tuning, or nothing is written."""
    draft.recipe["task_type"] = "CAUSAL_LM"
    steps.task_name(draft, "output_dir", "hub_model_id", "run_name")
    draft.path("model.name_or_path", draft.text("model_name_or_path"), "model_name_or_path")
    draft.put("training.output_dir", draft.text("output_dir", "trainer_output"), "output_dir")
    if draft.get("command") == "trl sft":
        draft.same("command", "lorans imports supervised fine-tuning")
    elif draft.has("command"):
        draft.refuse("command", "it is not supervised fine-tuning", "keep TRL for it", fatal=True)
    for key, kind in OTHER_TRAININGS.items():
        if draft.has(key):
            draft.refuse(key, f"it is of {kind}", "keep TRL for it: lorans imports fine-tuning", fatal=True)


def _adapter(draft: Draft) -> None:
    """LoRA if `use_peft` is true, without which all weights are trained."""
    if not draft.flag("use_peft"):
        if draft.is_refused("use_peft"):
            draft.refuse_file("`use_peft` does not say whether it trains an adapter", "`use_peft: true`")
        elif draft.has("use_peft"):
            what = "all weights are trained, and lorans trains adapters"
            remedy = "`use_peft: true`, and a learning rate ten times as high"
            draft.refuse("use_peft", what, remedy, fatal=True)
        else:
            what = "it trains all weights (`use_peft` is absent), and lorans trains adapters"
            draft.refuse_file(what, "`use_peft: true`, and a learning rate ten times as high")
        for key in _LORA_KEYS:
            if draft.has(key):
                draft.unused(key, "it is read with `use_peft: true` only")
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
            draft.same(key, "the base is not stored in 4 bits, or not in 8")


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
"""Layers that PEFT adapts where none are named, by a pattern of the base's name; for others they are `_MOST`."""


_MOST = ["q_proj", "v_proj"]


def _targets(draft: Draft) -> None:
    key = "lora_target_modules"
    named = draft.names(key)
    if any(_PATTERN.search(name) for name in named):
        draft.refuse(key, "lorans takes ends of names, not patterns", "list them, such as `q_proj`, `v_proj`")
    elif named == ["all-linear"]:
        draft.put("peft.target_modules", "all-linear", key, own="all-linear")
    elif named:
        draft.put("peft.target_modules", named, key)
    elif not draft.is_refused(key):
        base = str(draft.get("model_name_or_path") or "").lower()
        usual = next((layers for pattern, layers in _USUAL if re.search(pattern, base)), _MOST)
        draft.put("peft.target_modules", usual, key, said="PEFT's choice for such a base where none are named")


def _forms(draft: Draft) -> list[str | None]:
    """The format of each data set, as far as the file says it."""
    sources = draft.recipe.get("dataset.sources")
    if sources is None:
        return [draft.recipe.get("dataset.format")]
    return [source.get("format") for source in sources]


def _pin(draft: Draft, form: str, why: str) -> None:
    """Say the format of the rows whose file does not, so that other rows are an error and not learned otherwise."""
    if "dataset.sources" in draft.recipe:
        sources = draft.recipe["dataset.sources"]
        draft.recipe["dataset.sources"] = [{**one, "format": one.get("format", form)} for one in sources]
    elif "dataset.format" not in draft.recipe and any(key.startswith("dataset.") for key in draft.recipe):
        draft.put("dataset.format", form, said=why)


_COMPLETION, _ASSISTANT = "completion_only_loss", "assistant_only_loss"


def _loss(draft: Draft) -> None:
    """The tokens that are learned: TRL goes by the columns of the rows unless it is told."""
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
            draft.same(name, f"`{key}` says what is learned")


def _text_field(draft: Draft) -> None:
    """The column of plain text, which says that the rows are texts where nothing else does."""
    key = "dataset_text_field"
    column = draft.text(key)
    if column is None or draft.is_accounted(key):
        return
    if _forms(draft) == [None]:
        draft.put("dataset.format", "text", key)
        draft.put("dataset.columns", {"text": column} if column != "text" else None, key)
    else:
        draft.same(key, "it is read of rows of plain text only")


def _loss_by_columns(draft: Draft, key: str) -> None:
    forms = _forms(draft)
    if "prompt-completion" in forms and set(forms) <= {"prompt-completion", "text"}:
        return  # lorans learns completions, and texts whole
    if None in forms:
        _pin(draft, "messages", "the file does not say what its rows are")
        draft.note(
            "the file does not say what its rows are, and conversations (`messages`) are assumed, of which TRL "
            'learns all tokens. For texts, write `format = "text"`; for prompts with completions, write '
            '`format = "prompt-completion"` and `train_on = "assistant"`'
        )
    said = "" if draft.has(_ASSISTANT) else "TRL learns all tokens of conversations and texts"
    draft.put(key, "all", _ASSISTANT, said=said)


def _template(draft: Draft) -> None:
    """The chat template: Jinja in the file, a path, or the base's own."""
    text, path = "chat_template", "chat_template_path"
    conversations = any(form in ("messages", "sharegpt") for form in _forms(draft))
    value = draft.get(text)
    if value is not None and not conversations:
        draft.unused(text, "the rows are plain text")
    elif isinstance(value, str) and ("{{" in value or "{%" in value):
        draft.file("sft.chat_template", value, ".jinja", text)
    elif value is not None:
        draft.refuse(text, "not a template in Jinja", "name a .jinja file: `chat_template_path`")
    where = draft.text(path)
    if where is not None and where.endswith((".jinja", ".jinja2", ".j2")):
        draft.path("sft.chat_template", where, path)
    elif where is not None and where == draft.text("model_name_or_path"):
        draft.same(path, "it is the base's own template")
    elif where is not None:
        draft.refuse(path, "lorans reads a template from a file", "save that model's template as a .jinja file")
    if draft.has("eos_token"):
        if conversations:
            draft.same("eos_token", "lorans learns the token that ends an answer in the chat template")
        else:
            what = "lorans takes special tokens as the base has them"
            draft.refuse("eos_token", what, "remove it if it is the base's own; save the tokenizer with it if not")


def _training(draft: Draft) -> None:
    steps.global_batch(draft, "per_device_train_batch_size", "gradient_accumulation_steps", per_device_default=8)
    steps.optimizer(draft, "optim", "adamw_torch_fused")
    steps.scheduler(draft, "lr_scheduler_type", "linear")
    steps.warmup(draft, "warmup_steps", "warmup_ratio", 0.0)
    if draft.has("warmup_ratio"):
        draft.amend("warmup_ratio", "transformers no longer knows it (it is `warmup_steps` below 1 now)")
    training_arguments.ends(draft, "num_train_epochs", 3)
    draft.put("training.learning_rate", draft.number("learning_rate", 2e-5), "learning_rate")
    steps.interval(draft, "save_steps", "save_strategy", "training.save_steps")
    steps.report_to(draft, "report_to")


_LENGTHS = ("max_length", "max_seq_length")


def _lengths(draft: Draft) -> None:
    """The longest row, at whose end TRL cuts, and packing."""
    for name in _LENGTHS:
        if draft.source.values.get(name, "") is None:
            what = "TRL cuts nothing then, and lorans needs a longest row"
            draft.refuse(name, what, "write the longest row's tokens")
    given = next((name for name in _LENGTHS if draft.has(name)), _LENGTHS[0])
    draft.put("sft.max_seq_length", draft.whole(given, 1024), given)
    if given == _LENGTHS[0] and draft.has(_LENGTHS[1]):
        draft.unused(_LENGTHS[1], "`max_length` takes its place")
    if draft.has(_LENGTHS[1]):
        draft.amend(_LENGTHS[1], "TRL no longer knows it (it is `max_length` now)")
    way = _packing(draft)
    if draft.text("truncation_mode", "keep_start") != "keep_start":
        draft.refuse("truncation_mode", "lorans cuts at the end, or at the prompt's beginning", "`sft.on_overflow`")
    key = "truncation_mode" if way == "truncate" else "packing_strategy"
    draft.put("sft.on_overflow", way, key, said="" if draft.has(key) else f"TRL's way with longer rows: `{way}`")
    if "sft.packing" not in draft.recipe:
        _grouping(draft)


def _packing(draft: Draft) -> str:
    """Write `sft.packing`, and say what becomes of rows that are too long."""
    packs, key = draft.flag("packing"), "packing_strategy"
    strategy = draft.text(key, "bfd")
    draft.put("sft.packing", packs, "packing", own=False)
    if not packs and draft.has(key):
        draft.unused(key, "nothing is packed")
    elif strategy in ("bfd_split", "bfd-requeue") and _forms(draft) == ["text"]:
        return "split"
    elif strategy != "bfd":
        draft.refuse(key, "lorans keeps rows whole and apart", "write `bfd`")
    elif draft.has(key):
        draft.same(key, "lorans packs so, too")
    return "truncate"


def _grouping(draft: Draft) -> None:
    """Rows come in a random order, unless they are grouped by length, which lorans does anyway."""
    key = "group_by_length" if draft.has("group_by_length") else "train_sampling_strategy"
    value: Any = draft.flag(key) if key == "group_by_length" else draft.text(key, "random") == "group_by_length"
    if draft.text("train_sampling_strategy", "random") == "sequential":
        draft.refuse(key, "rows come in a random order here", "remove it if you can do without it")
    draft.put("training.group_by_length", value, key, own=True)


def _dtype(draft: Draft) -> None:
    old = draft.has("torch_dtype") and not draft.has("dtype")
    training_arguments.computing_dtype(draft, "torch_dtype" if old else "dtype", "float32")
    if draft.has("torch_dtype"):
        if not old:
            draft.unused("torch_dtype", "`dtype` takes its place")
        draft.amend("torch_dtype", "TRL no longer knows it (it is `dtype` now)")


def _project(draft: Draft) -> None:
    key = "wandb_project" if draft.has("wandb_project") else "project"
    if "wandb" in draft.recipe.get("tracking.report_to", ()) or key == "project":
        draft.put("tracking.project", draft.text(key), key)
    elif draft.has(key):
        draft.unused(key, "wandb is not used")
    if draft.has("project") and not draft.is_accounted("project"):
        draft.unused("project", f"`{key}` takes its place")


def _keys(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_STEPS = (
    Step(_task, ("model_name_or_path", "output_dir", "command", *OTHER_TRAININGS)),
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
