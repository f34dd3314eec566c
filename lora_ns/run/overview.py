"""What the files of a run say about it, quickly: for tables of many runs, and for following a run from anywhere.

The manifest is read as plain JSON, not validated: a damaged one is a note, and five hundred take well under a second.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

from lora_ns.errors import Problem, UsageError
from lora_ns.files.locks import is_locked
from lora_ns.files.reading import MIB, NotAFileError, open_file, read_bytes
from lora_ns.recipe.directions import is_lower_better
from lora_ns.run.paths import RunPaths
from lora_ns.safety.credentials import scrubbed

State = Literal["started", "running", "finished", "failed", "interrupted", "killed", "damaged"]
"""State of a run. The manifest never says `killed` (no process trains it any more) and `damaged` (it is unreadable)."""


IN_PROGRESS = ("started", "running")


LONGEST_TAIL = 4 * MIB
"""Bytes at the end of a metrics file that are searched for the last rows and the evaluations."""


QUIET_SECONDS = 900.0
"""Seconds without a sign of life after which a run whose lock cannot be seen counts as killed."""


@dataclass(frozen=True)
class Best:
    """The figure by which a run is judged."""

    name: str
    """Such as `exact match.exact_match`, or `eval_loss`."""
    value: float
    low: float | None = None
    """Lower end of its 95 % interval; None if none was measured."""
    high: float | None = None
    is_share: bool = False
    """True for a share of the items, which is shown in percent."""
    step: int | None = None
    """The step at which it was measured, for a metric of `metrics.jsonl`."""


@dataclass(frozen=True)
class Overview:
    """What the files of a run say about it. A value is None if they do not say it."""

    run: str
    """The run directory."""
    status: State
    step: int = 0
    """The last step that was logged."""
    max_steps: int | None = None
    seconds_left: float | None = None
    """Estimate for a run in training, from its pace so far."""
    best: Best | None = None
    loss: float | None = None
    """The last training loss."""
    eval_loss: float | None = None
    """The last held-out loss."""
    data: str | None = None
    rows: int | None = None
    """Training rows."""
    method: str | None = None
    objective: str | None = None
    base: str | None = None
    task_name: str | None = None
    run_id: str | None = None
    created: str | None = None
    updated: str | None = None
    """Time of the last change of its files."""
    size: int = 0
    """Bytes of all its files."""
    error: str | None = None
    notes: tuple[str, ...] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The manifest as it was read."""

    @property
    def is_in_progress(self) -> bool:
        """True for a run that a process trains, or is about to."""
        return self.status in IN_PROGRESS

    @property
    def progress(self) -> float | None:
        """Share of the steps that are done, at most 1."""
        return min(1.0, self.step / self.max_steps) if self.max_steps else None


def overview(path: Path, measures_size: bool = True, now: float | None = None) -> Overview:
    """Return what the files of a run say about it.

    Args:
        path: the run directory.
        measures_size: add up the sizes of all its files.
        now: the current time, in seconds since 1970.
    """
    files, moment = RunPaths(path), time.time() if now is None else now
    try:
        manifest = read_manifest(path)
    except UsageError as error:
        size = size_of(path) if measures_size else 0
        return Overview(str(path), "damaged", size=size, notes=(str(error),))
    rows, notes = last_rows(files.metrics)
    seen = _seen(files)
    status, why = _status(path, manifest, seen, moment)
    step = max((row["step"] for row in rows), default=0)
    max_steps = _count(manifest, "plan", "max_steps", "value")
    ended_by = text_in(manifest, "error")
    return Overview(
        str(path),
        status,
        step=step,
        max_steps=max_steps,
        seconds_left=seconds_left(rows, max_steps) if status == "running" else None,
        best=_best(files, manifest, rows),
        loss=_last(rows, "loss"),
        eval_loss=_last(rows, "eval_loss"),
        data=data_of(manifest),
        rows=_count(manifest, "data", "train", "rows"),
        method=text_in(manifest, "recipe", "peft", "method"),
        objective=text_in(manifest, "plan", "objective", "value") or text_in(manifest, "recipe", "task_type"),
        base=text_in(manifest, "base", "name"),
        task_name=text_in(manifest, "recipe", "task_name"),
        run_id=text_in(manifest, "run_id"),
        created=text_in(manifest, "created"),
        updated=datetime.fromtimestamp(seen).astimezone().isoformat(timespec="seconds") if seen else None,
        size=size_of(path) if measures_size else 0,
        error=scrubbed(ended_by) if ended_by else None,
        notes=(*why, *notes),
        manifest=manifest,
    )


# Reading


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a run without checking its values.

    Raises:
        UsageError: if it is missing, is no JSON table, or is too large.
    """
    file = RunPaths(path).manifest_file
    content = read_bytes(file, before="not a manifest: ", if_missing="name the `output_dir` of a run")
    try:
        table = from_json(content)
    except ValueError as error:
        remedy = "restore it from a copy; the other files of the run are still there"
        raise UsageError(Problem(str(file), f"not a manifest: {error}", remedy)) from None
    if not isinstance(table, dict) or not isinstance(table.get("run_id"), str):
        raise UsageError(Problem(str(file), "not a manifest: it has no `run_id`", "name the `output_dir` of a run"))
    return table


def within(table: object, *keys: str) -> Any:
    """Return the value at a path of keys in nested tables; None if there is none."""
    for key in keys:
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def text_in(table: object, *keys: str) -> str | None:
    """Return the text at a path of keys; None for anything else."""
    found = within(table, *keys)
    return found if isinstance(found, str) else None


def _count(table: object, *keys: str) -> int | None:
    found = within(table, *keys)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def number_in(row: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number of a row; None for anything else."""
    found = row.get(key)
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return float(found) if is_number and math.isfinite(found) else None  # type: ignore[arg-type]


def data_of(manifest: Mapping[str, Any]) -> str | None:
    """Return the name of the training rows; of several sources, the names of all."""
    parts = within(manifest, "data", "sources")
    names = [name for part in parts if (name := text_in(part, "source"))] if isinstance(parts, list) else []
    return " + ".join(names) or text_in(manifest, "data", "train", "source")


def last_rows(file: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return the rows that an overview needs, from the end of a metrics file, and notes.

    These are all evaluations, and the last rows of training. Half a line at the end is a line that is being written.
    """
    try:
        with open_file(file) as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - LONGEST_TAIL))
            content = opened.read()
    except NotAFileError as fault:
        return [], () if fault.is_missing else (f"{file.name}: {fault.what}, so it is skipped",)
    except OSError as fault:
        return [], (f"{file.name}: cannot be read: {fault.strerror}",)
    lines = content.split(b"\n")[1 if size > LONGEST_TAIL else 0 :]
    chosen = [*(line for line in lines[:-_LAST_LINES] if b'"eval_' in line), *lines[-_LAST_LINES:]]
    return [row for line in chosen if (row := parsed_row(line)) is not None], ()


_LAST_LINES = 16


def parsed_row(line: bytes) -> dict[str, Any] | None:
    """Return a line of a metrics file as a row with a step; None if it is none."""
    try:
        row = from_json(line) if line else None
    except ValueError:
        return None
    is_row = isinstance(row, dict) and isinstance(row.get("step"), int) and not isinstance(row["step"], bool)
    return row if is_row else None


def size_of(folder: Path | str) -> int:
    """Add up the sizes of all files in a folder, in bytes. Links count nothing."""
    total = 0
    try:
        with os.scandir(folder) as listed:
            for entry in listed:
                if entry.is_dir(follow_symlinks=False):
                    total += size_of(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:  # removed in the meantime, or not to be read
        pass
    return total


# Judging


def _seen(files: RunPaths) -> float | None:
    """Return the time of the last change of the files that a run in training writes."""
    return max(
        (found for file in (files.manifest_file, files.metrics, files.log) if (found := changed(file))), default=None
    )


def changed(file: Path) -> float | None:
    """Return the time of the last change of a file; None if there is none."""
    try:
        return file.stat().st_mtime
    except (OSError, ValueError):
        return None


def _status(path: Path, manifest: Mapping[str, Any], seen: float | None, now: float) -> tuple[State, tuple[str, ...]]:
    """Return the state of a run, and why if its manifest says something else."""
    written = text_in(manifest, "status")
    if written not in {"started", "running", "finished", "failed", "interrupted"}:
        return "damaged", (f"manifest.json: `status` is {json.dumps(within(manifest, 'status'))}",)
    if written not in IN_PROGRESS:
        return written, ()  # type: ignore[return-value]
    if manifest.get("awaits_launcher") is True and written == "started":
        return "started", ("waits for its launcher",)
    locked, quiet = is_locked(path), now - (seen or 0.0)
    if locked or (locked is None and quiet < QUIET_SECONDS):
        return written, ()  # type: ignore[return-value]
    why = "no process trains it any more" if locked is False else f"no sign of life for {quiet / 3600:,.1f} hours"
    return "killed", (why,)


def seconds_left(rows: Sequence[Mapping[str, Any]], steps: int | None) -> float | None:
    """Estimate the remaining seconds of a run from the pace between its last rows; None if there is too little."""
    clocks: list[tuple[int, float]] = [
        (row["step"], clock) for row in rows if (clock := number_in(row, "train_runtime")) is not None
    ]
    if not clocks or not steps:
        return None
    last = len(clocks) - 1
    first = next((at for at in range(last, 0, -1) if clocks[at - 1][1] >= clocks[at][1]), 0)  # where it was resumed
    (begin, since), (step, now) = clocks[first], clocks[last]
    if step > begin:
        return (now - since) / (step - begin) * max(0, steps - step)
    return now / step * max(0, steps - step) if step and first == 0 else None


def time_of(written: str | None) -> float | None:
    """Return the seconds since 1970 of a time of a manifest; None if it is none."""
    try:
        return datetime.fromisoformat(written).timestamp() if written else None
    except ValueError:
        return None


def _last(rows: list[dict[str, Any]], key: str) -> float | None:
    return next((found for row in reversed(rows) if (found := number_in(row, key)) is not None), None)


def _best(files: RunPaths, manifest: Mapping[str, Any], rows: list[dict[str, Any]]) -> Best | None:
    """Return the figure that decides in the last evaluation, or else the best held-out loss."""
    return _of_evaluation(files) or _of_metrics(manifest, rows)


def _of_evaluation(files: RunPaths) -> Best | None:
    """Return the deciding figure of the adapter in the newest evaluation with suites."""
    for folder in evaluations_of(files):
        try:
            suites = within(from_json(read_bytes(folder / "results.json")), "suites")
        except (UsageError, ValueError):
            continue
        suite = suites[0] if isinstance(suites, list) and suites else None
        figures = within(suite, "whole", "figures")
        for name, systems in (figures or {}).items() if isinstance(figures, Mapping) else ():
            figure = within(systems, "adapter")
            if isinstance(figure, Mapping) and (value := number_in(figure, "value")) is not None:
                shares = within(suite, "shares")
                title = text_in(suite, "name") or ""
                return Best(
                    name if title in {"", name} else f"{title}.{name}",
                    value,
                    number_in(figure, "low"),
                    number_in(figure, "high"),
                    isinstance(shares, list) and name in shares,
                )
    return None


def evaluations_of(files: RunPaths) -> list[Path]:
    """Return the folders of the evaluations of a run, newest first."""
    try:
        names = [name for name in os.listdir(files.evaluations) if name.isdecimal()]  # noqa: PTH208 -- names are enough
    except OSError:
        return []
    return [files.evaluations / name for name in sorted(names, key=int, reverse=True)]


def _of_metrics(manifest: Mapping[str, Any], rows: list[dict[str, Any]]) -> Best | None:
    """Return the best value of the metric that chooses the best model, by default the held-out loss."""
    training = within(manifest, "recipe", "training")
    extra = within(training, "extra")
    chosen = text_in(training, "metric_for_best_model") or text_in(extra, "metric_for_best_model") or "loss"
    name = chosen if chosen.startswith("eval_") else f"eval_{chosen}"
    greater = within(extra, "greater_is_better")
    sign = 1 if (greater if isinstance(greater, bool) else not is_lower_better(name)) else -1
    values = [(number_in(row, name), row) for row in rows if row["step"]]
    measured = [(sign * value, -row["step"], row) for value, row in values if value is not None]
    if not measured:
        return None
    row = max(measured, key=lambda one: one[:2])[2]
    ends = number_in(row, f"{name}_low"), number_in(row, f"{name}_high")
    return Best(name, row[name], *ends, step=row["step"])
