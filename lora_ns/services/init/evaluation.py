"""The evaluation rows of a new recipe: those of a file beside, or a share that goes by the number of rows."""

from __future__ import annotations

from typing import Any

from lora_ns.data.sample import Sample, look_at_files
from lora_ns.errors import LoransError
from lora_ns.formats import RowFaultError
from lora_ns.formats.readings import Reading
from lora_ns.model.files import ASSETS, PACKAGED
from lora_ns.services.init.draft import Draft

_ROWS = ("eval_path", "eval_fraction")


def evaluation_keys(draft: Draft, sample: Sample, reading: Reading) -> dict[str, Any]:
    """The keys of `[dataset]` that name the evaluation rows; the reason goes into the draft."""
    if any(key in draft.settled for key in _ROWS):
        return {}
    file = sample.evaluation
    if file and _has_known_labels(draft, sample, reading):
        draft.reasons.append(f"evaluation rows: {file.name}, which is beside the training rows and has their columns")
        if str(draft.wanted.data).startswith(PACKAGED):
            return {"eval_path": f"{PACKAGED}{file.relative_to(ASSETS)}"}
        return {"eval_path": draft.wanted.from_folder(str(file))}
    fraction = eval_fraction(sample.count)
    if not fraction:
        draft.reasons.append("evaluation rows: none, because there are fewer than ten rows")
        return {}
    count = max(1, round(fraction * sample.count))
    told = f"{count:,} of {sample.count:,}" if sample.is_all else f"{fraction:.1%}"
    draft.reasons.append(f"evaluation rows: {told}, drawn from the training rows")
    return {"eval_fraction": fraction}


def eval_fraction(rows: int) -> float:
    """The share of rows to set aside: a tenth of a few, a twentieth of some, about a thousand of many."""
    if rows < 10:
        return 0.0
    if rows < 400:
        return 0.1
    return 0.05 if rows <= 20_000 else float(f"{1000 / rows:.0e}")


def _has_known_labels(draft: Draft, sample: Sample, reading: Reading) -> bool:
    """Whether the file beside can be read, and has no class that the training rows do not have: -1 of GLUE, for one."""
    asked = {**sample.keys, **draft.asked, "eval_fraction": 0.0}
    try:
        rows = look_at_files(str(sample.evaluation), asked).rows
        answers = {reading.form.answer(row.values) for row in rows} if reading.label else set()
    except (LoransError, RowFaultError):
        return False
    if reading.label is None or reading.label.problem_type != "single_label_classification":
        return True
    return answers <= set(reading.label.names)


def drop_what_is_missing(draft: Draft, sample: Sample) -> None:
    """Leave out what a recipe that was named evaluates, as far as the rows do not have it."""
    evaluation = dict(draft.tables.get("evaluation", {}))
    group = evaluation.get("group_by")
    if group and not any(group in row.values for row in sample.rows):
        del evaluation["group_by"]
        draft.reasons.append(f"`evaluation.group_by`: left out, because the rows have no column `{group}`")
    if evaluation.get("exact_match") and not any(key in {**draft.tables["dataset"], **draft.settled} for key in _ROWS):
        evaluation.clear()
        draft.reasons.append("`[evaluation]`: left out, because there are no evaluation rows")
    draft.tables["evaluation"] = evaluation
