"""Sessions that check the project; `nox -l` lists them."""

from pathlib import Path

import nox

nox.options.sessions = ["lint", "light", "tests"]

LIGHT = ["pydantic", "pyyaml", "rich", "typer", "packaging", "tomli; python_version < '3.11'"]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the import contract."""
    _install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("python", "tests/house/extras.py")


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def light(session: nox.Session) -> None:
    """Run the tests that need no torch, in an environment without it."""
    _run_light(session, "-c", "constraints.txt", *LIGHT)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests."""
    _install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def minimums(session: nox.Session) -> None:
    """Run the light tests with the lowest supported versions of the dependencies."""
    lowest = (
        "pydantic==2.11.*",
        "pyyaml==6.0.2",
        "rich==13.9.*",
        "typer==0.19.*",
        "tomli==2.2.*; python_version < '3.11'",
    )
    _run_light(session, *lowest, "packaging")


@nox.session
def matrix(session: nox.Session) -> None:
    """Run all methods with all tasks, objectives and bases, and write docs/matrix.md; takes about twenty minutes."""
    _install(session, "test")
    outcomes = Path(session.create_tmp(), "outcomes.jsonl").absolute()
    outcomes.unlink(missing_ok=True)
    env = {"MATRIX_OUTCOMES": str(outcomes), "PYTHONPATH": "tests/support"}
    rooms = ("tests/exports", "tests/merging", "tests/services", "tests/statistics")
    session.run("pytest", "-q", "-n", "2", "-m", "matrix", *rooms, *session.posargs, env=env)
    session.run("python", "tests/support/matrix.py", str(outcomes), "docs/matrix.md", env=env)


@nox.session
def cluster(session: nox.Session) -> None:
    """Test every strategy, killed machines (network namespaces, as root) and schedulers; takes most of an hour."""
    _install(session, "test,ray")
    session.run("pytest", "-q", "-m", "cluster", "tests/services", *session.posargs)


@nox.session
def extras(session: nox.Session) -> None:
    """Check that every extra can be installed with the tested versions, on each Python."""
    _install(session, "dev")
    session.run("python", "tests/house/extras.py", "3.11.14", "3.12.12", "3.13.11")


@nox.session
def trackers(session: nox.Session) -> None:
    """Test what every tracker wrote, and trackers that cannot be reached, hang or have no disk."""
    _install(session, "test,tracking")
    session.run("pytest", "-q", "-m", "matrix or not matrix", "tests/trackers", *session.posargs)


@nox.session
def harness(session: nox.Session) -> None:
    """Test the suite of lm-evaluation-harness, which the other tests do not install."""
    _install(session, "test,lm-eval")
    session.run("pytest", "-q", "tests/services/test_lm_eval_suite.py", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Break each guard of tests/house/mutants.toml in turn, and check that its tests fail."""
    _install(session, "test")
    session.run("python", "tests/house/mutants.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Test with random inputs, for FUZZ_SECONDS (default 60) per kind; `-- -k recipes` selects one kind."""
    _install(session, "test")
    session.run("pytest", "-q", "-s", "-m", "fuzz", "tests/fuzz", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site in build/site/site; a broken link is an error."""
    session.install("-c", "constraints.txt", "zensical>=0.0.73,<0.1")
    session.run("python", "website/stage.py", "build/site", env={"PYTHONPATH": "."})
    session.chdir("build/site")
    session.run("zensical", "build", "--strict")


@nox.session
def tutorial(session: nox.Session) -> None:
    """Every command of docs/tutorial.md, in order: each has to succeed, and print the lines that the page shows."""
    _install(session, "test")
    session.run("python", "website/tutorial.py", *session.posargs)


@nox.session
def picture(session: nox.Session) -> None:
    """The picture of README, drawn from a run of the quickstart."""
    _install(session, "test")
    session.run("python", "website/picture.py")


@nox.session
def pages(session: nox.Session) -> None:
    """Pictures of reports, comparisons and the board in a real browser, which may load nothing else, over new runs.

    `nox -s pages -- RUN/report.html` looks at these pages instead, and `-- --runs FOLDER` at the runs of a folder.
    """
    _install(session, "test")
    session.install("playwright")
    if not session.posargs:
        session.run("python", "website/example_runs.py", "build/example-runs")
    shown = session.posargs or ("--runs", "build/example-runs")
    session.run("python", "website/look_at_pages.py", "build/pages", *shown)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks that need no model; see benchmarks/README.md."""
    _install(session, "test")
    session.run("python", "benchmarks/startup.py")
    session.run("python", "benchmarks/first_step.py")


def _run_light(session: nox.Session, *requirements: str) -> None:
    session.install(*requirements, "pytest", "pytest-xdist", "jsonschema", "hypothesis")
    session.install("--no-deps", "-e", ".")
    session.run("pytest", *session.posargs)


def _install(session: nox.Session, extra: str) -> None:
    session.install("-c", "constraints.txt", "torch==2.13.0")
    session.install("-c", "constraints.txt", "-e", f".[{extra}]")
