"""`reproduce`: a new run from the record of another one, whose adapter must have the same hash."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_ns.answers.opened import record_base
from lora_ns.errors import MissingError, Problem, UsageError
from lora_ns.files.disk import check_space, now, telling_disk_errors
from lora_ns.files.reading import is_file, is_folder, read_text
from lora_ns.launch.ranks import forget_strays
from lora_ns.launch.torchrun import check_not_launched
from lora_ns.machine import libraries
from lora_ns.machine.hardware import Machine, detect
from lora_ns.machine.packages import check_packages
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import Base
from lora_ns.model.tokenizer import template_hash
from lora_ns.parallel.stop import StopSignal
from lora_ns.recipe.distributed import is_launched
from lora_ns.recipe.tracking import Tracking
from lora_ns.run.directory import RunDir, new_run_id
from lora_ns.run.lineage import begin_chain
from lora_ns.run.manifest import Manifest
from lora_ns.run.metrics import read_metrics
from lora_ns.run.observer import Observer
from lora_ns.services.execute import execute_here, execute_ranks, initialise_for_ranks
from lora_ns.services.reproduce.compare import Apart, apart
from lora_ns.services.reproduce.differences import CHANGES, Differing, differing, find_base_again
from lora_ns.training.prepared import reopen_prepared

SUFFIX = "-reproduced"
"""End of the name of the new run, unless another is given."""


@dataclass(frozen=True)
class Reproduction:
    """The result of `lorans reproduce`."""

    run: str
    output: str | None
    """The new run; None with `--check`."""
    differing: tuple[Differing, ...]
    """What is another here than it was when the run was trained."""
    notes: tuple[str, ...]
    expected: str
    """SHA-256 of the adapter's weights."""
    found: str | None = None
    """The same of the new run."""
    apart: Apart | None = None
    """How far the adapters are apart; None if they are the same."""
    lineage: str | None = None
    """The tip of the new run's lineage."""
    end: str | None = None
    """How the run came to its end, and how the new one does; None for all steps, of which none was skipped."""

    @property
    def is_same(self) -> bool:
        """True if the new adapter is the old one, bit for bit."""
        return self.found == self.expected

    @property
    def is_refused(self) -> bool:
        """True if something here surely changes the result."""
        return any(one.effect == CHANGES for one in self.differing)


def check(run: RunDir, base_path: Path | None = None) -> Reproduction:
    """List what is another here than it was when a run was trained, and train nothing.

    Raises:
        UsageError: if the run is not finished or is damaged.
        ModelError: if its base is not here.
    """
    manifest = _finished(run)
    found, notes = differing(run, manifest, find_base_again(manifest, base_path), detect(), base_path)
    return Reproduction(
        str(run.path),
        None,
        tuple(found),
        (*notes, *_expectations(manifest)),
        manifest.adapter.get(WEIGHTS, ""),
        end=_end(run, manifest),
    )


def reproduce(
    run: RunDir,
    observer: Observer,
    noise: libraries.Noise,
    output: Path | None = None,
    base_path: Path | None = None,
    is_forced: bool = False,
) -> Reproduction:
    """Train a run again from its own record: recipe as settled, plan, rows, code, earlier adapters, seed.

    Args:
        run: the run, which is only read.
        observer: receives progress and warnings.
        noise: library output, written to the log of the new run.
        output: directory of the new run; None for that of the run, with `SUFFIX`.
        base_path: path to the base model, if it has moved.
        is_forced: train although something here surely changes the result.

    Raises:
        UsageError: if the run is not finished or is damaged, something here surely changes the result, or the output
            is not free.
        MissingError: if a package or a device of the run is not here.
        LoransError: like `train`.
    """
    check_not_launched(os.environ)
    manifest, machine = _finished(run), detect()
    new = RunDir((output or run.path.with_name(f"{run.path.name}{SUFFIX}")).absolute())
    _check_place(run, new)
    check_packages(manifest.recipe)
    _check_machine(run, manifest, machine)
    observer.stage("comparing base, rows and versions with the run")
    base = find_base_again(manifest, base_path)
    found, notes = differing(run, manifest, base, machine, base_path)
    notes += _expectations(manifest)
    if not is_forced:
        _refuse(found)
    end = _end(run, manifest)
    for text in (*notes, *([end] if end else []), *(f"{_shown(one)}, which {one.effect}" for one in found)):
        observer.warn(text)
    again = _again(run, manifest, base, machine, new)
    trained = _train(run, again, base, machine, new, observer, noise)
    expected, weights = manifest.adapter.get(WEIGHTS, ""), new.read().adapter[WEIGHTS]
    return Reproduction(
        str(run.path),
        str(new.path),
        tuple(found),
        tuple(notes),
        expected,
        weights,
        None if weights == expected else apart(run, new),
        trained,
        end,
    )


def _finished(run: RunDir) -> Manifest:
    """The manifest of a run that has an adapter to compare with. Raises `UsageError`."""
    manifest = run.read()
    if manifest.status != "finished" or not manifest.adapter:
        what = f"there is no adapter to compare with: the run is {manifest.status}"
        raise UsageError(Problem(str(run.path), what, f"`lorans train {run.path} --resume` finishes it"))
    if manifest.recipe.distributed.nodes > 1:
        what = f"the run was trained on {manifest.recipe.distributed.nodes} machines"
        raise UsageError(Problem(str(run.path), what, "repeat it with `lorans train recipe.toml` on each of them"))
    return manifest


def _check_place(run: RunDir, new: RunDir) -> None:
    """Refuse a place in the run, or one that is not free. Raises `UsageError`."""
    if run.holds(new.path):
        raise UsageError(Problem(str(new.path), "is in the run that is repeated", "choose another `--output`"))
    new.check_free(overwrite=False)


def _check_machine(run: RunDir, manifest: Manifest, machine: Machine) -> None:
    """Check that this machine has the devices of the run. Raises `MissingError`."""
    count, device = manifest.plan.world_size.value, manifest.plan.device.value
    if machine.accelerator == device and not (device == "cuda" and len(machine.gpus) < count):
        return
    what = f"was trained by {count} process{'es' * (count > 1)} on {device}, and this machine has "
    what += f"{len(machine.gpus)} GPUs" if device == "cuda" else f"{machine.accelerator} instead"
    raise MissingError(Problem(str(run.path), what, "repeat it on a machine of this kind, or train the recipe anew"))


def _refuse(found: Sequence[Differing]) -> None:
    """Refuse to train with what surely gives another result. Raises `UsageError`, naming each."""
    problems = [
        Problem("", f"{_shown(one)}, which {one.effect}", one.remedy or "restore it")
        for one in found
        if one.effect == CHANGES
    ]
    if problems:
        raise UsageError([*problems, Problem("", "the run would not be repeated", "use `--force` to train anyway")])


def _shown(one: Differing) -> str:
    return f"{one.name} was {one.before}, and is {one.now} now"


def _expectations(manifest: Manifest) -> list[str]:
    """What is known beforehand about the adapter of a repeated run."""
    device, count, training = manifest.plan.device.value, manifest.plan.world_size.value, manifest.recipe.training
    is_deterministic = getattr(training, "full_determinism", False) or training.extra.get("full_determinism")
    notes = []
    if device != "cpu" and not is_deterministic:
        what = f"the run was trained on {device} without `training.full_determinism`"
        notes.append(f"{what}: kernels may add in another order, and the adapter may differ in its last digits")
    if count > 1:
        notes.append(
            f"{count} processes may add their gradients in another order on another number of machines or GPUs"
        )
    if manifest.recipe.objective.uses_vllm:
        notes.append("completions of vLLM depend on how it batches them: another adapter is expected")
    return notes


def _end(run: RunDir, manifest: Manifest) -> str | None:
    """How a run came to its end, and how the new one does; None for all steps, of which none was skipped."""
    found, last = [], _last_step(run, manifest)
    if manifest.ended_in_time:
        found.append(f"its time limit ended it after step {last:,}: the new run ends there, whatever time it takes")
    elif manifest.ended:
        found.append(f"early stopping ended the run after step {last:,}: the new run decides again at each evaluation")
    if is_file(run.bad_batch):
        found.append(
            f"the run skipped steps without a finite gradient ({run.bad_batch.name}): "
            "the new run skips them too if rows or rate are the cause, and not if the hardware was"
        )
    return "; ".join(found) or None


def _last_step(run: RunDir, manifest: Manifest) -> int:
    """The last step of a finished run; its adapter may be that of an earlier one."""
    return max((row["step"] for row in read_metrics(run.metrics).rows), default=manifest.adapter_step or 0)


def _again(run: RunDir, manifest: Manifest, base: Base, machine: Machine, new: RunDir) -> Manifest:
    """The manifest of the new run before its first step: what determines the result is that of the old one."""
    recipe = manifest.recipe
    training = recipe.training.model_copy(update={"output_dir": str(new.path), "max_time": None})
    record = record_base(base).model_copy(update={"name": manifest.base.name})
    same = base.is_fingerprint(manifest.base.fingerprint)
    return Manifest(
        run_id=new_run_id(),
        created=now(),
        updated=now(),
        recipe=recipe.model_copy(update={"training": training, "tracking": Tracking()}),
        base=record.model_copy(update={"fingerprint": manifest.base.fingerprint}) if same else record,
        overrides=(*manifest.overrides, f"training.output_dir={json.dumps(str(new.path))}"),
        chat_template=manifest.chat_template or _kept_template(run, manifest, base),
        packages=libraries.versions(),
        machine=asdict(machine),
        reproduces=manifest.run_id,
        ends_at=_last_step(run, manifest) if manifest.ended_in_time else None,
        **{name: getattr(manifest, name) for name in _KEPT},
    )


_KEPT = (
    *(
        "folder",
        "plan",
        "teacher",
        "data",
        "sources",
        "init_adapter",
        "base_adapters",
        "seed",
        "is_forced",
    ),
    *("chat_template_sha256", "stop_token_ids", "added_tokens", "labels", "problem_type"),
)
"""Fields of the manifest that determine the result, or say what it was made from."""


def _kept_template(run: RunDir, manifest: Manifest, base: Base) -> str | None:
    """The template that the adapter was saved with, if the base has another one now."""
    from lora_ns.model.tokenizer import recipe_tokenizer

    if template_hash(recipe_tokenizer(base, manifest.recipe.model)) == manifest.chat_template_sha256:
        return None
    file = run.adapter / "chat_template.jinja"
    return read_text(file) if is_file(file) else None


def _train(
    run: RunDir,
    manifest: Manifest,
    base: Base,
    machine: Machine,
    new: RunDir,
    observer: Observer,
    noise: libraries.Noise,
) -> str | None:
    """Train the new run; returns the tip of its lineage. If it is interrupted, `train --resume` continues it."""
    processes = manifest.plan.world_size.value
    observer.stage("loading the libraries")
    surroundings = forget_strays(observer, processes)
    libraries.prepare(machine, processes)
    check_space(new.path, 200_000_000 + 16 * (manifest.plan.adapter_parameters.value or 0))
    with StopSignal().listening(_remedy(new)) as stop, new.held():
        new.check_free(overwrite=False)  # another process may have created it meanwhile
        manifest = new.create(run.recipe.read_text(encoding="utf-8"), manifest)
        noise.attach(new.log)
        _copy_inputs(run, new, manifest)
        begin_chain(new, manifest, base)
        prepared = reopen_prepared(new, manifest, base)
        if is_launched(manifest.recipe.distributed, processes):
            initialise_for_ranks(new, manifest, machine, observer)
            return execute_ranks(new, surroundings, machine, observer, stop).lineage
        return execute_here(new, prepared, observer, None, stop).lineage


def _remedy(new: RunDir) -> Callable[[], str]:
    def message() -> str:
        return (
            f"`lorans train {new.path} --resume` continues it" if is_file(new.manifest_file) else "repeat the command"
        )

    return message


def _copy_inputs(run: RunDir, new: RunDir, manifest: Manifest) -> None:
    """Copy what a run has of its inputs: rows, code, and adapters of earlier runs."""
    start = [run.start] if manifest.init_adapter else []  # any other initialisation is computed again
    with telling_disk_errors(new.path):
        for folder in (run.data, run.code, run.base_adapters, *start):
            if is_folder(folder):
                shutil.copytree(folder, new.path / folder.name, dirs_exist_ok=True)
