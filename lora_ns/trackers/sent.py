"""`tracking/NAME.json` in a run: what a tracker has been sent, so that a resumed run goes on there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lora_ns.errors import UsageError
from lora_ns.files.disk import write_atomic
from lora_ns.files.reading import is_file, read_json


class Sent(BaseModel):
    """What a tracker has of a run."""

    tracker: str
    id: str | None = None
    """The tracker's own id of the run."""
    place: str = ""
    """Where the run can be seen."""
    step: int = -1
    """The last step of which rows were sent."""
    keys: tuple[str, ...] = ()
    """The kinds of rows of that step that were sent."""
    rows: int = 0
    """Number of rows that were sent, in all."""
    is_closed: bool = False
    """Whether the tracker has confirmed the end of the run, with its status and artefacts."""
    status: str | None = None
    """The status that the tracker was told last."""
    problem: str | None = None
    """The last error of the tracker."""

    @classmethod
    def read(cls, folder: Path, tracker: str) -> Sent:
        """The record of a tracker; a missing or damaged one is as if nothing had been sent."""
        file = folder / f"{tracker}.json"
        try:
            return cls.model_validate(read_json(file)) if is_file(file) else cls(tracker=tracker)
        except (UsageError, ValidationError):
            return cls(tracker=tracker)

    def write(self, folder: Path) -> Sent:
        """Replace the record. Raises `RunError` if the disk is full."""
        write_atomic(folder / f"{self.tracker}.json", self.model_dump_json(indent=2) + "\n")
        return self

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether a row was sent. Rows that a resumed run trains again were sent the first time."""
        return row["step"] < self.step or (row["step"] == self.step and _kind(row) in self.keys)

    def after(self, row: Mapping[str, Any]) -> Sent:
        """The record once this row was sent too."""
        before = self.keys if row["step"] == self.step else ()
        return self.model_copy(update={"step": row["step"], "keys": (*before, _kind(row)), "rows": self.rows + 1})


def _kind(row: Mapping[str, Any]) -> str:
    """What tells apart the rows of one step: training, evaluation, summary."""
    return next((key for key in row if key not in {"step", "epoch"}), "")
