"""Output of `lorans import --check`, as text and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_ns.services.import_check.check import ImportCheck, NumberPair
    from lora_ns.services.import_check.rates import RateReport
    from lora_ns.services.import_check.rows import Compared, Side


def checked_lines(check: ImportCheck) -> Iterator[str]:
    """Yield the lines of the report: settings with differences marked, learning rates, rows, and the verdict."""
    from lora_ns.services.import_check.rates import RateReport
    from lora_ns.services.import_check.rows import Compared

    yield f"  {'':<{_NAME}}{check.tool:<{_VALUE}}this recipe"
    for pair in check.numbers:
        yield from _number(pair)
    yield ""
    rates, rows = check.rates, check.rows
    text = _rates(check.tool, rates) if isinstance(rates, RateReport) else f"not compared: {rates}"
    yield from _wrapped("learning rate", text)
    yield from _rows(rows) if isinstance(rows, Compared) else _wrapped("rows", f"not compared: {rows}")
    yield ""
    if check.is_different:
        yield f"check failed: this recipe differs from {check.tool}, as shown above"
    elif check.is_proven:
        yield f"check passed: this recipe trains as {check.tool} does"
    else:
        yield "check incomplete: no difference found, but not everything was compared"


_NAME, _VALUE, _WIDTH = 19, 26, 80


def _number(pair: NumberPair) -> Iterator[str]:
    mark = " " if pair.is_equal else "!"
    theirs, ours = _shown(pair.theirs), _shown(pair.ours)
    if len(theirs) < _VALUE and len(ours) <= _WIDTH - _VALUE - _NAME - 2:
        yield f"{mark} {pair.name:<{_NAME}}{theirs:<{_VALUE}}{ours}"
    else:
        indent = " " * (_NAME + 2)
        yield from _lines(f"{mark} {pair.name:<{_NAME}}{theirs}", indent)
        yield from _lines(f"{indent}{ours}", indent)
    if pair.why:
        yield from _lines(f"    {pair.why}", "    ")


def _shown(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _rates(tool: str, rates: RateReport) -> str:
    note = f" ({rates.note})" if rates.note else ""
    steps = f"{rates.steps:,} steps"
    if rates.is_equal:
        return f"equal in all {steps}{note}"
    at = f"{tool} {rates.theirs:.3g}, this recipe {rates.ours:.3g}"
    return f"differs by up to {rates.largest:.2g} in {steps}; at step {rates.at:,}: {at}{note}"


def _rows(rows: Compared) -> Iterator[str]:
    same, total = len(rows.pairs) - len(rows.different), len(rows.pairs)
    theirs, ours = (sum(side.count for side in sides) for sides in _sides(rows))
    trained = f"both train on {theirs:,} tokens"
    if theirs != ours:
        trained = f"{rows.tool} trains on {theirs:,} tokens, this recipe on {ours:,}"
    left_out = f"; both leave out {rows.left_out:,} of them" if rows.left_out else ""
    yield from _wrapped("rows", f"{same:,} of {total:,} have equal tokens and labels{left_out}; {trained}")
    for pair in rows.different[:_FIRST]:
        place = "" if pair.where.endswith(f"{pair.number}") else f"{pair.where}: "
        yield from _lines(f"    {place}{pair.difference}", "      ")
    if len(rows.different) > _FIRST:
        yield f"    and {len(rows.different) - _FIRST:,} more"


_FIRST = 3
"""Maximum number of differing rows to show."""


def _sides(rows: Compared) -> tuple[list[Side], list[Side]]:
    return [pair.theirs for pair in rows.pairs], [pair.ours for pair in rows.pairs]


def _wrapped(name: str, text: str) -> Iterator[str]:
    yield from _lines(f"{name}: {text}", "  ")


def _lines(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, drop_whitespace=True, break_long_words=False, break_on_hyphens=False
    )


def checked_plain(check: ImportCheck) -> dict[str, Any]:
    """Convert the result for `--json`, with token ids and labels of every row."""
    from lora_ns.services.import_check.rates import RateReport
    from lora_ns.services.import_check.rows import Compared

    rates, rows = check.rates, check.rows
    return {
        "same": check.is_proven,
        "different": check.is_different,
        "numbers": [{**asdict(pair), "same": pair.is_equal} for pair in check.numbers],
        "rates": _plain_rates(rates) if isinstance(rates, RateReport) else {"not_compared": rates},
        "rows": _plain_rows(rows) if isinstance(rows, Compared) else {"not_compared": rows},
    }


def _plain_rates(rates: RateReport) -> dict[str, Any]:
    return {**asdict(rates), "same": rates.is_equal}


def _plain_rows(rows: Compared) -> dict[str, Any]:
    return {
        "compared": len(rows.pairs),
        "same": len(rows.pairs) - len(rows.different),
        "left_out_by_both": rows.left_out,
        "rows": [
            {
                "row": pair.number,
                "where": pair.where,
                "same": not pair.difference,
                "difference": pair.difference,
                "theirs": _plain_side(pair.theirs),
                "ours": _plain_side(pair.ours),
            }
            for pair in rows.pairs
        ],
    }


def _plain_side(side: Side) -> dict[str, Any]:
    return {
        "trained_tokens": side.count,
        "left_out": side.left_out,
        "sequences": [{"input_ids": one.ids, "labels": one.labels} for one in side.sequences],
    }
