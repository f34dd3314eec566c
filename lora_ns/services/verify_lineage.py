"""`verify` without `--against`: whether the files of a run, a checkpoint or an artefact are those of its lineage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.exports.lineage import KINDS, REPORT, artefact_files, artefact_lineage, old_chain
from lora_ns.files.digests import PLAIN, Difference, first_difference
from lora_ns.files.marks import MARK, Mark, fault_of, read_mark
from lora_ns.files.reading import is_file, is_folder, read_json
from lora_ns.model.folder import ADAPTER as ADAPTER_CONFIG
from lora_ns.model.gguf import ENDING
from lora_ns.run.lineage import (
    ADAPTER,
    ANSWERS,
    BASE,
    BEST,
    EARLIER,
    FINGERPRINT,
    LINEAGE,
    MANIFEST,
    ROWS,
    RUN_ID,
    SETTINGS,
    SOURCES,
    START,
    TABLE,
    Chain,
    Link,
    ReadChain,
    chain_of_steps,
    lineage_file,
    manifest_digest,
    read_chain,
    saved_checkpoints,
    settings_of,
    source_name,
)
from lora_ns.run.paths import RunPaths
from lora_ns.run.written_manifest import WrittenManifest, checksum_of, written_manifest

State = Literal["intact", "broken", "not checked"]

READ_BASE = 256 * 1024**2
"""Bytes of a base's weights that are read without `--deep`; a larger base is compared by its fingerprint."""


@dataclass(frozen=True)
class CheckedLink:
    """A link of a lineage beside the files that it stands for."""

    name: str
    state: State
    what: str
    """What was compared, what is wrong, or why nothing could be compared."""
    file: str = ""
    """The file at fault."""
    expected: str = ""
    found: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class LineageReport:
    """The result of `lorans verify` without `--against`."""

    place: str
    kind: str
    """`run`, `checkpoint`, `adapter`, or the kind of an artefact."""
    run: str | None
    """The run that it was compared with; None if there is none here."""
    run_id: str | None
    tip: str | None
    """SHA-256 of the last link, which stands for the whole chain."""
    links: tuple[CheckedLink, ...]
    notes: tuple[str, ...] = ()
    made_from: str | None = None
    """The link of the weights in an artefact: `adapter`, `checkpoint-N` or `best`; None for anything else."""

    @property
    def is_whole(self) -> bool:
        """True if no link is broken."""
        return self.first_broken is None

    @property
    def first_broken(self) -> CheckedLink | None:
        """The first broken link, in the order in which they were made."""
        return next((link for link in self.links if link.state == "broken"), None)


def verify_lineage(
    place: Path, run: Path | None = None, base_path: Path | None = None, deep: bool = False
) -> LineageReport:
    """Compare a run, a checkpoint, an adapter or an artefact with the lineage that was written with it.

    Without its run, an artefact is verified as far as it goes.

    Args:
        place: the folder, or a GGUF file.
        run: its run, if it is not where it was.
        base_path: path to the base model, if it has moved.
        deep: also read all weights of a large base.

    Raises:
        UsageError: if it is none of these, it has no lineage, or `run` is no run.
    """
    if not is_folder(place) and not is_file(place):
        raise UsageError(Problem(str(place), "no such file or folder", "name a run or an artefact"))
    how = _How(base_path, deep)
    if is_file(place / TABLE):
        return _of_run(place, how)
    mark = read_mark(place) if is_folder(place) else None
    if isinstance(mark, Mark) and "step" in mark.extra:
        return _of_checkpoint(place, mark, _named(run) or _around(place, 2) or _around(place, 1), how)
    place = _whole_artefact(place)
    file = artefact_lineage(place)
    if file is None:
        return _without_lineage(place, _named(run) or _around(place, 1), how)
    try:
        read = _read(file)
    except _BrokenError as broken:
        return LineageReport(str(place), "artefact", None, None, None, (broken.link,))
    return _of_artefact(place, read, run, how)


@dataclass(frozen=True)
class _How:
    """How a lineage is verified."""

    base_path: Path | None
    deep: bool


# Runs


@dataclass(frozen=True)
class _Run:
    """A run whose links are compared."""

    path: Path
    manifest: WrittenManifest
    how: _How
    read: ReadChain | None = None
    """Its chain; None for a run of an old version."""
    notes: tuple[str, ...] = ()

    @cached_property
    def chain(self) -> Chain:
        """Its chain; of an unfinished run up to its checkpoints, of one of an old version what stands for it."""
        if self.read and self.manifest.status != "finished":
            return chain_of_steps(RunPaths(self.path)) or self.read.chain
        return self.read.chain if self.read else old_chain(self.manifest)

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.manifest.run_id


class _BrokenError(Exception):
    """A manifest or a chain is damaged, so that its links cannot be compared."""

    def __init__(self, link: CheckedLink) -> None:
        super().__init__(link.what)
        self.link = link


def _of_run(path: Path, how: _How) -> LineageReport:
    try:
        found = _opened(path, how)
    except _BrokenError as broken:
        return LineageReport(str(path), "run", str(path), None, None, (broken.link,))
    tip = found.read.chain.tip if found.read else None
    return LineageReport(str(path), "run", str(path), found.run_id, tip, tuple(_links_of_run(found)), found.notes)


def _opened(path: Path, how: _How) -> _Run:
    """Read manifest and chain of a run. Raises `_BrokenError` if one of them is damaged."""
    manifest, file, again = _manifest_of(path), path / LINEAGE, "restore it from a copy"
    if not is_file(file) and manifest.lineage is None:
        old = "this run began without a lineage: its files are compared with what its manifest records"
        return _Run(path, manifest, how, None, (old,))
    if not is_file(file):
        raise _BrokenError(_broken(LINEAGE, file, "is missing", str(manifest.lineage), "", again))
    read = _read(file)
    if manifest.status != "finished":
        note = f"the run is {manifest.status}: it has no adapter yet, and only what it has is verified"
        return _Run(path, manifest, how, read, (note,))
    before = Chain(tuple(link for link in read.chain.links if link.name != MANIFEST))
    tip = before.tip if before.links else ""
    if read.chain.get(MANIFEST) is None or tip != manifest.lineage:
        what = "is not the lineage that the manifest names"
        raise _BrokenError(_broken(LINEAGE, file, what, str(manifest.lineage), tip, again))
    return _Run(path, manifest, how, read)


def _manifest_of(path: Path) -> WrittenManifest:
    """The manifest of a run as it is written. Raises `_BrokenError` if it is damaged; a new one has a checksum."""
    file, remedy = path / TABLE, "restore it from a copy; the run cannot be used without it"
    try:
        table = read_json(file)
        written = table["checksum"] if table.get("lineage") or is_file(path / LINEAGE) else table.get("checksum")
        found = checksum_of({key: value for key, value in table.items() if key != "checksum"})
        if written is not None and found != written:
            raise _BrokenError(_broken(MANIFEST, file, "its checksum differs", str(written), found, remedy))
        return written_manifest(table)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _BrokenError(_broken(MANIFEST, file, "has no checksum, or is no manifest", "", "", remedy)) from None
    except LoransError as error:
        raise _BrokenError(_broken(MANIFEST, file, error.problems[0].what, "", "", remedy)) from None


def _read(file: Path) -> ReadChain:
    """Read a chain. Raises `_BrokenError` if its links do not fit together."""
    remedy = "restore the file from a copy; without it nobody can tell what the files were made from"
    try:
        read = read_chain(file)
    except LoransError as error:
        raise _BrokenError(_broken(LINEAGE, file, error.problems[0].what, "", "", remedy)) from None
    if read.broken:
        what = "its text was changed" if read.broken == LINEAGE else f"the link `{read.broken}` was changed"
        raise _BrokenError(_broken(read.broken, file, what, read.expected, read.found, remedy))
    return read


def _links_of_run(run: _Run) -> Iterator[CheckedLink]:
    """Compare each link of a run with its files, in the order in which they were made."""
    chain = run.chain
    for link in chain.links:
        yield _CHECKS.get(link.name, _check_checkpoint)(run, link)
        if link.name == BASE and run.read is None:
            yield _check_old_rows(run)
        if link.name == ROWS or (link.name == BASE and run.read is None):
            yield from _unlisted(run, chain)


def _check_base(run: _Run, link: Link) -> CheckedLink:
    record, contents = run.manifest, link.contents
    place = run.how.base_path or record.base_path
    if contents[FINGERPRINT] != record.fingerprint:
        what = "the manifest names another base"
        return _broken(BASE, run.path / TABLE, what, contents[FINGERPRINT], record.fingerprint, "restore the manifest")
    folder = place.parent if is_file(place) else place
    if not is_folder(folder):
        return CheckedLink(BASE, "not checked", f"{record.base_name} is not at {folder}; name its folder with `--base`")
    return _compare_base(folder, record, contents, run.how.deep)


def _compare_base(folder: Path, record: WrittenManifest, contents: Mapping[str, str], deep: bool) -> CheckedLink:
    files = {name: folder / name for name in contents if not name.startswith(FINGERPRINT)}
    weights = [name for name in files if name.endswith((".safetensors", ENDING))]
    size = sum(file.stat().st_size for name in weights if is_file(file := files[name]))
    reads_weights = bool(weights) and (deep or size <= READ_BASE)
    if not reads_weights:
        files = {name: file for name, file in files.items() if name not in weights}
    remedy = f"restore it: adapter and merged model belong to the base {record.base_name} as it was"
    expected = {name: contents[name] for name in files}
    if found := first_difference(files, expected):
        return _differs(BASE, folder, found, remedy)
    if reads_weights:
        return CheckedLink(BASE, "intact", f"{len(files)} files of {record.base_name}")
    other = _other_fingerprint(folder, record)
    if other is not None:
        what = "its fingerprint is another"
        return _broken(BASE, folder, what, record.fingerprint, other, remedy)
    more = "`--deep` reads all weights" if weights else "no digests of its weights were written"
    return CheckedLink(BASE, "intact", f"fingerprint of {record.base_name}: the ends of each tensor; {more}")


def _other_fingerprint(folder: Path, record: WrittenManifest) -> str | None:
    """The fingerprint of a folder, if it is not that of a base, or why it has none."""
    from lora_ns.model.files import Base

    base = Base(record.base_name, folder, record.commit, record.gguf_file)
    try:
        return None if base.is_fingerprint(record.fingerprint) else base.fingerprint
    except LoransError as error:
        return str(error.problems[0])


def _check_sources(run: _Run, link: Link) -> CheckedLink:
    """Compare the files that rows were read from, as far as they are still there."""
    named = enumerate((path for path, _ in run.manifest.sources), start=1)
    records = {source_name(number, path): path for number, path in named}
    here = {name: path for name, path in records.items() if is_file(path)}
    if found := first_difference(here, {name: link.contents[name] for name in here if name in link.contents}):
        remedy = "restore the file; the rows that the run was trained on are in its `data` folder"
        return replace(_differs(SOURCES, Path(), found, remedy), file=str(here[found.name]))
    if missing := [path for name, path in records.items() if name not in here]:
        return CheckedLink(SOURCES, "not checked", f"{missing[0]} is not there; the run has its rows")
    if not records:
        return CheckedLink(SOURCES, "not checked", "the rows were not read from files of this machine")
    return CheckedLink(SOURCES, "intact", f"{len(records)} files")


def _check_settings(run: _Run, link: Link) -> CheckedLink:
    facts = {RUN_ID: run.run_id, **settings_of(run.manifest.table)}
    for name, value in facts.items():
        if link.contents.get(name) != value:
            what = f"`{name}` of the manifest is another"
            return _broken(SETTINGS, run.path / TABLE, what, link.contents.get(name, ""), value, "restore the manifest")
    files = {name: run.path / name for name in link.contents if name not in facts}
    remedy = "restore it; the run was trained with its settings"
    return _compare(SETTINGS, run.path, files, link, remedy)


def _check_rows(run: _Run, link: Link) -> CheckedLink:
    folder = run.path / "data"
    files = {name: folder / name for name in link.contents}
    remedy = "restore it; a run cannot be resumed or reproduced from other rows"
    return _compare(ROWS, folder, files, link, remedy)


def _check_old_rows(run: _Run) -> CheckedLink:
    """Compare the rows of a run without a chain with their mark."""
    folder = run.path / "data"
    if not is_folder(folder) or (fault := fault_of(folder)) is None:
        return CheckedLink(ROWS, "intact" if is_folder(folder) else "not checked", "compared with their mark")
    return _broken(ROWS, folder / fault.name, fault.what, "", "", "restore it from a copy")


def _check_kept(run: _Run, link: Link) -> CheckedLink:
    remedy = "restore it, or start a new run with `--overwrite`"
    return _compare(link.name, run.path, {name: run.path / name for name in link.contents}, link, remedy)


def _check_adapter(run: _Run, link: Link) -> CheckedLink:
    remedy = f"restore it, or train again with `lorans reproduce {run.path}`"
    return _compare_all(link, run.path / "adapter", remedy)


def _check_answers(run: _Run, link: Link) -> CheckedLink:
    remedy = "restore it; `lorans verify FOLDER --against RUN` compares artefacts with these answers"
    return _compare(ANSWERS, run.path, {name: run.path / name for name in link.contents}, link, remedy)


def _check_manifest(run: _Run, link: Link) -> CheckedLink:
    if (found := manifest_digest(run.manifest.table)) != link.contents[TABLE]:
        what = "has changed since the run ended"
        return _broken(MANIFEST, run.path / TABLE, what, link.contents[TABLE], found, "restore it from a copy")
    return CheckedLink(MANIFEST, "intact", "recipe, plan, versions and measurements")


def _check_checkpoint(run: _Run, link: Link) -> CheckedLink:
    folder = _folder_of(run, link)
    if folder is None:
        return CheckedLink(link.name, "not checked", "it was removed, or has no mark any more")
    if found := first_difference({MARK: folder / MARK}, link.contents):
        return _differs(link.name, folder, found, "remove the checkpoint; the adapter does not need it")
    return _marked(run, folder)


def _folder_of(run: _Run, link: Link) -> Path | None:
    """The folder of a checkpoint; the best adapter up to the last checkpoint may be beside a better one."""
    paths = RunPaths(run.path)
    found = [folder for folder in saved_checkpoints(paths) if folder.name == link.name]
    if link.name == BEST and is_file(paths.best_of_checkpoint / MARK):
        found.append(paths.best_of_checkpoint)
    same = (folder for folder in found if not first_difference({MARK: folder / MARK}, link.contents))
    return next(same, found[0] if found else None)


def _unlisted(run: _Run, chain: Chain) -> Iterator[CheckedLink]:
    """Compare the checkpoints that no link lists: those of a run without an end, and of old versions."""
    for folder in saved_checkpoints(RunPaths(run.path)):
        if chain.get(folder.name) is None:
            yield _marked(run, folder)


def _marked(run: _Run, folder: Path) -> CheckedLink:
    """Compare a checkpoint with its mark, and the mark with the run."""
    remedy = "remove the checkpoint, or restore it: `train --resume` takes the one before it"
    mark = read_mark(folder)
    if not isinstance(mark, Mark):
        return _broken(folder.name, folder / MARK, str(mark), "", "", remedy)
    rows = run.chain.get(ROWS)
    facts = [("run_id", run.run_id), *([("lineage", rows.sha256)] if rows else [])]
    for name, value in facts:
        if mark.extra.get(name) != value:
            what = "it is a checkpoint of another run" if name == "run_id" else "it was not made from these rows"
            return _broken(folder.name, folder / MARK, what, value, str(mark.extra.get(name)), remedy)
    return _whole(folder, mark, remedy)


def _whole(folder: Path, mark: Mark, remedy: str) -> CheckedLink:
    """Compare the files of a checkpoint with its mark."""
    if folder.name.startswith("checkpoint-") and folder.name != f"checkpoint-{mark.extra.get('step')}":
        step = f"checkpoint-{mark.extra.get('step')}"
        return _broken(folder.name, folder / MARK, "it is of another step", step, folder.name, remedy)
    if mark.extra.get("lineage") and mark.sha256.keys() != mark.sizes.keys():
        return _broken(folder.name, folder / MARK, "it has no SHA-256 of some files", "", "", remedy)
    expected = {name: f"{PLAIN}{sha256}" for name, sha256 in mark.sha256.items()}
    if found := first_difference({name: folder / name for name in expected}, expected):
        return _differs(folder.name, folder, found, remedy)
    if fault := fault_of(folder, replace(mark, sha256={})):  # what was added, and sizes; hashes have been compared
        return _broken(folder.name, folder / fault.name, fault.what, "", "", remedy)
    step = f" of step {mark.extra.get('step')}" if not folder.name.startswith("checkpoint-") else ""
    return CheckedLink(folder.name, "intact", f"{len(mark.sizes)} files{step}")


_CHECKS = {
    BASE: _check_base,
    SOURCES: _check_sources,
    SETTINGS: _check_settings,
    EARLIER: _check_kept,
    ROWS: _check_rows,
    START: _check_kept,
    ADAPTER: _check_adapter,
    ANSWERS: _check_answers,
    MANIFEST: _check_manifest,
}
"""How each link is compared; the others are checkpoints."""


# Checkpoints and artefacts


def _of_checkpoint(place: Path, mark: Mark, run: Path | None, how: _How) -> LineageReport:
    """Verify a checkpoint, and the links of its run that were there before it."""
    remedy = "restore it, or take another checkpoint"
    own, run_id = _whole(place, mark, remedy), mark.extra.get("run_id")
    shown = None if run_id is None else str(run_id)
    if run is None:
        unknown = CheckedLink("run", "not checked", "the run is not here; name it with `--run RUN`")
        return LineageReport(str(place), "checkpoint", None, shown, None, (unknown, own))
    try:
        found = _opened(run, how)
    except _BrokenError as broken:
        return LineageReport(str(place), "checkpoint", str(run), shown, None, (broken.link, own))
    before = (BASE, SOURCES, SETTINGS, EARLIER, ROWS)
    links = [_CHECKS[link.name](found, link) for link in found.chain.links if link.name in before]
    listed = found.chain.get(place.name)
    difference = first_difference({MARK: place / MARK}, listed.contents) if listed else None
    own = _differs(place.name, place, difference, remedy) if difference else _marked(found, place)
    rows = found.chain.get(ROWS)
    tip = rows.sha256 if rows else None
    return LineageReport(str(place), "checkpoint", str(run), shown, tip, (*links, own), found.notes)


def _of_artefact(place: Path, read: ReadChain, named: Path | None, how: _How) -> LineageReport:
    """Verify an artefact, or an adapter that was copied with its lineage, and its run if it is here."""
    chain, last = read.chain, read.chain.links[-1]
    kind = last.name if last.name in KINDS else "adapter"
    own = last if kind == last.name else chain.get(ADAPTER)
    if own is None:
        raise UsageError(Problem(str(place / LINEAGE), "is no lineage of an adapter or artefact", "name its run"))
    remedy = "export the run again" if kind in KINDS else "copy the adapter again from its run"
    checked = _compare_all(own, place, remedy)
    links, run, notes = _links_behind(place, chain, own, named, how)
    whole = (*links, replace(checked, name=kind))
    weights = [name for name in chain.names if name not in {*_CHECKS, *KINDS}] if ADAPTER not in chain.names else []
    made_from = weights[-1] if weights else ADAPTER
    return LineageReport(str(place), kind, str(run) if run else None, chain.run_id, chain.tip, whole, notes, made_from)


def _whole_artefact(place: Path) -> Path:
    """The folder of a GGUF file that was exported into one, and the file of a folder that has one with its lineage."""
    if is_file(place):
        alone = is_file(lineage_file(place)) or place.suffix != ENDING
        return place if alone or not is_file(place.with_name(LINEAGE)) else place.parent
    files = [file for file in sorted(place.glob(f"*{ENDING}")) if is_file(lineage_file(file))]
    return files[0] if len(files) == 1 and not is_file(place / LINEAGE) else place


def _links_behind(
    place: Path, chain: Chain, own: Link, named: Path | None, how: _How
) -> tuple[list[CheckedLink], Path | None, tuple[str, ...]]:
    """Compare what an artefact was made from: with its run, or else only where the lineage says where it is."""
    run = _named(named) or _around(place, 1) or _recorded(place)
    behind = [link for link in chain.links if link.name not in {own.name, *KINDS}]
    if run is None:
        why = "the run is not here; name it with `--run RUN`"
        return [CheckedLink(link.name, "not checked", why) for link in behind], None, ()
    try:
        found = _opened(run, how)
    except _BrokenError as broken:
        return [broken.link], run, ()
    if found.read and chain.run_id not in {None, found.run_id}:
        if named is None:
            why = f"{run} is another run now ({found.run_id}); name the right one with `--run RUN`"
            return [CheckedLink(link.name, "not checked", why) for link in behind], None, ()
        what = "was not made from this run"
        return [_broken("run", place, what, str(chain.run_id), found.run_id, "name the right run")], run, ()
    return [_behind(found, link) for link in behind], run, found.notes


def _behind(run: _Run, link: Link) -> CheckedLink:
    """Compare a link of an artefact with that of the run, and with its files.

    Training removes checkpoints, and replaces the best adapter by a better one. That breaks no chain.
    """
    if link.name in _CHECKS:
        return _joined(run, link) or _CHECKS[link.name](run, link)
    folder, own = _folder_of(run, link), run.chain.get(link.name)
    if link.name != BEST and own is not None and folder is not None:
        return _joined(run, link) or _check_checkpoint(run, link)
    found = replace(_check_checkpoint(run, link), name=link.name)
    current = _check_checkpoint(run, own) if own and own.sha256 != link.sha256 and found.state == "broken" else found
    if current.state != "intact" or current is found:
        return found
    return CheckedLink(BEST, "not checked", f"the run has a better one now ({current.what})")


def _joined(run: _Run, link: Link) -> CheckedLink | None:
    """The broken link, if a link of an artefact is not that of the run."""
    own = run.chain.get(link.name)
    if own is not None and own.sha256 == link.sha256:
        return None
    what = "the artefact was made from another one than the run has"
    found = own.sha256 if own else "no such link"
    return _broken(link.name, run.path / LINEAGE, what, link.sha256, found, "export the run again")


def _without_lineage(place: Path, run: Path | None, how: _How) -> LineageReport:
    """Verify an adapter without a lineage against the manifest of its run. Raises `UsageError` for anything else."""
    is_adapter = is_file(place / ADAPTER_CONFIG)
    is_model = is_adapter or is_file(place / "config.json") or place.suffix == ENDING or is_file(place / REPORT)
    if not is_model and not (is_folder(place) and any(place.glob(f"*{ENDING}"))):
        what = "is neither a run nor a checkpoint, an adapter, a model or a GGUF file"
        raise UsageError(Problem(str(place), what, "name what `lorans train`, `merge` or `export` wrote"))
    if not is_adapter or run is None:
        remedy = "export the run again, or compare its answers: `lorans verify FOLDER --against RUN`"
        if is_adapter:
            remedy = "name its run with `--run RUN`"
        raise UsageError(Problem(str(place), f"has no {LINEAGE}: nothing says what it was made from", remedy))
    try:
        found = _opened(run, how)
    except _BrokenError as broken:
        return LineageReport(str(place), "adapter", str(run), None, None, (broken.link,))
    links = [_CHECKS.get(link.name, _check_checkpoint)(found, link) for link in found.chain.links]
    own = found.chain.get(ADAPTER)
    if own is None:
        raise UsageError(Problem(str(run), "has no adapter yet", f"`lorans train {run} --resume` finishes it"))
    checked = _compare_all(own, place, "it is not the adapter of this run: copy it again from its run")
    shown = [link for link in links if link.name not in {ADAPTER, MANIFEST, ANSWERS}]
    tip = found.read.chain.tip if found.read else None
    note = f"the folder has no {LINEAGE}; it is compared with the run alone"
    return LineageReport(str(place), "adapter", str(run), found.run_id, tip, (*shown, checked), (*found.notes, note))


def _named(run: Path | None) -> Path | None:
    """The run that was named. Raises `UsageError` if it is none."""
    if run is not None and not is_file(run / TABLE):
        raise UsageError(Problem(str(run), "is no run: it has no manifest.json", "name the `output_dir` of a run"))
    return run


def _around(place: Path, levels: int) -> Path | None:
    """The run that a folder is a part of."""
    around = place.absolute().parents[levels - 1] if len(place.absolute().parents) >= levels else None
    return around if around and is_file(around / TABLE) else None


def _recorded(place: Path) -> Path | None:
    """The run that the report of an artefact names, if it is still there."""
    file = place.with_name(f"{place.name}.{REPORT}") if place.suffix == ENDING else place / REPORT
    if not is_file(file):
        file = place.parent / REPORT
    try:
        run = Path(read_json(file)["proof"]["run"])
    except (LoransError, KeyError, TypeError):
        return None
    return run if is_file(run / TABLE) else None


# Files


_READ_BY_LIBRARIES = (".bin", ".gguf", ".jinja", ".json", ".model", ".pt", ".pth", ".py", ".safetensors", ".txt")
"""Suffixes of files that a program may read from a folder of a model."""


def _compare_all(link: Link, place: Path, remedy: str) -> CheckedLink:
    """Compare all files of a folder or a GGUF file with a link; none may be added that a program would read."""
    files = artefact_files(place)
    expected = {name: digest for name, digest in link.contents.items() if not name.startswith("combined run")}
    absent = (lambda name: place / name) if is_folder(place) else (lambda name: place.with_name(f"{place.name}.{name}"))
    wanted = {name: files.get(name) or absent(name) for name in expected}
    checked = _compare(link.name, place, wanted, replace(link, contents=expected), remedy)
    if checked.state == "broken":
        return checked
    for name in sorted(files.keys() - expected.keys()):
        if is_folder(place) and name.endswith(_READ_BY_LIBRARIES):
            return _broken(link.name, place / name, "was added since", "", "", "remove it: a program may read it")
    return checked


def _compare(name: str, place: Path, files: Mapping[str, Path], link: Link, remedy: str) -> CheckedLink:
    found = first_difference(files, {key: link.contents[key] for key in files})
    if found:
        return replace(_differs(name, place, found, remedy), file=str(files.get(found.name, place)))
    return CheckedLink(name, "intact", f"{len(files)} file{'s' * (len(files) != 1)}")


def _differs(name: str, folder: Path, found: Difference, remedy: str) -> CheckedLink:
    what = "is missing" if found.found == "is missing" else "is not the file that was written"
    return _broken(name, folder / found.name, what, found.expected, found.found, remedy)


def _broken(name: str, file: Path, what: str, expected: str, found: str, remedy: str) -> CheckedLink:
    return CheckedLink(name, "broken", what, str(file), expected, found, remedy)
