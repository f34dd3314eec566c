"""Fill recipe keys from an accelerate configuration file. Keys that both give must agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_ns.errors import Problem, RecipeError
from lora_ns.files.reading import LARGEST_YAML, read_text
from lora_ns.recipe.accelerate_file import AccelerateFile, Setting, parse_accelerate
from lora_ns.recipe.distributed import STRATEGIES
from lora_ns.recipe.keys import as_toml
from lora_ns.table import control_in

KEY = "distributed.accelerate_config"


@dataclass(frozen=True)
class Filled:
    """Keys that a file added to a recipe; empty if the recipe names no file."""

    file: AccelerateFile | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    """The place in the file, by the dotted key that it filled."""
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def fill(
    table: dict[str, Any], path: Path, text: str | None, origin: Callable[[str], str], where: Callable[[str], str]
) -> Filled:
    """Fill the tables of a recipe from the file that it names, if it names one.

    Args:
        table: the recipe's tables with the overrides in them; changed.
        path: the recipe; the file's path is relative to its folder.
        text: recorded content of the file, to use instead of reading it.
        origin: returns the origin of a dotted key's value.
        where: returns the place of a dotted key.

    Raises:
        RecipeError: if the file cannot be read. Contradictions with the recipe are in the result's `problems`.
    """
    asked = table.get("distributed")
    name = asked.get("accelerate_config") if isinstance(asked, dict) else None
    if not isinstance(asked, dict) or not isinstance(name, str) or control_in(name):
        return Filled()  # an invalid name is reported with the other keys
    given = Path(name).expanduser()
    file = parse_accelerate(
        path.parent / given, _read(path.parent / given, where) if text is None else text, given.parent
    )
    filling = _Filling(table, origin)
    for setting in file.settings:
        filling.take(setting)
    if file.problems:
        asked.setdefault("strategy", "ddp")  # so that the rest of the recipe can be checked
    return Filled(file, filling.places, (*file.notes, *filling.notes), (*file.problems, *filling.problems))


def _read(file: Path, where: Callable[[str], str]) -> str:
    remedy = "name a YAML file from `accelerate config`"
    return read_text(
        file,
        RecipeError,
        where=where(KEY),
        before=f"{KEY}: {file} ",
        most=LARGEST_YAML,
        remedy=remedy,
        if_missing=remedy,
        if_folder=remedy,
    )


class _Filling:
    """Fills the tables of a recipe."""

    def __init__(self, table: dict[str, Any], origin: Callable[[str], str]) -> None:
        self._table, self._origin = table, origin
        self.places: dict[str, str] = {}
        self.notes: list[str] = []
        self.problems: list[Problem] = []

    def take(self, setting: Setting) -> None:
        """Set a value, or record a note or a problem if the recipe has another one."""
        owner, _, name = setting.key.partition(".")
        table = self._table.get(owner)
        if not isinstance(table, dict):
            return  # reported as a problem of its own
        strategy = "distributed.strategy"
        if owner == "distributed" and setting.key != strategy and not self._has(name):
            if self._origin(strategy) == "--set":
                self._pass_over(setting, strategy)
            return  # the strategies contradict, which is reported once
        rival = _RIVALS.get(setting.key)
        key = rival if rival and rival.partition(".")[2] in table else setting.key
        now = table.get(key.partition(".")[2], "auto")
        if now == setting.value and key == setting.key:
            return
        if self._origin(key) == "--set":
            self._pass_over(setting, key)
        elif now == "auto":
            table[name] = setting.value
            self.places[setting.key] = setting.where
        else:
            who = self.places.get(key, f"the recipe (`{key}`)")
            what = f"{setting.shown}, but {who} says {as_toml(now)}"
            self.problems.append(Problem(setting.where, what, "make them agree"))

    def _has(self, name: str) -> bool:
        """Return whether the strategy has a key."""
        strategy = STRATEGIES.get(str(self._table["distributed"].get("strategy")))
        return strategy is not None and name in strategy.model_fields

    def _pass_over(self, setting: Setting, key: str) -> None:
        self.notes.append(f"{setting.where}: {setting.shown} has no effect: `--set {key}` overrides it")


_RIVALS = {"training.gradient_accumulation_steps": "training.global_batch_size"}
"""Pairs of keys that set the same thing."""
