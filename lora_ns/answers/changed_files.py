"""Detection of run files that have changed since the run saved them."""

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
from lora_ns.run.lineage import LINEAGE
from lora_ns.run.manifest import Manifest


@dataclass(frozen=True)
class Force:
    """The response to a run whose base, tokenizer, template or adapter does not match its manifest.

    Without `tell` the run is refused. With `tell` the mismatch is reported through it, and the run is used anyway.
    """

    tell: Callable[[str], None] | None = None
    hint: str = "; use `--force` to continue anyway"

    def refuse(self, problem: Problem, kind: type[UsageError] = UsageError) -> None:
        """Raise the problem as an error of this kind, or report it if the mismatch is tolerated."""
        if self.tell is None:
            raise kind(replace(problem, remedy=f"{problem.remedy}{self.hint}"))
        self.tell(str(replace(problem, remedy="")))


REFUSED = Force()


REFUSED_ALWAYS = Force(hint="")
"""The policy of commands without a `--force` option."""


def check_unchanged(run: RunDir, manifest: Manifest, base: Base, names: set[str], force: Force) -> None:
    """Compare the files of a run's adapter with their hashes in the manifest.

    Args:
        run: the run.
        manifest: the run's manifest.
        base: the base that the run is opened on.
        names: names of the adapter's tensors.
        force: the response to a changed file.

    Raises:
        UsageError: names the file that the run did not save in this form.
    """
    _check_adapter(run, manifest, base, names, force)
    for name in sorted(manifest.adapter.keys() & set(TOKENIZER_FILES)):
        if not _is_saved(run, manifest, name):
            what = "this is not the tokenizer that the run was trained with"
            force.refuse(Problem(str(run.adapter / name), what, "restore it"))
    _check_others(run, manifest, force)


def names_saved(run: RunDir, manifest: Manifest) -> set[str]:
    """The names of the adapter's tensors. Raises `UsageError` if the adapter is missing or its file is incomplete."""
    if not (run.adapter / WEIGHTS).is_file():
        goes_on = f"`lorans train {run.path} --resume` finishes it, `--checkpoint last` uses its last checkpoint"
        remedy = goes_on if manifest.status != "finished" else "train again"
        raise UsageError(Problem(str(run.path), f"no adapter: the run is {manifest.status}", remedy))
    return set(read_header(run.adapter / WEIGHTS, "restore it, or train again")[0])


def _is_saved(run: RunDir, manifest: Manifest, name: str) -> bool:
    """Check a file of the adapter against its recorded hash; true if the run recorded none."""
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
        remedy = "restore it, or load the changed adapter with PEFT instead of lorans"
        force.refuse(Problem(str(run.adapter / name), "is not the file that the run saved", remedy))


_NAMED_APART = ("adapter_config.json", WEIGHTS, "chat_template.jinja", *TOKENIZER_FILES)
"""Adapter files whose changes are reported by their own messages."""


_READ_BY_LIBRARIES = (".bin", ".jinja", ".json", ".model", ".pt", ".py", ".safetensors")
"""Suffixes of files that transformers or PEFT may read from an adapter's folder."""


def _check_others(run: RunDir, manifest: Manifest, force: Force) -> None:
    """Check that the adapter's other files are unchanged and that no file was added that a library would read.

    README.md may be changed or added.

    Raises:
        UsageError: names the file.
    """
    if not manifest.adapter:
        return
    for name in sorted(manifest.adapter.keys() - {*_NAMED_APART, "README.md"}):
        if not _is_saved(run, manifest, name):
            what = "is not the file that the run saved" if (run.adapter / name).is_file() else "is missing"
            force.refuse(Problem(str(run.adapter / name), what, "restore it"))
    there = {file.relative_to(run.adapter).as_posix() for file in run.adapter.rglob("*") if file.is_file()}
    for name in sorted(there - manifest.adapter.keys() - {"chat_template.jinja", LINEAGE}):
        if name.endswith(_READ_BY_LIBRARIES) or name in TOKENIZER_FILES:
            force.refuse(Problem(str(run.adapter / name), "is not a file that the run saved", "remove it"))
