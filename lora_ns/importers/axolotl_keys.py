"""Rules for axolotl's independent keys."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.importers.preferences import BETA, SAME_REFERENCE, SMOOTHING, on_pairs
from lora_ns.importers.rules import Rule, among, by_value, each, gone, initialisation, maps, refused, same, unused
from lora_ns.importers.training_arguments import ARGUMENTS
from lora_ns.importers.values import flag, names, number, plain, text, whole

_NO_RL = "it only applies to `rl: dpo`"


def _gone(since: str, rule: Rule) -> Rule:
    return gone("axolotl", since, rule)


_MODEL: Mapping[str, Rule] = {
    **each("revision_of_model model_revision", maps("model.revision", text, own="main")),
    "trust_remote_code": maps("model.trust_remote_code", flag, own=False),
    **each(
        "model_type type_of_model",
        by_value(
            text,
            lambda name: (
                unused("lorans loads the base as a causal language model")
                if name.endswith(("ForCausalLM", "LMHeadModel"))
                else refused(
                    "lorans imports causal language models only",
                    "write the recipe yourself, with `task_type`",
                    (),
                    True,
                )
            ),
        ),
    ),
    "tokenizer_type": unused("lorans finds the tokenizer in the base"),
    "tokenizer_use_fast": same(
        "lorans uses the fast tokenizer", True, remedy="remove it: slow tokenizers are not supported", read=flag
    ),
    "tokenizer_legacy": unused("lorans finds it in the tokenizer's files"),
    "tokenizer_use_mistral_common": refused("lorans uses tokenizers of transformers", "choose a base that has one"),
    "processor_type": refused("lorans trains on text only", "use axolotl for this run", (), fatal=True),
    **each(
        "is_falcon_derived_model is_llama_derived_model is_mistral_derived_model is_qwen_derived_model",
        unused("lorans finds it in the base"),
    ),
    "resize_token_embeddings_to_32x": unused("it adds rows that no token uses"),
    "mean_resizing_embeddings": refused("lorans initialises new tokens in its own way", "remove it"),
    "shrink_embeddings": refused("lorans keeps the base's vocabulary", "remove it"),
    "embeddings_skip_upcast": unused("it only saves memory"),
    "reinit_weights": refused("lorans starts from the base's weights", "use axolotl for this run", fatal=True),
    "added_tokens_overrides": refused("lorans adds tokens but does not rename any", "use `model.add_tokens`"),
    **each(
        "overrides_of_model_config model_config overrides_of_model_kwargs model_kwargs",
        refused("lorans uses the base's own configuration", "change it in the base's folder", ()),
    ),
    **each(
        "model_quantization_config model_quantization_config_kwargs use_onebitllms quantize_moe_experts",
        refused("lorans does not support this quantisation", "see docs/bases.md for supported quantisations"),
    ),
    **each("device_map max_memory gpu_memory_limit low_cpu_mem_usage", unused("lorans places the base itself")),
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
    "lora_fan_in_fan_out": unused("PEFT detects it"),
    "lora_model_dir": refused(
        "lorans goes on from its own runs only",
        "merge the old one into the base, and write the merged folder to `base_model`",
    ),
    "peft_layers_to_transform": maps("peft.layers_to_transform"),
    "peft_layers_pattern": maps("peft.extra.layers_pattern", names),
    "peft_use_dora": maps("peft.use_dora", flag, own=False),
    "peft_use_rslora": maps("peft.use_rslora", flag, own=False),
    "peft_init_lora_weights": initialisation("default"),
    "peft_trainable_token_indices": by_value(
        plain,
        lambda value: (
            maps("peft.trainable_token_indices")
            if isinstance(value, list)
            else refused("lorans has one list for embeddings and head", "write a list of token ids", ())
        ),
    ),
    "peft_autocast_adapter_dtype": same(
        "lorans trains adapters in float32", True, remedy="remove it: adapters in 16 bits learn worse", read=flag
    ),
    "loraplus_lr_ratio": maps("peft.loraplus_lr_ratio", number),
    "loraplus_lr_embedding": unused("`peft.loraplus_lr_ratio` does not apply to embeddings"),
    **each("lora_on_cpu merge_lora merge_method", unused("it is for merging; see `lorans merge`")),
    "qlora_sharded_model_loading": unused("it only saves memory"),
    **each(
        "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel",
        unused("the kernel does not change results"),
    ),
    **each(
        "peft peft_layer_replication peft_ensure_weight_tying",
        refused("lorans does not support this setting", "remove it"),
    ),
    **each(
        "relora relora_steps relora_warmup_steps relora_anneal_steps relora_prune_ratio relora_prune_method "
        "relora_cpu_offload jagged_restart_steps jagged_restart_warmup_steps jagged_restart_anneal_steps",
        refused("lorans does not support ReLoRA", "remove it"),
    ),
    **each(
        "lisa_n_layers lisa_step_interval lisa_layers_attribute unfrozen_parameters",
        refused("lorans keeps the base's layers frozen", "list modules to train in full in `lora_modules_to_save`"),
    ),
    "freeze_mm_modules": unused("lorans keeps the base frozen"),
}


_ROWS: Mapping[str, Rule] = {
    "dataset_prepared_path": unused("lorans has its own cache of prepared rows"),
    **each(
        "dataset_processes dataset_num_proc dataset_keep_in_memory num_dataset_shards_to_save push_dataset_to_hub "
        "hf_use_auth_token dataloader_pin_memory dataloader_prefetch_factor remove_unused_columns accelerator_config "
        "sample_packing_group_size sample_packing_bin_size sample_packing_mp_start_method sample_packing_eff_est "
        "total_num_tokens total_supervised_tokens eval_sample_packing pad_to_sequence_len pad_to_multiple_of "
        "multipack_real_batches batch_flattening streaming_multipack_buffer_size is_preprocess preprocess_iterable",
        unused("it is about preparing and batching rows, and does not change results"),
    ),
    "skip_prepare_dataset": refused("lorans prepares every row", "remove it", fatal=True),
    "dataset_exact_deduplication": refused(
        "lorans does not remove duplicates", "`lorans validate --data` lists them; remove them from the file"
    ),
    **each("dataset_shard_num dataset_shard_idx", refused("lorans has no shards", "set `dataset.slice`")),
    "shuffle_merged_datasets": same("lorans shuffles the rows", True, remedy="remove it", read=flag),
    "shuffle_before_merging_datasets": unused("lorans shuffles the rows"),
    **each(
        "curriculum_sampling sample_packing_sequentially",
        refused("lorans shuffles the rows", "remove it if you do not need it"),
    ),
    "streaming": refused(
        "lorans streams plain sources only", "set `dataset.streaming = true` and `training.max_steps`"
    ),
    "dataloader_num_workers": maps("training.dataloader_num_workers", whole, own=0),
    "dataloader_drop_last": refused("lorans also trains on the last batch of an epoch", "remove it"),
    "min_sample_len": unused("a row without trained tokens is an error in lorans"),
    "max_prompt_len": on_pairs(
        refused("lorans limits prompt and answer together", "set `sequence_len`", ()),
        "it is for preferences and reinforcement learning",
    ),
    "eval_sequence_len": unused("`sft.max_seq_length` also applies to evaluation rows"),
    "neftune_noise_alpha": maps("sft.neftune_noise_alpha", number),
    "chat_template_kwargs": maps("sft.chat_template_kwargs"),
    "default_system_message": refused("lorans uses the system turns in the rows", "add it to the rows"),
    "eot_tokens": unused("lorans trains on the token that ends an answer in the chat template"),
    "fix_untrained_tokens": refused(
        "lorans does not change the base", "set `peft.trainable_token_indices` to train tokens"
    ),
    **each(
        "image_size image_resize_algorithm role_boundaries processor_kwargs",
        refused("lorans trains on text only", "remove it"),
    ),
}


_LEARNING: Mapping[str, Rule] = {
    "weight_decay": maps("training.weight_decay", number, own=0.0),
    "adam_beta1": maps("training.adam_beta1", number, own=0.9),
    "adam_beta2": maps("training.adam_beta2", number, own=0.999),
    "adam_epsilon": maps("training.extra.adam_epsilon", number, own=1e-8),
    **each("adam_beta3 adam_epsilon2", unused("it only applies to the optimizer CAME")),
    **each(
        "dion_lr dion_momentum dion_rank_fraction dion_rank_multiple_of qgalore_rank qgalore_update_proj_gap "
        "qgalore_scale qgalore_proj_type qgalore_proj_quant qgalore_proj_bits qgalore_proj_group_size "
        "qgalore_cos_threshold qgalore_gamma_proj qgalore_queue_size torchdistx_path",
        unused("it only applies to an optimizer that lorans does not have"),
    ),
    "max_grad_norm": maps("training.max_grad_norm", number, own=1.0),
    "optim_args": by_value(
        plain,
        lambda value: (
            maps("training.extra.optim_args", text)
            if isinstance(value, str)
            else refused("lorans expects a string", 'write "name=value, ..."', ())
        ),
    ),
    "optim_target_modules": refused("lorans does not support GaLore", "remove it"),
    "lr_scheduler_kwargs": maps("training.extra.lr_scheduler_kwargs"),
    **each(
        "cosine_min_lr_ratio cosine_constant_lr_ratio lr_quadratic_warmup lr_div_factor",
        refused("lorans does not support this schedule", "remove it; `cosine` decays to 0"),
    ),
    **each(
        "embedding_lr embedding_lr_scale lr_groups",
        refused("lorans has one learning rate for all parameters", "remove it"),
    ),
    "seed": maps("training.seed", whole, own=42),
    "eval_batch_size": maps("training.per_device_eval_batch_size", whole),
    "auto_find_batch_size": unused("lorans computes the largest batch that fits"),
    "gradient_checkpointing": by_value(
        plain,
        lambda value: (
            maps("training.gradient_checkpointing", flag)
            if isinstance(value, bool)
            else among("training.gradient_checkpointing", {"unsloth": True, "offload": True, "offload_disk": True})
        ),
    ),
    **each(
        "gradient_checkpointing_kwargs selective_checkpointing activation_offloading layer_offloading",
        unused("it only saves memory"),
    ),
    "logging_steps": maps("training.logging_steps", whole),
    "early_stopping_patience": by_value(
        plain,
        lambda value: (
            unused("it is turned off, as by default")
            if value is False
            else maps("training.early_stopping_patience", whole)
        ),
    ),
    **{key: ARGUMENTS[key] for key in ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")},
    **each(
        "loss_watchdog_threshold loss_watchdog_patience",
        unused("it stops diverging runs; lorans stops a run whose loss is not a number"),
    ),
    "trainer_cls": refused("lorans has its own trainer", "remove it", ()),
    **each(
        "use_eaft eaft_alpha eaft_k",
        refused("lorans does not support this loss", "see `sft.loss_type` for supported losses"),
    ),
    **each(
        "use_pose pose_split_on_token_ids pose_max_context_len pose_num_chunks scaling_softmax scaling_softmax_factor "
        "scaling_softmax_bias",
        refused("lorans does not change positions and attention", "remove it"),
    ),
    **each(
        "fp8 fp8_enable_fsdp_float8_all_gather qat quantization",
        refused("lorans does not support this precision", "remove it"),
    ),
}


_NO_RESULT: Mapping[str, Rule] = {
    "tf32": unused("it only applies to float32; lorans computes in `model.dtype`"),
    **each(
        "flash_attention attn_implementation sdp_attention eager_attention flex_attention xformers_attention "
        "sage_attention flash_attn_cross_entropy flash_attn_fuse_mlp flash_optimum flex_attn_compile_kwargs "
        "large_head_attention flash_attn_d512 sdpa_varlen fused_attn_kernel gemma4_hybrid_attn_impl",
        unused("the kernel does not change results; set `model.attn_implementation` to choose one"),
    ),
    **each(
        "torch_compile torch_compile_backend torch_compile_mode torch_compile_options deepcompile use_kernels "
        "experts_implementation chunked_cross_entropy chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards "
        "tiled_mlp_use_original_mlp llama4_linearized_experts cut_cross_entropy liger_rope liger_rms_norm "
        "liger_rms_norm_gated liger_layer_norm liger_swiglu liger_glu_activation liger_cross_entropy "
        "liger_fused_linear_cross_entropy torch_empty_cache_steps gc_steps gc_collect_steps fp32_norms "
        "fp32_norm_classes",
        unused("it only saves time or memory"),
    ),
    **each(
        "fsdp_version fsdp_final_state_dict_type ddp ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers "
        "ddp_find_unused_parameters local_rank world_size device dp_shard_size dp_replicate_size heads_k_stride "
        "ring_attn_func use_ray ray_run_name ray_num_workers resources_per_worker experimental_skip_move_to_device",
        unused("lorans starts processes itself; see `[distributed]`"),
    ),
    **each(
        "context_parallel_size sequence_parallel_degree tensor_parallel_size",
        refused("it changes the global batch", "set `distributed.context_parallel_size`", (False, 1)),
    ),
    **each("hub_model_id hub_strategy hub_revision", unused("lorans uploads nothing; use `hf upload`")),
    **each("resume_from_checkpoint auto_resume_from_checkpoints", unused("use `lorans train --resume RUN`")),
    "strict": unused("lorans always checks every key"),
    **each(
        "debug profiler_steps profiler_steps_start include_tokens_per_second include_tkps save_first_step "
        "save_only_model save_safetensors tokenizer_save_jinja_files dynamic_checkpoint axolotl_config_path "
        "use_otel_metrics otel_metrics_host otel_metrics_port do_bench_eval bench_dataset bench_split "
        "do_causal_lm_eval eval_causal_lm_metrics generate_samples num_generation_samples generation_max_new_tokens "
        "generation_temperature generation_top_p generation_top_k generation_prompt_ratio generation_do_sample "
        "gradio_title gradio_share gradio_server_name gradio_server_port gradio_max_new_tokens gradio_temperature",
        unused("it is about logs and files, and does not change results"),
    ),
    **each(
        "wandb_mode wandb_run_id wandb_watch wandb_log_model",
        unused("set W&B's `WANDB_*` variables instead"),
    ),
    "hf_mlflow_log_artifacts": unused("checkpoints stay in the run directory"),
    "trackio_space_id": unused("set trackio's `TRACKIO_*` variables instead"),
    **each(
        "comet_api_key comet_workspace comet_experiment_key comet_mode comet_online comet_experiment_config",
        unused("set Comet's `COMET_*` variables instead"),
    ),
    "plugins": by_value(
        names,
        lambda listed: (
            unused("they only save time or memory")
            if all("liger" in name.lower() or "cut_cross_entropy" in name.lower() for name in listed)
            else refused("lorans has no plugins", "remove those that you do not need", ())
        ),
    ),
    **each(
        "swanlab_description swanlab_mode swanlab_workspace "
        "swanlab_log_model swanlab_web_host swanlab_api_host swanlab_lark_webhook_url swanlab_log_completions "
        "swanlab_completion_log_interval swanlab_completion_max_buffer lm_eval_tasks lm_eval_batch_size "
        "lm_eval_post_train lm_eval_model",
        unused("lorans has no such plugin; all metrics are in `metrics.jsonl`"),
    ),
    **each(
        "expert_backend moe_grouped_backend moe_dequant_chunk_size moe_bnb_fast use_scattermoe use_sonicmoe "
        "use_dsv4_kernels use_glm_dsa_kernels expert_parallel_size expert_parallel_backend "
        "expert_parallel_num_nvl_bytes expert_parallel_num_rdma_bytes "
        "expert_parallel_token_capacity expert_parallel_fallback_on_unsupported",
        unused("it only saves time or memory"),
    ),
    **each(
        "nonexpert_quantization dsv4_fp8_nonexpert_mode dsv4_bf16_all dsv4_fp4_grouped_mode gemma4_fp8_nonexpert "
        "gemma4_nf4_nonexpert nvfp4_merge_aware nvfp4_merge_aware_start_step dense_mixer llmcompressor "
        "spectrum_top_fraction spectrum_model_name grokfast_alpha grokfast_lamb use_mora mora_type mora",
        refused("lorans has no such plugin", "remove it if you do not need it"),
    ),
    **each(
        "diffusion kd_trainer kd_ce_alpha kd_alpha kd_temperature kd_beta kd_online_server kd_online_server_base_url "
        "hatchery nemo_gym_enabled",
        refused("lorans imports supervised fine-tuning only", "use axolotl for this run", fatal=True),
    ),
    "liger_use_token_scaling": refused("lorans does not support this loss", "remove it"),
    **each(
        "trl vllm ebft orpo_alpha simpo_gamma cpo_alpha kto_desirable_weight kto_undesirable_weight "
        "center_rewards_coefficient num_labels",
        unused("it only applies to `rl` and reward models"),
    ),
    "rl_beta": on_pairs(BETA, _NO_RL),
    "dpo_label_smoothing": on_pairs(SMOOTHING, _NO_RL),
    "dpo_use_weighting": on_pairs(maps("dpo.use_weighting", flag, own=False), _NO_RL),
    "precompute_ref_log_probs": on_pairs(SAME_REFERENCE, _NO_RL),
    **each("dpo_use_liger_kernel dpo_padding_free", on_pairs(unused("it only saves time or memory"), _NO_RL)),
    **each(
        "reward_model process_reward_model",
        refused("lorans imports supervised fine-tuning only", "use axolotl for this run", fatal=True),
    ),
}


_OLD: Mapping[str, Rule] = {
    "noisy_embedding_alpha": _gone("now `neftune_noise_alpha`", maps("sft.neftune_noise_alpha", number)),
    "evaluation_strategy": _gone(
        "now `eval_strategy`", unused("lorans evaluates once per epoch; see `training.eval_steps`")
    ),
    "max_packed_sequence_len": _gone(
        "now `sample_packing`", refused("lorans packs to `sequence_len`", "set `sequence_len`")
    ),
    "rope_scaling": _gone("now in `overrides_of_model_config`", refused("lorans uses that of the base", "remove it")),
    "data_seed": _gone("now `seed`", unused("`training.seed` also determines the order of the rows")),
    **each(
        "eval_table_size eval_table_max_new_tokens eval_max_new_tokens",
        _gone("now `generate_samples`", unused("it only shows samples")),
    ),
    **each(
        "s2_attention landmark_attention xpos_rope",
        _gone("", refused("lorans does not change attention", "remove it")),
    ),
    **each(
        "flash_attn_rms_norm flash_attn_fuse_qkv unsloth_cross_entropy_loss unsloth_lora_mlp unsloth_lora_qkv "
        "unsloth_lora_o unsloth_rms_norm unsloth_rope",
        _gone("", unused("the kernel does not change results")),
    ),
    **each("gptq_groupsize gptq_model_v1", _gone("", unused("lorans finds it in the base"))),
    "load_4bit": _gone("now `load_in_4bit`", refused("lorans does not read the old name", "write `load_in_4bit`")),
    **each(
        "base_model_ignore_patterns lora_out_dir log_sweep_min_lr log_sweep_max_lr sample_packing_seq_len_multiplier "
        "push_to_hub",
        _gone("", unused("nothing reads it")),
    ),
    **each(
        "pretrain_multipack_buffer_size pretrain_multipack_attn pretraining_sample_concatenation",
        unused("it only applies to `pretraining_dataset`"),
    ),
    **each(
        "dpo_generate_during_eval dpo_use_logits_to_keep",
        _gone("", on_pairs(unused("it does not change results"), _NO_RL)),
    ),
    "dpo_beta": _gone("now `rl_beta`", on_pairs(BETA, _NO_RL)),
    "rpo_alpha": _gone(
        "now the loss `sft` in `dpo_loss_type`",
        on_pairs(refused("lorans takes it as a loss", "write `sft` to `dpo.loss_type`, with its weight"), _NO_RL),
    ),
    "dpo_norm_loss": _gone(
        "now `dpo_loss_type: [sigmoid_norm]`",
        on_pairs(refused("lorans takes it as a loss", 'write `dpo.loss_type = ["sigmoid_norm"]`'), _NO_RL),
    ),
}


RULES: Mapping[str, Rule] = {**_MODEL, **_LORA, **_ROWS, **_LEARNING, **_NO_RESULT, **_OLD}
"""Rules for every key of axolotl's schema that no step handles, and for keys of older versions."""
