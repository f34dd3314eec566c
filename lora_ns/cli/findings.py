"""Output of `lorans validate` about rows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lora_ns.cli.problems import COLOURS, Kind
from lora_ns.cli.show import number, print_pairs
from lora_ns.cli.terminal import has_colour, is_terminal, say, say_coloured, say_wrapped, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lora_ns.data.audit import Audit, Finding, PartReport, SourceReport
    from lora_ns.data.base_ranking import BaseRanking
    from lora_ns.services.validate import Shown

MOST_ROWS = 5
"""Largest number of rows to list per finding; `--json` lists all."""


_BAR = 40


_COLOURS = {"trained": "green", "trained special": "bright_green", "context": None, "context special": "bright_black"}


def print_audit(audit: Audit) -> None:
    """Print counts, lengths and padding, then the findings with errors first."""
    sources = [("source", _part(part)) for part in audit.sources]
    print_pairs([*(sources or [("format", audit.format)]), *_source("train", audit.train)])
    if audit.eval:
        print_pairs(_source("eval", audit.eval))
    _print_lengths(audit.train)
    waste = audit.padding
    packed = "" if waste.packed is None else f", {waste.packed:.0%} packed"
    print_pairs([("padding", f"{waste.in_file_order:.0%} in file order, {waste.by_length:.0%} by length{packed}")])
    for note in audit.notes:
        say_wrapped(f"note: {note}", rest="      ")
    _print_findings(audit.findings)


def _print_findings(findings: Sequence[Finding]) -> None:
    """Print findings, errors first."""
    for finding in sorted(findings, key=lambda finding: not finding.error):
        if is_terminal():
            print_by_file(finding)
        else:
            say(_line(finding))


def print_ranking(ranking: BaseRanking) -> None:
    """Print the base's ranking of pairs, and its findings."""
    share = "" if ranking.pairs == ranking.of else f" of {number(ranking.of)}"
    kind = "pairs" if ranking.same_prompt else "pairs, some of answers to different prompts"
    print_pairs(
        [
            ("ranking", f"the base ranks {number(ranking.pairs)}{share} {kind}"),
            ("by token", f"{ranking.by_mean} right, by the mean log-probability of a token"),
            ("by answer", f"{ranking.by_sum} right, by the log-probability of the whole answer"),
        ]
    )
    if ranking.note:
        say_wrapped(f"note: {ranking.note}", rest="      ")
    _print_findings(ranking.findings)


def _print_lengths(report: SourceReport) -> None:
    """Print a histogram of the lengths, or one line if all are in one bin."""
    most = max((count for _, count in report.histogram), default=0)
    if most and most == report.sequences:
        say(f"every sequence has {_only_length(report)} tokens")
        return
    for upper, count in report.histogram:
        bar = f"{'█' * round(_BAR * count / most):<{_BAR}}"
        say_coloured([(f"{upper:>8,} ", None), (bar, "cyan"), (f" {count:,}", None)])


def _only_length(report: SourceReport) -> str:
    if report.tokens == report.longest * report.sequences:
        return number(report.longest)
    width, upper = report.histogram[0][0], next(upper for upper, count in report.histogram if count)
    return f"{number(upper - width + 1)} to {number(min(upper, report.longest))}"


def _source(name: str, report: SourceReport) -> list[tuple[str, str]]:
    # With one label per text there are no trained tokens.
    share = f", {report.trained_tokens / report.tokens:.1%} trained" if report.trained_tokens else ""
    counts = f"{report.name}: {number(report.rows)} rows, {number(report.sequences)} sequences"
    losses = (("left out", report.dropped), ("cut", report.truncated))
    lost = "".join(f", {number(count)} {what}" for what, count in losses if count)
    lengths = f"median {number(report.median)}, longest {number(report.longest)}"
    return [(name, f"{counts}{lost}"), ("tokens", f"{number(report.tokens)}{share}; {lengths}")]


def _part(part: PartReport) -> str:
    aside = f", {number(part.held_out)} set aside" if part.held_out else ""
    times = "" if part.used == part.rows else f", {number(part.used)} trained on"
    return f"{part.name}: {number(part.rows)} rows{times}{aside}; {part.format}"


def print_by_file(finding: Finding) -> None:
    """Print a finding, followed by each file with its rows, and the remedy."""
    kind: Kind = "error" if finding.error else "warning"
    count = f": {_count(finding)}" if finding.rows else ""
    first, *rest = wrapped(f"{kind}: [{finding.code}] {finding.what}{count}", "", "  ")
    say_coloured([(kind, COLOURS[kind]), (first.removeprefix(kind), None)])
    files: dict[str, list[str]] = {}
    for row in finding.rows[:MOST_ROWS]:
        file, place, more = _parted(row)
        files.setdefault(file, []).append(f"{place}{more}")
    left = finding.count - MOST_ROWS
    lines = [f"{file}: {', '.join(rows)}" if file else ", ".join(rows) for file, rows in files.items()]
    lines += [f"and {left:,} more; `--json` lists all"] if left > 0 else []
    below = [line for text in (*lines, finding.remedy) if text for line in wrapped(text, "  ", "    ")]
    for line in (*rest, *below):
        say(line)


_ROW = re.compile(r"(?P<file>\S.*?)(?::(?P<line>\d+)|, (?P<row>row \d+))(?P<more> \(.*\))?")


def _parted(row: str) -> tuple[str, str, str]:
    """Split the name of a row, such as `rows.jsonl:21 (as rows.jsonl:4)`, into file, number and rest."""
    found = _ROW.fullmatch(row)
    if found is None:
        return "", row, ""
    return found["file"], found["row"] or f"line {found['line']}", found["more"] or ""


def _count(finding: Finding) -> str:
    return "1 row" if finding.count == 1 else f"{finding.count:,} rows"


def _line(finding: Finding) -> str:
    rows = ", ".join(finding.rows[:MOST_ROWS])
    more = f" and {finding.count - MOST_ROWS:,} more" if finding.count > MOST_ROWS else ""
    remedy = f" ({finding.remedy})" if finding.remedy else ""
    kind = "error" if finding.error else "warning"
    if not finding.rows:
        return f"{kind}: [{finding.code}] {finding.what}{remedy}"
    return f"{kind}: [{finding.code}] {finding.what}: {_count(finding)}: {rows}{more}{remedy}"


def print_row(shown: Shown, ids: bool) -> None:
    """Print a row as the model receives it, with trained tokens in colour, or between « and » without a terminal."""
    if not shown.pieces:
        say(f"{shown.where}: not used for training: {shown.note}\n")
        return
    part = f", {shown.note}" if shown.note else ""
    say(f"{shown.where}: {shown.tokens} tokens, {_what_is_learned(shown)}{part}")
    if ids:
        for piece in shown.pieces:
            text = (piece.text, _COLOURS[piece.kind]) if has_colour() else (repr(piece.text), None)
            ids_of_piece = (f"  {' '.join(map(str, piece.ids))}", None)
            say_coloured([(f"  {piece.kind:<16} ", None), text, ids_of_piece], is_row=True)
    elif has_colour():
        say_coloured(((piece.text, _COLOURS[piece.kind]) for piece in shown.pieces), is_row=True)
    else:
        say_coloured([(_marked(shown), None)], is_row=True)
    say()


def _what_is_learned(shown: Shown) -> str:
    """Describe the class, score, labels or tags of a row, or the number of its trained tokens."""
    if shown.scored:
        return "scored as a whole"
    if shown.tags:
        return f"{len(shown.tags)} words with a tag: {' '.join(f'{word}/{tag}' for word, tag in shown.tags)}"
    if isinstance(shown.label, (list, tuple)):
        named = ", ".join(f"`{name}`" for name in shown.label)
        return f"label{'s' if len(shown.label) > 1 else ''} {named}" if named else "no label"
    if isinstance(shown.label, float):
        return f"score {shown.label:g}"
    return f"class `{shown.label}`" if shown.label is not None else f"{shown.trained_tokens} trained"


def _marked(shown: Shown) -> str:
    text, open_ = [], False
    for piece in shown.pieces:
        learned = piece.kind.startswith("trained")
        if learned != open_:
            text.append("«" if learned else "»")
            open_ = learned
        text.append(piece.text)
    return "".join(text) + ("»" if open_ else "")
