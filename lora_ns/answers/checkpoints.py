"""`--checkpoint`: a run, finished or not, with the adapter of a checkpoint or of its best evaluation."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.opened import reopen_base
from lora_ns.errors import Problem, UsageError
from lora_ns.files.marks import MARK
from lora_ns.files.reading import is_file
from lora_ns.files.temporary import temporary_folder
from lora_ns.model.adapter import WEIGHTS, as_saved
from lora_ns.model.consent import carry_over
from lora_ns.model.tokenizer import choose_pad_token, generation_settings, load_tokenizer
from lora_ns.recipe.best_metric import best_metric
from lora_ns.run.at_step import RunAtStep
from lora_ns.run.best_adapter import Best, find_best
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import usable, usable_steps
from lora_ns.run.lineage import BEST, Chain, chain_up_to
from lora_ns.run.manifest import Manifest

OPTION = "--checkpoint"

LAST = "last"

_OF_TRAINING = (
    *("optimizer*", "scheduler.pt", "rng_state*", "scaler.pt", "trainer_state.json", "training_args.bin"),
    *("pytorch_model_fsdp*", "latest", "zero_to_fp32.py", "early_stopping.json", "README.md", MARK),
)
"""Files of a checkpoint that are no part of its adapter."""


@contextlib.contextmanager
def at_checkpoint(
    run: RunDir,
    choice: str | None,
    tell: Callable[[str], None],
    base_path: Path | None = None,
    force: Force = REFUSED,
) -> Iterator[RunDir]:
    """Use a run with the adapter of a checkpoint.

    Args:
        run: the run.
        choice: a step, `last` or `best`; None for the run as it ended.
        tell: told which step is used.
        base_path: path to the base, if it has moved.
        force: the response to a base that does not match the manifest.

    Raises:
        UsageError: if there is no such checkpoint, or it is damaged.
        ModelError: if the base is missing or not that of the run.
    """
    if choice is None:
        yield run
        return
    manifest = run.read()
    found = _found(run, manifest, choice, tell)
    if found is None:
        tell(f"using the adapter of the run, which is of step {manifest.adapter_step:,}")
        yield run
        return
    with temporary_folder() as temporary:
        taken = temporary / "adapter"
        if isinstance(found, Best):
            record = found.record
            tell(f"using the best adapter, of step {record.step:,} (eval_{record.metric} {record.value:.4g})")
            chain = _chain(run, found.folder, BEST)
            _copy(found.folder, taken)
            yield RunAtStep(run.path, taken, record.step, chain)
            return
        folder, step = found
        tell(f"using the adapter of {folder.name}")
        chain = _chain(run, folder, folder.name)
        _take(run, manifest, folder, taken, base_path, force)
        yield RunAtStep(run.path, taken, step, chain)


def _found(run: RunDir, manifest: Manifest, choice: str, tell: Callable[[str], None]) -> Best | tuple[Path, int] | None:
    """Find the adapter of a choice; None for that of the run itself. Raises `UsageError`."""
    best = find_best(run, manifest.run_id)
    if choice == BEST:
        if best is None:
            raise UsageError(_no_best(run, manifest))
        return best
    if choice == LAST:
        return _last(run, manifest, best, tell)
    number = choice.removeprefix("checkpoint-").replace(",", "")
    if not number.isdecimal():
        raise UsageError(Problem(OPTION, f"`{choice}` is no step", f"write a step, `{LAST}` or `{BEST}`"))
    return _of_step(run, manifest, best, int(number))


def _last(run: RunDir, manifest: Manifest, best: Best | None, tell: Callable[[str], None]) -> tuple[Path, int]:
    """The last checkpoint that is intact. Raises `UsageError`."""
    for step in reversed(usable_steps(run.checkpoints, manifest.run_id)):
        found = usable(run.checkpoints, manifest.run_id, step)
        if isinstance(found, Path):
            return found, step
        tell(f"skipped {found}")
    raise UsageError(_unknown(run, manifest, "there is no complete checkpoint", best))


def _of_step(run: RunDir, manifest: Manifest, best: Best | None, step: int) -> Best | tuple[Path, int] | None:
    """The checkpoint of a step, or the best adapter or that of the run if it is of this step. Raises `UsageError`."""
    if step in usable_steps(run.checkpoints, manifest.run_id):
        found = usable(run.checkpoints, manifest.run_id, step)
        if isinstance(found, Path):
            return found, step
        raise UsageError(Problem(str(found.folder), found.why, _others(run, manifest, best, step)))
    if best is not None and best.record.step == step:
        return best
    if manifest.status == "finished" and manifest.adapter_step == step:
        return None
    raise UsageError(_unknown(run, manifest, f"there is no complete checkpoint of step {step:,}", best))


def _no_best(run: RunDir, manifest: Manifest) -> Problem:
    what = f"{run.path} has no best adapter"
    if best_metric(manifest.recipe) is None:
        return Problem(OPTION, what, "train with `training.metric_for_best_model`, which keeps one")
    return Problem(OPTION, f"{what}: no evaluation has been made yet", _others(run, manifest, None))


def _unknown(run: RunDir, manifest: Manifest, what: str, best: Best | None) -> Problem:
    return Problem(OPTION, f"{what} in {run.path}", _others(run, manifest, best))


def _others(run: RunDir, manifest: Manifest, best: Best | None, besides: int | None = None) -> str:
    """Name what there is."""
    steps = [f"{step}" for step in usable_steps(run.checkpoints, manifest.run_id) if step != besides]
    named = [*steps, *([f"{BEST} (step {best.record.step})"] if best else [])]
    if named:
        return f"there are: {', '.join(named)}"
    return f"`lorans train {run.path} --resume` goes on" if manifest.status != "finished" else "leave it out"


def _take(run: RunDir, manifest: Manifest, folder: Path, taken: Path, base_path: Path | None, force: Force) -> None:
    """Copy the adapter of a checkpoint, with all that `adapter` of a finished run has. Raises `UsageError`."""
    if not is_file(folder / WEIGHTS):
        remedy = f"`lorans train {run.path} --resume` finishes the run, or write another step"
        raise UsageError(Problem(str(folder), f"has its weights in parts, without {WEIGHTS}", remedy))
    base = reopen_base(manifest, base_path, force)
    _copy(folder, taken)
    as_saved(taken, run.start if manifest.recipe.peft.moves_base else None)
    if manifest.recipe.model.trust_remote_code:
        carry_over(base.path, taken)
    tokenizer = load_tokenizer(taken, manifest.recipe.model.trust_remote_code)
    choose_pad_token(tokenizer, manifest.stop_token_ids)
    settings = generation_settings(base, manifest.stop_token_ids, tokenizer.pad_token_id)
    (taken / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _chain(run: RunDir, folder: Path, name: str) -> Chain | None:
    """The lineage of what is made from a checkpoint, as its mark is now. Raises `UsageError`."""
    with _telling_removal(folder):
        return chain_up_to(run, folder, name)


def _copy(folder: Path, taken: Path) -> None:
    """Copy the files of an adapter. Raises `UsageError`."""
    taken.mkdir()
    with _telling_removal(folder):
        for file in folder.iterdir():
            if file.is_file() and not any(fnmatch.fnmatch(file.name, pattern) for pattern in _OF_TRAINING):
                shutil.copyfile(file, taken / file.name)


@contextlib.contextmanager
def _telling_removal(folder: Path) -> Iterator[None]:
    """Turn the error of a checkpoint that a run in training has removed meanwhile into a `UsageError`."""
    try:
        yield
    except OSError as error:
        what = f"cannot be copied: {error.strerror}"
        raise UsageError(Problem(str(folder), what, "repeat the command: training may have removed it")) from None
