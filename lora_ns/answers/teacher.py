"""The teacher of a distillation: a model, or a finished run, whose base is loaded with its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.answers.opened import find_recorded, load, open_run, record_base
from lora_ns.errors import ModelError, PlanError, Problem, UsageError
from lora_ns.files.hub_cache import is_hub_id, offline_variable
from lora_ns.model.files import Base, find_base, not_cached
from lora_ns.model.load import Loading, load_base
from lora_ns.model.tokenizer import base_tokenizer, load_tokenizer
from lora_ns.objectives import Objective
from lora_ns.objectives.distillation import Distillation
from lora_ns.plan.checks import lacks_sdpa
from lora_ns.plan.plan import Derived
from lora_ns.plan.settled import TeacherSize
from lora_ns.recipe.rules.objective import adapted_head
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import BaseRecord, Manifest, TeacherRecord

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KEY = Distillation.key("teacher")

_SAME_FAMILY = "choose a teacher of the same family, whose vocabulary is the same"


@dataclass(frozen=True)
class Teacher:
    """A teacher that was found; weights are not loaded."""

    name: str
    """The name in the recipe."""
    base: Base
    run: RunDir | None = None
    """The run whose adapter it has."""

    @property
    def size(self) -> TeacherSize:
        """Its size, for the plan."""
        return TeacherSize(self.name, self.base.facts.parameters)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load its tokenizer. Raises `ModelError`."""
        return base_tokenizer(self.base) if self.run is None else load_tokenizer(self.run.adapter)

    def record(self) -> TeacherRecord:
        """The manifest's record of it."""
        adapter = self.run.read().adapter if self.run else {}
        run = str(self.run.path) if self.run else None
        return TeacherRecord(name=self.name, base=record_base(self.base), run=run, adapter=adapter)


def find_teacher(objective: Objective, folders: Sequence[Path], download: bool) -> Teacher | None:
    """Find the teacher of a recipe.

    Args:
        objective: the objective; most have no teacher.
        folders: search path for relative folders, in this order.
        download: True if a model that is not in the hub cache may be downloaded.

    Returns:
        The teacher; None if there is none, or if it must not be downloaded.

    Raises:
        UsageError: if it does not exist, or cannot teach; the problem has the key of the recipe.
    """
    if not isinstance(objective, Distillation):
        return None
    named = [folder / Path(objective.teacher).expanduser() for folder in folders]
    if path := next((path for path in named if RunDir(path).manifest_file.is_file()), None):
        return _of_run(objective.teacher, RunDir(path.absolute()), download)
    try:
        base = find_base(objective.teacher, objective.teacher_revision, folders, download)
    except ModelError as error:
        raise ModelError(_keyed(problem, objective.teacher) for problem in error.problems) from None
    return Teacher(objective.teacher, base) if base else None


def _keyed(problem: Problem, name: str) -> Problem:
    """Put a problem of a base in terms of the teacher."""
    if problem.where:
        return problem
    if problem.key == "model.revision":
        return replace(problem, key=Distillation.key("teacher_revision"))
    what = f"no run or folder of this name is here, and {problem.what}" if is_hub_id(name) else problem.what
    return replace(problem, what=what, key=KEY)


def _of_run(name: str, run: RunDir, download: bool) -> Teacher | None:
    """The teacher that a run trained. Raises `UsageError`."""
    manifest = run.read()
    recipe = manifest.recipe
    faults = {
        f"the run is {manifest.status}": manifest.status != "finished",
        f'it has `task_type = "{recipe.task_type}"`, and gives no probabilities of tokens': recipe.task_type
        != "CAUSAL_LM",
        f"TRL ignores the virtual tokens of {recipe.peft.method}": recipe.peft.capabilities.virtual_tokens,
        f"TRL ignores its adapter on `{adapted_head(recipe)}`": bool(adapted_head(recipe)),
    }
    if fault := next((what for what, applies in faults.items() if applies), None):
        raise UsageError(Problem("", f"{name} cannot teach: {fault}", "name another run, or a model", key=KEY))
    base = _recorded(manifest.base, name, download)
    return Teacher(name, base, run) if base else None


def _recorded(record: BaseRecord, name: str, download: bool) -> Base | None:
    """Find the base of a teacher by its record. Raises `ModelError`."""
    try:
        return find_recorded(record, download=download)
    except ModelError as error:
        found = [replace(problem, what=f"the base of {name}: {problem.what}", key=KEY) for problem in error.problems]
        raise ModelError(found) from None


def teacher_problems(objective: Objective, folders: Sequence[Path], base: Base | None) -> list[Problem]:
    """Check the teacher of a recipe without downloading it or loading its tokenizer.

    Args:
        objective: the objective.
        folders: search path for relative folders.
        base: the base that learns; None if it is not on this machine.
    """
    try:
        teacher = find_teacher(objective, folders, download=False)
    except UsageError as error:
        return list(error.problems)
    if teacher is None:
        if isinstance(objective, Distillation) and offline_variable():
            return [_keyed(not_cached(objective.teacher), objective.teacher)]
        return []
    what = _other_size(base, teacher) if base else ""
    return [Problem("", what, _SAME_FAMILY, key=KEY)] if what else []


def check_teacher(teacher: Teacher | None, base: Base, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a teacher, if there is one, has the vocabulary of the base. Raises `PlanError`."""
    if teacher is None:
        return
    what = [_other_size(base, teacher), _other_token(tokenizer, teacher)]
    if any(what):
        raise PlanError(Problem("", "; ".join(filter(None, what)), _SAME_FAMILY, key=KEY))


def _other_size(base: Base, teacher: Teacher) -> str:
    """The difference of the sizes of two vocabularies; empty if there is none."""
    own, other = base.facts.vocab_size, teacher.base.facts.vocab_size
    return "" if own == other else f"{teacher.name} has a vocabulary of {other:,}, but {base.name} has {own:,}"


def _other_token(tokenizer: PreTrainedTokenizerBase, teacher: Teacher) -> str:
    """The first difference between the tokens of two tokenizers; empty if there is none."""
    own, other = tokenizer.get_vocab(), teacher.tokenizer().get_vocab()
    if own == other:
        return ""
    number = min(number for _, number in own.items() ^ other.items())
    shown = [
        next((f"`{token}`" for token, place in tokens.items() if place == number), "missing") for tokens in (own, other)
    ]
    return f"token {number} is {shown[0]} in the base and {shown[1]} in the teacher"


def reopen_teacher(record: TeacherRecord) -> Teacher:
    """Find the teacher of a run again, and verify that it is the same.

    Raises:
        UsageError: if it is missing, or another one.
    """
    run = None if record.run is None else RunDir.open(Path(record.run))
    base = _recorded(record.base, record.name, download=True)
    assert base is not None, "with `download`, there is a base or an error"
    changed = "" if base.is_fingerprint(record.base.fingerprint) else str(base.path)
    if run and run.read().adapter != record.adapter:
        changed = str(run.path)
    if changed:
        what = f"this is not the teacher that the run was started with ({record.name})"
        raise UsageError(Problem(changed, what, "restore it, or start a new run"))
    return Teacher(record.name, base, run)


def load_teacher(manifest: Manifest) -> PreTrainedModel | PeftModel | None:
    """Load the teacher of a run, for the device and in the dtype of the run; None if it has no teacher.

    Raises:
        UsageError: if it is missing, or not the one that the run was started with.
    """
    if manifest.teacher is None:
        return None
    teacher, plan = reopen_teacher(manifest.teacher), manifest.plan
    if teacher.run is None:
        attention = "eager" if lacks_sdpa(teacher.base.facts) else "sdpa"
        loading = Loading("CAUSAL_LM", plan.dtype.value, plan.device.value, attention)
        return load_base(teacher.base, loading).requires_grad_(requires_grad=False).eval()
    opened = open_run(teacher.run, dtype=plan.dtype.value)
    there: Derived[str] = plan.device
    moved = opened.manifest.plan.model_copy(update={"device": there})
    return load(replace(opened, manifest=opened.manifest.model_copy(update={"plan": moved}))).model
