"""The journal of a long command: its results on the disk as they come, so that a killed command can go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    """Results of one task beside the file that they are for: a line with their key, then one line per result."""

    target: Path
    """The file that is written in the end."""
    resume: bool
    """Whether to go on with what is there."""

    @property
    def file(self) -> Path:
        """The journal."""
        return self.target.with_name(f".{self.target.name}.lorans-answers")

    def keeping(self, opened: Opened, compute: Compute) -> Compute:
        """A function that computes one task like another, but not what the journal has, and notes each result at once.

        Raises:
            UsageError: if a journal is there that is not to be gone on with, or that is of another task.
        """

        def computing(tasks: Sequence[Task], on_result: OnResult = ignore_result) -> list[list[Any]]:
            (task,) = tasks
            key = key_of_run(opened, task)
            found = self._begin(key, len(task.items))
            for place, one in found.items():
                on_result(0, place, one)
            left = task.without(found)
            if left.items:
                self._compute(task, left, found, compute, on_result)
            return [[found[place] for place in range(len(task.items))]]

        return computing

    def _compute(self, task: Task, left: Task, found: dict[int, Any], compute: Compute, on_result: OnResult) -> None:
        """Compute the batches that are left, and note their results."""
        places = [place for number in left.numbers for place in task.batches[number]]
        with telling_disk_errors(self.file), self.file.open("a", encoding="utf-8", buffering=1) as file:

            def note(_: int, item: int, one: Any) -> None:
                place = places[item]
                if place not in found:
                    found[place] = one
                    file.write(f"{json.dumps([place, one])}\n")
                    on_result(0, place, one)

            compute([left], note)

    def _begin(self, key: str, count: int) -> dict[int, Any]:
        """Read the results that are there, or begin a journal. Raises `UsageError`."""
        if not is_file(self.file):
            if self.resume:
                what = "no earlier command left answers for it"
                raise UsageError(Problem(str(self.target), what, "leave `--resume` out"))
            self._write_key(key)
            return {}
        lines = self.file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last may be cut off
        found = {place: one for place, one in map(json.loads, lines[1:]) if 0 <= place < count} if lines else {}
        if not self.resume and not found:
            self._write_key(key)
            return {}
        if not self.resume:
            what = f"an earlier command left {len(found):,} answers for it in {self.file.name}, and did not end"
            remedy = "`--resume` answers the rest; delete that file to start again"
            raise UsageError(Problem(str(self.target), what, remedy))
        if lines[:1] != [key]:
            what = f"the answers in {self.file.name} are those of other rows, settings or weights"
            raise UsageError(Problem(str(self.target), what, "give the same as before, or delete that file"))
        whole = "\n".join(lines)
        with telling_disk_errors(self.file):
            self.file.write_text(f"{whole}\n", encoding="utf-8")
        return found

    def _write_key(self, key: str) -> None:
        with telling_disk_errors(self.file):
            self.file.write_text(f"{key}\n", encoding="utf-8")

    def forget(self) -> None:
        """Remove the journal, once its file is written."""
        self.file.unlink(missing_ok=True)
