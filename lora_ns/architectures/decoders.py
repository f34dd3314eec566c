"""Decoders that are built like Llama, with the differences of their families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lora_ns.architectures.weights import Settings, Weights


@dataclass(frozen=True)
class Decoder:
    """How a family of decoders differs from Llama."""

    defaults: Mapping[str, Any]
    """Its settings in transformers where a `config.json` has none."""
    attention: Literal["grouped", "fused", "latent", "sinks"] = "grouped"
    """`fused` has one matrix for queries, keys and values, `latent` compresses them, `sinks` adds a logit per head."""
    feed_forward: Literal["gated", "fused"] = "gated"
    qkv_bias: bool = False
    """True if queries, keys and values always have biases."""
    head_norms: bool = False
    """True if queries and keys have norms."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    experts: Literal["", "mixtral", "qwen", "deepseek", "gpt_oss"] = ""


_GEMMA_NORMS = (
    *("input_layernorm", "post_attention_layernorm"),
    *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
)


def _sizes(vocab: int, hidden: int, inner: int, layers: int, heads: int, groups: int, **more: Any) -> dict[str, Any]:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return dict(
        zip((*names, "num_key_value_heads"), (vocab, hidden, inner, layers, heads, groups), strict=True), **more
    )


_LATENT = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}


DECODERS: Mapping[str, Decoder] = {
    "llama": Decoder(_sizes(32000, 4096, 11008, 32, 32, 0, max_position_embeddings=2048)),
    "mistral": Decoder(_sizes(32000, 4096, 14336, 32, 32, 8, max_position_embeddings=131072)),
    "mixtral": Decoder(
        _sizes(32000, 4096, 14336, 32, 32, 8, num_local_experts=8, max_position_embeddings=131072), experts="mixtral"
    ),
    "qwen2": Decoder(_sizes(151936, 4096, 22016, 32, 32, 32, max_position_embeddings=32768), qkv_bias=True),
    "qwen2_moe": Decoder(
        _sizes(151936, 2048, 5632, 24, 16, 16, moe_intermediate_size=1408, shared_expert_intermediate_size=5632)
        | {"num_experts": 60, "decoder_sparse_step": 1, "qkv_bias": True, "max_position_embeddings": 32768},
        qkv_bias=True,
        experts="qwen",
    ),
    "qwen3": Decoder(
        _sizes(151936, 4096, 22016, 32, 32, 32, head_dim=128, max_position_embeddings=32768), head_norms=True
    ),
    "qwen3_moe": Decoder(
        _sizes(151936, 2048, 6144, 24, 32, 4, moe_intermediate_size=768, num_experts=128, decoder_sparse_step=1)
        | {"max_position_embeddings": 32768},
        head_norms=True,
        experts="qwen",
    ),
    "gemma": Decoder(
        _sizes(256000, 3072, 24576, 28, 16, 16, head_dim=256, tie_word_embeddings=True, max_position_embeddings=8192)
    ),
    "gemma2": Decoder(
        _sizes(256000, 2304, 9216, 26, 8, 4, head_dim=256, tie_word_embeddings=True, max_position_embeddings=8192),
        norms=_GEMMA_NORMS,
    ),
    "gemma3_text": Decoder(
        _sizes(262208, 2304, 9216, 26, 8, 4, head_dim=256, tie_word_embeddings=True, max_position_embeddings=131072),
        norms=_GEMMA_NORMS,
        head_norms=True,
    ),
    "phi3": Decoder(
        _sizes(32064, 3072, 8192, 32, 32, 0, max_position_embeddings=4096), attention="fused", feed_forward="fused"
    ),
    "smollm3": Decoder(_sizes(128256, 2048, 11008, 36, 16, 4, tie_word_embeddings=True, max_position_embeddings=32768)),
    "granite": Decoder(_sizes(32000, 4096, 11008, 32, 32, 0, max_position_embeddings=2048)),
    "gpt_oss": Decoder(
        _sizes(201088, 2880, 2880, 36, 64, 8, head_dim=64, num_local_experts=128, max_position_embeddings=131072)
        | {"attention_bias": True},
        attention="sinks",
        experts="gpt_oss",
    ),
    "deepseek_v2": Decoder(
        _sizes(102400, 4096, 11008, 32, 32, 0, moe_intermediate_size=1407, n_routed_experts=64, n_shared_experts=2)
        | {**_LATENT, "first_k_dense_replace": 0, "max_position_embeddings": 2048},
        attention="latent",
        experts="deepseek",
    ),
    "deepseek_v3": Decoder(
        _sizes(129280, 7168, 18432, 61, 128, 0, moe_intermediate_size=2048, n_routed_experts=256, n_shared_experts=1)
        | {**_LATENT, "first_k_dense_replace": 3, "max_position_embeddings": 4096},
        attention="latent",
        experts="deepseek",
    ),
}
"""The families, by their `model_type`, with the defaults of transformers 5."""


def decoder_weights(weights: Weights, kind: Decoder, sizes: Settings, prefix: str = "model.") -> None:
    """Add the weights of a decoder without its head."""
    hidden = sizes("hidden_size")
    weights.embedding(f"{prefix}embed_tokens", sizes("vocab_size"), hidden)
    for number in range(sizes("num_hidden_layers")):
        layer = f"{prefix}layers.{number}."
        _ATTENTIONS[kind.attention](weights, kind, sizes, f"{layer}self_attn.")
        if _has_experts(kind, sizes, number):
            _EXPERTS[kind.experts](weights, sizes, f"{layer}mlp.")
        else:
            _feed_forward(weights, kind, sizes, f"{layer}mlp.", sizes("intermediate_size"))
        for norm in kind.norms:
            weights.norm(f"{layer}{norm}", hidden)
    weights.norm(f"{prefix}norm", hidden)


def heads_of(sizes: Settings) -> tuple[int, int, int]:
    """Return the numbers of heads and of key-value heads, and the width of a head."""
    heads = sizes("num_attention_heads")
    width = sizes("head_dim", default=sizes("hidden_size") // max(1, heads))
    return heads, sizes("num_key_value_heads", default=heads) or heads, width


def _grouped(weights: Weights, kind: Decoder, sizes: Settings, name: str) -> None:
    heads, groups, width = heads_of(sizes)
    hidden, bias = sizes("hidden_size"), kind.qkv_bias or sizes.is_set("attention_bias")
    weights.linear(f"{name}q_proj", hidden, heads * width, bias)
    weights.linear(f"{name}k_proj", hidden, groups * width, bias)
    weights.linear(f"{name}v_proj", hidden, groups * width, bias)
    weights.linear(f"{name}o_proj", heads * width, hidden, sizes.is_set("attention_bias") and not kind.qkv_bias)
    if kind.head_norms:
        weights.norm(f"{name}q_norm", width)
        weights.norm(f"{name}k_norm", width)


def _with_sinks(weights: Weights, kind: Decoder, sizes: Settings, name: str) -> None:
    weights.add(f"{name}sinks", (sizes("num_attention_heads"),), "other")
    _grouped(weights, kind, sizes, name)


def _fused(weights: Weights, kind: Decoder, sizes: Settings, name: str) -> None:  # noqa: ARG001 -- one signature
    heads, groups, width = heads_of(sizes)
    weights.linear(f"{name}o_proj", heads * width, sizes("hidden_size"))
    weights.linear(f"{name}qkv_proj", sizes("hidden_size"), (heads + 2 * groups) * width)


def _latent(weights: Weights, kind: Decoder, sizes: Settings, name: str) -> None:  # noqa: ARG001 -- one signature
    """Multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434)."""
    hidden, heads, bias = sizes("hidden_size"), sizes("num_attention_heads"), sizes.is_set("attention_bias")
    plain, rotated, rank = sizes("qk_nope_head_dim"), sizes("qk_rope_head_dim"), sizes("kv_lora_rank")
    # Null is a value here: queries are not compressed.
    compressed = 0 if sizes.is_null("q_lora_rank") else sizes("q_lora_rank")
    if compressed:
        weights.linear(f"{name}q_a_proj", hidden, compressed, bias)
        weights.norm(f"{name}q_a_layernorm", compressed)
        weights.linear(f"{name}q_b_proj", compressed, heads * (plain + rotated))
    else:
        weights.linear(f"{name}q_proj", hidden, heads * (plain + rotated))
    weights.linear(f"{name}kv_a_proj_with_mqa", hidden, rank + rotated, bias)
    weights.norm(f"{name}kv_a_layernorm", rank)
    weights.linear(f"{name}kv_b_proj", rank, heads * (plain + sizes("v_head_dim")))
    weights.linear(f"{name}o_proj", heads * sizes("v_head_dim"), hidden, bias)


_ATTENTIONS = {"grouped": _grouped, "sinks": _with_sinks, "fused": _fused, "latent": _latent}


def _feed_forward(weights: Weights, kind: Decoder, sizes: Settings, name: str, inner: int) -> None:
    hidden, bias = sizes("hidden_size"), sizes.is_set("mlp_bias")
    if kind.feed_forward == "fused":
        weights.linear(f"{name}gate_up_proj", hidden, 2 * inner)
    else:
        weights.linear(f"{name}gate_proj", hidden, inner, bias)
        weights.linear(f"{name}up_proj", hidden, inner, bias)
    weights.linear(f"{name}down_proj", inner, hidden, bias)


def _has_experts(kind: Decoder, sizes: Settings, number: int) -> bool:
    if kind.experts == "deepseek":
        return number >= sizes("first_k_dense_replace")
    if kind.experts == "qwen":
        dense = number in (sizes.get("mlp_only_layers") or ())
        step = max(1, sizes("decoder_sparse_step"))
        return not dense and sizes("num_local_experts", "num_experts") > 0 and (number + 1) % step == 0
    return bool(kind.experts)


def _stacked(weights: Weights, name: str, count: int, hidden: int, inner: int) -> None:
    weights.add(f"{name}experts.gate_up_proj", (count, 2 * inner, hidden), "expert")
    weights.add(f"{name}experts.down_proj", (count, hidden, inner), "expert")


def _mixtral(weights: Weights, sizes: Settings, name: str) -> None:
    count, hidden = sizes("num_local_experts"), sizes("hidden_size")
    weights.linear(f"{name}gate", hidden, count, kind="router")
    _stacked(weights, name, count, hidden, sizes("intermediate_size"))


def _qwen(weights: Weights, sizes: Settings, name: str) -> None:
    count, hidden = sizes("num_local_experts", "num_experts"), sizes("hidden_size")
    _stacked(weights, name, count, hidden, sizes("moe_intermediate_size"))
    weights.linear(f"{name}gate", hidden, count, kind="router")
    if shared := sizes("shared_expert_intermediate_size", default=0):
        _feed_forward(weights, DECODERS["llama"], sizes, f"{name}shared_expert.", shared)
        weights.linear(f"{name}shared_expert_gate", hidden, 1)


def _deepseek(weights: Weights, sizes: Settings, name: str) -> None:
    count, hidden, inner = sizes("n_routed_experts"), sizes("hidden_size"), sizes("moe_intermediate_size")
    weights.linear(f"{name}gate", hidden, count, kind="router")
    _stacked(weights, name, count, hidden, inner)
    shared = sizes("n_shared_experts") * inner
    _feed_forward(weights, DECODERS["llama"], sizes, f"{name}shared_experts.", shared)


def _gpt_oss(weights: Weights, sizes: Settings, name: str) -> None:
    count, hidden, inner = sizes("num_local_experts"), sizes("hidden_size"), sizes("intermediate_size")
    weights.linear(f"{name}router", hidden, count, bias=True, kind="router")
    weights.add(f"{name}experts.gate_up_proj", (count, hidden, 2 * inner), "expert")
    weights.add(f"{name}experts.gate_up_proj_bias", (count, 2 * inner), "expert")
    weights.add(f"{name}experts.down_proj", (count, inner, hidden), "expert")
    weights.add(f"{name}experts.down_proj_bias", (count, hidden), "expert")


_EXPERTS = {"mixtral": _mixtral, "qwen": _qwen, "deepseek": _deepseek, "gpt_oss": _gpt_oss}
