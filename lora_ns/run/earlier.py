"""Adapters of earlier runs: opened to start from, and the copies that a run keeps of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lora_ns.errors import Problem, UsageError
from lora_ns.files.disk import sha256_file
from lora_ns.files.marks import fault_of
from lora_ns.files.reading import is_file, is_folder
from lora_ns.model.adapter import WEIGHTS
from lora_ns.recipe.earlier_run import KEY, folder_of, missing_run
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import EarlierAdapter, Manifest

BASE_KEY = "model.base_adapters"


@dataclass(frozen=True)
class EarlierRun:
    """A finished run whose adapter a recipe uses."""

    key: str
    """The recipe key that names it."""
    name: str
    """Its name in the recipe."""
    run: RunDir
    manifest: Manifest

    @property
    def record(self) -> EarlierAdapter:
        """The manifest's record of its adapter."""
        return EarlierAdapter(
            run=str(self.run.path.absolute()),
            run_id=self.manifest.run_id,
            sha256=self.manifest.adapter.get(WEIGHTS) or sha256_file(self.run.adapter / WEIGHTS),
        )


@dataclass(frozen=True)
class EarlierRuns:
    """The runs whose adapters a recipe uses; empty for a new adapter on the base as it is."""

    init: EarlierRun | None = None
    merged: tuple[EarlierRun, ...] = ()

    @property
    def all(self) -> tuple[EarlierRun, ...]:
        """All of them, in the order in which their adapters are used."""
        return (*self.merged, self.init) if self.init else self.merged


def open_earlier(recipe: Recipe, folder: Path) -> EarlierRuns:
    """Open the runs that a recipe names, without comparing their files with their manifests.

    Args:
        recipe: the recipe.
        folder: its folder.

    Raises:
        UsageError: with every name that is not a finished run, or that names one twice.
    """
    names = [(BASE_KEY, name) for name in recipe.model.base_adapters]
    names += [(KEY, recipe.model.init_adapter)] if recipe.model.init_adapter is not None else []
    found: list[EarlierRun] = []
    problems: list[Problem] = []
    for key, name in names:
        try:
            found.append(_open(recipe, key, name, folder, found))
        except UsageError as error:
            problems += [problem if problem.key else replace(problem, place=key) for problem in error.problems]
    if problems:
        raise UsageError(problems)
    init = found.pop() if recipe.model.init_adapter is not None else None
    return EarlierRuns(init, tuple(found))


def _open(recipe: Recipe, key: str, name: str, folder: Path, before: list[EarlierRun]) -> EarlierRun:
    path = folder_of(name, folder)
    if problem := missing_run(path, key):
        raise UsageError(problem)
    if path.resolve() == RunDir.of(recipe).path.resolve():
        what = f"{name} is the run's own `output_dir`"
        raise UsageError(Problem("", what, "choose another `training.output_dir`", key=key))
    if same := next((other for other in before if other.run.path.resolve() == path.resolve()), None):
        what = f"{name} is also named in `{same.key}`" if same.key != key else f"{name} is given twice"
        raise UsageError(Problem("", what, "remove one of them", key=key))
    run = RunDir.open(path)
    manifest = run.read()
    if manifest.status != "finished":
        what = f"{name} is not finished: the run is {manifest.status}"
        raise UsageError(Problem("", what, f"`lorans train {path} --resume` finishes it", key=key))
    return EarlierRun(key, name, run, manifest)


def kept_problems(run: RunDir, manifest: Manifest, *, starts: bool) -> list[Problem]:
    """Find kept copies of adapters that are missing or damaged.

    Args:
        run: the run.
        manifest: the run's manifest.
        starts: whether the adapter that training started from is needed, too.
    """
    copies = [(run.base_adapter(number), record) for number, record in enumerate(manifest.base_adapters)]
    if starts and manifest.init_adapter:
        copies.append((run.start, manifest.init_adapter))
    return [problem for folder, record in copies if (problem := _kept_problem(folder, record))]


def _kept_problem(folder: Path, record: EarlierAdapter) -> Problem | None:
    remedy = f"restore the copy of the adapter of {record.run}, or start a new run with `--overwrite`"
    if not is_folder(folder) or not is_file(folder / WEIGHTS):
        return Problem(str(folder), "the adapter of an earlier run that this run depends on is missing", remedy)
    if fault := fault_of(folder):
        return Problem(str(folder / fault.name), fault.what, remedy)
    if sha256_file(folder / WEIGHTS) != record.sha256:
        return Problem(str(folder / WEIGHTS), "is not the adapter that this run was started with", remedy)
    return None
