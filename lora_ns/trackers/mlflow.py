"""MLflow: a server, an SQLite file or a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lora_ns.run.manifest import Status
from lora_ns.trackers.base import Tracker

_STATUS: Mapping[Status, str] = {"finished": "FINISHED", "interrupted": "KILLED"}

_DEFAULT_URI = "sqlite:///mlflow.db"


class MLflow(Tracker):
    """A run in an MLflow store; the project is its experiment."""

    name, title, package, callback = "mlflow", "MLflow", "mlflow", "MLflowCallback"

    def begin(self) -> str | None:
        """Create the run, or continue it by MLflow's id."""
        import mlflow

        settings = self.tracked.recipe.tracking
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow asks for this before it writes to a folder
        uri = settings.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT_URI
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(settings.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or self.tracked.project)
        self.run = mlflow.start_run(run_id=self.known, run_name=self.tracked.name)
        tags = dict.fromkeys(settings.tags, "") | ({"group": settings.group} if settings.group else {})
        mlflow.set_tags({**tags, "lorans.run_id": self.tracked.manifest.run_id})
        super().begin()
        mlflow.flush_async_logging()
        self.sender._async_log = False  # a row that cannot be written has to be noticed
        return str(self.run.info.run_id)

    def finish(self, status: Status, error: str | None) -> None:
        """Store the artefacts and end the run with its status."""
        import mlflow

        for file in self.tracked.artefacts:
            mlflow.log_artifact(str(file))
        if error:
            mlflow.set_tag("lorans.error", error)
        mlflow.end_run(_STATUS.get(status, "FAILED"))

    @property
    def place(self) -> str:
        """The address of the store."""
        import mlflow

        return f"{mlflow.get_tracking_uri()} (run {self.run.info.run_id})"
