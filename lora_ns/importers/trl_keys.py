"""TRL's keys that stand by themselves, each with its rule, and those of trainings that are no fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.importers.rules import Rule, among, each, gone, maps, refused, same, told_apart, unused
from lora_ns.importers.values import flag, names, number, plain, text

_RL = (
    "reward_funcs reward_weights reward_model_name_or_path num_generations max_completion_length max_prompt_length "
    "use_vllm log_completions num_iterations dataset_prompt_column importance_sampling_level scale_rewards "
    "mask_truncated_completions vllm_mode vllm_gpu_memory_utilization vllm_server_host vllm_server_port "
    "vllm_server_timeout vllm_tensor_parallel_size vllm_device vllm_max_model_len vllm_dtype epsilon_high "
    "num_completions_to_print wandb_log_unique_prompts cosine_max_len cosine_min_value_wrong cosine_max_value_wrong "
    "cosine_min_value_correct cosine_max_value_correct repetition_n_grams repetition_max_penalty sync_ref_model "
    "num_ppo_epochs kl_coef missing_eos_penalty response_length code_language code_provider "
    "parallel_code_exec_per_proc e2b_router_url morph_router_url ref_model_sync_steps ref_model_mixup_alpha"
)
_PREFERENCES = (
    "beta label_smoothing desirable_weight undesirable_weight precompute_ref_log_probs reference_free rpo_alpha "
    "ref_model_init_kwargs simpo_gamma cpo_alpha ld_alpha f_divergence_type max_target_length "
    "ref_adapter_name model_adapter_name use_weighting generate_during_eval discopop_tau"
)
_REWARDS = "center_rewards_coefficient disable_dropout"


OTHER_TRAININGS: Mapping[str, str] = {
    **dict.fromkeys(_RL.split(), "reinforcement learning"),
    **dict.fromkeys(_PREFERENCES.split(), "learning of preferences"),
    **dict.fromkeys(_REWARDS.split(), "a reward model"),
}
"""Keys that only other trainings have, and which these are."""


_KERNEL = unused("the kernel changes no result: `model.attn_implementation` chooses another one than `sdpa`")


RULES: Mapping[str, Rule] = {
    "model_revision": maps("model.revision", text, own="main"),
    "trust_remote_code": maps("model.trust_remote_code", flag, own=False),
    **each("attn_implementation use_flash_attention_2 experts_implementation", _KERNEL),
    "bnb_4bit_quant_storage": unused("lorans computes in `model.dtype`"),
    "lora_target_parameters": maps("peft.target_parameters", names),
    "lora_modules_to_save": maps("peft.modules_to_save", names),
    "lora_task_type": same("it is a causal language model", "CAUSAL_LM", remedy="write such a recipe yourself"),
    "use_rslora": maps("peft.use_rslora", flag, own=False),
    "use_dora": maps("peft.use_dora", flag, own=False),
    "loss_type": told_apart(
        text,
        lambda name: (
            among("sft.loss_type", {"nll": "nll", "chunked_nll": "nll", "dft": "dft"}, own="nll")
            if name in ("nll", "chunked_nll", "dft")
            else refused("it is of another training, and lorans imports supervised fine-tuning", "keep TRL for it", ())
        ),
    ),
    "router_aux_loss_coef": refused("lorans leaves the routers alone", "remove it", (0, 0.0)),
    **each(
        "model_init_kwargs model_kwargs",
        refused("lorans takes the base's own configuration", "save the base with it", ()),
    ),
    "tokenizer_name_or_path": refused("lorans takes the base's own tokenizer", "save it with the base", ()),
    "dataset_kwargs": told_apart(
        plain,
        lambda value: (
            unused("lorans prepares every row its own way, and adds the begin token as the tokenizer does")
            if isinstance(value, dict)
            and set(value) <= {"add_special_tokens", "append_concat_token", "skip_prepare_dataset"}
            and not value.get("skip_prepare_dataset")
            else refused("lorans prepares every row", "remove it", (), fatal=True)
        ),
    ),
    "shuffle_dataset": unused("rows come in a random order anyway"),
    "eval_packing": unused("evaluation rows are measured one by one"),
    **each(
        "padding_free pad_to_multiple_of preprocessing_num_workers dataset_batch_size",
        unused("it says how rows are batched, and changes nothing that is learned"),
    ),
    **each("pad_token padding_side", unused("padding is never learned")),
    "num_of_sequences": gone("TRL", "rows are packed whole", unused("it is of an older way of packing")),
    "chars_per_token": gone("TRL", "rows are packed whole", unused("it is of an older way of packing")),
    "text_column": refused("lorans finds the text by its name", "`dataset.columns`"),
    "preprocess_columns": unused("it names what is taken out of the rows"),
    "auto_insert_empty_system_msg": refused("lorans shows the rows' own system turns", "set it to false", (False,)),
    "system_prompt": unused("it is read by reinforcement learning and benchmarks; rows have their own system turns"),
    **each("benchmarks callbacks ignore_bias_buffers gradient_accumulation_kwargs", unused("it changes no result")),
    "env": unused("variables of the environment are yours to set"),
    **each("wandb_entity wandb_run_group wandb_mode", unused("W&B reads `WANDB_*` variables")),
    "weight_decay": maps("training.weight_decay", number, own=0.0),
}
"""Keys of TRL, the alignment handbook and open-r1 that are in no step."""
