"""Rehearsal of trainer, optimizer and schedule on a model of one weight, before the run directory is created."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from lora_ns.errors import PlanError, Problem
from lora_ns.plan.plan import Plan
from lora_ns.recipe.distributed import OneProcess
from lora_ns.recipe.recipe import Recipe
from lora_ns.training.arguments import trainer_arguments, training_arguments


def check_arguments(asked: Recipe, plan: Plan, checkpoints: Path) -> None:
    """Check that trainer, optimizer and schedule accept their settings, before anything is written.

    Raises:
        PlanError: names the value that an installed library refuses, with its reason.
    """
    import torch
    import transformers

    # The strategy is checked in the processes themselves.
    recipe = asked.model_copy(update={"distributed": OneProcess()})
    alone = plan.model_copy(update={"deepspeed": None})
    key = "training.extra" if recipe.training.extra else "training"
    _check_types(recipe)
    with _telling(key):
        arguments = transformers.TrainingArguments(**training_arguments(recipe, alone, checkpoints))
    with _telling("training.optim"):
        _check_optimizer(arguments)
    with _telling("training.lr_scheduler_type"):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
        transformers.get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            arguments.warmup_steps,
            arguments.max_steps,
            arguments.lr_scheduler_kwargs,
        )
    with _telling(key):
        _rehearse(arguments)
        recipe.objective.config_class()(**trainer_arguments(recipe, plan, checkpoints))


def _check_optimizer(arguments: Any) -> None:
    """Check that the optimizer exists and reads its `optim_args`.

    Raises:
        PlanError: if the optimizer ignores them. Exceptions of the libraries pass through.
    """
    from transformers import Trainer

    given, kwargs = arguments.optim_args, Trainer.get_optimizer_cls_and_kwargs(arguments)[1]
    if given is None:
        return
    without = copy.copy(arguments)
    without.optim_args = None
    if Trainer.get_optimizer_cls_and_kwargs(without)[1] == kwargs:
        what = f"{arguments.optim} ignores {given!r}"
        raise PlanError(Problem("", what, "remove it", key="training.extra.optim_args"))


_AT_LEAST = {"eval_accumulation_steps": 1, "adam_epsilon": 0, "eval_delay": 0, "ddp_bucket_cap_mb": 1}


_AT_MOST = {"label_smoothing_factor": 1}
"""Bounds that the installed trainer does not check: beyond them it fails in the middle of a run, or trains nonsense."""


def _check_types(recipe: Recipe) -> None:
    """Check the types of `[training.extra]` against the fields of the trainer, which does not check them itself.

    Raises:
        PlanError: names every value of the wrong type or out of bounds.
    """
    import transformers
    from pydantic import TypeAdapter, ValidationError

    types = {field.name: field.type for field in dataclasses.fields(transformers.TrainingArguments)}
    problems = []
    for key, value in recipe.training.extra.items():
        try:
            TypeAdapter(cast("Any", types[key])).validate_python(value, strict=True)
        except ValidationError as error:
            what = " or ".join(dict.fromkeys(_lowered(fault["msg"]) for fault in error.errors()))
        else:
            what = _out_of_bounds(key, value)
        if what:
            problems.append(Problem("", f"{value!r}: {what}", "write another value", key=f"training.extra.{key}"))
    if problems:
        raise PlanError(problems)


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _out_of_bounds(key: str, value: Any) -> str:
    least, most = _AT_LEAST.get(key, 0 if key in _AT_MOST else None), _AT_MOST.get(key)
    if not isinstance(value, (int, float)) or least is None:
        return ""
    if not math.isfinite(value) or value < least:
        return f"input should be at least {least}"
    return "" if most is None or value < most else f"input should be below {most}"


def _rehearse(arguments: Any) -> None:
    """Build a trainer for a model of one weight, with its data loaders and its optimizer.

    A setting that the trainer refuses at construction or at the start of training is refused here, before the run.
    """
    import torch
    import transformers

    arguments.report_to, arguments.full_determinism = [], False  # packages are checked elsewhere
    rows = [{"input_ids": [0], "labels": [0], "length": 1}] * arguments.train_batch_size
    model: Any = torch.nn.Linear(1, 1, bias=False)
    model.config = transformers.PretrainedConfig()
    with tempfile.TemporaryDirectory(prefix="lorans-") as arguments.output_dir:  # the trainer creates it
        trainer = transformers.Trainer(model, arguments, list, rows, rows)
    trainer.get_train_dataloader()
    trainer.get_eval_dataloader()
    trainer.create_optimizer()
    if arguments.torch_compile:
        torch.compile(model, backend=arguments.torch_compile_backend, mode=arguments.torch_compile_mode)


@contextlib.contextmanager
def _telling(key: str) -> Iterator[None]:
    """Turn a library's complaint about a value into one line. Raises `PlanError`."""
    try:
        yield
    except (ArithmeticError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = f"there is no {reason}" if isinstance(error, KeyError) else reason
        raise PlanError(Problem("", reason, "write another value", key=key)) from error
