"""Rules and steps for keys of `transformers.TrainingArguments`, for tools that are built on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from lora_ns.importers.draft import Draft
from lora_ns.importers.rules import Rule, by_value, each, maps, refused, same, unused
from lora_ns.importers.values import flag, number, plain, text, whole

_LOGS = unused("it is about logs and files, and does not change results")
_SAVINGS = unused("it only saves time or memory")
_BATCHES = unused("it is about preparing and batching rows, and does not change results")
_PROCESSES = unused("lorans starts processes itself; see `[distributed]`")


ARGUMENTS: Mapping[str, Rule] = {
    "weight_decay": maps("training.weight_decay", number, own=0.0),
    "adam_beta1": maps("training.adam_beta1", number, own=0.9),
    "adam_beta2": maps("training.adam_beta2", number, own=0.999),
    "adam_epsilon": maps("training.extra.adam_epsilon", number, own=1e-8),
    "max_grad_norm": maps("training.max_grad_norm", number, own=1.0),
    "optim_args": maps("training.extra.optim_args", text),
    "lr_scheduler_kwargs": maps("training.extra.lr_scheduler_kwargs"),
    "optim_target_modules": refused("lorans does not support GaLore", "remove it"),
    "label_smoothing_factor": refused("lorans trains without label smoothing", "remove it", (0, 0.0)),
    "seed": maps("training.seed", whole, own=42),
    "data_seed": unused("`training.seed` also determines the order of the rows"),
    "full_determinism": maps("training.full_determinism", flag, own=False),
    "neftune_noise_alpha": maps("sft.neftune_noise_alpha", number, own=0.0),
    "per_device_eval_batch_size": maps("training.per_device_eval_batch_size", whole),
    "gradient_checkpointing": maps("training.gradient_checkpointing", flag),
    "save_total_limit": maps("training.save_total_limit", whole, own=2),
    "logging_steps": by_value(
        number,
        lambda value: (
            maps("training.logging_steps", whole)
            if value >= 1
            else unused("it is a fraction of the run; set `training.logging_steps` to a number of steps")
        ),
    ),
    "dataloader_num_workers": maps("training.dataloader_num_workers", whole, own=0),
    "dataloader_drop_last": refused("lorans also trains on the last batch of an epoch", "remove it"),
    "average_tokens_across_devices": same(
        "lorans averages the loss over the tokens of the global batch", True, remedy="remove it", read=flag
    ),
    "load_best_model_at_end": maps("training.load_best_model_at_end", flag, own=False),
    "metric_for_best_model": maps("training.metric_for_best_model", text),
    "greater_is_better": unused("lorans knows the direction of a metric by its name"),
    **each(
        "gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs tf32 torch_compile "
        "torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache activation_offloading "
        "torch_empty_cache_steps bf16_full_eval fp16_full_eval half_precision_backend fp16_opt_level use_kernels",
        _SAVINGS,
    ),
    "auto_find_batch_size": unused("lorans computes the largest batch that fits"),
    **each(
        "logging_strategy logging_first_step logging_dir log_on_each_node logging_nan_inf_filter log_level "
        "log_level_replica disable_tqdm include_num_input_tokens_seen include_tokens_per_second debug "
        "skip_memory_metrics save_only_model save_on_each_node save_safetensors enable_jit_checkpoint do_train do_eval "
        "do_predict overwrite_output_dir eval_delay eval_on_start eval_do_concat_batches eval_use_gather_object "
        "eval_accumulation_steps include_for_metrics include_inputs_for_metrics batch_eval_metrics "
        "prediction_loss_only past_index jit_mode_eval use_mps_device no_cuda use_cpu use_ipex",
        _LOGS,
    ),
    **each(
        "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor accelerator_config "
        "dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names "
        "length_column_name dataset_num_proc",
        _BATCHES,
    ),
    **each(
        "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout "
        "local_rank split_batches dispatch_batches",
        _PROCESSES,
    ),
    "parallelism_config": refused("lorans configures parallelism itself", "set `[distributed]`"),
    **each(
        "push_to_hub hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision hub_model_revision "
        "push_to_hub_model_id push_to_hub_organization push_to_hub_revision overwrite_hub_revision",
        unused("lorans uploads nothing; use `hf upload`"),
    ),
    **each(
        "hub_token push_to_hub_token hf_token",
        unused("lorans reads secrets from the environment, such as `HF_TOKEN`"),
    ),
    **each(
        "resume_from_checkpoint ignore_data_skip restore_callback_states_from_checkpoint",
        unused("use `lorans train --resume RUN`"),
    ),
    "run_name": maps("tracking.run_name", text),
    **each(
        "trackio_space_id trackio_bucket_id trackio_static_space_id",
        unused("set trackio's `TRACKIO_*` variables instead"),
    ),
    "torchdynamo": _SAVINGS,
    "environment": unused("it only affects processes and their machine; `--gpus N` sets the number of GPUs"),
}
"""Rules for keys that have the same meaning in every tool. The steps of a tool write its own defaults."""


def duration(draft: Draft, epochs: str, default: float) -> None:
    """Write `training.max_steps` if it is above 0, otherwise `training.num_train_epochs`."""
    most = draft.whole("max_steps")
    if most is not None and most > 0:
        draft.put("training.max_steps", most, "max_steps")
        if draft.has(epochs):
            draft.unused(epochs, "`max_steps` takes precedence")
        return
    if draft.has("max_steps"):
        draft.unused("max_steps", "it is off")
    draft.put("training.num_train_epochs", draft.number(epochs, default), epochs)


def processes(draft: Draft) -> None:
    """Translate DeepSpeed or FSDP, which distribute memory and do not change results."""
    if draft.has("deepspeed"):
        _deepspeed(draft)
        for key in ("fsdp", "fsdp_config"):
            if draft.has(key):
                draft.refuse(key, "`deepspeed` is also set", "remove one of them")
        return
    asked = draft.get("fsdp")
    if asked in (None, False, "false", "False") and not draft.has("fsdp_config"):
        if draft.has("fsdp"):
            draft.same("fsdp", "it is off")
        return
    draft.put("distributed.strategy", "fsdp", "fsdp", "fsdp_config")
    words = " ".join(draft.names("fsdp")) if isinstance(asked, (str, list)) else ""
    if "offload" in words:
        draft.put("distributed.cpu_offload", True, "fsdp")
    for leaf in draft.source.below("fsdp_config"):
        name = leaf.rpartition(".")[2].removeprefix("fsdp_")
        if name in ("offload_params", "cpu_offload"):
            draft.put("distributed.cpu_offload", draft.flag(leaf), leaf, own=False)
        else:
            draft.unused(leaf, "it does not change results; lorans wraps the base's own blocks")


_ZERO: Mapping[str, Mapping[str, object]] = {
    "zero1": {"zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"zero_stage": 3},
    "zero2_offload": {"zero_stage": 2, "offload_optimizer": "cpu"},
    "zero3_offload": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
}
"""DeepSpeed configurations that tools include, by name, with the corresponding recipe keys."""


_SAVE_AS_JSON = "save it as JSON, and set `distributed.deepspeed_config`"


def _deepspeed(draft: Draft) -> None:
    value = draft.read("deepspeed", plain)
    if draft.is_refused("deepspeed"):
        return
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        draft.refuse("deepspeed", "lorans reads it from a file", _SAVE_AS_JSON)
        return
    draft.put("distributed.strategy", "deepspeed", "deepspeed")
    if value in _ZERO:
        for key, ours in _ZERO[value].items():
            draft.put(f"distributed.{key}", ours, "deepspeed")
    elif PurePath(value).suffix == ".json":
        draft.path("distributed.deepspeed_config", value, "deepspeed")
    else:
        draft.refuse("deepspeed", "not a JSON file", _SAVE_AS_JSON)


def dtype(draft: Draft, weights: str, default: str) -> None:
    """Write `model.dtype`: that of the computation (`bf16`, `fp16`), otherwise that of the weights.

    Args:
        draft: the translation.
        weights: key with the dtype of the base's weights.
        default: the tool's default of `weights`.
    """
    half, short = draft.flag("bf16", True), draft.flag("fp16")
    stored = draft.text(weights, default).removeprefix("torch.")
    known = ("bfloat16", "float16", "float32", "auto")
    if stored not in known and not draft.is_refused(weights):
        draft.refuse(weights, "lorans has no such dtype", f"write one of: {', '.join(known)}")
        return
    asked = [key for key in ("bf16", "fp16") if draft.has(key)]
    if stored in ("bfloat16", "float16") and draft.has(weights):
        draft.put("model.dtype", stored, weights)
    elif short:
        draft.put("model.dtype", "float16", "fp16", weights)
    elif half and "bf16" in asked:
        draft.put("model.dtype", "bfloat16", "bf16", weights)
    elif not half and stored != "auto":
        draft.put("model.dtype", stored, weights, *asked)
    for key in (weights, *asked):
        if draft.has(key) and not draft.is_accounted(key):
            draft.same(key, "lorans computes in `model.dtype`; its default is the best dtype for the device")
