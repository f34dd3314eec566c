"""Weights & Biases, online or offline."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lora_ns.run.manifest import Status
from lora_ns.trackers.base import Tracker

_EXIT_CODES: Mapping[Status, int] = {"finished": 0, "interrupted": 255}


class Wandb(Tracker):
    """A run at W&B; in mode `offline`, a folder that `wandb sync` sends."""

    name, title, package, callback = "wandb", "W&B", "wandb", "WandbCallback"

    @property
    def is_remote(self) -> bool:
        """True unless the run is offline."""
        return not self.run.offline

    def begin(self) -> str | None:
        """Create or continue the run under lorans's run id; git, code and console output are not sent."""
        import wandb

        settings, run_id = self.tracked.recipe.tracking, self.tracked.manifest.run_id
        self.run = wandb.init(
            project=settings.project or os.environ.get("WANDB_PROJECT") or self.tracked.project,
            entity=settings.wandb_entity,
            name=self.tracked.name,
            group=settings.group,
            tags=list(settings.tags) or None,
            id=run_id,
            resume="allow",
            dir=str(self.tracked.run.tracking),
            settings=wandb.Settings(
                console="off", disable_git=True, disable_code=True, save_code=False, disable_job_creation=True
            ),
        )
        super().begin()
        return run_id

    def reached(self) -> int:
        """The last step that the server has."""
        step = self.run.summary.get("train/global_step") if self.known and self.is_remote else None
        return int(step) if isinstance(step, (int, float)) else -1

    def finish(self, status: Status, error: str | None) -> None:
        """Set status and exit code, add the artefacts and wait for the upload."""
        import wandb

        self.run.summary["status"] = status
        if error:
            self.run.summary["error"] = error
        if files := self.tracked.artefacts:
            artefact = wandb.Artifact(f"run-{self.tracked.manifest.run_id}", type="run")
            for file in files:
                artefact.add_file(str(file), name=file.name)
            self.run.log_artifact(artefact)
        self.run.finish(exit_code=_EXIT_CODES.get(status, 1))

    @property
    def place(self) -> str:
        """The address of the run, or the folder of the offline run."""
        return str(self.run.url or self.run.settings.sync_dir)
