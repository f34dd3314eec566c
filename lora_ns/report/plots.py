"""Plots, drawn by matplotlib: as SVG in a page, whose colours are the page's variables, and as PNG or SVG files."""

from __future__ import annotations

import io
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lora_ns.errors import MissingError, Problem
from lora_ns.files.disk import write_atomic
from lora_ns.report.page import LIGHT, escape
from lora_ns.safety.printable import printable

WIDTH, HEIGHT = 6.1, 3.3
"""Inches of 72 points: at the width of a phone, the text is still 10 pixels high."""


Tone = Literal["accent", "second", "third", "fourth", "good", "bad", "muted", "ink"]
"""Role of a colour, as in `page.LIGHT`."""


@dataclass(frozen=True)
class Line:
    """A line through points; NaN and infinity interrupt it."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    tone: Tone = "accent"
    is_faint: bool = False
    is_dashed: bool = False


@dataclass(frozen=True)
class Band:
    """The area between two lines."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    label: str = ""
    tone: Tone = "accent"


@dataclass(frozen=True)
class Points:
    """Points, each with an interval if one is known."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    tone: Tone = "second"
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    size: float = 5.0


@dataclass(frozen=True)
class Level:
    """A horizontal line, such as a plan or a constant answer."""

    y: float
    label: str
    tone: Tone = "muted"


@dataclass(frozen=True)
class Cells:
    """A table of counts: the darker a cell, the larger its share of the row."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    """Rows are expected, columns are predicted."""


Layer = Line | Band | Points | Level | Cells


@dataclass(frozen=True)
class Plot:
    """A plot, independent of how it is drawn."""

    key: str
    """Short name for files and ids, of small letters, digits and `-`."""
    title: str
    alternative: str
    """The plot in a sentence, for readers who do not see it."""
    layers: Sequence[Layer]
    x_label: str = "step"
    y_label: str = ""
    is_log: bool = False
    """True for a logarithmic y axis."""
    y_range: tuple[float, float] | None = None
    is_log_x: bool = False
    """True for a logarithmic x axis."""


_SENTINELS: Mapping[str, str] = {role: f"#0{place:x}0c0d" for place, role in enumerate(LIGHT, start=1)}
"""Colours that no plot has otherwise; each becomes a variable of the page."""


_DRAWING = threading.Lock()
"""matplotlib's settings belong to the whole process."""


def svg(plot: Plot) -> str:
    """Return a plot as an `<svg>` element for a page with the style of `page.STYLE`. Its ids begin with its key."""
    text = _drawn(plot, _SENTINELS, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id=")', rf"\g<1>{plot.key}-", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{plot.key}-", text)
    for role, colour in _SENTINELS.items():
        text = text.replace(colour, f"var(--{role})")
    text = text.replace("font-family: 'DejaVu Sans'", "font-family: system-ui, sans-serif")
    opening = f'<svg role="img" aria-labelledby="{plot.key}-name" xmlns="http://www.w3.org/2000/svg"'
    box = re.search(r'viewBox="[^"]*"', text)
    name = f'<title id="{plot.key}-name">{escape(plot.title)}: {escape(plot.alternative)}</title>'
    inside = text[text.index(">") + 1 :].strip()
    xlink = ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"{opening}{xlink} {box.group(0) if box else ''}>{name}{inside}"


def write(plot: Plot, file: Path) -> None:
    """Write a plot to a file, in light colours, as PNG or SVG by the suffix of its name. Raises `LoransError`."""
    write_atomic(file, _drawn(plot, LIGHT, file.suffix[1:]))


def _drawn(plot: Plot, colours: Mapping[str, str], kind: str) -> bytes:
    """A plot as a file. Raises `MissingError` without matplotlib."""
    if find_spec("matplotlib") is None:
        raise MissingError(Problem("", "plots need `matplotlib`, which is not installed", "`pip install matplotlib`"))
    with _DRAWING:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        with matplotlib.rc_context(_settings(colours, plot.key)):
            figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
            (FigureCanvasSVG if kind == "svg" else FigureCanvasAgg)(figure)
            _draw(figure.add_subplot(), plot, colours)
            made = io.BytesIO()
            details = {"metadata": {"Date": None, "Creator": None}} if kind == "svg" else {"dpi": 160}
            figure.savefig(made, format=kind, **details)
            return made.getvalue()


def _settings(colours: Mapping[str, str], salt: str) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "axes.formatter.useoffset": False,
        "text.parse_math": False,
        "font.size": 11,
        "font.family": ["DejaVu Sans"],
        "text.color": colours["ink"],
        "axes.edgecolor": colours["line"],
        "axes.labelcolor": colours["muted"],
        "axes.facecolor": "none",
        "figure.facecolor": "none" if colours is _SENTINELS else colours["surface"],
        "savefig.facecolor": "auto",
        "xtick.color": colours["line"],
        "ytick.color": colours["line"],
        "xtick.labelcolor": colours["muted"],
        "ytick.labelcolor": colours["muted"],
        "grid.color": colours["line"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 13,
        "axes.titleweight": "bold",
        "legend.frameon": False,
        "legend.fontsize": 10,
    }


def _draw(axes: Any, plot: Plot, colours: Mapping[str, str]) -> None:
    axes.set_title(printable(plot.title))
    axes.set_xlabel(printable(plot.x_label))
    axes.set_ylabel(printable(plot.y_label))
    if plot.is_log:
        axes.set_yscale("log")
    if plot.is_log_x:
        axes.set_xscale("log")
    axes.grid(visible=True, linewidth=0.6)
    axes.set_axisbelow(True)
    for layer in plot.layers:
        _LAYERS[type(layer)](axes, layer, colours)
    if plot.y_range:
        axes.set_ylim(*plot.y_range)
    if not any(isinstance(layer, Cells) for layer in plot.layers):
        _name_ticks(axes)
    if any(getattr(layer, "label", "") for layer in plot.layers):
        axes.legend(loc="best")


def _name_ticks(axes: Any) -> None:
    """Shorten large numbers on both axes, such as 200k and 1.5G; write those of a logarithmic axis without powers."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter

    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if axis.get_scale() != "linear":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
            continue
        axis.set_major_locator(MaxNLocator(6, integer=axis is axes.xaxis and high - low > 5))
        if max(abs(low), abs(high)) >= 10_000:
            axis.set_major_formatter(EngFormatter(sep=""))


def _line(axes: Any, line: Line, colours: Mapping[str, str]) -> None:
    x, y = _broken(line.x, line.y)
    axes.plot(
        x,
        y,
        color=colours[line.tone],
        label=_label(line.label),
        linewidth=0.7 if line.is_faint else 1.8,
        alpha=0.45 if line.is_faint else 1.0,
        linestyle="--" if line.is_dashed else "-",
        marker="o" if len(y) == 1 else None,
    )


def _broken(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    return list(x), [value if math.isfinite(value) else math.nan for value in y]


def _band(axes: Any, band: Band, colours: Mapping[str, str]) -> None:
    axes.fill_between(
        band.x, band.low, band.high, color=colours[band.tone], alpha=0.18, linewidth=0, label=_label(band.label)
    )


def _points(axes: Any, points: Points, colours: Mapping[str, str]) -> None:
    colour = colours[points.tone]
    shown = {"fmt": "o", "markersize": points.size, "capsize": 3, "linewidth": 1.2}
    gaps = None
    if points.low and points.high:
        ends = list(zip(points.y, points.low, points.high, strict=True))
        below = [0.0 if low is None else max(0.0, value - low) for value, low, _ in ends]
        above = [0.0 if high is None else max(0.0, high - value) for value, _, high in ends]
        gaps = [below, above]
    alpha = 1.0 if len(points.y) < 100 else 0.5
    axes.errorbar(points.x, points.y, gaps, color=colour, label=_label(points.label), alpha=alpha, **shown)


def _level(axes: Any, level: Level, colours: Mapping[str, str]) -> None:
    axes.axhline(level.y, color=colours[level.tone], label=_label(level.label), linewidth=1.2, linestyle="--")


def _cells(axes: Any, cells: Cells, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Rectangle

    count = len(cells.names)
    names = [name if len(name) <= 16 else f"{name[:15]}…" for name in map(printable, cells.names)]
    size = 11 if count <= 6 else max(5, 62 // count)
    for row, counts in enumerate(cells.counts):
        whole = sum(counts) or 1
        for column, value in enumerate(counts):
            tone = "third" if row == column else "second"
            place = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(place, 1, 1, facecolor=colours[tone], alpha=0.75 * value / whole, linewidth=0))
            if value or count <= 6:
                axes.text(column, row, f"{value:,}", ha="center", va="center", fontsize=size)
    axes.set_xticks(range(count), names, rotation=0 if count <= 4 else 40, ha="center" if count <= 4 else "right")
    axes.set_yticks(range(count), names)
    axes.tick_params(labelsize=size)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    axes.grid(visible=False)


def _label(text: str) -> str | None:
    shown = printable(text)
    return shown.lstrip("_") or None  # matplotlib leaves names with an underscore out of the legend


_LAYERS: Mapping[type, Any] = {Line: _line, Band: _band, Points: _points, Level: _level, Cells: _cells}
