"""A base that is read module by module: its modules, the places of its tensors, and its values."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lora_ns.errors import ModelError
from lora_ns.merging.few_bits import quantised_layers
from lora_ns.merging.layout import Layout, layout
from lora_ns.merging.packed import packed_layers, unpacked
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.skeleton import load_skeleton
from lora_ns.merging.stored import stored_tensors
from lora_ns.merging.values import Values
from lora_ns.model.files import Base
from lora_ns.model.load import Loading
from lora_ns.model.stored_quantization import read_stored
from lora_ns.quantizers import NoQuantization, Quantization

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def quantization_of(base: Base, loading: Loading) -> Quantization:
    """The quantisation with which the weights of a base are computed. Raises `WholeModelError` for an unknown one."""
    if not base.facts.quantization:
        return loading.quantization
    try:
        return read_stored(base.facts.quantization)
    except ModelError:
        raise WholeModelError("the base is stored in a format that lorans does not know") from None


def read_base(base: Base, loading: Loading) -> tuple[PreTrainedModel, Layout, Values]:
    """Return the skeleton of a base, its layout, and its values as training had them.

    Weights that are stored quantised are dequantised when they are read, others quantised and dequantised if the base
    was quantised for training.

    Raises:
        WholeModelError: with the reason, if the whole model is needed.
    """
    stored, is_packed = stored_tensors(base.weight_files), bool(base.facts.quantization)
    quantised = {} if is_packed else quantised_layers(base, loading)
    if is_packed:
        stored = unpacked(stored, quantization_of(base, loading))
    try:
        skeleton = load_skeleton(base, replace(loading, quantization=NoQuantization()))
    except ModelError as error:
        if not is_packed:
            raise
        raise WholeModelError(f"the base is stored quantised, and {error.problems[0].what}") from None
    plan = layout(skeleton, stored)
    return skeleton, plan, Values(plan, skeleton, packed_layers(plan, skeleton) if is_packed else quantised)
