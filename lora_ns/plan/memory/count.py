"""Count what training keeps for the backward pass, in each layer of each family of models.

`python -m lora_ns.plan.memory.count > lora_ns/plan/memory/counted.json` writes the table that `activations` reads. A tiny
model of each family, adapted as in training, runs a forward pass under `saved_tensors_hooks`. Its sizes are numbers
without common multiples, so that each stored tensor tells which sizes of the model it grows with.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, RANK, VOCABULARY = 56, 148, 4, 2, 14, 5, 311
ROWS, LENGTH = 3, 17

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": HEAD_DIM}),
    "mistral": ("mistral", {}),
    "gemma2": ("gemma2", {"head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM}),
    "gemma3_text": ("gemma3_text", {"head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM}),
    "phi3": ("phi3", {"pad_token_id": 0}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "bert": ("bert", {}),
    "roberta": ("roberta", {}),
}
"""For each family, the `model_type` of transformers and further settings."""

BOTH_LAYERS = 2, 4


@dataclass(frozen=True)
class Variant:
    """Settings of a run that change what is stored."""

    dtype: str = "bfloat16"
    targets: str = "all-linear"
    """`all-linear`, or `attention` for queries and values only."""
    dropout: bool = False
    attention: str = "sdpa"
    trains_input: bool = False

    @property
    def key(self) -> str:
        """Its name in the table."""
        return " ".join([self.dtype, self.targets, *(["dropout"] if self.dropout else []), self.attention])


VARIANTS = tuple(
    Variant(dtype, targets, dropout, attention)
    for dtype in ("bfloat16", "float32")
    for targets in ("all-linear", "attention")
    for dropout in (False, True)
    for attention in ("sdpa", "eager")
)


def sizes(heads: int = HEADS, kv_heads: int = KV_HEADS) -> dict[str, int]:
    """Return elements for each token by the name of the size that they grow with."""
    query, key = heads * HEAD_DIM, kv_heads * HEAD_DIM
    return {
        "hidden": HIDDEN,
        "intermediate": INTERMEDIATE,
        "key": key,
        "heads": heads,
        "rank": RANK,
        "one": 1,
        "scores": heads * LENGTH,
        "gates": 2 * INTERMEDIATE,
        "projections": query + 2 * key,
    }


def build(family: str, variant: Variant, layers: int) -> Any:
    """Build a tiny model of a family with an adapter, as training does."""
    import peft
    import torch
    import transformers

    kind, more = FAMILIES[family]
    dropout = 0.1 if variant.dropout else 0.0
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        **more,
    )
    if kind == "gpt2":
        config.n_inner = INTERMEDIATE
    causal = kind not in {"bert", "roberta"}
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForSequenceClassification
    model = auto.from_config(config, attn_implementation=variant.attention).to(getattr(torch, variant.dtype))
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=RANK,
            lora_dropout=dropout,
            target_modules="all-linear" if variant.targets == "all-linear" else _attention(model),
            task_type="CAUSAL_LM" if causal else "SEQ_CLS",
        ),
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
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

    ids = torch.randint(0, VOCABULARY, (rows, length))
    mask = torch.ones_like(ids)
    half = variant.dtype != "float32"
    context = torch.autocast("cpu", dtype=getattr(torch, variant.dtype)) if half else contextlib.nullcontext()
    base = model.get_base_model()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        _ = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False) if hasattr(
            base.config, "use_cache"
        ) else base.base_model(input_ids=ids, attention_mask=mask)
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
        name, times = _named(each)
        found[name] += times * size // elements
    return found


def _named(each: int) -> tuple[str, int]:
    names = sizes()
    for times in (1, 2, 3, 4):
        for name, size in names.items():
            if each == times * size:
                return name, times
    return "one", each


def measured(family: str, variant: Variant) -> dict[str, dict[str, int]]:
    """Return what each layer stores, and what the model stores beside its layers."""
    few, many = BOTH_LAYERS
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
