"""A base in memory, on which trials train one after the other: each puts its own adapter on it and takes it off."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.answers.earlier_runs import find_earlier, keep_earlier
from lora_ns.answers.opened import load_whole_base, loading_of
from lora_ns.answers.teacher import check_teacher
from lora_ns.data.named_files import check_named_files
from lora_ns.data.prepare import open_renderer, prepare
from lora_ns.data.prepared import Preparation
from lora_ns.errors import LoransError, Problem, RunError, UsageError
from lora_ns.files.removal import remove
from lora_ns.machine import libraries
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.machine.hardware import Machine, detect
from lora_ns.machine.packages import check_packages
from lora_ns.model.files import Base
from lora_ns.model.find import find_recipe_base
from lora_ns.parallel.stop import StopSignal
from lora_ns.plan.make import make_plan
from lora_ns.recipe.load import LoadedRecipe, locating
from lora_ns.run.directory import RunDir
from lora_ns.run.earlier import EarlierRuns
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer
from lora_ns.services.sweep.measured import Measured, RowLosses, State
from lora_ns.services.train import check_training, new_manifest, settled_with_teacher
from lora_ns.training.failures import no_room_to_load, no_room_to_train
from lora_ns.training.fit import adapt, ready_trainer
from lora_ns.training.prepared import PreparedRun, copy_code
from lora_ns.training.row_losses import row_losses

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, TrainerCallback

Judge = Callable[[int, Mapping[str, float]], str]
"""Returns the reason for which a trial stops after an evaluation, or "", by the rung's number and the metrics.

The number is -1 before the first step.
"""

NEVER = 1_000_000_000
"""Steps between evaluations and checkpoints of which a trial has none."""

RISE = 0.1
"""Share of the evaluation loss before the first step by which a later one may be higher: a warm-up can raise it a
little."""


def go_on(_rung: int, _metrics: Mapping[str, float]) -> str:
    """The judge that lets every trial go on."""
    return ""


@dataclass(frozen=True)
class Asked:
    """What to measure in a trial."""

    rungs: Callable[[int, int], Sequence[int]] = lambda _steps, _batch: ()
    """From the steps of a trial and the rows of each: the steps after which it is evaluated, besides its last."""
    judge: Judge = go_on
    by_rows: bool = False
    """True to measure nothing but the loss of each evaluation row after the last step, which takes one pass."""
    most_rows: int = 1000
    """Maximum number of evaluation rows whose own losses are measured, spread evenly over all of them."""


@dataclass
class Bench:
    """Trains trials. The base is loaded again only if a trial needs another one, or has left its mark on it."""

    observer: Observer
    use_cache: bool = True
    machine: Machine = field(default_factory=detect)
    loads: int = 0
    """How often a base was loaded."""
    _held: _Held | None = None

    def train(self, loaded: LoadedRecipe, folder: Path, asked: Asked) -> Measured:
        """Train a recipe on the base in memory, in one process and without saving an adapter.

        Args:
            loaded: the recipe.
            folder: gets `metrics.jsonl`, and nothing that is large.
            asked: what to measure.

        Raises:
            LoransError: if the recipe cannot be trained here. A training that breaks is measured instead.
        """
        started = time.monotonic()
        if loaded.recipe.objective.compares_rows:
            asked = replace(asked, by_rows=False)
        run = _TrialDir(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run.metrics.unlink(missing_ok=True)
        with locating(loaded):
            trial = self._ready(trial_recipe(loaded, asked), run)
            keep_earlier(run, trial.earlier, trial.manifest.recipe.peft)
            copy_code(run, trial.manifest.recipe, [loaded.folder, Path.cwd()])
        try:
            found = self._measure(trial, run, asked)
        finally:
            for left in (run.checkpoints, run.start, run.reference, run.base_adapters, run.code):
                remove(left)
        return replace(found, seconds=round(time.monotonic() - started, 1))

    def plan(self, loaded: LoadedRecipe, folder: Path) -> Ready:
        """Prepare a trial of a recipe without training it. Raises `LoransError`."""
        with locating(loaded):
            return self._ready(trial_recipe(loaded, Asked()), RunDir(folder))

    def _ready(self, loaded: LoadedRecipe, run: RunDir) -> Ready:
        """Prepare rows, plan and manifest. Raises `LoransError`."""
        check_named_files(loaded)
        check_packages(loaded.recipe)
        base = find_recipe_base(loaded.recipe.model, loaded.folder)
        settled, teacher = settled_with_teacher(loaded, self.machine, base)
        libraries.prepare(self.machine)
        renderer = open_renderer(settled, base)
        earlier = find_earlier(settled.recipe, settled.folder, base, renderer.tokenizer)
        check_teacher(teacher, base, renderer.tokenizer)
        told = self.observer if not self.loads else Observer()
        rows = prepare(settled, renderer, base, told, self.use_cache)
        check_held_out(rows, loaded)
        plan = make_plan(settled, self.machine, base, rows.facts)
        manifest = new_manifest(settled, plan, base, renderer, rows, self.machine, earlier, teacher)
        check_training(settled, run, base, manifest, earlier)
        return Ready(manifest, PreparedRun(base, renderer.tokenizer, rows.data), earlier)

    def _measure(self, trial: Ready, run: RunDir, asked: Asked) -> Measured:
        from transformers import set_seed

        manifest, recipe = trial.manifest, trial.manifest.recipe
        with telling_memory_errors(*no_room_to_load(manifest)):
            held = self._base(run, manifest, trial.prepared.base)
            model = adapt(held.bare, run, manifest, trial.prepared.base, Observer())
        watch = _Watch(asked, self.observer, manifest.plan.global_batch_size.value)
        trainer: Any = None
        try:
            trainer = ready_trainer(run, manifest, model, trial.prepared, watch, None, StopSignal())
            trainer.add_callback(watch.callback())
            set_seed(recipe.training.seed)
            with telling_memory_errors(*no_room_to_train(run, manifest)):
                trainer.train()
            rows = () if watch.reason or recipe.objective.compares_rows else _held_out(trainer, asked.most_rows)
            return watch.measured(rows)
        except LoransError as error:
            if not watch.has_diverged:
                raise
            return watch.broken(str(error.problems[0].what))
        finally:
            held.take_off(model)
            del model, trainer, watch.trainer
            gc.collect()

    def _base(self, run: RunDir, manifest: Manifest, base: Base) -> _Held:
        """The base for a trial: the one in memory if it fits and is unchanged, otherwise a new one."""
        import torch
        from transformers import set_seed

        wanted = (base.fingerprint, manifest.recipe.training.seed, repr(loading_of(manifest)), manifest.base_adapters)
        if self._held is None or self._held.wanted != wanted or not self._held.is_unchanged():
            self._held = None
            gc.collect()
            self.observer.stage("loading the base")
            set_seed(manifest.recipe.training.seed)
            bare = load_whole_base(run, manifest, base, loading_of(manifest))
            self._held = _Held(bare, wanted)
            self.loads += 1
        torch.set_rng_state(self._held.generator)  # a new adapter is that of a run of its own
        return self._held


class _TrialDir(RunDir):
    """The folder of a trial, which is no run: it has no manifest, and no adapter."""

    def check_there(self) -> None:
        """Check that the folder still exists. Raises `RunError`."""
        if not self.path.is_dir():
            raise RunError(Problem(str(self.path), "was removed or moved during training", "repeat the command"))


@dataclass(frozen=True)
class Ready:
    """A trial before its first step."""

    manifest: Manifest
    prepared: PreparedRun
    earlier: EarlierRuns


class _Held:
    """A base without an adapter, and how to tell that nothing has changed it."""

    def __init__(self, bare: PreTrainedModel, wanted: object) -> None:
        import torch

        self.bare, self.wanted = bare, wanted
        self.generator = torch.get_rng_state()
        self._modules, self._sums = _structure(bare), _sums(bare)

    def take_off(self, model: PeftModel) -> None:
        """Remove an adapter from the base."""
        from peft.utils.other import ModulesToSaveWrapper

        inner: Any = model.base_model
        whole = model.get_base_model()
        replaced = {
            name: module.original_module
            for name, module in whole.named_modules()
            if isinstance(module, ModulesToSaveWrapper)
        }
        bare = inner.unload() if hasattr(inner, "unload") else whole
        for name, module in replaced.items():  # PEFT leaves the trained copy of a head
            bare.set_submodule(name, module)
        self.bare = bare
        for hook in (*getattr(bare, "_require_grads_hooks", ()),):
            hook.remove()
        if any(getattr(module, "gradient_checkpointing", False) for module in bare.modules()):
            bare.gradient_checkpointing_disable()
        bare.requires_grad_(requires_grad=True)
        bare.zero_grad(set_to_none=True)
        if hasattr(bare, "peft_config"):
            del bare.peft_config

    def is_unchanged(self) -> bool:
        """True if modules and weights are those that were loaded."""
        return _structure(self.bare) == self._modules and _sums(self.bare) == self._sums


def _structure(model: Any) -> list[tuple[str, str]]:
    return [(name, type(module).__qualname__) for name, module in model.named_modules()]


def _sums(model: Any) -> dict[str, tuple[float, float]]:
    """The sum and the sum of squares of each weight and buffer, which any change of a value changes."""
    import torch

    found = {}
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        whole = value.detach()
        square = torch.linalg.vector_norm(whole.float()) if whole.numel() else whole.sum()
        found[name] = (float(whole.sum(dtype=torch.float64)), float(square))
    return found


class _Watch(Observer):
    """The observer of a trial: its evaluations, and when to stop it."""

    def __init__(self, asked: Asked, display: Observer, batch: int) -> None:
        self._asked, self._display, self._batch = asked, display, batch
        self.metrics: dict[str, float] = {}
        self.curve: list[tuple[int, float]] = []
        self.first: float | None = None
        self.reason, self.has_diverged, self.trainer = "", False, None
        self._rungs: list[int] = []
        self._step = self._tokens = 0

    def ready(self, trainer: Any) -> None:
        """Keep the trainer."""
        self.trainer = trainer

    def begin(self, _step: int, steps: int) -> None:
        """Place the rungs."""
        self._rungs = [*sorted({rung for rung in self._asked.rungs(steps, self._batch) if 0 < rung < steps}), steps]

    def step(self, step: int, tokens: int) -> None:
        """Count a step."""
        self._step, self._tokens = step, tokens
        self._display.rows(step, self._rungs[-1])

    def logged(self, row: dict[str, Any]) -> None:
        """Look for a broken loss, before the training ends with it."""
        values = [float(row[key]) for key in ("loss", "grad_norm", "eval_loss") if row.get(key) is not None]
        self.has_diverged = self.has_diverged or not all(map(math.isfinite, values))

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an evaluation, and decide whether the trial goes on."""
        self.metrics = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
        loss = self.metrics.get("eval_loss", math.nan)
        if step == 0:
            self.first = loss
            self.reason = self._asked.judge(-1, self.metrics)
            return
        self.curve.append((step, loss))
        if not math.isfinite(loss) or (self.first is not None and loss > self.first + RISE * abs(self.first)):
            self.has_diverged = True
            was = "" if self.first is None else f"; it was {self.first:.4g} before the first step"
            self.reason = f"after step {step} the evaluation loss is {loss:.4g}{was}"
        elif step in self._rungs[:-1]:
            self.reason = self._asked.judge(self._rungs.index(step), self.metrics)

    def callback(self) -> TrainerCallback:
        """The callback that evaluates at rungs and stops the trial."""
        from transformers import TrainerCallback

        watch = self

        class RungCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
            """See `_Watch`."""

            def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_evaluate = not watch._asked.by_rows and state.global_step in watch._rungs
                control.should_save = False

            def on_evaluate(self, _args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
                watch.evaluated(state.global_step, metrics)
                control.should_training_stop = control.should_training_stop or bool(watch.reason)

        return RungCallback()

    def measured(self, rows: RowLosses) -> Measured:
        """The figures of a trial that was not broken."""
        if self._asked.by_rows:
            weight = sum(count for _, count in rows)
            self.evaluated(self._step, {"eval_loss": sum(loss * count for loss, count in rows) / max(1, weight)})
        state: State = "diverged" if self.has_diverged else "pruned" if self.reason else "finished"
        return self._found(state, self.reason, rows)

    def broken(self, reason: str) -> Measured:
        """The figures of a trial whose loss broke."""
        return self._found("diverged", reason, ())

    def _found(self, state: State, reason: str, rows: RowLosses) -> Measured:
        return Measured(
            state, reason, self.metrics, self.first, tuple(self.curve), self._step, self._tokens, row_losses=rows
        )


def _held_out(trainer: Any, most: int) -> RowLosses:
    """The losses of evaluation rows, evenly spread if there are more than `most`."""
    rows = trainer.eval_dataset
    return row_losses(trainer, rows.select(range(0, len(rows), math.ceil(len(rows) / most))))


def check_held_out(rows: Preparation, loaded: LoadedRecipe) -> None:
    """Check that there are evaluation rows, by which trials are compared. Raises `UsageError`."""
    if rows.eval is None or not len(rows.eval):
        raise UsageError(_nothing_held_out(loaded))


def _nothing_held_out(loaded: LoadedRecipe) -> Problem:
    what = "no evaluation rows, by which trials could be compared"
    remedy = "write `eval_path`, `eval_split` or `eval_fraction` in `[dataset]`"
    return Problem(loaded.where("dataset"), what, remedy)


def check_sweepable(loaded: LoadedRecipe, option: str) -> None:
    """Check that the trials of a recipe can train in one process on rows of one order. Raises `UsageError`."""
    recipe = loaded.recipe
    if recipe.dataset.streaming:
        what = f"{option} compares trials on the same rows, and a stream is read anew by each"
        raise UsageError(Problem(loaded.where("dataset.streaming"), what, "write `streaming = false`"))
    data = recipe.dataset
    if not (data.eval_path or data.eval_split or data.eval_fraction):
        raise UsageError(_nothing_held_out(loaded))
    if recipe.distributed.shards:
        what = f"{option} trains each trial in one process, and this recipe shards its base over several"
        raise UsageError(Problem(loaded.where("distributed"), what, "choose a base that fits one GPU, or quantise it"))
    if recipe.objective.generates:
        what = (
            f"{option} compares losses on held-out rows, and `[{recipe.objective.toml}]` trains on its own completions"
        )
        raise UsageError(
            Problem(loaded.where(recipe.objective.toml), what, "train each variant, and compare with eval")
        )


def trial_recipe(loaded: LoadedRecipe, asked: Asked) -> LoadedRecipe:
    """The recipe of a trial: in one process, evaluated only where the trial asks, without checkpoints and trackers."""
    recipe = loaded.recipe.as_trial()
    extra = {**recipe.training.extra, "save_strategy": "no"}
    training = recipe.training.model_copy(update={"eval_steps": NEVER, "save_steps": NEVER, "extra": extra})
    evaluation = recipe.evaluation.model_copy(update={"group_by": None, "before_training": not asked.by_rows})
    return replace(loaded, recipe=recipe.model_copy(update={"training": training, "evaluation": evaluation}))
