"""Choice of the task and of the keys that describe the rows."""

from __future__ import annotations

from collections.abc import MutableMapping

from lora_ns.data.sample import Sample, look_at_files
from lora_ns.errors import DataError, Problem, UsageError
from lora_ns.formats import LabelledCompletion, RawText
from lora_ns.formats.cells import listed
from lora_ns.formats.readings import Reading
from lora_ns.model.files import PACKAGED
from lora_ns.objectives import Objective, TextObjective
from lora_ns.services.init.choose import MOST_NAMED, because, choose_reading
from lora_ns.services.init.draft import Draft
from lora_ns.services.init.evaluation import drop_what_is_missing, evaluation_keys
from lora_ns.services.init.lengths import fit_lengths
from lora_ns.services.init.objective import allowed_objectives, objective_for, select_objective
from lora_ns.services.init.question import Ask
from lora_ns.services.init.text import fit_text


def fit_rows(draft: Draft, ask: Ask) -> None:
    """Write task, format, columns, labels, lengths and evaluation rows according to the rows.

    Raises:
        UsageError: if the rows cannot be read, or do not fit base or recipe.
    """
    wanted = draft.wanted
    sample = _look(draft)
    reading = choose_reading(draft, sample, ask)
    kind = objective_for(reading, allowed_objectives(draft))
    assert kind is not None, "the reading is one that an allowed objective trains on"
    draft.reasons[:0] = [
        f"data: {wanted.data}, {_counted(sample)}",
        *sample.notes,
        f"task: {kind.task_type}, because {because(reading)}",
    ]
    place = wanted.from_folder(str(wanted.data if str(wanted.data).startswith(PACKAGED) else sample.path))
    evaluation = evaluation_keys(draft, sample, reading)
    draft.tables["dataset"] = {"path": place, **evaluation, **sample.keys, **reading.keys}
    drop_what_is_missing(draft, sample)
    own = draft.tables[kind.toml] = {**draft.tables.get(kind.toml, {}), **draft.overrides.get(kind.toml, {})}
    if issubclass(kind, TextObjective):
        fit_text(draft, reading, sample.rows, own)
    else:
        _fit_labels(reading, sample, own)
    fit_lengths(draft, reading, sample, kind, own)
    select_objective(draft, kind, _why(draft, kind, reading))
    _report_unread(draft, sample, reading)


def _why(draft: Draft, kind: type[Objective], reading: Reading) -> str:
    """Explain the choice of the objective."""
    if draft.wanted.objective == kind.toml:
        return "it is asked for"
    if reading.makes((LabelledCompletion,)):
        return "the rows have answers with a label, true or false"
    return "the rows have a preferred and a rejected answer"


def _look(draft: Draft) -> Sample:
    """Read the first rows. Raises `UsageError`."""
    try:
        return look_at_files(str(draft.wanted.data), draft.settled)
    except DataError as error:
        known = [problem for problem in error.problems if problem.key == "--data"]
        if not known:
            raise
        remedy = f"{known[0].remedy}; for a hub dataset, set `name` in `[dataset]` of the recipe"
        raise UsageError(Problem("--data", known[0].what, remedy)) from None


def _counted(sample: Sample) -> str:
    if sample.is_all:
        return f"{sample.count:,} row{'s' * (sample.count != 1)}"
    return f"more than {len(sample.rows):,} rows, of which the first {len(sample.rows):,} were read"


def _fit_labels(reading: Reading, sample: Sample, own: MutableMapping[str, object]) -> None:
    """Write the kind of labels, and their names if they are few and all known."""
    label = reading.label
    if label is None or "problem_type" in own:
        return
    if label.problem_type != "single_label_classification":
        own["problem_type"] = label.problem_type
    is_number = all(name.lstrip("-").isdecimal() for name in label.names)
    if sample.is_all and not is_number and len(label.names) <= MOST_NAMED:
        own.setdefault("labels", list(label.names))


def _report_unread(draft: Draft, sample: Sample, reading: Reading) -> None:
    """Report columns that are not read, and rows that cannot be."""
    if ignored := reading.keys.get("ignore_columns"):
        draft.reasons.append(f"ignored columns: {listed(ignored)}")
    if reading.unread:
        draft.reasons.append(f"unused columns: {listed(reading.unread)}")
    if reading.makes((RawText,)):
        draft.reasons.append("loss: on all tokens of each text")
    if reading.faults:
        number, fault = reading.faults[0]
        text = f"{len(reading.faults):,} of {len(sample.rows):,} rows are invalid"
        draft.reasons.append(f"warning: {text}, the first at {sample.rows[number].where}: {fault.what}")
