"""Trackio: a local SQLite database, or a Space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_ns.run.manifest import Status
from lora_ns.trackers.base import Tracker

_LEFT_OUT = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")
"""Values of the last row that the callback does not log."""


class Trackio(Tracker):
    """A run in Trackio's database, `~/.cache/huggingface/trackio` or the folder in `TRACKIO_DIR`.

    Trackio knows a run by its name alone, so the name gets the end of lorans's run id.
    """

    name, title, package, callback = "trackio", "Trackio", "trackio", "TrackioCallback"

    @property
    def is_remote(self) -> bool:
        """True for a Space."""
        return bool(self.arguments.trackio_space_id)

    def begin(self) -> str | None:
        """Create the run, or continue it by its name."""
        import trackio

        settings = self.tracked.recipe.tracking
        self.arguments.run_name = self.known or f"{self.tracked.name}-{self.tracked.manifest.run_id[-8:]}"
        super().begin()
        trackio.config.update({"tags": list(settings.tags), "group": settings.group})
        return str(self.arguments.run_name)

    def send(self, row: Mapping[str, Any]) -> None:
        """Hand over a row, with the values that the callback leaves out."""
        import trackio

        super().send(row)
        if rest := {f"train/{key}": row[key] for key in _LEFT_OUT if key in row}:
            trackio.log({**rest, "train/global_step": row["step"]})

    def finish(self, status: Status, error: str | None) -> None:
        """Log the status, add the artefacts and write everything to the database."""
        import trackio

        level = trackio.AlertLevel.INFO if status == "finished" else trackio.AlertLevel.ERROR
        trackio.alert(title=f"run {status}", text=error or "", level=level)
        trackio.log({"status": status, "train/global_step": self.state.global_step})
        if files := self.tracked.artefacts:
            artefact = trackio.Artifact(f"run-{self.tracked.manifest.run_id}", type="run")
            for file in files:
                artefact.add_file(str(file), name=file.name)
            trackio.log_artifact(artefact)
        self.sender.on_train_end(self.arguments, self.state, self.control)

    @property
    def place(self) -> str:
        """The project and the run, or the Space."""
        space = self.arguments.trackio_space_id
        return str(space) if space else f"project {self.tracked.project}, run {self.arguments.run_name}"
