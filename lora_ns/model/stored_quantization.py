"""Bases that are stored quantised: what their settings say, and the recipe as it meets them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lora_ns.errors import ModelError, Problem, RecipeError
from lora_ns.machine.packages import check_installed
from lora_ns.model.files import BaseFacts
from lora_ns.quantizers import QUANTIZATIONS, REFUSED_STORED, NoQuantization, Quantization
from lora_ns.recipe.load import LoadedRecipe
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
    kinds = [kind for kind in QUANTIZATIONS.values() if kind.is_named_by(settings)]
    name = kinds[0].quant_method if kinds else str(settings.get("quant_method", "an unnamed method"))
    found: Quantization | str = REFUSED_STORED.get(name, "over which nothing here trains")
    for kind in kinds:
        found = kind.read(settings)
        if not isinstance(found, str):
            return found
    what = f"model.name_or_path: the base is stored quantised by {name}, {found}"
    raise ModelError(Problem(loaded.where("model.name_or_path"), what, _REMEDY))


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
