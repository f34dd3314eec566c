"""The process of the trackers: `python -m lora_ns.trackers.host TRACKER ...`.

It loads the libraries, reads a line with the run and its trackers from standard input, follows the files of the run,
one thread for each tracker, and ends when standard input does. So a tracker that prompts, hangs, crashes or fills its
disk touches neither the training process nor another tracker. Its standard output has one JSON line for each event.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lora_ns.errors import LoransError, first_line
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Status
from lora_ns.run.metrics import row_of
from lora_ns.safety.credentials import scrubbed
from lora_ns.trackers import TRACKERS, Tracked, Tracker
from lora_ns.trackers.base import QUIET, environment
from lora_ns.trackers.sent import Sent

LOOK_SECONDS = 0.5
"""Seconds between two looks at the metrics."""

SLOW_SECONDS = 60.0
"""Seconds after which a tracker is said not to answer."""

RETRY_SECONDS = 30.0
"""Seconds after which a tracker that failed is tried again."""

LOG = "trackers.log"
"""Name of the file in `tracking` that has what libraries print."""

LAST_SECONDS = 60
"""Seconds after which this process ends although its parent, which would have ended it, is gone."""


class Events:
    """The lines for the parent. What libraries print goes to where standard error goes."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def tell(self, event: str, **values: Any) -> None:
        """Write an event; a parent that is gone hears nothing."""
        with self._lock:
            try:
                self._file.write(json.dumps({"event": event, **values}) + "\n")
            except OSError:
                return


class Tail:
    """The rows of a metrics file that grows, and is replaced when a run resumes."""

    def __init__(self, file: Path) -> None:
        self._file, self._node, self._offset = file, -1, 0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows that are complete and were not returned before; all rows of a file that was replaced."""
        try:
            with self._file.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._node or found.st_size < self._offset:
                    self._node, self._offset = found.st_ino, 0
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._offset += len(line)
                    if (row := row_of(line)) is not None:
                        yield row
        except FileNotFoundError:
            return


class Follower:
    """Sends one tracker the rows of a run as they come, and at the end its status and artefacts."""

    def __init__(self, run: RunDir, name: str, ended: threading.Event, events: Events) -> None:
        self._run, self._name, self._ended, self._events = run, name, ended, events
        self._sent = Sent.read(run.tracking, name)
        self._busy_since: float | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether the tracker has not answered for a while."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > SLOW_SECONDS

    def follow(self) -> None:
        """Follow the run to its end, and try again if the tracker fails before that."""
        while True:
            is_last = self._ended.is_set()
            try:
                self._attempt()
                break
            except Exception as error:
                self._busy_since = None
                problem = scrubbed(first_line(error))[:300]
                self._events.tell("problem", tracker=self._name, text=problem)
                with contextlib.suppress(OSError):  # the log may be on the disk that is full
                    traceback.print_exc()
                if is_last:
                    break
                self._ended.wait(RETRY_SECONDS)
        self._events.tell("done", tracker=self._name)

    def _attempt(self) -> None:
        tracker = self._begun()
        tail, unsure = Tail(self._run.metrics), self._sent
        while True:
            is_ended = self._ended.is_set()
            before = self._sent
            for row in tail.rows():
                if not self._sent.has(row):
                    self._busy_since = time.monotonic()
                    tracker.send(row)
                    self._sent = self._sent.after(row)
            self._busy_since = None
            if self._sent != before and not tracker.is_remote:
                self._sent.write(self._run.tracking)
            if is_ended:
                break
            self._ended.wait(LOOK_SECONDS)
        try:
            self._finish(tracker)
        except BaseException:
            self._sent = unsure if tracker.is_remote else self._sent
            raise

    def _begun(self) -> Tracker:
        tracked = Tracked(self._run, self._run.read())
        self._busy_since = time.monotonic()
        tracker = TRACKERS[self._name](tracked, self._sent.id)
        known = tracker.begin()
        self._busy_since = None
        if (step := tracker.reached()) > self._sent.step:
            self._sent = self._sent.model_copy(update={"step": step, "keys": ()})
        changes = {"id": known, "place": tracker.place, "is_closed": False, "problem": None}
        self._sent = self._sent.model_copy(update=changes).write(self._run.tracking)
        return tracker

    def _finish(self, tracker: Tracker) -> None:
        manifest = self._run.read()
        status: Status = "interrupted" if manifest.status in {"started", "running"} else manifest.status
        tracker.finish(status, scrubbed(manifest.error) if manifest.error else None)
        changes = {"is_closed": True, "status": status, "place": tracker.place}
        self._sent = self._sent.model_copy(update=changes).write(self._run.tracking)


def main() -> None:
    """Load the libraries, then follow a run with several trackers until the standard input ends."""
    end = os.dup(0)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # a prompt reads the end of a file
    for name in {"SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"} & signal.Signals.__members__.keys():
        signal.signal(signal.Signals[name], signal.SIG_IGN)  # schedulers signal all processes; the parent handles it
    os.nice(5)
    events = Events()
    os.environ.update({**QUIET, **os.environ})
    _load(sys.argv[1:])
    if (asked := _asked(end)) is None:
        return
    run, names = RunDir(Path(asked["run"])), asked["trackers"]
    os.environ.update(environment(Tracked(run, run.read())))
    _write_to(run.tracking / LOG)
    ended = threading.Event()
    followers = {name: Follower(run, name, ended, events) for name in names}
    threads = [threading.Thread(target=one.follow, name=name, daemon=True) for name, one in followers.items()]
    for thread in threads:
        thread.start()
    _wait_for_end(end, followers, events)
    ended.set()
    last = time.monotonic() + LAST_SECONDS
    for thread in threads:
        thread.join(max(0.0, last - time.monotonic()))
    sys.stderr.flush()
    os._exit(0)  # what libraries do at the exit may hang


def _load(names: Iterable[str]) -> None:
    """Import what the trackers need; what cannot be imported is reported when it is used."""
    packages = sorted(TRACKERS[name].package for name in names)  # comet_ml wants to be imported before torch
    for module in (*packages, "transformers.integrations.integration_utils"):
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def _asked(file: int) -> dict[str, Any] | None:
    """The first line of a file: the run and its trackers. None if the parent closes it, because there is no run."""
    line = b""
    while not line.endswith(b"\n"):
        if not (part := os.read(file, 1)):
            return None
        line += part
    found: dict[str, Any] = json.loads(line)
    return found


def _write_to(log: Path) -> None:
    """Send what libraries print to a file, unless its disk is full."""
    with contextlib.suppress(OSError):
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)


def _wait_for_end(end: int, followers: Mapping[str, Follower], events: Events) -> None:
    """Wait until the parent closes the file `end`, or ends; reports each tracker that does not answer."""
    quiet = set(followers)
    while not select.select([end], [], [], LOOK_SECONDS)[0]:
        for name in sorted(name for name in quiet if followers[name].is_stuck):
            quiet.discard(name)
            events.tell("problem", tracker=name, text=f"no answer for {SLOW_SECONDS:.0f} seconds")


if __name__ == "__main__":
    try:
        main()
    except LoransError as error:
        sys.exit(str(error))
