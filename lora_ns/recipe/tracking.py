"""`[tracking]`: experiment trackers, all off by default."""

from __future__ import annotations

from typing import Literal

from lora_ns.table import Name, Table


class Tracking(Table):
    """Experiment trackers that receive the metrics, besides `metrics.jsonl`."""

    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio", "swanlab", "comet_ml"], ...] = ()
    """Trackers to report to; each needs its package: `pip install 'lora-ns[tracking]'`."""
    project: Name | None = None
    """Name of the project at the tracker; in MLflow, of the experiment. Default: `lorans`."""
    run_name: Name | None = None
    """Name of the run at the tracker. Default: `task_name`."""
    tags: tuple[Name, ...] = ()
    """Tags of the run at the tracker."""
    group: Name | None = None
    """Group of runs that belong together, such as one group per data set."""
    mode: Literal["online", "offline"] | None = None
    """`offline` writes W&B, SwanLab and Comet to the run directory, to be sent later with their own commands. Default:
    what their environment variables say, otherwise `online`. TensorBoard is always a folder of the run, and Trackio a
    local database unless `training.extra.trackio_space_id` names a Space."""
    wandb_entity: Name | None = None
    """W&B team or user. Default: that of the login."""
    mlflow_tracking_uri: Name | None = None
    """Where MLflow keeps its runs: an address, `sqlite:///FILE` or a folder. Default: `MLFLOW_TRACKING_URI`, otherwise
    `sqlite:///mlflow.db` in the working directory."""
