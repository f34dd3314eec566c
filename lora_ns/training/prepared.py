"""A run before its first step: base, tokenizer and rows, either new or reopened from the run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.answers.opened import format_of, reopen_base
from lora_ns.answers.teacher import reopen_teacher
from lora_ns.data.places import Stretch, write_places
from lora_ns.data.prepared import saved_rows
from lora_ns.data.render import make_renderer
from lora_ns.data.stream import Stream, check_stream
from lora_ns.errors import ModelError, Problem, UsageError
from lora_ns.files.disk import telling_disk_errors, write_atomic
from lora_ns.files.marks import fault_of, mark_folder
from lora_ns.model.files import Base
from lora_ns.model.tokenizer import choose_pad_token, recipe_tokenizer
from lora_ns.model.vocabulary import vocabulary
from lora_ns.parallel.group import ALONE, Rank
from lora_ns.plan.rank import leaves_rank_open, with_rank_of
from lora_ns.plan.room import room_for_rows
from lora_ns.plan.settled import Settled
from lora_ns.recipe.recipe import Recipe
from lora_ns.rewards import Python
from lora_ns.run.directory import RunDir
from lora_ns.run.earlier import kept_problems
from lora_ns.run.followed import FollowedRun
from lora_ns.run.last_checkpoint import Search, check_own, search
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer
from lora_ns.training import reference, starts

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PreparedRun:
    """Everything besides the manifest that a run needs before its first step."""

    base: Base
    tokenizer: PreTrainedTokenizerBase
    data: tuple[datasets.Dataset, datasets.Dataset | None]
    stream: Stream | None = None
    """The training rows, if they are a stream; `data` then holds only its first rows."""
    rank: Rank = ALONE


def search_checkpoints(run: RunDir, manifest: Manifest, observer: Observer, from_start: bool) -> Search:
    """Find the checkpoint to resume from, and warn about damaged ones.

    Raises:
        UsageError: if every checkpoint is damaged, or the run cannot be resumed.
    """
    check_own(run.checkpoints, manifest.run_id)
    found = search(run.checkpoints, manifest.run_id)
    if found.last is None and found.damaged and not from_start:
        damaged = [Problem(str(passed.folder), passed.why) for passed in found.damaged]
        remedy = f"restore one, or start from the first step with `lorans train {run.path} --resume --from-start`"
        raise UsageError([*damaged, Problem(str(run.path), "no checkpoint is complete", remedy)])
    for passed in found.passed:
        observer.warn(f"{passed}; skipped")
    _check_resumable(run, manifest, found.last)
    if found.last is None:
        observer.warn("no complete checkpoint: starting from the first step")
    elif found.passed:
        observer.warn(f"resuming from {found.last[0].name}")
    return found


def remember_base(run: RunDir, manifest: Manifest, moved: Path | None) -> Manifest:
    """Record the new path of a moved base, for all processes. Raises `ModelError` if it is a different base."""
    if moved is None:
        return manifest
    found = reopen_base(manifest, moved)
    return run.update(base=manifest.base.model_copy(update={"moved_to": str(found.path)}))


def with_settled_rank(manifest: Manifest, settled: Settled) -> Recipe:
    """The recipe with the default rank that its run began with, since earlier versions had another default.

    Nothing changes if either recipe sets a rank.
    """
    begun, rank, recipe = manifest.recipe.peft, manifest.plan.rank, settled.recipe
    if begun.tag() != recipe.peft.tag() or not leaves_rank_open(settled) or rank.origin != "default":
        return recipe
    other = type(begun).model_validate({"method": begun.tag()}) if rank.value is None else begun
    return recipe.model_copy(update={"peft": with_rank_of(recipe.peft, other)})


def reopen_prepared(run: RunDir, manifest: Manifest, base: Base) -> PreparedRun:
    """Reopen base, tokenizer and rows of a run from its directory. Raises `LoransError`."""
    if base.tokenizer_fingerprint != manifest.base.tokenizer_fingerprint:
        what = "the base's tokenizer is not the one that the run was started with"
        raise ModelError(Problem(str(base.path), what, "restore it, or start a new run"))
    if manifest.teacher:
        reopen_teacher(manifest.teacher)
    tokenizer = recipe_tokenizer(base, manifest.recipe.model)
    if manifest.chat_template is not None:
        tokenizer.chat_template = manifest.chat_template
    choose_pad_token(tokenizer, manifest.stop_token_ids)
    if not isinstance(run, FollowedRun):  # one rank of each machine checks
        _check_kept(run, manifest)
    stream = _reopen_stream(run, manifest, tokenizer, base) if manifest.recipe.dataset.streaming else None
    return PreparedRun(base, tokenizer, _load_data(run, manifest), stream)


def _check_kept(run: RunDir, manifest: Manifest) -> None:
    """Check that the run's rows, initialisation and adapters of earlier runs are intact.

    Raises:
        UsageError: names the file.
    """
    for problem in kept_problems(run, manifest, starts=True):
        raise UsageError(problem)
    for folder, remedy in (
        (run.data, "start a new run with `--overwrite`, which reads the rows again"),
        (run.start, "start a new run with `--overwrite`"),
        (run.reference, "start a new run with `--overwrite`"),
    ):
        if folder.is_dir() and (fault := fault_of(folder)):
            raise UsageError(Problem(str(folder / fault.name), fault.what, f"restore it, or {remedy}"))


def _reopen_stream(run: RunDir, manifest: Manifest, tokenizer: PreTrainedTokenizerBase, base: Base) -> Stream:
    """The stream that a run was started on. Raises `UsageError` if its files have changed."""
    recipe = manifest.recipe
    if not isinstance(run, FollowedRun):  # one rank of each machine checks
        check_stream(recipe.dataset, manifest.data.train)
    return Stream(
        recipe,
        format_of(manifest),
        make_renderer(
            tokenizer,
            manifest.stop_token_ids,
            recipe.objective.rendering,
            vocabulary(base, tokenizer, manifest.added_tokens),
        ),
        manifest.labels,
        [Path(file.path) for file in manifest.data.train.files],
        room_for_rows(recipe, base.facts),
    )


def _check_resumable(run: RunDir, manifest: Manifest, checkpoint: tuple[Path, int] | None) -> None:
    """Check that the run can be resumed from a checkpoint. Raises `UsageError`."""
    method = manifest.recipe.peft
    resumes = method.capabilities.resume
    if checkpoint is not None and manifest.recipe.peft.starts_later and not starts.is_kept(run.start):
        what = "the adapter's initialisation is missing, and the checkpoint depends on it"
        raise UsageError(Problem(str(run.start), what, "restore it, or start a new run with `--overwrite`"))
    if checkpoint is not None and manifest.recipe.objective.refers_once and not reference.is_kept(run.reference):
        what = "the log-probabilities of the reference are missing, and the checkpoint depends on them"
        raise UsageError(Problem(str(run.reference), what, "restore them, or start a new run with `--overwrite`"))
    if checkpoint is not None and resumes is not True:
        what = f"a run with {method.method} cannot be resumed: {resumes}"
        raise UsageError(Problem(str(run.path), what, "start a new run with `--overwrite`"))


def save_data(
    run: RunDir, data: tuple[datasets.Dataset, datasets.Dataset | None], places: Sequence[Stretch] = ()
) -> None:
    """Save the rows so that the run can be resumed; of a stream, only the first rows, which show its columns."""
    with telling_disk_errors(run.data):
        data[0].save_to_disk(str(run.data / "train"))
        if data[1] is not None:
            data[1].save_to_disk(str(run.data / "eval"))
        if places:
            write_places(run.places, places)
    mark_folder(run.data)


def folders_of(manifest: Manifest) -> list[Path]:
    """Folders in which the files of a recipe are looked up: its own, and the current one."""
    return [*([Path(manifest.folder)] if manifest.folder else []), Path.cwd()]


def copy_code(run: RunDir, recipe: Recipe, folders: Sequence[Path]) -> None:
    """Copy the Python files of reward functions into the run. Raises `UsageError` if one is missing."""
    for reward in recipe.objective.reward_functions:
        if isinstance(reward, Python):
            file = run.code / reward.file
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, reward.find(folders).read_text(encoding="utf-8"))


def _load_data(run: RunDir, manifest: Manifest) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    try:
        train_rows = saved_rows(run.data / "train")
        eval_rows = saved_rows(run.data / "eval") if manifest.data.eval else None
    except ValueError as error:
        what = f"the rows of the run cannot be read: {error}"
        raise UsageError(Problem(str(run.data), what, "restore them, or start a new run with `--overwrite`")) from None
    return train_rows, eval_rows
