"""Rules of `[model]`."""

from __future__ import annotations

import re

from lora_ns.recipe.distributed import AutoStrategy, DeepSpeed, Fsdp
from lora_ns.recipe.earlier_run import OF_A_NEW_ADAPTER
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.written import is_written
from lora_ns.table import Conflict, Refusal, first_of

COMMIT = re.compile(r"[0-9a-f]{40}")


def remote_code_is_pinned(recipe: Recipe) -> Conflict | None:
    """Code from the hub needs a pinned commit."""
    if recipe.model.trust_remote_code and not COMMIT.fullmatch(recipe.model.revision):
        return Conflict(
            ("model.trust_remote_code",),
            "the repository's code can change at any time",
            "pin `revision` to the full hash of a commit that you have reviewed",
        )
    return None


def an_adapter_goes_on(recipe: Recipe) -> Conflict | None:
    """An adapter that is trained further has its method and no initialisation, and whole weights."""
    name, method, strategy = recipe.model.init_adapter, recipe.peft, recipe.distributed
    if name is None:
        return None
    works = method.capabilities.continues
    new = next((key for key in OF_A_NEW_ADAPTER if is_written(recipe, f"peft.{key}")), "")
    row = first_of(
        Refusal("peft.method", works is not True, f"{method.tag()} cannot be trained further: {works}", _MERGE_IT),
        Refusal(f"peft.{new}", bool(new), f"`{new}` has no effect: the adapter is that of {name}", "remove it"),
        Refusal("distributed.strategy", _may_shard(recipe), _WHOLE.format(strategy.strategy), 'write "ddp"'),
    )
    return row and Conflict(("model.init_adapter", row.key), row.what, row.remedy)


def base_adapters_can_be_merged(recipe: Recipe) -> Conflict | None:
    """Adapters are merged into whole, unquantised weights, each once."""
    names, key = recipe.model.base_adapters, "model.base_adapters"
    if not names:
        return None
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice or recipe.model.init_adapter in names:
        what = f"{twice} is given twice" if twice else f"{recipe.model.init_adapter} is also the `init_adapter`"
        return Conflict((key,), what, "remove one of them")
    bits = recipe.quantization.bits
    row = first_of(
        Refusal(
            "quantization.method", bits is not None, f"merging into weights of {bits} bits would round them", _MERGED
        ),
        Refusal("distributed.strategy", _may_shard(recipe), _WHOLE.format(recipe.distributed.strategy), 'write "ddp"'),
    )
    return row and Conflict((key, row.key), row.what, row.remedy)


_MERGE_IT = "name its run in `base_adapters`, if its method can be merged"


_MERGED = "merge the run with `lorans merge`, and name the merged model as `name_or_path`"


_WHOLE = 'adapters of earlier runs have been tried with the strategies "none" and "ddp" only, not with "{}"'


def _may_shard(recipe: Recipe) -> bool:
    return isinstance(recipe.distributed, AutoStrategy | DeepSpeed | Fsdp)
