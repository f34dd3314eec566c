"""`[tracking]`: experiment trackers, all off by default."""

from __future__ import annotations

from typing import Literal

from lora_ns.table import Name, Table


class Tracking(Table):
    """Experiment trackers that receive the metrics, besides `metrics.jsonl`."""

    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Trackers to report to; each needs its package: `pip install 'lora-ns[tracking]'`."""
    project: Name | None = None
    """Name of the project at the tracker."""
    run_name: Name | None = None
    """Name of the run at the tracker. Default: `task_name`."""
