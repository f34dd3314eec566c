"""The study of a sweep: its trials in an SQLite file that several processes share, through Optuna."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lora_ns.errors import LoransError, MissingError, Problem, UsageError
from lora_ns.files.disk import telling_disk_errors, write_atomic
from lora_ns.files.locks import is_locked, try_lock
from lora_ns.files.reading import exists, is_file, read_json
from lora_ns.files.removal import remove
from lora_ns.recipe.best_metric import is_higher_better, is_of_a_suite, known_metrics
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.space import Choices, Key, Space
from lora_ns.run.paths import RunPaths
from lora_ns.services.sweep.measured import Measured

Sampler = Literal["grid", "random", "tpe"]

HALVING = 2
"""One in this many trials goes on at each rung."""

RUNGS = 3
"""Number of rungs, after an eighth, a quarter and half of the recipe's rows."""

_NAME, _MEASURED, _ATTEMPT, _SECONDS = "sweep", "measured", "attempt", 60.0


_RESULT = "trial.json"


NEAR = 0.1
"""Share by which the loss of a trial may be above the lowest at a rung, and the trial goes on whatever its place."""

_FEWEST = 8
"""Number of trials from which on the importance of keys is told."""


def check_optuna() -> None:
    """Check that Optuna is installed. Raises `MissingError`."""
    if importlib.util.find_spec("optuna") is None:
        raise MissingError(Problem("", "`optuna` is not installed", "`pip install 'lora-ns[sweep]'`"))


@dataclass(frozen=True)
class Design:
    """What a sweep is: with the same design, a command goes on with it."""

    recipe: str
    """The text of the recipe."""
    overrides: tuple[str, ...]
    sampler: Sampler
    metric: str
    higher_is_better: bool
    seed: int
    rows: int = 0
    """Rows that the recipe trains on, epochs counted; the rungs are shares of it."""
    data: Mapping[str, Any] | None = None
    """Hashes of data and base, which must not change between trials."""


class SweepDir:
    """The folder of a sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.design_file, self.database = path / "sweep.json", path / "study.db"
        self.recipe, self.best = path / "recipe.toml", path / "best.toml"
        self.result, self.plots, self.log = path / "result.json", path / "plots", path / "sweep.log"
        self.jobs = RunPaths(path).jobs
        self._lock = path / "lock"

    def trial(self, number: int) -> Path:
        """The folder of a trial."""
        return self.path / "trials" / f"{number:03}"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock under which trials are handed out."""
        with telling_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._lock, os.O_CREAT | os.O_RDWR)
        try:
            until = time.monotonic() + _SECONDS
            while not try_lock(handle):
                if time.monotonic() > until:
                    raise UsageError(Problem(str(self._lock), "is held by another process", "wait, or stop it"))
                time.sleep(0.05)
            yield
        finally:
            os.close(handle)

    def begin(self, design: Design, path: Path, trials: int) -> Design:
        """Write the design of a new sweep, or check that it is that of the sweep in the folder.

        Raises:
            UsageError: if the folder has something else in it.
        """
        self.check_free()
        known = None
        if is_file(self.design_file):
            known, trials = self.design(), max(trials, self.trials() or 0)
            self.check_same(known, design, [] if known.data == design.data else ["data or base"])
        else:
            write_atomic(self.recipe, design.recipe)
        table = {"path": str(path.absolute()), "trials": trials, **asdict(known or design)}
        write_atomic(self.design_file, json.dumps(table, indent=2) + "\n")
        return known or design

    def check_free(self) -> None:
        """Check that the folder has a sweep or nothing in it, apart from records of jobs. Raises `UsageError`."""
        if is_file(self.design_file) or not exists(self.path):
            return
        if is_file(self.path) or any(file not in {self._lock, self.jobs} for file in self.path.iterdir()):
            raise UsageError(Problem(str(self.path), "is not empty and not a sweep", "choose another folder with -o"))

    def check_same(self, known: Design, asked: Design, others: Sequence[str] = ()) -> None:
        """Check that a sweep is the one that is asked for. Raises `UsageError` with what differs."""
        names = {"recipe": "recipe", "overrides": "--set", "sampler": "--sampler", "metric": "--metric"}
        changed = [shown for field, shown in names.items() if getattr(known, field) != getattr(asked, field)]
        if changed := [*changed, *others]:
            what = f"is a sweep with another {' and '.join(changed)}"
            raise UsageError(Problem(str(self.path), what, "restore it, or start another sweep with -o FOLDER"))

    def design(self) -> Design:
        """Read the design. Raises `UsageError`."""
        table = self._written()
        try:
            known = {key: value for key, value in table.items() if key not in {"path", "trials"}}
            return Design(**{**known, "overrides": tuple(table["overrides"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise self._damaged(error) from None

    def trials(self) -> int | None:
        """The number of trials that were asked for; None in sweeps of old versions. Raises `UsageError`."""
        found = self._written().get("trials")
        return found if isinstance(found, int) else None

    def _written(self) -> dict[str, Any]:
        try:
            table = read_json(self.design_file)
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None
        if not isinstance(table, dict):
            raise self._damaged(TypeError())
        return table

    def _damaged(self, error: Exception) -> UsageError:
        what = f"cannot be read: {type(error).__name__}"
        return UsageError(Problem(str(self.design_file), what, "start another sweep with -o FOLDER"))

    def forget(self) -> None:
        """Remove a sweep that has no result, so that a corrected command can use its folder; jobs keep their files."""
        for part in self.path.iterdir():
            if part != self.jobs:
                remove(part)
        with contextlib.suppress(OSError):  # raised for a folder that is not empty
            self.path.rmdir()

    def in_training(self) -> bool:
        """True if a process that can be seen from here trains a trial."""
        return any(is_locked(trial) for trial in (self.path / "trials").glob("*"))


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep, trained or not."""

    number: int
    values: Mapping[str, Any]
    """The varied keys with their values."""
    measured: Measured
    folder: str = ""


class Study:
    """Hands out trials and takes their results."""

    def __init__(self, folder: SweepDir, design: Design, space: Space, trials: int) -> None:
        self.folder, self.design, self.space, self.trials = folder, design, space, trials
        self._study = self._open()
        self._held: dict[int, int] = {}

    def _open(self) -> Any:
        import optuna
        from optuna.exceptions import OptunaError
        from sqlalchemy import URL
        from sqlalchemy.exc import SQLAlchemyError

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            storage = optuna.storages.RDBStorage(
                URL.create("sqlite", database=str(self.folder.database)).render_as_string(),
                engine_kwargs={"connect_args": {"timeout": _SECONDS}},
            )
            return optuna.create_study(
                storage=storage,
                study_name=_NAME,
                direction="maximize" if self.design.higher_is_better else "minimize",
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVING),
                load_if_exists=True,
            )
        except (SQLAlchemyError, OptunaError) as error:
            what = f"cannot be used: {type(error).__name__}"
            remedy = "remove it to train the trials again, or start another sweep with -o FOLDER"
            raise UsageError(Problem(str(self.folder.database), what, remedy)) from None

    def enqueue(self) -> None:
        """Queue all combinations of a grid, once, in an order that does not depend on the values."""
        import random

        if self.design.sampler != "grid" or self._study.get_trials(deepcopy=False):
            return
        grid = self.space.combinations()
        random.Random(self.design.seed).shuffle(grid)
        for texts in grid:
            self._study.enqueue_trial(dict(zip((key.name for key in self.space.keys), texts, strict=True)))

    def ask(self) -> Asking | None:
        """Return the next trial; None if there are enough. Trials of processes that were killed are repeated."""
        from optuna.trial import TrialState

        with self.folder.locked():
            known = self._study.get_trials(deepcopy=False)
            for trial in known:
                if trial.state == TrialState.RUNNING and self._is_abandoned(trial.number):
                    remove(self.folder.trial(trial.number) / _RESULT)  # written, and not told
                    self._study.tell(trial.number, state=TrialState.FAIL)
                    attempt = trial.user_attrs.get(_ATTEMPT, 1) + 1
                    self._study.enqueue_trial(dict(trial.params), user_attrs={_ATTEMPT: attempt})
            known = self._study.get_trials(deepcopy=False)
            taken = sum(_has_result(one) or one.state == TrialState.RUNNING for one in known)
            waits = any(one.state == TrialState.WAITING for one in known)
            if taken >= self.trials or (self.design.sampler == "grid" and not waits):
                return None
            self._study.sampler = self._sampler(self.design.seed + len(known))
            trial = self._study.ask()
            texts = tuple(self._suggest(trial, key) for key in self.space.keys)
            self._hold(trial.number)
        return Asking(trial, texts)

    def _sampler(self, seed: int) -> Any:
        import optuna

        if self.design.sampler != "tpe":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, min(10, self.trials // 3)))

    def _suggest(self, trial: Any, key: Key) -> str:
        values = key.values
        if isinstance(values, Choices):
            return str(trial.suggest_categorical(key.name, values.texts))
        if values.kind == "int":
            return values.text(trial.suggest_int(key.name, int(values.low), int(values.high)))
        return values.text(trial.suggest_float(key.name, values.low, values.high, log=values.kind == "log"))

    def _hold(self, number: int) -> None:
        """Show other processes that this one trains a trial; the operating system ends that with the process."""
        folder = self.folder.trial(number)
        with telling_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._held[number] = os.open(folder, os.O_RDONLY)
        until = time.monotonic() + _SECONDS
        while not try_lock(self._held[number]) and time.monotonic() < until:  # another process looks whether it is held
            time.sleep(0.01)

    def _is_abandoned(self, number: int) -> bool:
        folder = self.folder.trial(number)
        if number in self._held:
            return False
        if not folder.is_dir():
            return True
        handle = os.open(folder, os.O_RDONLY)
        try:
            return try_lock(handle, if_unknown=False)
        finally:
            os.close(handle)

    def tell(self, asking: Asking, measured: Measured) -> None:
        """Record the result of a trial."""
        from optuna.trial import TrialState

        value = measured.metrics.get(self.design.metric)
        states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.PRUNED}
        asking.trial.set_user_attr(_MEASURED, measured.state)
        is_complete = measured.state == "finished"
        self._study.tell(
            asking.number, value if is_complete else None, state=states.get(measured.state, TrialState.FAIL)
        )
        os.close(self._held.pop(asking.number))

    def is_busy(self) -> bool:
        """True if other processes train trials of this sweep."""
        from optuna.trial import TrialState

        return any(
            one.state == TrialState.RUNNING and one.number not in self._held and not self._is_abandoned(one.number)
            for one in self._study.get_trials(deepcopy=False)
        )

    def done(self) -> set[int]:
        """The numbers of the trials that have a result."""
        return {one.number for one in self._study.get_trials(deepcopy=False) if _has_result(one)}

    def judge(self, asking: Asking, rung: int, metrics: Mapping[str, float]) -> str:
        """Decide at a rung whether a trial stops, by its evaluation loss among those of other trials there."""
        loss, step = metrics["eval_loss"], HALVING**rung
        sign = -1 if self.design.higher_is_better else 1
        others = [one.intermediate_values.get(step) for one in self._study.get_trials(deepcopy=False)]
        lowest = min((sign * value for value in others if value is not None), default=loss)
        asking.trial.report(sign * loss, step)
        if not asking.trial.should_prune() or loss <= lowest + NEAR * abs(lowest):
            return ""
        return f"an evaluation loss of {loss:.4g} at rung {rung + 1} of {RUNGS}, where the lowest is {lowest:.4g}"

    def importances(self, trials: Sequence[Trial]) -> dict[str, float]:
        """The share of each key in the spread of the losses at the first rung, which all trials reach (fANOVA).

        The order of the losses counts, not their size, which a trial that diverges would dominate. Empty for one key,
        or too few trials.
        """
        import optuna

        known = {one.number: one for one in self._study.get_trials(deepcopy=False)}
        reached = {one.number: one.measured.curve[0][1] for one in trials if one.measured.curve}
        order = sorted(reached, key=lambda number: (not math.isfinite(reached[number]), reached[number]))
        if len(self.space.keys) < 2 or len(order) < _FEWEST:
            return {}
        alike = optuna.create_study()
        for place, number in enumerate(order):
            trial = known[number]
            alike.add_trial(
                optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=float(place))
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(alike, evaluator=evaluator)
        return {key.name: float(found[key.name]) for key in self.space.keys}


def _has_result(trial: Any) -> bool:
    """True unless a trial is still to be trained, or was abandoned and is repeated."""
    measured = trial.user_attrs.get(_MEASURED)
    return trial.state.is_finished() and (trial.state.name != "FAIL" or measured in {"refused", "failed"})


@dataclass(frozen=True)
class Asking:
    """A trial that is handed out."""

    trial: Any
    texts: tuple[str, ...]

    @property
    def attempt(self) -> int:
        """How often it was handed out, this time included: more than once if its process ended before."""
        return int(self.trial.user_attrs.get(_ATTEMPT, 1))

    @property
    def number(self) -> int:
        """Its number, from 0."""
        return int(self.trial.number)


def rungs_of(rows: int) -> Any:
    """The rungs of a trial: after an eighth, a quarter and half of the rows of the recipe, whatever its batch."""

    def steps(_steps: int, batch: int) -> list[int]:
        return [max(1, round(rows / HALVING ** (RUNGS - rung) / batch)) for rung in range(RUNGS)]

    return steps


def direction(metric: str, recipe: Recipe) -> tuple[str, bool]:
    """Return the full name of a metric, and whether higher is better.

    Raises:
        UsageError: if the direction is not known, or no evaluation of a trial has this metric.
    """
    name = metric.removeprefix("eval_")
    is_higher = None if is_of_a_suite(recipe, name) else is_higher_better(recipe, name)
    if is_higher is None:
        known = ", ".join(known_metrics(recipe))
        raise UsageError(Problem("--metric", f"`{metric}` is no metric of an evaluation", f"write one of: {known}"))
    return f"eval_{name}", is_higher


def write_trial(folder: Path, number: int, values: Mapping[str, Any], measured: Measured) -> None:
    """Write the result of a trial into its folder."""
    write_atomic(folder / _RESULT, json.dumps({"number": number, "values": dict(values), **asdict(measured)}) + "\n")


def read_trials(folder: SweepDir) -> tuple[list[Trial], list[str]]:
    """Read all trials that have a result, and a note on each whose file is damaged."""
    trials, notes = [], []
    for file in sorted((folder.path / "trials").glob(f"*/{_RESULT}")):
        try:
            table = read_json(file)
            number, values = int(table.pop("number")), dict(table.pop("values"))
            trials.append(Trial(number, values, Measured.of(table), str(file.parent)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, LoransError) as error:
            notes.append(f"{file} cannot be read and is left out: {type(error).__name__}")
    return trials, notes
