"""Training in one process: from a prepared run to a saved and checked adapter."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lora_ns.answers.label import baseline_kind
from lora_ns.answers.opened import Trained, load_whole_base, loading_of, reopen_base
from lora_ns.answers.teacher import load_teacher
from lora_ns.data.columns import unused_note
from lora_ns.data.notices import as_notes
from lora_ns.data.rows import left_out_note
from lora_ns.data.stream import Stream, stream_counts
from lora_ns.errors import InterruptedRunError, LoransError, Problem, RunError
from lora_ns.files.disk import hash_folder, telling_disk_errors
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.merging.pool import release
from lora_ns.model.adapter import add_adapter, check_head, record_base, save_adapter, trainable_parameters
from lora_ns.model.attention import may_attend_by_rows
from lora_ns.model.consent import carry_over
from lora_ns.model.files import Base
from lora_ns.model.input_casts import casts_left_to_autocast
from lora_ns.model.modules import expert_notes
from lora_ns.model.saved_adapter import load_trainable
from lora_ns.model.short_rows import attending_by_rows
from lora_ns.model.tokenizer import generation_settings
from lora_ns.objectives import LabelObjective
from lora_ns.objectives.baselines import Baseline
from lora_ns.objectives.label_loss import labels_that_count
from lora_ns.objectives.prompt_trainer import Sample
from lora_ns.objectives.rewarded import RewardedObjective
from lora_ns.parallel.context import divided_attention
from lora_ns.parallel.group import (
    check_world,
    check_wrapped,
    forget_peak_memory,
    is_one_of_several,
    leave,
    peak_memory,
    used_memory,
)
from lora_ns.parallel.nodes import resume_command
from lora_ns.parallel.sharding import dividing_at_once
from lora_ns.parallel.stop import StopSignal
from lora_ns.plan.memory.allocator import LIBRARIES_ON_GPU
from lora_ns.recipe.distributed import DeepSpeed, OneProcess, Strategy
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.lineage import close_chain, trained_chain
from lora_ns.run.manifest import BestRecord, Manifest, SealRecord
from lora_ns.run.measured_memory import remember
from lora_ns.run.metrics import read_metrics
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.safety.credentials import scrubbed
from lora_ns.training import starts
from lora_ns.training.callbacks import make_callbacks
from lora_ns.training.completion import Completion
from lora_ns.training.determinism import deterministic
from lora_ns.training.failures import no_room_to_load, no_room_to_start, no_room_to_train, telling_broken_rows
from lora_ns.training.final_metrics import final_metrics, measured_baseline, warn_of_unmeasured
from lora_ns.training.learning import learning_watch, metric_watch
from lora_ns.training.optimizers import choose_optimizer, leave_training
from lora_ns.training.own_suites import OwnSuites, asking_in_training
from lora_ns.training.pickles import check_deepspeed_states
from lora_ns.training.predictions import prediction_writer
from lora_ns.training.preflight import preflight
from lora_ns.training.prepared import PreparedRun, folders_of, reopen_prepared
from lora_ns.training.reference import refer_once, refer_to_start
from lora_ns.training.rewards import open_rewards
from lora_ns.training.samples import sample_writer
from lora_ns.training.seal import Seal
from lora_ns.training.surviving import room_of
from lora_ns.training.time_limit import TimeLimit, timing
from lora_ns.training.trainer import make_trainer
from lora_ns.training.trouble import BadSteps, skipping_bad_steps

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, Trainer, TrainerCallback

T = TypeVar("T")


NO_EFFECT = 1e-5
"""Relative change of the logits below which an adapter has no effect."""


@dataclass(frozen=True)
class TrainResult:
    """The result of `lorans train`."""

    run: str
    adapter: str
    steps: int
    trainable_parameters: int
    metrics: dict[str, Any]
    seal: SealRecord | None = None
    """The comparison of the saved adapter with the trained model."""
    lineage: str | None = None
    """The tip of the run's lineage; None for a run that began without one."""
    adapter_step: int | None = None
    """Step of the weights that were saved."""
    best: BestRecord | None = None
    """The best evaluation, if the recipe asks for it."""
    ended: str | None = None
    """Why training ended before the planned last step; None if it did not."""


def initialise_alone(run: RunDir) -> None:
    """Compute and save the adapter's initialisation in this process, for all ranks of a run. Raises `LoransError`."""
    manifest = run.read()
    manifest = manifest.model_copy(
        update={
            "recipe": manifest.recipe.model_copy(update={"distributed": OneProcess()}),
            "plan": manifest.plan.model_copy(update={"deepspeed": None}),
        }
    )
    prepared = reopen_prepared(run, manifest, reopen_base(manifest))
    model = _adapted_base(run, manifest, prepared.base, SilentObserver())
    ready_trainer(run, manifest, model, prepared, SilentObserver(), None, StopSignal())


def recording(run: RunDir, work: Callable[[Manifest], T]) -> T:
    """Do the work of a run and record its outcome in the manifest, however it ends."""
    manifest = run.update(status="running", error=None, ended=None)
    try:
        with run.telling_lost_disk():
            return work(manifest)
    except InterruptedRunError as error:
        run.update(status="interrupted", error=str(error))
        raise
    except KeyboardInterrupt:
        run.update(status="interrupted", error="stopped immediately")
        raise
    except BaseException as error:
        with contextlib.suppress(LoransError, OSError):
            run.update(status="failed", error=scrubbed(str(error)) or type(error).__name__)
        raise


def train_and_seal(
    run: RunDir,
    manifest: Manifest,
    prepared: PreparedRun,
    observer: Observer,
    checkpoint: tuple[Path, int] | None,
    stop: StopSignal,
) -> TrainResult | None:
    """Train and save, then reload the adapter and compare it with the trained model.

    Returns:
        The result on the first rank of each machine, None on the others.
    """
    limit = TimeLimit.of(manifest)
    with deterministic(manifest.recipe.training.full_determinism, manifest.seed):
        fitted = _fit(run, manifest, prepared, observer, checkpoint, stop, limit)
    if fitted.seal is None:
        return None
    seal, steps = fitted.seal, int(fitted.trainer.state.global_step)
    manifest, metrics = _save(run, prepared, observer, fitted)
    step, best, ended = fitted.step, fitted.completion.best, fitted.completion.ended
    del fitted  # frees the trained model before the saved one is loaded
    _free_memory()
    observer.stage("checking the saved adapter")
    seal.freeze(run.probes)
    manifest = run.amend(manifest, adapter=hash_folder(run.adapter), adapter_step=step, best=best, ended=ended)
    chain = trained_chain(run)
    sealed = {"metrics": metrics, "seal": seal.check(run), "lineage": chain.tip if chain else None}
    manifest = run.amend(manifest, **sealed)
    tip = close_chain(run, chain) if chain else None
    manifest = run.amend(manifest, status="finished")
    if manifest.seal and manifest.seal.adapter_effect is not None and manifest.seal.adapter_effect < NO_EFFECT:
        observer.warn("the adapter has no effect: raise `training.learning_rate`, or train longer")
    trainable = manifest.base.trainable_parameters or 0
    result = TrainResult(str(run.path), str(run.adapter), steps, trainable, metrics, manifest.seal, tip)
    return replace(result, adapter_step=step, best=best, ended=ended)


def _free_memory() -> None:
    """Release the memory of the trained model, so that another one fits."""
    import torch

    gc.collect()
    release()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class _Fitted:
    """A model after its last step."""

    manifest: Manifest
    """The manifest in its current state."""
    model: PeftModel
    trainer: Trainer
    suites: OwnSuites | None
    metrics: dict[str, Any]
    seal: Seal | None
    """The trained model's logits, for the adapter check; only on the first rank of a machine."""
    step: int
    """Step of its weights."""
    completion: Completion


def _fit(
    run: RunDir,
    manifest: Manifest,
    prepared: PreparedRun,
    observer: Observer,
    checkpoint: tuple[Path, int] | None,
    stop: StopSignal,
    limit: TimeLimit | None,
) -> _Fitted:
    """Train the model. Every process of a run calls this."""
    from transformers import set_seed

    recipe, rank = manifest.recipe, prepared.rank
    with telling_memory_errors(*no_room_to_load(manifest)), timing(limit, "loading"):
        model = _adapted_base(run, manifest, prepared.base, observer)
    completion = Completion.of(
        run, manifest, limit, rank.is_first, lambda folder: _write_adapter(run, manifest, prepared, model, folder)
    )
    suites = OwnSuites.of(Trained(run, manifest, prepared.base, prepared.tokenizer, model), observer)
    trainer = ready_trainer(run, manifest, model, prepared, observer, checkpoint, stop, suites, completion)
    trained = manifest.base.model_copy(update={"trainable_parameters": trainable_parameters(model)})
    manifest = run.amend(manifest, base=trained, distributed=check_world(trainer, rank, recipe.distributed))
    if suites and recipe.evaluation.before_training and not checkpoint:
        observer.stage("answering before training")
        with timing(limit, "asking"):
            found = suites.ask(run.answers_before if rank.is_first else None, observer)
        before = {f"before/{key}": value for key, value in found.items()}
        manifest = run.amend(manifest, metrics={**manifest.metrics, **before})
    if rank.is_first:
        _look_at_completions(run, manifest, trainer, prepared, observer, checkpoint, suites)
    set_seed(recipe.training.seed + rank.number)  # each rank draws its own dropout masks
    if checkpoint and isinstance(recipe.distributed, DeepSpeed):
        check_deepspeed_states(checkpoint[0])
    observer.shows(recipe.objective.shows)
    observer.stage("training")
    trainer.room, before_training = room_of(run, manifest, observer), forget_peak_memory()
    with (
        telling_memory_errors(*no_room_to_train(run, manifest, trainer.room)),
        telling_broken_rows(run, manifest),
        divided_attention(model, recipe.distributed.row_parts),
        casts_left_to_autocast(model),
        attending_by_rows(model, may_attend_by_rows(recipe.model.attn_implementation, manifest.plan.device.value)),
    ):
        trainer.train(resume_from_checkpoint=str(checkpoint[0]) if checkpoint else None)
        manifest = manifest.model_copy(update={"halved": trainer.room.record})
        _check_finished(run, recipe.distributed, trainer, stop)
        step = completion.complete(manifest, trainer)
    _check_stepped(trainer, observer, completion.ended)
    metrics = {**manifest.metrics, **peak_memory()}
    if rank.is_first:
        _remember_memory(manifest, metrics, before_training)
    leave_training(trainer)
    seal = _sealed(manifest, model, prepared, trainer)
    return _Fitted(manifest, model, trainer, suites, metrics, seal if rank.is_first else None, step, completion)


def _remember_memory(manifest: Manifest, metrics: dict[str, Any], before: int) -> None:
    """Keep planned and measured memory for the plans of later runs, if training took more than what came before it."""
    planned, device = manifest.plan.memory_bytes.value, manifest.plan.device.value
    taken = metrics["peak_memory_bytes"]
    if device == "cuda":
        taken = metrics["peak_reserved_bytes"] + LIBRARIES_ON_GPU
    if planned and used_memory() > before:
        remember(device, planned + manifest.plan.mapped_bytes, taken)


def _sealed(manifest: Manifest, model: PeftModel, prepared: PreparedRun, trainer: Trainer) -> Seal | None:
    """The trained model's logits, on the ranks that compute them. Every rank calls it, and leaves the group in it."""
    rank, strategy, device = prepared.rank, manifest.recipe.distributed, trainer.args.device
    # With sharded weights, all ranks compute the logits together.
    answers_here = rank.is_first or strategy.shards
    seal = Seal(manifest, model, prepared.data[0], prepared.tokenizer, device) if answers_here else None
    if is_one_of_several():
        check_wrapped(trainer, strategy)
        leave(trainer)
    return seal


def _look_at_completions(
    run: RunDir,
    manifest: Manifest,
    trainer: Trainer,
    prepared: PreparedRun,
    observer: Observer,
    checkpoint: tuple[Path, int] | None,
    suites: OwnSuites | None,
) -> None:
    """Keep some completions or all predictions of each evaluation; with rewards, score some before the first step.

    Raises:
        RunError: if the rewards cannot teach anything.
    """
    has_samples = suites is not None and manifest.recipe.evaluation.exact_match
    samples: Callable[[], Sequence[Sample]] | None = suites.samples if suites and has_samples else None
    if isinstance(manifest.recipe.objective, RewardedObjective):
        samples = lambda: trainer.samples  # noqa: E731 -- those of the last evaluation, with their rewards
        if checkpoint is None:
            preflight(run, manifest, trainer, prepared.data[0], observer, manifest.is_forced)
    if isinstance(manifest.recipe.objective, LabelObjective):
        trainer.add_callback(prediction_writer(trainer, manifest.labels, run.predictions))
    if samples:
        trainer.add_callback(sample_writer(samples, run.samples, checkpoint[1] if checkpoint else 0))


def _save(run: RunDir, prepared: PreparedRun, observer: Observer, fitted: _Fitted) -> tuple[Manifest, dict[str, Any]]:
    """Save the adapter and take the final measurements. Returns the manifest and the metrics."""
    manifest, model, trainer = fitted.manifest, fitted.model, fitted.trainer
    recipe = manifest.recipe
    metrics = fitted.metrics | final_metrics(run, fitted.step if recipe.training.load_best_model_at_end else None)
    warn_of_unmeasured(run, trainer, observer, recipe)
    if isinstance(recipe.objective, LabelObjective):
        baseline = Baseline.of(baseline_kind(manifest), manifest.labels, labels_that_count(prepared.data[0]))
        manifest = run.amend(manifest, baseline=dict(baseline.constants))
        metrics |= measured_baseline(baseline, prepared.data[1], metrics, observer)
    if prepared.stream:
        manifest = _record_stream(run, manifest, prepared.stream, observer)
    observer.stage("saving the adapter")
    observer.saving(model, prepared.tokenizer)
    run.check_there()
    _write_adapter(run, manifest, prepared, model, run.adapter)
    if fitted.suites:
        observer.stage("answering after training")
        metrics |= fitted.suites.ask(run.answers_after, observer)
    return manifest, metrics


def _write_adapter(run: RunDir, manifest: Manifest, prepared: PreparedRun, model: PeftModel, folder: Path) -> None:
    """Write the adapter with everything that it is used with. Raises `RunError`."""
    recipe = manifest.recipe
    settings = generation_settings(prepared.base, manifest.stop_token_ids, prepared.tokenizer.pad_token_id)
    with telling_disk_errors(folder):
        start = run.start if recipe.peft.moves_base else None
        save_adapter(model, prepared.tokenizer, settings, folder, start)
    if recipe.model.trust_remote_code:
        carry_over(prepared.base.path, folder)


def _adapted_base(run: RunDir, manifest: Manifest, base: Base, observer: Observer) -> PeftModel:
    """The base with its adapter: a new one, or the saved initialisation of the run."""
    from transformers import set_seed

    recipe = manifest.recipe
    observer.stage("loading the base")
    set_seed(recipe.training.seed)
    with dividing_at_once(manifest.plan.deepspeed, recipe.quantization.bits is not None):
        loading = replace(loading_of(manifest), divided=recipe.distributed.shards)
        return adapt(load_whole_base(run, manifest, base, loading), run, manifest, base, observer)


def adapt(bare: PreTrainedModel, run: RunDir, manifest: Manifest, base: Base, observer: Observer) -> PeftModel:
    """A loaded base with the adapter that a run begins with. The state of the random generators determines a new one.

    Raises:
        PlanError: if the adapter does not fit the base.
    """
    recipe = manifest.recipe
    if manifest.init_adapter:
        model = record_base(load_trainable(bare, run.start), base)
    elif (start := recipe.peft.start) and starts.is_kept(run.start):
        model = starts.put_back(bare, start, run.start)
    else:
        method = recipe.peft.with_rows(manifest.added_tokens)
        model = add_adapter(bare, method, recipe.task_type, base, manifest.plan.max_steps.value or 0)
    observer.adapted(model)
    check_head(model, base, recipe.task_type)
    for note in expert_notes(model):
        observer.warn(note)
    return model


def ready_trainer(
    run: RunDir,
    manifest: Manifest,
    model: PeftModel,
    prepared: PreparedRun,
    observer: Observer,
    checkpoint: tuple[Path, int] | None,
    stop: StopSignal,
    suites: OwnSuites | None = None,
    completion: Completion | None = None,
) -> Trainer:
    """The trainer of a model. Computes the adapter's initialisation if that needs the rows or the base's weights."""
    recipe, plan, completion = manifest.recipe, manifest.plan, completion or Completion()
    first = checkpoint[1] if checkpoint else 0
    rewards = open_rewards(recipe.objective, [run.code, *folders_of(manifest)])
    if recipe.objective.generates:  # TRL ends completions at the model's own stop tokens
        model.generation_config.eos_token_id = list(manifest.stop_token_ids)
    with telling_memory_errors(*no_room_to_load(manifest)):
        teacher = load_teacher(manifest)
    bad = BadSteps(run.bad_batch, prepared.rank.number, run.places)
    with telling_broken_rows(run, manifest):  # the trainer reads the first rows of a stream
        trainer = make_trainer(
            recipe,
            plan,
            run.checkpoints,
            model,
            prepared.tokenizer,
            (prepared.stream.dataset() if prepared.stream else prepared.data[0], prepared.data[1]),
            [
                *_while_training(recipe, suites, observer, lambda: trainer, completion),
                *make_callbacks(
                    manifest.run_id,
                    run.metrics,
                    observer,
                    stop,
                    first,
                    prepared.rank.is_first,
                    run.forget_replaced if stop.file is None else lambda: None,  # otherwise the launcher does
                    run.check_there,
                    recipe.objective.generates,
                    completion.callbacks(manifest, prepared.rank.is_first, observer, lambda: trainer),
                    bad.skipped,
                ),
                skipping_bad_steps(bad, prepared.data[0], prepared.tokenizer, observer.warn),
                learning_watch(
                    recipe.peft, plan.learning_rate.value, observer, recipe.objective.generates, bad.skipped
                ),
                metric_watch(recipe.objective.watches(), read_metrics(run.metrics).rows, observer),
            ],
            not checkpoint,
            manifest.labels,
            rewards,
            teacher,
        )
    if not recipe.distributed.shards:  # of which each process sees a part of the gradient
        trainer.watch = bad
    if (start := recipe.peft.start) and not starts.is_kept(run.start):
        observer.stage("initialising the adapter")
        with telling_memory_errors(*no_room_to_start(start)), telling_disk_errors(run.start):
            starts.begin(trainer, start, run.start, recipe.training.seed)
    if recipe.objective.has_reference:
        refer_to_start(trainer, prepared.data[0], plan.dtype.value, is_new=manifest.init_adapter is None)
        if recipe.objective.refers_once:
            observer.stage("computing the reference")
            refer_once(trainer, run.reference, prepared.rank, observer.rows)
    choose_optimizer(trainer, recipe)
    completion.watch(trainer)
    observer.ready(trainer)
    return trainer


def _while_training(
    recipe: Recipe, suites: OwnSuites | None, observer: Observer, trainer: Callable[[], Trainer], completion: Completion
) -> list[TrainerCallback]:
    """The callback that asks suites during training, if the recipe wants it; the trainer is made later."""
    if suites is None or not recipe.evaluation.while_training:
        return []
    some = suites.first(recipe.evaluation.samples_while_training)
    return [asking_in_training(some, observer, recipe.objective.shows, trainer, completion.of_suites)]


def _check_finished(run: RunDir, strategy: Strategy, trainer: Any, stop: StopSignal) -> None:
    """Check that no signal stopped the run early. Raises `InterruptedRunError`."""
    if stop.number and trainer.state.global_step < trainer.state.max_steps:
        what = f"stopped after step {trainer.state.global_step} of {trainer.state.max_steps}, which is saved"
        goes_on = f"{resume_command(run.path, strategy)} continues it"
        raise InterruptedRunError(stop.number, Problem("", what, goes_on))


def _check_stepped(trainer: Any, observer: Observer, ended: str | None) -> None:
    """Check that the run made at least one step, and warn if it did not make all. Raises `RunError`."""
    steps, planned = trainer.state.global_step, trainer.state.max_steps
    if not steps:
        what = f"no step of {planned} was made: there are too few rows for a batch"
        raise RunError(Problem("", what, "add rows, or lower `training.per_device_train_batch_size`"))
    if ended:
        observer.warn(ended)
    elif steps < planned:
        observer.warn(f"the rows ended after step {steps} of {planned}")


def _record_stream(run: RunDir, manifest: Manifest, stream: Stream, observer: Observer) -> Manifest:
    """Record the counts of a stream's rows in the manifest, and report its findings as warnings."""
    train = manifest.data.train.model_copy(update=stream_counts(stream))
    manifest = run.amend(manifest, data=manifest.data.model_copy(update={"train": train}))
    if stream.left_out:
        observer.warn(f"training rows: {left_out_note(list(stream.left_out.values()))}")
    for note in (*map(unused_note, stream.late.values()), *as_notes("training", stream.noted)):
        observer.warn(note)
    return manifest
