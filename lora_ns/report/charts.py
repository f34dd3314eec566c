"""The plots of a run's report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from lora_ns.report.curves import Curves, Series, noise, speed, thin
from lora_ns.report.facts import Facts
from lora_ns.report.plots import Band, Cells, Layer, Level, Line, Plot, Points, Tone
from lora_ns.report.predictions import MOST_CLASSES, Predictions
from lora_ns.statistics.interval import wilson

POINTS = 600
"""Points of a line: more than a screen shows."""


SHARES = ("accuracy", "exact_match", "subset_accuracy", "rewards/accuracies")
"""Metrics that are shares of the evaluation rows, so that their interval is known."""


_TOGETHER: Sequence[tuple[str, str, Sequence[str], str]] = (
    ("rewards", "Rewards of chosen and rejected answers", ("rewards/chosen", "rewards/rejected"), "reward"),
    ("margin", "Margin of chosen over rejected", ("rewards/margins", "margin"), "margin"),
    ("pairs", "Pairs ranked right", ("rewards/accuracies",), "share"),
    ("log-probabilities", "Log-probabilities of both answers", ("logps/chosen", "logps/rejected"), "nats"),
    ("reward", "Reward", ("reward",), "reward"),
    ("kl", "KL divergence from the reference", ("kl",), "nats"),
    ("lengths", "Length of completions", ("completions/mean_length", "completions/max_length"), "tokens"),
    ("entropy", "Entropy", ("entropy",), "nats"),
    ("no-signal", "Prompts without signal", ("frac_reward_zero_std",), "share"),
)
"""Key, title, series and unit of the plots of preference and reward runs."""


_TONES: Sequence[Tone] = ("accent", "second", "third", "fourth")


def curve_plots(facts: Facts) -> Iterator[Plot]:
    """Yield the curves of training: the loss, and what the hardware and the optimizer did."""
    curves = facts.curves
    evaluated = _evaluated(curves["eval_loss"], ends=curves.ends("eval_loss"))
    if layers := [*_trained("training", curves["loss"]), *evaluated]:
        yield Plot("loss", "Loss", _trend("The training loss", curves["loss"], curves["eval_loss"]), layers)
    yield from _figures(facts)
    single = (
        ("learning-rate", "Learning rate", curves["learning_rate"], ""),
        ("gradient-norm", "Gradient norm", curves["grad_norm"], ""),
        ("speed", "Tokens per second", speed(curves), "tokens/s"),
    )
    for key, title, series, unit in single:
        if len(series.finite) > 1:
            is_log = key == "gradient-norm" and _spans_decades(series)
            whole = None if key == "gradient-norm" else (0.0, 1.15 * max(*series.finite.values, 1e-12))
            text, layers = _trend(title, series), _plain(title, series)
            yield Plot(key, title, text, layers, y_label=unit, is_log=is_log, y_range=whole)
    yield from _memory(facts)


def objective_plots(curves: Curves, rows: int = 0) -> Iterator[Plot]:
    """Yield what matters to preference and reward runs, of training and of so many evaluation rows."""
    if not any(name in curves for name in ("rewards/margins", "reward", "margin", "rewards/chosen")):
        return
    for key, title, names, unit in _TOGETHER:
        layers: list[Layer] = []
        for name, tone in zip(names, _TONES, strict=False):
            label = name.rpartition("/")[2].replace("_", " ") if len(names) > 1 else ""
            layers += _trained(label or "training", curves[name], tone)
            series = curves[f"eval_{name}"]
            ends = _share_intervals(name, series.finite, rows)
            layers += _evaluated(series, f"{label} evaluation".strip(), tone if label else "second", ends)
        if layers:
            first = curves[next(name for name in names if curves[name] or curves[f"eval_{name}"])]
            whole = (0.0, 1.03) if unit == "share" else None
            yield Plot(key, title, _trend(title, first), layers, y_label=unit, y_range=whole)


def prediction_plots(predictions: Predictions) -> Iterator[Plot]:
    """Yield where a run with labels is wrong: confusion matrix and calibration of classes, a scatter of scores."""
    found = predictions
    if found.kind == "regression":
        expected, predicted = _chosen(found.expected), _chosen(found.predicted)
        ends = [min(*expected, *predicted), max(*expected, *predicted)]
        layers: list[Layer] = [
            Line(ends, ends, "equal", "muted", is_dashed=True),
            Points(expected, predicted, "evaluation rows", "accent", size=3.5),
        ]
        text = f"{len(expected):,} evaluation rows, root mean square error {found.mean_error or 0:.3g}"
        yield Plot("scatter", "Predicted and expected scores", text, layers, "expected", "predicted")
    if found.kind == "single_label_classification" and len(found.labels) <= MOST_CLASSES:
        right = sum(one.right for one in found.classes)
        text = f"{right:,} of {len(found.expected):,} evaluation rows are on the diagonal"
        cells = Cells(found.labels, found.confusion)
        yield Plot("confusion", "Confusion matrix", text, [cells], "predicted", "expected")
    if bins := found.bins:
        points = Points(
            [one.confidence for one in bins],
            [one.right for one in bins],
            "evaluation rows",
            "accent",
            [one.interval[0] for one in bins],
            [one.interval[1] for one in bins],
        )
        text = f"expected calibration error {found.calibration_error or 0:.3f}"
        diagonal = Line([0, 1], [0, 1], "calibrated", "muted", is_dashed=True)
        yield Plot(
            "calibration", "Calibration", text, [diagonal, points], "confidence", "share right", y_range=(0, 1.03)
        )


def all_plots(facts: Facts) -> list[Plot]:
    """All plots of a run in the order of its report."""
    predicted = prediction_plots(facts.predictions) if facts.predictions else ()
    return [*curve_plots(facts), *objective_plots(facts.curves, facts.eval_rows), *predicted]


def _chosen(values: Sequence[float]) -> list[float]:
    """At most 1,500 of the values, evenly spread."""
    return list(values[:: math.ceil(len(values) / 1500)])


def _figures(facts: Facts) -> Iterator[Plot]:
    """The figures of the evaluation rows that the objective shows, with intervals where they are shares."""
    objective = facts.manifest.recipe.objective
    rows = facts.eval_rows if objective.answers != "tags" else 0  # shares of tags are shares of words
    shown: Mapping[str, str] = {**objective.shows, "exact_match": "exact match"}
    for name, label in shown.items():
        series = facts.curves[f"eval_{name}"].finite
        known = any(name in names for _, _, names, _ in _TOGETHER)
        if not len(series) or known:
            continue
        low, high = _share_intervals(name, series, rows)
        layers: list[Layer] = [
            Line(series.steps, series.values, tone="second", is_faint=True),
            Points(series.steps, series.values, "evaluation rows", "second", low, high),
        ]
        constant = facts.manifest.metrics.get(f"baseline/eval_{name}")
        if isinstance(constant, (int, float)):
            layers.append(Level(constant, "a constant answer"))
        title = label[:1].upper() + label[1:]
        key = f"figure-{''.join(letter if letter.isalnum() else '-' for letter in name.lower() if letter.isascii())}"
        yield Plot(key, title, _trend(title, series), layers)


def _share_intervals(name: str, series: Series, rows: int) -> tuple[list[float], list[float]]:
    if name not in SHARES or not rows or not all(0 <= value <= 1 for value in series.values):
        return [], []
    found = [wilson(value, rows) for value in series.values]
    return [one.low for one in found], [one.high for one in found]


def _memory(facts: Facts) -> Iterator[Plot]:
    series = facts.curves["memory_bytes"].finite
    if not len(series):
        return
    planned = facts.manifest.plan.memory_bytes.value
    used = Series(series.steps, [value / 1e9 for value in series.values])
    layers: list[Layer] = [*_plain("peak so far", used)]
    text = f"At most {max(used.values):.2f} GB"
    if planned:
        layers.append(Level(planned / 1e9, "planned", "second"))
        text += f"; planned {planned / 1e9:.2f} GB"
    yield Plot("memory", "Peak memory", text, layers, y_label="GB", y_range=(0, _roof(used, planned)))


def _roof(used: Series, planned: int | None) -> float:
    return 1.15 * max(*used.values, (planned or 0) / 1e9, 1e-3)


def _plain(label: str, series: Series) -> list[Layer]:
    kept = thin(series, POINTS)
    return [Line(kept.steps, kept.values, label if label == "peak so far" else "")]


def _trained(label: str, series: Series, tone: Tone = "accent") -> list[Layer]:
    """The logged values, their moving mean and the band that holds 95 % of them."""
    if not len(series):
        return []
    kept, smooth = thin(series, POINTS), noise(series)
    if smooth is None:
        return [Line(kept.steps, kept.values, label, tone)]
    floor = 0.0 if min(series.finite.values) >= 0 else -math.inf  # a loss that was never negative has no such noise
    return [
        Band(smooth.steps, [max(floor, low) for low in smooth.low], smooth.high, tone=tone),
        Line(kept.steps, kept.values, tone=tone, is_faint=True),
        Line(smooth.steps, smooth.middle, label, tone),
    ]


def _evaluated(
    series: Series,
    label: str = "evaluation",
    tone: Tone = "second",
    ends: tuple[Sequence[float | None], Sequence[float | None]] = ((), ()),
) -> list[Layer]:
    """The values of evaluations, with the ends of their intervals where these are known."""
    found = series.finite
    if not len(found):
        return []
    line = [Line(found.steps, found.values, tone=tone, is_faint=True)] if len(found) > 1 else []
    return [*line, Points(found.steps, found.values, label, tone, *ends)]


def _spans_decades(series: Series) -> bool:
    values = [value for value in series.finite.values if value > 0]
    return len(values) == len(series) and max(values) > 100 * min(values)


def _trend(name: str, series: Series, evaluated: Series | None = None) -> str:
    """A plot in a sentence."""
    found = series.finite
    told = (
        f"{name} goes from {found.values[0]:.3g} at step {found.steps[0]:,} to {found.values[-1]:.3g} at step "
        f"{found.steps[-1]:,}"
        if len(found)
        else f"{name} was not logged"
    )
    if evaluated is not None and len(evaluated.finite):
        told += f"; the evaluation loss from {evaluated.finite.values[0]:.3g} to {evaluated.finite.last:.3g}"
    return told
