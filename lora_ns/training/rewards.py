"""The reward functions of a run, opened and as TRL calls them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_ns.data.encode_prompts import completion_of
from lora_ns.errors import Problem, RunError
from lora_ns.formats import RowFaultError
from lora_ns.objectives import Objective
from lora_ns.objectives.rewarded import numbered
from lora_ns.rewards import Completion, RewardFaultError, RewardFunction, RewardModel, Scorer
from lora_ns.safety.deadline import OverrunError
from lora_ns.training.reward_models import find_reward_model, open_reward_model


class Reward:
    """A reward function as TRL calls it, whose results are checked."""

    def __init__(self, name: str, function: RewardFunction, scorer: Scorer, key: str) -> None:
        """Wrap a function.

        Args:
            name: name in metrics.
            function: its table in the recipe.
            scorer: the opened function.
            key: dotted key of the table.
        """
        self.__name__ = name
        self.function = function
        self._scorer = scorer
        self.key = key

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Scores of completions whose rows are in `row`; the other arguments are TRL's."""
        del prompts
        rows = zip(columns["row"], completions, completion_ids, strict=True)
        return self.scores([completion_of(row, text, list(ids)) for row, text, ids in rows])

    def scores(self, batch: Sequence[Completion]) -> list[float | None]:
        """Scores of completions. Raises `RunError` if the function fails, or returns something else."""
        try:
            found = self._scorer(batch)
        except RewardFaultError as error:
            raise RunError(error.problem) from error
        except OverrunError as error:
            raise RunError(self._problem(f"{error} on a completion", "use a simpler one")) from None
        except RowFaultError as error:
            raise RunError(self._problem(error.what, error.remedy)) from None
        return self._checked(found, len(batch))

    def _checked(self, found: Any, count: int) -> list[float | None]:
        """The scores as numbers. Raises `RunError`."""
        try:
            scores = [None if score is None else float(score) for score in found]
        except (TypeError, ValueError):
            what = f"returned {_shown(found)} instead of a list of numbers"
            raise RunError(self._problem(what, "return a number or None for each completion")) from None
        if len(scores) != count:
            what = f"returned {len(scores):,} scores for {count:,} completions"
            raise RunError(self._problem(what, "return one for each completion"))
        broken = next((score for score in scores if score is not None and not math.isfinite(score)), None)
        if broken is not None:
            what = f"returned {broken}"
            raise RunError(self._problem(what, "return a finite number, or None for a completion that it cannot judge"))
        return scores

    def _problem(self, what: str, remedy: str) -> Problem:
        return Problem("", f"the reward `{self.__name__}` {what}", remedy, key=self.key)


def _shown(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 60 else f"{text[:57]}..."


def open_rewards(objective: Objective, folders: Sequence[Path], without_models: bool = False) -> list[Reward]:
    """Open the reward functions of an objective.

    Args:
        objective: the objective; most have no reward functions.
        folders: folders that are searched for the files of functions.
        without_models: leave out reward models, which take memory.

    Raises:
        UsageError: if a file, a function or a run is missing.
    """
    functions = objective.reward_functions
    names = numbered([function.metric for function in functions])
    return [
        Reward(name, function, _opened(function, folders), objective.key(f"rewards.{number}"))
        for number, (name, function) in enumerate(zip(names, functions, strict=True))
        if not (without_models and isinstance(function, RewardModel))
    ]


def check_rewards(objective: Objective, folders: Sequence[Path]) -> None:
    """Check that the functions and runs of rewards are there, without loading models. Raises like `open_rewards`."""
    for function in objective.reward_functions:
        if isinstance(function, RewardModel):
            find_reward_model(function, folders)
        else:
            function.scorer(folders)


def _opened(function: RewardFunction, folders: Sequence[Path]) -> Scorer:
    if isinstance(function, RewardModel):
        return open_reward_model(function, folders)
    return function.scorer(folders)
