"""Training: from a recipe to a run directory, and from an interrupted run directory to a finished one."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lora_ns.basemodel import Base, find_base
from lora_ns.checkpoints import Search, check_own, last_complete_checkpoint, put_aside, search
from lora_ns.consent import carry_over
from lora_ns.credentials import scrubbed
from lora_ns.engine import libraries, starts
from lora_ns.engine.adapter import (
    UNKNOWN_STEPS,
    add_adapter,
    check_fit,
    check_head,
    save_adapter,
    trainable_parameters,
    with_rows,
)
from lora_ns.engine.baselines import Baseline
from lora_ns.engine.callbacks import (
    Observer,
    SilentObserver,
    make_callbacks,
)
from lora_ns.engine.classifier import labels_that_count
from lora_ns.engine.context_parallel import check_heads, divided_attention
from lora_ns.engine.distributed import (
    ALONE,
    Rank,
    agreed,
    check_agreed,
    check_deepspeed,
    check_world,
    check_wrapped,
    forget_peak_memory,
    hand_out,
    in_whole_batches,
    is_one_of_several,
    join,
    leave,
    meet,
    peak_memory,
)
from lora_ns.engine.exhaustion import telling_memory_errors
from lora_ns.engine.kept import saved_rows
from lora_ns.engine.learning import learning_watch
from lora_ns.engine.model import empty_base, load_base, make_room
from lora_ns.engine.modules import expert_notes
from lora_ns.engine.notices import as_notes
from lora_ns.engine.pickles import check_deepspeed_states
from lora_ns.engine.render import make_renderer
from lora_ns.engine.sharding import dividing_at_once
from lora_ns.engine.sources import told_unused
from lora_ns.engine.stopping import StopSignal
from lora_ns.engine.stream import Stream, check_stream, stream_counts
from lora_ns.engine.tokenizer import (
    added_tokens,
    choose_pad_token,
    generation_settings,
    recipe_tokenizer,
    template_hash,
)
from lora_ns.engine.trainer import check_arguments, choose_optimizer, leave_training, make_trainer
from lora_ns.engine.vocabulary import vocabulary
from lora_ns.errors import (
    DataError,
    InterruptedRunError,
    LoransError,
    ModelError,
    Problem,
    RunError,
    UsageError,
)
from lora_ns.launch import check_not_launched
from lora_ns.machine import Machine, detect
from lora_ns.marks import fault_of, mark_folder
from lora_ns.metricsfile import read_metrics
from lora_ns.namedfiles import check_named_files
from lora_ns.nodes import check_meeting, own_folder, resume_command
from lora_ns.packages import check_packages
from lora_ns.plan import (
    DataFacts,
    Plan,
    fit_to_base,
    fit_to_machine,
    leaves_rank_open,
    make_plan,
    room_for_rows,
    with_rank,
)
from lora_ns.processes import count_processes
from lora_ns.recipe.distributed import AutoStrategy, DeepSpeed, OneProcess, Processes, Strategy, is_launched
from lora_ns.recipe.load import LoadedRecipe, locating
from lora_ns.recipe.peft import Lora
from lora_ns.recipe.recipe import Recipe
from lora_ns.rows import told_left_out
from lora_ns.rundir import (
    FollowedRun,
    Manifest,
    RunDir,
    SealRecord,
    check_space,
    differences,
    hash_folder,
    new_run_id,
    now,
    telling_disk_errors,
)
from lora_ns.services.answers import Answers
from lora_ns.services.labels import baseline_kind
from lora_ns.services.prepare import open_renderer, prepare
from lora_ns.services.ranks import forget_strays, run_ranks
from lora_ns.services.regroup import Count, asked_count, regrouped, with_count
from lora_ns.services.seal import Seal
from lora_ns.services.trained import format_of, loading_of, record_base, reopen_base
from lora_ns.services.workers import begin_elsewhere
from lora_ns.zero import with_deepspeed

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, Trainer

T = TypeVar("T")

MAY_CHANGE_ON_RESUME = (
    "distributed.accelerate_config",  # what it says is in the other keys
    "distributed.max_restarts",
    "distributed.rdzv_endpoint",
    "distributed.timeout",
    "training.logging_steps",
    "training.save_steps",
    "training.save_total_limit",
    "training.output_dir",
    "tracking.",
    "generation.",
)
"""Keys that do not touch what is learned."""
NO_EFFECT = 1e-5
"""Change of the logits by an adapter, relative to the largest one, that is none."""


@dataclass(frozen=True)
class TrainResult:
    """What `lorans train` hands back."""

    run: str
    adapter: str
    steps: int
    trainable_parameters: int
    metrics: dict[str, Any]
    seal: SealRecord | None = None
    """The saved adapter against the trained model."""


@dataclass(frozen=True)
class _Prepared:
    """A run before its first step: what is needed besides the manifest."""

    base: Base
    tokenizer: PreTrainedTokenizerBase
    data: tuple[datasets.Dataset, datasets.Dataset | None]
    stream: Stream | None = None
    """The training rows, if they are a stream; `data` has only its first ones then."""
    rank: Rank = ALONE


@dataclass(frozen=True)
class _Made:
    """A new run, about to be trained."""

    run: RunDir
    prepared: _Prepared
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
        _made(loaded, observer, noise, overwrite, use_cache) as made,
    ):
        if made.is_launched:
            _begin_for_ranks(made.run, made.machine, observer)
            return _execute_ranks(made.run, made.surroundings, made.machine, observer, stop)
        return _execute(made.run, made.prepared, observer, None, stop)


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
        _made(loaded, observer, noise, overwrite, use_cache, alone=False) as made,
    ):
        _begin_for_ranks(made.run, made.machine, observer)
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
    check_packages(loaded)
    machine = detect()
    observer.stage("finding the base")
    base = find_recipe_base(loaded)
    loaded = fit_to_base(loaded, base.facts)
    processes = make_plan(loaded, machine, base, DataFacts()).world_size.value
    if not alone and not isinstance(fit_to_machine(loaded, machine, base.facts).recipe.distributed, Processes):
        what = "the recipe trains in one process"
        raise UsageError(Problem(str(loaded.path), what, f"`lorans train {loaded.path}`, or write `[distributed]`"))
    observer.stage("loading the libraries")
    surroundings = forget_strays(observer, processes, loaded.filled.file.path if loaded.filled.file else None)
    libraries.prepare(machine, processes)
    check_deepspeed(loaded.recipe.distributed, machine.accelerator, loaded.where("distributed.strategy"))
    renderer = open_renderer(loaded, base)
    rows, tokenizer = prepare(loaded, renderer, base, observer, use_cache), renderer.tokenizer
    plan = make_plan(loaded, machine, base, rows.facts)
    loaded = fit_to_machine(loaded, machine, base.facts)
    plan = with_deepspeed(loaded, plan)
    check_space(
        run.path,
        200_000_000 + 16 * (plan.adapter_parameters.value or 0) * (loaded.recipe.training.save_total_limit + 2),
    )
    manifest = Manifest(
        run_id=new_run_id(),
        created=now(),
        updated=now(),
        recipe=loaded.recipe,
        overrides=loaded.overrides,
        plan=plan,
        base=record_base(base),
        data=rows.record,
        chat_template_sha256=template_hash(tokenizer),
        chat_template=str(tokenizer.chat_template) if loaded.recipe.sft.chat_template else None,
        stop_token_ids=renderer.stops,
        added_tokens=added_tokens(tokenizer, loaded.recipe.model),
        labels=rows.labels,
        problem_type=rows.problem_type,
        packages=libraries.versions(),
        machine=asdict(machine),
        seed=loaded.recipe.training.seed,
    )
    check_arguments(loaded, plan, run.checkpoints)
    _check_adapter(loaded, base, plan, manifest.added_tokens)
    with run.held(), run.replacing() if overwrite else contextlib.nullcontext():
        run.check_free(overwrite)  # another process may have been quicker
        run.create(loaded.text, manifest)
        noise.attach(run.log)
        _save_data(run, rows.data)
        for note in plan.notes:
            observer.warn(note)
        prepared = _Prepared(base, tokenizer, rows.data, rows.stream)
        yield _Made(run, prepared, machine, surroundings, is_launched(loaded.recipe.distributed, processes))


def resume(
    run: RunDir,
    observer: Observer,
    noise: libraries.Noise,
    loaded: LoadedRecipe | None = None,
    count: Count | None = None,
    moved: Path | None = None,
    from_start: bool = False,
    meeting: str | None = None,
) -> TrainResult:
    """Go on with a run from its last complete checkpoint, or from its first step, from the run directory alone.

    Args:
        run: the run; where it lies does not matter.
        observer: who is told.
        noise: goes on in the run's log.
        loaded: the recipe, if one was named; it has to say what the run was started with.
        count: processes to go on with, if not as many as before; else the recipe's.
        moved: path to the base, if it has moved.
        from_start: whether to start again from the first step where every checkpoint is damaged.
        meeting: where a run of several machines meets the others, if no recipe is named.

    Raises:
        UsageError: if the run is finished, its recipe was changed, a file of it is damaged, so many processes would
            train something else, or it meets other machines somewhere else.
    """
    check_not_launched(os.environ)
    run.mend(observer.warn)
    asked = run.read().recipe.distributed
    if loaded is None:
        check_meeting(run.path, asked, meeting)
    with StopSignal().listening(lambda: f"{resume_command(run.path, asked)} goes on") as stop, run.held():
        _remember_base(run, moved)
        return _go_on(run, observer, noise, loaded, count, stop, from_start)


def _go_on(
    run: RunDir,
    observer: Observer,
    noise: libraries.Noise,
    loaded: LoadedRecipe | None,
    count: Count | None,
    stop: StopSignal,
    from_start: bool,
) -> TrainResult:
    """As `resume`, in a run that nobody else trains."""
    manifest, machine = run.read(), detect()
    base = reopen_base(manifest)
    if loaded is not None:
        count = asked_count(manifest.recipe.distributed, loaded.recipe.distributed)
        manifest = _as_asked(manifest, fit_to_base(loaded, base.facts), count)
    _check_unfinished(run, manifest)
    before = processes = manifest.plan.world_size.value
    asked: Strategy = manifest.recipe.distributed
    if count is not None:
        asked = with_count(asked, count)
        processes = count_processes(asked, machine)
    surroundings = forget_strays(observer, processes)
    libraries.prepare(machine, processes)
    if processes != before:
        manifest = regrouped(run, manifest, base, machine, asked)
        observer.warn(f"begun with {before} process{'es' * (before > 1)}, and goes on with {processes}")
    prepared = _reopen(run, manifest, base)
    noise.attach(run.log)
    found = _search(run, manifest, observer, from_start)
    launched = is_launched(manifest.recipe.distributed, processes)
    if launched or processes != before:
        _check_devices(run, manifest, machine)
    put_aside(found.passed)
    run.update(recipe=manifest.recipe, plan=manifest.plan)
    if launched:
        _begin_for_ranks(run, machine, observer)
        return _execute_ranks(run, surroundings, machine, observer, stop)
    return _execute(run, prepared, observer, found.last, stop)


def _search(run: RunDir, manifest: Manifest, observer: Observer, from_start: bool) -> Search:
    """The checkpoint to go on from, and what of others is said.

    Raises:
        UsageError: if there were checkpoints and none is whole, or the run cannot be gone on with.
    """
    check_own(run.checkpoints, manifest.run_id)
    found = search(run.checkpoints, manifest.run_id)
    if found.last is None and found.damaged and not from_start:
        told = [Problem(str(passed.folder), passed.why) for passed in found.damaged]
        remedy = f"restore one, or start from the first step by `lorans train {run.path} --resume --from-start`"
        raise UsageError([*told, Problem(str(run.path), "no checkpoint is whole", remedy)])
    for passed in found.passed:
        observer.warn(f"{passed}; it is passed over")
    _check_resumable(run, manifest, found.last)
    if found.last is None:
        observer.warn("no complete checkpoint: starting from the first step")
    elif found.passed:
        observer.warn(f"going on from {found.last[0].name}")
    return found


def reopen_run(
    run: RunDir,
    observer: Observer,
    loaded: LoadedRecipe | None = None,
    moved: Path | None = None,
    from_start: bool = False,
) -> RunDir:
    """A run that goes on with as many processes as before, started by a launcher of the user's own.

    Arguments as of `resume`.

    Raises:
        UsageError: if the run is finished, or its recipe, if one is named, was changed.
    """
    _remember_base(run, moved)
    manifest = run.read()
    if loaded is not None:
        manifest = _as_asked(manifest, fit_to_base(loaded, reopen_base(manifest).facts), None)
    _check_unfinished(run, manifest)
    put_aside(_search(run, manifest, observer, from_start).passed)
    run.update(recipe=manifest.recipe)
    return run


def _remember_base(run: RunDir, moved: Path | None) -> None:
    """Write down where the base is by now, for all processes. Raises `ModelError` if it is another one."""
    if moved is not None:
        manifest = run.read()
        found = reopen_base(manifest, moved)
        run.update(base=manifest.base.model_copy(update={"moved_to": str(found.path)}))


def _check_unfinished(run: RunDir, manifest: Manifest) -> None:
    if manifest.status == "finished":
        raise UsageError(Problem(str(run.path), "this run is finished", f"`lorans infer {run.path}` uses it"))


def _as_asked(manifest: Manifest, loaded: LoadedRecipe, count: Count | None) -> Manifest:
    """The manifest with what may change of a recipe that is to be resumed. Raises `UsageError`."""
    begun, wanted = manifest.recipe.distributed, loaded.recipe.distributed
    if isinstance(wanted, AutoStrategy):  # which was settled when the run was started
        wanted = begun
    elif count is not None:  # which is looked at by itself, see `regrouped`
        kept = {"num_processes": begun.num_processes} if isinstance(begun, Processes) else {}
        wanted = wanted.model_copy(update=kept) if kept else begun
    loaded = _with_settled_rank(manifest, loaded)
    loaded = replace(loaded, recipe=loaded.recipe.model_copy(update={"distributed": wanted}))
    _check_same(manifest, loaded)
    return manifest.model_copy(update={"recipe": manifest.recipe.model_copy(update={"distributed": wanted})})


def _with_settled_rank(manifest: Manifest, loaded: LoadedRecipe) -> LoadedRecipe:
    """The recipe with the rank that its run began with, where neither says one; versions before had one for all."""
    begun, rank = manifest.recipe.peft, manifest.plan.rank
    if not isinstance(begun, Lora) or not leaves_rank_open(loaded) or rank.origin != "default":
        return loaded
    settled = Lora(method="lora") if rank.value is None else begun
    return with_rank(loaded, settled.lora_r, settled.lora_alpha)


def train_rank(run: RunDir, observer: Observer, noise: libraries.Noise, is_launched: bool) -> TrainResult | None:
    """Be one of the processes of a run that is prepared, and train it, or go on with it.

    Args:
        run: the run.
        observer: who is told, by the first rank.
        noise: goes on in the log of the rank.
        is_launched: whether `lorans train` started this process, and stops it by a file; else signals do.

    Returns:
        The result, from the first rank.
    """
    rank, manifest = Rank.of(), run.read()
    if rank.world != manifest.plan.world_size.value:
        what = f"planned for {manifest.plan.world_size.value} processes, and the launcher started {rank.world}"
        raise UsageError(Problem(str(run.path), what, f"`lorans launch-command {run.path}` prints the command"))
    if not rank.is_first:
        run = FollowedRun(run.path, rank.number)
    with contextlib.ExitStack() as locks:
        if is_launched:  # by a process that holds the run
            locks.enter_context(run.joined())
        return _train_rank(run, manifest, rank, observer, noise, None if is_launched else locks)


def _train_rank(
    run: RunDir,
    manifest: Manifest,
    rank: Rank,
    observer: Observer,
    noise: libraries.Noise,
    locks: contextlib.ExitStack | None,
) -> TrainResult | None:
    """As `train_rank`; `locks` takes those of a run that nobody holds, and is None if `lorans train` does."""
    machine = detect()
    libraries.prepare(machine, rank.local_world)
    noise.attach(run.log)
    asked = manifest.recipe.distributed
    assert isinstance(asked, Processes), "a run of several processes has a strategy"
    join(rank, manifest.plan.device.value, asked.timeout)
    if locks is not None:
        _hold_together(run, rank, locks)
    base = reopen_base(manifest, advice=f"`lorans train {run.path} --resume --base FOLDER`")
    check_agreed(_essentials(manifest))
    _agree_on_start(run, manifest, rank)
    found = _agree_on_checkpoint(run, manifest, rank)
    prepared = replace(_reopen(run, manifest, base), rank=rank)
    evaluation = prepared.data[1]
    if evaluation is not None:
        size = manifest.plan.per_device_eval_batch_size.value * rank.world
        prepared = replace(prepared, data=(prepared.data[0], in_whole_batches(evaluation, size)))
    stop = StopSignal(file=run.stop_file if locks is None else None)
    with stop.listening(lambda: f"{resume_command(run.path, asked)} goes on"):
        if locks is None:
            with run.telling_lost_disk():
                return _train(run, prepared, observer, found, stop)
        return _recording(run, lambda: _train(run, prepared, observer, found, stop))


def _agree_on_checkpoint(run: RunDir, manifest: Manifest, rank: Rank) -> tuple[Path, int] | None:
    """The last checkpoint that all machines have; on each, its first rank reads it.

    Raises:
        UsageError: if there were checkpoints and none is whole.
    """
    found = search(run.checkpoints, manifest.run_id, every=True).whole if rank.is_first else None
    if rank.is_first and not found:
        _search(run, manifest, SilentObserver(), from_start=False)
    step = agreed(found)
    return None if step is None else (run.checkpoints / f"checkpoint-{step}", step)


def _hold_together(run: RunDir, rank: Rank, locks: contextlib.ExitStack) -> None:
    """Keep others from training the run: on each machine the first rank looks, before any has joined."""
    if rank.is_first:
        locks.enter_context(run.held())
    meet()
    locks.enter_context(run.joined())


def _begin_for_ranks(run: RunDir, machine: Machine, observer: Observer) -> None:
    """Compute the start of an adapter that needs rows or weights, once for all processes. Raises `LoransError`."""
    manifest = run.read()
    if not _starts_later(manifest.recipe) or starts.is_kept(run.start):
        return
    observer.stage("computing the start of the adapter")
    _recording(run, lambda: begin_elsewhere(run, manifest.plan.device.value, machine))
    run.update(status=manifest.status)


def begin_alone(run: RunDir) -> None:
    """Compute the start of a run of several processes in this one, and keep it for them. Raises `LoransError`."""
    manifest = run.read()
    manifest = manifest.model_copy(
        update={
            "recipe": manifest.recipe.model_copy(update={"distributed": OneProcess()}),
            "plan": manifest.plan.model_copy(update={"deepspeed": None}),
        }
    )
    prepared = _reopen(run, manifest, reopen_base(manifest))
    model = _adapted_base(run, manifest, prepared.base, SilentObserver())
    _make_trainer(run, manifest, model, prepared, SilentObserver(), None, StopSignal())


def _starts_later(recipe: Recipe) -> bool:
    """Whether the start of the adapter is computed from rows or weights."""
    return isinstance(recipe.peft, Lora) and recipe.peft.starts_later


def _agree_on_start(run: RunDir, manifest: Manifest, rank: Rank) -> None:
    """Begin with what rank 0 begins with: another machine, which computed it too, may have rounded otherwise.

    Raises:
        RunError: if it was not computed.
    """
    if not _starts_later(manifest.recipe):
        return
    if not starts.is_kept(run.start):
        remedy = f"`lorans train {run.path} --resume` computes it"
        raise RunError(Problem(str(run.start), "the start of the adapter is not there", remedy))
    if manifest.recipe.distributed.nodes > 1:
        for name in starts.FILES:
            hand_out(run.start / name, rank.is_first)
        if rank.is_first:
            mark_folder(run.start)
        meet()


def _essentials(manifest: Manifest) -> dict[str, Any]:
    """What all processes of a run have to agree on, whichever machine they are on."""
    recipe = manifest.recipe.model_dump(mode="json")
    recipe["training"].pop("output_dir")
    recipe["distributed"].pop("accelerate_config")  # a file of each machine's own; what it says is in the other keys
    data, plan = manifest.data, manifest.plan
    numbers = {name: getattr(plan, name).value for name in ("device", "dtype", "max_steps", "global_batch_size")}
    return {
        "recipe": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12],
        "rows": [source.sha256[:12] for source in (data.train, data.eval) if source],
        "base": manifest.base.fingerprint[:12],
        "tokenizer": manifest.base.tokenizer_fingerprint[:12],
        "numbers of the plan": numbers,
        "packages": manifest.packages,
        "lorans": manifest.lorans,
    }


def _reopen(run: RunDir, manifest: Manifest, base: Base) -> _Prepared:
    """What a run needs besides its manifest, from its directory. Raises `LoransError`."""
    if base.tokenizer_fingerprint != manifest.base.tokenizer_fingerprint:
        what = "the base's tokenizer is not the one that the run was started with"
        raise ModelError(Problem(str(base.path), what, "restore it, or start a new run"))
    tokenizer = recipe_tokenizer(base, manifest.recipe.model)
    if manifest.chat_template is not None:
        tokenizer.chat_template = manifest.chat_template
    choose_pad_token(tokenizer, manifest.stop_token_ids)
    if not isinstance(run, FollowedRun):  # of the ranks of a machine, one looks
        _check_kept(run)
    stream = _reopen_stream(run, manifest, tokenizer, base) if manifest.recipe.dataset.streaming else None
    return _Prepared(base, tokenizer, _load_data(run, manifest), stream)


def _check_kept(run: RunDir) -> None:
    """What the run has kept to go on with is what it was. Raises `UsageError`, with the file."""
    for folder, remedy in (
        (run.data, "start a new run by `--overwrite`, which reads the rows again"),
        (run.start, "start a new run by `--overwrite`"),
    ):
        if folder.is_dir() and (fault := fault_of(folder)):
            raise UsageError(Problem(str(folder / fault.name), fault.what, f"restore it, or {remedy}"))


def _check_devices(run: RunDir, manifest: Manifest, machine: Machine) -> None:
    """There is a device for each process of a run that goes on. Raises `UsageError`."""
    count, device = manifest.plan.world_size.value, manifest.plan.device.value
    if machine.accelerator != device or (device == "cuda" and len(machine.gpus) < count):
        what = f"has {count} processes on {device}, and this machine has {len(machine.gpus)} GPUs"
        remedy = "go on where it was started, or with as many by `--num-processes`"
        raise UsageError(Problem(str(run.path), what, remedy))


def _reopen_stream(run: RunDir, manifest: Manifest, tokenizer: PreTrainedTokenizerBase, base: Base) -> Stream:
    """The stream that a run was started on. Raises `UsageError` if it is another one by now."""
    loaded = LoadedRecipe(manifest.recipe, run.recipe, "")
    if not isinstance(run, FollowedRun):  # of the ranks of a machine, one looks
        check_stream(loaded, manifest.data.train)
    return Stream(
        loaded,
        format_of(manifest),
        make_renderer(
            tokenizer,
            manifest.stop_token_ids,
            manifest.recipe.sft,
            vocabulary(base, tokenizer, manifest.added_tokens),
        ),
        manifest.labels,
        [Path(file.path) for file in manifest.data.train.files],
        room_for_rows(loaded, base.facts),
    )


def _check_resumable(run: RunDir, manifest: Manifest, checkpoint: tuple[Path, int] | None) -> None:
    """Some methods would go on as another run."""
    method = manifest.recipe.peft
    resumes = method.capabilities.resume
    if checkpoint is not None and _starts_later(manifest.recipe) and not starts.is_kept(run.start):
        what = "the start of the adapter is not there, and the checkpoint was trained from it"
        raise UsageError(Problem(str(run.start), what, "restore it, or start a new run by `--overwrite`"))
    if checkpoint is not None and resumes is not True:
        what = f"a run with {method.method} cannot be resumed: {resumes}"
        raise UsageError(Problem(str(run.path), what, "start it anew with `--overwrite`"))


def find_recipe_base(loaded: LoadedRecipe) -> Base:
    """The base that a recipe names, fetched if need be. Raises `ModelError`, with the place in the recipe."""
    model = loaded.recipe.model
    try:
        folders = [loaded.path.parent, Path.cwd()]
        base = find_base(model.name_or_path, model.revision, folders, download=True, gguf_file=model.gguf_file)
    except ModelError as error:
        raise ModelError(_located(loaded, problem) for problem in error.problems) from None
    assert base is not None, "a base that may be fetched is there or an error"
    return base


def _located(loaded: LoadedRecipe, problem: Problem) -> Problem:
    if problem.where.startswith("model."):
        return Problem(loaded.where(problem.where), f"{problem.where}: {problem.what}", problem.remedy)
    where = problem.where or loaded.where("model.name_or_path")
    return Problem(where, problem.what, problem.remedy)


def _check_adapter(loaded: LoadedRecipe, base: Base, plan: Plan, added: tuple[int, ...]) -> None:
    """See that the method fits the base before a run is made. Raises `PlanError`, with the place in the recipe."""
    recipe = loaded.recipe
    if recipe.model.trust_remote_code:  # such a model need not be one that can be built without weights
        return
    with locating(loaded):
        empty = empty_base(base, recipe.task_type)
        make_room(empty, added)
        check_heads(empty, recipe.distributed.row_parts)
        check_fit(empty, with_rows(recipe.peft, added), recipe.task_type, base, plan.max_steps.value or UNKNOWN_STEPS)


def _save_data(run: RunDir, data: tuple[datasets.Dataset, datasets.Dataset | None]) -> None:
    """Keep the rows for a run that is resumed; of a stream, its first ones, which say what it looks like."""
    with telling_disk_errors(run.data):
        data[0].save_to_disk(str(run.data / "train"))
        if data[1] is not None:
            data[1].save_to_disk(str(run.data / "eval"))
    mark_folder(run.data)


def _load_data(run: RunDir, manifest: Manifest) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    try:
        train_rows = saved_rows(run.data / "train")
        eval_rows = saved_rows(run.data / "eval") if manifest.data.eval else None
    except ValueError as error:
        what = f"the rows of the run cannot be read: {error}"
        raise UsageError(Problem(str(run.data), what, "restore them, or start a new run by `--overwrite`")) from None
    return train_rows, eval_rows


def _check_same(manifest: Manifest, loaded: LoadedRecipe) -> None:
    """A resumed run is the run that was started: whatever would train something else is refused."""
    changed = differences(manifest.recipe.model_dump(mode="json"), loaded.recipe.model_dump(mode="json"))
    problems = [
        Problem(
            loaded.where(key),
            f"{key}: the run was started with {before!r}, and this says {after!r}",
            "put it back, or start a new run",
        )
        for key, (before, after) in changed.items()
        if not key.startswith(MAY_CHANGE_ON_RESUME)
    ]
    if problems:
        raise UsageError(problems)


def _execute(
    run: RunDir, prepared: _Prepared, observer: Observer, checkpoint: tuple[Path, int] | None, stop: StopSignal
) -> TrainResult:
    """Train, measure, save in this process."""
    result = _recording(run, lambda: _train(run, prepared, observer, checkpoint, stop))
    assert result is not None, "one process alone is the first"
    return result


def _execute_ranks(
    run: RunDir, surroundings: Mapping[str, str], machine: Machine, observer: Observer, stop: StopSignal
) -> TrainResult:
    """Let several processes do so. Everything that they need is in the run directory."""
    result = _recording(run, lambda: run_ranks(run, surroundings, machine, observer, stop))
    manifest = run.read()
    return TrainResult(**{**result, "seal": manifest.seal})


def _recording(run: RunDir, work: Callable[[], T]) -> T:
    """Do the work of a run; the manifest says how it ended, whatever happens."""
    run.update(status="running", error=None)
    try:
        with run.telling_lost_disk():
            return work()
    except InterruptedRunError as error:
        run.update(status="interrupted", error=str(error))
        raise
    except KeyboardInterrupt:
        run.update(status="interrupted", error="stopped at once")
        raise
    except BaseException as error:
        with contextlib.suppress(LoransError, OSError):
            run.update(status="failed", error=scrubbed(str(error)) or type(error).__name__)
        raise


def _train(
    run: RunDir, prepared: _Prepared, observer: Observer, checkpoint: tuple[Path, int] | None, stop: StopSignal
) -> TrainResult | None:
    """Train and save, then open what was saved and hold it against what was trained; of several ranks, the first."""
    fitted = _fit(run, prepared, observer, checkpoint, stop)
    if fitted.seal is None:
        return None
    seal = fitted.seal
    steps, metrics = _save(run, prepared, observer, fitted)
    del fitted  # the model goes before it is loaded again
    _free_memory()
    observer.stage("opening what was saved")
    run.update(adapter=hash_folder(run.adapter))
    manifest = run.update(status="finished", metrics=metrics, seal=seal.check(run))
    if manifest.seal and manifest.seal.adapter_effect is not None and manifest.seal.adapter_effect < NO_EFFECT:
        observer.warn("the adapter changes nothing: raise `training.learning_rate` or train longer")
    trainable = manifest.base.trainable_parameters or 0
    return TrainResult(str(run.path), str(run.adapter), steps, trainable, metrics, manifest.seal)


def _free_memory() -> None:
    """Let go of the model that was trained, before it is loaded again."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class _Fitted:
    """A model after its last step."""

    model: PeftModel
    trainer: Trainer
    answers: Answers | None
    metrics: dict[str, Any]
    seal: Seal | None
    """What the model answers; of several ranks, in the first."""


def _fit(
    run: RunDir, prepared: _Prepared, observer: Observer, checkpoint: tuple[Path, int] | None, stop: StopSignal
) -> _Fitted:
    """Train, in each of the processes."""
    from transformers import set_seed

    manifest, rank = run.read(), prepared.rank
    recipe = manifest.recipe
    with telling_memory_errors(*_no_room_to_load(manifest)):
        model = _adapted_base(run, manifest, prepared.base, observer)
    trainer = _make_trainer(run, manifest, model, prepared, observer, checkpoint, stop)
    trained = manifest.base.model_copy(update={"trainable_parameters": trainable_parameters(model)})
    run.update(base=trained, distributed=check_world(trainer, rank, recipe.distributed))
    answers = Answers.of(manifest, model, prepared.tokenizer) if recipe.evaluation.exact_match else None
    metrics = dict(manifest.metrics)
    if answers and recipe.evaluation.before_training and not checkpoint:
        observer.stage("answering before training")
        metrics |= {f"before/{key}": value for key, value in answers.score().items()}
        run.update(metrics=metrics)
    set_seed(recipe.training.seed + rank.number)  # what is dropped out of a row does not depend on that of another
    if checkpoint and isinstance(recipe.distributed, DeepSpeed):
        check_deepspeed_states(checkpoint[0])
    observer.stage("training")
    forget_peak_memory()
    with (
        telling_memory_errors(*_no_room_to_train(run, manifest.plan)),
        _telling_broken_rows(run, manifest),
        divided_attention(model, recipe.distributed.row_parts),
    ):
        trainer.train(resume_from_checkpoint=str(checkpoint[0]) if checkpoint else None)
    _check_finished(run, trainer, stop)
    _check_stepped(trainer, observer)
    metrics |= peak_memory()
    leave_training(trainer)
    # All ranks answer together where none has all the weights.
    answers_here = rank.is_first or recipe.distributed.shards
    seal = Seal(manifest, model, prepared.data[0], trainer.args.device) if answers_here else None
    if is_one_of_several():
        check_wrapped(trainer, recipe.distributed)
        leave(trainer)
    return _Fitted(model, trainer, answers, metrics, seal if rank.is_first else None)


def _save(run: RunDir, prepared: _Prepared, observer: Observer, fitted: _Fitted) -> tuple[int, dict[str, Any]]:
    """Save; the number of steps, and what was measured."""
    manifest, model, trainer = run.read(), fitted.model, fitted.trainer
    recipe = manifest.recipe
    metrics = fitted.metrics | _final_metrics(run, trainer)
    _tell_unmeasured(run, trainer, observer)
    metrics |= _measured_baseline(run, manifest, prepared, metrics, observer)
    if prepared.stream:
        _record_stream(run, prepared.stream, observer)
    observer.stage("saving the adapter")
    run.check_there()
    settings = generation_settings(prepared.base, manifest.stop_token_ids, prepared.tokenizer.pad_token_id)
    with telling_disk_errors(run.adapter):
        start = run.start if isinstance(recipe.peft, Lora) and recipe.peft.moves_base else None
        save_adapter(model, prepared.tokenizer, settings, run.adapter, start)
    if recipe.model.trust_remote_code:
        carry_over(prepared.base.path, run.adapter)
    if fitted.answers:
        observer.stage("answering after training")
        metrics |= fitted.answers.score()
    return int(trainer.state.global_step), metrics


def _adapted_base(run: RunDir, manifest: Manifest, base: Base, observer: Observer) -> PeftModel:
    """The base with its adapter, new or as the run began with."""
    from transformers import set_seed

    recipe = manifest.recipe
    observer.stage("loading the base")
    set_seed(recipe.training.seed)
    with dividing_at_once(manifest.plan.deepspeed, recipe.quantization.bits is not None):
        bare = load_base(base, replace(loading_of(manifest), divided=recipe.distributed.shards))
        if isinstance(recipe.peft, Lora) and starts.is_kept(run.start):
            model = starts.put_back(bare, recipe.peft, run.start)
        else:
            method = with_rows(recipe.peft, manifest.added_tokens)
            model = add_adapter(bare, method, recipe.task_type, base, manifest.plan.max_steps.value or 0)
    if recipe.task_type != "CAUSAL_LM":
        check_head(model, base)
    for note in expert_notes(model):
        observer.warn(note)
    return model


def _make_trainer(
    run: RunDir,
    manifest: Manifest,
    model: PeftModel,
    prepared: _Prepared,
    observer: Observer,
    checkpoint: tuple[Path, int] | None,
    stop: StopSignal,
) -> Trainer:
    """The trainer of a model, whose adapter is started by it where its start needs the rows or the weights."""
    recipe, plan = manifest.recipe, manifest.plan
    first = checkpoint[1] if checkpoint else 0
    with _telling_broken_rows(run, manifest):  # the first rows of a stream are looked at by the trainer
        trainer = make_trainer(
            recipe,
            plan,
            run.checkpoints,
            model,
            prepared.tokenizer,
            (prepared.stream.dataset() if prepared.stream else prepared.data[0], prepared.data[1]),
            [
                *make_callbacks(
                    manifest.run_id,
                    run.metrics,
                    observer,
                    stop,
                    first,
                    prepared.rank.is_first,
                    run.forget_replaced if stop.file is None else lambda: None,  # else the launcher does
                    run.check_there,
                ),
                learning_watch(recipe.peft, plan.learning_rate.value, observer),
            ],
            not checkpoint,
            manifest.labels,
        )
    if isinstance(recipe.peft, Lora) and _starts_later(recipe) and not starts.is_kept(run.start):
        observer.stage("computing the start of the adapter")
        with telling_memory_errors(*_no_room_to_start(recipe.peft)), telling_disk_errors(run.start):
            starts.begin(trainer, recipe.peft, run.start, recipe.training.seed)
    choose_optimizer(trainer, recipe)
    return trainer


def _check_finished(run: RunDir, trainer: Any, stop: StopSignal) -> None:
    if stop.number and trainer.state.global_step < trainer.state.max_steps:
        what = f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, which is saved"
        goes_on = f"{resume_command(run.path, run.read().recipe.distributed)} goes on"
        raise InterruptedRunError(stop.number, Problem("", what, goes_on))


def _check_stepped(trainer: Any, observer: Observer) -> None:
    """A run that made no step has not trained. Raises `RunError`."""
    steps, planned = trainer.state.global_step, trainer.state.max_steps
    if not steps:
        what = f"no step of {planned} was made: the rows make no batch"
        raise RunError(Problem("", what, "give more rows, or lower `training.per_device_train_batch_size`"))
    if steps < planned:
        observer.warn(f"the rows ended after step {steps} of {planned}")


def _final_metrics(run: RunDir, trainer: Trainer) -> dict[str, Any]:
    """The evaluation before the first step, that of the weights that are saved, and what was said at the end."""
    rows = read_metrics(run.metrics).rows
    metrics: dict[str, Any] = {}
    evaluations = [row for row in rows if "eval_loss" in row]
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    kept_ones = [row for row in evaluations if row["step"] and best in {None, row["step"]}]
    skipped = ("_runtime", "_per_second", "num_tokens", "_entropy")
    for prefix, row in (("before/", evaluations[:1]), ("", kept_ones[-1:])):
        if row and (not prefix or row[0]["step"] == 0):
            kept = {
                key: value for key, value in row[0].items() if key.startswith("eval_") and not key.endswith(skipped)
            }
            metrics |= {f"{prefix}{key}": value for key, value in kept.items()}
    summary = [row for row in rows if "train_runtime" in row][-1:]
    if summary:
        metrics |= {key: summary[0][key] for key in ("train_loss", "train_runtime") if key in summary[0]}
    return metrics


def _measured_baseline(
    run: RunDir, manifest: Manifest, prepared: _Prepared, metrics: Mapping[str, Any], observer: Observer
) -> dict[str, float]:
    """What a constant answer reaches on the evaluation rows; it is said if the model is no better."""
    if manifest.recipe.task_type == "CAUSAL_LM":
        return {}
    kind, (train_rows, eval_rows) = baseline_kind(manifest), prepared.data
    baseline = Baseline.of(kind, manifest.labels, labels_that_count(train_rows))
    run.update(baseline=dict(baseline.constants))
    if eval_rows is None:
        return {}
    reached = baseline.measure(labels_that_count(eval_rows))
    measured = {name: metrics[f"eval_{name}"] for name in reached if f"eval_{name}" in metrics}
    for told in baseline.unbeaten(measured, reached):
        observer.warn(told)
    return {f"baseline/eval_{name}": value for name, value in reached.items()}


def _tell_unmeasured(run: RunDir, trainer: Trainer, observer: Observer) -> None:
    """Say so if the weights that are saved are not those that were measured last."""
    if trainer.args.eval_strategy == "no" or trainer.args.load_best_model_at_end:
        return
    measured = [row["step"] for row in read_metrics(run.metrics).rows if "eval_loss" in row and row["step"]]
    steps = trainer.state.global_step
    if not measured:
        observer.warn(f"nothing was measured after the {steps} steps (lower `eval_steps`, or `extra.eval_delay`)")
    elif measured[-1] < steps:
        observer.warn(f"what was measured last is the model after step {measured[-1]} of {steps}")


def _record_stream(run: RunDir, stream: Stream, observer: Observer) -> None:
    """Write down what became of the rows that were read."""
    data = run.read().data
    run.update(data=data.model_copy(update={"train": data.train.model_copy(update=stream_counts(stream))}))
    if stream.left_out:
        observer.warn(f"training rows: {told_left_out(list(stream.left_out.values()))}")
    for note in (*map(told_unused, stream.late.values()), *as_notes("training", stream.noted)):
        observer.warn(note)


@contextlib.contextmanager
def _telling_broken_rows(run: RunDir, manifest: Manifest) -> Iterator[None]:
    """A row that is broken ends a run that reads while it trains."""
    try:
        yield
    except DataError as error:
        found = last_complete_checkpoint(run.checkpoints, manifest.run_id)
        kept = f"the last checkpoint is {found[0]}" if found else "there is no checkpoint yet"
        remedy = "mend the rows, or leave them out by `dataset.max_bad_rows` if they cannot be read, and train again"
        raise RunError([*error.problems, Problem(str(run.path), f"the stream broke off; {kept}", remedy)]) from error


def _no_room_to_load(manifest: Manifest) -> tuple[Callable[[], str], str]:
    """What to say of a base that does not fit, and what to do about it."""
    billions, device = manifest.base.parameters / 1e9, manifest.plan.device.value
    told = (
        f"out of memory while loading a base of {billions:,.2f} billion parameters onto {device}, before the first step"
    )
    remedy = 'end what else uses that memory, write `[quantization] method = "bnb-4bit"`, or divide the weights'
    return lambda: told, f'{remedy}: `[distributed] strategy = "fsdp"`'


def _no_room_to_train(run: RunDir, plan: Plan) -> tuple[Callable[[], str], str]:
    """What to say of a step that does not fit, and what to do about it."""

    def told() -> str:
        size, length = plan.per_device_train_batch_size.value, plan.max_seq_length.value
        found = last_complete_checkpoint(run.checkpoints, run.read().run_id)
        kept = f"step {found[1]} is saved" if found else "there is no checkpoint yet"
        return f"out of memory with {size} rows of up to {length} tokens at once; {kept}"

    return told, "halve `per_device_train_batch_size`, set `gradient_checkpointing = true`, or quantise the base"


def _no_room_to_start(method: Lora) -> tuple[Callable[[], str], str]:
    """What to say of a start that does not fit, and what to do about it."""
    start = method.init_lora_weights
    fewer = "halve `per_device_train_batch_size`, " if start in {"eva", "lora_ga"} else ""
    told = f'out of memory while computing `init_lora_weights = "{start}"`, before the first step'
    return lambda: told, f'{fewer}name fewer `target_modules`, or write "default"'
