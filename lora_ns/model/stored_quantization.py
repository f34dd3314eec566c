"""Bases that are stored quantised: what their settings say, and the recipe as it meets them."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def fit_quantization(loaded: LoadedRecipe, facts: BaseFacts | None) -> tuple[Quantization, tuple[str, ...]]:
    """The quantisation that the base is stored in, if it is, else the recipe's, and what is to be told of it.

    Raises:
        ModelError: if nothing here trains over a base that is stored so.
        RecipeError: if the recipe asks for another quantisation, or for what does not go with this one.
        MissingError: if what reads such a base is not installed.
    """
    if facts is None or not facts.quantization:
        if facts is not None:
            _check_not_only_stored(loaded.recipe.quantization)
        check_installed(loaded.recipe.quantization, "quantization.method")
        return loaded.recipe.quantization, ()
    if facts.quantization.get("quant_method") == "gguf":
        return loaded.recipe.quantization, (_unpacked(loaded.recipe.quantization),)
    stored = _read(facts.quantization)
    notes: tuple[str, ...] = ()
    if loaded.recipe.quantization != stored:
        _check_stored(loaded, stored)
        notes = (
            f"the base is stored in {stored.bits} bits, and is read as `{stored.method}`, with the settings it has",
        )
    check_installed(stored, "model.name_or_path")
    return stored, notes


def _unpacked(asked: Quantization) -> str:
    """What is told of a GGUF base. Raises `RecipeError` if the recipe asks for a quantisation."""
    if asked.bits is not None:
        what = "a GGUF base is unpacked to plain numbers, which transformers does not quantise on the way"
        remedy = "remove `[quantization]`, or take a base in safetensors"
        raise RecipeError(Problem("", what, remedy, key="quantization.method"))
    return "the base is a GGUF file: its weights are unpacked to plain numbers, and take the memory of those"


def _check_not_only_stored(asked: Quantization) -> None:
    """Refuse what cannot be made while a base is loaded."""
    method = asked.method
    if asked.only_stored:
        what = f"{method} takes data to make, and the base is not stored so"
        remedy = f'write "bnb-4bit", or name a base that {method} wrote'
        raise RecipeError(Problem("", what, remedy, key="quantization.method"))


def _check_stored(loaded: LoadedRecipe, stored: Quantization) -> None:
    """See that the recipe goes with the quantisation of its base. Raises `RecipeError`."""
    _check_asked(loaded, stored)
    recipe = loaded.recipe.model_copy(update={"quantization": stored})
    if broken := list(findings(recipe)):
        raise RecipeError(
            Problem("", f"the base is stored in {stored.bits} bits: {finding.what}", place="model.name_or_path")
            for finding in broken
        )


def _read(settings: Mapping[str, Any]) -> Quantization:
    """What `quantization_config` of a `config.json` says, in the words of a recipe. Raises `ModelError`."""
    kinds = [kind for kind in QUANTIZATIONS.values() if kind.is_named_by(settings)]
    name = kinds[0].quant_method if kinds else str(settings.get("quant_method", "an unnamed method"))
    found: Quantization | str = REFUSED_STORED.get(name, "over which nothing here trains")
    for kind in kinds:
        found = kind.read(settings)
        if not isinstance(found, str):
            return found
    what = f"the base is stored quantised by {name}, {found}"
    raise ModelError(Problem("", what, _REMEDY, key="model.name_or_path"))


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
        has = f"`{others[0]} = {json.dumps(getattr(stored, others[0]))}`"
        what = f"the base is stored quantised already, with {has}"
        remedy = "remove `[quantization]`: it is read from the base"
        raise RecipeError(Problem("", what, remedy, key=f"quantization.{others[0]}"))
