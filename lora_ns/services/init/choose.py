"""Choice of the format and task of the rows: the most likely that the base can learn, or the one asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lora_ns.data.sample import Sample
from lora_ns.errors import DataError, Problem, UsageError
from lora_ns.formats import RowFaultError
from lora_ns.formats.cells import listed
from lora_ns.formats.readings import LIKELY, POSSIBLE, SURE, Reading, find_readings, read_as
from lora_ns.services.init.base import check_objective
from lora_ns.services.init.draft import Draft
from lora_ns.services.init.objective import ALL, Kinds, allowed_objectives, learns_preferences, objective_for, task_of
from lora_ns.services.init.question import Ask, Question, as_option

MOST_NAMED = 20
"""Largest number of labels that the recipe lists. Otherwise training collects them from the rows."""

_LONGEST = 80
"""Length up to which label names are shown."""


def choose_reading(draft: Draft, sample: Sample, ask: Ask) -> Reading:
    """Choose how to read the rows.

    Raises:
        UsageError: if there is no way, or a question has no answer.
    """
    data, kinds = str(draft.wanted.data), allowed_objectives(draft)
    if draft.wanted.objective and (learns_preferences(kinds[0]) or kinds[0].generates):
        reading = _asked(draft, sample, kinds)
        check_objective(draft, kinds[0])
        return _without_lost(data, reading, ask)
    found = _readings(draft, sample)
    fitting = [(reading, kind) for reading in found if (kind := objective_for(reading, kinds))]
    if not fitting:
        raise UsageError(_fits_none(draft, kinds, found))
    is_limited = draft.base is not None and not draft.base.writes_text
    able = [reading for reading, kind in fitting if not (is_limited and kind.answers == "text")]
    if not able:
        check_objective(draft, fitting[0][1])
    is_settled = len({kind.task_type for kind in kinds}) == 1 or (len(able) < len(fitting) and _has_classes(able[0]))
    reading = _of_several(data, able, kinds, is_settled, ask)
    return _without_lost(data, _with_preferences(data, reading, ask), ask)


def _asked(draft: Draft, sample: Sample, kinds: Kinds) -> Reading:
    """Read the rows for the objective that is asked for. Raises `UsageError`."""
    try:
        return read_as([row.values for row in sample.rows], draft.settled, kinds[0].examples)
    except RowFaultError as fault:
        what = f"the rows of {draft.wanted.data} do not fit [{draft.wanted.objective}]: {fault.what}"
        raise UsageError(Problem("--objective", what, fault.remedy or "choose another objective")) from None


def _fits_none(draft: Draft, kinds: Kinds, found: Sequence[Reading]) -> Problem:
    """The problem that no objective that is asked for trains on the rows."""
    wanted, tasks = draft.wanted, " or ".join(dict.fromkeys(task_of(reading) for reading in found))
    if wanted.objective:
        fitting = [f"[{kind.toml}]" for kind in ALL if any(reading.makes(kind.examples) for reading in found)]
        remedy = f"they fit {' or '.join(dict.fromkeys(fitting))}"
        return Problem("--objective", f"the rows of {wanted.data} do not fit [{wanted.objective}]", remedy)
    if wanted.task:
        return Problem("--task", f"the rows of {wanted.data} do not fit {wanted.task}", f"they fit {tasks}")
    what = f"`{wanted.start}` is a recipe for {kinds[0].task_type}, but the rows of {wanted.data} fit {tasks}"
    return Problem("--recipe", what, "leave out `--recipe`, or choose another one")


def _readings(draft: Draft, sample: Sample) -> list[Reading]:
    """Find the ways to read the rows; keys of the recipe that do not fit are left out. Raises `DataError`."""
    rows = [row.values for row in sample.rows]
    try:
        try:
            return find_readings(rows, draft.given)
        except RowFaultError as fault:
            if not draft.kept:
                raise
            found = find_readings(rows, draft.settled)
            draft.reasons.append(
                f"{listed(list(draft.kept))} of `{draft.wanted.start}`: left out, because {fault.what}"
            )
            draft.kept.clear()
            return found
    except RowFaultError as fault:
        remedy = f"{fault.remedy}; here, use `--set dataset.KEY=VALUE`" if fault.remedy else ""
        raise DataError(Problem(str(draft.wanted.data), fault.what, remedy)) from None


def _has_classes(reading: Reading) -> bool:
    return reading.label is not None and reading.label.weight >= LIKELY


def _of_several(data: str, able: Sequence[Reading], kinds: Kinds, is_settled: bool, ask: Ask) -> Reading:
    """Choose one of several readings. Raises `UsageError`."""
    best = able[0]
    rivals = [reading for reading in able if reading.weight >= POSSIBLE] or [best]
    is_alone = task_of(best, kinds) not in [task_of(other, kinds) for other in rivals if other is not best]
    if best.weight == SURE or best.prefers or (is_settled and is_alone) or (rivals == [best] and best.weight == LIKELY):
        return best
    if len(rivals) == 1:
        text = f"{data}: {because(best)}; is this what the model should learn?"
        remedy = _asking_for(best, rivals, kinds)
        if ask(Question(text, (f"yes, {task_of(best, kinds)}", "no, stop"), remedy)):
            raise UsageError(Problem("", text, remedy))
        return best
    options = tuple(f"{task_of(reading, kinds)}: {because(reading)}" for reading in rivals)
    remedy = " or ".join(dict.fromkeys(_asking_for(reading, rivals, kinds) for reading in rivals))
    text = f"{data}: there are several ways to read the rows"
    return rivals[ask(Question(text, options, remedy, best.weight == LIKELY))]


def _asking_for(reading: Reading, rivals: Sequence[Reading], kinds: Kinds) -> str:
    """Return the command line option that selects one of several readings."""
    task = task_of(reading, kinds)
    if sum(task_of(other, kinds) == task for other in rivals) == 1:
        return f"`--task {task}`"
    key = "columns" if "columns" in reading.keys else "format"
    return f"`{as_option(key, reading.keys[key])}`"


def _with_preferences(data: str, reading: Reading, ask: Ask) -> Reading:
    """Ask before training on rows with good and bad answers. Raises `UsageError`."""
    if not reading.prefers:
        return reading
    text = f"{data}: columns {listed(reading.prefers)} hold good and bad answers, in a form that no objective reads"
    what = f"train on `{reading.prefers[0]}` only" if len(reading.prefers) > 1 else "train on all rows, good and bad"
    remedy = f"{what}: `{' '.join(as_option(key, value) for key, value in reading.keys.items())}`"
    if ask(Question(text, ("stop", what), remedy)) == 0:
        raise UsageError(Problem("", text, remedy))
    return reading


def _without_lost(data: str, reading: Reading, ask: Ask) -> Reading:
    """Ask before leaving out columns that look important. Raises `UsageError`."""
    if not reading.lost:
        return reading
    ignored = [*reading.keys.get("ignore_columns", ()), *reading.lost]
    text = f"{data}: `{reading.form.name}` does not read {listed(reading.lost)}, so the model would not learn it"
    remedy = (
        f"leave it out with `{as_option('ignore_columns', ignored)}`, or map columns with `--set dataset.columns=...`"
    )
    if ask(Question(text, ("stop", "leave it out"), remedy)) == 0:
        raise UsageError(Problem("", text, remedy))
    return replace(reading, keys={**reading.keys, "ignore_columns": ignored}, lost=())


def because(reading: Reading) -> str:
    """Explain the choice of the task."""
    if reading.label is None:
        starts = {
            "column": "the rows have the ",
            "`format": "the recipe says ",
            "templates": "the columns of the rows fill the ",
        }
        return next(
            (start + reading.why for sign, start in starts.items() if reading.why.startswith(sign)), reading.why
        )
    names = reading.label.names
    listed_names = ", ".join(names)
    shown = f" ({listed_names})" if names and len(listed_names) <= _LONGEST else ""
    texts = [reading.keys[key] for key in ("text_column", "text_pair_column") if key in reading.keys]
    return f"{reading.label.why}{shown}, for the text of {listed(texts)}"
