"""`lorans mcp`: lorans for coding agents, over the Model Context Protocol. Every tool only reads.

Each tool runs the command of its name in a process of its own and returns the JSON that `--json` prints, so that an
agent sees exactly what a person does, and nothing that a library prints reaches the protocol's stream.
"""

from __future__ import annotations

import json
import subprocess
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lora_ns.errors import MissingError, Problem
from lora_ns.safety.interpreter import interpreter

if TYPE_CHECKING:
    from mcp.server import MCPServer


def mcp() -> None:
    """Serve lorans to coding agents over MCP, on standard input and output.

    The tools only read: they validate and plan recipes, describe PEFT methods, and show runs.
    """
    if find_spec("mcp") is None:
        raise MissingError(Problem("", "the package `mcp` is not installed", "pip install 'lora-ns[mcp]'"))
    server().run()


def server() -> MCPServer[Any]:
    """Return the server with its tools."""
    from mcp.server import MCPServer
    from mcp.types import ToolAnnotations

    made = MCPServer("lorans", instructions=_INSTRUCTIONS)
    for tool in (validate, plan, methods, schema, status, runs):
        made.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))(tool)
    return made


_INSTRUCTIONS = """\
lorans fine-tunes language models with adapters; a TOML recipe describes a run. Check each recipe with `validate` before
`lorans train`: it returns every problem with its line and what to write instead. `plan` returns every number that the
run would use, with its origin. `schema` has every key. Paths are relative to the working directory of this server.
"""


def validate(recipe: str, overrides: list[str] | None = None, data: bool = False) -> dict[str, Any]:
    """Check a recipe and return every problem with its line and its remedy.

    Args:
        recipe: path of the TOML file.
        overrides: `table.key=value` each, as after `--set`.
        data: read, render and check every row as well; this takes time.
    """
    return _run("validate", recipe, *_sets(overrides), *(["--data"] if data else []))


def plan(recipe: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """Return every number that a run of the recipe would use on this machine, with its origin.

    Args:
        recipe: path of the TOML file.
        overrides: `table.key=value` each, as after `--set`.
    """
    return _run("plan", recipe, *_sets(overrides))


def methods(name: str = "") -> dict[str, Any]:
    """Describe the PEFT methods, or one of them: its advice, its learning rate and the settings that it works with.

    Args:
        name: a method such as `lora`; empty for all.
    """
    return _run("methods", *([name] if name else []))


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, with a description of every key."""
    return _run("schema", as_json=False)


def status(run: str) -> dict[str, Any]:
    """Return the progress of a run: its status, step and last metrics.

    Args:
        run: path of the run directory, the `output_dir` of its recipe.
    """
    return _run("status", run)


def runs(folder: str = ".") -> dict[str, Any]:
    """List the runs below a folder, each with its status, progress, best metric, data and method.

    Args:
        folder: where to look, such as `outputs`.
    """
    return _run("runs", folder)


def _sets(overrides: list[str] | None) -> list[str]:
    return [word for override in overrides or [] for word in ("--set", override)]


def _run(*words: str, as_json: bool = True) -> dict[str, Any]:
    """Run a command and return the JSON that it prints, or its errors and exit code."""
    command = [*interpreter(), "-m", "lora_ns", *words, *(["--json"] if as_json else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return {"ok": False, "exit_code": done.returncode, "errors": done.stderr.splitlines()}
    return found if isinstance(found, dict) else {"result": found}
