"""`lorans cache`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from lora_ns.cli.options import AsJson
from lora_ns.cli.results import draw_panel
from lora_ns.cli.show import print_json
from lora_ns.cli.terminal import is_terminal, say, say_wrapped
from lora_ns.data import cache as kept
from lora_ns.files.own_cache import cache_folder


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the tokenised rows that are cached between runs, or remove them."""
    if clear:
        freed = kept.clear()
        if as_json:
            print_json({"freed": freed})
        else:
            say(f"{freed / 1e6:,.1f} MB freed in {cache_folder()}")
        return
    found = kept.entries()
    if as_json:
        print_json({"folder": str(cache_folder()), "entries": [vars(entry) for entry in found]})
        return
    _show(found)


def _show(found: list[kept.Entry]) -> None:
    """Show the entries, a panel on a terminal, and their total."""
    rows = [(entry.key[:12], f"{entry.size / 1e6:10,.1f} MB", f"last used {_time(entry)}") for entry in found]
    if not is_terminal():
        for row in rows:
            say("  ".join(row))
    elif rows:
        draw_panel("cache", (list(zip(row, ("bold", "", "dim"), strict=True)) for row in rows))
    total = sum(entry.size for entry in found) / 1e6
    say_wrapped(f"{len(found)} cached, {total:,.1f} MB in {cache_folder()}", "", "  ")


def _time(entry: kept.Entry) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
