"""What is another here than it was when a run was trained: base, rows, template, code, versions, machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lora_ns import __version__
from lora_ns.answers.changed_files import Force
from lora_ns.answers.opened import reopen_base
from lora_ns.data.chat_templates import use_template
from lora_ns.data.sources import read_sources
from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.reading import is_file
from lora_ns.machine.hardware import Machine
from lora_ns.machine.libraries import versions
from lora_ns.model.files import Base
from lora_ns.model.tokenizer import recipe_tokenizer, template_hash
from lora_ns.rewards import Python
from lora_ns.run.directory import RunDir
from lora_ns.run.lineage import BASE, EARLIER, MANIFEST, ROWS, SETTINGS, SOURCES
from lora_ns.run.manifest import Manifest
from lora_ns.services.verify_lineage import CheckedLink, LineageReport, verify_lineage

Effect = Literal["changes the result", "may change the result"]

CHANGES: Effect = "changes the result"
MAY_CHANGE: Effect = "may change the result"

ABSENT = "not here"


@dataclass(frozen=True)
class Differing:
    """A part of a run that is another here."""

    name: str
    before: str
    now: str
    effect: Effect
    remedy: str = ""
    """How it becomes the same again; empty if that is obvious."""


def find_base_again(manifest: Manifest, base_path: Path | None) -> Base:
    """Find the base of a run, whether or not it is still the same. Raises `ModelError` if there is none."""
    return reopen_base(manifest, base_path, Force(lambda _: None))


def differing(
    run: RunDir, manifest: Manifest, base: Base, machine: Machine, base_path: Path | None
) -> tuple[list[Differing], list[str]]:
    """List what is another here, and notes on what could not be compared.

    Raises:
        UsageError: if a part of the run itself is damaged, so that it cannot be repeated at all.
    """
    report = verify_lineage(run.path, base_path=base_path, deep=True)
    if damaged := [link for link in report.links if link.state == "broken" and link.name in _NEEDED]:
        raise UsageError(Problem(link.file, f"the run is damaged: {link.what}", link.remedy) for link in damaged)
    found = list(_of_base(manifest, base, report))
    data, notes = _of_data(manifest, report)
    found += [*data, *_of_template(run, manifest, base, notes), *_of_code(run, manifest)]
    found += [*_of_versions(manifest), *_of_machine(manifest, machine)]
    return found, notes


_NEEDED = (MANIFEST, "lineage.json", SETTINGS, EARLIER, ROWS)
"""Links of a run from which it is repeated. Nothing else has to be there but the base."""


def _of_base(manifest: Manifest, base: Base, report: LineageReport) -> Iterator[Differing]:
    record = manifest.base
    remedy = f"restore {base.path}, or name the folder of {record.name} as it was with `--base`"
    if not base.is_fingerprint(record.fingerprint):
        yield Differing("base", record.fingerprint, base.fingerprint, CHANGES, remedy)
    elif link := _broken(report, BASE):
        yield Differing(f"base: {Path(link.file).name}", link.expected, link.found, CHANGES, remedy)
    if base.tokenizer_fingerprint != record.tokenizer_fingerprint:
        yield Differing("tokenizer", record.tokenizer_fingerprint, base.tokenizer_fingerprint, CHANGES, remedy)


def _of_data(manifest: Manifest, report: LineageReport) -> tuple[list[Differing], list[str]]:
    """Compare the files that rows were read from; the hub's rows, and those of old runs, are read again."""
    remedy = "restore the file; with `--force` the run trains on the rows that it has kept"
    if link := _broken(report, SOURCES):
        return [Differing(f"data: {link.file}", link.expected, link.found, CHANGES, remedy)], []
    gone = [file.path for file in manifest.sources if not is_file(Path(file.path))]
    if gone:
        return [], [f"{path} is not there any more: the run trains on the rows that it has kept" for path in gone]
    if manifest.sources or manifest.recipe.dataset.streaming or manifest.folder is None:
        return [], []
    try:
        rows = read_sources(manifest.recipe, Path(manifest.folder))
    except LoransError as error:
        return [], [f"the rows could not be compared with their source: {error.problems[0]}"]
    parts = [
        ("data: training rows", manifest.data.train, rows.train),
        ("data: evaluation rows", manifest.data.eval, rows.eval),
    ]
    return [
        Differing(name, record.sha256, source.sha256, CHANGES, remedy)
        for name, record, source in parts
        if record and source and record.sha256 != source.sha256
    ], []


def _of_template(run: RunDir, manifest: Manifest, base: Base, notes: list[str]) -> Iterator[Differing]:
    """Compare the chat template that the run would have today."""
    if importlib.util.find_spec("transformers") is None:
        notes.append("the chat template was not compared: `transformers` is not installed")
        return
    try:
        tokenizer = recipe_tokenizer(base, manifest.recipe.model)
        if manifest.recipe.objective.rendering.chat_template is not None:
            use_template(manifest.recipe, Path(manifest.folder or run.path), tokenizer)
        now = template_hash(tokenizer) or "none"
    except LoransError as error:
        now = error.problems[0].what
    if now != (before := manifest.chat_template_sha256 or "none"):
        remedy = "restore it; with `--force` the run trains with the template that it has kept"
        yield Differing("chat template", before, now, CHANGES, remedy)


def _of_code(run: RunDir, manifest: Manifest) -> Iterator[Differing]:
    """Compare the code of rewards with the copies of the run."""
    folders = [*([Path(manifest.folder)] if manifest.folder else []), Path.cwd()]
    for reward in manifest.recipe.objective.reward_functions:
        if not isinstance(reward, Python):
            continue
        kept, found = run.code / reward.file, _text(reward, folders)
        if found is not None and is_file(kept) and found != kept.read_text(encoding="utf-8"):
            remedy = "restore it; with `--force` the run trains with the code that it has kept"
            yield Differing(f"reward code: {reward.file}", "the run's copy", "another text", CHANGES, remedy)


def _text(reward: Python, folders: list[Path]) -> str | None:
    try:
        return reward.find(folders).read_text(encoding="utf-8")
    except (LoransError, OSError, UnicodeDecodeError):
        return None  # the run has its copy


def _of_versions(manifest: Manifest) -> Iterator[Differing]:
    before, now = {**manifest.packages, "lorans": manifest.lorans}, {**versions(), "lorans": __version__}
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            remedy = (
                f"`pip install {name}=={before[name]}`" if name in before and name not in {"python", "lorans"} else ""
            )
            yield Differing(name, before.get(name, ABSENT), now.get(name, ABSENT), MAY_CHANGE, remedy)


def _of_machine(manifest: Manifest, machine: Machine) -> Iterator[Differing]:
    before, now = _facts(manifest.machine), _facts(asdict(machine))
    computed_by = ("GPU", "driver") if manifest.plan.device.value == "cuda" else ("CPU", "instruction sets", "threads")
    for name in computed_by:
        if before[name] and before[name] != now[name]:
            yield Differing(name, before[name], now[name] or ABSENT, MAY_CHANGE)


def _facts(machine: Mapping[str, Any]) -> dict[str, str]:
    """The facts of a machine that decide how it computes; empty where a run of an old version has not recorded them."""
    gpus = machine.get("gpus") or ()
    return {
        "CPU": str(machine.get("cpu") or ""),
        "instruction sets": " ".join(machine.get("instruction_sets") or ()),
        "threads": str(machine.get("cores") or ""),
        "GPU": ", ".join(str(gpu["name"]) for gpu in gpus),
        "driver": ", ".join(sorted({str(gpu["driver"]) for gpu in gpus})),
    }


def _broken(report: LineageReport, name: str) -> CheckedLink | None:
    return next((link for link in report.links if link.name == name and link.state == "broken"), None)
