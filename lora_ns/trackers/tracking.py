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
from typing import IO, Any

from lora_ns.run.directory import RunDir
from lora_ns.run.metrics import read_metrics
from lora_ns.safety.interpreter import interpreter
from lora_ns.safety.printable import make_file_readable, readable
from lora_ns.trackers import TRACKERS
from lora_ns.trackers.sent import Sent

END_SECONDS = 3.0
"""Seconds that trackers get at the end of a run for what is left, from when they can work."""

LOAD_SECONDS = 30.0
"""Seconds that the process of the trackers gets to load its libraries; a short run may end before that."""


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
def tracking(run: RunDir, names: Sequence[str], tell: Callable[[str], None]) -> Iterator[None]:
    """Report a run to trackers while the block trains it. Nothing that a tracker does ends or delays the block.

    Args:
        run: the run; its manifest says how it ended.
        names: the trackers, of `tracking.report_to`.
        tell: receives a warning for each tracker that fails, and at the end what it lacks.
    """
    if not names:
        yield
        return
    process = _Trackers(run, names, tell)
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
    process = _Trackers(run, names, tell)
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


class _Trackers:
    """The process of the trackers, in a session of its own: it has no terminal and gets no signal of the keyboard."""

    def __init__(self, run: RunDir, names: Sequence[str], tell: Callable[[str], None]) -> None:
        self.problems: dict[str, str] = {}
        self._run, self._tell = run, tell
        self._left = set(names)
        self._loaded_at: float | None = None
        self._log = run.tracking / "trackers.log"
        command = [*interpreter(), "-m", "lora_ns.trackers.host", str(run.path), *names]
        with _opened(self._log) as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        self._listener = threading.Thread(target=self._listen, name="trackers", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, KeyError):
                self._hear(json.loads(line))
        self._left.clear()

    def _hear(self, event: dict[str, Any]) -> None:
        name = event.get("tracker", "")
        if event["event"] == "loaded":
            self._loaded_at = time.monotonic()
        elif event["event"] == "done":
            self._left.discard(name)
        elif event["event"] == "problem":
            text = readable(str(event["text"]))
            if name not in self.problems:
                title = TRACKERS[name].title
                self._tell(
                    f"{title} cannot be reached: {text}; training goes on, its rows are in {self._run.metrics.name}"
                )
            self.problems[name] = text

    def end(self, seconds: float) -> None:
        """Let the trackers finish, for at most these seconds once their libraries are loaded, then end them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        began = time.monotonic()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        while self._left and self._process.poll() is None:
            loaded = self._loaded_at
            until = began + max(LOAD_SECONDS, seconds) if loaded is None else max(began, loaded) + seconds
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join()  # the pipe has ended with all processes of the session
        self._process.stdout.close()
        with contextlib.suppress(OSError):
            make_file_readable(self._log)


def _opened(log: Path) -> IO[bytes]:
    """The log of the trackers, or nothing on a disk that is full."""
    try:
        log.parent.mkdir(exist_ok=True)
        return log.open("ab")
    except OSError:
        return Path(os.devnull).open("wb")
