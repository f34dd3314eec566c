"""The items of an evaluation that are in the training rows of its run."""

from __future__ import annotations

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
from lora_ns.run.manifest import Manifest
from lora_ns.services.evaluate_suites import Answered
from lora_ns.suites import Gold
from lora_ns.training.prepared import folders_of


def compare_with_training(answered: Sequence[Answered], opened: Opened) -> tuple[list[Answered], list[str]]:
    """Look for the items of suites in the training rows of a run.

    Returns:
        The answers with what was found for each item, and a note if the rows that were read are not those of the run.
    """
    if not answered:
        return [], []
    manifest = opened.manifest
    asked = [(one.suite, [_row(one, gold) for gold in one.golds]) for one in answered]
    try:
        training = _rows_of_run(manifest)
        found, notes = leaked_items(asked, format_of(manifest), training), []
    except LoransError as error:
        why = f"the training rows of the run cannot be read ({error.problems[0]})"
        try:
            found = leaked_items(asked, format_of(manifest), _prepared_rows(opened))
            kept = "first rows of the stream" if manifest.recipe.dataset.streaming else "prepared rows"
            notes = [f"{why}; long runs of words of the suites were looked for in the {kept} that the run keeps"]
        except ValueError:
            return list(answered), [f"{why}, so it is not known which items of the suites are among them"]
    return [replace(one, overlaps=overlaps) for one, overlaps in zip(answered, found, strict=True)], notes


def _row(answered: Answered, gold: Gold) -> Row:
    """The row of an item; one of another library as its question and answer."""
    if answered.suite.asks == "itself":
        return Row(gold.where, {"question": gold.question, "answer": gold.answer})
    return Row(gold.where, gold.values)


def _rows_of_run(manifest: Manifest) -> Passages:
    """The rows that a run was trained on, read again. Raises `LoransError` if they are gone or others."""
    recipe, record, folder = manifest.recipe, manifest.data.train, folders_of(manifest)[0]
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


def _prepared_rows(opened: Opened) -> Iterator[tuple[str, Sequence[Dialogue]]]:
    """Yield the rows of the run directory as text again. Raises `ValueError` if they are gone."""
    rows = saved_rows(opened.run.data / "train")
    names = [name for name in ("input_ids", "rejected_input_ids") if name in rows.column_names]
    for number, row in enumerate(rows, start=1):
        yield (
            f"prepared row {number}",
            [(Turn(str(opened.tokenizer.decode(row[name], skip_special_tokens=True))),) for name in names],
        )
