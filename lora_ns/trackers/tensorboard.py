"""TensorBoard: event files in the run directory."""

from __future__ import annotations

import os

from lora_ns.run.manifest import Status
from lora_ns.trackers.base import Tracker


class TensorBoard(Tracker):
    """Event files in `tracking/tensorboard` of the run, or where `TENSORBOARD_LOGGING_DIR` says."""

    name, title, package, callback = "tensorboard", "TensorBoard", "tensorboard", "TensorBoardCallback"

    def begin(self) -> str | None:
        """Open a new event file; TensorBoard shows all files of a folder as one run."""
        self.sender.logging_dir = os.environ.get("TENSORBOARD_LOGGING_DIR", str(self.tracked.run.tracking / self.name))
        super().begin()
        settings = self.tracked.recipe.tracking
        for key, text in (("tags", ", ".join(settings.tags)), ("group", settings.group)):
            if text:
                self.sender.tb_writer.add_text(key, text)
        return self.tracked.manifest.run_id

    def finish(self, status: Status, error: str | None) -> None:
        """Write the status as a text and close the file; it has no other artefacts, because it is in the run."""
        self.sender.tb_writer.add_text("status", f"{status}: {error}" if error else status, self.state.global_step)
        self.sender.tb_writer.flush()
        self.sender.on_train_end(self.arguments, self.state, self.control)

    @property
    def place(self) -> str:
        """The folder of the event files."""
        return str(self.sender.logging_dir)
