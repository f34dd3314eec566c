"""Rules for ms-swift's independent keys."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.importers.rules import Rule, by_value, each, initialisation, maps, refused, same, unused
from lora_ns.importers.trl_keys import OTHER_TRAININGS
from lora_ns.importers.values import flag, names, number, text, whole

_OTHER_TUNER = unused("it only applies to another `tuner_type`")
_LOGS = unused("it is about logs and files, and does not change results")


_OTHER_TRAINING = refused("lorans imports supervised fine-tuning only", "use ms-swift for this run", (), fatal=True)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(OTHER_TRAININGS, _OTHER_TRAINING),
    **each(
        "ref_model ref_adapters reward_model reward_adapters reward_model_plugin teacher_model teacher_deepspeed "
        "lmbda seq_kd sft_alpha sleep_level offload_optimizer offload_model move_model_batches overlong_filter epsilon "
        "steps_per_generation async_generate multi_turn_scheduler max_turns advantage_estimator dynamic_sample "
        "generation_batch_size vllm_enable_lora vllm_server_pass_dataset kl_in_reward use_gym_env delta log_entropy "
        "top_entropy_quantile loss_scale_type whiten_rewards chord_sft_dataset",
        _OTHER_TRAINING,
    ),
    "model_type": unused("lorans finds it in the base"),
    "model_revision": by_value(
        text,
        lambda name: (
            maps("model.revision", text, own="main") if name != "master" else unused("it is ModelScope's `main`")
        ),
    ),
    "new_special_tokens": maps("model.add_tokens", names),
    "adapters": refused(
        "lorans goes on from its own runs only",
        "merge the old one into the base, and write the merged folder to `model`",
        (),
    ),
    "lora_bias": maps("peft.bias", text, own="none"),
    "lora_dtype": same(
        "lorans trains adapters in float32", "float32", "fp32", remedy="remove it: adapters in 16 bits learn worse"
    ),
    "lorap_lr_ratio": maps("peft.loraplus_lr_ratio", number),
    "use_rslora": maps("peft.use_rslora", flag, own=False),
    "use_dora": maps("peft.use_dora", flag, own=False),
    "modules_to_save": maps("peft.modules_to_save", names),
    "target_parameters": maps("peft.target_parameters", names),
    "init_weights": initialisation("true"),
    "enable_dft_loss": by_value(
        flag,
        lambda is_on: (lambda draft, key: draft.put("sft.loss_type", "dft", key)) if is_on else unused("it is off"),
    ),
    "loss_type": refused(
        "lorans does not support this loss", "see `sft.loss_type` for supported losses", ("cross_entropy",)
    ),
    "max_epochs": refused("lorans limits a run by epochs or steps", "set `num_train_epochs` or `max_steps`"),
    "acc_strategy": unused("it only changes the accuracy in logs"),
    "router_aux_loss_coef": refused("lorans does not train the experts' routers", "remove it", (0, 0.0)),
    "system": refused("lorans uses the system turns in the rows", "add it to the rows", ()),
    "response_prefix": refused("lorans adds no prefix to answers", "add it to the rows", ()),
    "enable_thinking": by_value(
        flag, lambda _: refused("it is a variable of the chat template", "set it in `sft.chat_template_kwargs`", ())
    ),
    "preserve_thinking": refused("it is a variable of the chat template", "set it in `sft.chat_template_kwargs`"),
    "add_non_thinking_prefix": unused("in lorans, the chat template decides what precedes an answer"),
    "disable_ignore_empty_think": unused("lorans trains on whole turns"),
    "agent_template": unused("in lorans, the chat template renders tools and their calls"),
    "template_backend": unused("lorans renders rows with the chat template"),
    "is_binary_loss_scale": unused("lorans's loss weights are always 0 or 1"),
    "sequence_parallel_size": refused("it changes the global batch", "set `distributed.context_parallel_size`", (1,)),
    "strict": unused("unreadable rows are errors in lorans; see `dataset.max_bad_rows`"),
    "remove_unused_columns": unused("lorans reports columns that it does not read"),
    "disable_auto_column_mapping": unused("lorans reads columns by `dataset.format`"),
    **each(
        "model_name model_author",
        refused("lorans does not fill placeholders in rows", "fill in `{{NAME}}` yourself", ()),
    ),
    **each(
        "custom_dataset_info custom_register_path external_plugins plugin",
        refused(
            "lorans reads neither other tools' code nor their lists of datasets", "write the files to `dataset`", ()
        ),
    ),
    **each(
        "cached_dataset cached_val_dataset",
        refused("lorans does not read ms-swift's cache", "write the original rows to `dataset`", ()),
    ),
    "dataset_shuffle": unused("lorans shuffles the rows"),
    "train_dataloader_shuffle": refused("lorans shuffles the rows", "remove it", (True,)),
    **each(
        "val_dataset_shuffle dataset_num_proc load_from_cache_file download_mode lazy_tokenize packing_num_proc "
        "packing_strategy padding_free padding_side use_logits_to_keep max_model_len",
        unused("it is about preparing and batching rows, and does not change results"),
    ),
    "packing_length": refused("lorans packs to `max_length`", "set `max_length`", ()),
    **each("rope_scaling init_strategy", refused("lorans uses the base as it is", "remove it", ())),
    "tuner_backend": same("it does not change results", "peft", "unsloth", remedy="remove it"),
    "attn_impl": unused("the kernel does not change results; set `model.attn_implementation` to choose one"),
    "early_stop_interval": maps("training.early_stopping_patience", whole),
    "optimizer": refused("lorans does not support this optimizer", "choose one with `optim`", ("adamw",)),
    "callbacks": refused("lorans does not run other tools' code", "remove it", ()),
    "use_galore": refused("lorans does not support GaLore", "remove it"),
    "lisa_activated_layers": refused("lorans keeps the base's layers frozen", "remove it", (0,)),
    **each(
        "freeze_parameters freeze_parameters_regex freeze_parameters_ratio trainable_parameters "
        "trainable_parameters_regex freeze_llm freeze_vit freeze_aligner vit_gradient_checkpointing vit_lr aligner_lr",
        unused("lorans keeps the base frozen"),
    ),
    **each(
        "lora_ga_batch_size lora_ga_iters lora_ga_max_length lora_ga_direction lora_ga_scale lora_ga_stable_gamma "
        "fourier_n_frequency fourier_scaling boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout "
        "vera_rank vera_projection_prng_key vera_dropout vera_d_initial adapter_act adapter_length adalora_target_r "
        "adalora_init_r adalora_tinit adalora_tfinal adalora_deltaT adalora_beta1 adalora_beta2 "
        "adalora_orth_reg_weight llamapro_num_new_blocks llamapro_num_groups reft_layer_key reft_layers reft_rank "
        "reft_intervention_type reft_args use_swift_lora",
        _OTHER_TUNER,
    ),
    **each(
        "galore_target_modules galore_rank galore_update_proj_gap galore_scale galore_proj_type "
        "galore_optim_per_parameter galore_with_embedding galore_quantization galore_proj_quant galore_proj_bits "
        "galore_proj_group_size galore_cos_threshold galore_gamma_proj galore_queue_size lisa_step_interval",
        unused("it only applies to GaLore and LISA"),
    ),
    **each(
        "max_new_tokens temperature top_k top_p repetition_penalty num_beams stream stop_words logprobs top_logprobs "
        "structured_outputs_regex predict_with_generate eval_use_evalscope eval_dataset eval_dataset_args eval_limit "
        "eval_generation_config extra_eval_args eval_metric metric metric_warmup_step",
        unused("it only applies to generation during evaluation; see `[generation]` and `[evaluation]`"),
    ),
    **each("num_labels problem_type mrl_dims", unused("it only applies to classifiers and embeddings")),
    **each("max_pixels norm_bbox", unused("it only applies to images")),
    **each(
        "hqq_axis bnb_4bit_compute_dtype bnb_4bit_quant_storage", unused("lorans uses `model.dtype` for computation")
    ),
    **each(
        "device_map max_memory local_repo_path model_kwargs experts_impl enable_npu_model_patch device_count",
        unused("lorans places the base itself"),
    ),
    **each(
        "swanlab_token swanlab_project swanlab_workspace swanlab_exp_name swanlab_notification_method "
        "swanlab_webhook_url swanlab_secret swanlab_sender_email swanlab_receiver_email swanlab_smtp_server "
        "swanlab_smtp_port swanlab_email_language swanlab_mode",
        unused("lorans does not report to SwanLab; all metrics are in `metrics.jsonl`"),
    ),
    **each(
        "add_version create_checkpoint_symlink safe_serialization max_shard_size enable_channel_loss check_model "
        "resume_only_model use_flash_ckpt ignore_args_error load_args load_data_args ckpt_dir swift_version "
        "model_info model_meta model_dir model_suffix training_args hub local_world_size rank logging_first_step "
        "zero_hpz_partition_size deepspeed_autotp_size ds3_gather_for_generation use_hf use_ray quantization_config "
        "torch_dtype_str task_name ray_exp_name device_groups",
        _LOGS,
    ),
    "data_seed": unused("`training.seed` also determines the order of the rows"),
    "dataloader_num_workers": maps("training.dataloader_num_workers", whole, own=0),
    "accelerator_config": _LOGS,
}
"""Rules for ms-swift's own keys that no step handles."""
