"""ms-swift's keys that stand by themselves, each with its rule."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.importers.rules import Rule, each, maps, refused, same, told_apart, unused
from lora_ns.importers.trl_keys import OTHER_TRAININGS
from lora_ns.importers.values import flag, names, number, plain, text, whole

_OTHER_TUNER = unused("it is of another `tuner_type`")
_SHOWN = unused("it says what is shown or kept, and changes nothing that is learned")


_OTHER_TRAINING = refused(
    "it is of another training", "keep ms-swift for it: lorans imports fine-tuning", (), fatal=True
)


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
    "model_type": unused("lorans goes by the base itself"),
    "model_revision": told_apart(
        text,
        lambda name: maps("model.revision", text, own="main") if name != "master" else unused("ModelScope's `main`"),
    ),
    "new_special_tokens": maps("model.add_tokens", names),
    "adapters": refused("lorans starts new adapters", "merge that one into the base first", ()),
    "lora_bias": maps("peft.bias", text, own="none"),
    "lora_dtype": same("adapters are trained in float32", "float32", "fp32", remedy="remove it"),
    "lorap_lr_ratio": maps("peft.loraplus_lr_ratio", number),
    "use_rslora": maps("peft.use_rslora", flag, own=False),
    "use_dora": maps("peft.use_dora", flag, own=False),
    "modules_to_save": maps("peft.modules_to_save", names),
    "target_parameters": maps("peft.target_parameters", names),
    "init_weights": told_apart(
        plain,
        lambda value: (
            same("it is PEFT's own way", True, "true", remedy="")
            if value in (True, "true")
            else maps("peft.init_lora_weights", text)
        ),
    ),
    "enable_dft_loss": told_apart(
        flag,
        lambda is_on: (
            (lambda draft, key: draft.put("sft.loss_type", "dft", key)) if is_on else unused("it is switched off")
        ),
    ),
    "loss_type": refused("lorans has no such loss", "`sft.loss_type`", ("cross_entropy",)),
    "max_epochs": refused("lorans ends with its epochs or its steps", "`num_train_epochs` or `max_steps`"),
    "acc_strategy": unused("it is a number that is shown"),
    "router_aux_loss_coef": refused("lorans leaves the routers alone", "remove it", (0, 0.0)),
    "system": refused("lorans shows the rows' own system turns", "write it into the rows", ()),
    "response_prefix": refused("lorans puts nothing before an answer", "write it into the rows", ()),
    "enable_thinking": told_apart(
        flag, lambda _: refused("it is a variable of the chat template", "`sft.chat_template_kwargs`", ())
    ),
    "preserve_thinking": refused("it is a variable of the chat template", "`sft.chat_template_kwargs`"),
    "add_non_thinking_prefix": unused("the chat template says what stands before an answer"),
    "disable_ignore_empty_think": unused("lorans learns a turn whole"),
    "agent_template": unused("the chat template prints tools and their calls"),
    "template_backend": unused("lorans renders by the chat template"),
    "is_binary_loss_scale": unused("the loss has no weights but 0 and 1"),
    "sequence_parallel_size": refused(
        "rows that several GPUs share change the batch", "`distributed.context_parallel_size`", (1,)
    ),
    "strict": unused("a row that cannot be read is an error here: `dataset.max_bad_rows`"),
    "remove_unused_columns": unused("columns that nothing reads are reported"),
    "disable_auto_column_mapping": unused("`dataset.format` says how a row is read"),
    **each("model_name model_author", refused("lorans fills nothing into the rows", "fill `{{NAME}}` in yourself", ())),
    **each(
        "custom_dataset_info custom_register_path external_plugins plugin",
        refused("lorans runs no code of other tools, and has no list of data sets", "name the files: `dataset`", ()),
    ),
    **each("cached_dataset cached_val_dataset", refused("it is ms-swift's own cache", "name the rows: `dataset`", ())),
    "dataset_shuffle": unused("rows come in a random order anyway"),
    "train_dataloader_shuffle": refused("rows come in a random order here", "remove it", (True,)),
    **each(
        "val_dataset_shuffle dataset_num_proc load_from_cache_file download_mode lazy_tokenize packing_num_proc "
        "packing_strategy padding_free padding_side use_logits_to_keep max_model_len",
        unused("it says how rows are prepared or batched, and changes nothing that is learned"),
    ),
    "packing_length": refused("lorans packs to `max_length`", "write that", ()),
    **each("rope_scaling init_strategy", refused("lorans takes the base's own", "remove it", ())),
    "tuner_backend": same("it changes no result", "peft", "unsloth", remedy="remove it"),
    "attn_impl": unused("the kernel changes no result: `model.attn_implementation` chooses another one than `sdpa`"),
    "early_stop_interval": refused("lorans trains to the end", "set `num_train_epochs` to what it used to stop at"),
    "optimizer": refused("lorans has no such optimizer", "`optim`", ("adamw",)),
    **each("callbacks", refused("lorans runs no code of other tools", "remove it", ())),
    "use_galore": refused("lorans has no GaLore", "remove it"),
    "lisa_activated_layers": refused("lorans trains adapters, and no layers of the base", "remove it", (0,)),
    **each(
        "freeze_parameters freeze_parameters_regex freeze_parameters_ratio trainable_parameters "
        "trainable_parameters_regex freeze_llm freeze_vit freeze_aligner vit_gradient_checkpointing vit_lr aligner_lr",
        unused("the base stays as it is, and lorans trains on text"),
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
        unused("it is of GaLore or LISA, which have to be switched on"),
    ),
    **each(
        "max_new_tokens temperature top_k top_p repetition_penalty num_beams stream stop_words logprobs top_logprobs "
        "structured_outputs_regex predict_with_generate eval_use_evalscope eval_dataset eval_dataset_args eval_limit "
        "eval_generation_config extra_eval_args eval_metric metric metric_warmup_step",
        unused("it is of answers that are written in an evaluation: `[generation]` and `[evaluation]`"),
    ),
    **each("num_labels problem_type mrl_dims", unused("it is of classifiers and embeddings")),
    **each("max_pixels norm_bbox", unused("it is of pictures, and lorans trains on text")),
    **each("hqq_axis bnb_4bit_compute_dtype bnb_4bit_quant_storage", unused("lorans computes in `model.dtype`")),
    **each(
        "device_map max_memory local_repo_path model_kwargs experts_impl enable_npu_model_patch device_count",
        unused("lorans loads and places the base itself"),
    ),
    **each(
        "swanlab_token swanlab_project swanlab_workspace swanlab_exp_name swanlab_notification_method "
        "swanlab_webhook_url swanlab_secret swanlab_sender_email swanlab_receiver_email swanlab_smtp_server "
        "swanlab_smtp_port swanlab_email_language swanlab_mode",
        unused("lorans does not report to SwanLab; `metrics.jsonl` has all numbers"),
    ),
    **each(
        "add_version create_checkpoint_symlink safe_serialization max_shard_size enable_channel_loss check_model "
        "resume_only_model use_flash_ckpt ignore_args_error load_args load_data_args ckpt_dir swift_version "
        "model_info model_meta model_dir model_suffix training_args hub local_world_size rank logging_first_step "
        "zero_hpz_partition_size deepspeed_autotp_size ds3_gather_for_generation use_hf use_ray quantization_config "
        "torch_dtype_str task_name ray_exp_name device_groups",
        _SHOWN,
    ),
    "data_seed": unused("the order of the rows is drawn by `training.seed`"),
    "dataloader_num_workers": maps("training.dataloader_num_workers", whole, own=0),
    "accelerator_config": _SHOWN,
}
"""Keys of ms-swift that are in no step, beside those of transformers."""
