"""SwanLab, online or offline."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lora_ns.run.manifest import Status
from lora_ns.trackers.base import Tracker

_STATE: Mapping[Status, str] = {"finished": "success", "interrupted": "aborted"}


class SwanLab(Tracker):
    """A run at SwanLab; in mode `offline`, a folder that `swanlab sync` sends."""

    name, title, package, callback = "swanlab", "SwanLab", "swanlab", "SwanLabCallback"

    @property
    def is_remote(self) -> bool:
        """True unless the run is offline."""
        return self.tracked.recipe.tracking.mode != "offline"

    def begin(self) -> str | None:
        """Create the run, or continue it by its id."""
        import swanlab

        settings = self.tracked.recipe.tracking
        folder = self.tracked.run.tracking / self.name
        folder.mkdir(parents=True, exist_ok=True)
        self.run = swanlab.init(
            project=settings.project or os.environ.get("SWANLAB_PROJ_NAME") or self.tracked.project,
            name=self.tracked.name,
            group=settings.group,
            tags=list(settings.tags) or None,
            id=self.known or self.tracked.manifest.run_id,
            resume="allow",
            log_dir=str(folder),
        )
        super().begin()
        return str(self.run.id)

    def finish(self, status: Status, error: str | None) -> None:
        """Set the status and wait for the upload; the artefacts are saved as files of the run."""
        import swanlab

        for file in self.tracked.artefacts:
            swanlab.save(str(file), base_path=str(file.parent))
        state = _STATE.get(status, "crashed")
        swanlab.finish(state=state, error=error or "failed" if state == "crashed" else None)

    @property
    def place(self) -> str:
        """The folder of the run's log."""
        return str(self.tracked.run.tracking / self.name)
