"""Evaluation of a preference run: the trainer's own loss and metrics on pairs, with an interval for the accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from lora_ns.objectives.calibration import calibration
from lora_ns.objectives.frozen_start import FrozenStart
from lora_ns.recipe.distributed import OneProcess
from lora_ns.services.evaluate_suites import ADAPTER_NAME, BASE_NAME, Answered
from lora_ns.services.measured import Measured
from lora_ns.suites import Gold
from lora_ns.suites.pairs import PairSuite
from lora_ns.training.trainer import make_trainer

ACCURACIES = ("rewards/accuracies", "accuracy")
"""Names of the share of pairs that a model ranks right."""

LIKELIER = "logps/accuracies"
"""Share of pairs whose preferred answer is likelier than the rejected one, whatever the objective."""

START_NAME = "start"
"""Name of an adapter from which training started."""

_PREFERRED = ("chosen", "desirable")
"""Names of the preferred side."""


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


def evaluate_pairs(trained: Trained, encoding: Encoding, start: FrozenStart | None = None) -> Measured:
    """Measure a preference run on encoded rows.

    Args:
        trained: the run, with its weights.
        encoding: the encoded rows.
        start: the reference, if it is not the base without the adapter.
    """
    recipe = trained.manifest.recipe
    in_order = recipe.training.model_copy(update={"group_by_length": False})
    alone = recipe.model_copy(update={"distributed": OneProcess(), "training": in_order})
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
    truncated = encoding.tally.truncated
    if not alone.objective.writes_text:
        margins = trainer.eval_margins
        answered = _answered("accuracy", [pair.where for pair in encoding.sequences], {ADAPTER_NAME: margins})
        return Measured(metrics, truncated, (answered,), calibration=calibration(margins))
    margins_by_system = _margins(trained, encoding.sequences, start)
    if not margins_by_system:
        return Measured(metrics, truncated)
    wheres = [chosen.where for chosen, _ in _sides(encoding.sequences)]
    shares = {name: sum(one > 0 for one in of) / len(of) for name, of in margins_by_system.items()}
    metrics |= {f"before/{LIKELIER}": share for name, share in shares.items() if name != ADAPTER_NAME}
    metrics |= _with_interval(LIKELIER, shares[ADAPTER_NAME], len(wheres))
    reference = START_NAME if start else BASE_NAME
    return Measured(metrics, truncated, (_answered(LIKELIER, wheres, margins_by_system),), reference)


def _answered(figure: str, wheres: Sequence[str], margins: Mapping[str, Sequence[float]]) -> Answered:
    """The margins of pairs, as answers to be compared."""
    return Answered(PairSuite(figure=figure), [Gold(where, None) for where in wheres], margins)


def _with_interval(name: str, share: float, count: int) -> dict[str, float]:
    """A share of pairs with its 95 % interval."""
    lowest, highest = wilson_interval(share, count)
    return {name: share, f"{name} from": lowest, f"{name} to": highest}


def _margins(trained: Trained, sequences: Sequence[Encoded], start: FrozenStart | None) -> dict[str, list[float]]:
    """For each pair, by how much its preferred answer is likelier, by the run and by the start of training.

    Labelled answers have no such margins, unless they come from pairs. The start is measured if it is known: a start of
    its own, or the base if the adapter started as it.
    """
    pairs = _sides(sequences)
    if not pairs:
        return {}
    found = {ADAPTER_NAME: _margins_now(trained, pairs)}
    method = trained.manifest.recipe.peft
    if start is None and (trained.manifest.init_adapter is not None or method.starts_later):
        return found
    if start is None and method.capabilities.starts_at_base is not True:
        return found
    with start.in_place() if start else trained.model.disable_adapter():
        return {**found, START_NAME if start else BASE_NAME: _margins_now(trained, pairs)}


def _sides(sequences: Sequence[Encoded]) -> list[tuple[Encoded, Encoded]]:
    """The preferred and the rejected sequence of every row that has both."""
    rows: dict[str, dict[bool, Encoded]] = {}
    for sequence in sequences:
        for name, side in sequence.sides():
            rows.setdefault(sequence.where, {})[name in _PREFERRED] = side
    return [(row[True], row[False]) for row in rows.values() if len(row) == 2]


def _margins_now(trained: Trained, pairs: Sequence[tuple[Encoded, Encoded]]) -> list[float]:
    """The log-probability of each preferred answer minus that of the rejected one, summed over their tokens."""
    trained.model.eval()
    dtype = trained.manifest.plan.dtype.value

    def loss(side: Encoded) -> float:
        return sequence_loss(trained.model, side.input_ids, side.row()["labels"], dtype)[0]

    return [loss(rejected) - loss(chosen) for chosen, rejected in pairs]
