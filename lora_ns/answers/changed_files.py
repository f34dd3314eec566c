"""Files of a run that are not what the run saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lora_ns.errors import Problem, UsageError
from lora_ns.files.disk import sha256_file
from lora_ns.files.safetensors import read_header
from lora_ns.model.adapter import WEIGHTS, add_adapter
from lora_ns.model.adapter_config import UNKNOWN_STEPS
from lora_ns.model.files import TOKENIZER_FILES, Base
from lora_ns.model.load import empty_base, make_room
from lora_ns.model.saved_adapter import check_names_saved
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest


@dataclass(frozen=True)
class Force:
    """What becomes of a run whose base, tokenizer, template or adapter is not the one that it was trained with.

    It is refused; or, if `tell` is given, that is told and the run is used all the same.
    """

    tell: Callable[[str], None] | None = None
    hint: str = "; `--force` goes on all the same"

    def refuse(self, problem: Problem, kind: type[UsageError] = UsageError) -> None:
        """Raise the problem as an error, or tell it."""
        if self.tell is None:
            raise kind(replace(problem, remedy=f"{problem.remedy}{self.hint}"))
        self.tell(str(replace(problem, remedy="")))


REFUSED = Force()


REFUSED_ALWAYS = Force(hint="")
"""For commands that have no `--force`."""


def check_unchanged(run: RunDir, manifest: Manifest, base: Base, names: set[str], force: Force) -> None:
    """Hold the files of a run's adapter against what the run wrote down.

    Args:
        run: the run.
        manifest: of the run.
        base: the base that it is opened on.
        names: of the adapter's tensors.
        force: what becomes of files that were changed.

    Raises:
        UsageError: with the file that is not the one that the run saved.
    """
    _check_adapter(run, manifest, base, names, force)
    for name in sorted(manifest.adapter.keys() & set(TOKENIZER_FILES)):
        if not _is_saved(run, manifest, name):
            what = "the tokenizer is not the one that the run was trained with"
            force.refuse(Problem(str(run.adapter / name), what, "restore it"))
    _check_others(run, manifest, force)


def names_saved(run: RunDir, manifest: Manifest) -> set[str]:
    """The names of the adapter's tensors. Raises `UsageError` if there is no adapter, or its file is not whole."""
    if not (run.adapter / WEIGHTS).is_file():
        remedy = f"`lorans train {run.path} --resume` finishes it" if manifest.status != "finished" else "train again"
        raise UsageError(Problem(str(run.path), f"no adapter: the run is {manifest.status}", remedy))
    return set(read_header(run.adapter / WEIGHTS, "restore it, or train again")[0])


def _is_saved(run: RunDir, manifest: Manifest, name: str) -> bool:
    """Whether a file of the adapter is the one that the run saved, as far as it has written that down."""
    file = run.adapter / name
    return name not in manifest.adapter or (file.is_file() and sha256_file(file) == manifest.adapter[name])


def _check_adapter(run: RunDir, manifest: Manifest, base: Base, names: set[str], force: Force) -> None:
    changed = [name for name in ("adapter_config.json", WEIGHTS) if not _is_saved(run, manifest, name)]
    if WEIGHTS in changed and manifest.recipe.peft.capabilities.empty_base:
        recipe = manifest.recipe
        empty = empty_base(base, recipe.task_type, recipe.model.trust_remote_code)
        make_room(empty, manifest.added_tokens)
        steps = manifest.plan.max_steps.value or UNKNOWN_STEPS
        check_names_saved(
            run.adapter,
            names,
            add_adapter(
                empty,
                recipe.peft.plainly_started().with_rows(manifest.added_tokens),
                recipe.task_type,
                base,
                steps,
            ),
        )
    for name in changed:
        remedy = "restore it; a changed adapter loads with PEFT, without lorans"
        force.refuse(Problem(str(run.adapter / name), "is not the file that the run saved", remedy))


_NAMED_APART = ("adapter_config.json", WEIGHTS, "chat_template.jinja", *TOKENIZER_FILES)
"""Files of an adapter whose changes have messages of their own."""


_READ_BY_LIBRARIES = (".bin", ".jinja", ".json", ".model", ".pt", ".py", ".safetensors")
"""How files end that transformers or PEFT may read from an adapter's folder."""


def _check_others(run: RunDir, manifest: Manifest, force: Force) -> None:
    """The rest of the adapter is what the run saved, and nothing has been added that is read; a README may have been.

    Raises:
        UsageError: with the file.
    """
    if not manifest.adapter:
        return
    for name in sorted(manifest.adapter.keys() - {*_NAMED_APART, "README.md"}):
        if not _is_saved(run, manifest, name):
            what = "is not the file that the run saved" if (run.adapter / name).is_file() else "is missing"
            force.refuse(Problem(str(run.adapter / name), what, "restore it"))
    there = {file.relative_to(run.adapter).as_posix() for file in run.adapter.rglob("*") if file.is_file()}
    for name in sorted(there - manifest.adapter.keys() - {"chat_template.jinja"}):
        if name.endswith(_READ_BY_LIBRARIES) or name in TOKENIZER_FILES:
            force.refuse(Problem(str(run.adapter / name), "is not a file that the run saved", "remove it"))
