"""Names that people bring from other tools, and the keys and values to write for them.

Three kinds of names lead here: keys (`micro_batch_size`), values (`method = "dora"`) and options (`--lr`). An entry
says what has the same effect in a recipe, with its value; where nothing has, it says what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_ns.errors import plain_name
from lora_ns.objectives.dpo import Dpo
from lora_ns.recipe.advice import (
    OWN,
    REMOVE,
    Advice,
    each,
    no_key,
    objective_key,
    to_key,
    write,
)

_4BIT, _8BIT = write(quantization__method="bnb-4bit"), write(quantization__method="bnb-8bit")
_LENGTH = objective_key("max_seq_length")
_BF16, _FP16, _FP32 = (write(model__dtype=name) for name in ("bfloat16", "float16", "float32"))
_FLASH = write(model__attn_implementation="flash_attention_2")
_SDPA = write(model__attn_implementation="sdpa")
_ALL_LINEAR = write(peft__target_modules="all-linear")
_RSLORA = write(peft__method="lora", peft__use_rslora=True)
_DORA = write(peft__method="lora", peft__use_dora=True)
_LORAPLUS = write(peft__method="lora", peft__loraplus_lr_ratio=16)
_LORAFA = write(peft__method="lora", peft__use_lora_fa=True)
_QLORA = write(peft__method="lora", quantization__method="bnb-4bit")
_QDORA = write(peft__method="lora", peft__use_dora=True, quantization__method="bnb-4bit")
_FULL = no_key(
    "lorans trains adapters, not all weights; a LoRA of a high rank is the nearest: `lora_r = 256` with rsLoRA"
)
_MICRO = to_key("training.per_device_train_batch_size", remark="`training.global_batch_size` is the batch of one step")
_BATCH = to_key("training.global_batch_size", remark="the rows of one optimizer step, over all devices")
_CLIP = to_key("training.max_grad_norm")
_OUTPUT = to_key("training.output_dir")
_MODEL = to_key("model.name_or_path")
_UPLOAD = no_key("lorans uploads nothing while it trains; run `hf upload NAME RUN/adapter` afterwards")
_PREPARES = no_key("remove it: rows are prepared as fast as the machine allows, and kept for the next run")
_LOGS = no_key("remove it: the log and the metrics are in the run directory, `training.output_dir`")
_EVERY_EPOCH = {"epoch": REMOVE, "steps": no_key("write the number of steps, such as `eval_steps = 100`")}


def _starts(name: str) -> Advice:
    return write(peft__method="lora", peft__init_lora_weights=name)


_METHODS: Mapping[str, Advice] = {
    "adapter": write(peft__method="lora"),
    "bone": write(peft__method="miss"),
    "corda": _starts("corda"),
    "dora": _DORA,
    "eva": _starts("eva"),
    "freeze": _FULL,
    "full": _FULL,
    "ia3": write(peft__method="ia3"),
    "(ia)3": write(peft__method="ia3"),
    "kasa": write(peft__method="lora", peft__use_kasa=True),
    "layernorm": write(peft__method="ln-tuning"),
    "lora+": _LORAPLUS,
    "lora-fa": _LORAFA,
    "lora-ga": _starts("lora_ga"),
    "loraplus": _LORAPLUS,
    "mica": _starts("mica"),
    "none": _FULL,
    "olora": _starts("olora"),
    "pissa": _starts("pissa"),
    "prefix": write(peft__method="prefix-tuning"),
    "prompt": write(peft__method="prompt-tuning"),
    "ptuning-v2": write(peft__method="prefix-tuning"),
    "qdora": _QDORA,
    "qlora": _QLORA,
    "rslora": _RSLORA,
    "soft-prompt": write(peft__method="prompt-tuning"),
}

_FEW_BITS: Mapping[Any, Advice] = {
    4: _4BIT,
    8: _8BIT,
    "4bit": _4BIT,
    "8bit": _8BIT,
    "bitsandbytes": write('`"bnb-8bit"` for 8 bits', quantization__method="bnb-4bit"),
    "bnb": write('`"bnb-8bit"` for 8 bits', quantization__method="bnb-4bit"),
    "fp4": write(quantization__method="bnb-4bit", quantization__bnb_4bit_quant_type="fp4"),
    "fp8": write(quantization__method="torchao", quantization__quant_type="Float8WeightOnlyConfig"),
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
    "disabled": write(model__attn_implementation="eager"),
    "fa2": _FLASH,
    "flash": _FLASH,
    "flash_attn": _FLASH,
    "flash_attention": _FLASH,
    "xformers": _SDPA,
}

_NO_PPO = no_key("lorans has no PPO; `[grpo]` needs no value model, and learns from rewards")

_OWN_TABLES: Mapping[Any, Advice] = {
    "cpo": no_key("write a table `[cpo]` instead"),
    "grpo": no_key("write a table `[grpo]` with its rewards instead"),
    **each("kto kto_pair", no_key("write a table `[kto]` instead")),
    "orpo": no_key("write a table `[orpo]` instead"),
    "ppo": _NO_PPO,
    **each("reward rm", no_key('write `task_type = "SEQ_CLS"` and a table `[reward]` instead')),
    "simpo": no_key('write a table `[cpo]` with `loss_type = "simpo"` and `cpo_alpha = 0` instead'),
}
"""Objectives that other tools choose by a value; here, each has a table."""

_DPO_LOSSES: Mapping[Any, Advice] = {
    **{loss: write(dpo__loss_type=[loss]) for loss in Dpo.losses()},
    "exo_pair": write(dpo__loss_type=["exo_pair"], dpo__label_smoothing=0.001),
    "dpo": write(dpo__loss_type=["sigmoid"]),
    **each("rpo sigmoid+sft", write("`loss_weights` weights them", dpo__loss_type=["sigmoid", "sft"])),
    "mpo": write("with `loss_weights = [0.8, 0.2, 1.0]`", dpo__loss_type=["sigmoid", "bco_pair", "sft"]),
    **_OWN_TABLES,
}

_TASKS: Mapping[Any, Advice] = {
    **each(
        "causal causal-lm chat clm generation instruction lm pretrain pt sft text-generation QUESTION_ANS SEQ_2_SEQ_LM",
        write(task_type="CAUSAL_LM"),
    ),
    **each(
        "classification multi-label-classification regression sequence-classification text-classification",
        write(task_type="SEQ_CLS"),
    ),
    **each("reward rm", write("with the table `[reward]`", task_type="SEQ_CLS")),
    **each("ner pos tagging token-classification", write(task_type="TOKEN_CLS")),
    **{
        name: write(task_type="CAUSAL_LM", dpo__loss_type=[loss])
        for name, loss in {"dpo": "sigmoid", "ipo": "ipo"}.items()
    },
    "kto": write("with the table `[kto]`", task_type="CAUSAL_LM"),
    "orpo": no_key('write `task_type = "CAUSAL_LM"` and a table `[orpo]`'),
    "cpo": no_key('write `task_type = "CAUSAL_LM"` and a table `[cpo]`'),
    "simpo": no_key('write `task_type = "CAUSAL_LM"` and `[cpo]` with `loss_type = "simpo"` and `cpo_alpha = 0`'),
    "grpo": no_key('write `task_type = "CAUSAL_LM"` and a table `[grpo]` with its rewards'),
    "ppo": _NO_PPO,
}

_FORMATS: Mapping[Any, Advice] = {
    "chat": write(dataset__format="messages"),
    "chat_template": write(dataset__format="messages"),
    "chatml": write(dataset__format="messages"),
    "completion": write(dataset__format="text"),
    "conversation": write(dataset__format="sharegpt"),
    "conversational": write(dataset__format="messages"),
    "conversations": write(dataset__format="sharegpt"),
    "instruction": write(dataset__format="alpaca"),
    "openai": write(dataset__format="messages"),
    "pretrain": write(dataset__format="text"),
    "raw": write(dataset__format="text"),
    **{
        kind: no_key('the kind of file is seen from its name: leave `format = "auto"`')
        for kind in ("csv", "json", "jsonl", "parquet", "tsv")
    },
}

_STRATEGIES: Mapping[Any, Advice] = {
    **{
        name.format(stage): write(distributed__strategy="deepspeed", distributed__zero_stage=stage)
        for stage in (1, 2, 3)
        for name in ("zero{}", "deepspeed_zero{}", "ds_z{}", "zero_stage{}")
    },
    "fsdp1": write(distributed__strategy="fsdp"),
    "fsdp2": write(distributed__strategy="fsdp"),
    "no": write(distributed__strategy="none"),
    "single": write(distributed__strategy="none"),
    **each("dp multi_cpu multi_gpu mp", write(distributed__strategy="ddp")),
}

_LOSS_ON_ALL, _LOSS_ON_ANSWERS = write(sft__train_on="all"), write(sft__train_on="assistant")

_SCHEDULES = no_key("lorans has no such schedule; `cosine` is the nearest")

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
        "peft.target_modules": each("all all_linear linear", _ALL_LINEAR),
        "peft.init_lora_weights": {
            True: write(peft__init_lora_weights="default"),
            "loraga": _starts("lora_ga"),
            "kaiming": write(peft__init_lora_weights="default"),
        },
        "training.lr_scheduler_type": {
            "linear_with_warmup": write(training__lr_scheduler_type="linear"),
            "cosine_with_warmup": write(training__lr_scheduler_type="cosine"),
            "warmup_stable_decay": write(training__lr_scheduler_type="constant_with_warmup"),
            "cosine_with_restarts": _SCHEDULES,
            "cosine_with_min_lr": _SCHEDULES,
            "reduce_lr_on_plateau": no_key("lorans has no such schedule; `constant` never falls"),
        },
        "training.optim": {
            **each("adam adamw adamw_hf adamw_apex_fused", write(training__optim="adamw_torch")),
            "adam8bit": write(training__optim="adamw_8bit"),
            "paged_adamw": write(training__optim="paged_adamw_32bit"),
            "lion": write(training__optim="lion_32bit"),
        },
        "sft.train_on": {
            **each("completion completions answer response responses output", _LOSS_ON_ANSWERS),
            **each("everything full inputs prompt", _LOSS_ON_ALL),
            "last_turn": write(sft__train_on="last"),
        },
        "dpo.loss_type": _DPO_LOSSES,
        "tracking.report_to": {
            **{
                name: write(tracking__report_to=[name])
                for name in ("tensorboard", "wandb", "mlflow", "trackio", "swanlab", "comet_ml")
            },
            **each("none no all", no_key('write a list: `[]` for none, or such as `["wandb"]`')),
        },
    }.items()
}
"""Advice by the dotted key of the recipe, then by the plain spelling of the value."""


_MODEL_KEYS = {
    **each(
        "base_model base_model_name_or_path hf_model_id model model_id model_name "
        "model_name_or_path model_path pretrained_model_name_or_path",
        _MODEL,
    ),
    "model_revision": to_key("model.revision"),
    **each("adapter_name_or_path lora_model_dir", to_key("model.init_adapter", remark="a run of lorans")),
    "torch_dtype": to_key("model.dtype", values=_DTYPES),
    "precision": to_key("model.dtype", values=_DTYPES),
    "mixed_precision": to_key("model.dtype", values=_DTYPES),
    "bnb_4bit_compute_dtype": to_key("model.dtype", values=_DTYPES),
    "bf16": _BF16,
    "fp16": _FP16,
    "fp32": _FP32,
    "tf32": no_key("give it as `tf32` in `[training.extra]`"),
    **each("flash_attention use_flash_attention_2 use_flash_attn", _FLASH),
    "flash_attn": to_key("model.attn_implementation", values={**_KERNELS, True: _FLASH}),
    "attn_impl": to_key("model.attn_implementation", values=_KERNELS),
    **each("sdp_attention xformers_attention", _SDPA),
    "use_unsloth": no_key("remove it: lorans trains through TRL and PEFT alone"),
    "load_in_4bit": _4BIT,
    "load_in_8bit": _8BIT,
    "quantization_bit": to_key("quantization.method", values=_FEW_BITS),
    "quant_bits": to_key("quantization.method", values=_FEW_BITS),
    "quant_method": to_key("quantization.method", values=_FEW_BITS),
    **each(
        "double_quantization use_bnb_nested_quant use_double_quant",
        to_key("quantization.bnb_4bit_use_double_quant"),
    ),
    **each(
        "additional_special_tokens new_special_tokens special_tokens tokens",
        to_key("model.add_tokens", remark="a list of tokens"),
    ),
}

_DROPOUTS = ["lora", "rank", "hira", "gralora", "miss", "deft", "vera", "pvera", "randlora", "vblora", "unilora"]

_PEFT_KEYS = {
    **each(
        "adapter finetuning_type peft_method peft_type train_type tuner_type",
        to_key("peft.method", values=_METHODS),
    ),
    **each("lora_rank r rank lora_dim", to_key("peft.lora_r", "peft.r", "peft.init_r")),
    "alpha": to_key("peft.lora_alpha", "peft.alpha", "peft.randlora_alpha"),
    "dropout": to_key(*(f"peft.{name}_dropout" for name in _DROPOUTS)),
    **each(
        "lora_target lora_target_modules target_layers",
        to_key("peft.target_modules", values=each("all all_linear", _ALL_LINEAR)),
    ),
    "lora_target_linear": _ALL_LINEAR,
    **each("additional_target lora_modules_to_save", to_key("peft.modules_to_save")),
    **each("dora peft_use_dora", _DORA),
    **each("rslora peft_use_rslora", _RSLORA),
    "qlora": _QLORA,
    "lora": write(peft__method="lora"),
    "lora+": _LORAPLUS,
    "loraplus": _LORAPLUS,
    **each("lorap_lr_ratio loraplus_ratio", to_key("peft.loraplus_lr_ratio")),
    "pissa_init": _starts("pissa"),
    **each("init_method peft_init_lora_weights", to_key("peft.init_lora_weights")),
    "peft_layers_to_transform": to_key("peft.layers_to_transform"),
    "lora_target_parameters": to_key("peft.target_parameters"),
    **each("fan_in_fan_out lora_fan_in_fan_out", no_key("remove it: it follows from the layers")),
    "use_peft": REMOVE,
}

_DATASET_KEYS = {
    **each(
        "data data_file data_files data_path dataset_path datasets train_data train_dataset "
        "train_file train_path training_file",
        to_key("dataset.path", remark="`dataset.name` if it is on the hub"),
    ),
    "dataset_name": to_key("dataset.name", remark="`dataset.path` if it is a file"),
    **each("dataset_config dataset_config_name", to_key("dataset.subset")),
    **each("dataset_split dataset_train_split", to_key("dataset.train_split")),
    "dataset_test_split": to_key("dataset.eval_split"),
    **each(
        "eval_data eval_dataset eval_file test_datasets val_data val_dataset val_file validation_file",
        to_key("dataset.eval_path", remark="`dataset.eval_split` for a split of the hub dataset"),
    ),
    **each(
        "split_dataset_ratio test_size val_set_size val_size validation_split",
        to_key("dataset.eval_fraction", remark="a share of the rows, below 1"),
    ),
    **each("max_train_samples num_samples", to_key("dataset.max_samples")),
    **each("dataset_type ds_type formatting", to_key("dataset.format", values=_FORMATS)),
    **each("dataset_text_field text_field", no_key('name the column by `columns = { text = "..." }` in `[dataset]`')),
    **each("dataset_num_proc preprocessing_num_workers", _PREPARES),
    **each("dataset_prepared_path overwrite_cache", _PREPARES),
}

_SFT_KEYS = {
    **each(
        "block_size cutoff_len max_len max_length max_seq_len model_max_length seq_len "
        "seq_length sequence_len max_sequence_length",
        _LENGTH,
    ),
    **each("pack sample_packing use_packing", to_key("sft.packing")),
    **each(
        "train_on_inputs train_on_input train_on_prompt",
        write(values={False: _LOSS_ON_ANSWERS}, sft__train_on="all"),
    ),
    **each(
        "assistant_only_loss completion_only_loss train_on_completions train_on_responses_only",
        write(values={False: _LOSS_ON_ALL}, sft__train_on="assistant"),
    ),
    "mask_history": write(sft__train_on="last"),
    "template": objective_key("chat_template", "leave it out to use the tokenizer's own"),
    **each("neftune neftune_alpha noise_alpha", to_key("sft.neftune_noise_alpha")),
    "enable_thinking": no_key("write `chat_template_kwargs = { enable_thinking = false }` in `[sft]`, or true"),
}

_REFERENCE = no_key("remove it: the reference is the start, which `init_adapter` in `[model]` sets")

_PREFERENCE_KEYS = {
    **each("rl rlhf_type pref_loss dpo_loss dpo_loss_type", to_key("dpo.loss_type", values=_DPO_LOSSES)),
    **each("dpo_beta pref_beta", to_key("dpo.beta")),
    "dpo_label_smoothing": to_key("dpo.label_smoothing", remark='with `loss_type = ["robust"]`'),
    "dpo_use_weighting": to_key("dpo.use_weighting"),
    **each(
        "pref_ftx rpo_alpha",
        no_key('write `loss_type = ["sigmoid", "sft"]` and the weight of each as `loss_weights` in `[dpo]`'),
    ),
    "orpo_alpha": to_key("orpo.beta"),
    **each("reward_funcs reward_functions reward_func", no_key("write a table `[[grpo.rewards]]` for each")),
    "reward_weights": no_key("write `weight` in each `[[grpo.rewards]]`"),
    **each("ref_model ref_model_name_or_path ref_model_adapters force_use_ref_model", _REFERENCE),
    **each("sync_ref_model ref_model_sync_steps ref_model_mixup_alpha", _REFERENCE),
    "precompute_ref_batch_size": no_key("remove it: `per_device_eval_batch_size` of `[training]` is used"),
    "reference_free": no_key("lorans always compares with the base; a small `beta` in `[dpo]` holds the model less"),
    **each(
        "max_prompt_length max_completion_length max_prompt_len max_target_length",
        no_key("each side is limited as a whole: write `max_seq_length` in `[dpo]`, and `on_overflow` for longer ones"),
    ),
}

_TRAINING_KEYS = {
    "lr": to_key("training.learning_rate"),
    **each("epochs max_epochs n_epochs num_epochs num_train_epoch", to_key("training.num_train_epochs")),
    **each("iters num_steps total_steps train_steps", to_key("training.max_steps")),
    **each("device_batch_size micro_batch_size per_gpu_train_batch_size", _MICRO),
    **each("batch_size train_batch_size", _BATCH),
    **each("eval_batch_size per_gpu_eval_batch_size val_batch_size", to_key("training.per_device_eval_batch_size")),
    **each(
        "accumulation_steps grad_accum grad_accumulation_steps gradient_accumulation",
        to_key("training.gradient_accumulation_steps"),
    ),
    **each("clip_grad_norm grad_clip gradient_clip_val gradient_clipping max_gradient_norm max_norm", _CLIP),
    **each("optimizer optimizer_type", to_key("training.optim")),
    **each("lr_schedule lr_scheduler scheduler scheduler_type", to_key("training.lr_scheduler_type")),
    **each("warmup_proportion warmup_fraction", to_key("training.warmup_ratio")),
    **each(
        "num_warmup_steps warmup warmup_iters", to_key("training.warmup_steps", remark="or `warmup_ratio`, a share")
    ),
    "decay": to_key("training.weight_decay"),
    "beta1": to_key("training.adam_beta1"),
    "beta2": to_key("training.adam_beta2"),
    **each("out_dir output output_path save_dir save_path", _OUTPUT),
    **each("log_dir logging_dir plot_loss", _LOGS),
    **each("log_every log_interval log_steps", to_key("training.logging_steps")),
    **each("eval_every eval_interval steps_per_eval", to_key("training.eval_steps", values=_EVERY_EPOCH)),
    **each("eval_strategy evaluation_strategy", to_key("training.eval_steps", values=_EVERY_EPOCH)),
    **each("save_every save_interval save_strategy", to_key("training.save_steps", values=_EVERY_EPOCH)),
    "evals_per_epoch": no_key("write the steps between two evaluations as `eval_steps`; once an epoch is the default"),
    "saves_per_epoch": no_key("write the steps between two checkpoints as `save_steps`; once an epoch is the default"),
    **each(
        "activation_checkpointing grad_checkpointing use_gradient_checkpointing",
        to_key(
            "training.gradient_checkpointing",
            values={"unsloth": write(training__gradient_checkpointing=True)},
        ),
    ),
    **each("data_seed random_seed random_state", to_key("training.seed")),
    **each("num_workers dataloader_workers", to_key("training.dataloader_num_workers")),
    "resume_from_checkpoint": no_key("remove it, and run `lorans train RECIPE --resume`"),
    "overwrite_output_dir": no_key("remove it, and run `lorans train RECIPE --overwrite`"),
    **each("hub_model_id push_to_hub hub_strategy", _UPLOAD),
    **each("early_stop_interval early_stopping_steps", to_key("training.early_stopping_patience")),
    **each("max_train_time max_hours time_limit", to_key("training.max_time")),
    "stage": to_key("task_type", values=_TASKS),
    **each("lm_eval_tasks eval_metric eval_metrics", no_key("write a table `[[evaluation.suites]]` for each")),
}

_OTHER_KEYS = {
    **each(
        "gpus n_gpus nproc_per_node num_gpus world_size",
        to_key("distributed.num_processes", remark='with `strategy = "ddp"`; or run `lorans train RECIPE --gpus N`'),
    ),
    "nnodes": to_key("distributed.num_nodes"),
    "deepspeed": Advice({("distributed.strategy",): "deepspeed", ("distributed.deepspeed_config",): OWN}),
    "fsdp": write(distributed__strategy="fsdp"),
    "max_tokens": to_key("generation.max_new_tokens"),
    "max_output_tokens": to_key("generation.max_new_tokens"),
    **each("wandb use_wandb", write(tracking__report_to=["wandb"])),
    "wandb_project": Advice({("tracking.report_to",): ["wandb"], ("tracking.project",): OWN}),
    **each("wandb_name wandb_run_name", to_key("tracking.run_name")),
}

KEYS: Mapping[str, Advice] = {
    plain_name(name): advice
    for table in (_MODEL_KEYS, _PEFT_KEYS, _DATASET_KEYS, _SFT_KEYS, _PREFERENCE_KEYS, _TRAINING_KEYS, _OTHER_KEYS)
    for name, advice in table.items()
}
"""Advice by the plain spelling of the foreign key."""
