"""Weights that FSDP or ZeRO-3 shards across processes: sharded while a base is loaded, gathered to be saved."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer

WEIGHTS_STAGE = 3
"""The ZeRO stage that shards weights."""


@contextlib.contextmanager
def dividing_at_once(settings: Mapping[str, Any] | None, is_quantised: bool) -> Iterator[None]:
    """Shard a base while it is loaded, if DeepSpeed shards weights, so that the adapter is added to a sharded model.

    Args:
        settings: DeepSpeed's configuration, or None without DeepSpeed.
        is_quantised: True if the weights are quantised while they are loaded; such weights are sharded later.
    """
    if is_quantised or not settings or settings["zero_optimization"]["stage"] != WEIGHTS_STAGE:
        yield
        return
    import deepspeed
    from torch import distributed
    from transformers.integrations import HfDeepSpeedConfig

    deepspeed.init_distributed(distributed.get_backend())  # uses the existing group
    # transformers and PEFT look it up through a weak reference, so it must stay alive here.
    config = HfDeepSpeedConfig(copy.deepcopy(dict(settings)))
    yield
    del config


def divided_layers(model: Any) -> list[str]:
    """Return the class names of the layers that FSDP gathers one at a time.

    accelerate shards the input embeddings separately. Encoders list the layer that contains the embeddings among those
    that must not be split, but weights cannot be sharded twice.
    """
    embeddings = model.get_input_embeddings()
    kept = set(model._no_split_modules or [])
    found = [module for module in model.modules() if type(module).__name__ in kept]
    return sorted({type(layer).__name__ for layer in found if all(part is not embeddings for part in layer.modules())})


def whole(value: Any) -> Any:
    """Gather a sharded tensor in every rank; a tensor that is not sharded is returned as it is.

    Every rank must call it, in the same order.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return value.detach().full_tensor()  # type: ignore[attr-defined, unused-ignore]
    if not hasattr(value, "ds_id"):
        return value
    import deepspeed

    with deepspeed.zero.GatheredParameters([value]):
        return value.detach().clone()


@contextlib.contextmanager
def written_in_whole(value: Any) -> Iterator[None]:
    """Gather a parameter in every rank, and keep changes that are made to it. Every rank must call it."""
    if not hasattr(value, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([value], modifier_rank=0):
        yield


def put_together(trainer: Trainer) -> Callable[[], None]:
    """Gather the trained weights in every rank; frozen weights stay sharded.

    Every rank must call it. Afterwards the model can be saved, but not called until it is sharded again.

    Returns:
        A function that shards it again.
    """
    import torch
    from torch.distributed.fsdp import FSDPModule

    model, engine = trainer.model, trainer.model_wrapped
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    unhook, hook = _hooks(engine)
    unhook()
    divided = {}
    for name, value in list(model.named_parameters()):
        if value.requires_grad and (together := whole(value)) is not value:
            owner, _, last = name.rpartition(".")
            divided[name] = (model.get_submodule(owner), last, value)
            setattr(model.get_submodule(owner), last, torch.nn.Parameter(together))

    def divide() -> None:
        for owner, last, value in divided.values():
            setattr(owner, last, value)
        hook()

    return divide


def saved_by_first(checkpoint: Path) -> tuple[Path, Path]:
    """Return the paths of weights and optimizer state in an FSDP checkpoint, which rank 0 writes."""
    from accelerate.utils.constants import FSDP_MODEL_NAME, OPTIMIZER_NAME

    return checkpoint / f"{FSDP_MODEL_NAME}.bin", checkpoint / f"{OPTIMIZER_NAME}.bin"


def forget_frozen(model: Any, checkpoint: Path) -> None:
    """Remove frozen weights from accelerate's checkpoint of a sharded model.

    torch excludes frozen weights by name. It misses those with two names, such as embeddings that prompt tuning reads,
    and cannot load them again either.
    """
    import torch

    file, _ = saved_by_first(checkpoint)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    saved = torch.load(file, weights_only=True)
    kept = {name: value for name, value in saved.items() if name in trained}
    if kept.keys() != saved.keys():
        torch.save(kept, file)


def _hooks(engine: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return two functions that remove and restore the hooks with which ZeRO-3 gathers weights."""
    stage = getattr(engine, "zero_optimization_stage", lambda: None)()
    if stage != WEIGHTS_STAGE:
        return (lambda: None), (lambda: None)
    from trl.models.utils import add_hooks, remove_hooks

    return (lambda: remove_hooks(engine)), (lambda: add_hooks(engine))
