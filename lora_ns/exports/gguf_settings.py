"""llama.cpp's settings of a model, from its `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Setting = int | float | str


@dataclass(frozen=True)
class Family:
    """A family of models that lorans writes as GGUF itself."""

    arch: str
    """Name of the architecture in llama.cpp."""
    permutes: bool = False
    """True if llama.cpp rotates neighbouring values of queries and keys, and transformers the two halves of a head."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", permutes=True),
    "mistral": Family("llama", permutes=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
}
"""The families by transformers' `model_type`."""

_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}

_YARN = {
    "rope.scaling.yarn_ext_factor": "extrapolation_factor",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}


def family_of(config: Mapping[str, Any]) -> Family | None:
    """Return the family of a configuration; None for one that lorans does not write itself."""
    return FAMILIES.get(str(config.get("model_type")))


def settings_of(config: Mapping[str, Any]) -> dict[str, Setting]:
    """Return llama.cpp's settings of a model, without the prefix of its architecture.

    Args:
        config: the configuration in transformers' current spelling, with `rope_parameters`.

    Raises:
        UsageError: if llama.cpp would compute something else.
    """
    _check(config)
    found: dict[str, Setting] = {ours: config[theirs] for ours, theirs in _SIZES.items()}
    width = head_width(config)
    found |= {"attention.key_length": width, "attention.value_length": width, "rope.dimension_count": width}
    rope = config["rope_parameters"]
    found["rope.freq_base"] = float(rope["rope_theta"])
    if rope["rope_type"] in {"linear", "yarn"}:
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        trained = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
        found["rope.scaling.original_context_length"] = trained
        found |= {ours: float(rope[theirs]) for ours, theirs in _YARN.items() if rope.get(theirs) is not None}
    return found


def head_width(config: Mapping[str, Any]) -> int:
    """Return the width of an attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _check(config: Mapping[str, Any]) -> None:
    """Refuse settings that llama.cpp does not have. Raises `UsageError`."""
    refused = {"hidden_act": config.get("hidden_act"), "rope_type": config["rope_parameters"].get("rope_type")}
    known = {"hidden_act": ("silu",), "rope_type": ("default", "linear", "yarn", "llama3")}
    for key, value in refused.items():
        if value not in known[key]:
            what = f"llama.cpp computes this family without `{key}` {value}"
            raise UsageError(Problem("", what, "export it as a merged model instead: `--to merged`"))


def notes_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what llama.cpp computes otherwise than transformers, and no short text shows."""
    kinds = config.get("layer_types") or ()
    is_slid = config["model_type"] == "mistral" or "sliding_attention" in kinds
    if not is_slid or not (window := config.get("sliding_window")):
        return ()
    return (f"llama.cpp attends to all tokens of this family, and the model to the last {window:,}",)


def frequencies_of(config: Mapping[str, Any]) -> NDArray[Any] | None:
    """Return the divisors of the rotary frequencies that Llama 3.1 scales positions with; None for other scalings.

    Frequencies of short waves stay, those of long waves are divided by `factor`, and those between are interpolated.
    """
    import numpy

    rope = config["rope_parameters"]
    if rope["rope_type"] != "llama3":
        return None
    width = head_width(config)
    waves = 2 * math.pi * rope["rope_theta"] ** (numpy.arange(0, width, 2, dtype=numpy.float64) / width)
    trained, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    part = numpy.clip((trained / waves - low) / (high - low), 0, 1)
    divisors: NDArray[Any] = (1 / ((1 - part) / factor + part)).astype(numpy.float32)
    return divisors
