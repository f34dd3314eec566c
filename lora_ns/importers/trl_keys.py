"""Rules for TRL's independent keys, and keys that only TRL's other trainers have."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.importers.draft import Draft
from lora_ns.importers.preferences import trains_pairs
from lora_ns.importers.rules import Rule, among, by_value, each, gone, maps, refused, same, unused
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
PREFERENCES = (
    *("beta", "label_smoothing", "desirable_weight", "undesirable_weight", "precompute_ref_log_probs"),
    *("reference_free", "rpo_alpha", "ref_model_init_kwargs", "simpo_gamma", "cpo_alpha", "ld_alpha"),
    *("f_divergence_type", "max_target_length", "ref_adapter_name", "model_adapter_name", "use_weighting"),
    *("generate_during_eval", "discopop_tau"),
)
"""Keys of preference training, which several trainers share."""
_REWARDS = "center_rewards_coefficient disable_dropout"


OTHER_TRAININGS: Mapping[str, str] = {
    **dict.fromkeys(_RL.split(), "reinforcement learning"),
    **dict.fromkeys(PREFERENCES, "preference tuning"),
    **dict.fromkeys(_REWARDS.split(), "a reward model"),
}
"""Keys of other trainers than that of supervised fine-tuning, with the kind of training."""


_KERNEL = unused("the kernel does not change results; set `model.attn_implementation` to choose one")


def _loss(draft: Draft, key: str) -> None:
    """Translate the loss of fine-tuning; that of DPO has been translated with its other keys."""
    if trains_pairs(draft):
        return
    known = {"nll": "nll", "chunked_nll": "nll", "dft": "dft"}
    among("sft.loss_type", known, "see `sft.loss_type` for supported losses", own="nll", read=text)(draft, key)


RULES: Mapping[str, Rule] = {
    "model_revision": maps("model.revision", text, own="main"),
    "trust_remote_code": maps("model.trust_remote_code", flag, own=False),
    **each("attn_implementation use_flash_attention_2 experts_implementation", _KERNEL),
    "bnb_4bit_quant_storage": unused("lorans uses `model.dtype` for computation"),
    "lora_target_parameters": maps("peft.target_parameters", names),
    "lora_modules_to_save": maps("peft.modules_to_save", names),
    "lora_task_type": same(
        "lorans imports causal language models only", "CAUSAL_LM", remedy="write the recipe yourself, with `task_type`"
    ),
    "use_rslora": maps("peft.use_rslora", flag, own=False),
    "use_dora": maps("peft.use_dora", flag, own=False),
    "loss_type": _loss,
    "router_aux_loss_coef": refused("lorans does not train the experts' routers", "remove it", (0, 0.0)),
    **each(
        "model_init_kwargs model_kwargs",
        refused("lorans uses the base's own configuration", "change it in the base's folder", ()),
    ),
    "tokenizer_name_or_path": refused("lorans uses the base's own tokenizer", "save both in one folder", ()),
    "dataset_kwargs": by_value(
        plain,
        lambda value: (
            unused("lorans prepares rows itself, and adds the beginning-of-sequence token as the tokenizer does")
            if isinstance(value, dict)
            and set(value) <= {"add_special_tokens", "append_concat_token", "skip_prepare_dataset"}
            and not value.get("skip_prepare_dataset")
            else refused("lorans prepares every row", "remove it", (), fatal=True)
        ),
    ),
    "shuffle_dataset": unused("lorans shuffles the rows"),
    "eval_packing": unused("lorans does not pack evaluation rows"),
    **each(
        "padding_free pad_to_multiple_of preprocessing_num_workers dataset_batch_size",
        unused("it is about preparing and batching rows, and does not change results"),
    ),
    **each("pad_token padding_side", unused("lorans never trains on padding")),
    **each("num_of_sequences chars_per_token", gone("TRL", "", unused("it only applies to TRL's old packing"))),
    "text_column": refused("lorans reads texts from the column `text`", "name another column in `dataset.columns`"),
    "preprocess_columns": unused("it only removes columns that are not trained on"),
    "auto_insert_empty_system_msg": refused("lorans uses the system turns in the rows", "set it to false", (False,)),
    "system_prompt": unused("it only applies to reinforcement learning and benchmarks"),
    **each(
        "benchmarks callbacks ignore_bias_buffers gradient_accumulation_kwargs", unused("it does not change results")
    ),
    "env": unused("set environment variables yourself"),
    **each("wandb_entity wandb_run_group wandb_mode", unused("set W&B's `WANDB_*` variables instead")),
    "weight_decay": maps("training.weight_decay", number, own=0.0),
}
"""Rules for the keys of TRL, the alignment handbook and open-r1 that no step handles."""
