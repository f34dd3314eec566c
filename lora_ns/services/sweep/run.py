"""`sweep`: trials until there are enough, in this process or in several, and their result."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_ns.errors import InterruptedRunError, LoransError, MissingError, Problem, RunError, UsageError
from lora_ns.files.disk import write_atomic
from lora_ns.launch.tethered import tethered
from lora_ns.launch.workers import count_workers, worker_environments
from lora_ns.machine.hardware import detect
from lora_ns.machine.libraries import Noise
from lora_ns.parallel.stop import EndedEarly, StopSignal
from lora_ns.recipe.load import LoadedRecipe, load_recipe
from lora_ns.recipe.overrides import override_key, parse_override
from lora_ns.recipe.space import Space, check_space, read_space
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer
from lora_ns.safety.interpreter import interpreter
from lora_ns.services.sweep.bench import Asked, Bench, check_sweepable
from lora_ns.services.sweep.measured import Measured
from lora_ns.services.sweep.plots import write_plots
from lora_ns.services.sweep.result import SweepResult, best_recipe, check_any, ranked, write_result
from lora_ns.services.sweep.study import (
    Asking,
    Design,
    Sampler,
    Study,
    SweepDir,
    check_optuna,
    direction,
    read_trials,
    rungs_of,
    write_trial,
)

USUAL_TRIALS = 20


@dataclass(frozen=True)
class SweepRequest:
    """What to sweep, as asked on the command line."""

    recipe: Path
    overrides: tuple[str, ...]
    """`--set` values, some with several values or a range."""
    trials: int | None = None
    metric: str = "eval_loss"
    sampler: Sampler | None = None
    output: Path | None = None
    processes: int = 1
    is_worker: bool = False
    """True to take part in a sweep that other processes train, too."""
    use_cache: bool = True
    text: str | None = None
    """The text of the recipe, if it is not that of the file: a job has it as it was when the sweep was submitted."""
    most_attempts: int | None = None
    """How often a trial may begin, if its process ends before it is done; None for no limit."""


@dataclass(frozen=True)
class Checked:
    """A sweep whose keys, values and metric have been checked, before anything is read."""

    loaded: LoadedRecipe
    space: Space
    design: Design
    """The design, as far as it is known before rows and base are read."""
    trials: int
    folder: SweepDir


def check_request(request: SweepRequest) -> Checked:
    """Check what can be checked without rows and base.

    Raises:
        LoransError: if a key or value is wrong, the metric is not known, or the recipe cannot be swept.
    """
    check_optuna()
    space = read_space(request.overrides)
    loaded = load_recipe(request.recipe, space.fixed, request.text)
    metric, is_higher = direction(request.metric, loaded.recipe)
    check_space(request.recipe, loaded.text, space)
    space, sampler, trials = _chosen(space, request)
    check_sweepable(loaded, "a sweep")
    folder = SweepDir((request.output or Path("outputs/sweeps") / loaded.recipe.task_name).expanduser().absolute())
    design = Design(
        recipe=loaded.text,
        overrides=tuple(sorted((*space.fixed, *(f"{key.name}={key.values}" for key in space.keys)))),
        sampler=sampler,
        metric=metric,
        higher_is_better=is_higher,
        seed=loaded.recipe.training.seed,
    )
    return Checked(loaded, space, design, trials, folder)


def sweep(request: SweepRequest, observer: Observer, noise: Noise) -> SweepResult:
    """Train trials until there are enough, and rank them. The same request goes on with a sweep that was stopped.

    Raises:
        LoransError: see `errors`; nothing trains before the keys, their values and the rows have been checked.
    """
    checked = check_request(request)
    with StopSignal().listening():
        try:
            return _swept(request, checked, Bench(observer, request.use_cache), noise)
        except EndedEarly as ended:
            problem = Problem(str(checked.folder.path), "the sweep was stopped", "the same command goes on with it")
            raise InterruptedRunError(ended.number, problem) from None


def _swept(request: SweepRequest, checked: Checked, bench: Bench, noise: Noise) -> SweepResult:
    """Begin or continue a sweep, train its trials and rank them."""
    loaded, space, folder = checked.loaded, checked.space, checked.folder
    begun = _base_manifest(bench, loaded, space, folder)
    design = replace(checked.design, rows=_rows(begun), data=_data(begun))
    with folder.locked():
        design = folder.begin(design, request.recipe, checked.trials)
        study = Study(folder, design, space, checked.trials)
        study.enqueue()
    if not request.is_worker and study.is_busy():
        what = "other processes train trials of this sweep"
        raise UsageError(Problem(str(folder.path), what, "wait for them, or take part with `--worker`"))
    if request.processes > 1:
        _in_processes(request, study, folder, bench.observer)
    else:
        name = f"worker-{platform.node()}-{os.getpid()}.log"
        noise.attach(folder.path / name if request.is_worker else folder.log)
        _train(study, bench, loaded, request.most_attempts)
    return _result(study, loaded)


def _chosen(space: Space, request: SweepRequest) -> tuple[Space, Sampler, int]:
    """The space, the sampler and the number of trials: a grid if all values are lists and all fit."""
    combinations = len(space.combinations()) if space.is_listed else None
    trials = request.trials or (combinations if combinations and request.sampler in {None, "grid"} else USUAL_TRIALS)
    sampler = request.sampler or ("grid" if combinations is not None and combinations <= trials else "tpe")
    if sampler == "grid":
        space = space.listed(trials)
        count = len(space.combinations())
        if count > trials:
            what = f"a grid of {count} combinations, and {trials} trials"
            raise UsageError(Problem("--trials", what, f"write `--trials {count}`, or `--sampler tpe`"))
        trials = count
    return space, sampler, trials


def _base_manifest(bench: Bench, loaded: LoadedRecipe, space: Space, folder: SweepDir) -> Manifest:
    """The manifest of the recipe as it is, or else of the first combination of values that can be planned."""
    failed: LoransError | None = None
    first = [key.override(key.values.ends()[0]) for key in space.keys]
    for overrides in (space.fixed, (*space.fixed, *first)):
        try:
            return bench.plan(load_recipe(loaded.path, overrides, loaded.text), folder.path).manifest
        except MissingError:
            raise
        except (UsageError, RunError) as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _rows(manifest: Manifest) -> int:
    plan = manifest.plan
    return (plan.max_steps.value or 1) * plan.global_batch_size.value


def _data(manifest: Manifest) -> dict[str, Any]:
    evaluation = manifest.data.eval
    return {
        "train": manifest.data.train.sha256,
        "eval": evaluation.sha256 if evaluation else None,
        "base": manifest.base.fingerprint,
    }


def _train(study: Study, bench: Bench, loaded: LoadedRecipe, most_attempts: int | None) -> None:
    """Train trials until there are enough."""
    observer = bench.observer
    while (asking := study.ask()) is not None:
        folder = study.folder.trial(asking.number)
        overrides = study.space.overrides(asking.texts)
        values = {override_key(one): parse_override(one)[1] for one in overrides[len(study.space.fixed) :]}
        shown = ", ".join(f"{name} = {value}" for name, value in values.items())
        observer.stage(f"trial {len(study.done()) + 1} of {study.trials}: {shown}")
        if most_attempts is not None and asking.attempt > most_attempts:
            measured = Measured("failed", f"its process ended {most_attempts} times before the trial was done")
        else:
            measured = _tried(study, bench, loaded, asking, overrides)
        write_trial(folder, asking.number, values, measured)
        study.tell(asking, measured)
        observer.stage(f"  {_outcome(study.design.metric, measured)}")


def _outcome(metric: str, measured: Measured) -> str:
    if measured.state == "finished":
        return f"{metric} {measured.metrics[metric]:.4g} in {measured.seconds:,.0f} s"
    return f"{measured.state}: {measured.reason}"


def _tried(study: Study, bench: Bench, loaded: LoadedRecipe, asking: Asking, overrides: Sequence[str]) -> Measured:
    """Train a trial. One that is refused, or fails, is a result as well."""
    folder, metric = study.folder.trial(asking.number), study.design.metric
    wrong: list[UsageError] = []

    def judge(rung: int, metrics: dict[str, float]) -> str:
        if metric not in metrics:
            wrong.append(_unknown(metric, metrics))
            return "no such metric"
        return study.judge(asking, rung, metrics) if rung >= 0 else ""

    try:
        own = load_recipe(loaded.path, overrides, loaded.text)
        if (text := best_recipe(loaded, overrides)) is not None:
            write_atomic(folder / "recipe.toml", text)
        found = bench.train(own, folder, Asked(rungs_of(study.design.rows), judge))  # type: ignore[arg-type]
    except (InterruptedRunError, MissingError):
        raise
    except UsageError as error:
        return Measured("refused", str(error.problems[0]))
    except LoransError as error:
        return Measured("failed", str(error.problems[0]))
    if wrong:
        if not study.done() and not study.is_busy():
            study.folder.forget()
        raise wrong[0]
    return found


def _unknown(metric: str, metrics: dict[str, float]) -> UsageError:
    skipped = ("_runtime", "_per_second", "num_tokens", "epoch")
    known = ", ".join(sorted(name for name in metrics if not name.endswith(skipped)))
    return UsageError(Problem("--metric", f"the evaluation has no `{metric}`", f"known: {known}"))


def _in_processes(request: SweepRequest, study: Study, folder: SweepDir, observer: Observer) -> None:
    """Train trials in several processes, each on a GPU of its own or on its share of the cores."""
    machine = detect()
    count = count_workers(request.processes, machine.accelerator == "cuda", machine.accelerator, machine)
    command = [*interpreter(), "-m", "lora_ns", "sweep", str(request.recipe), *_options(request, folder, study)]
    workers = []
    try:
        for number, variables in enumerate(worker_environments(os.environ, count, machine.accelerator, machine)):
            with (folder.path / f"worker-{number}.log").open("ab") as log:
                workers.append(subprocess.Popen(tethered(command), env=variables, stdout=log, stderr=log))
        shown: set[int] = set()
        while any(worker.poll() is None for worker in workers):
            time.sleep(0.2)
            shown = _show_new(study, folder, shown, observer)
        _show_new(study, folder, shown, observer)
    except EndedEarly:
        for worker in workers:
            worker.send_signal(signal.SIGINT)
        raise
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.wait()
    failed = [number for number, worker in enumerate(workers) if worker.returncode]
    if failed and len(study.done()) < study.trials:
        file = folder.path / f"worker-{failed[0]}.log"
        raise RunError(Problem(str(file), "a process of the sweep failed", "read its log; the same command goes on"))


def _options(request: SweepRequest, folder: SweepDir, study: Study) -> list[str]:
    options = [part for override in request.overrides for part in ("--set", override)]
    options += ["--trials", str(study.trials), "--metric", request.metric, "--sampler", study.design.sampler]
    return [*options, "-o", str(folder.path), "--worker", "--json", *([] if request.use_cache else ["--no-cache"])]


def _show_new(study: Study, folder: SweepDir, shown: set[int], observer: Observer) -> set[int]:
    """Report trials that have ended since the last look."""
    if not (new := study.done() - shown):
        return shown
    for trial in read_trials(folder)[0]:
        if trial.number in new:
            values = ", ".join(f"{name} = {value}" for name, value in trial.values.items())
            observer.stage(f"trial {trial.number}: {values}: {_outcome(study.design.metric, trial.measured)}")
    return shown | new


def _result(study: Study, loaded: LoadedRecipe) -> SweepResult:
    """Write and return the result. Another process may end a trial meanwhile, and write an older or a newer one."""
    while True:
        done = study.done()
        result = _result_of(study, loaded, done)
        if study.done() == done:
            return result


def _result_of(study: Study, loaded: LoadedRecipe, done: set[int]) -> SweepResult:
    """Rank the trials that are done, and write the result, the best recipe and the plot."""
    folder, design = study.folder, study.design
    read, notes = read_trials(folder)
    trials = ranked(design, [trial for trial in read if trial.number in done])
    if not study.is_busy():
        check_any(trials, folder)
    best = next((one for one in trials if one.value is not None), None)
    overrides = [] if best is None else _overrides_of(study.space, best.values)
    text = best and best_recipe(loaded, overrides)
    if text:
        write_atomic(folder.best, text)
    elif best:
        notes.append("the recipe's text has a form in which values cannot be replaced; train with these `--set` values")
    result = SweepResult(
        folder=str(folder.path),
        metric=design.metric,
        higher_is_better=design.higher_is_better,
        trials=tuple(trials),
        best=best,
        best_recipe=str(folder.best) if text else None,
        importances=study.importances([one for one in read if one.number in done]),
        tokens=sum(one.tokens for one in trials),
        seconds=round(sum(one.seconds for one in trials), 1),
        notes=tuple(notes),
    )
    result = replace(result, plots=write_plots(result, study.space, folder.plots))
    write_result(folder, result)
    return result


def _overrides_of(space: Space, values: Any) -> list[str]:
    from lora_ns.recipe.keys import as_toml

    return [*space.fixed, *(key.override(as_toml(values[key.name])) for key in space.keys)]
