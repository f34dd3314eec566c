"""Training: from a recipe to a run directory, and from an interrupted run directory to a finished one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

from lora_ns.answers.opened import record_base
from lora_ns.data.named_files import check_named_files
from lora_ns.data.prepare import open_renderer, prepare
from lora_ns.data.prepared import Preparation
from lora_ns.data.render import Renderer
from lora_ns.errors import Problem, UsageError
from lora_ns.files.disk import check_space, now
from lora_ns.launch.ranks import forget_strays
from lora_ns.launch.torchrun import check_not_launched
from lora_ns.machine import libraries
from lora_ns.machine.hardware import Machine, detect
from lora_ns.machine.packages import check_packages
from lora_ns.model.adapter import check_fit
from lora_ns.model.adapter_config import UNKNOWN_STEPS
from lora_ns.model.files import Base
from lora_ns.model.find import find_recipe_base
from lora_ns.model.load import empty_base, make_room
from lora_ns.model.tokenizer import added_tokens, template_hash
from lora_ns.parallel.context import check_heads
from lora_ns.parallel.group import check_deepspeed
from lora_ns.parallel.nodes import own_folder, resume_command
from lora_ns.parallel.stop import StopSignal
from lora_ns.plan.deepspeed import with_deepspeed
from lora_ns.plan.make import check_settled, make_plan
from lora_ns.plan.plan import Plan
from lora_ns.plan.processes import count_processes
from lora_ns.plan.settle import settle
from lora_ns.plan.settled import Settled
from lora_ns.recipe.distributed import Processes, is_launched
from lora_ns.recipe.load import LoadedRecipe, locating
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.directory import RunDir, new_run_id
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer
from lora_ns.services.execute import begin_for_ranks, execute_here, execute_ranks
from lora_ns.training.fit import TrainResult
from lora_ns.training.prepared import PreparedRun, save_data
from lora_ns.training.rehearsal import check_arguments


@dataclass(frozen=True)
class _Made:
    """A new run, about to be trained."""

    run: RunDir
    manifest: Manifest
    prepared: PreparedRun
    machine: Machine
    surroundings: Mapping[str, str]
    is_launched: bool


def train(
    loaded: LoadedRecipe,
    observer: Observer,
    noise: libraries.Noise,
    overwrite: bool = False,
    use_cache: bool = True,
) -> TrainResult:
    """Train the adapter of a recipe in a new run directory.

    Args:
        loaded: the recipe.
        observer: who is told.
        noise: goes on in the run's log.
        overwrite: whether a run that is already there is replaced.
        use_cache: whether tokenised rows are taken from earlier runs, and kept for later ones.

    Raises:
        LoransError: see `errors`; nothing is written before recipe, base, data and plan are known to be good.
    """
    check_not_launched(os.environ)
    with (
        StopSignal().listening(_how_to_go_on(loaded, overwrite)) as stop,
        locating(loaded),
        _made(loaded, observer, noise, overwrite, use_cache) as made,
    ):
        if made.is_launched:
            begin_for_ranks(made.run, made.manifest, made.machine, observer)
            return execute_ranks(made.run, made.surroundings, made.machine, observer, stop)
        return execute_here(made.run, made.prepared, observer, None, stop)


def _how_to_go_on(loaded: LoadedRecipe, overwrite: bool) -> Callable[[], str]:
    """What to do after a new run was ended before its first step."""
    run = RunDir(own_folder(RunDir.of(loaded.recipe).path, loaded.recipe.distributed))
    replaces = overwrite and run.path.is_dir() and any(run.path.iterdir())

    def told() -> str:
        if replaces:
            return f"nothing of {run.path} was replaced; give the command again"
        goes_on = f"{resume_command(run.path, loaded.recipe.distributed)} goes on"
        return goes_on if run.manifest_file.exists() else "give it again"

    return told


def prepare_run(
    loaded: LoadedRecipe, observer: Observer, noise: libraries.Noise, overwrite: bool = False, use_cache: bool = True
) -> RunDir:
    """Make the run of a recipe of several processes, for a launcher of the user's own. Arguments as of `train`.

    Raises:
        UsageError: if the recipe trains in one process.
        LoransError: as `train` does.
    """
    with (
        StopSignal().listening(_how_to_go_on(loaded, overwrite)),
        locating(loaded),
        _made(loaded, observer, noise, overwrite, use_cache, alone=False) as made,
    ):
        begin_for_ranks(made.run, made.manifest, made.machine, observer)
        return made.run


@contextlib.contextmanager
def _made(
    loaded: LoadedRecipe,
    observer: Observer,
    noise: libraries.Noise,
    overwrite: bool,
    use_cache: bool,
    alone: bool = True,
) -> Iterator[_Made]:
    """A run directory with all that its processes need; `alone` says whether it may be one process."""
    run = RunDir(own_folder(RunDir.of(loaded.recipe).path, loaded.recipe.distributed))
    run.mend(observer.warn)
    run.check_free(overwrite)
    check_named_files(loaded)
    check_packages(loaded.recipe)
    machine = detect()
    observer.stage("finding the base")
    base = find_recipe_base(loaded.recipe.model, loaded.folder)
    settled = settle(loaded, machine, base)
    check_settled(settled, machine, base)
    recipe = settled.recipe
    processes = count_processes(recipe.distributed, machine)
    if not alone and not isinstance(recipe.distributed, Processes):
        what = "the recipe trains in one process"
        raise UsageError(Problem(str(loaded.path), what, f"`lorans train {loaded.path}`, or write `[distributed]`"))
    observer.stage("loading the libraries")
    surroundings = forget_strays(observer, processes, loaded.filled.file.path if loaded.filled.file else None)
    libraries.prepare(machine, processes)
    check_deepspeed(recipe.distributed, machine.accelerator)
    renderer = open_renderer(settled, base)
    rows, tokenizer = prepare(settled, renderer, base, observer, use_cache), renderer.tokenizer
    plan = with_deepspeed(recipe, settled.folder, make_plan(settled, machine, base, rows.facts))
    check_space(
        run.path,
        200_000_000 + 16 * (plan.adapter_parameters.value or 0) * (recipe.training.save_total_limit + 2),
    )
    manifest = _manifest(settled, plan, base, renderer, rows, machine)
    check_arguments(recipe, plan, run.checkpoints)
    _check_adapter(recipe, base, plan, manifest.added_tokens)
    with run.held(), run.replacing() if overwrite else contextlib.nullcontext():
        run.check_free(overwrite)  # another process may have been quicker
        manifest = run.create(loaded.text, manifest)
        noise.attach(run.log)
        save_data(run, rows.data)
        for note in plan.notes:
            observer.warn(note)
        prepared = PreparedRun(base, tokenizer, rows.data, rows.stream)
        yield _Made(run, manifest, prepared, machine, surroundings, is_launched(recipe.distributed, processes))


def _manifest(
    settled: Settled, plan: Plan, base: Base, renderer: Renderer, rows: Preparation, machine: Machine
) -> Manifest:
    """All that a run stands on, before its first step."""
    recipe, tokenizer = settled.recipe, renderer.tokenizer
    return Manifest(
        run_id=new_run_id(),
        created=now(),
        updated=now(),
        recipe=recipe,
        overrides=settled.asked.overrides,
        plan=plan,
        base=record_base(base),
        data=rows.record,
        chat_template_sha256=template_hash(tokenizer),
        chat_template=str(tokenizer.chat_template) if recipe.objective.rendering.chat_template else None,
        stop_token_ids=renderer.stops,
        added_tokens=added_tokens(tokenizer, recipe.model),
        labels=rows.labels,
        problem_type=rows.problem_type,
        packages=libraries.versions(),
        machine=asdict(machine),
        seed=recipe.training.seed,
    )


def _check_adapter(recipe: Recipe, base: Base, plan: Plan, added: tuple[int, ...]) -> None:
    """See that the method fits the base before a run is made. Raises `PlanError`."""
    if recipe.model.trust_remote_code:  # such a model need not be one that can be built without weights
        return
    empty = empty_base(base, recipe.task_type)
    make_room(empty, added)
    check_heads(empty, recipe.distributed.row_parts)
    check_fit(empty, recipe.peft.with_rows(added), recipe.task_type, base, plan.max_steps.value or UNKNOWN_STEPS)
