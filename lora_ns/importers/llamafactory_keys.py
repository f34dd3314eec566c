"""Rules for LLaMA-Factory's independent keys."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.importers.draft import Draft
from lora_ns.importers.llamafactory_uses import of_training
from lora_ns.importers.preferences import BETA, on_pairs
from lora_ns.importers.rules import Rule, by_value, each, maps, refused, same, unused
from lora_ns.importers.training_arguments import ARGUMENTS
from lora_ns.importers.values import flag, names, number, plain, text, whole

_NO_DPO = "it only applies to `stage: dpo`"


def _workers(draft: Draft, key: str) -> None:
    """Translate the number of workers, which lorans does not use with streaming: each would read the whole stream."""
    if draft.flag("streaming"):
        draft.unused(key, "lorans reads a stream in one process")
    else:
        maps("training.dataloader_num_workers", whole, own=0)(draft, key)


_MODEL: Mapping[str, Rule] = {
    "model_revision": maps("model.revision", text, own="main"),
    "adapter_name_or_path": refused(
        "lorans goes on from its own runs only",
        "merge the old one into the base, and write the merged folder to `model_name_or_path`",
        (),
    ),
    "adapter_folder": unused("it only applies to `adapter_name_or_path`"),
    "create_new_adapter": unused("an imported recipe trains a new adapter"),
    "use_fast_tokenizer": same(
        "lorans uses the fast tokenizer", True, remedy="remove it: slow tokenizers are not supported", read=flag
    ),
    "split_special_tokens": refused("lorans does not split special tokens in texts", "remove it"),
    "init_special_tokens": by_value(
        text,
        lambda name: (
            unused("lorans initialises new tokens from the other embeddings")
            if name == "noise_init"
            else refused("lorans initialises new tokens from the other embeddings, not from text", "remove it", ())
        ),
    ),
    "rope_scaling": refused("lorans uses the base's own configuration", "change it in the base's folder", ()),
    "flash_attn": by_value(
        plain,
        lambda value: (
            maps("model.attn_implementation", lambda _: "flash_attention_2")
            if value == "fa2"
            else unused("the kernel does not change results; set `model.attn_implementation` to choose one")
        ),
    ),
    "shift_attn": refused("lorans does not change attention", "remove it"),
    "mixture_of_depths": refused("lorans does not change the base's architecture", "remove it", (), fatal=True),
    "train_from_scratch": refused(
        "lorans starts from the base's weights", "use LLaMA-Factory for this run", fatal=True
    ),
    "moe_aux_loss_coef": refused("lorans does not train the experts' routers", "remove it", (0, 0.0)),
    "upcast_layernorm": refused("lorans keeps the base in `model.dtype`", "remove it if you do not need it"),
    "disable_gradient_checkpointing": by_value(
        flag,
        lambda is_off: (
            maps("training.gradient_checkpointing", lambda _: False)
            if is_off
            else maps("training.gradient_checkpointing", lambda _: True)
        ),
    ),
    **each(
        "low_cpu_mem_usage use_unsloth use_unsloth_gc enable_liger_kernel use_reentrant_gc upcast_lmhead_output "
        "use_v1_kernels gradient_checkpointing gradient_checkpointing_kwargs use_liger_kernel liger_kernel_config "
        "activation_checkpointing activation_checkpointing_kwargs torch_compile torch_compile_backend "
        "torch_compile_mode torch_empty_cache_steps tf32 quantization_device_map",
        unused("it only saves time or memory"),
    ),
    **each(
        "cache_dir hf_hub_token ms_hub_token om_hub_token",
        unused("set the hub's variables instead, such as `HF_HOME` and `HF_TOKEN`"),
    ),
    **each(
        "offload_folder infer_backend infer_dtype use_kv_cache print_param_status",
        unused("it only applies to inference"),
    ),
    **each("use_kt kt_weight_path kt_config", refused("lorans does not support KTransformers", "remove it")),
    **each(
        "kt_cpu_activation kt_non_expert_weight_path kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num "
        "kt_lora_expert_intermediate_size",
        unused("it only applies to KTransformers"),
    ),
    **each(
        "image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels "
        "video_fps video_maxlen use_audio_in_video audio_sampling_rate media_dir image_resolution video_resolution",
        unused("it only applies to images, video and audio"),
    ),
    **each("freeze_vision_tower freeze_multi_modal_projector", unused("lorans keeps the base frozen")),
    "freeze_language_model": refused("lorans trains the language model", "remove it", fatal=True),
    **each(
        "export_dir export_size export_device export_quantization_bit export_quantization_dataset "
        "export_quantization_nsamples export_quantization_maxlen export_legacy_format export_hub_model_id",
        unused("it is for merging; see `lorans merge`"),
    ),
    **each(
        "vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config sglang_maxlen "
        "sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend",
        unused("it only applies to serving"),
    ),
}


_METHOD: Mapping[str, Rule] = {
    "lora_dropout": maps("peft.lora_dropout", number, own=0.0),
    "additional_target": maps("peft.modules_to_save", names, said="lorans trains them in full"),
    "use_dora": maps("peft.use_dora", flag, own=False),
    "use_rslora": maps("peft.use_rslora", flag, own=False),
    "loraplus_lr_ratio": maps("peft.loraplus_lr_ratio", number),
    "loraplus_lr_embedding": unused("`peft.loraplus_lr_ratio` does not apply to embeddings"),
    "pissa_convert": unused("it only changes the format of the saved adapter"),
    "use_llama_pro": refused(
        "lorans adapts the base's own layers only", "set `peft.layers_to_transform` to adapt some of them"
    ),
    "pure_bf16": refused(
        "lorans trains adapters in float32", "write `bf16: true` instead: adapters in 16 bits learn worse"
    ),
    "use_dft_loss": by_value(
        flag,
        lambda is_on: (
            maps("sft.loss_type", lambda _: "dft")
            if is_on
            else same("lorans's default loss is cross-entropy", False, remedy="")
        ),
    ),
    **each(
        "use_asft_loss use_eaft_loss",
        refused("lorans does not support this loss", "see `sft.loss_type` for supported losses"),
    ),
    **each("asft_alpha eaft_alpha", unused("it only applies to a loss that lorans does not have")),
    **each(
        "use_galore use_apollo use_badam use_adam_mini use_muon",
        refused("lorans does not support this optimizer", "remove it, and choose one with `optim`"),
    ),
    **each(
        "galore_target galore_rank galore_update_interval galore_scale galore_proj_type galore_layerwise "
        "apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type apollo_scale_type "
        "apollo_layerwise apollo_scale_front badam_mode badam_start_block badam_switch_mode badam_switch_interval "
        "badam_update_ratio badam_mask_mode badam_verbose",
        unused("it only applies to an optimizer that lorans does not have"),
    ),
    **each(
        "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules",
        unused("it only applies to `finetuning_type: freeze`"),
    ),
    **each("oft_rank oft_block_size oft_target module_dropout", unused("it only applies to `finetuning_type: oft`")),
    **each(
        "kto_chosen_weight kto_rejected_weight simpo_gamma ppo_buffer_size ppo_epochs ppo_score_norm ppo_target "
        "ppo_whiten_rewards reward_model reward_model_adapters reward_model_quantization_bit reward_model_type",
        unused("it only applies to other preference tuning and reinforcement learning"),
    ),
    "pref_beta": on_pairs(BETA, _NO_DPO),
    "ld_alpha": on_pairs(maps("dpo.ld_alpha", number), _NO_DPO),
    "pref_bco_weight": on_pairs(
        refused("lorans adds `bco_pair` in another way", "write it to `dpo.loss_type`, with its weight", (0, 0.0)),
        _NO_DPO,
    ),
    "dpo_label_smoothing": on_pairs(
        refused("`sigmoid` has no smoothing in lorans", 'write `dpo.loss_type = ["robust"]` with it', (0, 0.0)), _NO_DPO
    ),
    **each(
        "ref_model ref_model_adapters ref_model_quantization_bit",
        on_pairs(refused("the reference of lorans is the base without the adapter", "remove it", ()), _NO_DPO),
    ),
    **each(
        "use_mca use_megatron_bridge use_hyper_parallel parallelism_config fp8 fp8_enable_fsdp_float8_all_gather",
        refused("lorans does not support this backend", "remove it"),
    ),
    **each(
        "tensor_model_parallel_size pipeline_model_parallel_size expert_model_parallel_size context_parallel_size "
        "virtual_pipeline_model_parallel_size sequence_parallel recompute_granularity recompute_method "
        "recompute_num_layers account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split "
        "bias_activation_fusion apply_rope_fusion masked_softmax_fusion cross_entropy_loss_fusion moe_grouped_gemm "
        "moe_token_dispatcher_type calculate_per_token_loss use_distributed_optimizer overlap_param_gather "
        "overlap_grad_reduce use_packed_sequences mixed_precision megatron_pretrained_checkpoint export_hf_on_finish "
        "extra_config hyper_parallel_args hyper_parallel_cp_size fp8_backend",
        unused("it only applies to a backend that lorans does not have"),
    ),
}


_ROWS: Mapping[str, Rule] = {
    **each(
        "overwrite_cache preprocessing_batch_size preprocessing_num_workers data_shared_file_system tokenized_path "
        "cache_path dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers "
        "remove_unused_columns accelerator_config label_names length_column_name sortish_sampler "
        "dataloader_multiprocessing_context dataloader_in_order",
        unused("it is about preparing and batching rows, and does not change results"),
    ),
    "ignore_pad_token_for_loss": same("lorans never trains on padding", True, remedy="remove it", read=flag),
    "disable_shuffling": refused("lorans shuffles the rows", "remove it if you do not need it"),
    "tool_format": refused(
        "in lorans, the chat template renders tools", "remove it if it is the template's own format", ()
    ),
    "eval_on_each_dataset": unused("lorans evaluates on all evaluation rows together"),
    "dataloader_num_workers": _workers,
    "dataloader_drop_last": refused("lorans also trains on the last batch of an epoch", "remove it"),
    "neftune_noise_alpha": maps("sft.neftune_noise_alpha", number),
}


_AS_IN_TRANSFORMERS = (
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "optim_args", "lr_scheduler_kwargs"),
    *("seed", "data_seed", "per_device_eval_batch_size"),
)
"""Keys that LLaMA-Factory passes to `TrainingArguments` unchanged."""


_LEARNING: Mapping[str, Rule] = {
    **{key: ARGUMENTS[key] for key in _AS_IN_TRANSFORMERS},
    "label_smoothing_factor": maps("training.extra.label_smoothing_factor", number, own=0.0),
    "auto_find_batch_size": unused("lorans computes the largest batch that fits"),
    "logging_steps": by_value(
        number,
        lambda steps: (
            maps("training.logging_steps", whole)
            if steps >= 1
            else unused("it is a fraction of the run; set `training.logging_steps` to a number of steps")
        ),
    ),
    "save_total_limit": maps("training.save_total_limit", whole, own=2),
    "early_stopping_steps": maps("training.early_stopping_patience", whole),
    **{key: ARGUMENTS[key] for key in ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")},
    "full_determinism": ARGUMENTS["full_determinism"],
    "average_tokens_across_devices": same(
        "lorans averages the loss over the tokens of the global batch", True, remedy="remove it", read=flag
    ),
    "optim_target_modules": refused("lorans does not support GaLore", "remove it", ()),
}


_NO_RESULT: Mapping[str, Rule] = {
    **each(
        "plot_loss overwrite_output_dir disable_tqdm logging_dir logging_first_step logging_strategy log_level "
        "log_level_replica log_on_each_node logging_nan_inf_filter save_only_model save_on_each_node save_safetensors "
        "include_effective_tokens_per_second include_num_input_tokens_seen include_tokens_per_second "
        "skip_memory_metrics prediction_loss_only eval_delay eval_on_start eval_accumulation_steps compute_accuracy "
        "batch_eval_metrics eval_do_concat_batches eval_use_gather_object include_for_metrics enable_jit_checkpoint "
        "restore_callback_states_from_checkpoint use_cache do_predict predict_with_generate "
        "generation_max_length generation_num_beams generation_config "
        "eval_num_beams debug enable_torch_profiler profiler_output_dir profiler_wait_steps profiler_warmup_steps "
        "profiler_active_steps profiler_repeat profiler_record_shapes profiler_profile_memory profiler_with_stack "
        "profile_modules bf16_full_eval fp16_full_eval",
        unused("it is about logs and files, and does not change results"),
    ),
    **each(
        "do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty length_penalty "
        "skip_special_tokens",
        unused("it only applies to inference; see `[generation]`"),
    ),
    **each("task_dir batch_size n_shot lang save_dir download_mode task", unused("it only applies to benchmarks")),
    **each(
        "ddp_timeout ddp_find_unused_parameters ddp_backend ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph "
        "local_rank use_cpu use_ipex no_cuda fsdp_transformer_layer_cls_to_wrap fsdp_min_num_params use_ray "
        "ray_run_name ray_storage_path ray_storage_filesystem ray_num_workers resources_per_worker "
        "placement_strategy ray_init_kwargs master_addr master_port",
        unused("lorans starts processes itself; see `[distributed]`"),
    ),
    "resume_from_checkpoint": unused("use `lorans train --resume RUN`"),
    "ignore_data_skip": unused("lorans always resumes where the run stopped"),
    **each(
        "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_revision hub_always_push",
        unused("lorans uploads nothing; use `hf upload`"),
    ),
    **each(
        "use_swanlab swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir "
        "swanlab_lark_webhook_url swanlab_lark_secret",
        unused("lorans does not report to SwanLab; all metrics are in `metrics.jsonl`"),
    ),
    **each(
        "trackio_space_id trackio_bucket_id trackio_static_space_id",
        unused("set trackio's `TRACKIO_*` variables instead"),
    ),
}


RULES: Mapping[str, Rule] = {
    key: of_training(rule) for key, rule in {**_MODEL, **_METHOD, **_ROWS, **_LEARNING, **_NO_RESULT}.items()
}
"""Rules for every key that no step handles, including those of transformers. They apply to training runs only."""
