"""The adapter of a run: the layers that it adapts, and every tensor that is trained.

Exact for all methods over the families of `lora_ns.architectures`; a test compares them with PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lora_ns.architectures.families import MULTIMODAL, key_width
from lora_ns.architectures.weights import Weight
from lora_ns.methods import PeftMethod
from lora_ns.methods.tensors import Adapted, Layer, Shape, count
from lora_ns.methods.upstream_targets import is_end
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory.weights import weights_of, whole_modules


@dataclass(frozen=True)
class AdapterSize:
    """The tensors of an adapter."""

    trained: tuple[Shape, ...]
    """Shapes of the trained tensors, all in float32."""
    frozen_bytes: int
    """Bytes of tensors that it holds and does not train."""

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return count(self.trained)


def adapter_size(method: PeftMethod, facts: BaseFacts, task_type: str, added_tokens: int = 0) -> AdapterSize | None:
    """Return the tensors of an adapter with everything else that is trained; None if the shapes do not tell them.

    Args:
        method: the recipe's `[peft]`.
        facts: what is known about the base.
        task_type: the recipe's task type.
        added_tokens: number of new tokens, whose rows are trained.
    """
    weights = weights_of(facts, task_type)
    adapted = adapted_by(method, facts, weights, task_type)
    if adapted is None or not facts.hidden_size or (method.count_parameters(adapted) is None and not method.token_rows):
        return None
    trained = list(method.trained_tensors(adapted) or ())
    rows, beside = _token_rows(method, weights, task_type, added_tokens, adapted.embedding_width)
    whole = _trained_whole(method, facts, weights, task_type)
    saved = {weight.name: weight.shape for weight in weights if _is_whole(weight, whole)}
    trained += [*rows, *saved.values(), *_biases(method, weights, adapted, saved)]
    return AdapterSize(tuple(trained), method.frozen_bytes(adapted) + beside) if trained else None


def adapted_by(method: PeftMethod, facts: BaseFacts, weights: Sequence[Weight], task_type: str) -> Adapted | None:
    """Return the layers that a method adapts; None if PEFT chooses them, and is not installed."""
    targets = method.targets_in(facts.model_type)
    if targets is None:
        return None
    whole = _trained_whole(method, facts, weights, task_type)
    modules = {name: layer for name, layer in _modules(weights).items() if not whole.intersection(name.split("."))}
    if targets == "all-linear":
        layers = _all_linear(facts, weights, modules)
    elif not targets and method.adapts_norms:
        layers = [layer for layer in modules.values() if layer.kind == "norm"]
    else:
        layers = [
            replace_target(layer, target)
            for name, layer in modules.items()
            if (target := next((end for end in targets if is_end(name, end)), None)) is not None
        ]
    return Adapted(
        layers=[*_chosen(method, layers), *_experts(method, weights)],
        family=facts.model_type,
        num_hidden_layers=facts.num_hidden_layers,
        embedding_width=_embedding_width(facts, weights),
        cache_width=key_width(facts.settings) or facts.hidden_size,
    )


def replace_target(layer: Layer, target: str) -> Layer:
    """Return a layer with the name that selects it."""
    return Layer(layer.name, layer.inputs, layer.outputs, layer.has_bias, layer.kind, layer.count, target)


def _modules(weights: Iterable[Weight]) -> dict[str, Layer]:
    """Return all modules with a weight that a method can adapt, by their names."""
    weights = list(weights)
    biases = {weight.module for weight in weights if weight.name.endswith(".bias")}
    found = {}
    for weight in weights:
        if not weight.name.endswith(".weight") or len(weight.shape) > 2:
            continue
        outputs, inputs = weight.shape if len(weight.shape) == 2 else (weight.shape[0], 1)
        if weight.is_transposed:
            inputs, outputs = outputs, inputs
        kind = weight.kind if weight.kind in {"embedding", "norm"} else "linear"
        if kind == "embedding":
            inputs, outputs = outputs, inputs  # rows are looked up by inputs
        layer = Layer(weight.module, inputs, outputs, weight.module in biases, kind)
        found[weight.module] = layer
    return found


_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})


def _all_linear(facts: BaseFacts, weights: Sequence[Weight], modules: Mapping[str, Layer]) -> list[Layer]:
    """Return all linear layers of the text model without heads and routers, with the names that select them."""
    linear = {weight.module for weight in weights if weight.kind == "linear"}
    is_multimodal = facts.model_type in MULTIMODAL
    layers = [
        layer
        for name, layer in modules.items()
        if name in linear
        and not _ROUTERS.intersection(name.split("."))
        and (not is_multimodal or ".language_model." in f".{name}")
    ]
    everything = [weight.module for weight in weights]
    ends = {layer.name.rpartition(".")[2] for layer in layers}
    names = {layer.name for layer in layers}
    are_unique = all(name in names for name in everything if name.rpartition(".")[2] in ends)
    return [replace_target(layer, layer.name.rpartition(".")[2] if are_unique else layer.name) for layer in layers]


_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")


def _chosen(method: PeftMethod, layers: Iterable[Layer]) -> list[Layer]:
    """Return the layers without those that the recipe leaves out."""
    numbers, without = getattr(method, "layers_to_transform", ()), getattr(method, "exclude_modules", ())
    kept = [layer for layer in layers if not any(is_end(layer.name, name) for name in without)]
    if not numbers:
        return kept
    return [layer for layer in kept if (found := _LAYER.match(layer.name)) and int(found[1]) in numbers]


def _experts(method: PeftMethod, weights: Iterable[Weight]) -> list[Layer]:
    """Return the stacks of matrices that the recipe names as parameters to adapt."""
    names = getattr(method, "target_parameters", ())
    return [
        Layer(weight.name, weight.shape[-1], weight.shape[-2], False, "experts", weight.shape[0])
        for weight in weights
        if len(weight.shape) == 3 and any(is_end(weight.name, name) for name in names)
    ]


def _trained_whole(method: PeftMethod, facts: BaseFacts, weights: Sequence[Weight], task_type: str) -> frozenset[str]:
    """Return the modules that are trained in full: those of the recipe, and the head of a classifier."""
    own = frozenset(getattr(method, "modules_to_save", ()))
    return own if task_type == "CAUSAL_LM" or not _trains_head(method) else own | whole_modules(facts, weights)


def _trains_head(method: PeftMethod) -> bool:
    return method.capabilities.classifier is True or method.capabilities.token_classification is True


def _is_whole(weight: Weight, whole: frozenset[str]) -> bool:
    parts = weight.name.split(".")
    return any(is_end(".".join(parts[:end]), name) for end in range(1, len(parts)) for name in whole)


def _embedding_width(facts: BaseFacts, weights: Iterable[Weight]) -> int:
    return next((weight.shape[1] for weight in weights if weight.kind == "embedding"), facts.hidden_size)


def _token_rows(
    method: PeftMethod, weights: Sequence[Weight], task_type: str, added: int, width: int
) -> tuple[list[Shape], int]:
    """Return the trained rows of single tokens, and the bytes of their initial values in float32."""
    rows = method.token_rows
    tokens = (len(getattr(method, rows.key)) if rows else 0) + (added if rows and rows.beside_layers else 0)
    if rows is None or not tokens:
        return [], 0
    heads = [weight for weight in weights if weight.kind == "head" and weight.name == "lm_head.weight"]
    both = rows.beside_layers and task_type == "CAUSAL_LM" and heads and not heads[0].tied_to
    shapes: list[Shape] = [(tokens, width)] * (2 if both else 1)
    return shapes, 4 * count(shapes)


def _biases(method: PeftMethod, weights: Iterable[Weight], adapted: Adapted, saved: Collection[str]) -> list[Shape]:
    """Return the biases of the base that LoRA trains, beside the modules that are trained in full."""
    which = getattr(method, "bias", "none")
    if which == "none":
        return []
    layers = {layer.name for layer in adapted.layers}
    return [
        weight.shape
        for weight in weights
        if "bias" in weight.name and weight.name not in saved and (which == "all" or weight.module in layers)
    ]
