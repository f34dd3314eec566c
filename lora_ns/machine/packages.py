"""Packages that a recipe needs for its optimizer, trackers, rewards, suites, quantisation and distributed strategy."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from lora_ns.errors import MissingError, Problem
from lora_ns.objectives.experimental import missing_module
from lora_ns.quantizers import Quantization
from lora_ns.recipe.distributed import DeepSpeed
from lora_ns.recipe.optimizers import OPTIMIZERS
from lora_ns.recipe.recipe import Recipe
from lora_ns.suites import Suite


def can_train() -> bool:
    """Whether the libraries of training are installed; a machine that only looks at recipes has none of them."""
    return importlib.util.find_spec("transformers") is not None


def check_packages(recipe: Recipe) -> None:
    """Check that the packages of a recipe are installed. Raises `MissingError`."""
    optimizer = OPTIMIZERS[recipe.training.optim]
    required = [("training.optim", optimizer.package, optimizer.install)] if optimizer.package else []
    required += [("tracking.report_to", name, "'lora-ns[tracking]'") for name in recipe.tracking.report_to]
    if isinstance(recipe.distributed, DeepSpeed):
        required += [("distributed.strategy", name, "'lora-ns[deepspeed]'") for name in ("deepspeed", "ninja")]
    required += [
        (recipe.objective.key(f"rewards.{number}"), reward.package, "'lora-ns[rewards]'")
        for number, reward in enumerate(recipe.objective.reward_functions)
        if reward.package
    ]
    required += [
        (f"evaluation.suites.{number}.kind", suite.package, f"'lora-ns[{suite.extra}]'")
        for number, suite in enumerate(recipe.evaluation.suites)
        if suite.package
    ]
    if recipe.objective.uses_vllm:
        required.append((recipe.objective.key("use_vllm"), "vllm", "'lora-ns[vllm]'"))
    problems = [
        Problem("", f"`{package}` is not installed", f"`pip install {name}`", key=key)
        for key, package, name in required
        if importlib.util.find_spec(package) is None
    ]
    if moved := missing_module(recipe.objective.upstream, recipe.objective.toml):
        problems.append(moved)
    if problems:
        raise MissingError(problems)


def check_suites_installed(suites: Iterable[Suite]) -> None:
    """Check that the packages of suites that a command asks are installed. Raises `MissingError`."""
    problems = [
        Problem(
            "--suite",
            f"the suite `{suite.title}` needs `{suite.package}`, which is not installed",
            f"`pip install 'lora-ns[{suite.extra}]'`",
        )
        for suite in suites
        if suite.package and importlib.util.find_spec(suite.package) is None
    ]
    if problems:
        raise MissingError(problems)


def check_trackers_installed(names: Iterable[str]) -> None:
    """Check that the packages of trackers are installed. Raises `MissingError`."""
    problems = [
        Problem("--to", f"`{name}` is not installed", "`pip install 'lora-ns[tracking]'`")
        for name in names
        if importlib.util.find_spec(name) is None
    ]
    if problems:
        raise MissingError(problems)


def check_installed(quantization: Quantization, place: str = "") -> None:
    """Check that the packages of a quantisation are installed. Raises `MissingError`, naming the extra to install."""
    missing = [name for name in quantization.packages if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(f"`{name}`" for name in missing)
        what = (
            f"a base in {quantization.method} needs {names}, which {'is' if len(missing) == 1 else 'are'} not installed"
        )
        brought = f"'lora-ns[{quantization.extra}]'" if quantization.extra else " ".join(missing)
        raise MissingError(Problem("", what, f"`pip install {brought}`", place=place))
