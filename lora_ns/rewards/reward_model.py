"""`run`: the score of a reward model that lorans trained."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.rewards.base import RewardFunction
from lora_ns.table import Name


class RewardModel(RewardFunction):
    """The score of the conversation by a run of `[reward]`, or of `[classification]` with one score."""

    name: Literal["reward-model"] = "reward-model"
    run: Name
    """Run directory of the reward model, relative to the current folder."""

    highest: ClassVar[float] = float("inf")
