"""LLaMA-Factory's keys that stand by themselves, each with its rule."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.importers.draft import Draft
from lora_ns.importers.llamafactory_uses import of_training
from lora_ns.importers.rules import Rule, each, maps, refused, same, told_apart, unused
from lora_ns.importers.training_arguments import ARGUMENTS
from lora_ns.importers.values import flag, names, number, plain, text, whole


def _workers(draft: Draft, key: str) -> None:
    """Processes that prepare batches, of which a stream has none: each of them would read all of it."""
    if draft.flag("streaming"):
        draft.unused(key, "a stream is read by one process")
    else:
        maps("training.dataloader_num_workers", whole, own=0)(draft, key)


_MODEL: Mapping[str, Rule] = {
    "model_revision": maps("model.revision", text, own="main"),
    "adapter_name_or_path": refused(
        "lorans starts new adapters",
        "merge that one into the base first, and name the merged folder as `model_name_or_path`",
        (),
    ),
    "adapter_folder": unused("it is of `adapter_name_or_path`"),
    "create_new_adapter": unused("lorans always starts a new adapter"),
    "use_fast_tokenizer": same("lorans takes the fast tokenizer", True, remedy="remove it", read=flag),
    "split_special_tokens": refused("lorans reads special tokens in texts as the tokenizer does", "remove it"),
    "init_special_tokens": told_apart(
        text,
        lambda name: (
            unused("lorans starts new rows from the others")
            if name == "noise_init"
            else refused("lorans starts new rows from the others, not from descriptions", "remove it", ())
        ),
    ),
    "rope_scaling": refused("lorans takes the base's own positions", "save the base with it", ()),
    "flash_attn": told_apart(
        plain,
        lambda value: (
            maps("model.attn_implementation", lambda _: "flash_attention_2")
            if value == "fa2"
            else unused("the kernel changes no result: `model.attn_implementation` chooses another one than `sdpa`")
        ),
    ),
    "shift_attn": refused("lorans leaves attention as the base has it", "remove it"),
    "mixture_of_depths": refused("lorans takes the base as it is", "remove it", (), fatal=True),
    "train_from_scratch": refused("lorans starts from the base's weights", "keep LLaMA-Factory for it", fatal=True),
    "moe_aux_loss_coef": refused("the routers of experts are not trained, and have no loss", "remove it", (0, 0.0)),
    "upcast_layernorm": refused("lorans keeps the base in `model.dtype`", "remove it if it may go"),
    "disable_gradient_checkpointing": told_apart(
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
        unused("it makes a step quicker or smaller, and changes no result"),
    ),
    **each(
        "cache_dir hf_hub_token ms_hub_token om_hub_token", unused("the hub's own variables say it: `HF_HOME`, ...")
    ),
    **each("offload_folder infer_backend infer_dtype use_kv_cache print_param_status", unused("it is of inference")),
    **each("use_kt kt_weight_path kt_config", refused("lorans has no KTransformers", "remove it")),
    **each(
        "kt_cpu_activation kt_non_expert_weight_path kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num "
        "kt_lora_expert_intermediate_size",
        unused("it is of KTransformers"),
    ),
    **each(
        "image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels "
        "video_fps video_maxlen use_audio_in_video audio_sampling_rate media_dir image_resolution video_resolution",
        unused("it is of pictures and sounds"),
    ),
    **each("freeze_vision_tower freeze_multi_modal_projector", unused("the base stays as it is anyway")),
    "freeze_language_model": refused("lorans trains the language model", "remove it", fatal=True),
    **each(
        "export_dir export_size export_device export_quantization_bit export_quantization_dataset "
        "export_quantization_nsamples export_quantization_maxlen export_legacy_format export_hub_model_id",
        unused("it is of merging: `lorans merge`"),
    ),
    **each(
        "vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config sglang_maxlen "
        "sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend",
        unused("it is of serving"),
    ),
}


_METHOD: Mapping[str, Rule] = {
    "lora_dropout": maps("peft.lora_dropout", number, own=0.0),
    "additional_target": maps("peft.modules_to_save", names, said="they are trained and saved whole"),
    "use_dora": maps("peft.use_dora", flag, own=False),
    "use_rslora": maps("peft.use_rslora", flag, own=False),
    "loraplus_lr_ratio": maps("peft.loraplus_lr_ratio", number),
    "loraplus_lr_embedding": unused("`peft.loraplus_lr_ratio` is for the layers alone"),
    "pissa_convert": unused("it says how the adapter is saved, and not what it learns"),
    "use_llama_pro": refused("lorans adapts the base's own layers", "`peft.layers_to_transform` takes some of them"),
    "pure_bf16": refused("adapters are trained in float32", "write `bf16: true`, which learns better"),
    "use_dft_loss": told_apart(
        flag,
        lambda is_on: (
            maps("sft.loss_type", lambda _: "dft") if is_on else same("the loss is cross entropy", False, remedy="")
        ),
    ),
    **each("use_asft_loss use_eaft_loss", refused("lorans has no such loss", "`sft.loss_type`")),
    **each("asft_alpha eaft_alpha", unused("it is of a loss that has to be asked for")),
    **each(
        "use_galore use_apollo use_badam use_adam_mini use_muon",
        refused("lorans has no such optimizer", "remove it, and name another one by `optim`"),
    ),
    **each(
        "galore_target galore_rank galore_update_interval galore_scale galore_proj_type galore_layerwise "
        "apollo_target apollo_rank apollo_update_interval apollo_scale apollo_proj apollo_proj_type apollo_scale_type "
        "apollo_layerwise apollo_scale_front badam_mode badam_start_block badam_switch_mode badam_switch_interval "
        "badam_update_ratio badam_mask_mode badam_verbose",
        unused("it is of an optimizer that has to be asked for"),
    ),
    **each(
        "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules",
        unused("it is of `finetuning_type: freeze`"),
    ),
    **each("oft_rank oft_block_size oft_target module_dropout", unused("it is of `finetuning_type: oft`")),
    **each(
        "pref_beta pref_ftx pref_bco_weight pref_loss dpo_label_smoothing kto_chosen_weight kto_rejected_weight "
        "simpo_gamma ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards ref_model "
        "ref_model_adapters ref_model_quantization_bit reward_model reward_model_adapters "
        "reward_model_quantization_bit reward_model_type ld_alpha",
        unused("it is of preference or reinforcement learning"),
    ),
    **each(
        "use_mca use_megatron_bridge use_hyper_parallel parallelism_config fp8 fp8_enable_fsdp_float8_all_gather",
        refused("lorans has no such engine", "remove it"),
    ),
    **each(
        "tensor_model_parallel_size pipeline_model_parallel_size expert_model_parallel_size context_parallel_size "
        "virtual_pipeline_model_parallel_size sequence_parallel recompute_granularity recompute_method "
        "recompute_num_layers account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split "
        "bias_activation_fusion apply_rope_fusion masked_softmax_fusion cross_entropy_loss_fusion moe_grouped_gemm "
        "moe_token_dispatcher_type calculate_per_token_loss use_distributed_optimizer overlap_param_gather "
        "overlap_grad_reduce use_packed_sequences mixed_precision megatron_pretrained_checkpoint export_hf_on_finish "
        "extra_config "
        "hyper_parallel_args hyper_parallel_cp_size fp8_backend",
        unused("it is of an engine that has to be asked for"),
    ),
}


_ROWS: Mapping[str, Rule] = {
    **each(
        "overwrite_cache preprocessing_batch_size preprocessing_num_workers data_shared_file_system tokenized_path "
        "cache_path dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers "
        "remove_unused_columns accelerator_config label_names length_column_name sortish_sampler "
        "dataloader_multiprocessing_context dataloader_in_order",
        unused("it says how rows are prepared, and changes nothing that is learned"),
    ),
    "ignore_pad_token_for_loss": same("padding is never learned", True, remedy="remove it", read=flag),
    "disable_shuffling": refused("rows come in a random order here", "remove it if it may go"),
    "tool_format": refused("the chat template shows tools its own way", "remove it if it is the template's own", ()),
    "eval_on_each_dataset": unused("lorans evaluates on all rows together"),
    "dataloader_num_workers": _workers,
    "dataloader_drop_last": refused("lorans trains on the last batch, too", "remove it"),
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
    "logging_steps": told_apart(
        number,
        lambda steps: (
            maps("training.logging_steps", whole)
            if steps >= 1
            else unused("a share of the run changes nothing that is learned: set `training.logging_steps`")
        ),
    ),
    "save_total_limit": maps("training.save_total_limit", whole, own=2),
    "early_stopping_steps": refused("lorans trains to the end", "set `num_train_epochs` to what it used to stop at"),
    "load_best_model_at_end": refused("lorans keeps the last weights", "take one of the checkpoints"),
    **each("metric_for_best_model greater_is_better", unused("it is of choosing a checkpoint")),
    "average_tokens_across_devices": same(
        "the loss is the mean over the tokens of the global batch", True, remedy="remove it", read=flag
    ),
    "optim_target_modules": refused("no optimizer that trains an adapter reads it", "remove it", ()),
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
        "profile_modules bf16_full_eval fp16_full_eval full_determinism",
        unused("it says what is shown or kept, and changes nothing that is learned"),
    ),
    **each(
        "do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty length_penalty "
        "skip_special_tokens",
        unused("it is of answering: `[generation]`"),
    ),
    **each("task_dir batch_size n_shot lang save_dir download_mode task", unused("it is of a benchmark")),
    **each(
        "ddp_timeout ddp_find_unused_parameters ddp_backend ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph "
        "local_rank use_cpu use_ipex no_cuda fsdp_transformer_layer_cls_to_wrap fsdp_min_num_params use_ray "
        "ray_run_name ray_storage_path ray_storage_filesystem ray_num_workers resources_per_worker "
        "placement_strategy ray_init_kwargs master_addr master_port",
        unused("lorans starts and joins processes itself: `[distributed]`"),
    ),
    "resume_from_checkpoint": unused("`lorans train --resume RUN` goes on"),
    "ignore_data_skip": unused("a run that is resumed goes on as if it had not been interrupted"),
    **each(
        "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_revision hub_always_push",
        unused("lorans uploads nothing by itself: `hf upload`"),
    ),
    **each(
        "use_swanlab swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir "
        "swanlab_lark_webhook_url swanlab_lark_secret",
        unused("lorans does not report to SwanLab; `metrics.jsonl` has all numbers"),
    ),
    **each("trackio_space_id trackio_bucket_id trackio_static_space_id", unused("trackio reads `TRACKIO_*` variables")),
}


RULES: Mapping[str, Rule] = {
    key: of_training(rule) for key, rule in {**_MODEL, **_METHOD, **_ROWS, **_LEARNING, **_NO_RESULT}.items()
}
"""Every key of its arguments that is not in a step, with those of transformers that change no result."""
