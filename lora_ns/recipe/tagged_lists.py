"""The keys that are lists of tables of several classes, such as `[[grpo.rewards]]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from lora_ns.objectives import OBJECTIVES
from lora_ns.recipe.recipe import Recipe
from lora_ns.rewards import REWARDS, AnyReward, RewardFunction, tag_of_reward
from lora_ns.suites import SUITES, AnySuite, Suite
from lora_ns.table import Table


@dataclass(frozen=True)
class TaggedList:
    """A kind of list whose tables are of several classes, chosen by a tag."""

    union: Any
    """Type of a table."""
    tag: str
    """Key that chooses the class."""
    classes: Mapping[str, type[Table]]
    """Classes by tag."""
    base: type[Table]
    """Class with the keys that all tables have."""
    tag_of: Callable[[Any], str | None]
    """Function from a table, valid or not, to its tag; None if it has none."""
    stand_in: Mapping[str, Any]
    """Smallest valid table."""

    def class_of(self, entry: Any) -> type[Table]:
        """Return the class of a table, valid or not; if its tag is missing or unknown, the base class."""
        return self.classes.get(self.tag_of(entry) or "", self.base)


def _kind_of(entry: Any) -> str | None:
    kind = entry.get("kind") if isinstance(entry, Mapping) else None
    return kind if isinstance(kind, str) else None


_KINDS = (
    TaggedList(AnyReward, "name", REWARDS, RewardFunction, tag_of_reward, {"name": "exact"}),
    TaggedList(AnySuite, "kind", SUITES, Suite, _kind_of, {"kind": "held-out"}),
)


def _lists_of(owner: str, model: type[Table]) -> Iterator[tuple[str, TaggedList]]:
    for name, info in model.model_fields.items():
        if get_origin(info.annotation) is tuple:
            item = get_args(info.annotation)[0]
            yield from ((f"{owner}.{name}", kind) for kind in _KINDS if item == kind.union)


def _tables() -> Iterator[tuple[str, type[Table]]]:
    yield from ((kind.toml, kind) for kind in OBJECTIVES.values())
    for name, info in Recipe.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Table):
            yield name, info.annotation


TAGGED_LISTS: Mapping[str, TaggedList] = {
    key: kind for owner, model in _tables() for key, kind in _lists_of(owner, model)
}
"""Lists of tables of several classes, by their dotted keys, such as `grpo.rewards` and `evaluation.suites`."""


TAG_PLACE = 3
"""Index of the tag in pydantic's location of an error: after the owner, the list and the number of the table."""


def tagged_list(keys: Sequence[int | str]) -> TaggedList | None:
    """Return the list that holds the table or key at this place, or is at it; None if there is none."""
    return TAGGED_LISTS.get(".".join(map(str, keys[:2])))
