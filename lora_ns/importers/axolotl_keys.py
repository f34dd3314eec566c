"""axolotl's keys that stand by themselves, each with its rule."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.importers.rules import Rule, among, gone, maps, refused, same, told_apart, unused
from lora_ns.importers.values import flag, names, number, plain, text, whole


def _each(keys: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(keys.split(), rule)


def _gone(since: str, rule: Rule) -> Rule:
    return gone("axolotl", since, rule)


_MODEL: Mapping[str, Rule] = {
    **_each("revision_of_model model_revision", maps("model.revision", text, own="main")),
    "trust_remote_code": maps("model.trust_remote_code", flag, own=False),
    **_each(
        "model_type type_of_model",
        told_apart(
            text,
            lambda name: (
                unused("lorans loads the base as a causal language model")
                if name.endswith(("ForCausalLM", "LMHeadModel"))
                else refused(
                    "lorans imports causal language models", "write such a recipe yourself: `task_type`", (), True
                )
            ),
        ),
    ),
    "tokenizer_type": unused("the base says which tokenizer it has"),
    "tokenizer_use_fast": same(
        "lorans takes the fast tokenizer", True, remedy="remove it: slow ones are not read", read=flag
    ),
    "tokenizer_legacy": unused("the tokenizer's own files say it"),
    "tokenizer_use_mistral_common": refused("lorans reads tokenizers of transformers", "name a base that has one"),
    "processor_type": refused("lorans trains on text", "keep axolotl for it", (), fatal=True),
    **_each(
        "is_falcon_derived_model is_llama_derived_model is_mistral_derived_model is_qwen_derived_model",
        unused("lorans goes by the base itself"),
    ),
    "resize_token_embeddings_to_32x": unused("it adds rows that no token has"),
    "mean_resizing_embeddings": refused("lorans makes the rows of new tokens its own way", "remove it"),
    "shrink_embeddings": refused("lorans keeps the base's vocabulary", "remove it"),
    "embeddings_skip_upcast": unused("it saves memory"),
    "reinit_weights": refused("lorans starts from the base's weights", "keep axolotl for it", fatal=True),
    "added_tokens_overrides": refused("lorans adds tokens and renames none", "`model.add_tokens`"),
    **_each(
        "overrides_of_model_config model_config overrides_of_model_kwargs model_kwargs",
        refused("lorans takes the base's own configuration", "save the base with it", ()),
    ),
    **_each(
        "model_quantization_config model_quantization_config_kwargs use_onebitllms quantize_moe_experts",
        refused("lorans has no such quantisation", "`lorans init --list`, or docs/bases.md"),
    ),
    **_each("device_map max_memory gpu_memory_limit low_cpu_mem_usage", unused("lorans places the base itself")),
}


_LORA: Mapping[str, Rule] = {
    "lora_r": maps("peft.lora_r", whole),
    "lora_alpha": maps("peft.lora_alpha", number),
    "lora_dropout": maps("peft.lora_dropout", number, own=0.0),
    "lora_modules_to_save": maps("peft.modules_to_save", names),
    "lora_target_parameters": maps("peft.target_parameters", names),
    "lora_exclude_modules": maps("peft.exclude_modules", names),
    "lora_rank_pattern": maps("peft.rank_pattern"),
    "lora_alpha_pattern": maps("peft.alpha_pattern"),
    "lora_fan_in_fan_out": unused("PEFT sees how the base stores a layer"),
    "lora_model_dir": refused(
        "lorans starts new adapters", "merge that one into the base first, and name the merged folder as `base_model`"
    ),
    "peft_layers_to_transform": maps("peft.layers_to_transform"),
    "peft_layers_pattern": maps("peft.extra.layers_pattern", names),
    "peft_use_dora": maps("peft.use_dora", flag, own=False),
    "peft_use_rslora": maps("peft.use_rslora", flag, own=False),
    "peft_init_lora_weights": told_apart(
        plain,
        lambda value: (
            same("it is PEFT's own way", True, "default", remedy="")
            if value in (True, "default")
            else maps("peft.init_lora_weights", text)
        ),
    ),
    "peft_trainable_token_indices": told_apart(
        plain,
        lambda value: (
            maps("peft.trainable_token_indices")
            if isinstance(value, list)
            else refused("lorans has one list for embeddings and head", "write a list of numbers", ())
        ),
    ),
    "peft_autocast_adapter_dtype": same(
        "adapters are trained in float32", True, remedy="remove it: 16-bit adapters learn worse", read=flag
    ),
    "loraplus_lr_ratio": maps("peft.loraplus_lr_ratio", number),
    "loraplus_lr_embedding": unused("`peft.loraplus_lr_ratio` is for the layers alone"),
    **_each("lora_on_cpu merge_lora merge_method", unused("it is of merging: `lorans merge`")),
    "qlora_sharded_model_loading": unused("it saves memory"),
    **_each(
        "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel",
        unused("the kernel changes no result"),
    ),
    **_each("peft peft_layer_replication peft_ensure_weight_tying", refused("lorans has nothing like it", "remove it")),
    **_each(
        "relora relora_steps relora_warmup_steps relora_anneal_steps relora_prune_ratio relora_prune_method "
        "relora_cpu_offload jagged_restart_steps jagged_restart_warmup_steps jagged_restart_anneal_steps",
        refused("lorans has no ReLoRA", "remove it"),
    ),
    **_each(
        "lisa_n_layers lisa_step_interval lisa_layers_attribute unfrozen_parameters",
        refused("lorans trains adapters, and no layers of the base", "`lora_modules_to_save` trains some whole"),
    ),
    "freeze_mm_modules": unused("the base stays as it is anyway"),
}


_ROWS: Mapping[str, Rule] = {
    "dataset_prepared_path": unused("lorans keeps prepared rows in its own cache"),
    **_each(
        "dataset_processes dataset_num_proc dataset_keep_in_memory num_dataset_shards_to_save push_dataset_to_hub "
        "hf_use_auth_token dataloader_pin_memory dataloader_prefetch_factor remove_unused_columns accelerator_config "
        "sample_packing_group_size sample_packing_bin_size sample_packing_mp_start_method sample_packing_eff_est "
        "total_num_tokens total_supervised_tokens eval_sample_packing pad_to_sequence_len pad_to_multiple_of "
        "multipack_real_batches batch_flattening streaming_multipack_buffer_size is_preprocess preprocess_iterable",
        unused("it says how rows are prepared or batched, and changes nothing that is learned"),
    ),
    "skip_prepare_dataset": refused("lorans prepares every row", "remove it", fatal=True),
    "dataset_exact_deduplication": refused(
        "lorans removes no rows", "`lorans validate --data` names those that are there twice: remove them from the file"
    ),
    **_each("dataset_shard_num dataset_shard_idx", refused("lorans has no shards", "take a part by `dataset.slice`")),
    "shuffle_merged_datasets": same("rows come in a random order", True, remedy="remove it", read=flag),
    "shuffle_before_merging_datasets": unused("rows come in a random order anyway"),
    **_each(
        "curriculum_sampling sample_packing_sequentially",
        refused("rows come in a random order here", "remove it if you can do without it"),
    ),
    "streaming": refused("lorans streams plain sources only", "`dataset.streaming = true` and `training.max_steps`"),
    "dataloader_num_workers": maps("training.dataloader_num_workers", whole, own=0),
    "dataloader_drop_last": refused("lorans trains on the last batch, too", "remove it"),
    "min_sample_len": unused("a row without anything to learn is an error here"),
    "max_prompt_len": unused("it is of reinforcement learning"),
    "eval_sequence_len": unused("evaluation rows have `sft.max_seq_length`, too"),
    "neftune_noise_alpha": maps("sft.neftune_noise_alpha", number),
    "chat_template_kwargs": maps("sft.chat_template_kwargs"),
    "default_system_message": refused("lorans shows the rows' own system turns", "write it into the rows"),
    "eot_tokens": unused("lorans learns the token that ends an answer, as the chat template has it"),
    "fix_untrained_tokens": refused("lorans leaves the base as it is", "`peft.trainable_token_indices` trains tokens"),
    **_each(
        "image_size image_resize_algorithm role_boundaries processor_kwargs",
        refused("lorans trains on text", "remove it"),
    ),
}


_LEARNING: Mapping[str, Rule] = {
    "weight_decay": maps("training.weight_decay", number, own=0.0),
    "adam_beta1": maps("training.adam_beta1", number, own=0.9),
    "adam_beta2": maps("training.adam_beta2", number, own=0.999),
    "adam_epsilon": maps("training.extra.adam_epsilon", number, own=1e-8),
    **_each("adam_beta3 adam_epsilon2", unused("it is of CAME, which has to be named as the optimizer")),
    **_each(
        "dion_lr dion_momentum dion_rank_fraction dion_rank_multiple_of qgalore_rank qgalore_update_proj_gap "
        "qgalore_scale qgalore_proj_type qgalore_proj_quant qgalore_proj_bits qgalore_proj_group_size "
        "qgalore_cos_threshold qgalore_gamma_proj qgalore_queue_size torchdistx_path",
        unused("it is of an optimizer that lorans does not have"),
    ),
    "max_grad_norm": maps("training.max_grad_norm", number, own=1.0),
    "optim_args": told_apart(
        plain,
        lambda value: (
            maps("training.extra.optim_args", text)
            if isinstance(value, str)
            else refused("lorans takes a text here", 'write "name=value, ..."', ())
        ),
    ),
    "optim_target_modules": refused("lorans has no GaLore", "remove it"),
    "lr_scheduler_kwargs": maps("training.extra.lr_scheduler_kwargs"),
    **_each(
        "cosine_min_lr_ratio cosine_constant_lr_ratio lr_quadratic_warmup lr_div_factor",
        refused("lorans has no such schedule", "remove it: cosine falls to 0"),
    ),
    **_each("embedding_lr embedding_lr_scale lr_groups", refused("lorans has one learning rate for all", "remove it")),
    "seed": maps("training.seed", whole, own=42),
    "eval_batch_size": maps("training.per_device_eval_batch_size", whole),
    "auto_find_batch_size": unused("lorans computes the largest batch that fits"),
    "gradient_checkpointing": told_apart(
        plain,
        lambda value: (
            maps("training.gradient_checkpointing", flag)
            if isinstance(value, bool)
            else among("training.gradient_checkpointing", {"unsloth": True, "offload": True, "offload_disk": True})
        ),
    ),
    **_each(
        "gradient_checkpointing_kwargs selective_checkpointing activation_offloading layer_offloading",
        unused("it saves memory, and changes no result"),
    ),
    "logging_steps": maps("training.logging_steps", whole),
    "early_stopping_patience": refused("lorans trains to the end", "set `num_epochs` to what it used to stop at"),
    "load_best_model_at_end": refused("lorans keeps the last weights", "`lorans` keeps checkpoints; take one of them"),
    **_each("metric_for_best_model greater_is_better", unused("it is of choosing a checkpoint")),
    **_each(
        "loss_watchdog_threshold loss_watchdog_patience",
        unused("it ends runs that have gone wrong; lorans ends one whose loss is not a number"),
    ),
    "trainer_cls": refused("lorans has its own trainer", "remove it", ()),
    **_each("use_eaft eaft_alpha eaft_k", refused("lorans has no such loss", "`sft.loss_type`")),
    **_each(
        "use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks scaling_softmax scaling_softmax_factor "
        "scaling_softmax_bias",
        refused("lorans leaves positions and attention as the base has them", "remove it"),
    ),
    **_each(
        "fp8 fp8_enable_fsdp_float8_all_gather qat quantization", refused("lorans has no such arithmetic", "remove it")
    ),
}


_NO_RESULT: Mapping[str, Rule] = {
    "tf32": unused("it is of float32 products; the base computes in `model.dtype`"),
    **_each(
        "flash_attention attn_implementation sdp_attention eager_attention flex_attention xformers_attention "
        "sage_attention flash_attn_cross_entropy flash_attn_fuse_mlp flash_optimum flex_attn_compile_kwargs "
        "large_head_attention flash_attn_d512 sdpa_varlen fused_attn_kernel gemma4_hybrid_attn_impl",
        unused("the kernel changes no result: `model.attn_implementation` chooses another one than `sdpa`"),
    ),
    **_each(
        "torch_compile torch_compile_backend torch_compile_mode torch_compile_options deepcompile use_kernels "
        "experts_implementation chunked_cross_entropy chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards "
        "tiled_mlp_use_original_mlp llama4_linearized_experts cut_cross_entropy liger_rope liger_rms_norm "
        "liger_rms_norm_gated liger_layer_norm liger_swiglu liger_glu_activation liger_cross_entropy "
        "liger_fused_linear_cross_entropy torch_empty_cache_steps gc_steps gc_collect_steps fp32_norms "
        "fp32_norm_classes",
        unused("it makes a step quicker or smaller, and changes no result"),
    ),
    **_each(
        "fsdp_version fsdp_final_state_dict_type ddp ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers "
        "ddp_find_unused_parameters local_rank world_size device dp_shard_size dp_replicate_size heads_k_stride "
        "ring_attn_func use_ray ray_run_name ray_num_workers resources_per_worker experimental_skip_move_to_device",
        unused("lorans starts and joins processes itself: `[distributed]`"),
    ),
    **_each(
        "context_parallel_size sequence_parallel_degree tensor_parallel_size",
        refused("rows that several GPUs share change the batch", "`distributed.context_parallel_size`", (False, 1)),
    ),
    **_each("hub_model_id hub_strategy hub_revision", unused("lorans uploads nothing by itself: `hf upload`")),
    **_each("resume_from_checkpoint auto_resume_from_checkpoints", unused("`lorans train --resume RUN` goes on")),
    "strict": unused("a recipe is always read strictly"),
    **_each(
        "debug profiler_steps profiler_steps_start include_tokens_per_second include_tkps save_first_step "
        "save_only_model save_safetensors tokenizer_save_jinja_files dynamic_checkpoint axolotl_config_path "
        "use_otel_metrics otel_metrics_host otel_metrics_port do_bench_eval bench_dataset bench_split "
        "do_causal_lm_eval eval_causal_lm_metrics generate_samples num_generation_samples generation_max_new_tokens "
        "generation_temperature generation_top_p generation_top_k generation_prompt_ratio generation_do_sample "
        "gradio_title gradio_share gradio_server_name gradio_server_port gradio_max_new_tokens gradio_temperature",
        unused("it says what is shown or kept, and changes nothing that is learned"),
    ),
    **_each(
        "wandb_entity wandb_mode wandb_run_id wandb_watch wandb_log_model", unused("W&B reads `WANDB_*` variables")
    ),
    **_each("mlflow_tracking_uri hf_mlflow_log_artifacts", unused("MLflow reads `MLFLOW_*` variables")),
    "trackio_space_id": unused("trackio reads `TRACKIO_*` variables"),
    **_each(
        "use_comet comet_api_key comet_workspace comet_project_name comet_experiment_key comet_mode comet_online "
        "comet_experiment_config",
        unused("lorans does not report to Comet; `metrics.jsonl` has all numbers"),
    ),
    "plugins": told_apart(
        names,
        lambda listed: (
            unused("they make a step quicker or smaller, and change no result")
            if all("liger" in name.lower() or "cut_cross_entropy" in name.lower() for name in listed)
            else refused("lorans has no plugins", "remove those that it can do without", ())
        ),
    ),
    **_each(
        "use_swanlab swanlab_project swanlab_experiment_name swanlab_description swanlab_mode swanlab_workspace "
        "swanlab_log_model swanlab_web_host swanlab_api_host swanlab_lark_webhook_url swanlab_log_completions "
        "swanlab_completion_log_interval swanlab_completion_max_buffer lm_eval_tasks lm_eval_batch_size "
        "lm_eval_post_train lm_eval_model",
        unused("lorans has no such plugin; `metrics.jsonl` has all numbers"),
    ),
    **_each(
        "expert_backend moe_grouped_backend moe_dequant_chunk_size moe_bnb_fast use_scattermoe use_sonicmoe "
        "use_dsv4_kernels use_glm_dsa_kernels expert_parallel_size expert_parallel_backend "
        "expert_parallel_num_nvl_bytes expert_parallel_num_rdma_bytes "
        "expert_parallel_token_capacity expert_parallel_fallback_on_unsupported",
        unused("it makes a step quicker or smaller, and changes no result"),
    ),
    **_each(
        "nonexpert_quantization dsv4_fp8_nonexpert_mode dsv4_bf16_all dsv4_fp4_grouped_mode gemma4_fp8_nonexpert "
        "gemma4_nf4_nonexpert nvfp4_merge_aware nvfp4_merge_aware_start_step dense_mixer llmcompressor "
        "spectrum_top_fraction spectrum_model_name grokfast_alpha grokfast_lamb use_mora mora_type mora",
        refused("lorans has no such plugin", "remove it if you can do without it"),
    ),
    **_each(
        "diffusion kd_trainer kd_ce_alpha kd_alpha kd_temperature kd_beta kd_online_server kd_online_server_base_url "
        "hatchery nemo_gym_enabled",
        refused("lorans imports supervised fine-tuning", "keep axolotl for it", fatal=True),
    ),
    "liger_use_token_scaling": refused("lorans has no such loss", "remove it"),
    **_each(
        "trl vllm ebft dpo_use_weighting dpo_label_smoothing precompute_ref_log_probs dpo_use_liger_kernel "
        "dpo_padding_free dpo_loss_type dpo_loss_weights orpo_alpha simpo_gamma cpo_alpha kto_desirable_weight "
        "kto_undesirable_weight rl_beta center_rewards_coefficient num_labels",
        unused("it is read with `rl` or a reward model only"),
    ),
    **_each(
        "reward_model process_reward_model",
        refused("lorans imports supervised fine-tuning", "keep axolotl for it", fatal=True),
    ),
}


_OLD: Mapping[str, Rule] = {
    "noisy_embedding_alpha": _gone("it is `neftune_noise_alpha` now", maps("sft.neftune_noise_alpha", number)),
    "evaluation_strategy": _gone("it is `eval_strategy` now", unused("once an epoch, or set `training.eval_steps`")),
    "max_packed_sequence_len": _gone(
        "it is `sample_packing` now", refused("lorans packs to `sequence_len`", "write that")
    ),
    "rope_scaling": _gone(
        "it is in `overrides_of_model_config` now", refused("lorans takes the base's own", "remove it")
    ),
    "data_seed": _gone("`seed` is for all", unused("the order of the rows is drawn by `training.seed`")),
    **_each(
        "eval_table_size eval_table_max_new_tokens eval_max_new_tokens",
        _gone("`generate_samples` has taken its place", unused("it shows samples")),
    ),
    **_each(
        "s2_attention landmark_attention xpos_rope",
        _gone("it has been removed", refused("lorans leaves attention as the base has it", "remove it")),
    ),
    **_each(
        "flash_attn_rms_norm flash_attn_fuse_qkv unsloth_cross_entropy_loss unsloth_lora_mlp unsloth_lora_qkv "
        "unsloth_lora_o unsloth_rms_norm unsloth_rope",
        _gone("it has been removed", unused("the kernel changes no result")),
    ),
    **_each("gptq_groupsize gptq_model_v1", _gone("the base says it itself", unused("the base says it itself"))),
    "load_4bit": _gone("it is `load_in_4bit` now", refused("lorans does not read it", "write `load_in_4bit`")),
    **_each(
        "base_model_ignore_patterns lora_out_dir log_sweep_min_lr log_sweep_max_lr sample_packing_seq_len_multiplier "
        "push_to_hub",
        _gone("it has been removed", unused("nothing reads it")),
    ),
    **_each(
        "pretrain_multipack_buffer_size pretrain_multipack_attn pretraining_sample_concatenation",
        unused("it is of `pretraining_dataset`"),
    ),
    **_each(
        "dpo_beta rpo_alpha dpo_norm_loss dpo_generate_during_eval dpo_use_logits_to_keep",
        _gone("it has been removed", unused("it is read with `rl` only")),
    ),
}


RULES: Mapping[str, Rule] = {**_MODEL, **_LORA, **_ROWS, **_LEARNING, **_NO_RESULT, **_OLD}
"""Every key of its schema that is not in a step, and keys that it knew once."""
