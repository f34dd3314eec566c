"""Validation beyond the recipe itself: its rows, the model that it adapts, one real step."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.basemodel import Base
from lora_ns.engine import libraries
from lora_ns.engine.adapter import adapted_modules, add_adapter, plainly_started, trainable_parameters
from lora_ns.engine.audit import Audit, Padding, PartReport, look_at, padding, report
from lora_ns.engine.callbacks import Observer
from lora_ns.engine.dataset import Encoded, Encoding, as_dataset, encode, pack
from lora_ns.engine.model import empty_base
from lora_ns.engine.sources import Source
from lora_ns.errors import DataError, PlanError, Problem
from lora_ns.machine import Machine
from lora_ns.plan import DataFacts, fit_length, make_plan
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.rundir import RunDir
from lora_ns.services.train import OpenedRows, find_recipe_base, open_rows, train
from lora_ns.services.trained import open_trained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prepared:
    """The rows of a recipe as its model will see them."""

    loaded: LoadedRecipe
    base: Base
    rows: OpenedRows
    train: Encoding
    eval: Encoding | None


def prepare_rows(loaded: LoadedRecipe, machine: Machine, observer: Observer) -> Prepared:
    """Read and encode all rows, keeping the problems of those that have one.

    Raises:
        LoransError: if there is no base, no tokenizer, or a file cannot be read at all.
    """
    base = _find_base(loaded, machine, observer)
    loaded = fit_length(loaded, base.facts)
    rows = open_rows(loaded, base, observer)

    def encoded(source: Source) -> Encoding:
        return encode(source, rows.sources.format, rows.renderer, loaded, rows.labels)

    evaluation = encoded(rows.sources.eval) if rows.sources.eval else None
    return Prepared(loaded, base, rows, encoded(rows.sources.train), evaluation)


def _find_base(loaded: LoadedRecipe, machine: Machine, observer: Observer) -> Base:
    observer.stage("finding the base")
    base = find_recipe_base(loaded)
    observer.stage("loading the libraries")
    libraries.prepare(machine)
    return base


def audit(prepared: Prepared, machine: Machine) -> Audit:
    """Every number and every check of the rows."""
    sources, renderer = prepared.rows.sources, prepared.rows.renderer
    evaluation = (sources.eval, prepared.eval) if sources.eval and prepared.eval else None
    is_text = prepared.loaded.recipe.task_type == "CAUSAL_LM"
    return Audit(
        train=report(sources.train, prepared.train),
        eval=report(*evaluation) if evaluation else None,
        format=f"{sources.format.name}, by {sources.why}",
        padding=_padding(prepared, machine),
        sources=tuple(
            PartReport(
                part.source.name, f"{part.form.name}, by {part.why}", len(part.source.rows), part.used, part.held_out
            )
            for part in sources.parts
        ),
        findings=look_at(
            (sources.train, prepared.train),
            evaluation,
            renderer.stops,
            renderer.tokenizer.bos_token_id if is_text else None,
            lambda ids: str(renderer.tokenizer.decode(ids, skip_special_tokens=True)),
        ),
    )


def _padding(prepared: Prepared, machine: Machine) -> Padding:
    recipe = prepared.loaded.recipe
    lengths = [len(sequence.input_ids) for sequence in prepared.train.sequences]
    facts = DataFacts(train_rows=len(lengths), longest=min(prepared.train.tally.longest, recipe.max_seq_length))
    plan = make_plan(prepared.loaded, machine, prepared.base, facts)
    packs = bool(lengths) and recipe.task_type == "CAUSAL_LM" and recipe.peft.capabilities.packing is True
    rows = pack(as_dataset(prepared.train.sequences), recipe.max_seq_length) if packs else ()
    return padding(lengths, plan.per_device_train_batch_size.value, len(rows) * recipe.max_seq_length)


@dataclass(frozen=True)
class Piece:
    """Some tokens of a shown row that are of one kind: `trained`, `context` or `special`."""

    text: str
    kind: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Shown:
    """A row as the model sees it."""

    where: str
    tokens: int
    trained_tokens: int
    pieces: tuple[Piece, ...]
    label: str = ""


def show_rows(prepared: Prepared, count: int, row: int | None) -> list[Shown]:
    """The first rows, or the one with a number from 1 on.

    Raises:
        DataError: if there is no such row.
    """
    sequences = prepared.train.sequences
    if row is not None and not 1 <= row <= len(sequences):
        what = f"no row {row}"
        raise DataError(Problem("--row", what, f"there are {len(sequences):,}"))
    chosen = sequences[:count] if row is None else sequences[row - 1 : row]
    return [_shown(sequence, prepared.rows.renderer.tokenizer) for sequence in chosen]


def _shown(sequence: Encoded, tokenizer: PreTrainedTokenizerBase) -> Shown:
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    trained = sequence.trained or [False] * len(sequence.input_ids)

    def kind(number: int) -> str:
        learned = "trained" if trained[number] else "context"
        return f"{learned} special" if sequence.input_ids[number] in special else learned

    pieces: list[Piece] = []
    start = 0
    for number in range(1, len(sequence.input_ids) + 1):
        if number == len(sequence.input_ids) or kind(number) != kind(start) or "special" in kind(start):
            ids = sequence.input_ids[start:number]
            pieces.append(Piece(str(tokenizer.decode(ids)), kind(start), tuple(ids)))
            start = number
    label = str(sequence.inputs.get("labels", ""))
    return Shown(sequence.where, len(sequence.input_ids), sum(trained), tuple(pieces), label)


@dataclass(frozen=True)
class ModelReport:
    """What would be adapted."""

    model: str
    parameters: int
    trainable_parameters: int
    adapter_bytes: int
    modules: dict[str, int]
    """Adapted modules by the last part of their names."""


def validate_model(loaded: LoadedRecipe, machine: Machine, observer: Observer) -> ModelReport:
    """Put the adapter onto a base without weights: every target has to match, and what is trained is counted.

    Raises:
        LoransError: if the method and the base do not fit.
    """
    base = _find_base(loaded, machine, observer)
    observer.stage("putting the adapter onto an empty base")
    empty = empty_base(base, loaded.recipe.task_type, loaded.recipe.model.trust_remote_code)
    kind = type(empty).__name__
    try:
        model = add_adapter(empty, plainly_started(loaded.recipe.peft), loaded.recipe.task_type, base)
    except PlanError as error:
        where = loaded.where("peft.target_modules")
        raise PlanError(replace(problem, where=problem.where or where) for problem in error.problems) from None
    trainable = trainable_parameters(model)
    return ModelReport(kind, base.facts.parameters, trainable, 4 * trainable, adapted_modules(model))


@dataclass(frozen=True)
class StepReport:
    """One real step, its adapter saved and opened again."""

    loss: float
    trainable_parameters: int


def validate_step(loaded: LoadedRecipe, observer: Observer, noise: libraries.Noise) -> StepReport:
    """Train one step on a few rows in a temporary folder, save, and open what was saved.

    Raises:
        LoransError: what a training would raise.
    """
    with tempfile.TemporaryDirectory(prefix="lorans-") as folder:
        result = train(_one_step(loaded, Path(folder) / "run"), observer, noise, use_cache=False)
        noise.detach()
        open_trained(RunDir.open(Path(result.run)))
    return StepReport(float(result.metrics["train_loss"]), result.trainable_parameters)


def _one_step(loaded: LoadedRecipe, run: Path) -> LoadedRecipe:
    """The recipe cut down to one step; its rules were asked before."""
    recipe = loaded.recipe
    few = max(8, recipe.training.global_batch_size or 0)
    tables = {
        # Without a warm-up, whose first step has a learning rate of 0 and changes nothing.
        "training": {"output_dir": str(run), "max_steps": 1, "warmup_steps": 0},
        "dataset": {"max_samples": few, "max_eval_samples": 4},
        "evaluation": {"exact_match": False, "before_training": False},
    }
    changed = {name: getattr(recipe, name).model_copy(update=update) for name, update in tables.items()}
    return replace(loaded, recipe=recipe.model_copy(update=changed))
