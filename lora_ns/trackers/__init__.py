"""Experiment trackers, which report a run to W&B, TensorBoard and others from a process of their own.

Each tracker is a class in its own file. `tracking` starts that process and ends it.
"""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.trackers.base import Tracked, Tracker
from lora_ns.trackers.comet import Comet
from lora_ns.trackers.mlflow import MLflow
from lora_ns.trackers.swanlab import SwanLab
from lora_ns.trackers.tensorboard import TensorBoard
from lora_ns.trackers.trackio import Trackio
from lora_ns.trackers.wandb import Wandb

__all__ = ["TRACKERS", "Tracked", "Tracker"]

TRACKERS: Mapping[str, type[Tracker]] = {
    tracker.name: tracker for tracker in (TensorBoard, Wandb, MLflow, Trackio, SwanLab, Comet)
}
"""Trackers by their name in `tracking.report_to`."""
