"""Rules of `[peft]`: a method and the base, and the rules of the methods themselves."""

from __future__ import annotations

import functools

from lora_ns.methods import METHODS
from lora_ns.methods.base import OwnRule, Rest
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.conflict import Rule
from lora_ns.recipe.rules.written import is_written
from lora_ns.table import Conflict


def method_works_on_the_base(recipe: Recipe) -> Conflict | None:
    """A quantised base needs a method that does not use its weights, or can unpack them."""
    quantization = recipe.quantization
    works = quantization.works_under(recipe.peft)
    if works is not True:
        by = "" if quantization.is_usual else f" by {quantization.method}"
        return Conflict(
            ("quantization.method", "peft.method"),
            f"{recipe.peft.method} does not train over a base in {quantization.bits} bits{by}: {works}",
            "write `lora`, or remove `[quantization]`; `lorans methods` lists the methods",
        )
    return None


def added_tokens_are_trained(recipe: Recipe) -> Conflict | None:
    """New tokens need trainable embedding rows, which LoRA has."""
    tokens, rows = recipe.model.add_tokens, recipe.peft.token_rows
    if tokens and not (rows and rows.beside_layers):
        what = f"{recipe.peft.method} does not train the rows of new tokens, which all start the same"
        return Conflict(("model.add_tokens", "peft.method"), what, 'write `method = "lora"`')
    twice = next((token for number, token in enumerate(tokens) if token in tokens[:number]), None)
    if twice is not None:
        return Conflict(("model.add_tokens",), f"`{twice}` is given twice", "remove one of them")
    return None


def _asked(rule: OwnRule) -> Rule:
    """Wrap a method's own rule as a rule of recipes."""

    @functools.wraps(rule)
    def asked(recipe: Recipe) -> Conflict | None:
        return rule(recipe.peft, _rest(recipe)) if rule in recipe.peft.rules else None

    return asked


def _rest(recipe: Recipe) -> Rest:
    base = recipe.quantization
    is_named = is_written(recipe, "training.optim")
    return Rest(base.method, base.bits, base.has_norms, bool(recipe.model.add_tokens), is_named)


OWN_RULES = {rule: _asked(rule) for method in METHODS.values() for rule in method.rules}
"""The rules of the methods themselves."""
