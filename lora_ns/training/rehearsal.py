"""A trainer, an optimizer and a schedule tried on one weight, before anything is written."""

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
    """See that trainer, optimizer and schedule take their settings, before anything is written.

    Raises:
        PlanError: with the value that the installed libraries refuse, and their reason.
    """
    import torch
    import transformers

    # Who divides the work among processes is asked in them.
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
    """See that the optimizer is there and reads what it is given. Raises `PlanError`, or what the libraries raise."""
    from transformers import Trainer

    given, kwargs = arguments.optim_args, Trainer.get_optimizer_cls_and_kwargs(arguments)[1]
    if given is None:
        return
    without = copy.copy(arguments)
    without.optim_args = None
    if Trainer.get_optimizer_cls_and_kwargs(without)[1] == kwargs:
        what = f"{arguments.optim} reads nothing of {given!r}"
        raise PlanError(Problem("", what, "remove it", key="training.extra.optim_args"))


_AT_LEAST = {"eval_accumulation_steps": 1, "adam_epsilon": 0, "eval_delay": 0, "ddp_bucket_cap_mb": 1}


_AT_MOST = {"label_smoothing_factor": 1}
"""Bounds that the installed trainer does not look at; it stops in the middle of a run, or trains nonsense."""


def _check_types(recipe: Recipe) -> None:
    """See that further arguments have the types of their fields, which the trainer does not look at.

    Raises:
        PlanError: with each value that has another one, or is out of bounds.
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
    """Make a trainer of one weight with its loaders and its optimizer.

    What a trainer refuses when it is made or when it starts, it refuses here, before there is a run.
    """
    import torch
    import transformers

    arguments.report_to, arguments.full_determinism = [], False  # packages are looked for elsewhere
    rows = [{"input_ids": [0], "labels": [0], "length": 1}] * arguments.train_batch_size
    model: Any = torch.nn.Linear(1, 1, bias=False)
    model.config = transformers.PretrainedConfig()
    with tempfile.TemporaryDirectory(prefix="lorans-") as arguments.output_dir:  # which a trainer makes
        trainer = transformers.Trainer(model, arguments, list, rows, rows)
    trainer.get_train_dataloader()
    trainer.get_eval_dataloader()
    trainer.create_optimizer()
    if arguments.torch_compile:
        torch.compile(model, backend=arguments.torch_compile_backend, mode=arguments.torch_compile_mode)


@contextlib.contextmanager
def _telling(key: str) -> Iterator[None]:
    """Turn what a library says of a value into one line."""
    try:
        yield
    except (ArithmeticError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = f"there is no {reason}" if isinstance(error, KeyError) else reason
        raise PlanError(Problem("", reason, "write another value", key=key)) from error
