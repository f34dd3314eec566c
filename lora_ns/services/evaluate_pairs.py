"""Evaluation of a preference run: the trainer's own loss and metrics on pairs, with an interval for the accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.answers.loss import sequence_loss
from lora_ns.answers.opened import Opened, Trained, format_of
from lora_ns.data.encode import encode, refusals
from lora_ns.data.encoded import Encoded, Encoding, as_dataset
from lora_ns.data.interval import wilson_interval
from lora_ns.data.render import make_renderer
from lora_ns.data.rows import Row
from lora_ns.data.source import Source
from lora_ns.errors import DataError
from lora_ns.files.temporary import temporary_folder
from lora_ns.objectives.calibration import Calibration, calibration
from lora_ns.objectives.frozen_start import FrozenStart
from lora_ns.recipe.distributed import OneProcess
from lora_ns.training.trainer import make_trainer

ACCURACIES = ("rewards/accuracies", "accuracy")
"""Names of the share of pairs that a model ranks right."""

LIKELIER = "logps/accuracies"
"""Share of pairs whose preferred answer is likelier than the rejected one, whatever the objective."""

_PREFERRED = ("chosen", "desirable")
"""Names of the preferred side."""


@dataclass(frozen=True)
class PairMetrics:
    """Metrics of a preference run on pairs."""

    metrics: dict[str, float]
    calibration: Calibration | None = None
    """Calibration of a reward model."""


def encode_pairs(opened: Opened, rows: Sequence[Row]) -> Encoding:
    """Encode the rows of a preference run as in training.

    Raises:
        DataError: names the rows that cannot be read, or are too long.
    """
    manifest = opened.manifest
    objective, source = manifest.recipe.objective, Source(rows[0].where, rows)
    renderer = make_renderer(opened.tokenizer, manifest.stop_token_ids, objective.rendering, opened.vocabulary())
    encoding = encode(source, format_of(manifest), renderer, objective, ())
    if problems := refusals(source, encoding, teaches=False):
        raise DataError(problems)
    return encoding


def evaluate_pairs(trained: Trained, encoding: Encoding, start: FrozenStart | None = None) -> PairMetrics:
    """Measure a preference run on encoded rows.

    Args:
        trained: the run, with its weights.
        encoding: the encoded rows.
        start: the reference, if it is not the base without the adapter.
    """
    alone = trained.manifest.recipe.model_copy(update={"distributed": OneProcess()})
    plan = trained.manifest.plan.model_copy(update={"deepspeed": None})
    pairs = as_dataset(encoding.sequences)
    with temporary_folder() as folder:
        trainer: Any = make_trainer(
            alone, plan, Path(folder), trained.model, trained.tokenizer, (pairs, pairs), [], evaluate_first=False
        )
        if start:
            trainer.ref_model = start
        found = trainer.evaluate()
    skipped = ("_runtime", "_per_second", "num_tokens", "tokens_seen", "epoch")
    metrics = {name.removeprefix("eval_"): value for name, value in found.items() if not name.endswith(skipped)}
    for name in [name for name in ACCURACIES if name in metrics]:
        metrics |= _with_interval(name, metrics[name], len(pairs))
    if alone.objective.writes_text:
        metrics |= _likelier(trained, encoding.sequences, start)
    return PairMetrics(metrics, calibration(trainer.eval_margins) if alone.objective.answers == "score" else None)


def _with_interval(name: str, share: float, count: int) -> dict[str, float]:
    """A share of pairs with its 95 % interval."""
    lowest, highest = wilson_interval(share, count)
    return {name: share, f"{name} from": lowest, f"{name} to": highest}


def _likelier(trained: Trained, sequences: Sequence[Encoded], start: FrozenStart | None) -> dict[str, float]:
    """The share of pairs whose preferred answer is likelier, with its interval, and that of the start of training.

    Labelled answers have no such share, unless they come from pairs. The start is measured if it is known: a start of
    its own, or the base if the adapter started as it.
    """
    pairs = _sides(sequences)
    if not pairs:
        return {}
    found = _with_interval(LIKELIER, _share_likelier(trained, pairs), len(pairs))
    method = trained.manifest.recipe.peft
    if start is None and (trained.manifest.init_adapter is not None or method.starts_later):
        return found
    if start is None and method.capabilities.starts_at_base is not True:
        return found
    with start.in_place() if start else trained.model.disable_adapter():
        return {f"before/{LIKELIER}": _share_likelier(trained, pairs), **found}


def _sides(sequences: Sequence[Encoded]) -> list[tuple[Encoded, Encoded]]:
    """The preferred and the rejected sequence of every row that has both."""
    rows: dict[str, dict[bool, Encoded]] = {}
    for sequence in sequences:
        for name, side in sequence.sides():
            rows.setdefault(sequence.where, {})[name in _PREFERRED] = side
    return [(row[True], row[False]) for row in rows.values() if len(row) == 2]


def _share_likelier(trained: Trained, pairs: Sequence[tuple[Encoded, Encoded]]) -> float:
    """The share of pairs whose preferred answer has the higher log-probability, summed over its tokens."""
    trained.model.eval()
    dtype = trained.manifest.plan.dtype.value

    def loss(side: Encoded) -> float:
        return sequence_loss(trained.model, side.input_ids, side.row()["labels"], dtype)[0]

    return sum(loss(chosen) < loss(rejected) for chosen, rejected in pairs) / len(pairs)
