"""`lorans train` in each process that the user's own launcher, torchrun or accelerate, has started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.files.disk import write_atomic
from lora_ns.launch.ranks import reporting_to_launcher
from lora_ns.launch.torchrun import Launcher, strays
from lora_ns.machine.libraries import Noise
from lora_ns.parallel.group import Rank
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.services.after_training import JudgedTraining, judged
from lora_ns.services.execute import telling_end
from lora_ns.services.resume import reopen_run
from lora_ns.services.train import prepare_run
from lora_ns.training.rank import train_rank

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_LONGEST_PREPARATION = timedelta(days=30)
"""Longest wait for the rows to be tokenised; if the process that does so fails, the launcher ends the others."""


@dataclass(frozen=True)
class TrainRequest:
    """The request of the command line."""

    loaded: LoadedRecipe | None
    """The recipe, with the launcher's number of processes; None to resume a run."""
    run: RunDir
    """The run directory on this machine."""
    resume: bool
    overwrite: bool
    use_cache: bool
    moved: Path | None = None
    """Path to the base model, if it has moved."""
    from_start: bool = False
    """Restart from the first step if every checkpoint is damaged."""
    is_forced: bool = False
    """Train even if the rewards of the recipe teach nothing."""


def train(launcher: Launcher, request: TrainRequest, observer: Observer, noise: Noise) -> JudgedTraining | None:
    """Train a recipe, or resume its run, as one of the launcher's processes.

    The first process on each machine creates the run, without the launcher's environment variables. The others wait
    for it through the launcher's store. The process group is formed once all rows are prepared.

    Args:
        launcher: the launcher of this process.
        request: the request of the command line.
        observer: receives progress and warnings, from the first process of the machine.
        noise: library output, written to the run's log.

    Returns:
        The result in the first process of each machine, None in the others.
    """

    def make() -> RunDir:
        if request.loaded is None or request.resume or _is_restarted_by(launcher, request.run):
            return reopen_run(request.run, observer, request.loaded, request.moved, request.from_start)
        return prepare_run(request.loaded, observer, noise, request.overwrite, request.use_cache, request.is_forced)

    store = _meeting_point()  # must live as long as this function: the process group is formed through it
    rank, run = Rank.of(), _made_by_first(launcher, make, store)
    with telling_end(run, observer) if rank.is_first else contextlib.nullcontext():
        with reporting_to_launcher(run, rank.number, is_launched=False):
            result = train_rank(run, observer if rank.is_first else SilentObserver(), noise, is_launched=False)
        return None if result is None else judged(result)


def _is_restarted_by(launcher: Launcher, run: RunDir) -> bool:
    """Test that the launcher is restarting the processes of a run that it started before."""
    file = run.launcher_file
    return launcher.restarts > 0 and file.is_file() and file.read_text(encoding="utf-8") == str(os.getppid())


def _meeting_point() -> Store:
    """The launcher's store, which all its processes share."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(rendezvous("env://", timeout=_LONGEST_PREPARATION))[0]
    return store


def _made_by_first(launcher: Launcher, make: Callable[[], RunDir], store: Store) -> RunDir:
    """Create the run in the first process of this machine, and hand its path to the others."""
    key = f"lorans/run/{launcher.node}/{launcher.restarts}"
    if not launcher.is_first:
        store.wait([key], _LONGEST_PREPARATION)
        return RunDir(Path(store.get(key).decode()))
    with _strays_put_aside():
        run = make()
    run.clear_ranks()
    write_atomic(run.launcher_file, str(os.getppid()))
    store.set(key, str(run.path))
    return run


@contextlib.contextmanager
def _strays_put_aside() -> Iterator[None]:
    """Hide the launcher's environment variables while a run is prepared."""
    aside = {name: os.environ.pop(name) for name in strays(os.environ)}
    try:
        yield
    finally:
        os.environ.update(aside)
