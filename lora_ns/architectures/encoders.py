"""Encoders: BERT and its relatives, with their heads for masked tokens and for labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_ns.architectures.weights import Kind, Settings, Weights


@dataclass(frozen=True)
class Encoder:
    """A family: its backbone and its heads, and the settings of transformers where a `config.json` has none."""

    build: Callable[[Weights, Settings, str], None]
    """Adds the backbone for a task: that of a classifier may have a pooler."""
    heads: Mapping[str, Callable[[Weights, Settings, int], None]]
    """Adds the head, by task, for a number of labels."""
    defaults: Mapping[str, Any]


MASKED_LM, SEQ_CLS, TOKEN_CLS = "MASKED_LM", "SEQ_CLS", "TOKEN_CLS"


def _dense(weights: Weights, name: str, inputs: int, outputs: int, kind: Kind = "linear") -> None:
    weights.linear(name, inputs, outputs, bias=True, kind=kind)


def _head(weights: Weights, name: str, width: int, labels: int) -> None:
    _dense(weights, name, width, labels, kind="head")


def _embedded(weights: Weights, sizes: Settings, name: str, width: int) -> None:
    """Add the embeddings of tokens, positions and segments."""
    weights.embedding(f"{name}word_embeddings", sizes("vocab_size"), width)
    weights.embedding(f"{name}position_embeddings", sizes("max_position_embeddings"), width)
    weights.embedding(f"{name}token_type_embeddings", sizes("type_vocab_size"), width)
    weights.layer_norms(width, f"{name}LayerNorm")


def _bert_layers(
    weights: Weights, sizes: Settings, top: str, parts: tuple[str, str, str] = ("query", "key", "value")
) -> None:
    width, inner = sizes("hidden_size"), sizes("intermediate_size")
    for number in range(sizes("num_hidden_layers")):
        name = f"{top}encoder.layer.{number}."
        for part in parts:
            _dense(weights, f"{name}attention.self.{part}", width, width)
        _dense(weights, f"{name}attention.output.dense", width, width)
        weights.layer_norms(width, f"{name}attention.output.LayerNorm")
        _dense(weights, f"{name}intermediate.dense", width, inner)
        _dense(weights, f"{name}output.dense", inner, width)
        weights.layer_norms(width, f"{name}output.LayerNorm")


def _bert(weights: Weights, sizes: Settings, task: str) -> None:
    _embedded(weights, sizes, "bert.embeddings.", sizes("hidden_size"))
    _bert_layers(weights, sizes, "bert.")
    if task == SEQ_CLS:
        _dense(weights, "bert.pooler.dense", sizes("hidden_size"), sizes("hidden_size"))


def _roberta(weights: Weights, sizes: Settings, task: str) -> None:  # noqa: ARG001 -- one signature
    _embedded(weights, sizes, "roberta.embeddings.", sizes("hidden_size"))
    _bert_layers(weights, sizes, "roberta.")


def _electra(weights: Weights, sizes: Settings, task: str) -> None:  # noqa: ARG001 -- one signature
    narrow, width = sizes("embedding_size"), sizes("hidden_size")
    _embedded(weights, sizes, "electra.embeddings.", narrow)
    if narrow != width:
        _dense(weights, "electra.embeddings_project", narrow, width)
    _bert_layers(weights, sizes, "electra.")


def _albert(weights: Weights, sizes: Settings, task: str) -> None:
    narrow, width, inner = sizes("embedding_size"), sizes("hidden_size"), sizes("intermediate_size")
    _embedded(weights, sizes, "albert.embeddings.", narrow)
    _dense(weights, "albert.encoder.embedding_hidden_mapping_in", narrow, width)
    for group in range(sizes("num_hidden_groups")):
        for number in range(sizes("inner_group_num")):
            name = f"albert.encoder.albert_layer_groups.{group}.albert_layers.{number}."
            weights.layer_norms(width, f"{name}full_layer_layer_norm", f"{name}attention.LayerNorm")
            for part in ("query", "key", "value", "dense"):
                _dense(weights, f"{name}attention.{part}", width, width)
            _dense(weights, f"{name}ffn", width, inner)
            _dense(weights, f"{name}ffn_output", inner, width)
    if task == SEQ_CLS:
        _dense(weights, "albert.pooler", width, width)


def _distilbert(weights: Weights, sizes: Settings, task: str) -> None:  # noqa: ARG001 -- one signature
    width, inner, top = sizes("dim", "hidden_size"), sizes("hidden_dim"), "distilbert."
    weights.embedding(f"{top}embeddings.word_embeddings", sizes("vocab_size"), width)
    weights.embedding(f"{top}embeddings.position_embeddings", sizes("max_position_embeddings"), width)
    weights.layer_norms(width, f"{top}embeddings.LayerNorm")
    for number in range(sizes("n_layers", "num_hidden_layers")):
        name = f"{top}transformer.layer.{number}."
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            _dense(weights, f"{name}attention.{part}", width, width)
        _dense(weights, f"{name}ffn.lin1", width, inner)
        _dense(weights, f"{name}ffn.lin2", inner, width)
        weights.layer_norms(width, f"{name}sa_layer_norm", f"{name}output_layer_norm")


def _deberta_v2(weights: Weights, sizes: Settings, task: str) -> None:  # noqa: ARG001 -- one signature
    width, top = sizes("hidden_size"), "deberta."
    narrow = sizes("embedding_size", default=width)
    weights.embedding(f"{top}embeddings.word_embeddings", sizes("vocab_size"), narrow)
    if sizes.is_set("position_biased_input"):
        weights.embedding(f"{top}embeddings.position_embeddings", sizes("max_position_embeddings"), narrow)
    if segments := sizes("type_vocab_size", default=0):
        weights.embedding(f"{top}embeddings.token_type_embeddings", segments, narrow)
    if narrow != width:
        weights.linear(f"{top}embeddings.embed_proj", narrow, width)
    weights.layer_norms(width, f"{top}embeddings.LayerNorm")
    _bert_layers(weights, sizes, top, ("query_proj", "key_proj", "value_proj"))
    if sizes.is_set("relative_attention"):
        _deberta_positions(weights, sizes, f"{top}encoder.")


def _deberta_positions(weights: Weights, sizes: Settings, name: str) -> None:
    """Add the embeddings of relative positions, and their projections where these are not those of the tokens."""
    width, buckets = sizes("hidden_size"), sizes.get("position_buckets")
    given = sizes.get("max_relative_positions")
    positions = given if isinstance(given, int) and given > 0 else sizes("max_position_embeddings")
    count = buckets if isinstance(buckets, int) and buckets > 0 else positions
    weights.embedding(f"{name}rel_embeddings", 2 * count, width)
    if "layer_norm" in _words(sizes.get("norm_rel_ebd") or ""):
        weights.layer_norms(width, f"{name}LayerNorm")
    if not sizes.is_set("share_att_key"):
        kinds = _words(sizes.get("pos_att_type") or "")
        for number in range(sizes("num_hidden_layers")):
            for kind, part in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
                if kind in kinds:
                    _dense(weights, f"{name}layer.{number}.attention.self.{part}", width, width)


def _words(value: Any) -> list[str]:
    """Split a setting like `p2c|c2p`, which may also be a list."""
    return value.lower().split("|") if isinstance(value, str) else [str(word) for word in value]


def _modernbert(weights: Weights, sizes: Settings, task: str) -> None:  # noqa: ARG001 -- one signature
    width, inner = sizes("hidden_size"), sizes("intermediate_size")
    norms, of_attention, of_mlp = (sizes.is_set(f"{name}_bias") for name in ("norm", "attention", "mlp"))
    weights.embedding("model.embeddings.tok_embeddings", sizes("vocab_size"), width)
    weights.norm("model.embeddings.norm", width, norms)
    for number in range(sizes("num_hidden_layers")):
        name = f"model.layers.{number}."
        if number:
            weights.norm(f"{name}attn_norm", width, norms)
        weights.linear(f"{name}attn.Wqkv", width, 3 * width, of_attention)
        weights.linear(f"{name}attn.Wo", width, width, of_attention)
        weights.norm(f"{name}mlp_norm", width, norms)
        weights.linear(f"{name}mlp.Wi", width, 2 * inner, of_mlp)
        weights.linear(f"{name}mlp.Wo", inner, width, of_mlp)
    weights.norm("model.final_norm", width, norms)


def _modern_head(weights: Weights, sizes: Settings) -> None:
    width = sizes("hidden_size")
    weights.linear("head.dense", width, width, sizes.is_set("classifier_bias"), kind="head")
    weights.norm("head.norm", width, sizes.is_set("norm_bias"))


def _modern_labels(weights: Weights, sizes: Settings, labels: int) -> None:
    _modern_head(weights, sizes)
    _head(weights, "classifier", sizes("hidden_size"), labels)


def _modern_words(weights: Weights, sizes: Settings, labels: int) -> None:  # noqa: ARG001 -- one signature
    _modern_head(weights, sizes)
    tied_to = "model.embeddings.tok_embeddings"
    weights.linear("decoder", sizes("hidden_size"), sizes("vocab_size"), sizes.is_set("decoder_bias"), "head", tied_to)


def _plain_labels(weights: Weights, sizes: Settings, labels: int) -> None:
    _head(weights, "classifier", sizes("hidden_size", "dim"), labels)


def _dense_labels(weights: Weights, sizes: Settings, labels: int) -> None:
    width = sizes("hidden_size")
    _dense(weights, "classifier.dense", width, width, kind="head")
    _head(weights, "classifier.out_proj", width, labels)


def _pooled_labels(weights: Weights, sizes: Settings, labels: int) -> None:
    width = sizes("pooler_hidden_size", default=sizes("hidden_size"))
    _dense(weights, "pooler.dense", width, width, kind="head")
    _head(weights, "classifier", width, labels)


def _distilbert_labels(weights: Weights, sizes: Settings, labels: int) -> None:
    width = sizes("dim", "hidden_size")
    _dense(weights, "pre_classifier", width, width, kind="head")
    _head(weights, "classifier", width, labels)


def _words_head(
    names: tuple[str, str, str], embeddings: str, narrow: str = ""
) -> Callable[[Weights, Settings, int], None]:
    """Return how to add the head for masked tokens: a dense layer, a norm, and the tied matrix with its bias."""

    def add(weights: Weights, sizes: Settings, labels: int) -> None:  # noqa: ARG001 -- one signature
        width = sizes("hidden_size", "dim")
        inner = sizes(narrow, default=width) if narrow else width
        dense, norm, matrix = names
        _dense(weights, dense, width, inner, kind="head")
        weights.layer_norms(inner, norm)
        vocab = sizes("vocab_size")
        weights.linear(matrix, inner, vocab, bias=True, kind="head", tied_to=f"{embeddings}.word_embeddings")

    return add


def _cls(top: str) -> Callable[[Weights, Settings, int], None]:
    names = tuple(f"cls.predictions.{part}" for part in ("transform.dense", "transform.LayerNorm", "decoder"))
    return _words_head((names[0], names[1], names[2]), f"{top}.embeddings")


_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "tie_word_embeddings": True,
}


ENCODERS: Mapping[str, Encoder] = {
    "bert": Encoder(_bert, {MASKED_LM: _cls("bert"), SEQ_CLS: _plain_labels, TOKEN_CLS: _plain_labels}, _BASE),
    "roberta": Encoder(
        _roberta,
        {
            MASKED_LM: _words_head(("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"), "roberta.embeddings"),
            SEQ_CLS: _dense_labels,
            TOKEN_CLS: _plain_labels,
        },
        {**_BASE, "vocab_size": 50265},
    ),
    "electra": Encoder(
        _electra,
        {
            MASKED_LM: _words_head(
                ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
                "electra.embeddings",
                "embedding_size",
            ),
            SEQ_CLS: _dense_labels,
            TOKEN_CLS: _plain_labels,
        },
        {
            **_BASE,
            "embedding_size": 128,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
    ),
    "albert": Encoder(
        _albert,
        {
            MASKED_LM: _words_head(
                ("predictions.dense", "predictions.LayerNorm", "predictions.decoder"),
                "albert.embeddings",
                "embedding_size",
            ),
            SEQ_CLS: _plain_labels,
            TOKEN_CLS: _plain_labels,
        },
        {
            **_BASE,
            "vocab_size": 30000,
            "embedding_size": 128,
            "hidden_size": 4096,
            "num_attention_heads": 64,
            "intermediate_size": 16384,
            "num_hidden_groups": 1,
            "inner_group_num": 1,
        },
    ),
    "distilbert": Encoder(
        _distilbert,
        {
            MASKED_LM: _words_head(("vocab_transform", "vocab_layer_norm", "vocab_projector"), "distilbert.embeddings"),
            SEQ_CLS: _distilbert_labels,
            TOKEN_CLS: _plain_labels,
        },
        {
            "vocab_size": 30522,
            "dim": 768,
            "hidden_dim": 3072,
            "n_layers": 6,
            "n_heads": 12,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
        },
    ),
    "deberta-v2": Encoder(
        _deberta_v2,
        {MASKED_LM: _cls("deberta"), SEQ_CLS: _pooled_labels, TOKEN_CLS: _plain_labels},
        {
            **_BASE,
            "vocab_size": 128100,
            "hidden_size": 1536,
            "num_hidden_layers": 24,
            "num_attention_heads": 24,
            "intermediate_size": 6144,
            "type_vocab_size": 0,
            "position_biased_input": True,
        },
    ),
    "modernbert": Encoder(
        _modernbert,
        {MASKED_LM: _modern_words, SEQ_CLS: _modern_labels, TOKEN_CLS: _modern_labels},
        {
            "vocab_size": 50368,
            "hidden_size": 768,
            "intermediate_size": 1152,
            "num_hidden_layers": 22,
            "num_attention_heads": 12,
            "max_position_embeddings": 8192,
            "decoder_bias": True,
            "tie_word_embeddings": True,
        },
    ),
}
"""The families, by their `model_type`."""
