"""Further levels of `lorans validate`: the rows, the adapted model, one training step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.answers.earlier_runs import find_earlier
from lora_ns.answers.teacher import check_teacher, find_teacher
from lora_ns.data.audit import Audit, Finding, Padding, PartReport, look_at, padding, report, unused_columns
from lora_ns.data.encode_labels import WordEncoder, label_notes
from lora_ns.data.encode_prompts import EncodedPrompt
from lora_ns.data.encoded import Encoded, Encoding
from lora_ns.data.files.paths import find_files
from lora_ns.data.notices import IDENTICAL, NOTICES
from lora_ns.data.packing import packed_rows
from lora_ns.data.pair_checks import check_pairs
from lora_ns.data.pieces import Piece, pieces_of
from lora_ns.data.prepare import OpenedRows, open_renderer, open_rows
from lora_ns.data.rows import Row
from lora_ns.data.source import Source
from lora_ns.data.sources import reading_notes
from lora_ns.data.stream import stream_rows
from lora_ns.data.suite_leaks import leak_findings, passages
from lora_ns.data.suite_rows import suite_findings
from lora_ns.errors import DataError, InterruptedRunError, Problem
from lora_ns.files.temporary import temporary_folder
from lora_ns.formats import Example, Label, Labelled, Tagged, TextClassification
from lora_ns.machine import libraries
from lora_ns.machine.hardware import Machine
from lora_ns.machine.packages import check_packages
from lora_ns.model.adapter import adapted_modules, add_adapter, trainable_parameters
from lora_ns.model.files import Base
from lora_ns.model.find import find_recipe_base
from lora_ns.model.load import Loading, empty_base, load_base
from lora_ns.model.modules import expert_notes
from lora_ns.plan.make import make_plan, unusual
from lora_ns.plan.plan import DataFacts, Plan
from lora_ns.plan.settle import settle
from lora_ns.plan.settled import Settled
from lora_ns.recipe.load import LoadedRecipe, locating
from lora_ns.recipe.recipe import Recipe
from lora_ns.rewards import Python as PythonReward
from lora_ns.rewards import RewardModel
from lora_ns.run.observer import Observer
from lora_ns.services.train import train
from lora_ns.statistics import shown_by
from lora_ns.training.preflight import answer_faults
from lora_ns.training.rewards import open_rewards

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Prepared:
    """The encoded rows of a recipe."""

    settled: Settled
    base: Base
    rows: OpenedRows
    train: Encoding
    eval: Encoding | None


def prepare_rows(loaded: LoadedRecipe, machine: Machine, observer: Observer, only_rows: bool = False) -> Prepared:
    """Read and encode all rows, and collect the problems of invalid ones.

    Args:
        loaded: the recipe.
        machine: the resources to train with.
        observer: receives the stages.
        only_rows: True if this process needs no model afterwards, so that torch need not be imported.

    Raises:
        LoransError: if the base or tokenizer is missing, or a file cannot be read at all.
    """
    with locating(loaded):
        base = _find_base(loaded, machine, observer, only_rows)
        settled = settle(loaded, machine, base)
        observer.stage("reading the data")
        rows = open_rows(settled, open_renderer(settled, base), base)

    def encoded(source: Source) -> Encoding:
        found = rows.encode(source, settled.recipe.objective)
        return replace(found, overflow=found.overflow and found.overflow.located(loaded.where))

    evaluation = encoded(rows.sources.eval) if rows.sources.eval else None
    return Prepared(settled, base, rows, encoded(rows.sources.train), evaluation)


def _find_base(loaded: LoadedRecipe, machine: Machine, observer: Observer, only_rows: bool = False) -> Base:
    observer.stage("finding the base")
    base = find_recipe_base(loaded.recipe.model, loaded.folder)
    observer.stage("loading the libraries")
    if only_rows and not _rows_need_torch(loaded.recipe, base):
        libraries.prepare_tokenizers()
    else:
        libraries.prepare(machine)
    return base


def _rows_need_torch(recipe: Recipe, base: Base) -> bool:
    """True if reading the rows runs code that may use torch: of the base, of the user, or of transformers for GGUF."""
    rewards = recipe.objective.reward_functions
    is_foreign = recipe.model.trust_remote_code or any(isinstance(reward, PythonReward) for reward in rewards)
    return is_foreign or base.gguf is not None


def audit(prepared: Prepared, machine: Machine) -> Audit:
    """Compute statistics of the rows, and check them."""
    sources, renderer = prepared.rows.sources, prepared.rows.renderer
    evaluation = (sources.eval, prepared.eval) if sources.eval and prepared.eval else None

    def decode(ids: list[int]) -> str:
        return str(renderer.tokenizer.decode(ids, skip_special_tokens=True))

    of_pairs, pair_notes = check_pairs((sources.train, prepared.train), evaluation, decode)
    counts = prepared.train.tally.labels
    return Audit(
        train=report(sources.train, prepared.train),
        eval=report(*evaluation) if evaluation else None,
        format=f"{sources.format.name}, by {sources.why}",
        padding=_padding(prepared, machine),
        notes=(
            *reading_notes(sources),
            *label_notes(sources.format, prepared.rows.labels, renderer.tokenizer),
            *pair_notes,
            *_power_notes(prepared),
            *prepared.settled.recipe.objective.label_notes(counts[True], counts[False]),
        ),
        sources=tuple(
            PartReport(
                part.source.name, f"{part.form.name}, by {part.why}", len(part.source.rows), part.used, part.held_out
            )
            for part in sources.parts
        ),
        findings=(
            *_reward_findings(prepared),
            *_suite_findings(prepared),
            *_leak_findings(prepared),
            *unused_columns(sources),
            *look_at((sources.train, prepared.train), evaluation, decode),
            *of_pairs,
        ),
    )


def _power_notes(prepared: Prepared) -> Iterator[str]:
    """Yield the difference that the evaluation rows can show."""
    rows = len(prepared.eval.sequences) if prepared.eval else 0
    form = prepared.rows.sources.format
    has_scores = isinstance(form, TextClassification) and form.problem_type == "regression"
    if rows and not has_scores:
        yield f"evaluation rows: {rows:,}, {shown_by(rows)}"


def _reward_findings(prepared: Prepared) -> Iterator[Finding]:
    """Yield the faults of reward functions with the reference answers of the rows; reward models are not loaded."""
    settled, sequences = prepared.settled, prepared.train.sequences
    objective = settled.recipe.objective
    functions = [function for function in objective.reward_functions if not isinstance(function, RewardModel)]
    if not functions or not sequences:
        return
    rows = [sequence.completion("") for sequence in sequences if isinstance(sequence, EncodedPrompt)]
    with locating(settled.loaded):
        check_packages(settled.recipe)
        rewards = open_rewards(objective, [settled.folder, Path.cwd()], without_models=True)
        for reward, fault in answer_faults(rewards, rows):
            places = tuple(sequences[row].where for row in fault.rows)
            yield Finding(fault.code, f"{reward.key}: {fault.what}", places, fault.remedy, fault.is_error)


def _suite_findings(prepared: Prepared) -> Iterator[Finding]:
    """Yield the faults of the rows of suites."""
    settled, sources = prepared.settled, prepared.rows.sources
    with locating(settled.loaded):
        check_packages(settled.recipe)
    yield from suite_findings(settled.recipe, settled.folder, sources.format, sources.eval.rows if sources.eval else ())


def _leak_findings(prepared: Prepared) -> Iterator[Finding]:
    """Yield a finding for each suite with items in the training rows; of a stream from the hub, in its first rows."""
    settled, sources = prepared.settled, prepared.rows.sources
    recipe, usual = settled.recipe, sources.eval.rows if sources.eval else ()
    rows: Iterable[Row] = {id(row): row for row in sources.train.rows}.values()  # mixing may repeat a row
    if sources.is_stream and (names := recipe.dataset.path):
        rows = stream_rows(recipe, find_files(settled.folder, names, "dataset.path"))
    training = passages(rows, sources.format)
    yield from leak_findings(recipe, settled.folder, sources.format, usual, training)


def _padding(prepared: Prepared, machine: Machine) -> Padding:
    recipe = prepared.settled.recipe
    limit = recipe.objective.max_seq_length
    lengths = [sequence.length for sequence in prepared.train.sequences]
    plan = plan_of(prepared, machine)
    packs = bool(lengths) and "packing" in recipe.objective.key_names() and recipe.peft.capabilities.packing is True
    rows = packed_rows(lengths, limit) if packs else 0
    return padding(lengths, plan.per_device_train_batch_size.value, rows * limit)


def plan_of(prepared: Prepared, machine: Machine) -> Plan:
    """The plan of a training on these rows. Raises `PlanError`."""
    limit = prepared.settled.recipe.objective.max_seq_length
    longest = min(prepared.train.tally.longest, limit)
    usable = None if prepared.train.problems else len(prepared.train.sequences)  # too few because of faults is no news
    facts = DataFacts(train_rows=usable, longest=longest)
    with locating(prepared.settled.loaded):
        return make_plan(prepared.settled, machine, prepared.base, facts)


@dataclass(frozen=True)
class Shown:
    """A row as the model receives it."""

    where: str
    tokens: int
    trained_tokens: int
    pieces: tuple[Piece, ...]
    label: Label | None = None
    """Class, score or labels of the row, if it has any."""
    tags: tuple[tuple[str, str], ...] = ()
    """Words with their tags, without those that were cut off."""
    scored: bool = False
    """True if a head scores the sequence as a whole, and no token of its own is trained."""
    note: str = ""
    """Number or side of the sequence, if the row has several, or the reason why it has none."""


def show_rows(prepared: Prepared, count: int, row: int | None) -> list[Shown]:
    """Return the first training rows, or those with a number in their files, with all their sequences.

    Raises:
        DataError: if there is no such row.
    """
    source = prepared.rows.sources.train
    once = list({id(found): found for found in source.rows}.values())  # mixing may repeat a row
    source = replace(source, rows=once)
    rows = once[:count] if row is None else _numbered(source, row)
    return [shown for chosen in rows for shown in _shown_row(prepared, chosen)]


_NUMBER = re.compile(r"(?::|, row )(\d+)$")
"""End of a row's place, as in `rows.jsonl:17` and `rows.parquet, row 17`."""


def _numbered(source: Source, number: int) -> list[Row]:
    """Return the rows with a number, one per file; the row at that position if each file is one row."""
    places = [_NUMBER.search(row.where) for row in source.rows]
    if not any(places):
        found = list(source.rows[number - 1 : number]) if number > 0 else []
    else:
        found = [row for row, place in zip(source.rows, places, strict=True) if place and int(place[1]) == number]
    if not found:
        for problem in source.left_out:
            if (place := _NUMBER.search(problem.where)) and int(place[1]) == number:
                raise DataError(replace(problem, what=f"left out: {problem.what}"))
        what = f"{len(source.rows):,} rows, from {source.rows[0].where} to {source.rows[-1].where}"
        raise DataError(Problem("--row", f"no row {number}", f"there are {what}"))
    return found


def _shown_row(prepared: Prepared, row: Row) -> list[Shown]:
    """Return the sequences of a row, or one entry with the reason why it has none."""
    encoding, where = _encoding_of(prepared, row), row.where
    sequences = [sequence for sequence in encoding.sequences if sequence.where == where]
    form = row.form or prepared.rows.sources.format
    sides = [side for sequence in sequences for side in sequence.sides()]
    shown = [replace(_shown(side, prepared, form.example(row.values)), note=name) for name, side in sides]
    if len(shown) > 1 and not any(part.note for part in shown):
        shown = [replace(part, note=f"sequence {number} of {len(shown)}") for number, part in enumerate(shown, start=1)]
    return shown or [Shown(where, 0, 0, (), note=_why_not(prepared, encoding, where))]


def _encoding_of(prepared: Prepared, row: Row) -> Encoding:
    """Return the encoding of a row. With several sources it is encoded separately, since formats may differ."""
    if row.form is None:
        return prepared.train
    source = replace(prepared.rows.sources.train, rows=[row])
    return prepared.rows.encode(source, prepared.settled.recipe.objective, row.form)


def _why_not(prepared: Prepared, encoding: Encoding, where: str) -> str:
    for problem in encoding.problems:
        if problem.where == where:
            return str(replace(problem, where=""))
    long = [str(length) for place, length in encoding.tally.too_long if place == where]
    if long:
        limit = prepared.settled.recipe.objective.key("max_seq_length")
        return f"[LEN001] {', '.join(long)} tokens, longer than `{limit}`"
    if where in encoding.tally.noted.rows.get(IDENTICAL, ()):
        return NOTICES[IDENTICAL].what
    return "left out: its answer contains a stop token as text"


def _shown(sequence: Encoded, prepared: Prepared, example: Example) -> Shown:
    tokenizer = prepared.rows.renderer.tokenizer
    scored = prepared.settled.recipe.objective.scores_whole
    trained = [False] * len(sequence.input_ids) if scored or not sequence.trained else sequence.trained
    pieces = pieces_of(sequence.input_ids, trained, tokenizer)
    label = example.label if isinstance(example, Labelled) else None
    tags: tuple[tuple[str, str], ...] = ()
    if isinstance(example, Tagged):
        encoder = WordEncoder(tokenizer, prepared.settled.recipe.objective.max_seq_length)
        tags = tuple((example.words[number], example.tags[number]) for number in encoder.encode(example).first)
    return Shown(sequence.where, len(sequence.input_ids), sum(trained), pieces, label, tags, scored)


@dataclass(frozen=True)
class ModelReport:
    """The adapted model."""

    model: str
    parameters: int
    trainable_parameters: int
    adapter_bytes: int
    modules: dict[str, int]
    """Number of adapted modules by the last part of their names."""
    notes: tuple[str, ...] = ()


def validate_model(loaded: LoadedRecipe, machine: Machine, observer: Observer) -> ModelReport:
    """Add the adapter to a base without weights, check that every target matches, and count trainable parameters.

    Raises:
        LoransError: if the method cannot be used with this base.
    """
    recipe = loaded.recipe
    with locating(loaded):
        base = _find_base(loaded, machine, observer)
        renderer = open_renderer(Settled(loaded, recipe), base)
        find_earlier(recipe, loaded.folder, base, renderer.tokenizer)
        teacher = find_teacher(recipe.objective, [loaded.folder, Path.cwd()], download=True)
        check_teacher(teacher, base, renderer.tokenizer)
        observer.stage("adding the adapter to a base without weights")
        empty = _bare_base(recipe, base)
        kind = type(empty).__name__
        model = add_adapter(empty, recipe.peft.plainly_started(), recipe.task_type, base)
    trainable, modules = trainable_parameters(model), adapted_modules(model)
    far_off = unusual(recipe, base.facts, recipe.training.global_batch_size)
    notes = (*expert_notes(model), *renderer.vocabulary.notes, *far_off)
    return ModelReport(kind, base.facts.parameters, trainable, 4 * trainable, modules, notes)


def _bare_base(recipe: Recipe, base: Base) -> PreTrainedModel:
    """Create the base without weights, or load it for a method whose initialisation needs them."""
    task, trusted = recipe.task_type, recipe.model.trust_remote_code
    if recipe.peft.capabilities.empty_base:
        return empty_base(base, task, trusted)
    return load_base(base, Loading(task, "float32", "cpu", trust_remote_code=trusted, labels=("0", "1")))


@dataclass(frozen=True)
class StepReport:
    """Result of a training step whose adapter was saved and reloaded."""

    loss: float
    trainable_parameters: int


def validate_step(loaded: LoadedRecipe, observer: Observer, noise: libraries.Noise) -> StepReport:
    """Train one step on a few rows in a temporary folder, save the adapter, and reload it.

    Raises:
        InterruptedRunError: if a signal stops it; nothing is left that could be continued.
        LoransError: any other error of `train`.
    """
    with temporary_folder() as folder:
        try:
            result = train(_one_step(loaded, folder / "run"), observer, noise, use_cache=False)
        except InterruptedRunError as error:
            problem = Problem("--step", "stopped before the step was checked; nothing was kept", "repeat the command")
            raise InterruptedRunError(error.signal_number, problem) from None
        noise.detach()
    return StepReport(float(result.metrics["train_loss"]), result.trainable_parameters)


def _one_step(loaded: LoadedRecipe, run: Path) -> LoadedRecipe:
    """Reduce a valid recipe to one step."""
    recipe = loaded.recipe
    few = max(recipe.training.global_batch_size or 0, recipe.objective.rows_for_a_step)
    tables = {
        # Without a warm-up, whose first step has a learning rate of 0 and changes nothing.
        "training": {
            "output_dir": str(run),
            "max_steps": recipe.peft.least_steps,
            "warmup_steps": 0,
        },
        "dataset": {"max_samples": few, "max_eval_samples": 4},
        "evaluation": {"exact_match": False, "before_training": False, "suites": (), "while_training": False},
    }
    recipe = recipe.model_copy(update={"training": recipe.training.without_an_early_end()})
    changed = {name: getattr(recipe, name).model_copy(update=update) for name, update in tables.items()}
    return replace(loaded, recipe=recipe.model_copy(update=changed))
