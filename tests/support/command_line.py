"""Running a command line within this process, from its arguments to its exit code and output."""

import contextlib
import io
import subprocess
import sys

import pytest

from lora_ns.cli.app import main


def lorans(*arguments: object, stdin: str = "", **surroundings: str) -> subprocess.CompletedProcess[str]:
    """Run `lorans` with these arguments; an exception that it does not handle is raised."""
    words = list(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for name, value in surroundings.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["lorans", *words])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(words, int(ended.value.code or 0), out.getvalue(), err.getvalue())
