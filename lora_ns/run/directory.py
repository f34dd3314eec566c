"""The run directory: its manifest, its locks, and the only code that writes in it.

Commands pass data to each other only through this directory. Every file in it is written completely or not at all.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lora_ns.errors import LoransError, Problem, RunError, UsageError, first_line
from lora_ns.files.disk import now, telling_disk_errors, write_atomic
from lora_ns.files.locks import try_lock
from lora_ns.files.reading import exists, is_file, is_folder, is_within, read_bytes, read_json
from lora_ns.files.removal import remove
from lora_ns.files.shortage import check_writable, is_gone, unwritable
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.manifest import MANIFEST_VERSION, Manifest, as_written_now
from lora_ns.run.paths import RunPaths
from lora_ns.run.replaced import Replaced
from lora_ns.run.written_manifest import checksum_of


class RunDir(RunPaths):
    """A directory that holds one run."""

    @classmethod
    def of(cls, recipe: Recipe) -> RunDir:
        """Return the run directory of a recipe, which may not exist yet. For several machines, see `own_folder`."""
        return cls(Path(recipe.training.output_dir).expanduser().absolute())

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Open an existing run directory.

        Raises:
            UsageError: if this is not one, or a newer lorans wrote it.
        """
        run = cls(path)
        if not is_folder(path):
            raise UsageError(Problem(str(path), "no such run directory", "name the `output_dir` of a run"))
        if not is_file(run.manifest_file):
            raise UsageError(
                Problem(str(path), "not a run directory: it has no manifest.json", "name the `output_dir` of a run")
            )
        run.read()
        return run

    def read(self) -> Manifest:
        """Read the current manifest.

        Raises:
            UsageError: if it cannot be read.
        """
        for file in (self.manifest_file, self.recipe, self.metrics, self.log):
            if file.is_symlink():  # writing to it would change a file of the user's
                raise UsageError(
                    Problem(str(file), "is a link; a run must own its files", "replace the link by a copy of the file")
                )
        for folder in self._folders:
            if os.path.lexists(folder) and not is_folder(folder):
                remedy = "restore the folder, or remove this to continue without its content"
                raise UsageError(Problem(str(folder), "is not a folder", remedy))
        try:
            text = read_bytes(self.manifest_file, before="not a manifest: ").decode()
            table = json.loads(text)
            version = table["version"]
            if version > MANIFEST_VERSION:
                what = f"written by a newer lorans (manifest version {version}, this one reads {MANIFEST_VERSION})"
                raise UsageError(Problem(str(self.manifest_file), what, "`pip install --upgrade lora-ns`"))
            manifest = Manifest.model_validate_json(json.dumps(as_written_now(table)))
            self._check_whole(table)
        except (ValueError, KeyError, TypeError, ValidationError, RecursionError) as error:
            first = first_line(error)
            raise UsageError(
                Problem(str(self.manifest_file), f"not a manifest: {first}", "this run cannot be used")
            ) from None
        return manifest

    def write(self, manifest: Manifest) -> Manifest:
        """Replace the manifest."""
        stamped = manifest.model_copy(update={"updated": now()})
        table = json.loads(stamped.model_dump_json())
        text = json.dumps({**table, "checksum": checksum_of(table)}, indent=2, ensure_ascii=False)
        write_atomic(self.manifest_file, text + "\n")
        return stamped

    def _check_whole(self, table: dict[str, Any]) -> None:
        """Check a manifest for damage by its checksum; old versions have none. Raises `UsageError`."""
        written = table.pop("checksum", None)
        if written is not None and written != checksum_of(table):
            what = "is damaged: its checksum differs"
            remedy = "restore it; if you changed it yourself, remove `checksum` from it"
            raise UsageError(Problem(str(self.manifest_file), what, remedy))

    def update(self, **changes: Any) -> Manifest:
        """Change some fields of the current manifest, which another process may have written in the meantime."""
        return self.write(self.read().model_copy(update=changes))

    def amend(self, manifest: Manifest, **changes: Any) -> Manifest:
        """Change some fields of a manifest that no other process writes. Raises `RunError` if the run is gone."""
        self.check_there()
        return self.write(manifest.model_copy(update=changes))

    def create(self, recipe_text: str, manifest: Manifest) -> Manifest:
        """Create the directory with recipe and manifest. Call `check_free` first; it looks for other content."""
        written = self.write(manifest)  # first: a directory with a manifest is a run, whatever else is missing
        write_atomic(self.recipe, recipe_text)
        with telling_disk_errors(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        return written

    def check_free(self, overwrite: bool) -> None:
        """Refuse a directory that contains something else.

        Raises:
            UsageError: naming the content and a way out.
        """
        if exists(self.path) and not is_folder(self.path):
            what = "is a file" if is_file(self.path) else "is not a folder"
            raise UsageError(Problem(str(self.path), what, "choose another `training.output_dir`"))
        if problem := check_writable(self.path):
            raise UsageError(problem)
        if not exists(self.path) or not any(part != self.jobs for part in self.path.iterdir()):
            return
        if not self.manifest_file.exists() and not self._replaced.is_left:
            raise UsageError(
                Problem(str(self.path), "is not empty and not a run", "choose another `training.output_dir`")
            )
        if not overwrite:
            status = self.read().status if self.manifest_file.exists() else "put aside for a new run"
            remedy = "`--resume` continues it, `--overwrite` replaces it, or choose another `training.output_dir`"
            raise UsageError(Problem(str(self.path), f"already contains a run ({status})", remedy))

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock to train this run; another machine is refused too, if the disk supports locks.

        The operating system's lock is on the directory itself and ends with the process, however that ends. Child
        processes of a previous owner may live for some more seconds; this waits for them.

        Raises:
            UsageError: if another process holds the lock, or the directory is not writable.
        """
        with telling_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY)
        try:
            if problem := check_writable(self.path):
                raise UsageError(problem)
            if not try_lock(handle):
                what = "another process is training this run"
                raise UsageError(Problem(str(self.path), what, "wait for it, stop it, or choose another folder"))
            self._wait_for_ranks()
            yield
        finally:
            os.close(handle)

    def check_there(self) -> None:
        """Check that the directory still exists, because a checkpoint would create a new one. Raises `RunError`."""
        try:
            self.manifest_file.stat()
        except OSError as error:
            if is_gone(error):
                raise RunError(self._lost) from None
            raise

    @contextlib.contextmanager
    def telling_lost_disk(self) -> Iterator[None]:
        """Turn disk errors of a run in training into one message.

        Raises:
            RunError: if the disk is full, read-only or lost, or the directory was removed or moved.
        """
        try:
            yield
        except (UsageError, RunError) as error:
            if exists(self.manifest_file):
                raise
            raise RunError(self._lost) from error
        except LoransError:
            raise
        except Exception as error:
            problem = unwritable(error, self.path, "make it writable again")
            if is_gone(error) and not exists(self.manifest_file):
                problem = self._lost
            elif problem:
                what = f"{problem.what}; the last complete checkpoint is kept"
                remedy = f"{problem.remedy}, then `lorans train {self.path} --resume`"
                problem = Problem(str(self.path), what, remedy)
            if problem is None:
                raise
            raise RunError(problem) from error

    @property
    def _lost(self) -> Problem:
        remedy = "if it was moved, `lorans train FOLDER --resume` continues it in its new place"
        return Problem(str(self.path), "was removed or moved during training", remedy)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Mark this process as one of several that train this run; `held` waits until all of them have ended."""
        with telling_disk_errors(self.checkpoints):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.checkpoints, os.O_RDONLY)
        try:
            try_lock(handle, shared=True)
            yield
        finally:
            os.close(handle)

    def _wait_for_ranks(self) -> None:
        until = time.monotonic() + _RANKS_SECONDS
        while self._has_ranks():
            if time.monotonic() > until:
                what = "a process of an ended command is still training this run"
                remedy = f"wait until it ends; its process id is in one of the files `rank*.pid` in {self.ranks}"
                raise UsageError(Problem(str(self.path), what, remedy))
            time.sleep(0.1)

    def _has_ranks(self) -> bool:
        try:
            handle = os.open(self.checkpoints, os.O_RDONLY)
        except OSError:
            return False
        try:
            return not try_lock(handle)
        finally:
            os.close(handle)

    def clear_ranks(self) -> None:
        """Empty the folder in which the processes of this run leave their reports."""
        shutil.rmtree(self.spare, ignore_errors=True)
        with telling_disk_errors(self.ranks):
            remove(self.ranks)
            self.ranks.mkdir(parents=True)

    def report_failure(self, rank: int, report: Mapping[str, Any]) -> None:
        """Write the error of a process to a file for the launcher."""
        name, text = f"rank{rank}.error.json", json.dumps(report)
        try:
            self.check_there()
            write_atomic(self.ranks / name, text)
        except (RunError, OSError):
            write_atomic(self.spare / name, text)

    def reported_failures(self) -> list[dict[str, Any]]:
        """Return the errors that processes have reported; the spare folder is removed."""
        files = [file for folder in (self.ranks, self.spare) for file in folder.glob("rank*.error.json")]
        found = [report for file in files if (report := _failure_in(file))]
        shutil.rmtree(self.spare, ignore_errors=True)
        return found

    @contextlib.contextmanager
    def replacing(self) -> Iterator[None]:
        """Put the existing run aside for a new one; restore it if the new one ends before `forget_replaced`.

        Raises:
            RunError: if it cannot be moved.
        """
        try:
            with telling_disk_errors(self.path):
                self._replaced.put_aside()
            yield
        except BaseException:
            with telling_disk_errors(self.path):
                self._replaced.bring_back()
            raise

    def forget_replaced(self) -> None:
        """Remove the run that this one replaces."""
        self._replaced.forget()

    def mend(self, tell: Callable[[str], None]) -> None:
        """Restore a run that a killed command had put aside, and remove leftovers of killed commands.

        A run in training is left alone.

        Args:
            tell: receives a note if a run was restored.

        Raises:
            RunError: if something cannot be moved.
        """
        if not self.path.is_dir() or not (self._replaced.is_left or self._left_by_killed()):
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.held())
            except UsageError:
                return
            with telling_disk_errors(self.path):
                if not self._awaits_launcher() and self._replaced.bring_back():
                    tell(f"{self.path}: restored this run, because the command that was replacing it was killed")
                self._replaced.clear_forgotten()
                for file in self._left_by_killed():
                    file.unlink(missing_ok=True)
            shutil.rmtree(self.spare, ignore_errors=True)

    def _awaits_launcher(self) -> bool:
        return self.manifest_file.is_file() and self.read().awaits_launcher

    def _left_by_killed(self) -> list[Path]:
        """List incomplete files and the messages between processes of a run."""
        beside = [file for part in self._parts for file in self.path.glob(f".{part.name}.*")]
        inside = [file for part in self._parts if not part.is_symlink() for file in part.rglob(".*")]
        temporary = [file for file in (*beside, *inside) if _WRITTEN.fullmatch(file.name)]
        messages = [] if self.ranks.is_symlink() else [*self.ranks.glob("rank*.pid"), self.stop_file, self.stopped_file]
        return [file for file in (*temporary, *messages) if file.is_file()]

    @classmethod
    def open_to_use(cls, path: Path, tell: Callable[[str], None]) -> RunDir:
        """Open a run directory whose adapter will be used; writes nothing unless a repair is needed.

        A run that is being replaced is used where it was put aside, until the new one has completed a step.

        Args:
            path: the directory.
            tell: receives a note if this is not the run that is in it now.

        Raises:
            UsageError: as `open` does.
        """
        run = cls(path)
        if run._replaced.is_partial:
            run.mend(tell)
        if aside := run.put_aside:
            tell(f"{path}: the new run has not completed a step, so the run that it replaces is used")
            return cls.open(aside.path)
        return cls.open(path)

    def new_evaluation(self) -> Path | None:
        """Create the next folder for the results of an evaluation; None if nothing can be written here."""
        try:
            self.evaluations.mkdir(exist_ok=True)
            for number in itertools.count(1):
                with contextlib.suppress(FileExistsError):
                    folder = self.evaluations / str(number)
                    folder.mkdir()
                    return folder
        except OSError:
            return None
        return None  # pragma: no cover -- the numbers never end

    def owns(self, path: Path) -> bool:
        """True if a path is a file or folder of the run, or inside one; other content of its directory is not."""
        run = self._directory
        parts = (*run._parts, run.jobs, *run._replaced.folders)
        return any(is_within(path, part) for part in parts)

    def holds(self, path: Path) -> bool:
        """True if a path is in the directory of the run."""
        return is_within(path, self._directory.path)

    @property
    def _directory(self) -> RunDir:
        """The directory of this run; for a run that was put aside, the directory that contains it."""
        return RunDir(self.path.parent) if self.path in RunDir(self.path.parent)._replaced.folders else self

    @property
    def put_aside(self) -> RunDir | None:
        """The run that is being replaced, until the new one has completed a step."""
        return RunDir(self._replaced.whole) if self._replaced.whole.is_dir() else None

    @property
    def _replaced(self) -> Replaced:
        return Replaced(self.path, self._parts)


_RANKS_SECONDS = 10.0
"""Seconds to wait for the remaining processes of a killed command."""


_WRITTEN = re.compile(r"\.(.+)\.(?:[a-z0-9_]{8}|new)")
"""Names of files in progress, from `write_atomic` or from another machine."""


def _failure_in(file: Path) -> dict[str, Any] | None:
    """Read the error that a process has reported; None if the file is incomplete."""
    try:
        report = read_json(file)
    except UsageError:
        return None
    return report if isinstance(report, dict) else None


def new_run_id() -> str:
    """Return a unique run id."""
    return f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
