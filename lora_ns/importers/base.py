"""Importers: translations of a tool's keys, as a table of rules and a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lora_ns.errors import did_you_mean
from lora_ns.importers.draft import Draft, Outcome, Translation
from lora_ns.importers.rules import Rule
from lora_ns.importers.source import Source, is_blank
from lora_ns.safety.credentials import is_secret_name


@dataclass(frozen=True)
class Step:
    """Source keys that belong together, and the function that translates them, even if all of them are missing."""

    run: Callable[[Draft], None]
    keys: tuple[str, ...]
    """Top-level keys that it accounts for, with everything in them."""


MOST_GUESSES = 100
"""Unknown keys for which a similar key is searched, which is slow for many."""


@dataclass(frozen=True)
class Importer:
    """Translation of one tool's configurations."""

    name: str
    """Name of the tool, also for `--from`."""
    signs: tuple[str, ...]
    """Top-level keys that only this tool has. The tool with most of them in a file is chosen."""
    rules: Mapping[str, Rule]
    """Rules by dotted source key. A rule for a table accounts for everything in it."""
    steps: tuple[Step, ...]
    """Steps in order; they run before the rules."""
    looks: Callable[[Source], bool] | None = None
    """Recognises the tool's files by more than their keys at the top."""

    @property
    def known(self) -> tuple[str, ...]:
        """Every key that the importer accounts for."""
        return (*self.rules, *(key for step in self.steps for key in step.keys))

    def likeness(self, source: Source) -> int:
        """Return the number of this tool's signs in a file."""
        if self.looks is not None and self.looks(source):
            return len(source.names) + 1
        return sum(name in self.signs for name in source.names)

    def translate(self, source: Source, gpus: int) -> Translation:
        """Translate a configuration into a recipe, with an outcome for each of its keys.

        Args:
            source: the configuration.
            gpus: number of devices that it was written for, if its batches are per device.
        """
        draft = Draft(self.name, source, gpus)
        for step in self.steps:
            step.run(draft)
        for key, rule in self.rules.items():
            if draft.has(key):
                rule(draft, key)
        guesses = iter(range(MOST_GUESSES))
        outcomes = tuple(draft.outcomes.get(leaf) or self._left(source, leaf, guesses) for leaf in source.leaves)
        twice = (f"`{key}` appears twice; lorans uses the last one, as {self.name} does" for key in source.repeated)
        return Translation(
            self.name,
            source,
            draft.recipe,
            outcomes,
            tuple(draft.filled),
            draft.origins,
            (*draft.notes, *twice),
            tuple(draft.problems),
            tuple(draft.paths),
            draft.files,
        )

    def _left(self, source: Source, leaf: str, guesses: Iterator[int]) -> Outcome:
        """Return the outcome of a key that no step and no rule accounted for."""
        value, line = source.values[leaf], source.lines[leaf]
        if is_blank(value):
            return Outcome(leaf, value, line, "unused", "blank")
        if is_secret_name(leaf.rpartition(".")[2]):
            return Outcome(leaf, value, line, "unused", "lorans reads secrets from the environment, such as `HF_TOKEN`")
        owners = [leaf[: len(part)] for part in _owners(leaf)]
        if any(owner in self.known for owner in owners):
            return Outcome(
                leaf,
                value,
                line,
                "refused",
                "lorans does not support this key",
                remedy="remove it if you do not need it",
            )
        meant = did_you_mean(leaf, self.known) if next(guesses, None) is not None else ""
        return Outcome(leaf, value, line, "refused", f"unknown to {self.name}", remedy=meant or "remove it")


def _owners(key: str) -> list[str]:
    """Return a dotted key and the tables that contain it."""
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
