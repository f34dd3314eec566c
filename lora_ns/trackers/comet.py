"""Comet, online or offline."""

from __future__ import annotations

import hashlib

from lora_ns.run.manifest import Status
from lora_ns.trackers.base import Tracker


class Comet(Tracker):
    """An experiment at Comet; in mode `offline`, an archive that `comet upload` sends."""

    name, title, package, callback = "comet_ml", "Comet", "comet_ml", "CometCallback"

    @property
    def is_remote(self) -> bool:
        """True unless the run is offline."""
        return self.tracked.recipe.tracking.mode != "offline"

    def begin(self) -> str | None:
        """Create or continue the experiment; its key is made from lorans's run id, so that a resumed run finds it."""
        import comet_ml

        settings = self.tracked.recipe.tracking
        key = self.known or hashlib.sha256(self.tracked.manifest.run_id.encode()).hexdigest()[:32]
        self.experiment = comet_ml.start(
            project_name=settings.project or self.tracked.project,
            experiment_key=key,
            mode="get_or_create",
            online=None if settings.mode is None else settings.mode == "online",
            experiment_config=comet_ml.ExperimentConfig(
                name=self.tracked.name,
                tags=[*settings.tags, *([settings.group] if settings.group else [])],
                offline_directory=str(self.tracked.run.tracking),
            ),
        )
        super().begin()
        return key

    def finish(self, status: Status, error: str | None) -> None:
        """Add status and artefacts, and wait for the upload."""
        self.experiment.log_other("status", status)
        if error:
            self.experiment.log_other("error", error)
        for file in self.tracked.artefacts:
            self.experiment.log_asset(str(file), file_name=file.name)
        self.experiment.end()

    @property
    def place(self) -> str:
        """The address of the experiment; its archive, if it is offline."""
        return str(self.experiment.url or self.tracked.run.tracking)
