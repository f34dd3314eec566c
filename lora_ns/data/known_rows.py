"""Facts about the rows of a recipe that need no download and no tokenisation: counts, or why they are unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lora_ns.data.columns import refuse_unused
from lora_ns.data.files.paths import missing_files
from lora_ns.data.source import Source, selection_of
from lora_ns.data.sources import format_and_reason, notes, read_part, read_sources
from lora_ns.errors import Problem
from lora_ns.files.hub_cache import cached_split_rows, is_dataset_cached
from lora_ns.files.reading import is_folder
from lora_ns.formats import Format, LabelledCompletion, Preference
from lora_ns.plan.plan import DataFacts
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.recipe import Recipe

EVAL_PATH = "dataset.eval_path"


def known_facts(recipe: Recipe, folder: Path) -> DataFacts:
    """Count the rows before a run: by reading files, and from the hub cache for datasets on the hub.

    The number of packed rows is unknown until they are tokenised.

    Raises:
        DataError: if existing files cannot be read, as in training.
    """
    problems = missing_files(recipe, folder)
    missing = {problem.key: problem for problem in problems}
    parts = recipe.dataset.parts()
    texts = tuple(map(str, problems))
    if not any(f"{key}.path" in missing or not part.path for key, part in parts.items()):
        facts = _of_files(recipe, folder, missing.get(EVAL_PATH))
        return replace(facts, notes=(*texts, *facts.notes))
    if not recipe.dataset.sources and recipe.dataset.name and not recipe.dataset.streaming:
        facts = _of_hub(recipe)
    else:
        key, part = next((key, part) for key, part in parts.items() if f"{key}.path" in missing or not part.path)
        before = f"{key}: " if len(parts) > 1 else ""
        facts = DataFacts(why=f"{before}{_why_unknown(part, missing.get(f'{key}.path'))}")
    return replace(_with_evaluation(facts, recipe, folder, missing.get(EVAL_PATH)), notes=texts)


def _of_files(recipe: Recipe, folder: Path, no_evaluation: Problem | None) -> DataFacts:
    """Read the rows of files, without rendering them."""
    if no_evaluation:
        without = recipe.dataset.model_copy(update={"eval_path": None})
        recipe = recipe.model_copy(update={"dataset": without})
    sources = read_sources(recipe, folder)
    refuse_unused(sources)
    name, format_why = format_and_reason(sources)
    count, packs = _sequences(recipe, sources.train, sources.format), recipe.objective.packs
    facts = DataFacts(
        train_rows=None if packs or sources.is_stream else count,
        eval_rows=_sequences(recipe, sources.eval, sources.format) if sources.eval else 0,
        why=_packed(count) if packs else _counted(count, len(sources.train.rows)),
        notes=tuple(notes(sources)),
        format=name,
        format_why=format_why,
    )
    return replace(facts, eval_rows=None, eval_why=no_evaluation.what) if no_evaluation else facts


def _sequences(recipe: Recipe, source: Source, form: Format) -> int:
    """The number of rows that are trained on: an objective of labelled answers makes two of a pair."""
    if LabelledCompletion not in recipe.objective.examples:
        return len(source.rows)
    return sum(2 if Preference in (row.form or form).makes else 1 for row in source.rows)


def _counted(count: int, rows: int) -> str:
    return "rows of the files" if count == rows else f"answers in {rows:,} rows of the files"


def _of_hub(recipe: Recipe) -> DataFacts:
    """Count the rows of a hub dataset from the cache."""
    data = recipe.dataset
    count = _cached_rows(data, data.train_split)
    if count is None:
        return DataFacts(why=_why_unknown(data))
    count = len(selection_of(data).of(count, str(data.name)))
    aside = max(1, round(data.eval_fraction * count)) if data.eval_fraction else 0
    if recipe.objective.packs:
        return DataFacts(why=_packed(count - aside), eval_rows=_fewest(data, aside))
    return DataFacts(count - aside, _fewest(data, aside), why="rows of the cached dataset")


def _packed(rows: int) -> str:
    return f"known once {rows:,} rows are tokenised and packed"


def _fewest(data: Dataset, count: int) -> int | None:
    """Return the number of evaluation rows from the training rows, up to `max_eval_samples`; None if 0."""
    return min(count, data.max_eval_samples or count) or None


def _cached_rows(data: Dataset, split: str) -> int | None:
    name = str(data.name)
    return None if is_folder(Path(name)) else cached_split_rows(name, data.subset, split)


def _with_evaluation(facts: DataFacts, recipe: Recipe, folder: Path, missing: Problem | None) -> DataFacts:
    """Add the number of separate evaluation rows, or the reason why it is unknown."""
    data = recipe.dataset
    if missing:
        return replace(facts, eval_why=missing.what)
    if data.eval_path:
        return replace(facts, eval_rows=len(read_part(folder, data, for_evaluation=True)[1].rows))
    if data.eval_split:
        count = _cached_rows(data, data.eval_split)
        rows = None if count is None else len(selection_of(data, for_evaluation=True).of(count, str(data.name)))
        return replace(facts, eval_rows=rows, eval_why=_why_unknown(data))
    if data.eval_fraction and facts.eval_rows is None:
        why = f"{data.eval_fraction:g} of the training rows, known once they are counted"
        return replace(facts, eval_why=why)
    return facts


def _why_unknown(table: Dataset, missing: Problem | None = None) -> str:
    """Explain why the number of rows of a source is unknown."""
    if missing:
        return missing.what
    if is_folder(Path(str(table.name))):
        return f"known once `datasets` reads the folder `{table.name}`"
    if is_dataset_cached(str(table.name)):
        return f"known once `{table.name}` is read from the cache"
    return f"known once `{table.name}` is downloaded"
