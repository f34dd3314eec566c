"""`lorans cache`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from lora_ns.cli.options import AsJson
from lora_ns.cli.show import print_json
from lora_ns.cli.terminal import say
from lora_ns.data import cache as kept


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
            say(f"{freed / 1e6:,.1f} MB freed in {kept.cache_folder()}")
        return
    found = kept.entries()
    if as_json:
        print_json({"folder": str(kept.cache_folder()), "entries": [vars(entry) for entry in found]})
        return
    for entry in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        say(f"{entry.key[:12]}  {entry.size / 1e6:10,.1f} MB  last used {when}")
    total = sum(entry.size for entry in found) / 1e6
    say(f"{len(found)} cached, {total:,.1f} MB in {kept.cache_folder()}")
