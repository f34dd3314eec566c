"""Reward functions for generated completions: one class for each, a pure function of a completion and its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Discriminator, Tag

from lora_ns.rewards.base import Comparison, Completion, RewardFaultError, RewardFunction, Scorer, Scores
from lora_ns.rewards.code import Code
from lora_ns.rewards.contains import Contains
from lora_ns.rewards.exact import Exact
from lora_ns.rewards.json_schema import JsonSchema
from lora_ns.rewards.length import Length
from lora_ns.rewards.math_verify import Math
from lora_ns.rewards.number import Number
from lora_ns.rewards.python import Python
from lora_ns.rewards.regex import Regex
from lora_ns.rewards.repetition import Repetition
from lora_ns.rewards.reward_model import RewardModel
from lora_ns.rewards.tags import Format

__all__ = [
    "REWARDS",
    "AnyReward",
    "Code",
    "Comparison",
    "Completion",
    "Python",
    "RewardFaultError",
    "RewardFunction",
    "RewardModel",
    "Scorer",
    "Scores",
    "tag_of_reward",
]


def tag_of_reward(entry: Any) -> str | None:
    """The name of a reward table: `name`, or the key that stands for it; None if it has neither."""
    if isinstance(entry, RewardFunction):
        return entry.name
    if not isinstance(entry, Mapping):
        return None
    if "name" in entry:
        return str(entry["name"])
    return next((tag for key, tag in _BY_KEY.items() if key in entry), None)


_BY_KEY = {"python": "python", "run": "reward-model"}
"""Names of rewards that a key of their own stands for."""

AnyReward = Annotated[
    Annotated[Exact, Tag("exact")]
    | Annotated[Number, Tag("number")]
    | Annotated[Math, Tag("math")]
    | Annotated[Regex, Tag("regex")]
    | Annotated[Format, Tag("format")]
    | Annotated[JsonSchema, Tag("json-schema")]
    | Annotated[Length, Tag("length")]
    | Annotated[Repetition, Tag("repetition")]
    | Annotated[Contains, Tag("contains")]
    | Annotated[Code, Tag("code")]
    | Annotated[RewardModel, Tag("reward-model")]
    | Annotated[Python, Tag("python")],
    Discriminator(tag_of_reward),
]
"""A reward function of a recipe, a union discriminated by `name`, or by the key `python` or `run`."""

REWARDS: Mapping[str, type[RewardFunction]] = {
    kind.model_fields["name"].default: kind for kind in (get_args(part)[0] for part in get_args(get_args(AnyReward)[0]))
}
"""Reward functions by name."""
