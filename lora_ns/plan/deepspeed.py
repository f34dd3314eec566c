"""DeepSpeed's configuration: the settings of recipe and plan, merged with the user's own file.

Every number comes from the plan. Nothing is left at `"auto"`, so a run does not depend on its launcher.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, UsageError, at_key
from lora_ns.files.reading import parse_json, read_text
from lora_ns.recipe.distributed import DeepSpeed
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.secrets import secrets_of_named

if TYPE_CHECKING:
    from lora_ns.plan.plan import Plan


def deepspeed_settings(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """Return DeepSpeed's settings, without the user's own file.

    The trainer keeps the optimizer and its schedule. Autocast sets the precision, as in a run of one process:
    DeepSpeed's own precision would round the adapter's weights, which are kept in float32.
    """
    strategy = recipe.distributed
    assert isinstance(strategy, DeepSpeed), "only for DeepSpeed"
    decided = _of_recipe(recipe, strategy)
    for key in ("offload_optimizer", "offload_param"):
        if key in decided["zero_optimization"]:
            decided["zero_optimization"][key]["pin_memory"] = plan.device.value == "cuda"
    dtype = plan.dtype.value
    return {
        **decided,
        # DeepSpeed counts rows per process, even if processes share rows.
        "train_batch_size": plan.global_batch_size.value * strategy.row_parts,
        "train_micro_batch_size_per_gpu": plan.per_device_train_batch_size.value,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps.value,
        "zero_allow_untested_optimizer": True,
        **({} if dtype == "float32" else {"torch_autocast": {"enabled": True, "dtype": dtype}}),
    }


def _of_recipe(recipe: Recipe, strategy: DeepSpeed) -> dict[str, Any]:
    """Return the settings that follow from the recipe alone."""
    zero: dict[str, Any] = {"stage": strategy.zero_stage}
    for key, place in (("offload_optimizer", strategy.offload_optimizer), ("offload_param", strategy.offload_param)):
        if place != "none":
            zero[key] = {"device": place, **({"nvme_path": strategy.nvme_path} if place == "nvme" else {})}
    if strategy.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    several = {"checkpoint": {"use_node_local_storage": True}} if strategy.num_nodes > 1 else {}
    return {**several, "gradient_clipping": recipe.training.max_grad_norm, "zero_optimization": zero}


def with_deepspeed(recipe: Recipe, folder: Path, plan: Plan) -> Plan:
    """Add DeepSpeed's configuration to a plan, if the recipe uses DeepSpeed. Raises `UsageError`."""
    strategy = recipe.distributed
    if not isinstance(strategy, DeepSpeed):
        return plan
    settings = deepspeed_settings(recipe, plan)
    own = read_own(recipe, folder)
    return plan.model_copy(update={"deepspeed": joined(own, settings, str(strategy.deepspeed_config))})


def check_own(recipe: Recipe, folder: Path) -> None:
    """Check the user's own DeepSpeed configuration before there is a plan. Raises `UsageError`."""
    strategy = recipe.distributed
    if isinstance(strategy, DeepSpeed) and strategy.deepspeed_config is not None:
        decided = _of_recipe(recipe, strategy)
        if problems := list(_conflicts(read_own(recipe, folder), decided, strategy.deepspeed_config, _PLANNED)):
            raise UsageError(problems)


def read_own(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return the user's own DeepSpeed configuration, empty if the recipe names none.

    Raises:
        UsageError: if the file is missing, is not a JSON object, or has secrets, which the manifest would contain.
    """
    strategy = recipe.distributed
    if not isinstance(strategy, DeepSpeed) or strategy.deepspeed_config is None:
        return {}
    file = folder / Path(strategy.deepspeed_config).expanduser()
    remedy = "name a DeepSpeed configuration in JSON"
    with at_key("distributed.deepspeed_config"):
        text = read_text(file, where="", before=f"{file} ", remedy=remedy, if_missing=remedy, if_folder=remedy)
    found = parse_json(text, str(file), is_finite=True)
    if not isinstance(found, dict):
        raise UsageError(Problem(str(file), "is not a DeepSpeed configuration", "write a JSON object"))
    if secrets := list(secrets_of_named(file, text, found)):
        raise UsageError(secrets)
    return found


def joined(own: Mapping[str, Any], settings: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Merge both. `"auto"` in the user's own file takes the recipe's value, or is dropped if there is none.

    Raises:
        UsageError: with every key that contradicts the recipe.
    """
    problems = list(_conflicts(own, settings, file))
    if problems:
        raise UsageError(problems)
    return _merged(own, settings)


OWNED = {
    "optimizer": "write `training.optim`, `learning_rate`, `weight_decay`, `adam_beta1` and `adam_beta2`",
    "scheduler": "write `training.lr_scheduler_type` and `warmup_steps`",
    "bf16": "write `model.dtype`",
    "fp16": "write `model.dtype`",
    "amp": "write `model.dtype`",
    "torch_autocast": "write `model.dtype`",
    "tensor_parallel": "train without it",
    "pipeline": "train without it",
}
"""Settings that the recipe controls, with the remedy for each."""


_KEYS = {
    "train_batch_size": "training.global_batch_size",
    "train_micro_batch_size_per_gpu": "training.per_device_train_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "gradient_clipping": "training.max_grad_norm",
    "zero_optimization.stage": "distributed.zero_stage",
    "zero_optimization.offload_optimizer.device": "distributed.offload_optimizer",
    "zero_optimization.offload_param.device": "distributed.offload_param",
}


_PLANNED = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def _conflicts(
    own: Mapping[str, Any], settings: Mapping[str, Any], file: str, left_open: Collection[str] = ()
) -> Iterator[Problem]:
    for key, instead in OWNED.items():
        table = own.get(key)
        asks = table if not isinstance(table, dict) else table.get("enabled", True) not in (False, "auto")
        if key in own and asks and not (key in {"optimizer", "scheduler"} and _is_automatic(table)):
            yield Problem(file, f"`{key}` cannot be set in this file", f"remove it, and {instead}")
    given, decided = dict(_leaves(own)), dict(_leaves(settings))
    for key in {**decided, **_KEYS}:
        value, ours = given.get(key, "auto"), decided.get(key)
        if key in left_open or value in ("auto", ours) or key.partition(".")[0] in OWNED:
            continue
        if ours is None and value in ("none", None):
            continue
        expected = "nothing" if ours is None else json.dumps(ours)
        where = f" (`{_KEYS[key]}`)" if key in _KEYS else ""
        yield Problem(file, f"`{key}` is {json.dumps(value)}, but the recipe{where} says {expected}", "make them agree")


def _is_automatic(table: Any) -> bool:
    """Return whether an optimizer's table leaves everything to the trainer, as shared presets do."""
    return isinstance(table, dict) and all(value == "auto" for _, value in _leaves(table.get("params", {})))


def _leaves(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _merged(own: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(settings)
    for key, value in own.items():
        if isinstance(value, Mapping) and key not in OWNED:
            below = settings.get(key)
            found[key] = _merged(value, below if isinstance(below, Mapping) else {})
        elif key not in settings and key not in OWNED and value != "auto":
            found[key] = value
    return found
