"""`lorans bisect`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli.answering import AskedRun
from lora_ns.cli.evaluate import AllowCode, DataFile, MaxBadRows, read_rows
from lora_ns.cli.options import AsJson, BasePath, Force, Gpus, NumProcesses, RunPath, TrustRemoteCode
from lora_ns.cli.results import show_result
from lora_ns.cli.show import Progress, forcing, note, number, print_json
from lora_ns.cli.terminal import say
from lora_ns.cli.trust import trust_run
from lora_ns.cli.verdicts import say_verdict, shown_figure

if TYPE_CHECKING:
    from lora_ns.services.bisect import BisectResult
    from lora_ns.services.bisect_systems import Reading
    from lora_ns.services.repair import Repair


MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="SUITE.FIGURE[/GROUP]",
        help="Figure to follow, such as gsm8k.number, exact_match/old or loss; default: exact match if the recipe asks "
        "for it, otherwise the first suite of the recipe, otherwise the loss.",
        show_default=False,
    ),
]


Good = Annotated[
    str | None,
    typer.Option(
        "--good",
        metavar="CHECKPOINT",
        help="Checkpoint that has the skill, by name or step; default: the base, the first or the best checkpoint.",
        show_default=False,
    ),
]


RepairFolder = Annotated[
    Path | None,
    typer.Option(
        "--repair",
        metavar="FOLDER",
        help="Reduce the intruder dimensions of the adapter (LoRA), test the result, and write it if it is better.",
        show_default=False,
    ),
]


def bisect(
    run: RunPath,
    metric: MetricName = None,
    good: Good = None,
    data: DataFile = None,
    repair: RepairFolder = None,
    allow_code: AllowCode = False,
    max_bad_rows: MaxBadRows = None,
    base: BasePath = None,
    force: Force = False,
    trust_remote_code: TrustRemoteCode = False,
    num_processes: NumProcesses = None,
    gpus: Gpus = None,
    as_json: AsJson = False,
) -> None:
    """Find the checkpoint at which a run lost a skill, by paired tests on the same rows.

    The adapter is compared with the base, the first checkpoint and the best one. If it is worse than one of them, a
    binary search finds the checkpoint at which that happened. Exits with 1 if the adapter is worse and was not
    repaired.
    """
    from lora_ns.machine import libraries
    from lora_ns.services.bisect_metric import metric_of

    asked = AskedRun.of(run, num_processes, gpus, "measures")
    recipe = asked.manifest.recipe
    found = metric_of(metric, recipe, allow_code)
    rows = None if data is None else read_rows(data, recipe.dataset, max_bad_rows)
    trust_run(trust_remote_code, asked.folder, base)
    with Progress(2) as progress, forcing(force) as forced, libraries.Noise():
        libraries.prepare(asked.machine, asked.processes)
        from lora_ns.answers.kept import keeping
        from lora_ns.answers.opened import open_run
        from lora_ns.machine.packages import check_suites_installed
        from lora_ns.services.bisect import bisect as service
        from lora_ns.services.bisect_systems import Asker, Course
        from lora_ns.services.repair import check_repairable
        from lora_ns.services.repair import repair as mend

        check_suites_installed([found.suite])
        if repair is not None:
            check_repairable(asked.folder, asked.manifest, repair, base)
        opened = open_run(asked.folder, base, force=forced)
        course = Course.of(opened)
        asker = Asker.of(opened, found, rows, keeping(opened, asked.compute(opened, progress, base, None, force)))
        result = service(asker, course, good, progress)
        repaired = mend(asker, course, result.good, repair, progress) if repair and result.good else None
    _show(result, repaired, as_json)
    if result.good and not (repaired and repaired.is_back):
        raise typer.Exit(1)


def _show(result: BisectResult, repaired: Repair | None, as_json: bool) -> None:
    """Show every system that was asked, the break, and what helps."""
    if as_json:
        from dataclasses import asdict

        print_json({**asdict(result), "repair": asdict(repaired) if repaired else None})
        return
    show_result("bisection", _pairs(result))
    for contest in result.adapter:
        say_verdict(f"adapter against {contest.against}", contest.reason)
    for reading in result.readings[:-1]:  # the last one is the adapter
        if reading.against:
            say_verdict(f"{reading.system} against {reading.against}", reading.reason)
    for told in result.notes:
        note(told)
    if result.before and result.after:
        say(f"{result.metric} broke after {_place(result.before)}, at {_place(result.after)}")
        say_verdict(f"{result.after.system} against {result.before.system}", result.drop)
        for advice in result.advice:
            say(f"to get it back: {advice}")
    else:
        beside = " or ".join(contest.against for contest in result.adapter)
        say(f"{result.metric} is not broken: the adapter is not worse than {beside}")
    if repaired:
        _show_repair(repaired, result)


def _show_repair(repaired: Repair, result: BisectResult) -> None:
    """Show how the repaired adapter does, what that costs, and where it is."""
    if repaired.reading is None:
        say("no layer of the adapter has intruder dimensions: there is nothing to repair")
        return
    say(
        f"repaired: {repaired.kept:.0%} of the intruder dimensions kept, in {repaired.layers:,} layers".replace(
            "%", " %"
        )
    )
    say(f"{result.metric} repaired: {shown_figure(repaired.reading.figure, result.is_share)}")
    say_verdict("repaired against adapter", repaired.reading.reason)
    say_verdict(f"repaired against {result.good}", repaired.against_good)
    if repaired.cost:
        say_verdict("repaired against adapter by the loss on the evaluation rows", repaired.cost)
    if repaired.output is None:
        say("not written: it is not better than the adapter of the run")
    else:
        say(f"repaired adapter: {repaired.output}")


def _pairs(result: BisectResult) -> Iterator[tuple[str, str]]:
    yield "figure", result.metric
    yield "rows", number(result.items)
    yield "asked", f"{len(result.readings)} of {result.checkpoints + 2} systems"
    for reading in result.readings:
        yield f"{reading.system}, step {reading.step:,}", shown_figure(reading.figure, result.is_share)


def _place(reading: Reading) -> str:
    return f"{reading.system} (step {reading.step:,})"
