"""`lorans explain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli.options import AsJson, BasePath, RunPath, TrustRemoteCode
from lora_ns.cli.results import show_result
from lora_ns.cli.show import Progress, note, number, print_json
from lora_ns.cli.terminal import say, say_wrapped
from lora_ns.cli.trust import trust_run

if TYPE_CHECKING:
    from lora_ns.services.explain.explain import Explanation, Replay

Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=2,
        max=200,
        help="Steps to replay after the trouble began; default: 20, or 40 for a run that learned nothing.",
        show_default=False,
    ),
]


def explain(
    run: RunPath,
    steps: Steps = None,
    base: BasePath = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Find out why a run diverged, broke or learned nothing.

    The steps at which it went wrong are replayed from the last checkpoint before them, with one setting changed at a
    time: learning rate, clipping, dtype, order of the rows, packing, and the answers of the rows exchanged. Nothing in
    the run is changed. Exits with 1 if something is wrong and no change cures it.
    """
    from lora_ns.machine import libraries
    from lora_ns.run.directory import RunDir

    opened = RunDir.open(run)
    trust_run(trust_remote_code, opened, base)
    with Progress(2) as progress, libraries.Noise():
        from lora_ns.services.explain.explain import explain as service

        found = service(opened, progress, steps, base)
    _show(found, as_json)
    if found.trouble and not found.cause:
        raise typer.Exit(1)


def _show(found: Explanation, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        print_json(asdict(found))
        return
    if found.trouble is None:
        say("nothing to explain: the loss fell, and stayed low")
        return
    show_result("explanation", _pairs(found))
    for told in found.notes:
        note(told)
    if found.cause is None:
        say("no change that was tried cures it")
        return
    where = f"{found.cause.key}: " if found.cause.key else ""
    say_wrapped(f"cause: [{found.cause.code}] {where}{found.cause.what}")
    say_wrapped(f"to cure it: {found.cause.remedy}")
    for other in found.also:
        say(f"also cures it: {other}")


def _pairs(found: Explanation) -> Iterator[tuple[str, str]]:
    assert found.trouble
    yield "trouble", f"{found.trouble.kind}: {found.trouble.what}"
    if found.replays:
        yield "replayed", f"steps {found.begin + 1:,} to {found.end:,}, {number(len(found.replays))} times"
    for replay in found.replays:
        yield replay.name, _course(replay)


def _course(replay: Replay) -> str:
    if replay.broken:
        return f"breaks: {replay.broken}"
    held_out = "" if replay.held_out is None else f", evaluation loss {replay.held_out:.4g}"
    return f"loss {replay.loss:.4g}{held_out}{', cured' if replay.is_cured else ''}"
