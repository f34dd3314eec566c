"""Checkpoints of a run: marked when they are complete, and verified against their marks before a resume."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.errors import Problem, UsageError
from lora_ns.files.disk import follow_umask, telling_disk_errors
from lora_ns.files.marks import MARK, Fault, Mark, fault_of, has_all_files, mark_folder, read_mark
from lora_ns.files.reading import LARGEST_LIST, read_json
from lora_ns.files.removal import remove
from lora_ns.recipe.upstream import dataclass_fields
from lora_ns.run.lineage import lineage_of_rows

_STATE = "trainer_state.json"


_ASIDE = "damaged-"


@dataclass(frozen=True)
class Passed:
    """A checkpoint that a run cannot resume from."""

    folder: Path
    why: str
    was_finished: bool = True
    """True if it was ever complete. A process that is killed while it writes a checkpoint leaves no mark."""

    def __str__(self) -> str:
        return f"{self.folder.name}: {self.why}"


@dataclass(frozen=True)
class Search:
    """The checkpoints that a run can resume from."""

    whole: dict[int, Path]
    """Intact checkpoints, by step."""
    passed: tuple[Passed, ...]
    """Skipped checkpoints, latest first."""

    @property
    def last(self) -> tuple[Path, int] | None:
        """The latest intact checkpoint and its step."""
        return (self.whole[max(self.whole)], max(self.whole)) if self.whole else None

    @property
    def damaged(self) -> tuple[Passed, ...]:
        """Skipped checkpoints that were once complete."""
        return tuple(passed for passed in self.passed if passed.was_finished)


def mark_checkpoint(folder: Path, run_id: str, step: int) -> None:
    """Mark a checkpoint as complete, with its run, its step, its files, and the rows' link of the run's lineage."""
    follow_umask(folder)
    rows = lineage_of_rows(folder.parent.parent)
    mark_folder(folder, run_id=run_id, step=step, **({} if rows is None else {"lineage": rows}))


def search(checkpoints: Path, run_id: str, every: bool = False) -> Search:
    """Check the checkpoints of a run, latest first, until one is intact; with `every`, check all of them."""
    whole, passed = {}, []
    for step, folder in sorted(_folders(checkpoints).items(), reverse=True):
        if found := _why_not(folder, run_id, step):
            passed.append(found)
        else:
            whole[step] = folder
            if not every:
                break
    return Search(whole, tuple(passed))


def put_aside(passed: tuple[Passed, ...]) -> None:
    """Rename skipped checkpoints to make room for new ones; those that were never complete are removed.

    If `checkpoints` is a link, nothing behind it is removed.

    Raises:
        RunError: if one cannot be moved.
    """
    for found in passed:
        with telling_disk_errors(found.folder):
            if not found.was_finished and not _is_elsewhere(found.folder):
                shutil.rmtree(found.folder)
                continue
            found.folder.rename(_free_place(found.folder))


def check_own(checkpoints: Path, run_id: str) -> None:
    """Check that a linked checkpoint folder has no checkpoints of other runs.

    The trainer removes surplus checkpoints by name alone.

    Raises:
        UsageError: naming the first checkpoint of another run.
    """
    if not checkpoints.is_symlink():
        return
    for _, folder in sorted(_folders(checkpoints).items()):
        mark = read_mark(folder)
        if isinstance(mark, Mark) and run_id != mark.extra.get("run_id"):
            what = f"is a link to a folder with {folder.name} of another run, which training would remove"
            raise UsageError(Problem(str(checkpoints), what, "link to a folder that only this run uses"))


def last_complete_checkpoint(checkpoints: Path, run_id: str) -> tuple[Path, int] | None:
    """Return the latest checkpoint of this run whose files have the right sizes, and its step; for display only."""
    complete = {}
    for step, folder in _folders(checkpoints).items():
        mark = read_mark(folder)
        if isinstance(mark, Mark) and mark.extra.get("run_id") == run_id and has_all_files(folder, mark):
            complete[step] = folder
    return (complete[max(complete)], max(complete)) if complete else None


def usable_steps(checkpoints: Path, run_id: str) -> list[int]:
    """Return the steps of the checkpoints that a run has marked as complete, in order."""
    folders = _folders(checkpoints)
    return sorted(step for step, folder in folders.items() if not _mark_fault(folder, read_mark(folder), run_id, step))


def usable(checkpoints: Path, run_id: str, step: int) -> Path | Passed:
    """Return the folder of a checkpoint whose files are intact, or why its weights cannot be used.

    Unlike a checkpoint to resume from, it may have lost the best one.
    """
    folder = _folders(checkpoints).get(step, checkpoints / f"checkpoint-{step}")
    mark = read_mark(folder)
    if found := _mark_fault(folder, mark, run_id, step):
        return found
    fault = fault_of(folder, mark)
    return Passed(folder, str(fault)) if fault else folder


def best_of(checkpoint: Path) -> Path | None:
    """Return the best checkpoint so far according to this one, wherever the run has been moved to."""
    best = _state(checkpoint).get("best_model_checkpoint")
    return checkpoint.parent / Path(best).name if best else None


def _state(checkpoint: Path) -> dict[str, Any]:
    """Read the trainer's state, which includes all logged rows. Raises `UsageError`."""
    return dict(read_json(checkpoint / _STATE, most=LARGEST_LIST))


def _is_elsewhere(folder: Path) -> bool:
    return folder.is_symlink() or folder.parent.is_symlink()


def _free_place(folder: Path) -> Path:
    """Return a free name for a skipped checkpoint. One from an earlier resume is removed, unless links are involved."""
    target = folder.with_name(f"{_ASIDE}{folder.name}")
    if not _is_elsewhere(folder):
        remove(target)
        return target
    places = (target, *(target.with_name(f"{target.name}-{number}") for number in range(2, 1000)))
    return next(place for place in places if not os.path.lexists(place))


def _folders(checkpoints: Path) -> dict[int, Path]:
    """Return the folders with names of checkpoints, by step."""
    named = {folder.name.removeprefix("checkpoint-"): folder for folder in checkpoints.glob("checkpoint-*")}
    return {int(step): folder for step, folder in named.items() if step.isdecimal() and folder.is_dir()}


def _why_not(folder: Path, run_id: str, step: int) -> Passed | None:
    """Explain why a run cannot resume from a checkpoint."""
    mark = read_mark(folder)
    if found := _mark_fault(folder, mark, run_id, step):
        return found
    fault = fault_of(folder, mark) or _state_fault(folder, step)
    return Passed(folder, str(fault)) if fault else None


def _mark_fault(folder: Path, mark: Mark | Fault | None, run_id: str, step: int) -> Passed | None:
    """Explain why a folder is no complete checkpoint of a step of this run."""
    if mark is None:
        return Passed(folder, f"is incomplete (it has no {MARK})", was_finished=False)
    if isinstance(mark, Mark) and mark.extra.get("run_id") != run_id:
        return Passed(folder, "belongs to another run")
    if isinstance(mark, Mark) and mark.extra.get("step") != step:
        return Passed(folder, f"is of step {mark.extra.get('step')}, by its {MARK}")
    return None


def _state_fault(folder: Path, step: int) -> Fault | None:
    """Return the first fault that prevents a resume, in the trainer's files, its state or the best checkpoint."""
    for name, (places, why) in _PARTS.items():
        if not any(_has_file(folder, place) for place in places):
            return Fault(name, f"is missing{why}")
    state = _state_or_fault(folder)
    if isinstance(state, Fault):
        return state
    if state["global_step"] != step:
        return Fault(_STATE, f"is of step {state['global_step']}")
    best = best_of(folder)
    if best is None or best == folder:
        return None
    lost = fault_of(best) if best.is_dir() else Fault(best.name, "is missing")
    return Fault(best.name, f"has the best weights so far but is damaged: {lost}") if lost else None


def _has_file(folder: Path, place: str) -> bool:
    return any(path.is_file() for found in folder.glob(place) for path in (found, *found.glob("*")))


def _state_or_fault(folder: Path) -> dict[str, Any] | Fault:
    try:
        state = _state(folder)
        _ = state["global_step"]
    except UsageError as error:
        return Fault(_STATE, f"is damaged ({error.problems[0].what})")
    except (ValueError, KeyError, TypeError) as error:
        return Fault(_STATE, f"is damaged ({error})")
    odd = _odd_key(state)
    return Fault(_STATE, f"is damaged (`{odd}` is not what a trainer writes)") if odd else state


def _odd_key(state: Mapping[str, Any]) -> str | None:
    """Return the first key that the installed trainer does not know, or whose value it could not use."""
    known = dataclass_fields("transformers", "trainer_callback.py", "TrainerState") or state.keys()
    return next((key for key, value in state.items() if key not in known or not _is_right(key, value)), None)


def _is_right(key: str, value: object) -> bool:
    return key not in _KINDS or _KINDS[key](value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_history(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _is_callback_state(value: object) -> bool:
    """True for the state of callbacks by name: arguments and attributes of one callback, or of several of a kind."""
    if not isinstance(value, dict):
        return False
    kept = [one for entry in value.values() for one in (entry if isinstance(entry, list) else [entry])]
    parts = ("args", "attributes")
    return all(isinstance(one, dict) and all(isinstance(one.get(part), dict) for part in parts) for one in kept)


_PARTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "adapter_model.safetensors": (("adapter_model.*", "*/adapter_model.*", "pytorch_model_fsdp*", "global_step*"), ""),
    "optimizer.pt": (
        ("optimizer*", "global_step*"),
        ": it was saved with `save_only_model`, so a run cannot resume from it",
    ),
    "scheduler.pt": (("scheduler.pt", "global_step*"), ""),
    "rng_state.pth": (("rng_state*.pth",), ""),
}
"""Parts without which the trainer would fail or silently start over, each with its places and why it may be missing."""


_KINDS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("global_step", "max_steps", "num_train_epochs", "num_input_tokens_seen"), _is_count),
    **dict.fromkeys(("epoch", "total_flos", "logging_steps", "eval_steps", "save_steps"), _is_number),
    **dict.fromkeys(("train_batch_size", "best_global_step"), lambda value: value is None or _is_count(value)),
    "best_metric": lambda value: value is None or _is_number(value),
    "best_model_checkpoint": lambda value: value is None or isinstance(value, str),
    "log_history": _is_history,
    "stateful_callbacks": _is_callback_state,
    **dict.fromkeys(
        ("is_local_process_zero", "is_world_process_zero", "is_hyper_param_search"),
        lambda value: isinstance(value, bool),
    ),
    **dict.fromkeys(("trial_name", "trial_params"), lambda value: value is None),
}
"""Checks of the keys of the trainer's state that are read again."""
