"""Choice of the evaluation rows: a file beside the training file, or a fraction of the training rows."""

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
    """Return the keys of `[dataset]` for the evaluation rows, and add the reason to the draft."""
    if any(key in draft.settled for key in _ROWS):
        return {}
    file = sample.evaluation
    if file and _has_known_labels(draft, sample, reading):
        draft.reasons.append(f"evaluation rows: {file.name}, which has the same columns as the training file beside it")
        if str(draft.wanted.data).startswith(PACKAGED):
            return {"eval_path": f"{PACKAGED}{file.relative_to(ASSETS)}"}
        return {"eval_path": draft.wanted.from_folder(str(file))}
    fraction = eval_fraction(sample.count)
    if not fraction:
        draft.reasons.append("evaluation rows: none, because the file has fewer than 10 rows")
        return {}
    count = max(1, round(fraction * sample.count))
    share = f"{count:,} of {sample.count:,}" if sample.is_all else f"{fraction:.1%}"
    draft.reasons.append(f"evaluation rows: {share}, drawn from the training rows")
    return {"eval_fraction": fraction}


def eval_fraction(rows: int) -> float:
    """Return the fraction of rows for evaluation: 10 % below 400 rows, 5 % up to 20,000, then about 1,000 rows."""
    if rows < 10:
        return 0.0
    if rows < 400:
        return 0.1
    return 0.05 if rows <= 20_000 else float(f"{1000 / rows:.0e}")


def _has_known_labels(draft: Draft, sample: Sample, reading: Reading) -> bool:
    """True if the evaluation file is readable and has no unknown class, such as the -1 of GLUE's test files."""
    given = {**sample.keys, **draft.given, "eval_fraction": 0.0}
    try:
        rows = look_at_files(str(sample.evaluation), given).rows
        answers = {reading.form.answer(row.values) for row in rows} if reading.label else set()
    except (LoransError, RowFaultError):
        return False
    if reading.label is None or reading.label.problem_type != "single_label_classification":
        return True
    return answers <= set(reading.label.names)


def drop_what_is_missing(draft: Draft, sample: Sample) -> None:
    """Remove keys of the starting recipe's `[evaluation]` that do not fit the rows."""
    evaluation = dict(draft.tables.get("evaluation", {}))
    group = evaluation.get("group_by")
    if group and not any(group in row.values for row in sample.rows):
        del evaluation["group_by"]
        draft.reasons.append(f"`evaluation.group_by`: left out, because the rows have no column `{group}`")
    if evaluation.get("exact_match") and not any(key in {**draft.tables["dataset"], **draft.settled} for key in _ROWS):
        evaluation.clear()
        draft.reasons.append("`[evaluation]`: left out, because there are no evaluation rows")
    draft.tables["evaluation"] = evaluation
