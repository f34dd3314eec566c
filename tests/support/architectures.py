"""Tiny models of well-known architectures, built in place, with the layers that a run on each must change."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from shapes import SHAPES, make_tokenizer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
LLAMA = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")
BERT = ("dense", "key", "query", "value")


@dataclass(frozen=True)
class Architecture:
    """The configuration of a family, the layers that `all-linear` selects in it, and the head of its classifier."""

    config: type
    sizes: dict[str, Any]
    targets: tuple[str, ...]
    """Name endings of the adapted layers of the backbone."""
    head: tuple[str, ...] = ("score",)
    """Modules of a text classifier that are trained in full."""
    attention: str = "sdpa"
    experts: tuple[str, ...] = ()
    word_head: tuple[str, ...] = field(default=())
    """The same for token classification, if that is tested."""


MOE = ("mlp.experts.down_proj", "mlp.experts.gate_up_proj")
CAUSAL = {
    "llama": Architecture(transformers.LlamaConfig, GROUPED, LLAMA, word_head=("score",)),
    "mistral": Architecture(transformers.MistralConfig, GROUPED, LLAMA),
    "qwen2": Architecture(transformers.Qwen2Config, GROUPED, LLAMA),
    "qwen3": Architecture(transformers.Qwen3Config, {**GROUPED, "head_dim": 8}, LLAMA),
    "gemma2": Architecture(transformers.Gemma2Config, {**GROUPED, "head_dim": 8}, LLAMA, attention="eager"),
    "phi3": Architecture(transformers.Phi3Config, GROUPED, ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")),
    "gpt2": Architecture(
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 160},
        ("c_attn", "c_fc", "c_proj"),
        word_head=("classifier",),
    ),
    "gpt-neox": Architecture(
        transformers.GPTNeoXConfig, SIZES, ("dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value")
    ),
    "opt": Architecture(
        transformers.OPTConfig,
        {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32},
        ("fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"),
    ),
    "mixtral": Architecture(
        transformers.MixtralConfig,
        {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
        ATTENTION,
        experts=MOE,
    ),
    "qwen3-moe": Architecture(
        transformers.Qwen3MoeConfig,
        {**GROUPED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        ATTENTION,
        experts=MOE,
    ),
}
ENCODERS = {
    "bert": Architecture(transformers.BertConfig, SIZES, BERT, ("classifier", "pooler"), word_head=("classifier",)),
    "roberta": Architecture(
        transformers.RobertaConfig,
        {**SIZES, "max_position_embeddings": 162, "type_vocab_size": 1},
        BERT,
        ("classifier",),
    ),
    "albert": Architecture(
        transformers.AlbertConfig,
        {**SIZES, "embedding_size": 16},
        ("dense", "embedding_hidden_mapping_in", "ffn", "ffn_output", "key", "query", "value"),
        ("classifier", "pooler"),
    ),
    "distilbert": Architecture(
        transformers.DistilBertConfig,
        {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 160},
        ("k_lin", "lin1", "lin2", "out_lin", "q_lin", "v_lin"),
        ("classifier", "pre_classifier"),
    ),
    "deberta-v2": Architecture(
        transformers.DebertaV2Config,
        {
            **SIZES,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pooler_hidden_size": 32,
        },
        ("dense", "key_proj", "query_proj", "value_proj"),
        ("classifier", "pooler"),
        attention="eager",
    ),
    "electra": Architecture(
        transformers.ElectraConfig, {**SIZES, "embedding_size": 16}, ("embeddings_project", *BERT), ("classifier",)
    ),
    "modernbert": Architecture(
        transformers.ModernBertConfig,
        {**SIZES, "global_attn_every_n_layers": 2, "local_attention": 16},
        ("Wi", "Wo", "Wqkv"),
        ("classifier", "head"),
        word_head=("classifier", "head"),
    ),
}
ALL = CAUSAL | ENCODERS


def write_architecture(folder: Path, name: str, seed: int = 7) -> None:
    """Write a base with random weights, as it would be on the hub: a causal or a masked language model."""
    tokenizer = make_tokenizer(SHAPES["chatml-marked"])
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"})
    tokenizer.save_pretrained(folder / "base")
    numbers = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "cls", "sep", "pad")}
    transformers.set_seed(seed)
    config = ALL[name].config(vocab_size=len(tokenizer), **ALL[name].sizes, **numbers)
    auto = transformers.AutoModelForCausalLM if name in CAUSAL else transformers.AutoModelForMaskedLM
    auto.from_config(config).save_pretrained(folder / "base")
