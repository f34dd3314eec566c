"""The commands, and the one place where an expected failure becomes lines on standard error and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from lora_ns import __version__
from lora_ns.cli.cache import cache
from lora_ns.cli.env_check import env_check
from lora_ns.cli.evaluate import evaluate
from lora_ns.cli.infer import infer
from lora_ns.cli.init import init
from lora_ns.cli.job import job
from lora_ns.cli.merge import merge
from lora_ns.cli.methods import methods
from lora_ns.cli.plan import plan
from lora_ns.cli.rank import launch_command, rank
from lora_ns.cli.schema import schema
from lora_ns.cli.submit import status, submit
from lora_ns.cli.terminal import make_errors_readable, say
from lora_ns.cli.train import train
from lora_ns.cli.validate import validate
from lora_ns.cli.worker import worker
from lora_ns.errors import InterruptedRunError, LoransError
from lora_ns.files.shortage import exhaustion

app = typer.Typer(
    name="lorans",
    help="Fine-tune language models with adapters: one recipe, one command, a run that can be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.command("init")(init)


app.command("validate")(validate)


app.command("plan")(plan)


app.command("train")(train)


app.command("infer")(infer)


app.command("eval")(evaluate)


app.command("merge")(merge)


app.command("env-check")(env_check)


app.command("methods")(methods)


app.command("cache")(cache)


app.command("schema")(schema)


app.command("launch-command")(launch_command)


app.command("submit")(submit)


app.command("status")(status)


app.command("rank", hidden=True)(rank)


app.command("job", hidden=True)(job)


app.command("worker", hidden=True)(worker)


def _version(value: bool) -> None:
    if value:
        say(f"lorans {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune language models with adapters: one recipe, one command, a run that can be trusted."""
    del version


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and exit: 0 ok, 1 the run failed, 2 usage, 3 the environment, 128 + n after signal n."""
    make_errors_readable()
    try:
        app(args=arguments, standalone_mode=True)
    except InterruptedRunError as error:
        _tell(error)
        sys.exit(128 + error.signal_number)
    except LoransError as error:
        _tell(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _tell(LoransError("interrupted"))
        sys.exit(128 + signal.SIGINT)
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        if (told := exhaustion(error)) is None:
            raise
        _tell(told)
        sys.exit(told.exit_code)


def _tell(error: LoransError) -> None:
    try:
        for problem in error.problems:
            say(f"error: {problem}", err=True)
    except OSError:  # the terminal was closed: the exit code is to say it all the same
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
