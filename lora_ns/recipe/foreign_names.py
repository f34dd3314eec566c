"""Names that people bring from other tools, and the keys and values to write for them.

Three kinds of names lead here: keys (`micro_batch_size`), values (`method = "dora"`) and options (`--lr`). An entry
says what has the same effect in a recipe, with its value; where nothing has, it says what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lora_ns.errors import plain_name
from lora_ns.objectives import OBJECTIVES, Dpo

OWN: Final = object()
"""Stands for the user's own value in `Advice.keys`."""


@dataclass(frozen=True)
class Advice:
    """A replacement for a foreign name."""

    keys: Mapping[tuple[str, ...], Any] = field(default_factory=dict)
    """Values by dotted keys; of several keys, the first that the recipe's method and objective have. `OWN` as a value
    is the user's own."""
    remark: str = ""
    """An explanation to show after the keys, or instead of them."""
    values: Mapping[str, Advice] = field(default_factory=dict)
    """Advice for some values of a foreign key, by their plain spelling; it comes before the rest."""

    def on(self, value: Any) -> Advice:
        """Return the advice for a value: a switch that is off needs no key."""
        if (found := self.values.get(plain_name(value))) is not None:
            return found
        return REMOVE if value is False and OWN not in self.keys.values() and self.keys else self


def _key(*keys: str, remark: str = "", values: Mapping[Any, Advice] | None = None) -> Advice:
    """A key of another name, with the same values but for those that are listed."""
    return Advice({keys: OWN}, remark, {plain_name(value): advice for value, advice in (values or {}).items()})


def _write(remark: str = "", /, values: Mapping[Any, Advice] | None = None, **settings: Any) -> Advice:
    """Keys with fixed values, written as `table__key=value`."""
    keys: dict[tuple[str, ...], Any] = {(name.replace("__", "."),): value for name, value in settings.items()}
    return Advice(keys, remark, {plain_name(value): advice for value, advice in (values or {}).items()})


def _of_objective(name: str, remark: str = "") -> Advice:
    """A key of the same name in each table of an objective that has it."""
    keys = dict.fromkeys(kind.key(name) for kind in OBJECTIVES.values() if name in kind.key_names())
    return _key(*keys, remark=remark)


def _named(names: str, advice: Advice) -> dict[str, Advice]:
    """Give the same advice for several names, which are separated by spaces."""
    return dict.fromkeys(names.split(), advice)


def _none(remark: str, values: Mapping[Any, Advice] | None = None) -> Advice:
    """No key has this effect."""
    return Advice({}, remark, {plain_name(value): advice for value, advice in (values or {}).items()})


REMOVE: Final = _none("remove it: this is what happens anyway")

_4BIT, _8BIT = _write(quantization__method="bnb-4bit"), _write(quantization__method="bnb-8bit")
_LENGTH = _of_objective("max_seq_length")
_BF16, _FP16, _FP32 = (_write(model__dtype=name) for name in ("bfloat16", "float16", "float32"))
_FLASH = _write(model__attn_implementation="flash_attention_2")
_SDPA = _write(model__attn_implementation="sdpa")
_ALL_LINEAR = _write(peft__target_modules="all-linear")
_RSLORA = _write(peft__method="lora", peft__use_rslora=True)
_DORA = _write(peft__method="lora", peft__use_dora=True)
_LORAPLUS = _write(peft__method="lora", peft__loraplus_lr_ratio=16)
_LORAFA = _write(peft__method="lora", peft__use_lora_fa=True)
_QLORA = _write(peft__method="lora", quantization__method="bnb-4bit")
_QDORA = _write(peft__method="lora", peft__use_dora=True, quantization__method="bnb-4bit")
_FULL = _none(
    "lorans trains adapters, not all weights; a LoRA of a high rank is the nearest: `lora_r = 256` with rsLoRA"
)
_MICRO = _key("training.per_device_train_batch_size", remark="`training.global_batch_size` is the batch of one step")
_BATCH = _key("training.global_batch_size", remark="the rows of one optimizer step, over all devices")
_CLIP = _key("training.max_grad_norm")
_OUTPUT = _key("training.output_dir")
_MODEL = _key("model.name_or_path")
_UPLOAD = _none("lorans uploads nothing while it trains; run `hf upload NAME RUN/adapter` afterwards")
_PREPARES = _none("remove it: rows are prepared as fast as the machine allows, and kept for the next run")
_LOGS = _none("remove it: the log and the metrics are in the run directory, `training.output_dir`")
_EVERY_EPOCH = {"epoch": REMOVE, "steps": _none("write the number of steps, such as `eval_steps = 100`")}


def _starts(name: str) -> Advice:
    return _write(peft__method="lora", peft__init_lora_weights=name)


_METHODS: Mapping[str, Advice] = {
    "adapter": _write(peft__method="lora"),
    "bone": _write(peft__method="miss"),
    "corda": _starts("corda"),
    "dora": _DORA,
    "eva": _starts("eva"),
    "freeze": _FULL,
    "full": _FULL,
    "ia3": _write(peft__method="ia3"),
    "(ia)3": _write(peft__method="ia3"),
    "kasa": _write(peft__method="lora", peft__use_kasa=True),
    "layernorm": _write(peft__method="ln-tuning"),
    "lora+": _LORAPLUS,
    "lora-fa": _LORAFA,
    "lora-ga": _starts("lora_ga"),
    "loraplus": _LORAPLUS,
    "mica": _starts("mica"),
    "none": _FULL,
    "olora": _starts("olora"),
    "pissa": _starts("pissa"),
    "prefix": _write(peft__method="prefix-tuning"),
    "prompt": _write(peft__method="prompt-tuning"),
    "ptuning-v2": _write(peft__method="prefix-tuning"),
    "qdora": _QDORA,
    "qlora": _QLORA,
    "rslora": _RSLORA,
    "soft-prompt": _write(peft__method="prompt-tuning"),
}

_FEW_BITS: Mapping[Any, Advice] = {
    4: _4BIT,
    8: _8BIT,
    "4bit": _4BIT,
    "8bit": _8BIT,
    "bitsandbytes": _write('`"bnb-8bit"` for 8 bits', quantization__method="bnb-4bit"),
    "bnb": _write('`"bnb-8bit"` for 8 bits', quantization__method="bnb-4bit"),
    "fp4": _write(quantization__method="bnb-4bit", quantization__bnb_4bit_quant_type="fp4"),
    "fp8": _write(quantization__method="torchao", quantization__quant_type="Float8WeightOnlyConfig"),
    "int4": _4BIT,
    "int8": _8BIT,
    "llm.int8": _8BIT,
    "nf4": _4BIT,
    "qlora": _4BIT,
}

_DTYPES: Mapping[Any, Advice] = {
    "bf16": _BF16,
    "float": _FP32,
    "fp16": _FP16,
    "fp32": _FP32,
    "full": _FP32,
    "half": _FP16,
    "no": _FP32,
    "torch.bfloat16": _BF16,
    "torch.float16": _FP16,
    "torch.float32": _FP32,
}

_KERNELS: Mapping[Any, Advice] = {
    "disabled": _write(model__attn_implementation="eager"),
    "fa2": _FLASH,
    "flash": _FLASH,
    "flash_attn": _FLASH,
    "flash_attention": _FLASH,
    "xformers": _SDPA,
}

_OBJECTIVE_SOON = _none("lorans has no such objective yet; `[dpo]` learns from preferences")

_DPO_LOSSES: Mapping[Any, Advice] = {
    **{loss: _write(dpo__loss_type=[loss]) for loss in Dpo.losses()},
    "exo_pair": _write(dpo__loss_type=["exo_pair"], dpo__label_smoothing=0.001),
    "dpo": _write(dpo__loss_type=["sigmoid"]),
    **_named("rpo sigmoid+sft", _write("`loss_weights` weights them", dpo__loss_type=["sigmoid", "sft"])),
    "mpo": _write("with `loss_weights = [0.8, 0.2, 1.0]`", dpo__loss_type=["sigmoid", "bco_pair", "sft"]),
    **_named("cpo grpo kto kto_pair orpo ppo reward rm simpo", _OBJECTIVE_SOON),
}

_TASKS: Mapping[Any, Advice] = {
    **_named(
        "causal causal-lm chat clm generation instruction lm pretrain pt sft text-generation QUESTION_ANS SEQ_2_SEQ_LM",
        _write(task_type="CAUSAL_LM"),
    ),
    **_named(
        "classification multi-label-classification regression sequence-classification text-classification",
        _write(task_type="SEQ_CLS"),
    ),
    **_named("reward rm", _write("with the table `[reward]`", task_type="SEQ_CLS")),
    **_named("ner pos tagging token-classification", _write(task_type="TOKEN_CLS")),
    **{
        name: _write(task_type="CAUSAL_LM", dpo__loss_type=[loss])
        for name, loss in {"dpo": "sigmoid", "ipo": "ipo"}.items()
    },
    "kto": _write("with the table `[kto]`", task_type="CAUSAL_LM"),
    "orpo": _none('write `task_type = "CAUSAL_LM"` and a table `[orpo]`'),
    "cpo": _none('write `task_type = "CAUSAL_LM"` and a table `[cpo]`'),
    "simpo": _none('write `task_type = "CAUSAL_LM"` and `[cpo]` with `loss_type = "simpo"` and `cpo_alpha = 0`'),
    **_named("grpo ppo", _OBJECTIVE_SOON),
}

_FORMATS: Mapping[Any, Advice] = {
    "chat": _write(dataset__format="messages"),
    "chat_template": _write(dataset__format="messages"),
    "chatml": _write(dataset__format="messages"),
    "completion": _write(dataset__format="text"),
    "conversation": _write(dataset__format="sharegpt"),
    "conversational": _write(dataset__format="messages"),
    "conversations": _write(dataset__format="sharegpt"),
    "instruction": _write(dataset__format="alpaca"),
    "openai": _write(dataset__format="messages"),
    "pretrain": _write(dataset__format="text"),
    "raw": _write(dataset__format="text"),
    **{
        kind: _none('the kind of file is seen from its name: leave `format = "auto"`')
        for kind in ("csv", "json", "jsonl", "parquet", "tsv")
    },
}

_STRATEGIES: Mapping[Any, Advice] = {
    **{
        name.format(stage): _write(distributed__strategy="deepspeed", distributed__zero_stage=stage)
        for stage in (1, 2, 3)
        for name in ("zero{}", "deepspeed_zero{}", "ds_z{}", "zero_stage{}")
    },
    "fsdp1": _write(distributed__strategy="fsdp"),
    "fsdp2": _write(distributed__strategy="fsdp"),
    "no": _write(distributed__strategy="none"),
    "single": _write(distributed__strategy="none"),
    **_named("dp multi_cpu multi_gpu mp", _write(distributed__strategy="ddp")),
}

_LOSS_ON_ALL, _LOSS_ON_ANSWERS = _write(sft__train_on="all"), _write(sft__train_on="assistant")

_SCHEDULES = _none("lorans has no such schedule; `cosine` is the nearest")

VALUES: Mapping[str, Mapping[str, Advice]] = {
    key: {plain_name(value): advice for value, advice in rows.items()}
    for key, rows in {
        "peft.method": _METHODS,
        "quantization.method": _FEW_BITS,
        "model.dtype": _DTYPES,
        "model.attn_implementation": _KERNELS,
        "task_type": _TASKS,
        "dataset.format": _FORMATS,
        "distributed.strategy": _STRATEGIES,
        "peft.target_modules": _named("all all_linear linear", _ALL_LINEAR),
        "peft.init_lora_weights": {
            True: _write(peft__init_lora_weights="default"),
            "loraga": _starts("lora_ga"),
            "kaiming": _write(peft__init_lora_weights="default"),
        },
        "training.lr_scheduler_type": {
            "linear_with_warmup": _write(training__lr_scheduler_type="linear"),
            "cosine_with_warmup": _write(training__lr_scheduler_type="cosine"),
            "warmup_stable_decay": _write(training__lr_scheduler_type="constant_with_warmup"),
            "cosine_with_restarts": _SCHEDULES,
            "cosine_with_min_lr": _SCHEDULES,
            "reduce_lr_on_plateau": _none("lorans has no such schedule; `constant` never falls"),
        },
        "training.optim": {
            **_named("adam adamw adamw_hf adamw_apex_fused", _write(training__optim="adamw_torch")),
            "adam8bit": _write(training__optim="adamw_8bit"),
            "paged_adamw": _write(training__optim="paged_adamw_32bit"),
            "lion": _write(training__optim="lion_32bit"),
        },
        "sft.train_on": {
            **_named("completion completions answer response responses output", _LOSS_ON_ANSWERS),
            **_named("everything full inputs prompt", _LOSS_ON_ALL),
            "last_turn": _write(sft__train_on="last"),
        },
        "dpo.loss_type": _DPO_LOSSES,
        "tracking.report_to": {
            **{name: _write(tracking__report_to=[name]) for name in ("tensorboard", "wandb", "mlflow", "trackio")},
            **_named("none no all", _none('write a list: `[]` for none, or such as `["wandb"]`')),
        },
    }.items()
}
"""Advice by the dotted key of the recipe, then by the plain spelling of the value."""


_MODEL_KEYS = {
    **_named(
        "base_model base_model_name_or_path hf_model_id model model_id model_name "
        "model_name_or_path model_path pretrained_model_name_or_path",
        _MODEL,
    ),
    "model_revision": _key("model.revision"),
    "torch_dtype": _key("model.dtype", values=_DTYPES),
    "precision": _key("model.dtype", values=_DTYPES),
    "mixed_precision": _key("model.dtype", values=_DTYPES),
    "bnb_4bit_compute_dtype": _key("model.dtype", values=_DTYPES),
    "bf16": _BF16,
    "fp16": _FP16,
    "fp32": _FP32,
    "tf32": _none("give it as `tf32` in `[training.extra]`"),
    **_named("flash_attention use_flash_attention_2 use_flash_attn", _FLASH),
    "flash_attn": _key("model.attn_implementation", values={**_KERNELS, True: _FLASH}),
    "attn_impl": _key("model.attn_implementation", values=_KERNELS),
    **_named("sdp_attention xformers_attention", _SDPA),
    "use_unsloth": _none("remove it: lorans trains through TRL and PEFT alone"),
    "load_in_4bit": _4BIT,
    "load_in_8bit": _8BIT,
    "quantization_bit": _key("quantization.method", values=_FEW_BITS),
    "quant_bits": _key("quantization.method", values=_FEW_BITS),
    "quant_method": _key("quantization.method", values=_FEW_BITS),
    **_named(
        "double_quantization use_bnb_nested_quant use_double_quant", _key("quantization.bnb_4bit_use_double_quant")
    ),
    **_named(
        "additional_special_tokens new_special_tokens special_tokens tokens",
        _key("model.add_tokens", remark="a list of tokens"),
    ),
}

_DROPOUTS = ["lora", "rank", "hira", "gralora", "miss", "deft", "vera", "pvera", "randlora", "vblora", "unilora"]

_PEFT_KEYS = {
    **_named(
        "adapter finetuning_type peft_method peft_type train_type tuner_type", _key("peft.method", values=_METHODS)
    ),
    **_named("lora_rank r rank lora_dim", _key("peft.lora_r", "peft.r", "peft.init_r")),
    "alpha": _key("peft.lora_alpha", "peft.alpha", "peft.randlora_alpha"),
    "dropout": _key(*(f"peft.{name}_dropout" for name in _DROPOUTS)),
    **_named(
        "lora_target lora_target_modules target_layers",
        _key("peft.target_modules", values=_named("all all_linear", _ALL_LINEAR)),
    ),
    "lora_target_linear": _ALL_LINEAR,
    **_named("additional_target lora_modules_to_save", _key("peft.modules_to_save")),
    **_named("dora peft_use_dora", _DORA),
    **_named("rslora peft_use_rslora", _RSLORA),
    "qlora": _QLORA,
    "lora": _write(peft__method="lora"),
    "lora+": _LORAPLUS,
    "loraplus": _LORAPLUS,
    **_named("lorap_lr_ratio loraplus_ratio", _key("peft.loraplus_lr_ratio")),
    "pissa_init": _starts("pissa"),
    **_named("init_method peft_init_lora_weights", _key("peft.init_lora_weights")),
    "peft_layers_to_transform": _key("peft.layers_to_transform"),
    "lora_target_parameters": _key("peft.target_parameters"),
    **_named("fan_in_fan_out lora_fan_in_fan_out", _none("remove it: it follows from the layers")),
    "use_peft": REMOVE,
}

_DATASET_KEYS = {
    **_named(
        "data data_file data_files data_path dataset_path datasets train_data train_dataset "
        "train_file train_path training_file",
        _key("dataset.path", remark="`dataset.name` if it is on the hub"),
    ),
    "dataset_name": _key("dataset.name", remark="`dataset.path` if it is a file"),
    **_named("dataset_config dataset_config_name", _key("dataset.subset")),
    **_named("dataset_split dataset_train_split", _key("dataset.train_split")),
    "dataset_test_split": _key("dataset.eval_split"),
    **_named(
        "eval_data eval_dataset eval_file test_datasets val_data val_dataset val_file validation_file",
        _key("dataset.eval_path", remark="`dataset.eval_split` for a split of the hub dataset"),
    ),
    **_named(
        "split_dataset_ratio test_size val_set_size val_size validation_split",
        _key("dataset.eval_fraction", remark="a share of the rows, below 1"),
    ),
    **_named("max_train_samples num_samples", _key("dataset.max_samples")),
    **_named("dataset_type ds_type formatting", _key("dataset.format", values=_FORMATS)),
    **_named("dataset_text_field text_field", _none('name the column by `columns = { text = "..." }` in `[dataset]`')),
    **_named("dataset_num_proc preprocessing_num_workers", _PREPARES),
    **_named("dataset_prepared_path overwrite_cache", _PREPARES),
}

_SFT_KEYS = {
    **_named(
        "block_size cutoff_len max_len max_length max_seq_len model_max_length seq_len "
        "seq_length sequence_len max_sequence_length",
        _LENGTH,
    ),
    **_named("pack sample_packing use_packing", _key("sft.packing")),
    **_named(
        "train_on_inputs train_on_input train_on_prompt", _write(values={False: _LOSS_ON_ANSWERS}, sft__train_on="all")
    ),
    **_named(
        "assistant_only_loss completion_only_loss train_on_completions train_on_responses_only",
        _write(values={False: _LOSS_ON_ALL}, sft__train_on="assistant"),
    ),
    "mask_history": _write(sft__train_on="last"),
    "template": _of_objective("chat_template", "leave it out to use the tokenizer's own"),
    **_named("neftune neftune_alpha noise_alpha", _key("sft.neftune_noise_alpha")),
    "enable_thinking": _none("write `chat_template_kwargs = { enable_thinking = false }` in `[sft]`, or true"),
}

_REFERENCE = _none("remove it: the reference is the base without the adapter")

_PREFERENCE_KEYS = {
    **_named("rl rlhf_type pref_loss dpo_loss dpo_loss_type", _key("dpo.loss_type", values=_DPO_LOSSES)),
    **_named("dpo_beta pref_beta", _key("dpo.beta")),
    "dpo_label_smoothing": _key("dpo.label_smoothing", remark='with `loss_type = ["robust"]`'),
    "dpo_use_weighting": _key("dpo.use_weighting"),
    **_named(
        "pref_ftx rpo_alpha",
        _none('write `loss_type = ["sigmoid", "sft"]` and the weight of each as `loss_weights` in `[dpo]`'),
    ),
    **_named("cpo_alpha orpo_alpha simpo_gamma", _OBJECTIVE_SOON),
    **_named("ref_model ref_model_name_or_path ref_model_adapters force_use_ref_model", _REFERENCE),
    **_named("sync_ref_model ref_model_sync_steps ref_model_mixup_alpha", _REFERENCE),
    **_named(
        "precompute_ref_log_probs precompute_ref_batch_size",
        _none("remove it: the reference is computed with each batch, from the base without the adapter"),
    ),
    "reference_free": _none("lorans always compares with the base; a small `beta` in `[dpo]` holds the model less"),
    **_named(
        "max_prompt_length max_completion_length max_prompt_len max_target_length",
        _none("each side is limited as a whole: write `max_seq_length` in `[dpo]`, and `on_overflow` for longer ones"),
    ),
}

_TRAINING_KEYS = {
    "lr": _key("training.learning_rate"),
    **_named("epochs max_epochs n_epochs num_epochs num_train_epoch", _key("training.num_train_epochs")),
    **_named("iters num_steps total_steps train_steps", _key("training.max_steps")),
    **_named("device_batch_size micro_batch_size per_gpu_train_batch_size", _MICRO),
    **_named("batch_size train_batch_size", _BATCH),
    **_named("eval_batch_size per_gpu_eval_batch_size val_batch_size", _key("training.per_device_eval_batch_size")),
    **_named(
        "accumulation_steps grad_accum grad_accumulation_steps gradient_accumulation",
        _key("training.gradient_accumulation_steps"),
    ),
    **_named("clip_grad_norm grad_clip gradient_clip_val gradient_clipping max_gradient_norm max_norm", _CLIP),
    **_named("optimizer optimizer_type", _key("training.optim")),
    **_named("lr_schedule lr_scheduler scheduler scheduler_type", _key("training.lr_scheduler_type")),
    **_named("warmup_proportion warmup_fraction", _key("training.warmup_ratio")),
    **_named(
        "num_warmup_steps warmup warmup_iters", _key("training.warmup_steps", remark="or `warmup_ratio`, a share")
    ),
    "decay": _key("training.weight_decay"),
    "beta1": _key("training.adam_beta1"),
    "beta2": _key("training.adam_beta2"),
    **_named("out_dir output output_path save_dir save_path", _OUTPUT),
    **_named("log_dir logging_dir plot_loss", _LOGS),
    **_named("log_every log_interval log_steps", _key("training.logging_steps")),
    **_named("eval_every eval_interval steps_per_eval", _key("training.eval_steps", values=_EVERY_EPOCH)),
    **_named("eval_strategy evaluation_strategy", _key("training.eval_steps", values=_EVERY_EPOCH)),
    **_named("save_every save_interval save_strategy", _key("training.save_steps", values=_EVERY_EPOCH)),
    "evals_per_epoch": _none("write the steps between two evaluations as `eval_steps`; once an epoch is the default"),
    "saves_per_epoch": _none("write the steps between two checkpoints as `save_steps`; once an epoch is the default"),
    **_named(
        "activation_checkpointing grad_checkpointing use_gradient_checkpointing",
        _key("training.gradient_checkpointing", values={"unsloth": _write(training__gradient_checkpointing=True)}),
    ),
    **_named("data_seed random_seed random_state", _key("training.seed")),
    **_named("num_workers dataloader_workers", _key("training.dataloader_num_workers")),
    "resume_from_checkpoint": _none("remove it, and run `lorans train RECIPE --resume`"),
    "overwrite_output_dir": _none("remove it, and run `lorans train RECIPE --overwrite`"),
    **_named("hub_model_id push_to_hub hub_strategy", _UPLOAD),
    "early_stopping_patience": _none("lorans has no early stopping; every evaluation is in `metrics.jsonl`"),
    "stage": _key("task_type", values=_TASKS),
}

_OTHER_KEYS = {
    **_named(
        "gpus n_gpus nproc_per_node num_gpus world_size",
        _key("distributed.num_processes", remark='with `strategy = "ddp"`; or run `lorans train RECIPE --gpus N`'),
    ),
    "nnodes": _key("distributed.num_nodes"),
    "deepspeed": Advice({("distributed.strategy",): "deepspeed", ("distributed.deepspeed_config",): OWN}),
    "fsdp": _write(distributed__strategy="fsdp"),
    "max_tokens": _key("generation.max_new_tokens"),
    "max_output_tokens": _key("generation.max_new_tokens"),
    "wandb": _write(tracking__report_to=["wandb"]),
    "use_wandb": _write(tracking__report_to=["wandb"]),
    "wandb_project": Advice({("tracking.report_to",): ["wandb"], ("tracking.project",): OWN}),
    **_named("wandb_name wandb_run_name", _key("tracking.run_name")),
}

KEYS: Mapping[str, Advice] = {
    plain_name(name): advice
    for table in (_MODEL_KEYS, _PEFT_KEYS, _DATASET_KEYS, _SFT_KEYS, _PREFERENCE_KEYS, _TRAINING_KEYS, _OTHER_KEYS)
    for name, advice in table.items()
}
"""Advice by the plain spelling of the foreign key."""
