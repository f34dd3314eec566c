"""`lorans eval`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli import complete
from lora_ns.cli.answering import AskedRun
from lora_ns.cli.options import AsJson, BasePath, Checkpoint, Force, Gpus, NumProcesses, RunPath, TrustRemoteCode
from lora_ns.cli.results import show_evaluation
from lora_ns.cli.show import Progress, forcing, note
from lora_ns.cli.trust import trust_run
from lora_ns.cli.verdicts import show_differences, show_gates, show_suites
from lora_ns.errors import Problem, UsageError, did_you_mean
from lora_ns.formats import Preference

if TYPE_CHECKING:
    from lora_ns.answers.opened import Opened
    from lora_ns.answers.work import Compute
    from lora_ns.data.rows import Row
    from lora_ns.recipe.dataset import Dataset
    from lora_ns.services.evaluate import EvaluateResult
    from lora_ns.services.gates import Gate
    from lora_ns.suites import Suite

    Computing = Callable[[Opened], Compute]


OtherRuns = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="OTHER",
        help="Further run directories, compared with the first on the same rows.",
        show_default=False,
        autocompletion=complete.run_folders,
    ),
]


DataFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="File of rows with answers; default: the rows that a run with exact match stored.",
        show_default=False,
    ),
]


ExactMatch = Annotated[bool, typer.Option("--exact-match", help="Generate answers and count the correct ones.")]


SuiteNames = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        metavar="NAME",
        help="Ask a suite of the recipe, or a kind of suite on the same rows, such as `rouge` or `glue:mrpc`. Repeat "
        "it for more; default: all suites of the recipe.",
        show_default=False,
        autocompletion=complete.suites,
    ),
]


AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Let `code` run the programs of models, in a sandbox, and `lm-eval` the code of your task files.",
    ),
]


AllowJudge = Annotated[
    bool,
    typer.Option("--allow-judge", help="Let the suite `judge` send questions and answers to the endpoint it names."),
]


Checkpoints = Annotated[bool, typer.Option("--checkpoints", help="Compare the run's checkpoints, too.")]


Models = Annotated[
    list[Path] | None,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="Compare a plain model, such as a merged one, too. Repeat it for more.",
        show_default=False,
    ),
]


FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-under",
        metavar="FIGURE=X",
        help="Exit with 1 if a figure is smaller, such as exact_match=0.9 or gsm8k.number=0.4. Repeat it for more.",
        show_default=False,
    ),
]


FailOver = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-over", metavar="FIGURE=X", help="Exit with 1 if a figure is larger, such as loss=2.", show_default=False
    ),
]


FailIfWorse = Annotated[
    bool,
    typer.Option(
        "--fail-if-worse",
        help="Exit with 1 if the run is worse than its base or another system, by test and interval.",
    ),
]


JUnitFile = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", help="Write figures and gates as a JUnit file.", show_default=False),
]


Show = Annotated[
    int,
    typer.Option(
        "--show", metavar="N", min=0, help="Show this many rows that run and base (or other system) answer differently."
    ),
]


MaxBadRows = Annotated[
    int | None,
    typer.Option(
        "--max-bad-rows",
        metavar="N",
        min=0,
        help="Skip up to this many unreadable rows of --data; default: as in the run's recipe.",
        show_default=False,
    ),
]


def evaluate(
    run: RunPath,
    others: OtherRuns = None,
    data: DataFile = None,
    exact_match: ExactMatch = False,
    suite: SuiteNames = None,
    allow_code: AllowCode = False,
    allow_judge: AllowJudge = False,
    checkpoints: Checkpoints = False,
    model: Models = None,
    fail_under: FailUnder = None,
    fail_over: FailOver = None,
    fail_if_worse: FailIfWorse = False,
    junit: JUnitFile = None,
    show: Show = 0,
    max_bad_rows: MaxBadRows = None,
    checkpoint: Checkpoint = None,
    base: BasePath = None,
    force: Force = False,
    trust_remote_code: TrustRemoteCode = False,
    num_processes: NumProcesses = None,
    gpus: Gpus = None,
    as_json: AsJson = False,
) -> None:
    """Measure a run's adapter beside its base on rows with answers, and say which is better.

    Text gets the loss, and exact match and suites on request, each with a verdict; preference pairs get the loss and
    the share of pairs that the model ranks right; runs with rewards get the mean reward and pass@1; classes, scores and
    tags get their usual metrics beside the best constant answer. Figures and answers are kept in the run, under
    evaluations/.
    """
    from lora_ns.machine import libraries
    from lora_ns.services.gates import Gates

    gates = Gates.of(fail_under or (), fail_over or (), fail_if_worse)
    asked = AskedRun.of(run, num_processes, gpus, "measures")
    recipe = asked.manifest.recipe
    if asked.processes > 1 and (Preference in recipe.objective.examples or recipe.objective.reward_functions):
        what = f"a run of `[{recipe.objective.toml}]` is measured in one process"
        raise UsageError(Problem("--num-processes" if gpus is None else "--gpus", what, "leave it out"))
    beside = [AskedRun.of(other, num_processes, gpus, "measures") for other in others or ()]
    suites = chosen_suites(suite, recipe.evaluation.suites, allow_code, allow_judge)
    check_processes(suites, asked.processes, "--num-processes" if gpus is None else "--gpus")
    rows = None if data is None else read_rows(data, recipe.dataset, max_bad_rows)
    trust_run(trust_remote_code, asked.folder, base)
    for other in beside:
        trust_run(trust_remote_code, other.folder, None)
    with (
        Progress(2) as progress,
        forcing(force) as forced,
        libraries.Noise(),
        asked.at_prepared(checkpoint, base, forced, progress.warn) as asked,
    ):
        from lora_ns.answers.opened import open_run
        from lora_ns.services.evaluate import Beside
        from lora_ns.services.evaluate import evaluate as service
        from lora_ns.services.evaluate_systems import checkpoints_of, others_beside

        opened = open_run(asked.folder, base, force=forced)
        runs = [open_run(other.folder, force=forced) for other in beside]
        systems = [*others_beside(opened, runs, model or ()), *(checkpoints_of(opened) if checkpoints else ())]
        asked_by = {asked.folder.path: (asked, base)} | {other.folder.path: (other, None) for other in beside}
        result = service(
            opened,
            rows,
            exact_match or recipe.evaluation.exact_match,
            _computing(asked_by, progress, force),
            Beside(tuple(suites), tuple(systems), show),
        )
    judged = gates.judge(result.metrics, result.suites)
    if junit is not None:
        from lora_ns.services.junit import write_junit

        write_junit(junit, asked.folder.path.name, result, judged)
    _show(result, judged, as_json)
    if not all(gate.passed for gate in judged):
        raise typer.Exit(1)


def _show(result: EvaluateResult, gates: Sequence[Gate], as_json: bool) -> None:
    """Show the figures, the verdicts, the answers that differ, and the gates."""
    show_evaluation(result, as_json)
    if not as_json:
        show_suites(result.suites, result.saved)
        show_differences(result.differences)
    show_gates(gates, as_json)


def chosen_suites(
    names: Sequence[str] | None, of_recipe: Sequence[Suite], allow_code: bool, allow_judge: bool
) -> list[Suite]:
    """The suites to ask: those of the recipe that are named, kinds with their usual settings; unnamed, the recipe's.

    Args:
        names: names of suites and kinds, a kind with its task as `glue:mrpc`; None for all suites of the recipe.
        of_recipe: the suites of the recipe. Whoever wrote it allowed code on another machine, perhaps: that does not
            count here.
        allow_code: whether generated programs may run.
        allow_judge: whether questions and answers may be sent to the endpoint of a judge, with the key that it names.

    Raises:
        UsageError: if there is no such suite, a kind needs settings, or a judge is not allowed.
    """
    from lora_ns.suites import SUITES, CodeSuite, JudgeSuite, LmEvalSuite

    names = [suite.title for suite in of_recipe] if names is None else names
    known = {suite.title: suite for suite in of_recipe}
    found = []
    for name in dict.fromkeys(names):
        kind, colon, task = name.partition(":")
        if name not in known and kind not in SUITES:
            hint = did_you_mean(kind, [*known, *SUITES], beside=f"the kinds are {', '.join(SUITES)}")
            raise UsageError(Problem("--suite", f"there is no suite `{name}`", hint))
        suite = known[name] if name in known else SUITES[kind].with_usual_settings(task if colon else None)
        if isinstance(suite, CodeSuite | LmEvalSuite):
            suite = suite.model_copy(update={"allow_code": allow_code})
        if isinstance(suite, JudgeSuite) and not allow_judge:
            what = f"the suite `{suite.title}` sends questions and answers to {suite.receiver}"
            raise UsageError(Problem("--suite", what, "add `--allow-judge` to allow it, or name other suites"))
        found.append(suite)
    return found


def check_processes(suites: Sequence[Suite], processes: int, option: str) -> None:
    """Refuse several processes for suites of another library, which asks the model itself. Raises `UsageError`."""
    own = [suite.title for suite in suites if suite.asks == "itself"]
    if processes > 1 and own:
        what = f"the suite `{own[0]}` is asked in one process"
        raise UsageError(Problem(option, what, "leave it out, or choose others with `--suite`"))


def _computing(asked: Mapping[Path, tuple[AskedRun, Path | None]], progress: Progress, force: bool) -> Computing:
    """Make the function that computes for a run, in as many processes as are asked for; the base is asked only once."""
    from lora_ns.answers.kept import keeping
    from lora_ns.answers.plain_model import PlainModel
    from lora_ns.answers.work import compute_here

    def computing(opened: Opened) -> Compute:
        if isinstance(opened, PlainModel):
            return compute_here(opened, progress.rows)
        own, base = asked[opened.run.path]
        return keeping(opened, own.compute(opened, progress, base, None, force))

    return computing


def read_rows(data: Path, table: Dataset, max_bad_rows: int | None) -> Sequence[Row]:
    """Read the rows of a file, and report those that cannot be read. Raises `DataError`."""
    from lora_ns.data.files.paths import layout_of
    from lora_ns.data.files.read import read_files
    from lora_ns.data.rows import left_out_note

    most = table.max_bad_rows if max_bad_rows is None else max_bad_rows
    found = read_files([data], max_bad_rows=most, layout=layout_of(table))
    if found.left_out:
        note(left_out_note(found.left_out))
    return found.rows
