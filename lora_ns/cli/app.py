"""The command line: its commands, and the exit code and message of every expected failure."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from lora_ns import __version__
from lora_ns.cli.adapter import check, inspect
from lora_ns.cli.adapter import diff as adapter_diff
from lora_ns.cli.bisect import bisect
from lora_ns.cli.board import board
from lora_ns.cli.cache import cache
from lora_ns.cli.commands import OWN_PROCESS, Entry, Family, Group, is_rich
from lora_ns.cli.diff_runs import diff
from lora_ns.cli.env_check import env_check
from lora_ns.cli.evaluate import evaluate
from lora_ns.cli.explain import explain
from lora_ns.cli.export import export, verify
from lora_ns.cli.find_lr import find_lr
from lora_ns.cli.import_ import import_
from lora_ns.cli.infer import infer
from lora_ns.cli.init import init
from lora_ns.cli.job import job
from lora_ns.cli.mcp import mcp
from lora_ns.cli.merge import merge
from lora_ns.cli.methods import methods
from lora_ns.cli.plan import plan
from lora_ns.cli.problems import Kind, print_problems
from lora_ns.cli.push import push
from lora_ns.cli.rank import launch_command, rank
from lora_ns.cli.report import report
from lora_ns.cli.reproduce import reproduce
from lora_ns.cli.runs import runs
from lora_ns.cli.schema import schema
from lora_ns.cli.submit import status, submit
from lora_ns.cli.sweep import sweep
from lora_ns.cli.terminal import make_errors_readable, say
from lora_ns.cli.track import track
from lora_ns.cli.train import train
from lora_ns.cli.validate import validate
from lora_ns.cli.watch import watch
from lora_ns.cli.worker import worker
from lora_ns.errors import InterruptedRunError, LoransError
from lora_ns.files.shortage import exhaustion
from lora_ns.machine.garbage import collect_rarely

app = typer.Typer(
    name="lorans",
    cls=Group,
    help="Fine-tune language models with adapters: one recipe, one command, a run you can trust.",
    epilog="Run `lorans COMMAND --help` for the options of a command and examples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if is_rich() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


COMMANDS = (
    Entry("init", init, "Start", ["lorans init my-task --data rows.jsonl", "lorans init --list"]),
    Entry(
        "import", import_, "Start", ["lorans import axolotl.yml", "lorans import axolotl.yml -o recipe.toml --gpus 2"]
    ),
    Entry("env-check", env_check, "Start", ["lorans env-check", "lorans env-check --recipe recipe.toml"]),
    Entry(
        "validate", validate, "Check", ["lorans validate recipe.toml", "lorans validate recipe.toml --data --show 2"]
    ),
    Entry("plan", plan, "Check", ["lorans plan recipe.toml", 'lorans plan recipe.toml --gpu "RTX 4090"']),
    Entry("train", train, "Train", ["lorans train recipe.toml", "lorans train outputs/run --resume"]),
    Entry("reproduce", reproduce, "Train", ["lorans reproduce outputs/run", "lorans reproduce outputs/run --check"]),
    Entry("find-lr", find_lr, "Train", ["lorans find-lr recipe.toml", "lorans find-lr recipe.toml --write"]),
    Entry(
        "sweep",
        sweep,
        "Train",
        [
            'lorans sweep recipe.toml --set "training.learning_rate=log(1e-5,1e-3)" --trials 12',
            "lorans sweep recipe.toml --set peft.lora_r=8,16,32 --metric accuracy",
        ],
    ),
    Entry(
        "infer",
        infer,
        "Use",
        [
            'lorans infer outputs/run --input "What is LoRA?"',
            "lorans infer outputs/run --input-file rows.jsonl -o answers.jsonl",
        ],
    ),
    Entry("eval", evaluate, "Use", ["lorans eval outputs/run", "lorans eval outputs/run --data test.jsonl"]),
    Entry(
        "bisect",
        bisect,
        "Use",
        ["lorans bisect outputs/run --metric exact_match", "lorans bisect outputs/run --metric gsm8k.number/old"],
    ),
    Entry(
        "export",
        export,
        "Use",
        ["lorans export outputs/run --to plain --output plain", "lorans export outputs/run --to gguf -o model.gguf"],
    ),
    Entry("push", push, "Use", ["lorans push plain me/my-adapter", "lorans push merged me/my-model --public"]),
    Entry(
        "verify",
        verify,
        "Use",
        ["lorans verify merged", "lorans verify plain --against outputs/run"],
    ),
    Entry(
        "merge",
        merge,
        "Use",
        ["lorans merge outputs/run --output merged", "lorans merge outputs/run -o merged --dtype float32"],
    ),
    Family(
        "adapter",
        "Check for which programs an adapter works, show its figures, or compare two.",
        "Use",
        [
            Entry(
                "check",
                check,
                "Commands",
                ["lorans adapter check outputs/run", "lorans adapter check adapter --for vllm --for ollama"],
            ),
            Entry(
                "inspect",
                inspect,
                "Commands",
                ["lorans adapter inspect outputs/run", "lorans adapter inspect adapter --json"],
            ),
            Entry(
                "diff",
                adapter_diff,
                "Commands",
                ["lorans adapter diff outputs/one outputs/two", "lorans adapter diff outputs/run adapter --json"],
            ),
        ],
        ["lorans adapter check outputs/run --for vllm", "lorans adapter inspect outputs/run"],
    ),
    Entry("runs", runs, "Look", ["lorans runs outputs", "lorans runs --filter status=finished --sort best"]),
    Entry("watch", watch, "Look", ["lorans watch outputs/run", "lorans watch outputs/one outputs/two --once"]),
    Entry(
        "report",
        report,
        "Look",
        ["lorans report outputs/run", "lorans report outputs/run -o report.html --plots plots"],
    ),
    Entry(
        "diff",
        diff,
        "Look",
        ["lorans diff outputs/one outputs/two", "lorans diff outputs/one outputs/two --html diff.html"],
    ),
    Entry("board", board, "Look", ["lorans board outputs", "lorans board outputs --port 8421"]),
    Entry("explain", explain, "Look", ["lorans explain outputs/run", "lorans explain outputs/run --steps 50"]),
    Entry(
        "submit",
        submit,
        "Elsewhere",
        ["lorans submit recipe.toml --to slurm", "lorans submit recipe.toml --to slurm --dry-run"],
    ),
    Entry("status", status, "Elsewhere", ["lorans status outputs/run", "lorans status outputs/run --log"]),
    Entry(
        "launch-command",
        launch_command,
        "Elsewhere",
        ["lorans launch-command recipe.toml", "lorans launch-command outputs/run"],
    ),
    Entry("track", track, "Tools", ["lorans track outputs/run", "lorans track outputs/run --to mlflow"]),
    Entry("methods", methods, "Tools", ["lorans methods", "lorans methods lora"]),
    Entry("cache", cache, "Tools", ["lorans cache", "lorans cache --clear"]),
    Entry("schema", schema, "Tools", ["lorans schema", "lorans schema > recipe.schema.json"]),
    Entry("mcp", mcp, "Tools", ["lorans mcp", "claude mcp add lorans -- lorans mcp"]),
    Entry("rank", rank),
    Entry("job", job),
    Entry("worker", worker),
)
"""The commands in the order of the help."""


for entry in COMMANDS:
    entry.add_to(app)


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
    """Fine-tune language models with adapters: one recipe, one command, a run you can trust."""
    del version


def main(arguments: list[str] | None = None) -> None:
    """Run a command line, by default that of this process, and exit.

    The exit code is 0 for ok, 1 if the run failed, 2 for usage, 3 for the environment, 128 + n after signal n.
    """
    make_errors_readable()
    is_own_process = arguments is None
    if is_own_process:
        collect_rarely()
    try:
        app(args=arguments, standalone_mode=True, obj=OWN_PROCESS if is_own_process else None)
    except InterruptedRunError as error:
        _tell(error, "stopped")
        sys.exit(128 + error.signal_number)
    except LoransError as error:
        _tell(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _tell(LoransError("stopped"), "stopped")
        sys.exit(128 + signal.SIGINT)
    except SystemExit as ended:
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):  # which typer turns into 130
            _tell(LoransError("stopped"), "stopped")
        raise
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        if (failure := exhaustion(error)) is None:
            raise
        _tell(failure)
        sys.exit(failure.exit_code)


def _tell(error: LoransError, kind: Kind = "error") -> None:
    try:
        print_problems(error.problems, kind)
    except OSError:  # the terminal was closed; the exit code still reports the failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
