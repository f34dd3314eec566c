"""The recipe while it is being translated, with the account of the source's keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from lora_ns.errors import Problem
from lora_ns.importers.source import Source, is_blank
from lora_ns.importers.values import UnreadableError, flag, names, number, shown, text, whole

Fate = Literal["mapped", "default", "unused", "refused"]
"""Ends of a source key: in the recipe, equal to what lorans does anyway, without meaning here, or not to be had."""


@dataclass(frozen=True)
class Outcome:
    """The end of one key of the source."""

    key: str
    """Dotted, as in `Source`."""
    value: Any
    line: int
    fate: Fate
    said: str = ""
    """Why: for `unused` and `refused` always, for the others where there is something to say."""
    recipe: tuple[str, ...] = ()
    """Dotted keys of the recipe that it became."""
    remedy: str = ""
    """What to do; of `refused`."""
    fatal: bool = False
    """Whether a recipe without it would be another training altogether, so that none is written."""

    @property
    def shown(self) -> str:
        """`lora_r: 32`, without secrets."""
        return shown(self.key, self.value)

    @property
    def is_blank(self) -> bool:
        """Whether the key has no value, and nothing more is said of it."""
        return self.fate == "unused" and is_blank(self.value)


@dataclass(frozen=True)
class Filled:
    """A recipe key that the source leaves out, and that is written because the other tool's default is not ours."""

    recipe: str
    value: Any
    said: str
    """Such as "axolotl's default of `sequence_len`"."""


@dataclass(frozen=True)
class Translation:
    """A recipe and the account of every key that it came from."""

    tool: str
    source: Source
    recipe: Mapping[str, Any]
    """Values by dotted recipe key."""
    outcomes: tuple[Outcome, ...]
    """One for each leaf of the source, in the order of the file."""
    filled: tuple[Filled, ...]
    origins: Mapping[str, tuple[str, ...]]
    """Source keys by recipe key; empty for what was filled in."""
    notes: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    """What is wrong with the file as a whole, so that nothing is to be written."""
    paths: tuple[str, ...] = ()
    """Recipe keys whose values, or the `path` in them, are read from the current folder by the other tool."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts by the recipe keys that are to name a file with them, which is written beside the recipe."""

    @property
    def refused(self) -> tuple[Outcome, ...]:
        """The keys that were not to be had."""
        return tuple(outcome for outcome in self.outcomes if outcome.fate == "refused")

    @property
    def is_fatal(self) -> bool:
        """Whether nothing is to be written."""
        return bool(self.problems) or any(outcome.fatal for outcome in self.outcomes)


T = TypeVar("T")


@dataclass
class Draft:
    """A translation in the making: rules and steps read the source, write recipe keys, and account for source keys.

    Each source key is accounted for by `put`, `same`, `unused` or `refuse`. A refusal stays, whatever comes later, and
    nothing is written from a key that was refused.
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

    # Reading: the default where a key is absent, blank, or refused because its value cannot be read.

    def get(self, key: str) -> Any:
        """The value as the file has it; None if it is absent or blank."""
        return self.source.get(key)

    def has(self, key: str) -> bool:
        """Whether a key is there and not blank."""
        return self.source.has(key)

    def number(self, key: str, default: float | None = None) -> Any:
        """A number."""
        return self.read(key, number, default)

    def whole(self, key: str, default: int | None = None) -> Any:
        """A whole number."""
        return self.read(key, whole, default)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        return bool(self.read(key, flag, default))

    def text(self, key: str, default: str | None = None) -> Any:
        """A text."""
        return self.read(key, text, default)

    def names(self, key: str) -> list[str]:
        """A list of texts, empty if there is none."""
        return list(self.read(key, names, []))

    def read(self, key: str, reader: Any, default: Any = None) -> Any:
        """A value by a reader of `importers/values.py`."""
        value = self.get(key)
        if value is None:
            return default
        try:
            return reader(value)
        except UnreadableError as fault:
            self.refuse(key, fault.what, fault.remedy)
            return default

    # Accounting.

    def put(self, recipe: str, value: Any, *keys: str, own: Any = None, said: str = "") -> None:
        """Write a recipe key that comes of these source keys.

        Args:
            recipe: the dotted recipe key.
            value: its value; None writes nothing.
            keys: the source keys. Where none of them is there, the value is the other tool's default, and is reported.
            own: lorans's own constant default: a value that equals it is not written.
            said: what there is to say of it.
        """
        given = tuple(key for key in keys if self.has(key))
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

    def same(self, key: str, said: str) -> None:
        """Account for a key that asks for what lorans does anyway."""
        self._account(key, "default", said)

    def unused(self, key: str, why: str) -> None:
        """Account for a key that has no meaning here and changes nothing that is learned."""
        self._account(key, "unused", why)

    def refuse(self, key: str, what: str, remedy: str, fatal: bool = False) -> None:
        """Account for a key that lorans cannot do.

        Args:
            key: a leaf, or a table with all that is in it.
            what: the reason.
            remedy: what to do, such as the recipe key that comes nearest.
            fatal: see `Outcome.fatal`.
        """
        self._account(key, "refused", what, remedy=remedy, fatal=fatal)

    def path(self, recipe: str, value: Any, *keys: str) -> None:
        """The same of a path, or several: it will hold from the folder of the recipe."""
        self.put(recipe, value, *keys)
        if recipe in self.recipe:
            self.paths.append(recipe)

    def file(self, recipe: str, text: str, suffix: str, *keys: str) -> None:
        """Write a recipe key that names a file with this text, which is written beside the recipe."""
        self.put(recipe, suffix, *keys)
        if recipe in self.recipe:
            self.files[recipe] = text

    def refuse_file(self, what: str, remedy: str) -> None:
        """Say that the file as a whole is another training, so that nothing is written."""
        self.problems.append(Problem(str(self.source.path), what, remedy))

    def amend(self, key: str, text: str) -> None:
        """Put a remark before what is said of a key that is accounted for."""
        for leaf in self.source.below(key):
            if outcome := self.outcomes.get(leaf):
                self.outcomes[leaf] = replace(outcome, said="; ".join(part for part in (text, outcome.said) if part))

    def note(self, text: str) -> None:
        """Say something about the whole."""
        if text not in self.notes:
            self.notes.append(text)

    def is_refused(self, key: str) -> bool:
        """Whether a key, or something in it, was refused."""
        found = (self.outcomes.get(leaf) for leaf in self.source.below(key))
        return any(outcome is not None and outcome.fate == "refused" for outcome in found)

    def is_accounted(self, key: str) -> bool:
        """Whether every leaf of a key has its outcome."""
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
                continue  # it is said of blank keys that they are
            if before and before.fate == "mapped" and fate in ("mapped", "default"):
                recipe = (*dict.fromkeys((*before.recipe, *recipe)),)
                fate, said = "mapped", said or before.said
            self.outcomes[leaf] = Outcome(leaf, value, self.source.lines[leaf], fate, said, recipe, remedy, fatal)


def _as_text(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else f"{value}"
