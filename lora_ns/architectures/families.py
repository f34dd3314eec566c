"""Every weight of a model, from its settings and the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lora_ns.architectures.decoders import DECODERS, decoder_weights, heads_of
from lora_ns.architectures.encoders import ENCODERS, MASKED_LM
from lora_ns.architectures.older_decoders import OLDER_DECODERS
from lora_ns.architectures.vision import vision_weights
from lora_ns.architectures.weights import Settings, Weight, Weights

Task = Literal["LM", "SEQ_CLS", "TOKEN_CLS"]
"""What the model answers: tokens (a causal or masked language model), or labels."""


MULTIMODAL: Mapping[str, str] = {"gemma3": "gemma3_text"}
"""Families with a vision tower, with the family of their text model."""


def model_weights(config: Mapping[str, Any], task: Task = "LM", labels: int = 2) -> tuple[Weight, ...] | None:
    """List the weights of a model as transformers builds it.

    Args:
        config: its `config.json`.
        task: what it answers.
        labels: number of labels of a classifier.

    Returns:
        The weights in the order of the layers; None for a family that is not known here.

    Raises:
        ValueError: if a setting that decides a shape is missing or negative.
    """
    family, weights = str(config.get("model_type")), Weights()
    if family in ENCODERS:
        encoder = ENCODERS[family]
        sizes, own = Settings(config, encoder.defaults), MASKED_LM if task == "LM" else task
        encoder.build(weights, sizes, own)
        encoder.heads[own](weights, sizes, labels)
    elif family in OLDER_DECODERS:
        older = OLDER_DECODERS[family]
        sizes = Settings(config, older.defaults)
        older.build(weights, sizes)
        _add_head(weights, sizes, older.embeddings, task, labels, "classifier")
    elif family in DECODERS:
        decoder = DECODERS[family]
        sizes = Settings(config, decoder.defaults)
        decoder_weights(weights, decoder, sizes)
        _add_head(weights, sizes, "model.embed_tokens", task, labels, "score")
    elif family in MULTIMODAL:
        _multimodal(weights, config, task, labels)
    else:
        return None
    return tuple(weights)


def _add_head(
    weights: Weights, sizes: Settings, embeddings: str, task: Task, labels: int, of_words: str, name: str = "lm_head"
) -> None:
    """Add the head of a decoder: that of the vocabulary, tied or not, or that of a classifier."""
    first = next(weight for weight in weights if weight.name == f"{embeddings}.weight")
    rows, width = first.shape
    if task == "LM":
        tied_to = embeddings if sizes.is_set("tie_word_embeddings") else ""
        weights.linear(name, width, rows, kind="head", tied_to=tied_to)
    elif task == "SEQ_CLS":
        weights.linear("score", width, labels, kind="head")
    else:
        weights.linear(of_words, width, labels, bias=True, kind="head")


def _multimodal(weights: Weights, config: Mapping[str, Any], task: Task, labels: int) -> None:
    family = MULTIMODAL[str(config["model_type"])]
    decoder = DECODERS[family]
    text = config.get("text_config")
    sizes = Settings(text if isinstance(text, Mapping) else {}, decoder.defaults)
    vision_weights(weights, Settings(config, {}), sizes("hidden_size"))
    decoder_weights(weights, decoder, sizes, "model.language_model.")
    _add_head(weights, sizes, "model.language_model.embed_tokens", task, labels, "score")


def key_width(config: Mapping[str, Any]) -> int:
    """Return the width of the keys of all heads at one position, as PEFT computes it; 0 if that is the hidden size."""
    family = str(config.get("model_type"))
    text = config.get("text_config") if family in MULTIMODAL else config
    decoder = DECODERS.get(MULTIMODAL.get(family, family))
    if decoder is None:
        return 0
    sizes = Settings(text if isinstance(text, Mapping) else {}, decoder.defaults)
    if decoder.attention == "latent":
        return sizes("num_attention_heads") * sizes("qk_rope_head_dim")
    _, groups, width = heads_of(sizes)
    return groups * width


def is_known(config: Mapping[str, Any]) -> bool:
    """True if the weights of a model's family are known here."""
    return str(config.get("model_type")) in {*DECODERS, *OLDER_DECODERS, *ENCODERS, *MULTIMODAL}
