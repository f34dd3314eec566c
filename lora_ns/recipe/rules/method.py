"""Rules of `[peft]`: a method, its start and the base."""

from __future__ import annotations

from lora_ns.methods import Ia3, Lora, PromptTuning
from lora_ns.methods.lora import READ_ROWS
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.conflict import Finding
from lora_ns.recipe.rules.written import is_written


def prompt_text_and_init_agree(recipe: Recipe) -> Finding | None:
    """`prompt_tuning_init_text` goes with `TEXT`, and `TEXT` with it."""
    if not isinstance(recipe.peft, PromptTuning):
        return None
    if (recipe.peft.prompt_tuning_init == "TEXT") != bool(recipe.peft.prompt_tuning_init_text):
        return Finding(
            ("peft.prompt_tuning_init", "peft.prompt_tuning_init_text"),
            '`prompt_tuning_init = "TEXT"` and `prompt_tuning_init_text` need each other',
            "give both or neither",
        )
    return None


def ia3_targets_come_together(recipe: Recipe) -> Finding | None:
    """PEFT takes both lists of IA3 or neither."""
    if isinstance(recipe.peft, Ia3) and (recipe.peft.target_modules == "auto") != (
        recipe.peft.feedforward_modules == "auto"
    ):
        return Finding(
            ("peft.target_modules", "peft.feedforward_modules"),
            "`target_modules` and `feedforward_modules` of ia3 come together",
            "give both or neither",
        )
    return None


def method_works_on_the_base(recipe: Recipe) -> Finding | None:
    """A base in few bits only under methods that do not compute with its weights, or know how they are packed."""
    quantization = recipe.quantization
    works = getattr(recipe.peft.capabilities, quantization.capability) if quantization.capability else True
    if works is not True:
        by = "" if quantization.method.startswith("bnb-") else f" by {quantization.method}"
        return Finding(
            ("quantization.method", "peft.method"),
            f"{recipe.peft.method} does not train over a base in {quantization.bits} bits{by}: {works}",
            "write `lora`, or remove `[quantization]`; `lorans methods` has a table",
        )
    return None


def dora_works_on_the_base(recipe: Recipe) -> Finding | None:
    """DoRA computes with the base weights, which PEFT unpacks for some layers only."""
    quantization = recipe.quantization
    if not (isinstance(recipe.peft, Lora) and recipe.peft.use_dora and quantization.capability == "gptq"):
        return None
    what = f"DoRA needs the norms of the base weights, which PEFT does not unpack from {quantization.method}"
    return Finding(("quantization.method", "peft.use_dora"), what, "remove `use_dora`, or take another base")


def start_works_on_the_base(recipe: Recipe) -> Finding | None:
    """Starts that decompose the base weights need weights that are not packed into 4 or 8 bits."""
    peft, bits = recipe.peft, recipe.quantization.bits
    if not isinstance(peft, Lora) or not bits:
        return None
    start = peft.init_lora_weights
    if start == "olora":
        what = f'what "olora" leaves of a base in {bits} bits does not fit into them: the adapter would not reload'
    elif peft.moves_base or start in {"mica", "orthogonal"}:
        what = f'"{start}" cannot decompose a base in {bits} bits'
    else:
        return None
    keys = ("quantization.method", "peft.init_lora_weights")
    return Finding(keys, what, 'write "default" or "eva", or remove `[quantization]`')


_START_OF_KEY = {
    "init_samples": READ_ROWS,
    "eva_rho": frozenset({"eva"}),
    "corda_method": frozenset({"corda"}),
}
"""Starts that read a key."""


def start_keys_are_read(recipe: Recipe) -> Finding | None:
    """The details of a start need the start."""
    if not isinstance(recipe.peft, Lora):
        return None
    for key, starts in _START_OF_KEY.items():
        if is_written(recipe, f"peft.{key}") and recipe.peft.init_lora_weights not in starts:
            named = " or ".join(f'"{start}"' for start in sorted(starts))
            what = f"`{key}` has no effect without `init_lora_weights` = {named}"
            return Finding((f"peft.{key}",), what, "remove it")
    return None


def start_fits_the_adapter(recipe: Recipe) -> Finding | None:
    """What a start does not combine with."""
    peft = recipe.peft
    if not isinstance(peft, Lora):
        return None
    start, key = peft.init_lora_weights, "peft.init_lora_weights"
    if peft.target_parameters and (peft.starts_later or start in {"mica", "orthogonal"}):
        what = f'"{start}" starts layers, and `target_parameters` are none'
        return Finding(("peft.target_parameters", key), what, 'write "default"')
    rows = "model.add_tokens" if recipe.model.add_tokens else "peft.trainable_token_indices"
    if (recipe.model.add_tokens or peft.trainable_token_indices) and start == "eva":
        what = f'"eva" does not start embeddings, which `{rows.rpartition(".")[2]}` adapts'
        return Finding((rows, key), what, 'write "lora_ga" or "pissa"')
    if peft.use_dora and start == "mica":
        return Finding(("peft.use_dora", key), 'PEFT has no DoRA of "mica"', 'write "default"')
    odd = [rank for rank in (peft.lora_r, *peft.rank_pattern.values()) if rank % 2]
    if odd and start == "orthogonal":
        return Finding(("peft.lora_r", key), f'"orthogonal" needs even ranks, and one is {odd[0]}', "write even ranks")
    return None


def added_tokens_are_trained(recipe: Recipe) -> Finding | None:
    """New tokens need rows that are trained, which LoRA has beside its layers."""
    tokens = recipe.model.add_tokens
    if tokens and not isinstance(recipe.peft, Lora):
        what = f"{recipe.peft.method} leaves the rows of new tokens as they are made, all alike"
        return Finding(("model.add_tokens", "peft.method"), what, 'write `method = "lora"`')
    twice = next((token for number, token in enumerate(tokens) if token in tokens[:number]), None)
    if twice is not None:
        return Finding(("model.add_tokens",), f"`{twice}` is there twice", "remove one of them")
    return None


def one_factor_alone_is_trained(recipe: Recipe) -> Finding | None:
    """LoRA-FA is an optimizer of its own, and of the two factors alone."""
    peft = recipe.peft
    if not isinstance(peft, Lora) or not peft.use_lora_fa:
        return None
    for key, is_given in (
        ("peft.loraplus_lr_ratio", peft.loraplus_lr_ratio is not None),
        ("peft.use_dora", peft.use_dora),
        ("peft.target_parameters", bool(peft.target_parameters)),
        ("peft.trainable_token_indices", bool(peft.trainable_token_indices)),
        ("model.add_tokens", bool(recipe.model.add_tokens)),
        ("training.optim", is_written(recipe, "training.optim")),
    ):
        if is_given:
            what = f"`use_lora_fa` and `{key.rpartition('.')[2]}` do not go together"
            return Finding(("peft.use_lora_fa", key), what, "remove one of them")
    return None


_KASA_KEYS = ("kasa_beta", "kasa_gamma")


def kasa_cuts_the_base_alone(recipe: Recipe) -> Finding | None:
    """KaSA is a form of the adapter and of the base below it, and PEFT combines it with few others."""
    peft = recipe.peft
    if not isinstance(peft, Lora):
        return None
    if not peft.use_kasa:
        inert = next((key for key in _KASA_KEYS if is_written(recipe, f"peft.{key}")), None)
        what = f"`{inert}` has no effect without `use_kasa = true`"
        return Finding((f"peft.{inert}",), what, "add it, or remove this key") if inert else None
    bits = recipe.quantization.bits
    if bits:
        what = f"over a base in {bits} bits PEFT trains a plain LoRA in the place of KaSA"
        return Finding(("quantization.method", "peft.use_kasa"), what, "remove it, or `[quantization]`")
    start = peft.init_lora_weights
    if start not in {"default", "gaussian"}:
        what = f'"{start}" starts from the whole base weights, and `use_kasa` cuts them'
        return Finding(("peft.use_kasa", "peft.init_lora_weights"), what, 'write "default" or "gaussian"')
    for key in ("use_dora", "use_lora_fa", "target_parameters"):
        if getattr(peft, key):
            what = f"`use_kasa` and `{key}` do not go together"
            return Finding(("peft.use_kasa", f"peft.{key}"), what, "remove one of them")
    return None
