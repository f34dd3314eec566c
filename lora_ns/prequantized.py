"""Bases that are stored quantised: what their settings say, and the recipe as it meets them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lora_ns.basemodel import BaseFacts
from lora_ns.errors import ModelError, Problem, RecipeError
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.quantization import Bnb4Bit, Bnb8Bit
from lora_ns.recipe.rules import findings


def fit_quantization(loaded: LoadedRecipe, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe with the quantisation that its base is stored in, if it is.

    Raises:
        ModelError: if nothing here trains over a base that is stored so.
        RecipeError: if the recipe asks for another quantisation, or for what does not go with this one.
    """
    if facts is None or not facts.quantization:
        return loaded
    stored = _read(facts.quantization, loaded)
    if loaded.recipe.quantization == stored:
        return loaded
    _check_asked(loaded, stored)
    recipe = loaded.recipe.model_copy(update={"quantization": stored})
    if broken := list(findings(recipe)):
        raise RecipeError(
            Problem(loaded.where("model.name_or_path"), f"the base is stored in {stored.bits} bits: {finding.what}")
            for finding in broken
        )
    note = f"the base is stored in {stored.bits} bits, and is read as `{stored.method}`, with the settings it has"
    return replace(loaded, recipe=recipe, notes=(*loaded.notes, note))


def _read(settings: Mapping[str, Any], loaded: LoadedRecipe) -> Bnb4Bit | Bnb8Bit:
    """What `quantization_config` of a `config.json` says, in the words of a recipe."""
    if settings.get("load_in_4bit"):
        return Bnb4Bit(
            method="bnb-4bit",
            bnb_4bit_quant_type=settings.get("bnb_4bit_quant_type", "fp4"),
            bnb_4bit_use_double_quant=settings.get("bnb_4bit_use_double_quant", False),
        )
    if settings.get("load_in_8bit"):
        return Bnb8Bit(method="bnb-8bit", llm_int8_threshold=settings.get("llm_int8_threshold", 6.0))
    kind = settings.get("quant_method", "an unnamed method")
    what = f"model.name_or_path: the base is stored quantised by {kind}, over which nothing here trains"
    remedy = (
        'take its edition in full precision, with `[quantization] method = "bnb-4bit"`, or one that bitsandbytes wrote'
    )
    raise ModelError(Problem(loaded.where("model.name_or_path"), what, remedy))


def _check_asked(loaded: LoadedRecipe, stored: Bnb4Bit | Bnb8Bit) -> None:
    """Refuse a recipe that asks for another quantisation than the base is stored in."""
    asked = loaded.recipe.quantization
    if asked.bits is None:
        return
    others = ["method"] if asked.bits != stored.bits else []
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
