"""`lorans train` in each process of a launcher of the user's own: torchrun's, or accelerate's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.files.disk import write_atomic
from lora_ns.launch.ranks import telling_launcher
from lora_ns.launch.torchrun import Launcher, strays
from lora_ns.machine.libraries import Noise
from lora_ns.parallel.group import Rank
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.services.resume import reopen_run
from lora_ns.services.train import prepare_run
from lora_ns.training.fit import TrainResult
from lora_ns.training.rank import train_rank

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_LONGEST_PREPARATION = timedelta(days=30)
"""How long processes wait for rows to be tokenised: the launcher ends them if the one that does so fails."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    loaded: LoadedRecipe | None
    """The recipe, with the launcher's processes; None to go on with a run."""
    run: RunDir
    """This machine's."""
    resume: bool
    overwrite: bool
    use_cache: bool
    moved: Path | None = None
    """Path to the base of the run, if it has moved."""
    from_start: bool = False
    """Whether to start again where every checkpoint is damaged."""


def train(launcher: Launcher, asked: Asked, observer: Observer, noise: Noise) -> TrainResult | None:
    """Be one of the processes that train a recipe, or go on with its run.

    The first process on each machine makes the run, with nothing of the launcher in sight. The others wait for it in
    the launcher's store, and no process group is there before all rows are.

    Args:
        launcher: who started this process.
        asked: what is to be trained.
        observer: who is told, by the first process.
        noise: goes on in the run's log.

    Returns:
        The result, in the first process of each machine.
    """

    def make() -> RunDir:
        if asked.loaded is None or asked.resume or _was_begun_by(launcher, asked.run):
            return reopen_run(asked.run, observer, asked.loaded, asked.moved, asked.from_start)
        return prepare_run(asked.loaded, observer, noise, asked.overwrite, asked.use_cache)

    store = _meeting_point()  # which lives as long as this: the process group is formed at the same place
    rank, run = Rank.of(), _made_by_first(launcher, make, store)
    with telling_launcher(run, rank.number, is_launched=False):
        return train_rank(run, observer if rank.is_first else SilentObserver(), noise, is_launched=False)


def _was_begun_by(launcher: Launcher, run: RunDir) -> bool:
    """Whether the launcher starts all processes again, after one was lost."""
    file = run.launcher_file
    return launcher.restarts > 0 and file.is_file() and file.read_text(encoding="utf-8") == str(os.getppid())


def _meeting_point() -> Store:
    """The launcher's store, of which all its processes know."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(rendezvous("env://", timeout=_LONGEST_PREPARATION))[0]
    return store


def _made_by_first(launcher: Launcher, make: Callable[[], RunDir], store: Store) -> RunDir:
    """What the first process of this machine makes, in all of them."""
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
    """Let nothing that prepares a run see what the launcher set."""
    aside = {name: os.environ.pop(name) for name in strays(os.environ)}
    try:
        yield
    finally:
        os.environ.update(aside)
