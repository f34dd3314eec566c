"""What every tracker has in common: it hosts transformers' callback and hands it the rows of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from lora_ns.recipe.objective_tables import as_tables
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest, Status
from lora_ns.safety.credentials import scrubbed

if TYPE_CHECKING:
    from transformers import TrainerCallback


@dataclass(frozen=True)
class Tracked:
    """A run, as trackers see it."""

    run: RunDir
    manifest: Manifest

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.manifest.recipe

    @property
    def name(self) -> str:
        """Name of the run at the tracker."""
        return self.recipe.tracking.run_name or self.recipe.task_name

    @property
    def project(self) -> str:
        """Name of the project at the tracker."""
        return self.recipe.tracking.project or "lorans"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved recipe, the planned values and the versions, with dotted keys; without secrets."""
        plan = self.manifest.plan.model_dump(mode="json")
        tables = {
            "recipe": as_tables(self.recipe),
            "plan": {key: value["value"] if _is_planned(value) else value for key, value in plan.items()},
            "packages": self.manifest.packages,
            "base": self.manifest.base.model_dump(mode="json"),
            "run_id": self.manifest.run_id,
            "lorans": self.manifest.lorans,
            "seed": self.manifest.seed,
        }
        return dict(_flat(tables))

    @property
    def artefacts(self) -> tuple[Path, ...]:
        """Files to keep at the tracker, those that exist: the report and what the run was made of."""
        folder = self.run.path
        files = (folder / "report.html", folder / "report.json", self.run.recipe, self.run.manifest_file)
        return tuple(file for file in files if file.is_file() and not file.is_symlink())


class Tracker:
    """One tracker. Its methods may block, fail and print: they are called in the process of the trackers."""

    name: ClassVar[str]
    """Its name in `tracking.report_to`."""
    title: ClassVar[str]
    package: ClassVar[str]
    """The module that is imported."""
    callback: ClassVar[str]
    """Name of transformers' callback."""

    def __init__(self, tracked: Tracked, known: str | None) -> None:
        """Prepare to track a run.

        Args:
            tracked: the run.
            known: the tracker's own id of the run if it has been tracked before, otherwise None.
        """
        from transformers import TrainerControl, TrainerState, integrations

        self.tracked, self.known = tracked, known
        self.arguments = _arguments(tracked)
        self.state, self.control = TrainerState(), TrainerControl()
        self.sender: TrainerCallback = getattr(integrations.integration_utils, self.callback)()

    def begin(self) -> str | None:
        """Create the run at the tracker, or continue it. Returns the tracker's own id of the run, if it has one."""
        self.sender.on_train_begin(self.arguments, self.state, self.control, model=None)
        return self.known

    def send(self, row: Mapping[str, Any]) -> None:
        """Hand over a row of `metrics.jsonl`."""
        self.state.global_step = int(row["step"])
        self.state.epoch = row.get("epoch")
        logs = {key: value for key, value in row.items() if key != "step"}
        self.sender.on_log(self.arguments, self.state, self.control, logs=logs)

    @property
    def is_remote(self) -> bool:
        """Whether rows are only certain to have arrived once the run has been closed at the tracker."""
        return False

    def reached(self) -> int:
        """The last step that the tracker says it has, for those that can be asked; otherwise -1."""
        return -1

    def finish(self, status: Status, error: str | None) -> None:
        """Close the run at the tracker: its artefacts, and how it ended."""
        raise NotImplementedError

    @property
    def place(self) -> str:
        """Where the run can be seen: an address or a path; empty if unknown."""
        return ""


QUIET: Mapping[str, str] = {
    "WANDB_SILENT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "COMET_DISABLE_AUTO_LOGGING": "1",
    "COMET_AUTO_LOG_GIT_METADATA": "false",
    "COMET_AUTO_LOG_CODE": "false",
    "SWANLAB_INTERACTIVE": "false",
    "MPLBACKEND": "agg",
}
"""Variables for all trackers, before they are imported: no prompt, no banner, short waits. The user's own win."""


def environment(tracked: Tracked) -> dict[str, str]:
    """Variables for the trackers of a run: their files are in it, unless the user's say otherwise.

    Those that the recipe decides replace the user's.
    """
    mode, folder = tracked.recipe.tracking.mode, str(tracked.run.tracking)
    own = {name: mode for name in ("WANDB_MODE", "SWANLAB_MODE") if mode}
    return {"WANDB_DIR": folder, "COMET_OFFLINE_DIRECTORY": folder, **os.environ, **own}


def _arguments(tracked: Tracked) -> SimpleNamespace:
    """What the callbacks read of `TrainingArguments`; its `to_dict` is the config of the run."""
    extra = tracked.recipe.training.extra
    config = tracked.config
    return SimpleNamespace(
        run_name=tracked.name,
        project=tracked.project,
        output_dir=str(tracked.run.path),
        resume_from_checkpoint=None,
        hub_private_repo=extra.get("hub_private_repo"),
        trackio_space_id=extra.get("trackio_space_id"),
        trackio_bucket_id=extra.get("trackio_bucket_id"),
        trackio_static_space_id=extra.get("trackio_static_space_id"),
        to_dict=lambda: dict(config),
        to_json_string=lambda: json.dumps(config, indent=2),
    )


def _is_planned(value: Any) -> bool:
    return isinstance(value, dict) and "value" in value


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables under dotted keys, without those that are unset."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)):
            yield f"{prefix}{key}", value
        elif value is not None:
            yield f"{prefix}{key}", scrubbed(value if isinstance(value, str) else json.dumps(value, default=str))
