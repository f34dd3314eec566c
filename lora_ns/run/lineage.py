"""The lineage of a run: a chain of links from its base and rows to its adapter, each naming what it was made from.

A link has the digests of its files, and the SHA-256 of every link that it was made from. The SHA-256 of the last link,
the tip, therefore stands for everything before it. No heavy library is imported here, and no path is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, UsageError
from lora_ns.files.digests import PLAIN, digests_of, names_in
from lora_ns.files.disk import sha256_file, write_atomic
from lora_ns.files.marks import MARK, Mark, read_mark
from lora_ns.files.reading import exists, is_file, is_folder, read_json, read_text
from lora_ns.run.paths import RunPaths

if TYPE_CHECKING:
    from lora_ns.model.files import Base
    from lora_ns.run.manifest import Manifest

LINEAGE = "lineage.json"
"""File in a run, in its adapter and in an artefact with the chain up to there."""

CARD = "README.md"
"""The card of an adapter or artefact, which may be edited and is in no link."""

BASE, SOURCES, SETTINGS, ROWS, EARLIER = "base", "sources", "settings", "rows", "earlier adapters"
"""Links that exist before the first step."""

START, ADAPTER, ANSWERS, MANIFEST = "initialisation", "adapter", "answers", "manifest"
"""Links that exist after the last step, beside the checkpoints."""

BEST = "best"
"""The link of the adapter of the best evaluation, which is replaced by each better one."""

RUN_ID, RECIPE, FINGERPRINT, TABLE = "run_id", "recipe.toml", "fingerprint", "manifest.json"
"""Entries of links that are no file of a folder."""

BASE_FILES = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template.jinja", "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt"),
    *("spiece.model", "added_tokens.json", "model.safetensors.index.json"),
)
"""Files of a base besides its weights that may change what a model answers."""

MOST_READ = 2 * 1024**3
"""Bytes of a base's weights that are read for their digests when a run begins."""

_VERSION = 1


@dataclass(frozen=True)
class Link:
    """A stage on the way from rows to a model."""

    name: str
    made_from: Mapping[str, str]
    """SHA-256 of each earlier link that this one was made from, by its name."""
    contents: Mapping[str, str]
    """Digest of each of its files, by name, and other facts that identify it."""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over name, origins and contents."""
        return _sha256([self.name, dict(self.made_from), dict(self.contents)])


@dataclass(frozen=True)
class Chain:
    """The links of a run or an artefact, each after those that it was made from."""

    links: tuple[Link, ...] = ()

    @property
    def tip(self) -> str:
        """SHA-256 of the last link."""
        return self.links[-1].sha256

    @property
    def run_id(self) -> str | None:
        """The run that it belongs to; None for a run that began without a chain."""
        settings = self.get(SETTINGS)
        return settings.contents.get(RUN_ID) if settings else None

    def get(self, name: str) -> Link | None:
        """The link of a name, if there is one."""
        return next((link for link in self.links if link.name == name), None)

    def only(self, *names: str) -> Chain:
        """The links of these names."""
        return Chain(tuple(link for link in self.links if link.name in names))

    @property
    def names(self) -> list[str]:
        """The names of all links."""
        return [link.name for link in self.links]

    def having(self, name: str, contents: Mapping[str, str], made_from: Iterable[str]) -> Chain:
        """The chain with another link, which was made from those of these names, as far as they exist."""
        origins = {origin: link.sha256 for origin in made_from if (link := self.get(origin))}
        return Chain((*self.links, Link(name, origins, dict(contents))))

    def text(self) -> str:
        """The file of the chain: there is one text for each chain, so that no byte of it can change unnoticed."""
        links = [
            {"name": link.name, "made_from": link.made_from, "contents": link.contents, "sha256": link.sha256}
            for link in self.links
        ]
        return f"{json.dumps({'version': _VERSION, 'links': links}, indent=2, ensure_ascii=False)}\n"


@dataclass(frozen=True)
class ReadChain:
    """A chain as it was read, with its first fault."""

    chain: Chain
    broken: str = ""
    """Name of the first link that is not what it was when it was written, or `LINEAGE`; empty if all are."""
    expected: str = ""
    found: str = ""


def read_chain(file: Path) -> ReadChain:
    """Read a chain, and check that its links fit together.

    Raises:
        UsageError: if there is no such file, or it is no chain of a version that this lorans reads.
    """
    text = read_text(file)
    try:
        table = read_json(file)
        if (version := table["version"]) > _VERSION:
            what = f"written by a newer lorans (version {version}, this one reads {_VERSION})"
            raise UsageError(Problem(str(file), what, "`pip install --upgrade lora-ns`"))
        links = [_link(one) for one in table["links"]]
        written = [str(one["sha256"]) for one in table["links"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"is damaged: no lineage ({type(error).__name__}: {error})"
        raise UsageError(Problem(str(file), what, "restore it")) from None
    if not links:
        raise UsageError(Problem(str(file), "is damaged: it has no links", "restore it"))
    chain = Chain(tuple(links))
    return _checked(chain, written) or ReadChain(chain, *(() if chain.text() == text else (LINEAGE,)))


def _link(table: Mapping[str, Any]) -> Link:
    made_from, contents = ({str(key): str(value) for key, value in table[part].items()} for part in _PARTS)
    return Link(str(table["name"]), made_from, contents)


_PARTS = ("made_from", "contents")


def _checked(chain: Chain, written: list[str]) -> ReadChain | None:
    """The first link that is not what its SHA-256 says, or that was made from another link than the one before it."""
    before: dict[str, str] = {}
    for link, sha256 in zip(chain.links, written, strict=True):
        for origin, expected in link.made_from.items():
            if (found := before.get(origin, "no such link")) != expected:
                return ReadChain(chain, link.name, expected, found)
        if link.sha256 != sha256:
            return ReadChain(chain, link.name, sha256, link.sha256)
        before[link.name] = link.sha256
    return None


# Writing


def begin_chain(run: RunPaths, manifest: Manifest, base: Base) -> None:
    """Write the links of a run before its first step, whose directory has everything that training needs."""
    settings = {RUN_ID: manifest.run_id, **settings_of(json.loads(manifest.model_dump_json()))}
    settings[RECIPE] = digests_of({RECIPE: run.recipe})[RECIPE]
    settings |= _prefixed("code", digests_of(names_in(run.code))) if is_folder(run.code) else {}
    chain = (
        Chain()
        .having(BASE, _of_base(base), ())
        .having(SOURCES, _of_sources(manifest), ())
        .having(SETTINGS, settings, ())
    )
    copies = {**_marked(run.start, "start"), **_earlier(run)}
    if copies:
        chain = chain.having(EARLIER, copies, ())
    write_atomic(lineage_file(run.path), chain.having(ROWS, _marked(run.data, ""), (BASE, SOURCES, SETTINGS)).text())


def trained_chain(run: RunPaths) -> Chain | None:
    """The chain of a run with its checkpoints, its adapter and its frozen answers; None if it began without one."""
    chain = chain_of_steps(run)
    if chain is None:
        return None
    chain = chain.having(ADAPTER, adapter_digests(run.adapter), chain.names)
    if is_file(run.probes):
        chain = chain.having(ANSWERS, digests_of({run.probes.name: run.probes}), (ROWS, ADAPTER))
    return chain


def chain_of_steps(run: RunPaths) -> Chain | None:
    """The chain of a run, finished or not, up to its checkpoints; None if it began without one."""
    chain = before = _before_steps(run)
    if chain is None or before is None:
        return None
    for folder in saved_checkpoints(run):
        chain = chain.having(folder.name, _of_step(folder), before.names)
    return chain


def chain_up_to(run: RunPaths, folder: Path, name: str) -> Chain | None:
    """The chain of a run, finished or not, that ends with one of its checkpoints; None if it began without one.

    Args:
        run: the run.
        folder: the marked folder of the checkpoint, or of the best adapter.
        name: the name of its link.
    """
    chain = _before_steps(run)
    return chain.having(name, _of_step(folder), chain.names) if chain else None


def _before_steps(run: RunPaths) -> Chain | None:
    """The links that a run had before its first step, with its initialisation; None if it began without a chain."""
    begun = begun_chain(run)
    if begun is None:
        return None
    chain = begun.only(BASE, SOURCES, SETTINGS, EARLIER, ROWS)
    earlier = chain.get(EARLIER)
    own = {} if earlier and any(name.startswith("start/") for name in earlier.contents) else _marked(run.start, "start")
    kept = {**own, **_marked(run.reference, "reference")}
    return chain.having(START, kept, (BASE, SETTINGS, ROWS)) if kept else chain


def _of_step(folder: Path) -> dict[str, str]:
    """The contents of the link of a checkpoint."""
    return digests_of({MARK: folder / MARK})


def close_chain(run: RunPaths, chain: Chain) -> str:
    """Add the manifest of a run, which nothing but its status changes any more, and write the chain; returns the tip.

    It is written beside the manifest, and into the adapter, which may be copied elsewhere.
    """
    table = read_json(run.manifest_file)
    whole = chain.having(MANIFEST, {TABLE: manifest_digest(table)}, chain.names)
    for folder in (run.adapter, run.path):
        write_atomic(lineage_file(folder), whole.text())
    return whole.tip


def begun_chain(run: RunPaths) -> Chain | None:
    """The chain that a run began with; None if it has none, or a damaged one."""
    try:
        return read_chain(lineage_file(run.path)).chain
    except UsageError:
        return None


def lineage_of_rows(run: Path) -> str | None:
    """The SHA-256 of the rows' link, which checkpoints are marked with; None without a chain."""
    begun = begun_chain(RunPaths(run))
    rows = begun and begun.get(ROWS)
    return rows.sha256 if rows else None


def adapter_digests(folder: Path) -> dict[str, str]:
    """The digests of an adapter's files, without its card and its chain."""
    return digests_of(names_in(folder, (CARD, LINEAGE)))


def saved_checkpoints(run: RunPaths) -> list[Path]:
    """The complete checkpoints of a run by their steps, and the copy of the best one if there is one."""
    found = [folder for folder in run.checkpoints.glob("checkpoint-*") if folder.name[11:].isdecimal()]
    ordered = sorted(found, key=lambda folder: int(folder.name[11:]))
    return [folder for folder in (*ordered, run.path / "best") if is_file(folder / MARK)]


def settings_of(table: Mapping[str, Any]) -> dict[str, str]:
    """The values of a manifest that a run keeps from its first step on: overrides of its recipe, and its template."""
    return {"overrides": _sha256(table["overrides"]), "template": str(table["chat_template_sha256"])}


def lineage_file(place: Path) -> Path:
    """The file with the chain of a run, a folder, or a GGUF file, whose chain is beside it."""
    return place.with_name(f"{place.name}.{LINEAGE}") if place.suffix == ".gguf" else place / LINEAGE


def manifest_digest(table: Mapping[str, Any]) -> str:
    """SHA-256 of a finished run's manifest, apart from what may change later: its status, and where its base is."""
    kept = {key: value for key, value in table.items() if key not in {"status", "error", "updated", "checksum"}}
    kept["base"] = {key: value for key, value in table["base"].items() if key != "moved_to"}
    return f"{PLAIN}{_sha256(kept)}"


def source_name(number: int, path: Path) -> str:
    """The entry of a file that rows were read from: its number and its name, without the folder."""
    return f"{number}. {path.name}"


def _of_sources(manifest: Manifest) -> dict[str, str]:
    """The digests of the files that rows were read from, and of the rows."""
    named = enumerate(manifest.sources, start=1)
    files = {source_name(number, Path(one.path)): PLAIN + one.sha256 for number, one in named}
    rows = {"train rows": manifest.data.train, "eval rows": manifest.data.eval}
    return {**files, **{name: one.sha256 for name, one in rows.items() if one}}


def _of_base(base: Base) -> dict[str, str]:
    """The digests of a base's files, and its fingerprints.

    Large files of a hub's cache are named after their SHA-256 and not read. If the others have more than `MOST_READ`
    bytes, those of weights are left out, and their fingerprint stands for them.
    """
    weights = list(base.weight_files)
    others = [file for name in BASE_FILES if is_file(file := base.path / name) and file not in weights]
    known = {file: digest for file in (*weights, *others) if (digest := _hub_digest(file))}
    rest = [file for file in weights if file not in known]
    if sum(file.stat().st_size for file in rest) > MOST_READ:
        rest = []
    read = digests_of({file.name: file for file in (*rest, *others) if file not in known})
    fingerprints = {FINGERPRINT: base.fingerprint, f"{FINGERPRINT} of the tokenizer": base.tokenizer_fingerprint}
    return {**fingerprints, **{file.name: digest for file, digest in known.items()}, **read}


def _hub_digest(file: Path) -> str | None:
    """The digest of a large file of the hub's cache, whose blob is named after its SHA-256."""
    name = Path(file.resolve()).name if file.is_symlink() else ""
    is_sha256 = len(name) == 64 and not set(name) - set("0123456789abcdef")
    return f"{PLAIN}{name}" if is_sha256 and file.resolve().parent.name == "blobs" else None


def _marked(folder: Path, prefix: str) -> dict[str, str]:
    """The digests of a marked folder's files, taken from its mark, and that of the mark; empty if there is none."""
    mark = read_mark(folder)
    if not isinstance(mark, Mark):
        return {}
    found = {name: f"{PLAIN}{mark.sha256[name]}" for name in mark.sizes if name in mark.sha256}
    return _prefixed(prefix, {MARK: f"{PLAIN}{sha256_file(folder / MARK)}", **found})


def _earlier(run: RunPaths) -> dict[str, str]:
    if not exists(run.base_adapters):
        return {}
    return _prefixed("base_adapters", digests_of(names_in(run.base_adapters)))


def _prefixed(prefix: str, contents: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}/{name}" if prefix else name: digest for name, digest in contents.items()}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
