"""Count what training keeps for the backward pass, in each layer of each family of models.

`python -m lora_ns.plan.memory.count > lora_ns/plan/memory/counted.json` writes the table that `activations` reads. A
tiny model of each family, adapted as in training, runs a forward pass under `saved_tensors_hooks`. No two of its sizes
are small multiples of each other, so each stored tensor tells which size of the model it grows with.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lora_ns.model.adapter import train_in_float32
from lora_ns.model.input_casts import casts_left_to_autocast
from lora_ns.model.short_rows import attending_by_rows
from lora_ns.plan.memory.activations import named_sizes

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, RANK, VOCABULARY = 64, 158, 4, 1, 14, 9, 311
ROWS, LENGTH = 3, 17

_WIDE: Mapping[str, Any] = {"head_dim": HEAD_DIM, "num_key_value_heads": KV_HEADS}
_GEMMA: Mapping[str, Any] = {**_WIDE, "query_pre_attn_scalar": HEAD_DIM}

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": _WIDE,
    "mistral": _WIDE,
    "qwen2": {"num_key_value_heads": KV_HEADS},
    "qwen3": _WIDE,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": {"num_key_value_heads": KV_HEADS, "pad_token_id": 0},
    "gpt2": {"n_inner": INTERMEDIATE},
    "gpt_neox": {},
    "bert": {},
    "roberta": {},
}
"""For each `model_type` of transformers, settings beside those of all."""

ENCODERS = ("bert", "roberta")

LAYERS = 3, 5


@dataclass(frozen=True)
class Variant:
    """Settings of a run that change what is stored."""

    dtype: str = "bfloat16"
    targets: str = "all-linear"
    """`all-linear`, or `attention` for queries and values only."""
    dropout: bool = False
    attention: str = "sdpa"

    @property
    def key(self) -> str:
        """Its name in the table."""
        return " ".join([self.dtype, self.targets, *(["dropout"] if self.dropout else []), self.attention])


VARIANTS = tuple(
    Variant(dtype, targets, dropout, attention)
    for dtype in ("bfloat16", "float32")
    for targets in ("all-linear", "attention")
    for dropout in (False, True)
    for attention in ("sdpa", "eager", "products")
    if attention != "products" or dtype == "bfloat16"
)


def sizes(family: str, length: int = LENGTH) -> dict[str, int]:
    """Return elements for each token of the tiny model, by the name of the size that they grow with."""
    more = FAMILIES[family]
    width, keys = more.get("head_dim", HIDDEN // HEADS), more.get("num_key_value_heads", HEADS)
    return named_sizes(HIDDEN, INTERMEDIATE, HEADS, keys, width, RANK, length)


def build(family: str, variant: Variant, layers: int) -> Any:
    """Build a tiny model of a family with an adapter, as training does."""
    import peft
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(
        family,
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **FAMILIES[family],
        },
    )
    causal = family not in ENCODERS
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
    attention = "sdpa" if variant.attention == "products" else variant.attention
    attention = "eager" if family == "gemma2" else attention  # the only one that it has
    model = auto.from_config(config, attn_implementation=attention).to(getattr(torch, variant.dtype))
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=RANK,
            lora_dropout=0.1 if variant.dropout else 0.0,
            target_modules="all-linear" if variant.targets == "all-linear" else _attention(model),
            task_type="CAUSAL_LM" if causal else "SEQ_CLS",
        ),
    )
    train_in_float32(adapted)
    return adapted.train()


_ATTENTION = ("q_proj", "v_proj", "query", "value", "qkv_proj", "c_attn", "query_key_value")


def _attention(model: Any) -> list[str]:
    found = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return [name for name in _ATTENTION if name in found]


def stored(model: Any, variant: Variant, rows: int = ROWS, length: int = LENGTH) -> Iterator[tuple[int, int]]:
    """Run a forward pass and yield elements and bytes of each storage that the backward pass needs, without weights."""
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)  # which keeps it, so that no address comes twice
        return tensor

    ids = torch.randint(3, VOCABULARY, (rows, length))
    is_half = variant.dtype != "float32"
    context = torch.autocast("cpu", dtype=getattr(torch, variant.dtype)) if is_half else contextlib.nullcontext()
    caches = {} if model.config.model_type in ENCODERS else {"use_cache": False}
    products = attending_by_rows(model, variant.attention == "products")
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, context, products, casts_left_to_autocast(model):
        # The result is kept, and with it everything that its backward pass needs.
        _output = model.get_base_model().base_model(input_ids=ids, attention_mask=torch.ones_like(ids), **caches)
        for address, tensor in kept.items():
            if address not in weights:
                size = tensor.untyped_storage().nbytes()
                yield size // tensor.element_size(), size


def count(family: str, variant: Variant, layers: int) -> Counter[str]:
    """Return bytes for each token by the sizes they grow with, and `weights`: bytes that do not grow with tokens."""
    found: Counter[str] = Counter()
    for elements, size in stored(build(family, variant, layers), variant):
        each, rest = divmod(elements, ROWS * LENGTH)
        if rest:
            found["once"] += size
            continue
        name, times = _named(family, each)
        found[name] += times * size // elements
    return found


def _named(family: str, each: int) -> tuple[str, int]:
    """Return the size that a number of elements is a small multiple of, and the factor."""
    names = sizes(family)
    for times in (1, 2, 3, 4):
        for name, size in names.items():
            if each == times * size:
                return name, times
    return "one", each


def measured(family: str, variant: Variant) -> dict[str, dict[str, int]]:
    """Return what each layer stores, and what the model stores beside its layers."""
    few, many = LAYERS
    first, second = count(family, variant, few), count(family, variant, many)
    layer = {name: (second[name] - first[name]) / (many - few) for name in second}
    ends = {name: first[name] - few * layer[name] for name in second}
    return {"layer": _whole(layer), "ends": _whole(ends)}


def _whole(found: Mapping[str, float]) -> dict[str, int]:
    return {name: math.ceil(size) for name, size in sorted(found.items()) if size and name != "once"}


def main() -> None:
    """Print the table."""
    table = {family: {variant.key: measured(family, variant) for variant in VARIANTS} for family in FAMILIES}
    json.dump(table, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
