"""The packages that a recipe asks for by its optimizer and its trackers."""

from __future__ import annotations

import importlib.util

from lora_ns.errors import MissingError, Problem
from lora_ns.optimizers import OPTIMIZERS
from lora_ns.recipe.load import LoadedRecipe


def check_packages(loaded: LoadedRecipe) -> None:
    """See that they are installed. Raises `MissingError`."""
    optimizer = OPTIMIZERS[loaded.recipe.training.optim]
    asked = [("training.optim", optimizer.package, optimizer.install)] if optimizer.package else []
    asked += [("tracking.report_to", name, name) for name in loaded.recipe.tracking.report_to]
    problems = [
        Problem(loaded.where(key), f"{key}: `{package}` is not installed", f"`pip install {name}`")
        for key, package, name in asked
        if importlib.util.find_spec(package) is None
    ]
    if problems:
        raise MissingError(problems)
