"""Bases that are stored quantised, and their combination with a recipe."""

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
    'use its version in full precision with `[quantization] method = "bnb-4bit"`, or one that bitsandbytes quantised'
)


def fit_quantization(loaded: LoadedRecipe, facts: BaseFacts | None) -> tuple[Quantization, tuple[str, ...]]:
    """Return the quantisation of a stored base, or else the recipe's, with notes for the user.

    Raises:
        ModelError: if lorans cannot train over a base that is stored this way.
        RecipeError: if the recipe requests another quantisation, or something that this one does not support.
        MissingError: if the package that reads such a base is not installed.
    """
    if facts is None or not facts.quantization:
        if facts is not None:
            _check_not_only_stored(loaded.recipe.quantization)
        check_installed(loaded.recipe.quantization, "quantization.method")
        return loaded.recipe.quantization, ()
    if facts.quantization.get("quant_method") == "gguf":
        return loaded.recipe.quantization, (_unpacked(loaded.recipe.quantization),)
    stored = read_stored(facts.quantization)
    notes: tuple[str, ...] = ()
    if loaded.recipe.quantization != stored:
        _check_stored(loaded, stored)
        notes = (f"the base is stored in {stored.bits} bits and is loaded as `{stored.method}`, with its own settings",)
    check_installed(stored, "model.name_or_path")
    return stored, notes


def _unpacked(quantization: Quantization) -> str:
    """Return the note on a GGUF base. Raises `RecipeError` if the recipe requests a quantisation."""
    if quantization.bits is not None:
        what = "a GGUF base is dequantised when it is loaded, and transformers does not quantise it again"
        remedy = "remove `[quantization]`, or use a base in safetensors"
        raise RecipeError(Problem("", what, remedy, key="quantization.method"))
    return "the base is a GGUF file: its weights are dequantised, and take as much memory as unquantised ones"


def _check_not_only_stored(quantization: Quantization) -> None:
    """Refuse a quantisation that cannot be applied while a base is loaded."""
    method = quantization.method
    if quantization.only_stored:
        what = f"{method} needs calibration data, and the base is not quantised with it"
        remedy = f'write "bnb-4bit", or use a base that was quantised with {method}'
        raise RecipeError(Problem("", what, remedy, key="quantization.method"))


def _check_stored(loaded: LoadedRecipe, stored: Quantization) -> None:
    """Check that the recipe fits the quantisation of its base. Raises `RecipeError`."""
    _check_asked(loaded, stored)
    recipe = loaded.recipe.model_copy(update={"quantization": stored})
    if broken := list(findings(recipe)):
        raise RecipeError(
            Problem("", f"the base is stored in {stored.bits} bits: {finding.what}", place="model.name_or_path")
            for finding in broken
        )


def read_stored(settings: Mapping[str, Any]) -> Quantization:
    """Translate `quantization_config` of a `config.json` to the recipe's table. Raises `ModelError`."""
    kinds = [kind for kind in QUANTIZATIONS.values() if kind.is_named_by(settings)]
    name = kinds[0].quant_method if kinds else str(settings.get("quant_method", "an unnamed method"))
    found: Quantization | str = REFUSED_STORED.get(name, "over which lorans does not train")
    for kind in kinds:
        found = kind.read(settings)
        if not isinstance(found, str):
            return found
    what = f"the base is stored quantised by {name}, {found}"
    raise ModelError(Problem("", what, _REMEDY, key="model.name_or_path"))


def _check_asked(loaded: LoadedRecipe, stored: Quantization) -> None:
    """Refuse a recipe that requests another quantisation than the base is stored in."""
    quantization = loaded.recipe.quantization
    if isinstance(quantization, NoQuantization):
        return
    others = ["method"] if quantization.method != stored.method else []
    others += [
        name
        for name in type(quantization).model_fields
        if not others
        and loaded.origin(f"quantization.{name}") != "default"
        and getattr(quantization, name) != getattr(stored, name)
    ]
    if others:
        has = f"`{others[0]} = {json.dumps(getattr(stored, others[0]))}`"
        what = f"the base is already quantised, with {has}"
        remedy = "remove `[quantization]`: it is read from the base"
        raise RecipeError(Problem("", what, remedy, key=f"quantization.{others[0]}"))
