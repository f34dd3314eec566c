"""`lorans sweep`: train a recipe with several values, and rank the trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lora_ns.cli import complete
from lora_ns.cli.options import AsJson, RecipePath, TrustRemoteCode
from lora_ns.cli.show import Progress, duration, note, number, print_json
from lora_ns.cli.submit import DryRun, Time, options_of, scheduler_of, settle_trust, show_submitted
from lora_ns.cli.terminal import draw, hand_over, say, say_wrapped
from lora_ns.errors import Problem, UsageError
from lora_ns.safety.printable import readable

if TYPE_CHECKING:
    from lora_ns.launch.jobs import SchedulerName
    from lora_ns.recipe.load import LoadedRecipe
    from lora_ns.services.sweep.result import Ranked, SweepResult
    from lora_ns.services.sweep.run import SweepRequest

Values = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUES",
        help="Values to try: a list such as peft.lora_r=8,16,32, or log(LOW,HIGH), uniform(LOW,HIGH) or int(LOW,HIGH). "
        "A single value overrides the key in every trial.",
        show_default=False,
        autocompletion=complete.overrides,
    ),
]

Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        metavar="N",
        min=1,
        help="Number of trials; default: all combinations if all values are lists, otherwise 20.",
        show_default=False,
    ),
]

Metric = Annotated[
    str, typer.Option("--metric", metavar="NAME", help="Metric of the evaluation that ranks the trials.")
]

Sampler = Annotated[
    Literal["grid", "random", "tpe"] | None,
    typer.Option(
        "--sampler",
        metavar="NAME",
        help="How values are chosen: grid, random, or tpe, which learns from earlier trials; default: grid for lists, "
        "otherwise tpe.",
        show_default=False,
    ),
]

Parallel = Annotated[
    int, typer.Option("--parallel", metavar="N", min=1, help="Number of processes; each has its own GPU, if there are.")
]

Worker = Annotated[
    bool,
    typer.Option("--worker", help="Take part in a sweep that other processes train too, such as jobs of a cluster."),
]

To = Annotated[
    Literal["slurm", "ray"] | None,
    typer.Option("--to", help="Scheduler whose jobs train the trials; default: this machine.", show_default=False),
]

Jobs = Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="Number of jobs that share the sweep, for --to.")]

SchedulerOptions = Annotated[
    list[str],
    typer.Option(
        "--option",
        metavar="NAME[=VALUE]",
        help="Option for the scheduler, such as partition=gpu. Repeat it for more options.",
        show_default=False,
    ),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Folder of the sweep; default: outputs/sweeps/TASK_NAME.",
        show_default=False,
    ),
]

NoCache = Annotated[bool, typer.Option("--no-cache", help="Tokenise again, without reading or writing the cache.")]


def sweep(
    recipe: RecipePath,
    values: Values = [],  # noqa: B006 -- typer's way to say "none"
    trials: Trials = None,
    metric: Metric = "eval_loss",
    sampler: Sampler = None,
    parallel: Parallel = 1,
    worker: Worker = False,
    output: Output = None,
    no_cache: NoCache = False,
    to: To = None,
    jobs: Jobs = 1,
    time: Time = None,
    option: SchedulerOptions = [],  # noqa: B006
    dry_run: DryRun = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe with several values, and rank the trials on the held-out rows.

    All trials have the same base in memory, the same rows in the same order and
    the same seed. Trials that are behind at the same number of rows stop early.
    The same command goes on with a sweep that was stopped. With --to, jobs of
    SLURM or Ray train the trials.
    """
    from lora_ns.cli.trust import trust_recipe
    from lora_ns.machine.libraries import Noise
    from lora_ns.recipe.load import load_recipe
    from lora_ns.recipe.space import read_space
    from lora_ns.services.sweep.run import SweepRequest
    from lora_ns.services.sweep.run import sweep as service

    loaded = load_recipe(recipe, read_space(values).fixed)
    request = SweepRequest(recipe, tuple(values), trials, metric, sampler, output, parallel, worker, not no_cache)
    asked = _Asked(jobs, time, option, dry_run)
    if to is not None:
        _submit(to, request, loaded, asked, trust_remote_code, as_json)
        return
    asked.check_unused()
    trust_recipe(trust_remote_code, loaded)
    with Progress(2) as progress, Noise() as noise:
        result = service(request, progress, noise)
    if as_json:
        print_json(result)
    else:
        _show(result)


@dataclass(frozen=True)
class _Asked:
    """The options about a scheduler."""

    jobs: int
    time: str | None
    option: list[str]
    dry_run: bool

    def check_unused(self) -> None:
        """Check that no option needs a scheduler. Raises `UsageError`."""
        given = {
            "--jobs": self.jobs > 1,
            "--time": self.time is not None,
            "--option": self.option,
            "--dry-run": self.dry_run,
        }
        for option in (name for name, is_given in given.items() if is_given):
            raise UsageError(Problem(option, "is for the jobs of a scheduler", "add `--to slurm` or `--to ray`"))


def _submit(
    to: SchedulerName, request: SweepRequest, loaded: LoadedRecipe, asked: _Asked, trusts: bool, as_json: bool
) -> None:
    """Submit the jobs of a sweep, or print what would be submitted."""
    from lora_ns.services.sweep.submit import submit_sweep, sweep_script

    if request.processes > 1 or request.is_worker:
        option = "--worker" if request.is_worker else "--parallel"
        raise UsageError(Problem(option, "is for this machine, and --to submits jobs", "write `--jobs N`"))
    options = options_of(asked.option)
    if_longer = "repeats its trial, so give it more than one trial needs"
    scheduler = scheduler_of(to, asked.time, options, if_longer)
    if asked.dry_run:
        hand_over(sweep_script(request, asked.jobs, to, scheduler, options))
        return
    settle_trust([loaded], trusts)
    show_submitted(submit_sweep(request, asked.jobs, to, scheduler, options), as_json)


def _show(result: SweepResult) -> None:
    keys = list(result.trials[0].values) if result.trials else []
    draw(_table(result, keys))
    for name, share in sorted(result.importances.items(), key=lambda pair: -pair[1]):
        say(f"importance of {name}: {share:.0%}")
    for text in result.notes:
        note(text)
    unclear = [one for one in result.trials if one.against_best and one.against_best.verdict == "cannot tell"]
    if unclear and result.best:
        trials = ", ".join(str(one.number) for one in unclear)
        say_wrapped(f"The held-out rows cannot tell trial {result.best.number} from: {trials}.")
    say(f"{result.tokens:,} tokens in {duration(result.seconds)}, all trials added up")
    for plot in result.plots:
        say(f"plot: {plot}")
    if result.best_recipe:
        say("The best recipe, with its comments; to train it:")
        say(f"lorans train {result.best_recipe}")


def _table(result: SweepResult, keys: list[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("trial", justify="right")
    for key in keys:
        table.add_column(Text(readable(key)), overflow="fold")
    table.add_column(result.metric, justify="right")
    table.add_column("loss against the best, 95 %")
    for one in result.trials:
        cells = [Text(str(one.number)), *(Text(readable(_value(one.values.get(key)))) for key in keys)]
        is_best = result.best is not None and one.number == result.best.number
        style = "green" if is_best else "" if one.value is not None else "dim"
        table.add_row(
            *cells, Text(number(one.value)), Text(readable("the best" if is_best else _against(one))), style=style
        )
    return table


def _value(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) else str(value)


def _against(one: Ranked) -> str:
    """The difference in the evaluation loss, or why there is none."""
    if one.value is None:
        return f"{one.state}: {one.reason}"
    found = one.against_best
    if found is None:
        return ""
    interval = f"{found.difference:+.4f} [{found.interval.low:+.4f}, {found.interval.high:+.4f}]"
    return interval if found.verdict != "cannot tell" else f"{interval}, cannot tell"
