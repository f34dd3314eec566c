"""The way in which the rows of a new recipe are read: the likeliest that its base can learn, or the one asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lora_ns.data.sample import Sample
from lora_ns.errors import DataError, Problem, UsageError
from lora_ns.formats import TEXT, RowFaultError
from lora_ns.formats.cells import listed
from lora_ns.formats.readings import LIKELY, POSSIBLE, SURE, Reading, find_readings
from lora_ns.objectives import OBJECTIVES
from lora_ns.services.init.base import check_task
from lora_ns.services.init.draft import Draft
from lora_ns.services.init.question import Ask, Question, as_option

MOST_NAMED = 20
"""Labels that are named; more are found in the rows."""

_LONGEST = 80
"""Characters of the names that are shown."""


def choose_reading(draft: Draft, sample: Sample, ask: Ask) -> Reading:
    """The way to read the rows.

    Raises:
        UsageError: if there is none, or what is open is not answered.
    """
    data, wanted = str(draft.wanted.data), draft.wanted
    found = _readings(draft, sample)
    task = wanted.task or (draft.tables["task_type"] if wanted.start and wanted.start != "template" else None)
    fitting = [reading for reading in found if task in (None, task_of(reading))]
    if not fitting:
        raise UsageError(_no_such_task(draft, str(task), found))
    is_limited = draft.base is not None and not draft.base.writes_text
    able = [reading for reading in fitting if not (is_limited and reading.makes(TEXT))]
    if not able:
        check_task(draft, task_of(fitting[0]))
    is_told = task is not None or (len(able) < len(fitting) and _has_classes(able[0]))
    reading = _of_several(data, able, is_told, ask)
    return _without_lost(data, _with_preferences(data, reading, ask), ask)


def _no_such_task(draft: Draft, task: str, found: Sequence[Reading]) -> Problem:
    wanted, tasks = draft.wanted, " or ".join(dict.fromkeys(task_of(reading) for reading in found))
    if wanted.task:
        return Problem("--task", f"the rows of {wanted.data} are not those of {task}", f"they fit {tasks}")
    what = f"`{wanted.start}` is for {task}, and the rows of {wanted.data} are those of {tasks}"
    return Problem("--recipe", what, "leave `--recipe` out, or name another")


def _readings(draft: Draft, sample: Sample) -> list[Reading]:
    """The ways to read the rows; keys of the recipe that do not fit them are left out. Raises `DataError`."""
    rows = [row.values for row in sample.rows]
    try:
        try:
            return find_readings(rows, draft.asked)
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
        remedy = f"{fault.remedy}; `--set dataset.KEY=VALUE` says it here" if fault.remedy else ""
        raise DataError(Problem(str(draft.wanted.data), fault.what, remedy)) from None


def _has_classes(reading: Reading) -> bool:
    return reading.label is not None and reading.label.weight >= LIKELY


def _of_several(data: str, able: Sequence[Reading], is_told: bool, ask: Ask) -> Reading:
    """The one of several readings that is meant. Raises `UsageError`."""
    best = able[0]
    rivals = [reading for reading in able if reading.weight >= POSSIBLE] or [best]
    is_alone = task_of(best) not in [task_of(other) for other in rivals if other is not best]
    if best.weight == SURE or best.prefers or (is_told and is_alone) or (rivals == [best] and best.weight == LIKELY):
        return best
    if len(rivals) == 1:
        text = f"{data}: {because(best)}: is that what is to be learned?"
        remedy = _asking_for(best, rivals)
        if ask(Question(text, (f"yes: {task_of(best)}", "no: stop"), remedy)):
            raise UsageError(Problem("", text, remedy))
        return best
    options = tuple(f"{task_of(reading)}: {because(reading)}" for reading in rivals)
    remedy = " or ".join(dict.fromkeys(_asking_for(reading, rivals) for reading in rivals))
    text = f"{data}: the rows can be read in several ways"
    return rivals[ask(Question(text, options, remedy, best.weight == LIKELY))]


def _asking_for(reading: Reading, rivals: Sequence[Reading]) -> str:
    """The option of the command line that asks for one of several readings."""
    task = task_of(reading)
    if sum(task_of(other) == task for other in rivals) == 1:
        return f"`--task {task}`"
    key = "columns" if "columns" in reading.keys else "format"
    return f"`{as_option(key, reading.keys[key])}`"


def _with_preferences(data: str, reading: Reading, ask: Ask) -> Reading:
    """Rows with good and bad answers, of which only what the user wants is learned. Raises `UsageError`."""
    if not reading.prefers:
        return reading
    text = f"{data}: columns {listed(reading.prefers)}: these are preference rows, which this version does not train on"
    what = f"learn from `{reading.prefers[0]}` alone" if len(reading.prefers) > 1 else "learn from all, good and bad"
    remedy = f"{what}: `{' '.join(as_option(key, value) for key, value in reading.keys.items())}`"
    if ask(Question(text, ("stop", what), remedy)) == 0:
        raise UsageError(Problem("", text, remedy))
    return reading


def _without_lost(data: str, reading: Reading, ask: Ask) -> Reading:
    """The reading, once it is said that what it leaves out is not to be learned. Raises `UsageError`."""
    if not reading.lost:
        return reading
    ignored = [*reading.keys.get("ignore_columns", ()), *reading.lost]
    text = f"{data}: `{reading.form.name}` does not read {listed(reading.lost)}, which would not be learned"
    remedy = f"`{as_option('ignore_columns', ignored)}` leaves it out; `--set dataset.columns=...` names what is read"
    if ask(Question(text, ("stop", "leave it out"), remedy)) == 0:
        raise UsageError(Problem("", text, remedy))
    return replace(reading, keys={**reading.keys, "ignore_columns": ignored}, lost=())


def task_of(reading: Reading) -> str:
    """PEFT's name of the task that learns such rows."""
    return next(kind.task_type for kind in OBJECTIVES.values() if reading.makes(kind.examples))


def because(reading: Reading) -> str:
    """The reason for the task."""
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
