"""Weights that FSDP or DeepSpeed's ZeRO-3 divide among processes: divided while a base is read, whole to be saved."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer

WEIGHTS_STAGE = 3
"""The stage of ZeRO that divides weights."""


@contextlib.contextmanager
def dividing_at_once(settings: Mapping[str, Any] | None, is_quantised: bool) -> Iterator[None]:
    """Let a base be divided while it is read, if DeepSpeed divides weights, and an adapter be put onto the parts.

    Args:
        settings: DeepSpeed's configuration, if it trains.
        is_quantised: whether the weights are packed while they are read; those are divided later.
    """
    if is_quantised or not settings or settings["zero_optimization"]["stage"] != WEIGHTS_STAGE:
        yield
        return
    import deepspeed
    from torch import distributed
    from transformers.integrations import HfDeepSpeedConfig

    deepspeed.init_distributed(distributed.get_backend())  # which takes the group that is there
    # transformers and PEFT look for it wherever it may be, and keep none themselves.
    config = HfDeepSpeedConfig(copy.deepcopy(dict(settings)))
    yield
    del config


def divided_layers(model: Any) -> list[str]:
    """Names of the classes whose weights FSDP puts together at a time.

    accelerate divides the input embeddings by themselves. Encoders name the layer that has them among those that are to
    be kept together, and its weights cannot be divided twice.
    """
    embeddings = model.get_input_embeddings()
    kept = set(model._no_split_modules or [])
    found = [module for module in model.modules() if type(module).__name__ in kept]
    return sorted({type(layer).__name__ for layer in found if all(part is not embeddings for part in layer.modules())})


def whole(value: Any) -> Any:
    """A tensor put together from what the ranks have of it, in each of them; itself if it is not divided.

    Every rank has to ask, in the same order.
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
    """Have a parameter whole in every rank, and keep what is written into it. Every rank has to ask."""
    if not hasattr(value, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([value], modifier_rank=0):
        yield


def put_together(trainer: Trainer) -> Callable[[], None]:
    """Have what is trained whole in every rank; what is frozen stays divided.

    Every rank has to come here. The model can be saved from then on, and not be asked until it is divided again.

    Returns:
        What divides it again.
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
    """Weights and optimizer state of a checkpoint of FSDP, which rank 0 writes."""
    from accelerate.utils.constants import FSDP_MODEL_NAME, OPTIMIZER_NAME

    return checkpoint / f"{FSDP_MODEL_NAME}.bin", checkpoint / f"{OPTIMIZER_NAME}.bin"


def forget_frozen(model: Any, checkpoint: Path) -> None:
    """Leave only trained weights in what accelerate saved of a divided model.

    torch leaves frozen ones out by their names, and misses those that have two, as embeddings that prompt tuning reads;
    it cannot load them again either.
    """
    import torch

    file, _ = saved_by_first(checkpoint)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    saved = torch.load(file, weights_only=True)
    kept = {name: value for name, value in saved.items() if name in trained}
    if kept.keys() != saved.keys():
        torch.save(kept, file)


def _hooks(engine: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """What takes the hooks off that ZeRO-3 gathers weights by, and what puts them on again."""
    stage = getattr(engine, "zero_optimization_stage", lambda: None)()
    if stage != WEIGHTS_STAGE:
        return (lambda: None), (lambda: None)
    from trl.models.utils import add_hooks, remove_hooks

    return (lambda: remove_hooks(engine)), (lambda: add_hooks(engine))
