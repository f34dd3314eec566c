"""`python`: your own reward function, called as TRL calls one."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from lora_ns.errors import Problem, UsageError, did_you_mean, first_line
from lora_ns.rewards.base import Completion, RewardFaultError, RewardFunction, Scorer, Scores
from lora_ns.table import Conflict, Name


class Python(RewardFunction):
    """A function of a Python file, which runs in the training process without a sandbox; needs `allow_code = true`.

    It is called as by TRL: `function(prompts, completions, completion_ids, **columns)`, where every column of the rows
    is a list, and returns a number for each completion, or None for one that it does not judge. If prompts are
    conversations, prompts and completions are lists of turns.
    """

    name: Literal["python"] = "python"
    python: Name
    """File and function, as `rewards.py:name`. The file is looked up like rows, and copied into the run."""

    highest: ClassVar[float] = float("inf")
    key_of_code: ClassVar[str] = "python"

    @property
    def runs_code(self) -> str:
        """The file."""
        return f"the code of {self.file} in the training process"

    @property
    def file(self) -> str:
        """The file."""
        return self.python.rpartition(":")[0]

    @property
    def metric(self) -> str:
        """The name of the function."""
        return self.python.rpartition(":")[2]

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """A value that does not name a file and a function."""
        if not self.file.endswith(".py") or not self.metric.isidentifier():
            what = f'got "{self.python}"'
            yield Conflict((f"{key}.python",), what, 'write a file and a function: `python = "rewards.py:name"`')

    def find(self, folders: Sequence[Path]) -> Path:
        """The file in the first of the folders that has it. Raises `UsageError`."""
        given = Path(self.file).expanduser()
        for folder in folders:
            if (file := folder / given).is_file():
                return file
        looked = ", ".join(str(folder) for folder in folders)
        raise UsageError(Problem(self.file, "no such file", f"looked in {looked}"))

    def scorer(self, folders: Sequence[Path]) -> Scorer:
        """The function. Raises `UsageError` if the file cannot be run, or lacks the function."""
        file = self.find(folders)
        function = _function(file, self.metric)

        def score(batch: Sequence[Completion]) -> Scores:
            try:
                found: Scores = function(**_arguments(batch))
            except (Exception, SystemExit) as error:
                raise RewardFaultError(_problem(error, file, self.metric)) from error
            return found

        return score


def _function(file: Path, name: str) -> Callable[..., Any]:
    """Run a file and return its function. Raises `UsageError`."""
    module_name = f"lorans_reward_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(_problem(error, file, name)) from error
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(Problem(str(file), f"has no function `{name}`", did_you_mean(name, names)))
    return found  # type: ignore[no-any-return]


def _arguments(batch: Sequence[Completion]) -> dict[str, Any]:
    """The arguments by which TRL calls a reward function."""
    columns = dict.fromkeys(name for given in batch for name in given.values)
    as_turns = all(given.turns is not None for given in batch)
    return {
        **{name: [given.values.get(name) for given in batch] for name in columns},
        "prompts": [list(given.turns or ()) if as_turns else given.prompt for given in batch],
        "completions": [[{"role": "assistant", "content": given.text}] if as_turns else given.text for given in batch],
        "completion_ids": [list(given.ids) for given in batch],
    }


def _problem(error: BaseException, file: Path, name: str) -> Problem:
    """The problem of an exception in the user's own code, with the line of the file that it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    where = f"{file}:{line}" if line else str(file)
    return Problem(where, f"`{name}` raised {type(error).__name__}: {first_line(error)}", "correct the function")
