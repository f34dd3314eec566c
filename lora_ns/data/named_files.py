"""Checks of the files that a recipe names besides its rows, the same for every command.

`distributed.accelerate_config` is not among them: it is read and checked with the recipe itself.
"""

from __future__ import annotations

from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.plan.deepspeed import check_own
from lora_ns.recipe.load import LoadedRecipe


def check_named_files(loaded: LoadedRecipe) -> None:
    """Check the chat template and the DeepSpeed configuration, if the recipe names them.

    Raises:
        UsageError: with the problems of each, as training would report them.
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
