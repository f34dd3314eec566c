"""`[tracking]`: experiment trackers, all off unless named here."""

from __future__ import annotations

from typing import Literal

from lora_ns.table import Name, Table


class Tracking(Table):
    """Where metrics go besides `metrics.jsonl`."""

    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Trackers to report to; each needs its package, `pip install 'lora-ns[tracking]'`."""
    project: Name | None = None
    """Project at the tracker."""
    run_name: Name | None = None
    """Name of the run at the tracker; `task_name` if absent."""
