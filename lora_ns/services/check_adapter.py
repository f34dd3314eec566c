"""An adapter folder, checked for the programs that are to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ns.errors import Problem, UsageError, did_you_mean
from lora_ns.readers import READERS, Adapter, Finding, Reader, Severity, faults, read_adapter

_WORST: tuple[Severity, ...] = ("refused", "wrong", "right")


@dataclass(frozen=True)
class Reading:
    """What one reader makes of the adapter."""

    reader: str
    title: str
    described: str
    """Version whose behaviour this is."""
    verdict: Severity
    """The worst of the findings."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class AdapterCheck:
    """The check of an adapter folder."""

    adapter: str
    peft_type: str
    layers: int
    run: str | None
    """Run directory that it belongs to."""
    faults: tuple[Finding, ...]
    """Faults of the folder, whoever reads it."""
    readings: tuple[Reading, ...]

    @property
    def is_read_right(self) -> bool:
        """True if the folder has no fault and every reader reads it right."""
        return all(one.severity == "right" for one in self.faults) and all(
            one.verdict == "right" for one in self.readings
        )


def check_adapter(folder: Path, names: Sequence[str] = ()) -> AdapterCheck:
    """Check an adapter folder for some readers, by default for all.

    Raises:
        UsageError: if there is no such reader or no adapter.
        ModelError: if its weights are damaged.
    """
    readers = [_reader(name) for name in dict.fromkeys(names or READERS)]
    adapter = read_adapter(folder)
    return AdapterCheck(
        adapter=str(adapter.folder),
        peft_type=adapter.peft_type,
        layers=len(adapter.layers),
        run=None if adapter.run is None else str(adapter.run),
        faults=tuple(faults(adapter)),
        readings=tuple(_read(reader, adapter) for reader in readers),
    )


def _reader(name: str) -> Reader:
    if name not in READERS:
        remedy = did_you_mean(name, READERS, beside=f"the readers are {', '.join(READERS)}")
        raise UsageError(Problem("--for", f"no reader `{name}`", remedy))
    return READERS[name]


def _read(reader: Reader, adapter: Adapter) -> Reading:
    found = tuple(sorted(reader.read(adapter), key=lambda one: _WORST.index(one.severity)))
    return Reading(reader.name, reader.title, reader.described, found[0].severity, found)
