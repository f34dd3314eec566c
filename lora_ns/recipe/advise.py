"""Turn a foreign name into the keys and values to write in the recipe at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.errors import plain_name
from lora_ns.objectives import OBJECTIVE_TABLES, objective_of, objectives_of
from lora_ns.recipe.advice import OWN, Advice
from lora_ns.recipe.foreign_names import KEYS, VALUES
from lora_ns.recipe.keys import UNIONS, as_toml, known_keys, schema_of, tag_of, types_of
from lora_ns.recipe.objective_tables import chosen_objective, kinds_of

_LONGEST_VALUE = 60
"""Characters of a value that is repeated in advice."""


@dataclass(frozen=True)
class Adviser:
    """Gives advice for one recipe, valid or not: its method and objective choose among keys."""

    tables: Mapping[str, Any]
    is_override: bool = False
    """True if the name comes from `--set`; the advice is then written as an override."""

    def on_key(self, owner: str, name: str, value: Any) -> str:
        """Return the advice for a key that the table `owner` does not have, empty if there is none."""
        advice = KEYS.get(plain_name(name))
        return self._spelt(advice.on(value), owner, value) if advice else ""

    def on_value(self, dotted: str, value: Any) -> str:
        """Return the advice for a value that a key does not take, empty if there is none."""
        owner, _, name = dotted.rpartition(".")
        if isinstance(value, str) and dotted in _KEY_OF_TABLE:
            return self._spelt(Advice({(_KEY_OF_TABLE[dotted],): OWN}).on(value), "", value)
        if isinstance(value, str) and (number := self._without_quotes(dotted, value)):
            return f"write {number}, without quotes"
        if dotted == "peft.target_modules" and isinstance(value, str) and "," in value:
            names = [part.strip() for part in value.split(",")]
            return f"write `{name} = {as_toml(names)}`"
        advice = VALUES.get(dotted, {}).get(plain_name(value))
        return self._spelt(advice, owner, value) if advice else ""

    def _without_quotes(self, dotted: str, value: str) -> str:
        """Return the number or truth value that a key wants and has in quotes, empty if it is none."""
        kinds = types_of(schema_of(dotted, self.tables) or {})
        if "boolean" in kinds and value.lower() in {"true", "false"}:
            return value.lower()
        if not kinds & {"integer", "number"}:
            return ""
        try:
            number = float(value)
        except ValueError:
            return ""
        is_whole = number.is_integer() and ("integer" in kinds or "." not in value)
        return as_toml(int(number) if is_whole and "integer" in kinds else number)

    def _spelt(self, advice: Advice, owner: str, value: Any) -> str:
        settings = self._settings(advice, value)
        if settings is None:
            return ""
        if not settings:
            return advice.remark
        places: dict[str, list[str]] = {}
        for dotted, spelt in settings:
            table, _, name = dotted.rpartition(".")
            if self.is_override:
                places.setdefault("", []).append(f"`{dotted}={spelt or '...'}`")
            else:
                places.setdefault(table, []).append(f"`{name} = {spelt}`" if spelt else f"`{name}`")
        listed = [_in_table(table, items, owner, self.is_override) for table, items in places.items()]
        return "write " + " and ".join(listed) + (f" ({advice.remark})" if advice.remark else "")

    def _settings(self, advice: Advice, value: Any) -> list[tuple[str, str]] | None:
        """Return keys with values that are not in the recipe yet; None if the method or the objective lacks one."""
        chosen = {
            key.partition(".")[0] for keys in advice.keys for key in keys if key.endswith((".method", ".strategy"))
        }
        found: list[tuple[str, str]] = []
        for keys, setting in advice.keys.items():
            key = next((key for key in keys if key.partition(".")[0] in chosen or self._has(key)), None)
            key = key or next(filter(self._could_have, keys), None)
            if key is None:
                return None
            written = self._own(key, value) if setting is OWN else as_toml(setting)
            if setting is OWN or self._written(key) != setting:
                found.append((key, written))
        return found or [(keys[0], as_toml(setting)) for keys, setting in advice.keys.items()]

    def _has(self, dotted: str) -> bool:
        """Return whether this recipe can have a key."""
        owner = dotted.partition(".")[0]
        if owner in OBJECTIVE_TABLES and owner != chosen_objective(self.tables).toml:
            return False
        return dotted in set(known_keys(self.tables)) or dotted in {f"{name}.{tag_of(name)}" for name in UNIONS}

    def _could_have(self, dotted: str) -> bool:
        """Return whether this recipe, with the usual objective of its task, could choose another that has a key."""
        chosen = chosen_objective(self.tables)
        is_usual = chosen is objective_of(chosen.task_type)
        same_task = objectives_of(chosen.task_type)
        return is_usual and any(kind in same_task for kind in kinds_of(dotted.partition(".")[0]))

    def _written(self, dotted: str) -> Any:
        found: Any = self.tables
        for name in dotted.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    def _own(self, dotted: str, value: Any) -> str:
        """Spell the user's value for another key; empty if it is long, or no value for it."""
        if isinstance(value, str) and (number := self._without_quotes(dotted, value)):
            return number
        is_plain = isinstance(value, (str, int, float)) or (
            isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value)
        )
        spelt = as_toml(value) if is_plain else ""
        kinds = types_of(schema_of(dotted, self.tables) or {})
        return spelt if len(spelt) <= _LONGEST_VALUE and (_json_type(value) & kinds or not kinds) else ""


_KEY_OF_TABLE: Mapping[str, str] = {
    "model": "model.name_or_path",
    "dataset": "dataset.path",
    **{union: f"{union}.{tag_of(union)}" for union in UNIONS},
}
"""The key that a text is meant for where a table is expected."""


def _in_table(table: str, items: Sequence[str], owner: str, is_override: bool) -> str:
    listed = " and ".join(items)
    if is_override or table == owner:
        return listed
    return f"{listed} in `[{table}]`" if table else f"{listed} at the top"


def _json_type(value: Any) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    return {"number"} if isinstance(value, float) else {"string"} if isinstance(value, str) else {"array"}


def setting_of(name: str, value: str, only: str = "") -> str:
    """Return the override that stands for an option, such as `training.learning_rate=2e-4`.

    Args:
        name: the option without its dashes, such as `lr` or `learning-rate`.
        value: the value that was given to it, empty for none.
        only: the only table whose keys can be overridden, empty for all.

    Returns:
        An empty string if no key has this name.
    """
    shown = value or "..."
    keys = [key for key in known_keys() if plain_name(key.rpartition(".")[2]) == plain_name(name)]
    keys = [key for key in keys if not only or key.startswith(f"{only}.")]
    if keys and (only or plain_name(name) not in KEYS):
        return f"{_likeliest(keys)}={shown}"
    advice = KEYS.get(plain_name(name))
    settings = (advice.on(value) if value else advice).keys.items() if advice else ()
    found = [(keys[0], setting) for keys, setting in settings if not only or keys[0].startswith(f"{only}.")]
    return " --set ".join(f"{key}={shown if setting is OWN else as_toml(setting)}" for key, setting in found)


def _likeliest(keys: Sequence[str]) -> str:
    """Return the key of the table that a training is about."""
    order = ("training", "peft", "dataset", "model", "sft")
    return min(
        keys, key=lambda key: order.index(key.partition(".")[0]) if key.partition(".")[0] in order else len(order)
    )
