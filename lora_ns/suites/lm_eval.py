"""`lm-eval`: a task of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lora_ns.errors import Problem, UsageError
from lora_ns.statistics import Measure, mean, share
from lora_ns.suites.base import Asks, Gold, Suite
from lora_ns.table import Conflict, Name


class LmEvalSuite(Suite):
    """The figures of a task of lm-evaluation-harness, which makes the prompts, asks them and scores the answers."""

    kind: Literal["lm-eval"] = "lm-eval"
    task: Name
    """Name of a task, group or tag of the harness, such as `arc_easy`. It is also the name of the suite."""
    include_path: Name | None = None
    """Folder with task files in YAML, relative to the recipe; they replace the tasks that the harness brings."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Number of solved examples before each question; default: that of the task."""
    apply_chat_template: bool | None = None
    """Ask in the chat template of the run; default: true if it has one and was trained on conversations."""
    allow_code: bool = False
    """Allow the task files of `include_path` to run their Python code and templates on this machine."""

    asks: ClassVar[Asks] = "itself"
    package: ClassVar[str] = "lm_eval"
    extra: ClassVar[str] = "lm-eval"

    @property
    def title(self) -> str:
        """Name in reports and gates: that of the task, unless it has its own."""
        return self.name or self.task

    @property
    def asks_run_rows(self) -> bool:
        """False: the task has rows of its own."""
        return False

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """A file of rows, which the harness does not read, and code that is not allowed."""
        if self.path is not None:
            what = f"the suite `{self.title}` has the rows of its task"
            yield Conflict((f"{key}.path",), what, "remove it; `include_path` names a folder of task files")
        if self.include_path is not None and not self.allow_code:
            what = "task files can run code: Python functions, and templates that are not confined"
            yield Conflict((f"{key}.include_path",), what, "read them, then write `allow_code = true`")

    def check_allowed(self) -> None:
        """Check that code of its task files may run. Raises `UsageError`."""
        if self.include_path is not None and not self.allow_code:
            what = f"the task files of the suite `{self.title}` can run code on this machine"
            remedy = "read them, then add `--allow-code` (in a recipe, `allow_code = true`)"
            raise UsageError(Problem(self.include_path, what, remedy))

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """The metrics of the task.

        Args:
            golds: the items.
            answers: for each item, a mapping with its `scores`: by metric, a number, or a truth value if the metric is
                a share of the items.
        """
        del golds
        figures = {name: [answer["scores"][name] for answer in answers] for name in answers[0]["scores"]}
        return {
            name: share(values) if isinstance(values[0], bool) else mean(values) for name, values in figures.items()
        }
