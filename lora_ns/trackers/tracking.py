"""Tracking of a run in training: starts the process of the trackers, passes on its warnings, and ends it in time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.run.directory import RunDir
from lora_ns.run.metrics import read_metrics
from lora_ns.safety.interpreter import interpreter
from lora_ns.safety.printable import make_file_readable, readable
from lora_ns.trackers import TRACKERS
from lora_ns.trackers.host import LOG
from lora_ns.trackers.sent import Sent

END_SECONDS = 3.0
"""Seconds that trackers get at the end of a run for what is left, in all."""


@dataclass(frozen=True)
class TrackerReport:
    """What a tracker has of a run after training."""

    tracker: str
    place: str
    """Where the run can be seen."""
    rows: int
    missing: int
    """Rows of `metrics.jsonl` that it lacks."""
    is_closed: bool
    """Whether it has confirmed the end of the run."""
    problem: str | None = None


@contextlib.contextmanager
def loading(names: Sequence[str]) -> Iterator[Trackers | None]:
    """Start the process of the trackers, which loads its libraries while the block prepares the run and trains it.

    Args:
        names: the trackers, of `tracking.report_to`.
    """
    if not names:
        yield None
        return
    process = Trackers(names)
    try:
        yield process
    finally:
        process.end(0.0)


@contextlib.contextmanager
def tracking(
    run: RunDir, names: Sequence[str], tell: Callable[[str], None], process: Trackers | None = None
) -> Iterator[None]:
    """Report a run to trackers while the block trains it. Nothing that a tracker does ends or delays the block.

    Args:
        run: the run; its manifest says how it ended.
        names: the trackers, of `tracking.report_to`.
        tell: receives a warning for each tracker that fails, and at the end what it lacks.
        process: the process of `loading`, if it was started before.
    """
    if not names:
        yield
        return
    process = process or Trackers(names)
    process.follow(run, names, tell)
    try:
        yield
    finally:
        process.end(END_SECONDS)
        for report in reports(run, names, process.problems):
            if text := _lack(run, report):
                tell(text)


def send_missing(
    run: RunDir, names: Sequence[str], seconds: float, tell: Callable[[str], None]
) -> tuple[TrackerReport, ...]:
    """Send trackers what they lack of a run that has ended.

    Args:
        run: the run.
        names: the trackers.
        seconds: how long to wait for them.
        tell: receives a warning for each tracker that fails.
    """
    with loading(names) as process:
        assert process is not None, "there are trackers"
        process.follow(run, names, tell)
        process.end(seconds)
        return reports(run, names, process.problems)


def reports(run: RunDir, names: Sequence[str], problems: dict[str, str]) -> tuple[TrackerReport, ...]:
    """What each tracker has of a run, and its last problem."""
    rows = read_metrics(run.metrics).rows
    found = [Sent.read(run.tracking, name) for name in names]
    return tuple(
        TrackerReport(
            sent.tracker,
            sent.place,
            sent.rows,
            sum(not sent.has(row) for row in rows),
            sent.is_closed,
            problems.get(sent.tracker),
        )
        for sent in found
    )


def _lack(run: RunDir, report: TrackerReport) -> str | None:
    """The warning about a tracker that lacks something of a run; None if it has everything."""
    if report.is_closed and not report.missing:
        return None
    what = f"{report.missing:,} rows" if report.missing else "how the run ended"
    reason = "" if report.problem else f", because it did not answer within {END_SECONDS:.0f} seconds"
    return f"{TRACKERS[report.tracker].title} lacks {what}{reason}; `lorans track {run.path}` sends what is missing"


class Trackers:
    """The process of the trackers, in a session of its own: it has no terminal and gets no signal of the keyboard."""

    def __init__(self, names: Sequence[str]) -> None:
        """Start it; it loads the libraries of these trackers and waits for a run to follow."""
        self.names = tuple(names)
        self.problems: dict[str, str] = {}
        self._left: set[str] = set()
        self._log: Path | None = None
        self._rows = ""
        self._tell: Callable[[str], None] = lambda _: None
        self._listener: threading.Thread | None = None
        self._process = subprocess.Popen(
            [*interpreter(), "-m", "lora_ns.trackers.host", *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def follow(self, run: RunDir, names: Sequence[str], tell: Callable[[str], None]) -> None:
        """Follow a run; arguments as in `tracking`."""
        self._log, self._rows, self._tell, self._left = run.tracking / LOG, run.metrics.name, tell, set(names)
        asked = json.dumps({"run": str(run.path), "trackers": list(names)}) + "\n"
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which `end` finds out
            self._process.stdin.write(asked.encode())
            self._process.stdin.flush()
        self._listener = threading.Thread(target=self._listen, name="trackers", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, KeyError):
                self._hear(json.loads(line))
        self._left.clear()

    def _hear(self, event: dict[str, Any]) -> None:
        name = event["tracker"]
        if event["event"] == "done":
            self._left.discard(name)
        elif event["event"] == "problem":
            text = readable(str(event["text"]))
            if name not in self.problems:
                title = TRACKERS[name].title
                self._tell(f"{title} cannot be reached: {text}; training goes on, its rows are in {self._rows}")
            self.problems[name] = text

    def end(self, seconds: float) -> None:
        """Let the trackers finish, for at most these seconds, then end their process, if it has not been ended yet."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        while self._left and self._process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        if self._process.stdout.closed:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._listener is not None:
            self._listener.join()  # the pipe has ended with all processes of the session
        self._process.stdout.close()
        if self._log is not None:
            with contextlib.suppress(OSError):
                make_file_readable(self._log)
