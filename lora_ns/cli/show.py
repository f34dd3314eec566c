"""Results on standard output; progress, notes and warnings on standard error."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from lora_ns.cli.terminal import hand_over, say, say_wrapped
from lora_ns.files.strict_json import strict_json
from lora_ns.machine.own_memory import peak_resident_bytes
from lora_ns.run import wording
from lora_ns.run.observer import Observer
from lora_ns.safety.printable import readable

if TYPE_CHECKING:
    from lora_ns.answers.changed_files import Force
    from lora_ns.run.directory import RunDir

number, sparkline, duration = wording.number, wording.sparkline, wording.duration


_ROWS_SECONDS = 10.0


def print_json(result: Any) -> None:
    """Print a result, with its manifest records, as one JSON object; numbers that JSON does not have are null."""
    table = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    hand_over(strict_json(table, indent=2, default=lambda record: record.model_dump(mode="json"), ensure_ascii=True))


def beside_baseline(shown: str, constant: float | None) -> str:
    """Add the score of a constant answer to a measure."""
    return shown if constant is None else f"{shown} (a constant answer: {number(constant)})"


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns; a terminal wraps the second."""
    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        say_wrapped(value, f"{name:<{width}}  ", " " * (width + 2), (name, "cyan"))


def note(text: str) -> None:
    """Print a note on standard error."""
    say_wrapped(f"note: {text}", rest="      ", err=True)


@contextlib.contextmanager
def forcing(force: bool) -> Iterator[Force]:
    """Apply `--force`, and list on standard error each mismatch that it ignored."""
    from lora_ns.answers.changed_files import Force

    passed: list[str] = []
    try:
        yield Force(passed.append) if force else Force()
    finally:
        for text in passed:
            say(f"warning: {text}", err=True)


class _Unheard(io.FileIO):
    """A file whose errors are ignored: a closed terminal or a full disk does not end a training."""

    def write(self, data: Any) -> int:
        """Write as much as possible."""
        with contextlib.suppress(OSError):
            return super().write(data) or 0
        return len(data)


_APART: Any = {"redirect_stdout": False, "redirect_stderr": False}
"""Arguments of a display that does not print the output of libraries, which is collected in a file."""


class Progress(Observer):
    """Progress of a training: a live display on a terminal, plain lines elsewhere."""

    def __init__(self, descriptor: int) -> None:
        raw = io.BufferedWriter(_Unheard(os.dup(descriptor), "w"))
        self._stream: TextIO = io.TextIOWrapper(raw, encoding="utf-8", errors="replace")
        self._live: Any = None
        self._state: dict[str, Any] = {}
        self._shown: dict[str, str] = {}
        self._losses: deque[float] = deque(maxlen=24)
        self._begin, self._first_step, self._step, self._steps, self._tokens = 0.0, 0, 0, 0, 0
        self._rows_shown_at, self._stage = time.monotonic(), ""
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        self._stream.close()

    def stage(self, text: str) -> None:
        """Print the current stage."""
        if text != "training":
            self._stop()
        self._stage = text
        self._say(f"{text} ...")

    def warn(self, text: str) -> None:
        """Print a note above the live display."""
        self._say(f"note: {text}")

    def ended(self, run: RunDir) -> None:
        """Write the report of a run that has ended."""
        from lora_ns.services.report import report_at_end

        report_at_end(run, self.warn)

    def rows(self, done: int, total: int) -> None:
        """Show the number of rows done: a bar on a terminal, an occasional line elsewhere."""
        now = time.monotonic()
        if self._stream.isatty():
            if self._bar is None:
                self._bar = self._rows_bar()
                self._bar.start()
            self._bar.update(self._bar.task_ids[0], completed=done, total=total, refresh=done == total)
        elif done and now - self._rows_shown_at >= _ROWS_SECONDS:
            self._rows_shown_at = now
            self._say(f"{done:,} of {total:,} done")

    def _rows_bar(self) -> Any:
        """Return a bar for the rows of this stage; it disappears with its end."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
        console = Console(file=self._stream)
        bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, **_APART)
        bar.add_task(readable(self._stage) or "rows", total=None)
        return bar

    def shows(self, metrics: Mapping[str, str]) -> None:
        """Show these metrics beside the loss."""
        self._shown = dict(metrics)

    def begin(self, step: int, steps: int) -> None:
        """Start the display of a training that continues after this step."""
        self._begin, self._first_step, self._step, self._steps = time.monotonic(), step, step, steps
        if self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=4, **_APART)
            self._live.start()

    def step(self, step: int, tokens: int) -> None:
        """Count a step."""
        self._step, self._tokens = step, tokens

    def logged(self, row: dict[str, Any]) -> None:
        """Show a row of metrics in the display, or print it."""
        self._state |= row
        if "loss" in row:
            self._losses.append(float(row["loss"]))
        if (
            self._live is None
            and self._steps
            and any(key in row for key in ("loss", "eval_loss", *(f"eval_{key}" for key in self._shown)))
        ):
            self._say(self._line(row))

    def _line(self, row: dict[str, Any]) -> str:
        measured = ("loss", *self._shown)
        keys = ("epoch", *measured, *(f"eval_{key}" for key in measured), "learning_rate", "grad_norm")
        values = " ".join(f"{key}={number(float(row[key]))}" for key in keys if row.get(key) is not None)
        return f"step {row['step']}/{self._steps} {values} elapsed={duration(self._elapsed())} left={self._left()}"

    def _elapsed(self) -> float:
        return time.monotonic() - self._begin

    def _left(self) -> str:
        done = self._step - self._first_step
        return duration(self._elapsed() / done * (self._steps - self._step)) if done else "?"

    def _picture(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        state = self._state
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"step {self._step}/{self._steps}",
            ProgressBar(total=max(1, self._steps), completed=self._step, width=24),
            f"epoch {number(float(state.get('epoch', 0)))}",
            f"{duration(self._elapsed())}, {self._left()} left",
        )
        facts = Table.grid(padding=(0, 1))
        facts.add_row(
            f"loss {number(state.get('loss'))}", sparkline(self._losses), f"eval {number(state.get('eval_loss'))}"
        )
        for key, label in self._shown.items():
            if key in state or f"eval_{key}" in state:
                facts.add_row(f"{label} {number(state.get(key))}", "", f"eval {number(state.get(f'eval_{key}'))}")
        rest = Table.grid(padding=(0, 1))
        speed = self._tokens / max(1e-9, self._elapsed())
        rest.add_row(
            f"lr {number(state.get('learning_rate'))}",
            f"grad norm {number(state.get('grad_norm'))}",
            f"{speed:,.0f} tokens/s",
            f"{peak_resident_bytes() / 1e9:.1f} GB",
        )
        whole = Table.grid()
        for part in (bar, facts, rest):
            whole.add_row(part)
        return whole

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, text: str) -> None:
        text = readable(text)
        display = self._live or self._bar
        if display is not None:
            display.console.print(text, markup=False, highlight=False)
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()
