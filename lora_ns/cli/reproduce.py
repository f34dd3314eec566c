"""`lorans reproduce`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli.options import AsJson, BasePath, RunPath, TrustRemoteCode
from lora_ns.cli.results import show_result
from lora_ns.cli.show import Progress, note, print_json
from lora_ns.cli.trust import trust_run

if TYPE_CHECKING:
    from lora_ns.services.reproduce.compare import Apart
    from lora_ns.services.reproduce.reproduce import Reproduction


def reproduce(
    run: RunPath,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory of the new run; default: RUN-reproduced.", show_default=False),
    ] = None,
    only_check: Annotated[bool, typer.Option("--check", help="List what differs, and train nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Train although base, rows, template or code of rewards have changed.")
    ] = False,
    base: BasePath = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Train a finished run again from its own record, and compare the adapter bit for bit.

    What is another here is listed first: base, rows, chat template, code of rewards, versions and machine. The new run
    takes the settled recipe, the plan and the rows of the old one. The command ends with 0 if the adapter has the same
    hash, and with 1 if not; with `--check`, with 1 if something here surely changes the result.
    """
    from lora_ns.machine.libraries import Noise
    from lora_ns.run.directory import RunDir
    from lora_ns.services.reproduce.reproduce import check
    from lora_ns.services.reproduce.reproduce import reproduce as service

    opened = RunDir.open_to_use(run.absolute(), note)
    trust_run(trust_remote_code, opened, base)
    if only_check:
        with Noise():
            result = check(opened, base)
    else:
        with Progress(2) as progress, Noise() as noise:
            result = service(opened, progress, noise, output, base, force)
    _show(result, as_json)
    raise typer.Exit(int(result.is_refused if only_check else not result.is_same))


def _show(result: Reproduction, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(result), "same": result.is_same if result.output else None})
        return
    rows = [("run", result.run), *_differing(result)]
    if result.output is None:
        for told in result.notes:
            note(told)
        if result.end:
            note(result.end)
        show_result("compared", rows, [] if result.is_refused else [f"lorans reproduce {shlex.quote(result.run)}"])
        return
    rows += [("new run", result.output), ("adapter then", result.expected), ("adapter now", str(result.found))]
    title = "reproduced" if result.is_same else "not reproduced"
    rows.append(("result", "the same adapter, bit for bit" if result.is_same else "another adapter"))
    if result.apart:
        rows += [*_apart(result.apart), ("why", _why(result))]
    show_result(title, [*rows, *([("lineage", result.lineage)] if result.lineage else [])])


def _differing(result: Reproduction) -> Iterator[tuple[str, str]]:
    """List what is another here."""
    if not result.differing:
        yield "differs", "nothing: base, rows, template, versions and machine are those of the run"
    for one in result.differing:
        remedy = f" ({one.remedy})" if one.remedy else ""
        yield one.name, f"{one.before} -> {one.now}; {one.effect}{remedy}"


def _apart(found: Apart) -> Iterator[tuple[str, str]]:
    """Describe how far two adapters are apart."""
    if found.relative is not None:
        yield "difference", f"{found.relative:.2e} of the norm of all weights"
    if found.losses is not None:
        yield "first different loss", f"step {found.first_step}: {found.losses[0]!r} -> {found.losses[1]!r}"
    else:
        yield "losses", "the same at every logged step"


def _why(result: Reproduction) -> str:
    """Why the adapter may be another one."""
    names = ", ".join(one.name for one in result.differing)
    if names:
        return f"what differs: {names}"
    if result.notes:
        return result.notes[0]
    return "nothing that lorans compares; report this with both runs' manifests"
