"""`train`: from a recipe to a finished run in a new run directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.answers.earlier_runs import check_labels, find_earlier, keep_earlier
from lora_ns.answers.opened import record_base
from lora_ns.answers.teacher import Teacher, check_teacher, find_teacher
from lora_ns.data.named_files import check_named_files
from lora_ns.data.prepare import open_renderer, prepare
from lora_ns.data.prepared import Preparation
from lora_ns.data.render import Renderer
from lora_ns.data.sources import source_files
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
from lora_ns.run.earlier import EarlierRuns
from lora_ns.run.lineage import begin_chain
from lora_ns.run.manifest import DataRecord, FileRecord, Manifest, file_record
from lora_ns.run.observer import Observer
from lora_ns.services.after_training import JudgedTraining
from lora_ns.services.execute import execute_here, execute_ranks, initialise_for_ranks, reported_to
from lora_ns.trackers.tracking import loading
from lora_ns.training.prepared import PreparedRun, copy_code, save_data
from lora_ns.training.rehearsal import check_arguments
from lora_ns.training.rewards import check_rewards
from lora_ns.training.trained_rows import keep_trained_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class _NewRun:
    """A new run, ready for training."""

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
    is_forced: bool = False,
) -> JudgedTraining:
    """Train the adapter of a recipe in a new run directory.

    Args:
        loaded: the recipe.
        observer: receives progress and warnings.
        noise: library output, written to the run's log.
        overwrite: whether to replace an existing run.
        use_cache: whether to take tokenised rows from the cache, and to add them to it.
        is_forced: whether to train even if the rewards of the recipe teach nothing.

    Raises:
        LoransError: see `errors`; nothing is written before recipe, base, data and plan have been checked.
    """
    check_not_launched(os.environ)
    with (
        StopSignal().listening(_resume_remedy(loaded, overwrite)) as stop,
        locating(loaded),
        loading(reported_to(loaded.recipe)) as trackers,
        _new_run(loaded, observer, noise, overwrite, use_cache, is_forced=is_forced) as made,
    ):
        if made.is_launched:
            initialise_for_ranks(made.run, made.manifest, made.machine, observer)
            return execute_ranks(made.run, made.surroundings, made.machine, observer, stop, trackers)
        return execute_here(made.run, made.prepared, observer, None, stop, trackers)


def _resume_remedy(loaded: LoadedRecipe, overwrite: bool) -> Callable[[], str]:
    """The remedy for a new run that was stopped before its first step."""
    run = RunDir(own_folder(RunDir.of(loaded.recipe).path, loaded.recipe.distributed))
    replaces = overwrite and run.path.is_dir() and any(run.path.iterdir())

    def message() -> str:
        if replaces:
            return f"{run.path} was not replaced; repeat the command"
        goes_on = f"{resume_command(run.path, loaded.recipe.distributed)} continues it"
        return goes_on if run.manifest_file.exists() else "repeat the command"

    return message


def prepare_run(
    loaded: LoadedRecipe,
    observer: Observer,
    noise: libraries.Noise,
    overwrite: bool = False,
    use_cache: bool = True,
    is_forced: bool = False,
) -> RunDir:
    """Create a run of several processes for the user's own launcher; arguments as in `train`.

    Raises:
        UsageError: if the recipe trains in one process.
        LoransError: like `train`.
    """
    with (
        StopSignal().listening(_resume_remedy(loaded, overwrite)),
        locating(loaded),
        _new_run(loaded, observer, noise, overwrite, use_cache, alone=False, is_forced=is_forced) as made,
    ):
        initialise_for_ranks(made.run, made.manifest, made.machine, observer)
        return made.run


@contextlib.contextmanager
def _new_run(
    loaded: LoadedRecipe,
    observer: Observer,
    noise: libraries.Noise,
    overwrite: bool,
    use_cache: bool,
    alone: bool = True,
    is_forced: bool = False,
) -> Iterator[_NewRun]:
    """Create a run directory with everything that its processes need; `alone` allows a run of one process."""
    run = RunDir(own_folder(RunDir.of(loaded.recipe).path, loaded.recipe.distributed))
    run.mend(observer.warn)
    run.check_free(overwrite)
    check_named_files(loaded)
    check_packages(loaded.recipe)
    machine = detect()
    observer.stage("finding the base")
    base = find_recipe_base(loaded.recipe.model, loaded.folder)
    settled, teacher = settled_with_teacher(loaded, machine, base)
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
    earlier = find_earlier(recipe, settled.folder, base, renderer.tokenizer)
    check_teacher(teacher, base, renderer.tokenizer)
    rows, tokenizer = prepare(settled, renderer, base, observer, use_cache), renderer.tokenizer
    plan = with_deepspeed(recipe, settled.folder, make_plan(settled, machine, base, rows.facts))
    check_space(
        run.path,
        200_000_000 + 16 * (plan.adapter_parameters.value or 0) * (recipe.training.save_total_limit + 2),
    )
    manifest = new_manifest(settled, plan, base, renderer, rows, machine, earlier, teacher)
    check_training(settled, run, base, manifest, earlier)
    with run.held(), run.replacing() if overwrite else contextlib.nullcontext():
        run.check_free(overwrite)  # another process may have created it meanwhile
        manifest = run.create(loaded.text, manifest.model_copy(update={"is_forced": is_forced}))
        noise.attach(run.log)
        _save_inputs(run, manifest, settled, earlier, rows, base, tokenizer)
        for note in plan.notes:
            observer.warn(note)
        prepared = PreparedRun(base, tokenizer, rows.data, rows.stream)
        yield _NewRun(run, manifest, prepared, machine, surroundings, is_launched(recipe.distributed, processes))


def settled_with_teacher(loaded: LoadedRecipe, machine: Machine, base: Base) -> tuple[Settled, Teacher | None]:
    """The recipe for this machine and base, and its teacher, if it has one. Raises `LoransError`."""
    teacher = find_teacher(loaded.recipe.objective, [loaded.folder, Path.cwd()], download=True)
    settled = settle(loaded, machine, base, teacher.size if teacher else None)
    check_settled(settled, machine, base)
    return settled, teacher


def new_manifest(
    settled: Settled,
    plan: Plan,
    base: Base,
    renderer: Renderer,
    rows: Preparation,
    machine: Machine,
    earlier: EarlierRuns,
    teacher: Teacher | None,
) -> Manifest:
    """The manifest of a new run, before its first step."""
    recipe, tokenizer = settled.recipe, renderer.tokenizer
    return Manifest(
        run_id=new_run_id(),
        created=now(),
        updated=now(),
        recipe=recipe,
        overrides=settled.loaded.overrides,
        plan=plan,
        base=record_base(base),
        teacher=teacher and teacher.record(),
        data=rows.record,
        sources=_source_records(recipe, settled.folder, rows.record),
        init_adapter=earlier.init.record if earlier.init else None,
        base_adapters=tuple(one.record for one in earlier.merged),
        chat_template_sha256=template_hash(tokenizer),
        chat_template=str(tokenizer.chat_template) if recipe.objective.rendering.chat_template else None,
        stop_token_ids=renderer.stops,
        added_tokens=added_tokens(tokenizer, recipe.model),
        labels=rows.labels,
        problem_type=rows.problem_type,
        packages=libraries.versions(),
        machine=asdict(machine),
        seed=recipe.training.seed,
        folder=str(settled.folder.absolute()),
    )


def _source_records(recipe: Recipe, folder: Path, data: DataRecord) -> tuple[FileRecord, ...]:
    """Records of the files that rows are read from; those of a stream are known."""
    known = {file.path: file for file in data.train.files}
    files = (str(file.absolute()) for file in source_files(recipe, folder))
    return tuple(known.get(file) or file_record(Path(file)) for file in files)


def check_training(settled: Settled, run: RunDir, base: Base, manifest: Manifest, earlier: EarlierRuns) -> None:
    """Check what libraries, adapter and rewards need, before the run is created. Raises `LoransError`."""
    recipe, plan = manifest.recipe, manifest.plan
    check_labels(earlier, manifest.labels, manifest.problem_type)
    check_arguments(recipe, plan, run.checkpoints)
    _check_adapter(recipe, base, plan, manifest.added_tokens)
    check_rewards(recipe.objective, [settled.folder, Path.cwd()])


def _save_inputs(
    run: RunDir,
    manifest: Manifest,
    settled: Settled,
    earlier: EarlierRuns,
    rows: Preparation,
    base: Base,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Save rows, code and the adapters of earlier runs, so that the run directory has all that training needs.

    The lineage of the run begins with them.
    """
    keep_earlier(run, earlier, settled.recipe.peft)
    save_data(run, rows.data, rows.places)
    keep_trained_rows(run, rows.train, tokenizer, rows.labels)
    copy_code(run, settled.recipe, [settled.folder, Path.cwd()])
    begin_chain(run, manifest, base)


def _check_adapter(recipe: Recipe, base: Base, plan: Plan, added: tuple[int, ...]) -> None:
    """Check that the method fits the base, before the run is created. Raises `PlanError`."""
    if recipe.model.trust_remote_code:  # such a model may not be buildable without weights
        return
    empty = empty_base(base, recipe.task_type)
    make_room(empty, added)
    check_heads(empty, recipe.distributed.row_parts)
    check_fit(empty, recipe.peft.with_rows(added), recipe.task_type, base, plan.max_steps.value or UNKNOWN_STEPS)
