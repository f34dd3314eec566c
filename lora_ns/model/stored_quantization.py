"""Bases that are stored quantised: what their settings say, and the recipe as it meets them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lora_ns.errors import ModelError, Problem, RecipeError
from lora_ns.machine.packages import check_installed
from lora_ns.model.files import BaseFacts
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.quantization import Awq, Bnb4Bit, Bnb8Bit, Gptq, NoQuantization, Quantization, TorchAo
from lora_ns.recipe.rules import findings

_REMEDY = (
    'take its edition in full precision, with `[quantization] method = "bnb-4bit"`, or one that bitsandbytes wrote'
)


def fit_quantization(loaded: LoadedRecipe, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe with the quantisation that its base is stored in, if it is.

    Raises:
        ModelError: if nothing here trains over a base that is stored so.
        RecipeError: if the recipe asks for another quantisation, or for what does not go with this one.
        MissingError: if what reads such a base is not installed.
    """
    if facts is None or not facts.quantization:
        if facts is not None:
            _check_not_only_stored(loaded)
        check_installed(loaded.recipe.quantization, loaded.where("quantization.method"))
        return loaded
    if facts.quantization.get("quant_method") == "gguf":
        return _unpacked(loaded)
    stored = _read(facts.quantization, loaded)
    if loaded.recipe.quantization != stored:
        loaded = _with_stored(loaded, stored)
    check_installed(stored, loaded.where("model.name_or_path"))
    return loaded


def _unpacked(loaded: LoadedRecipe) -> LoadedRecipe:
    """The recipe over a GGUF base. Raises `RecipeError` if it asks for a quantisation."""
    if loaded.recipe.quantization.bits is not None:
        key = "quantization.method"
        what = f"{key}: a GGUF base is unpacked to plain numbers, which transformers does not quantise on the way"
        raise RecipeError(Problem(loaded.where(key), what, "remove `[quantization]`, or take a base in safetensors"))
    note = "the base is a GGUF file: its weights are unpacked to plain numbers, and take the memory of those"
    return replace(loaded, notes=(*loaded.notes, note))


def _check_not_only_stored(loaded: LoadedRecipe) -> None:
    """Refuse what cannot be made while a base is loaded."""
    method = loaded.recipe.quantization.method
    if loaded.recipe.quantization.only_stored:
        what = f"quantization.method: {method} takes data to make, and the base is not stored so"
        remedy = f'write "bnb-4bit", or name a base that {method} wrote'
        raise RecipeError(Problem(loaded.where("quantization.method"), what, remedy))


def _with_stored(loaded: LoadedRecipe, stored: Quantization) -> LoadedRecipe:
    """The recipe with the quantisation of its base, if the rest of it goes with that."""
    _check_asked(loaded, stored)
    recipe = loaded.recipe.model_copy(update={"quantization": stored})
    if broken := list(findings(recipe)):
        raise RecipeError(
            Problem(loaded.where("model.name_or_path"), f"the base is stored in {stored.bits} bits: {finding.what}")
            for finding in broken
        )
    note = f"the base is stored in {stored.bits} bits, and is read as `{stored.method}`, with the settings it has"
    return replace(loaded, recipe=recipe, notes=(*loaded.notes, note))


def _read(settings: Mapping[str, Any], loaded: LoadedRecipe) -> Quantization:
    """What `quantization_config` of a `config.json` says, in the words of a recipe. Raises `ModelError`."""
    kind = str(settings.get("quant_method", "bitsandbytes" if _is_bitsandbytes(settings) else "an unnamed method"))
    read = _READERS.get(kind)
    found = read(settings) if read else _UNREAD.get(kind, "over which nothing here trains")
    if isinstance(found, str):
        what = f"model.name_or_path: the base is stored quantised by {kind}, {found}"
        raise ModelError(Problem(loaded.where("model.name_or_path"), what, _REMEDY))
    return found


_UNREAD = {"hqq": "which the installed transformers does not load yet, so that nothing here trains over it"}
"""What is known of some that are refused."""


def _is_bitsandbytes(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("load_in_4bit") or settings.get("load_in_8bit"))


def _bitsandbytes(settings: Mapping[str, Any]) -> Quantization | str:
    if settings.get("load_in_4bit"):
        return Bnb4Bit(
            method="bnb-4bit",
            bnb_4bit_quant_type=settings.get("bnb_4bit_quant_type", "fp4"),
            bnb_4bit_use_double_quant=settings.get("bnb_4bit_use_double_quant", False),
        )
    if settings.get("load_in_8bit"):
        return Bnb8Bit(method="bnb-8bit", llm_int8_threshold=settings.get("llm_int8_threshold", 6.0))
    return "neither in 4 nor in 8 bits"


def _torchao(settings: Mapping[str, Any]) -> Quantization | str:
    kinds = settings.get("quant_type")
    kind = kinds.get("default", {}).get("_type") if isinstance(kinds, dict) else kinds
    if settings.get("include_input_output_embeddings"):
        return "its embeddings with it, over which nothing here trains"
    if kind == "Int8WeightOnlyConfig" or kind == "Float8WeightOnlyConfig":  # noqa: PLR1714 -- mypy narrows these
        return TorchAo(method="torchao", quant_type=kind)
    if "DynamicActivation" in str(kind):
        return f"as {kind}, whose layers pass no gradient back"
    return f"as {kind}, over which PEFT does not train"


def _gptq(settings: Mapping[str, Any]) -> Quantization | str:
    bits = settings.get("bits")
    if settings.get("lm_head"):
        return "its head with it, whose own weights the loss reads"
    return (
        Gptq(method="gptq", bits=bits) if bits in {2, 3, 4, 8} else f"in {bits} bits, which transformers does not load"
    )


def _awq(settings: Mapping[str, Any]) -> Quantization | str:
    layout = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if layout != "gemm" or settings.get("bits", 4) != 4:
        return f"in {settings.get('bits', 4)} bits and the layout `{layout}`, of which 4 bits in `gemm` are read here"
    return Awq(method="awq")


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Quantization | str]] = {
    "bitsandbytes": _bitsandbytes,
    "torchao": _torchao,
    "gptq": _gptq,
    "awq": _awq,
}
"""From `quant_method` to what its settings say, or to the reason why nothing here trains over them."""


def _check_asked(loaded: LoadedRecipe, stored: Quantization) -> None:
    """Refuse a recipe that asks for another quantisation than the base is stored in."""
    asked = loaded.recipe.quantization
    if isinstance(asked, NoQuantization):
        return
    others = ["method"] if asked.method != stored.method else []
    others += [
        name
        for name in type(asked).model_fields
        if not others
        and loaded.origin(f"quantization.{name}") != "default"
        and getattr(asked, name) != getattr(stored, name)
    ]
    if others:
        key = f"quantization.{others[0]}"
        has = f"`{others[0]} = {json.dumps(getattr(stored, others[0]))}`"
        what = f"{key}: the base is stored quantised already, with {has}"
        raise RecipeError(Problem(loaded.where(key), what, "remove `[quantization]`: it is read from the base"))
