"""`lorans adapter`: check, inspect and compare adapter folders."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli import complete
from lora_ns.cli.options import AsJson
from lora_ns.cli.problems import part_command
from lora_ns.cli.results import draw_panel, show_result
from lora_ns.cli.show import number, print_json
from lora_ns.cli.terminal import is_terminal, say, say_coloured, say_wrapped

if TYPE_CHECKING:
    from lora_ns.readers import Finding
    from lora_ns.services.check_adapter import AdapterCheck
    from lora_ns.services.diff_adapters import AdapterDiff
    from lora_ns.services.inspect_adapter import AdapterFacts

AdapterPath = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Folder with an adapter_config.json, or a run.",
        show_default=False,
        autocompletion=complete.adapter_folders,
    ),
]


_WORDS = {"refused": "refused", "wrong": "read wrongly", "right": "read right"}


_COLOURS = {"refused": "red", "wrong": "red", "right": "green"}


def check(
    folder: AdapterPath,
    readers: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="READER",
            help="Program that is to read it: vllm, llama.cpp, ollama, transformers or peft. Repeat it for more; "
            "default: all.",
            show_default=False,
            autocompletion=complete.readers,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the programs that load adapters make of an adapter folder, with figures.

    Exit code 1 if one of them refuses it or reads another model than was trained. No weights of the base are needed.
    """
    from lora_ns.services.check_adapter import check_adapter

    result = check_adapter(folder, readers or ())
    if as_json:
        print_json({"is_read_right": result.is_read_right, **asdict(result)})
    else:
        _show_check(result)
    if not result.is_read_right:
        raise typer.Exit(1)


def inspect(folder: AdapterPath, as_json: AsJson = False) -> None:
    """Show the method, the scale, the size and the norms of an adapter, by kind of layer."""
    from lora_ns.services.inspect_adapter import inspect_adapter

    result = inspect_adapter(folder)
    if as_json:
        print_json(result)
    else:
        _show_facts(result)


def diff(
    first: AdapterPath,
    second: Annotated[
        Path,
        typer.Argument(
            metavar="OTHER",
            help="Folder to compare it with, or a run.",
            show_default=False,
            autocompletion=complete.adapter_folders,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Compare two adapters: configuration, layers, and how far their updates of the base differ.

    Exit code 1 if they differ.
    """
    from lora_ns.services.diff_adapters import diff_adapters

    result = diff_adapters(first, second)
    if as_json:
        print_json(result)
    else:
        _show_diff(result)
    if not result.is_equal:
        raise typer.Exit(1)


def _show_check(result: AdapterCheck) -> None:
    """Print the faults of the folder, then each reader with its findings."""
    for fault in result.faults:
        word, colour = ("note", None) if fault.severity == "right" else ("fault", "red")
        _say_finding(fault, (f"{word}: ", colour))
    for reading in result.readings:
        say_coloured([(f"{reading.title}: ", None), (_WORDS[reading.verdict], _COLOURS[reading.verdict])])
        for finding in reading.findings:
            mark = "  - " if finding.severity == "right" else "  ! "
            _say_finding(finding, (mark, None if finding.severity == "right" else "red"))


def _say_finding(finding: Finding, head: tuple[str, str | None]) -> None:
    """Print a finding after a coloured mark, and below it the remedy with its command alone on a line."""
    mark, colour = head
    say_wrapped(finding.what, mark, "    ", (mark, colour or ""))
    text, command = part_command(finding.remedy)
    if text:
        say_wrapped(text, "    ", "    ")
    if command:
        say_coloured([(f"      {command}", "cyan")])


def _show_facts(facts: AdapterFacts) -> None:
    show_result("adapter", _facts(facts))
    rows = [("layers", "number", "rank", "scale", "parameters", "norm", "largest")]
    for group in facts.groups:
        shown = ("-" if group.rank is None else str(group.rank), number(group.scale), f"{group.parameters:,}")
        rows.append((group.kind, str(group.layers), *shown, f"{group.norm:.4g}", f"{group.largest:.4g}"))
    _say_table(rows)


def _facts(facts: AdapterFacts) -> Iterator[tuple[str, str]]:
    """Yield the facts that are not about a kind of layer."""
    version = f", saved by PEFT {facts.peft_version}" if facts.peft_version else ""
    yield "adapter", facts.adapter
    yield "type", f"{facts.peft_type}{' with DoRA' if facts.use_dora else ''}, {facts.task_type or 'no task'}{version}"
    yield "base", (facts.base or "not named") + (f", revision {facts.revision}" if facts.revision else "")
    if facts.r is not None and facts.lora_alpha is not None:
        formula = "lora_alpha / sqrt(r)" if facts.use_rslora else "lora_alpha / r"
        yield "rank and alpha", f"r {facts.r}, lora_alpha {facts.lora_alpha:g}; scale = {formula}"
    if facts.initialisation:
        yield "initialisation", facts.initialisation
    dtypes = ", ".join(f"{count:,} in {dtype}" for dtype, count in facts.dtypes.items())
    yield "parameters", dtypes or "none"
    yield "size", f"{facts.size / 1e6:,.2f} MB"
    yield "norm of the update" if facts.peft_type == "LORA" else "norm of the tensors", f"{facts.norm:.4g}"
    if facts.modules_to_save:
        yield "trained in full", ", ".join(facts.modules_to_save)
    if facts.other_tensors:
        yield "other tensors", number(facts.other_tensors)
    files = [*facts.tokenizer_files, *(["chat_template.jinja"] if facts.has_chat_template else [])]
    yield "tokenizer", ", ".join(files) or "no files"
    if facts.run:
        yield "run", facts.run


def _show_diff(result: AdapterDiff) -> None:
    for one in result.config:
        say_wrapped(f"{one.field}: {_value(one.first)} -> {_value(one.second)}", rest="    ", head=(one.field, "cyan"))
    for side, names in ((result.first, result.only_first), (result.second, result.only_second)):
        if names:
            more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
            say_wrapped(f"only in {shlex.quote(side)}: {', '.join(names[:_MOST])}{more}", rest="    ")
    rows = [("layers", "number", "difference", "cosine")]
    for group in result.groups:
        rows.append((group.kind, str(group.layers), _share(group.difference), _cosine(group.cosine)))
    if result.groups:
        rows.append(("all", str(sum(group.layers for group in result.groups)), _share(result.difference),
                     _cosine(result.cosine)))  # fmt: skip
    _say_table(rows)
    say("equal" if result.is_equal else "different")


_MOST = 5
"""Maximum number of layers to list; `--json` has all."""


def _value(value: object) -> str:
    return "absent" if value is None else str(value)


def _share(difference: float | None) -> str:
    return "-" if difference is None else f"{difference:.2e}"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def _say_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns: a panel on a terminal, aligned text elsewhere; numbers are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        (row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)))
        for row in rows
    ]
    if is_terminal():
        draw_panel("by kind of layer", (list(zip(row, ("bold", *[""] * len(row[1:])), strict=True)) for row in aligned))
        return
    for row in aligned:
        say("  ".join(row))
