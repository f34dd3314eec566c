"""Decoders before Llama: GPT-2, GPT-NeoX, OPT, Falcon and BLOOM. They have biases and norms with two vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_ns.architectures.weights import Settings, Weights


@dataclass(frozen=True)
class OlderDecoder:
    """A family: how it is built, and the settings of transformers where a `config.json` has none."""

    build: Callable[[Weights, Settings], None]
    embeddings: str
    """Module of the input embeddings, to which the head may be tied."""
    defaults: Mapping[str, Any]


def _gpt2(weights: Weights, sizes: Settings) -> None:
    width = sizes("n_embd", "hidden_size")
    inner = sizes("n_inner", default=4 * width)
    weights.embedding("transformer.wte", sizes("vocab_size"), width)
    weights.embedding("transformer.wpe", sizes("n_positions", "max_position_embeddings"), width)
    for number in range(sizes("n_layer", "num_hidden_layers")):
        name = f"transformer.h.{number}."
        weights.layer_norms(width, f"{name}ln_1", f"{name}ln_2")
        weights.linear(f"{name}attn.c_attn", width, 3 * width, bias=True, transposed=True)
        weights.linear(f"{name}attn.c_proj", width, width, bias=True, transposed=True)
        weights.linear(f"{name}mlp.c_fc", width, inner, bias=True, transposed=True)
        weights.linear(f"{name}mlp.c_proj", inner, width, bias=True, transposed=True)
    weights.layer_norms(width, "transformer.ln_f")


def _gpt_neox(weights: Weights, sizes: Settings) -> None:
    width, inner, bias = sizes("hidden_size"), sizes("intermediate_size"), sizes.is_set("attention_bias")
    weights.embedding("gpt_neox.embed_in", sizes("vocab_size"), width)
    for number in range(sizes("num_hidden_layers")):
        name = f"gpt_neox.layers.{number}."
        weights.layer_norms(width, f"{name}input_layernorm", f"{name}post_attention_layernorm")
        weights.linear(f"{name}attention.query_key_value", width, 3 * width, bias)
        weights.linear(f"{name}attention.dense", width, width, bias)
        weights.linear(f"{name}mlp.dense_h_to_4h", width, inner, bias=True)
        weights.linear(f"{name}mlp.dense_4h_to_h", inner, width, bias=True)
    weights.layer_norms(width, "gpt_neox.final_layer_norm")


_OFFSET = 2
"""Rows of OPT's positions before the first position."""


def _opt(weights: Weights, sizes: Settings) -> None:
    width, inner, outer = sizes("hidden_size"), sizes("ffn_dim"), sizes("word_embed_proj_dim")
    bias, top = sizes.is_set("enable_bias"), "model.decoder."
    weights.embedding(f"{top}embed_tokens", sizes("vocab_size"), outer)
    weights.embedding(f"{top}embed_positions", sizes("max_position_embeddings") + _OFFSET, width)
    if outer != width:
        weights.linear(f"{top}project_out", width, outer)
        weights.linear(f"{top}project_in", outer, width)
    if sizes.is_set("do_layer_norm_before") and not sizes.is_set("_remove_final_layer_norm"):
        _opt_norms(weights, sizes, f"{top}final_layer_norm")
    for number in range(sizes("num_hidden_layers")):
        name = f"{top}layers.{number}."
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            weights.linear(f"{name}self_attn.{part}", width, width, bias)
        weights.linear(f"{name}fc1", width, inner, bias)
        weights.linear(f"{name}fc2", inner, width, bias)
        _opt_norms(weights, sizes, f"{name}self_attn_layer_norm", f"{name}final_layer_norm")


def _opt_norms(weights: Weights, sizes: Settings, *names: str) -> None:
    if sizes.is_set("layer_norm_elementwise_affine"):
        weights.layer_norms(sizes("hidden_size"), *names)


def _falcon(weights: Weights, sizes: Settings) -> None:
    width, heads, bias = sizes("hidden_size"), sizes("num_attention_heads", "n_head"), sizes.is_set("bias")
    inner, is_new = sizes("ffn_hidden_size", default=4 * width), sizes.is_set("new_decoder_architecture")
    groups = sizes("num_kv_heads", "n_head_kv", default=heads)
    queries = 3 * width
    if is_new:
        queries = (2 * groups + heads) * (width // heads)
    elif sizes.is_set("multi_query"):
        queries = width + 2 * (width // heads)
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    if sizes.is_set("parallel_attn"):
        norms = ("ln_attn", "ln_mlp") if sizes("num_ln_in_parallel_attn", default=1 + is_new) > 1 else norms[:1]
    weights.embedding("transformer.word_embeddings", sizes("vocab_size"), width)
    for number in range(sizes("num_hidden_layers", "n_layer")):
        name = f"transformer.h.{number}."
        weights.linear(f"{name}self_attention.query_key_value", width, queries, bias, own_class=True)
        weights.linear(f"{name}self_attention.dense", width, width, bias, own_class=True)
        weights.linear(f"{name}mlp.dense_h_to_4h", width, inner, bias, own_class=True)
        weights.linear(f"{name}mlp.dense_4h_to_h", inner, width, bias, own_class=True)
        weights.layer_norms(width, *(f"{name}{norm}" for norm in norms))
    weights.layer_norms(width, "transformer.ln_f")


def _bloom(weights: Weights, sizes: Settings) -> None:
    width = sizes("hidden_size", "n_embed")
    weights.embedding("transformer.word_embeddings", sizes("vocab_size"), width)
    weights.layer_norms(width, "transformer.word_embeddings_layernorm")
    for number in range(sizes("n_layer", "num_hidden_layers")):
        name = f"transformer.h.{number}."
        weights.layer_norms(width, f"{name}input_layernorm", f"{name}post_attention_layernorm")
        weights.linear(f"{name}self_attention.query_key_value", width, 3 * width, bias=True)
        weights.linear(f"{name}self_attention.dense", width, width, bias=True)
        weights.linear(f"{name}mlp.dense_h_to_4h", width, 4 * width, bias=True)
        weights.linear(f"{name}mlp.dense_4h_to_h", 4 * width, width, bias=True)
    weights.layer_norms(width, "transformer.ln_f")


_TIED = {"tie_word_embeddings": True}


OLDER_DECODERS: Mapping[str, OlderDecoder] = {
    "gpt2": OlderDecoder(
        _gpt2,
        "transformer.wte",
        {**_TIED, "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
    ),
    "gpt_neox": OlderDecoder(
        _gpt_neox,
        "gpt_neox.embed_in",
        {
            "vocab_size": 50432,
            "hidden_size": 6144,
            "num_hidden_layers": 44,
            "num_attention_heads": 64,
            "intermediate_size": 24576,
            "max_position_embeddings": 2048,
            "attention_bias": True,
        },
    ),
    "opt": OlderDecoder(
        _opt,
        "model.decoder.embed_tokens",
        {
            **_TIED,
            "vocab_size": 50272,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "ffn_dim": 3072,
            "max_position_embeddings": 2048,
            "do_layer_norm_before": True,
            "word_embed_proj_dim": 768,
            "num_attention_heads": 12,
            "enable_bias": True,
            "layer_norm_elementwise_affine": True,
        },
    ),
    "falcon": OlderDecoder(
        _falcon,
        "transformer.word_embeddings",
        {
            **_TIED,
            "vocab_size": 65024,
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "multi_query": True,
            "parallel_attn": True,
            "max_position_embeddings": 2048,
        },
    ),
    "bloom": OlderDecoder(
        _bloom,
        "transformer.word_embeddings",
        {**_TIED, "vocab_size": 250880, "hidden_size": 64, "n_layer": 2, "n_head": 8},
    ),
}
"""The families, by their `model_type`."""
