"""An importer: what a tool's keys become, as a table of rules and a few steps."""

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
    """Source keys that belong together, and the function that translates them; it runs even if none is there."""

    run: Callable[[Draft], None]
    keys: tuple[str, ...]
    """What it accounts for: keys at the top, with all that is in them."""


MOST_GUESSES = 100
"""Unknown keys of which it is found out what was meant, which takes a while for each."""


@dataclass(frozen=True)
class Importer:
    """The keys of one tool."""

    name: str
    """As its users and `--from` call it."""
    signs: tuple[str, ...]
    """Keys at the top that only this tool has: the tool with most of them in a file is taken."""
    rules: Mapping[str, Rule]
    """By source key, dotted. A rule for a table accounts for all that is in it."""
    steps: tuple[Step, ...]
    """In their order; they run before the rules."""
    looks: Callable[[Source], bool] | None = None
    """Tells its files by more than their keys at the top, whatever these are."""

    @property
    def known(self) -> tuple[str, ...]:
        """Every key that it accounts for."""
        return (*self.rules, *(key for step in self.steps for key in step.keys))

    def likeness(self, source: Source) -> int:
        """How many of its signs a file has."""
        if self.looks is not None and self.looks(source):
            return len(source.names) + 1
        return sum(name in self.signs for name in source.names)

    def translate(self, source: Source, gpus: int) -> Translation:
        """A recipe of a configuration, with the end of each of its keys.

        Args:
            source: the configuration.
            gpus: the devices that it was written for, where its batches are per device.
        """
        draft = Draft(self.name, source, gpus)
        for step in self.steps:
            step.run(draft)
        for key, rule in self.rules.items():
            if draft.has(key):
                rule(draft, key)
        guesses = iter(range(MOST_GUESSES))
        outcomes = tuple(draft.outcomes.get(leaf) or self._left(source, leaf, guesses) for leaf in source.leaves)
        twice = (f"`{key}` is there twice: the last one counts, as in {self.name}" for key in source.repeated)
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
        """The end of a key that no step and no rule accounted for."""
        value, line = source.values[leaf], source.lines[leaf]
        if is_blank(value):
            return Outcome(leaf, value, line, "unused", "it is blank, which is as good as absent")
        if is_secret_name(leaf.rpartition(".")[2]):
            return Outcome(leaf, value, line, "unused", "a secret is read from the environment, such as `HF_TOKEN`")
        owners = [leaf[: len(part)] for part in _owners(leaf)]
        if any(owner in self.known for owner in owners):
            return Outcome(
                leaf, value, line, "refused", "lorans does not read this", remedy="remove it if you can do without it"
            )
        meant = did_you_mean(leaf, self.known) if next(guesses, None) is not None else ""
        return Outcome(leaf, value, line, "refused", f"unknown to {self.name}", remedy=meant or "remove it")


def _owners(key: str) -> list[str]:
    """A dotted key and the tables around it."""
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
