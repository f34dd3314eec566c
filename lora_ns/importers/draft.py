"""A translation in progress: the recipe, and the outcomes of the source's keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from lora_ns.errors import Problem
from lora_ns.importers.source import Source, is_blank
from lora_ns.importers.values import UnreadableError, flag, names, number, shown, text, whole

Fate = Literal["mapped", "default", "unused", "refused"]
"""Fates of a source key: written to the recipe, equal to lorans's default, not needed, or not carried over."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one source key."""

    key: str
    """Dotted key, as in `Source`."""
    value: Any
    line: int
    fate: Fate
    said: str = ""
    """The reason; always present for `unused` and `refused`."""
    recipe: tuple[str, ...] = ()
    """Dotted keys of the recipe that it was translated to."""
    remedy: str = ""
    """Advice to the user about a refused key."""
    fatal: bool = False
    """True if no recipe without this key can be equivalent, so that none is written."""

    @property
    def shown(self) -> str:
        """Key and value for messages, such as `lora_r: 32`, without secrets."""
        return shown(self.key, self.value)

    @property
    def is_blank(self) -> bool:
        """True if the key has no value, so that only its name is reported."""
        return self.fate == "unused" and is_blank(self.value)


@dataclass(frozen=True)
class Filled:
    """A recipe key that the source does not have. It is written because the other tool's default differs."""

    recipe: str
    value: Any
    said: str
    """The reason, such as "axolotl's default of `sequence_len`"."""


@dataclass(frozen=True)
class Translation:
    """A recipe, and the outcome of every source key."""

    tool: str
    source: Source
    recipe: Mapping[str, Any]
    """Values by dotted recipe key."""
    outcomes: tuple[Outcome, ...]
    """Outcomes of all leaves of the source, in the order of the file."""
    filled: tuple[Filled, ...]
    origins: Mapping[str, tuple[str, ...]]
    """Source keys by recipe key; empty for keys that were filled in."""
    notes: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    """Problems of the file as a whole, because of which no recipe is written."""
    paths: tuple[str, ...] = ()
    """Recipe keys with paths (or tables with a `path`) that the other tool resolves from the current folder."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts of files to write beside the recipe, by the recipe key that names the file."""

    @property
    def refused(self) -> tuple[Outcome, ...]:
        """Outcomes of the keys that are not carried over."""
        return tuple(outcome for outcome in self.outcomes if outcome.fate == "refused")

    @property
    def is_fatal(self) -> bool:
        """True if no recipe is to be written."""
        return bool(self.problems) or any(outcome.fatal for outcome in self.outcomes)


_NOT_FOR_PAIRS: Mapping[str, str] = {
    "sft.train_on": "with preferences, both answers of a pair are trained",
    "sft.packing": "pairs are not packed",
    "sft.loss_type": "it is a loss of fine-tuning",
    "sft.neftune_noise_alpha": "with preferences, lorans adds no noise to embeddings",
    "peft.lora_dropout": "with preferences, dropout is off: the reference would differ by chance",
}
"""Recipe keys that preference training does not have, with the reason."""


T = TypeVar("T")


@dataclass
class Draft:
    """A translation in progress: rules and steps read the source, write recipe keys, and account for source keys.

    Each source key is accounted for by `put`, `same`, `unused` or `refuse`. A refusal is final: later calls do not
    replace it, and nothing is written from a refused key.
    """

    tool: str
    source: Source
    gpus: int
    recipe: dict[str, Any] = field(default_factory=dict)
    filled: list[Filled] = field(default_factory=list)
    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    objective: str = "sft"
    """Table of the recipe that keys of `[sft]` are written to."""

    # Reading. A key that is missing, blank, or refused because its value is invalid gives the default.

    def get(self, key: str) -> Any:
        """Return a value as in the file; None if it is missing or blank."""
        return self.source.get(key)

    def has(self, key: str) -> bool:
        """True if a key is present and not blank."""
        return self.source.has(key)

    def number(self, key: str, default: float | None = None) -> Any:
        """Read a number."""
        return self.read(key, number, default)

    def whole(self, key: str, default: int | None = None) -> Any:
        """Read a whole number."""
        return self.read(key, whole, default)

    def flag(self, key: str, default: bool = False) -> bool:
        """Read true or false."""
        return bool(self.read(key, flag, default))

    def text(self, key: str, default: str | None = None) -> Any:
        """Read a string."""
        return self.read(key, text, default)

    def names(self, key: str) -> list[str]:
        """Read a list of strings; empty if there is none."""
        return list(self.read(key, names, []))

    def read(self, key: str, reader: Any, default: Any = None) -> Any:
        """Read a value with a reader of `importers/values.py`."""
        value = self.get(key)
        if value is None:
            return default
        try:
            return reader(value)
        except UnreadableError as fault:
            self.refuse(key, fault.what, fault.remedy)
            return default

    # Accounting

    def put(self, recipe: str, value: Any, *keys: str, own: Any = None, said: str = "") -> None:
        """Write a recipe key, and account for the source keys that it comes from.

        Args:
            recipe: the dotted recipe key.
            value: its value; None writes nothing.
            keys: the source keys. If all are missing, the value is reported as the other tool's default.
            own: lorans's constant default; an equal value is not written.
            said: a remark for the report.
        """
        given = tuple(key for key in keys if self.has(key))
        if self.objective != "sft" and recipe in _NOT_FOR_PAIRS:
            for key in given:
                self.unused(key, _NOT_FOR_PAIRS[recipe])
            return
        recipe = self.own(recipe)
        if value is None or any(self.is_refused(key) for key in given):
            return
        is_own = own == value and isinstance(own, bool) == isinstance(value, bool)
        if is_own and recipe not in self.recipe:
            for key in given:
                self._account(key, "default", said or f"`{recipe}` is {_as_text(value)} by default", (recipe,))
            return
        self.recipe[recipe] = value
        if not given:
            default = f"{self.tool}'s default" + (f" of `{keys[0]}`" if keys else "")
            self.filled.append(Filled(recipe, value, said or default))
        for key in given:
            self._account(key, "mapped", said, (recipe,))
        self.origins[recipe] = given

    def own(self, recipe: str) -> str:
        """Return a key of `[sft]` as that of the chosen objective; other keys are unchanged."""
        return f"{self.objective}.{recipe.removeprefix('sft.')}" if recipe.startswith("sft.") else recipe

    def same(self, key: str, said: str) -> None:
        """Account for a key that asks for lorans's own behaviour."""
        self._account(key, "default", said)

    def unused(self, key: str, why: str) -> None:
        """Account for a key that lorans does not need, because it does not change results."""
        self._account(key, "unused", why)

    def refuse(self, key: str, what: str, remedy: str, fatal: bool = False) -> None:
        """Account for a key that lorans does not support.

        Args:
            key: a leaf, or a table with everything in it.
            what: the reason.
            remedy: advice to the user, such as the closest recipe key.
            fatal: see `Outcome.fatal`.
        """
        self._account(key, "refused", what, remedy=remedy, fatal=fatal)

    def path(self, recipe: str, value: Any, *keys: str) -> None:
        """Like `put`, for a path or several, which are made relative to the recipe's folder later."""
        self.put(recipe, value, *keys)
        if (own := self.own(recipe)) in self.recipe:
            self.paths.append(own)

    def file(self, recipe: str, text: str, suffix: str, *keys: str) -> None:
        """Write a recipe key that names a file, which is written beside the recipe with this content."""
        self.put(recipe, suffix, *keys)
        if (own := self.own(recipe)) in self.recipe:
            self.files[own] = text

    def refuse_file(self, what: str, remedy: str) -> None:
        """Refuse the file as a whole, so that no recipe is written."""
        self.problems.append(Problem(str(self.source.path), what, remedy))

    def amend(self, key: str, text: str) -> None:
        """Put a remark before the reason of a key that is accounted for."""
        for leaf in self.source.below(key):
            if outcome := self.outcomes.get(leaf):
                self.outcomes[leaf] = replace(outcome, said="; ".join(part for part in (text, outcome.said) if part))

    def note(self, text: str) -> None:
        """Add a note about the whole translation."""
        if text not in self.notes:
            self.notes.append(text)

    def is_refused(self, key: str) -> bool:
        """True if a key, or something in it, was refused."""
        found = (self.outcomes.get(leaf) for leaf in self.source.below(key))
        return any(outcome is not None and outcome.fate == "refused" for outcome in found)

    def is_accounted(self, key: str) -> bool:
        """True if every leaf of a key has an outcome."""
        return all(leaf in self.outcomes for leaf in self.source.below(key))

    def _account(
        self, key: str, fate: Fate, said: str, recipe: tuple[str, ...] = (), remedy: str = "", fatal: bool = False
    ) -> None:
        for leaf in self.source.below(key):
            before = self.outcomes.get(leaf)
            if before and before.fate == "refused" and not (fatal and not before.fatal):
                continue
            value = self.source.values[leaf]
            if is_blank(value) and fate != "refused":
                continue  # blank keys are reported as such
            if before and before.fate == "mapped" and fate in ("mapped", "default"):
                recipe = (*dict.fromkeys((*before.recipe, *recipe)),)
                fate, said = "mapped", said or before.said
            self.outcomes[leaf] = Outcome(leaf, value, self.source.lines[leaf], fate, said, recipe, remedy, fatal)


def _as_text(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else f"{value}"
