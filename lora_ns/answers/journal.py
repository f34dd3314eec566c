"""The journal of a long command: its results on the disk as they come, so that a killed command can go on."""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.answers.kept import key_of_run
from lora_ns.answers.opened import Opened
from lora_ns.answers.work import Compute, OnResult, Task, ignore_result
from lora_ns.errors import Problem, UsageError
from lora_ns.files.disk import telling_disk_errors
from lora_ns.files.reading import is_file


@dataclass(frozen=True)
class Journal:
    """Results of tasks beside the file that they are for: a line with their key, then one line per result.

    Items are numbered through all tasks.
    """

    target: Path
    """The file that is written in the end."""
    resume: bool
    """Whether to go on with what is there."""
    tell: Callable[[str], None] = lambda _: None
    """Receives a note if a part of the journal is damaged."""

    @property
    def file(self) -> Path:
        """The journal."""
        return self.target.with_name(f".{self.target.name}.lorans-answers")

    def keeping(self, asked: Sequence[Opened], compute: Compute) -> Compute:
        """A function that computes tasks like another, but not what the journal has, and notes each result at once.

        Args:
            asked: the run that is asked by each task.
            compute: the function to compute with.

        Raises:
            UsageError: if a journal is there that is not to be gone on with, or that is of other tasks.
        """

        def computing(tasks: Sequence[Task], on_result: OnResult = ignore_result) -> list[list[Any]]:
            starts = [0, *itertools.accumulate(len(task.items) for task in tasks)]
            keys = [key_of_run(opened, task) for opened, task in zip(asked, tasks, strict=True)]
            found = self._begin("+".join(keys), starts[-1])
            for place, one in found.items():
                number = bisect.bisect_right(starts, place) - 1
                on_result(number, place - starts[number], one)
            self._compute(tasks, starts, found, compute, on_result)
            return [[found[place] for place in range(*pair)] for pair in itertools.pairwise(starts)]

        return computing

    def _compute(
        self,
        tasks: Sequence[Task],
        starts: Sequence[int],
        found: dict[int, Any],
        compute: Compute,
        on_result: OnResult,
    ) -> None:
        """Compute the batches that are left, and note their results."""
        left: dict[int, Task] = {}
        for number, task in enumerate(tasks):
            rest = task.without({place - starts[number] for place in found})
            if rest.items:
                left[number] = rest
        if not left:
            return
        places = [
            [place for batch in rest.numbers for place in tasks[number].batches[batch]] for number, rest in left.items()
        ]
        numbers = list(left)
        with telling_disk_errors(self.file), self.file.open("a", encoding="utf-8", buffering=1) as file:

            def note(task: int, item: int, one: Any) -> None:
                number, place = numbers[task], places[task][item]
                if starts[number] + place not in found:
                    found[starts[number] + place] = one
                    file.write(f"{json.dumps([starts[number] + place, one])}\n")
                    on_result(number, place, one)

            compute(list(left.values()), note)

    def _begin(self, key: str, count: int) -> dict[int, Any]:
        """Read the results that are there, or begin a journal. Raises `UsageError`."""
        if not is_file(self.file):
            if self.resume:
                what = "no earlier command left answers for it"
                raise UsageError(Problem(str(self.target), what, "leave `--resume` out"))
            self._write_key(key)
            return {}
        lines = self.file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last may be cut off
        if not self.resume and len(lines) <= 1:
            self._write_key(key)
            return {}
        if not self.resume:
            what = f"an earlier command left {len(lines) - 1:,} answers for it in {self.file.name}, and did not end"
            remedy = "`--resume` answers the rest; delete that file to start again"
            raise UsageError(Problem(str(self.target), what, remedy))
        if lines[:1] != [key]:
            what = f"the answers in {self.file.name} are those of other rows, settings or weights"
            raise UsageError(Problem(str(self.target), what, "give the same as before, or delete that file"))
        found, intact = _results(lines[1:], count)
        if left_out := len(lines) - 1 - intact:
            self.tell(f"{self.file.name}:{intact + 2}: is damaged; {left_out:,} answers from there on are asked again")
        whole = "\n".join(lines[: intact + 1])
        with telling_disk_errors(self.file):
            self.file.write_text(f"{whole}\n", encoding="utf-8")
        return found

    def _write_key(self, key: str) -> None:
        with telling_disk_errors(self.file):
            self.file.write_text(f"{key}\n", encoding="utf-8")

    def forget(self) -> None:
        """Remove the journal, once its file is written."""
        self.file.unlink(missing_ok=True)


def _results(lines: Sequence[str], count: int) -> tuple[dict[int, Any], int]:
    """The results in the lines of a journal up to the first damaged one, and the number of lines before that."""
    found: dict[int, Any] = {}
    for number, line in enumerate(lines):
        try:
            place, one = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return found, number
        if type(place) is not int or not 0 <= place < count:
            return found, number
        found[place] = one
    return found, len(lines)
