"""Compared runs as a page: curves overlaid, figures side by side, and tables of what differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from lora_ns.report import page
from lora_ns.report.curves import Curves, Series, is_end_of_interval, noise, thin
from lora_ns.report.plots import Layer, Line, Plot, Points, Tone, svg
from lora_ns.run import wording
from lora_ns.safety.credentials import scrubbed

if TYPE_CHECKING:
    from lora_ns.run.overview import Overview
    from lora_ns.services.diff_runs import Differing, Measured, RunsDiff

_TONES: tuple[Tone, ...] = ("accent", "second", "third", "fourth", "ink", "muted")


STATUS_TONES: Mapping[str, str] = {
    "running": "plain",
    "started": "plain",
    "finished": "good",
    "failed": "bad",
    "damaged": "bad",
    "killed": "bad",
    "interrupted": "wait",
}
"""Tone of each status, for `page.badge`."""


_FIRST = ("loss", "eval_loss", "reward", "rewards/margins", "rewards/accuracies", "kl", "learning_rate", "grad_norm")


_SKIPPED = ("_runtime", "_per_second", "num_tokens", "num_input_tokens_seen", "total_flos", "train_loss", "padding")


MOST_PLOTS = 10


def compared(diff: RunsDiff) -> str:
    """Return the body of the page, without the heading."""
    parts = [
        page.section(
            "Runs", _runs(diff.names, diff.runs), *(page.paragraph(note) for note in diff.notes), anchor="runs"
        ),
        page.section("Curves", figures(diff.names, diff.curves), anchor="curves"),
        page.section("Figures", _figures(diff.names, diff.metrics), *_verdicts(diff), anchor="figures"),
    ]
    tables = (("Recipe", diff.recipe), ("Data", diff.data), ("Versions", diff.versions), ("Machine", diff.machine))
    parts += [
        page.section(title, _differing(diff.names, rows, title.lower()), anchor=title.lower()) for title, rows in tables
    ]
    return "\n".join(part for part in parts if part)


def document(diff: RunsDiff) -> str:
    """Return a self-contained page, without a script."""
    title = " and ".join(diff.names) if len(diff.names) == 2 else f"{len(diff.names)} runs"
    return page.document(
        f"{title} compared", f"<main>\n<h1>{page.escape(title)} compared</h1>\n{compared(diff)}\n</main>"
    )


def _runs(names: Sequence[str], runs: Sequence[Overview]) -> str:
    """Return the runs as columns, which a phone shows better than nine columns of facts."""
    columns = [wording.cells(run, name) for run, name in zip(runs, names, strict=True)]
    titles = [title for title in wording.TITLES if title not in {"run", "size"}]
    rows = [[title, *(scrubbed(column[title]) for column in columns)] for title in titles]
    return page.table(["run", *map(scrubbed, names)], rows)


# Curves


def figures(names: Sequence[str], curves: Sequence[Curves], prefix: str = "curve") -> str:
    """Return the plots of several runs, overlaid; of a single run, with the band of its noise."""
    plots = [_plot(f"{prefix}-{place}", name, names, curves) for place, name in enumerate(curve_names(curves))]
    return f'<div class="plots">{"".join(f"<figure>{svg(plot)}</figure>" for plot in plots)}</div>' if plots else ""


def curve_names(curves: Sequence[Curves]) -> list[str]:
    """Return the names of the curves that are worth a plot, the most telling first."""
    known = dict.fromkeys(name for one in curves for name in one.series)
    ordered = [*(name for name in _FIRST if name in known), *(name for name in known if name not in _FIRST)]
    ordered = [name for name in ordered if not name.endswith(_SKIPPED) and not is_end_of_interval(name, known)]
    wanted = [name for name in ordered if any(len(one[name].finite) for one in curves)]
    several = [name for name in wanted if any(len(one[name]) > 1 for one in curves)]
    return (several or wanted)[:MOST_PLOTS]


def _plot(key: str, name: str, names: Sequence[str], curves: Sequence[Curves]) -> Plot:
    layers: list[Layer] = []
    told = []
    for (tone, at), (run, one) in zip(enumerate_tones(), zip(names, curves, strict=False), strict=False):
        series = one[name]
        if not len(series.finite):
            continue
        label = run if len(names) > 1 else ""
        layers += _layers(series, label, tone, is_dashed=at >= len(_TONES), is_alone=len(names) == 1)
        told.append(f"{run}: {_moved(series)}")
    return Plot(key, name, "; ".join(told), layers, is_log=_is_wide([one[name] for one in curves]))


_WIDE = 50
"""Ratio of the highest to the lowest value of a curve from which its axis is logarithmic, as when it diverges."""


def _is_wide(series: Sequence[Series]) -> bool:
    """True for positive values of several orders of magnitude. A learning rate starts at 0 and is never drawn so."""
    values = [value for one in series for value in one.finite.values]
    return min(values) > 0 and max(values) > _WIDE * min(values)


def enumerate_tones() -> Iterator[tuple[Tone, int]]:
    """Yield a colour for each run, with its number from 0."""
    yield from ((tone, at) for at, tone in enumerate(cycle(_TONES)))


def _layers(series: Series, label: str, tone: Tone, is_dashed: bool, is_alone: bool) -> list[Layer]:
    """Return the points of few values; of many, their moving mean over a faint line."""
    shown = thin(series)
    if len(series) < 3:
        return [Points(shown.steps, [_drawn(value) for value in shown.values], label, tone)]
    smooth = noise(series) if len(series) >= 40 else None
    if smooth is None:
        return [Line(shown.steps, shown.values, label, tone, is_dashed=is_dashed)]
    faint = [Line(shown.steps, shown.values, "", tone, is_faint=True)] if is_alone else []
    return [*faint, Line(smooth.steps, smooth.middle, label, tone, is_dashed=is_dashed)]


def _drawn(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _moved(series: Series) -> str:
    """Return a curve in words: `from 4.9 to 1.2 in 225 steps`."""
    first, last = series.finite.values[0], series.finite.values[-1]
    if len(series) == 1:
        return f"{wording.number(float(last))} at step {series.steps[-1]:,}"
    return f"from {wording.number(float(first))} to {wording.number(float(last))} at step {series.steps[-1]:,}"


# Tables


def _figures(names: Sequence[str], rows: Sequence[Measured]) -> str:
    cells = [[row.name, *(figure(row, place) for place in range(len(names)))] for row in rows]
    return page.table(["figure", *names], cells, "with 95 % intervals where items were measured")


def figure(row: Measured, place: int) -> str:
    """Write a run's figure with its interval; `-` if it has none."""
    value, ends = row.values[place], row.intervals[place]
    if value is None:
        return "-"
    factor, sign = (100, " %") if row.is_share else (1, "")
    shown = f"{value * factor:.4g}{sign}"
    return shown if ends is None else f"{shown} ({ends[0] * factor:.3g} to {ends[1] * factor:.3g})"


def _verdicts(diff: RunsDiff) -> list[str]:
    return [page.paragraph(told) for told in verdicts(diff)]


def verdicts(diff: RunsDiff) -> list[str]:
    """Return the verdict on each figure of each run against the first, as a sentence."""
    return [
        f"{row.name}, {diff.names[paired.run]} against {diff.names[0]}: {paired.reason}"
        + (f" (on the {paired.items:,} items that both have)" if paired.items < paired.of_items else "")
        for row in diff.metrics
        for paired in row.paired
    ]


def _differing(names: Sequence[str], rows: Sequence[Differing], title: str) -> str:
    if not rows:
        return page.paragraph("no difference", "muted")
    return page.table(["key", *names], [[row.key, *shown_values(row)] for row in rows], f"differences of the {title}")


def shown_values(row: Differing) -> list[str]:
    """Write the values of a row, each with its origin if that is known."""
    origins = row.origins or ("",) * len(row.values)
    return [
        shown_value(value) + (f" ({origin})" if origin and value is not None else "")
        for value, origin in zip(row.values, origins, strict=True)
    ]


LONGEST_VALUE = 200


def shown_value(value: Any) -> str:
    """Write a value of a recipe or a record on one line, without secrets."""
    text = "-" if value is None else scrubbed(str(value).lower() if isinstance(value, bool) else str(value))
    if len(text) == 64 and all(character in "0123456789abcdef" for character in text):
        return text[:12]  # a hash, of which a part tells it from another
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
