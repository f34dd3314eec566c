"""The items of an evaluation that are in the training rows of its run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lora_ns.answers.opened import Opened, format_of
from lora_ns.data.contamination import Dialogue, Turn
from lora_ns.data.prepared import saved_rows
from lora_ns.data.rows import Row
from lora_ns.data.sources import read_sources
from lora_ns.data.stream import check_stream, stream_rows
from lora_ns.data.suite_leaks import Passages, leaked_items, passages
from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.hub_cache import is_dataset_cached
from lora_ns.files.reading import is_folder
from lora_ns.objectives import Classification
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest
from lora_ns.services.evaluate_suites import Answered
from lora_ns.suites import Gold
from lora_ns.training.prepared import folders_of


def compare_with_training(answered: Sequence[Answered], opened: Opened) -> tuple[list[Answered], list[str]]:
    """Look for the items of suites in the training rows of a run and of the runs that it started from.

    Returns:
        The answers with what was found for each item, and a note if rows that were read are not those of the runs.
    """
    if not answered:
        return [], []
    manifest, form = opened.manifest, format_of(opened.manifest)
    asked = [(one.suite, [_row(one, gold) for gold in one.golds]) for one in answered]
    earlier, notes = _rows_of_earlier(manifest)
    try:
        found = leaked_items(asked, form, itertools.chain(_rows_of_run(manifest), *earlier))
    except LoransError as error:
        why = f"the training rows of the run cannot be read ({error.problems[0]})"
        try:
            found = leaked_items(asked, form, itertools.chain(_prepared_rows(opened), *earlier))
        except ValueError:
            return list(answered), [f"{why}, so it is not known which items of the suites are among them"]
        kept = "first rows of the stream" if manifest.recipe.dataset.streaming else "prepared rows"
        looked = f"long runs of words of the suites were looked for in the {kept} that the run keeps"
        notes = [f"{why}; {looked}", *notes]
    return [replace(one, overlaps=overlaps) for one, overlaps in zip(answered, found, strict=True)], notes


def _row(answered: Answered, gold: Gold) -> Row:
    """The row of an item; one of another library as its question and answer."""
    if answered.suite.asks == "itself":
        return Row(gold.where, {"question": gold.question, "answer": gold.answer})
    return Row(gold.where, gold.values)


def _rows_of_run(manifest: Manifest) -> Passages:
    """The rows that a run was trained on, read again. Raises `LoransError` if they are gone or others."""
    recipe, record, folder = _with_problem_type(manifest), manifest.data.train, folders_of(manifest)[0]
    for table in recipe.dataset.parts().values():
        name = table.name
        if not table.path and name and not is_folder(Path(name)) and not is_dataset_cached(name):
            raise UsageError(Problem(name, "is not in the cache of datasets"))
    if recipe.dataset.streaming:
        if not record.files:
            raise UsageError(Problem(record.source, "is a stream from the hub"))
        check_stream(recipe.dataset, record)
        return passages(stream_rows(recipe, [Path(file.path) for file in record.files]), format_of(manifest))
    sources = read_sources(recipe, folder)
    if sources.train.sha256 != record.sha256:
        raise UsageError(Problem(sources.train.name, "has other rows than the run was trained on"))
    return passages({id(row): row for row in sources.train.rows}.values(), sources.format)


def _with_problem_type(manifest: Manifest) -> Recipe:
    """The recipe of a run with the kind of label that was found in its rows: the record gives all keys a value."""
    recipe = manifest.recipe
    if not isinstance(recipe.objective, Classification) or manifest.problem_type is None:
        return recipe
    found = recipe.objective.model_copy(update={"problem_type": manifest.problem_type})
    return recipe.model_copy(update={"objective": found})


def _rows_of_earlier(manifest: Manifest) -> tuple[list[Passages], list[str]]:
    """The training rows of the runs whose adapters a run started from, and a note for each that cannot be read."""
    found: list[Passages] = []
    notes: list[str] = []
    start = [manifest.init_adapter] if manifest.init_adapter else []
    for record in (*manifest.base_adapters, *start):
        try:
            earlier = RunDir.open(Path(record.run)).read()
            if earlier.run_id != record.run_id:
                raise UsageError(Problem(record.run, "is another run now"))
            found.append(_rows_of_run(earlier))
        except LoransError as error:
            why = f"its rows cannot be read ({error.problems[0]})"
            notes.append(f"{record.run}, whose adapter this run started from: {why}, and were not searched for items")
        else:
            before, lacking = _rows_of_earlier(earlier)
            found += before
            notes += lacking
    return found, notes


def _prepared_rows(opened: Opened) -> Iterator[tuple[str, Sequence[Dialogue]]]:
    """Yield the rows of the run directory as text again. Raises `ValueError` if they are gone."""
    rows = saved_rows(opened.run.data / "train")
    names = [name for name in ("input_ids", "rejected_input_ids") if name in rows.column_names]
    for number, row in enumerate(rows, start=1):
        yield (
            f"prepared row {number}",
            [(Turn(str(opened.tokenizer.decode(row[name], skip_special_tokens=True))),) for name in names],
        )
