"""Tiny models of many architectures without files: what is known of them, and the models themselves."""

import json
from types import SimpleNamespace

import torch
import transformers
from architectures import ALL, CAUSAL

from lora_ns.model.files import BaseFacts, read_facts

GROUPED = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PLAIN = {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
LATENT = {
    **GROUPED,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
MORE = {
    "falcon": (transformers.FalconConfig, PLAIN),
    "falcon, grouped": (transformers.FalconConfig, {**PLAIN, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, sequential": (
        transformers.FalconConfig,
        {**PLAIN, "multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "bloom": (transformers.BloomConfig, {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "opt, projected": (
        transformers.OPTConfig,
        {**PLAIN, "ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    "llama with biases": (
        transformers.LlamaConfig,
        {**GROUPED, "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    "gemma": (transformers.GemmaConfig, {**GROUPED, "head_dim": 8}),
    "gemma3_text": (transformers.Gemma3TextConfig, {**GROUPED, "head_dim": 8}),
    "gemma3": (
        transformers.Gemma3Config,
        {
            "text_config": {**GROUPED, "head_dim": 8},
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "vision_use_head": False,
            },
        },
    ),
    "smollm3": (transformers.SmolLM3Config, GROUPED),
    "granite": (transformers.GraniteConfig, GROUPED),
    "gpt_oss": (transformers.GptOssConfig, {**GROUPED, "head_dim": 8, "num_local_experts": 4}),
    "qwen2_moe": (
        transformers.Qwen2MoeConfig,
        {**GROUPED, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32},
    ),
    "deepseek_v2": (transformers.DeepseekV2Config, {**LATENT, "n_shared_experts": 2, "q_lora_rank": None}),
    "deepseek_v3": (transformers.DeepseekV3Config, {**LATENT, "n_shared_experts": 1, "q_lora_rank": 8}),
    "deberta-v2, both positions": (
        transformers.DebertaV2Config,
        {
            **PLAIN,
            "intermediate_size": 64,
            "relative_attention": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
            "max_position_embeddings": 24,
        },
    ),
}
"""Architectures beside those that are trained in other tests, by a name."""
NAMES = (*ALL, *MORE)
AUTOS = {
    "CAUSAL_LM": transformers.AutoModelForCausalLM,
    "MASKED_LM": transformers.AutoModelForMaskedLM,
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
}


def config_of(name):
    if name in ALL:
        return ALL[name].config(vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2, **ALL[name].sizes)
    kind, sizes = MORE[name]
    return kind(**sizes)


def is_encoder(name):
    return name.startswith("deberta") or (name in ALL and name not in CAUSAL)


def settings_of(name):
    """The `config.json` of an architecture, with every setting."""
    return json.loads(config_of(name).to_json_string(use_diff=False))


def without_values(name, task):
    """A model on the meta device, None if transformers has none for the task."""
    try:
        with torch.device("meta"):
            return AUTOS[task].from_config(config_of(name))
    except ValueError:
        return None


def facts_of(name) -> BaseFacts:
    """What is read from the files of a base."""
    model = without_values(name, "MASKED_LM" if is_encoder(name) else "CAUSAL_LM")
    tensors = {name: {"dtype": "F32", "shape": list(value.shape)} for name, value in model.named_parameters()}
    return read_facts(settings_of(name), tensors)


def base_of(facts):
    """A stand-in of a base in a folder."""
    return SimpleNamespace(
        facts=facts, gguf_file=None, path="/base", location="/base", name="base", commit=None, has_tokenizer=True
    )
