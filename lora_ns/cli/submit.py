"""`lorans submit` and `lorans status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lora_ns.cli import complete
from lora_ns.cli.options import AsJson, Overrides, Overwrite, RunPath, TrustRemoteCode, check_one_of
from lora_ns.cli.results import show_result
from lora_ns.cli.show import note, number, print_json
from lora_ns.cli.terminal import hand_over, say
from lora_ns.cli.trust import check_trusted, trust_recipe
from lora_ns.errors import Problem, UsageError
from lora_ns.safety.credentials import is_secret_name, scrubbed

if TYPE_CHECKING:
    from lora_ns.launch.jobs import JobState, Mode
    from lora_ns.recipe.load import LoadedRecipe
    from lora_ns.services.submit import RunStatus, Scheduler, Submitted
    from lora_ns.services.sweep.status import SweepStatus


Recipes = Annotated[
    list[Path],
    typer.Argument(
        help="Recipes to run; several become one job array.", show_default=False, autocompletion=complete.recipe_files
    ),
]


To = Annotated[Literal["slurm", "ray"], typer.Option("--to", help="Scheduler to use.", show_default=False)]


Time = Annotated[
    str | None,
    typer.Option("--time", help="Time limit of one SLURM job, in the form that `sbatch` takes.", show_default=False),
]


Options = Annotated[
    list[str],
    typer.Option(
        "--option",
        "-o",
        metavar="NAME[=VALUE]",
        help="Option for the scheduler, such as partition=gpu. Repeat it for more options.",
        show_default=False,
    ),
]


Nodes = Annotated[
    int | None, typer.Option("--nodes", metavar="N", min=1, help="Number of machines to train on.", show_default=False)
]


Resume = Annotated[bool, typer.Option("--resume", help="Continue an existing run.")]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the job script without submitting it.")]


def submit(
    recipes: Recipes,
    to: To,
    time: Time = None,
    option: Options = [],  # noqa: B006 -- typer's way to say "none"
    overrides: Overrides = [],  # noqa: B006
    nodes: Nodes = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Submit runs to SLURM or Ray.

    A job that is stopped is queued again and continues from its last checkpoint.
    """
    check_one_of(resume, overwrite)
    mode: Mode = "resume" if resume else "overwrite" if overwrite else "new"
    loaded = [_load(path, overrides, nodes) for path in recipes]
    options = options_of(option)
    scheduler = scheduler_of(to, time, options)

    from lora_ns.services import submit as service

    if dry_run:
        hand_over(service.script(loaded, to, scheduler, mode, options))
        return
    settle_trust(loaded, trust_remote_code)
    submitted = service.submit(loaded, to, scheduler, mode, options, note)
    show_submitted(submitted, as_json)


def show_submitted(submitted: list[Submitted], as_json: bool) -> None:
    """Print jobs that were submitted."""
    if as_json:
        print_json([job.__dict__ for job in submitted])
        return
    for job in submitted:
        say(f"{job.scheduler} {job.id}  {job.run}")
    say(f"`lorans status {submitted[0].run}` shows its progress", err=True)


def _load(path: Path, overrides: list[str], nodes: int | None) -> LoadedRecipe:
    """Load a recipe; its machines connect at the first node of the job."""
    from lora_ns.recipe.load import load_recipe, written

    overrides = [*overrides, *([f"distributed.num_nodes={nodes}"] if nodes else [])]
    count = written(path, overrides, "distributed", "num_nodes")
    strategy = written(path, overrides, "distributed", "strategy")
    if nodes and nodes > 1 and strategy in {None, "none"}:
        overrides.append('distributed.strategy="ddp"')
    if isinstance(count, int) and count > 1:
        overrides.append('distributed.rdzv_endpoint="the-first-node:29500"')
    return load_recipe(path, overrides)


def settle_trust(recipes: list[LoadedRecipe], is_given: bool) -> None:
    """Check that the jobs will find consent to the code of their bases. Raises `LoransError`."""
    if not any(loaded.recipe.model.trust_remote_code for loaded in recipes):
        return
    for loaded in recipes:
        trust_recipe(is_given, loaded)
        check_trusted(loaded)


def options_of(given: list[str]) -> dict[str, str]:
    """Parse `name=value`, with or without the scheduler's hyphens before the name. Raises `UsageError`."""
    from lora_ns.table import control_in

    options: dict[str, str] = {}
    for option in given:
        name, _, value = option.lstrip("-").partition("=")
        if not name:
            raise UsageError(Problem("--option", f"`{option}`", "write `name=value`, such as `partition=gpu`"))
        if found := control_in(option):
            what = f"`{name.partition(chr(10))[0]}` contains the control character {found}"
            raise UsageError(Problem("--option", what, "remove it: an option is one line of the script"))
        if is_secret_name(name) or scrubbed(option) != option:
            what = f"`{name}` contains a secret, but options are stored with the job and its script"
            remedy = "set an environment variable where you submit: jobs inherit it"
            raise UsageError(Problem("--option", what, remedy))
        options[name] = value
    return options


def scheduler_of(to: str, time: str | None, options: dict[str, str], if_longer: str = "is queued again") -> Scheduler:
    """Return the scheduler of that name.

    Args:
        to: its name.
        time: the time limit of one job.
        options: its options.
        if_longer: what happens to a job that needs longer.

    Raises:
        UsageError: if an option is wrong or the time limit is missing.
    """
    from lora_ns.launch.schedulers.ray import OnRay
    from lora_ns.launch.schedulers.slurm import Slurm
    from lora_ns.launch.schedulers.time_limit import minutes

    if to == "ray":
        if time is not None:
            raise UsageError(Problem("--time", "Ray jobs have no time limit", "remove it"))
        return OnRay(options)
    if time is None:
        what = "SLURM jobs need a time limit"
        remedy = f"write for example `--time 4:00:00`; a job that needs longer {if_longer}"
        raise UsageError(Problem("--time", what, remedy))
    return Slurm(minutes(time), options)


def status(
    run: RunPath,
    log: Annotated[bool, typer.Option("--log", help="Print the job's output, from all of its nodes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the progress of a run or a sweep, and the state of its jobs in the scheduler."""
    from lora_ns.services import submit as service
    from lora_ns.services.sweep.status import log_of_sweep, status_of_sweep

    path = run.absolute()
    if log:
        say(log_of_sweep(path) or service.log(path), end="")
        return
    found = status_of_sweep(path) or service.status(path)
    for text in found.notes:
        note(text)
    if as_json:
        print_json(found)
    elif isinstance(found, service.RunStatus):
        show_result("run", _lines(found))
    else:
        show_result("sweep", _lines_of_sweep(found))


def _lines_of_sweep(found: SweepStatus) -> list[tuple[str, str]]:
    asked = f" of {number(found.trials)}" if found.trials else ""
    lines = [("sweep", found.sweep), ("status", found.status), ("trials", f"{number(found.done)}{asked}")]
    for job in found.jobs:
        restarts = f", restarted {number(job.state.restarts)} x" if job.state.restarts else ""
        lines.append(("job", f"{_job_line(job.scheduler, job.id, job.state)}{restarts}"))
    if found.status == "stopped":
        lines.append(("continue", "repeat the command of the sweep"))
    return lines


def _job_line(scheduler: str | None, name: str | None, job: JobState) -> str:
    place = f" on {job.nodes}" if job.nodes else ""
    reason = f" ({job.reason})" if job.reason else ""
    return f"{scheduler} {name}: {job.state}{place}{reason}"


def _lines(found: RunStatus) -> list[tuple[str, str]]:
    lines = [("run", found.run), ("status", found.status)]
    if found.max_steps is not None:
        lines.append(("step", f"{number(found.step)} of {number(found.max_steps)}"))
    shown = ("loss", "eval_loss", "learning_rate")
    lines += [(name, number(found.metrics[name])) for name in shown if found.metrics and name in found.metrics]
    if found.updated:
        lines.append(("updated", found.updated))
    if found.error:
        lines.append(("error", found.error))
    if found.replaces:
        lines.append(("replaces", f"a run that is {found.replaces}, which is used until this one has completed a step"))
    if found.job:
        lines.append(("job", _job_line(found.scheduler, found.id, found.job)))
        lines += [("restarts", number(found.job.restarts))] if found.job.restarts else []
        if found.job.is_over and found.status not in {"finished"}:
            lines.append(("continue", "`lorans submit RECIPE --resume`"))
    return lines
