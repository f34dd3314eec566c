"""The weights that a run loads: their list, and their bytes as they are or quantised.

Exact for the families of `lora_ns.architectures`, without quantisation and with that of bitsandbytes. For other
families the list is that of the weight files.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from lora_ns.architectures.families import Task, model_weights
from lora_ns.architectures.weights import Kind, Weight
from lora_ns.model.files import BaseFacts
from lora_ns.quantizers import Quantization

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by the torch name of its dtype."""


def task_of(task_type: str) -> Task:
    """Return what the model of a task answers."""
    if task_type == "SEQ_CLS":
        return "SEQ_CLS"
    return "TOKEN_CLS" if task_type == "TOKEN_CLS" else "LM"


def weights_of(facts: BaseFacts, task_type: str = "CAUSAL_LM", labels: int = 2) -> Sequence[Weight]:
    """List the weights of a base as it is loaded for a task.

    Args:
        facts: what is known about the base.
        task_type: the recipe's task type.
        labels: number of labels of a classifier.
    """
    try:
        known = model_weights(facts.settings, task_of(task_type), labels)
    except ValueError:  # settings that transformers would refuse, too; the files have the shapes
        known = None
    return known if known is not None else _stored(facts)


def _stored(facts: BaseFacts) -> list[Weight]:
    """List the weights of the files, by what their names say."""
    shapes = facts.shapes or {f"{name}.weight": shape for name, shape in facts.matrices.items()}
    return [Weight(name, tuple(shape), _kind(name, tuple(shape))) for name, shape in shapes.items()]


def _kind(name: str, shape: tuple[int, ...]) -> Kind:
    if name.endswith(".bias"):
        return "bias"
    module = name.removesuffix(".weight")
    if len(shape) == 1:
        return "norm"
    if "embed" in module or module.rpartition(".")[2] in {"wte", "wpe"}:
        return "embedding"
    if any(part in module for part in ("lm_head", "classifier", "score", "pooler", "predictions")):
        return "head"
    if len(shape) == 3 or ".experts." in module:
        return "expert"
    return "linear" if len(shape) == 2 and name.endswith(".weight") else "other"


def whole_modules(facts: BaseFacts, weights: Iterable[Weight]) -> frozenset[str]:
    """Return the modules outside the backbone: never quantised, and trained in full in a classifier.

    A pooler that the base does not store is new, and one of them.
    """
    weights = list(weights)
    heads = {weight.name.partition(".")[0] for weight in weights if weight.kind == "head"}
    has_pooler = any("pooler" in weight.name.split(".") for weight in weights)
    stored = any("pooler" in name.split(".") for name in facts.matrices)
    return frozenset(heads | {"pooler"} if has_pooler and not stored else heads)


def weight_bytes(
    weights: Iterable[Weight], dtype: str, quantizer: Quantization | None = None, whole: Collection[str] = ()
) -> int:
    """Return the bytes of all weights, each counted once where several share it.

    Args:
        weights: the weights.
        dtype: dtype of the weights that are not quantised, by its torch name.
        quantizer: the recipe's `[quantization]`.
        whole: parts of the names of modules that are not quantised.
    """
    total = 0
    for weight in weights:
        if weight.tied_to:
            continue
        if quantizer is None or quantizer.bits is None or not _is_quantised(weight, quantizer, whole):
            total += weight.size * BYTES[dtype]
        else:
            total += quantizer.packed_bytes(weight.shape[::-1] if weight.is_transposed else weight.shape)
    return total


def _is_quantised(weight: Weight, quantizer: Quantization, whole: Collection[str]) -> bool:
    is_left = (weight.is_transposed and "Conv1D" in quantizer.leaves) or (
        weight.has_own_class and "subclasses" in quantizer.leaves
    )
    return weight.kind == "linear" and not is_left and not set(weight.name.split(".")).intersection(whole)


def parameter_count(weights: Iterable[Weight]) -> int:
    """Return the number of parameters, each counted once where several weights share them."""
    return sum(math.prod(weight.shape) for weight in weights if not weight.tied_to)
