"""The best adapter of a run: a folder that is replaced at each better evaluation, and survives a kill at any moment.

The adapter of a later evaluation than the last checkpoint belongs to steps that a resumed run trains again. So the best
adapter up to the checkpoint stays in `best_of_checkpoint` until a later checkpoint makes it needless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_ns.files.disk import sync, telling_disk_errors
from lora_ns.files.marks import Mark, fault_of, mark_folder, read_mark
from lora_ns.files.removal import remove
from lora_ns.run.lineage import lineage_of_rows
from lora_ns.run.manifest import BestRecord
from lora_ns.run.paths import RunPaths

_STAGED = ".best"


@dataclass(frozen=True)
class Best:
    """An adapter in the folder of a run, with the evaluation that chose it."""

    folder: Path
    record: BestRecord


def find_best(run: RunPaths, run_id: str, verified: bool = True) -> Best | None:
    """Return the best adapter of a run, None if there is none that is intact.

    Args:
        run: the run.
        run_id: the id of the run, which its best adapter is marked with.
        verified: whether to compare the hash of every file.
    """
    return next(_intact((run.best, run.best_of_checkpoint), run_id, verified), None)


def begin_at(run: RunPaths, run_id: str, step: int) -> Best | None:
    """Return the best adapter up to a step, from which training continues; remove one of later steps."""
    kept = next((best for best in _intact(_places(run), run_id) if best.record.step <= step), None)
    with telling_disk_errors(run.best):
        remove(run.best.with_name(_STAGED))
        if kept is not None and kept.folder != run.best:
            remove(run.best)
            kept.folder.rename(run.best)
        for folder in _places(run) if kept is None else (run.best_of_checkpoint,):
            remove(folder)
    return None if kept is None else Best(run.best, kept.record)


def replace_best(run: RunPaths, run_id: str, record: BestRecord, write: Callable[[Path], None], saved: int) -> None:
    """Write a better adapter in the place of the best one.

    Args:
        run: the run.
        run_id: the id of the run.
        record: the evaluation that chose it.
        write: writes the adapter into a folder that does not exist.
        saved: step of the last complete checkpoint, for which the best adapter up to it is kept.

    Raises:
        RunError: if the disk is full or cannot be written.
    """
    staged = run.best.with_name(_STAGED)
    with telling_disk_errors(run.best):
        remove(staged)
        write(staged)
        mark_folder(staged, run_id=run_id, lineage=lineage_of_rows(run.path), **record.model_dump())
        sync(staged)
        before = _record(run.best, run_id)
        if before is not None and before.step <= saved:
            remove(run.best_of_checkpoint)
            run.best.rename(run.best_of_checkpoint)
        remove(run.best)
        staged.rename(run.best)
        sync(run.path)


def forget_earlier(run: RunPaths) -> None:
    """Remove the best adapter up to the last checkpoint, once there is a checkpoint after the best one."""
    with telling_disk_errors(run.best_of_checkpoint):
        remove(run.best_of_checkpoint)


def _places(run: RunPaths) -> tuple[Path, Path]:
    return run.best, run.best_of_checkpoint


def _intact(folders: Iterable[Path], run_id: str, verified: bool = True) -> Iterator[Best]:
    """Yield the adapters of these folders that are intact."""
    for folder in folders:
        record = _record(folder, run_id)
        if record is not None and not (verified and fault_of(folder)):
            yield Best(folder, record)


def _record(folder: Path, run_id: str) -> BestRecord | None:
    """Return the evaluation that chose the adapter of a folder, None if there is no complete one of this run."""
    mark = read_mark(folder)
    if not isinstance(mark, Mark) or mark.extra.get("run_id") != run_id:
        return None
    try:
        return BestRecord.model_validate({name: mark.extra[name] for name in BestRecord.model_fields})
    except (KeyError, ValueError):
        return None
