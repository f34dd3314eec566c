"""The files that a recipe names beside its rows, checked alike by everything that is asked of the recipe.

That which names them is checked as they are read: `distributed.accelerate_config` with the recipe itself.
"""

from __future__ import annotations

from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.plan.deepspeed import check_own
from lora_ns.recipe.load import LoadedRecipe


def check_named_files(loaded: LoadedRecipe) -> None:
    """Read the chat template and DeepSpeed's file, as far as the recipe names them.

    Raises:
        UsageError: with what is wrong with each, as a training would tell it.
    """
    from lora_ns.data.chat_templates import read_template

    problems: list[Problem] = []
    for check in (read_template, check_own):
        try:
            check(loaded.recipe, loaded.folder)
        except LoransError as error:
            problems += [problem.located(loaded.where) for problem in error.problems]
    if problems:
        raise UsageError(problems)
