"""The lineage of an artefact: the chain of its run, and a link with the artefact's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_ns.errors import UsageError
from lora_ns.files.digests import PLAIN, digests_of, names_in
from lora_ns.files.disk import write_atomic
from lora_ns.files.reading import is_file, read_json
from lora_ns.model.gguf import ENDING
from lora_ns.run.lineage import ADAPTER, BASE, CARD, FINGERPRINT, LINEAGE, Chain, lineage_file, read_chain
from lora_ns.run.paths import RunPaths
from lora_ns.run.written_manifest import WrittenManifest, written_manifest

ALONE = "GGUF file"
"""The name of a file that is an artefact alone, in its link: it may be renamed together with the files beside it."""

REPORT = "export_report.json"
"""File of an artefact with the comparison of its answers."""

KINDS = ("plain", "merged", "quantized", "gguf", "ollama", "gguf-lora")
"""Kinds of artefacts, each of which is the name of its last link."""


def write_lineage(
    file: Path, kind: str, run: RunPaths, others: Sequence[RunPaths] = (), alone: Path | None = None
) -> str:
    """Write the lineage of an artefact whose other files are complete, except its card; returns the tip.

    Args:
        file: the file to write, in the folder of the artefact or beside its file.
        kind: the kind of the artefact.
        run: its run.
        others: runs whose adapters are combined with that of the run.
        alone: the file, if it is the artefact.
    """
    chain = run_chain(run)
    combined = {f"combined run {number}": _tip(other) for number, other in enumerate(others, start=2)}
    files = digests_of(artefact_files(file.parent if alone is None else alone))
    whole = chain.having(kind, {**files, **combined}, [link.name for link in chain.links])
    write_atomic(file, whole.text())
    return whole.tip


def run_chain(run: RunPaths) -> Chain:
    """The chain of a finished run, or that up to the adapter in use; of an old run, the links that it has digests for.

    An adapter of a step that belongs to a run without a chain has the base alone before it.
    """
    from lora_ns.run.at_step import RunAtStep  # with the model of a recipe, which `verify` does without

    if isinstance(run, RunAtStep):
        return run.chain or old_chain(written_manifest(read_json(run.manifest_file))).only(BASE)
    try:
        return read_chain(run.lineage).chain
    except UsageError:
        return old_chain(written_manifest(read_json(run.manifest_file)))


def old_chain(manifest: WrittenManifest) -> Chain:
    """The links that the manifest of a run without a chain has digests for: its base and its adapter."""
    entries = {FINGERPRINT: manifest.fingerprint, f"{FINGERPRINT} of the tokenizer": manifest.tokenizer_fingerprint}
    files = {name: PLAIN + sha256 for name, sha256 in manifest.adapter.items() if name not in {CARD, LINEAGE}}
    return Chain().having(BASE, entries, ()).having(ADAPTER, files, (BASE,))


def artefact_files(place: Path) -> dict[str, Path]:
    """The files of an artefact that its link has digests of: all of its folder, or a GGUF file with those beside it."""
    if place.suffix != ENDING:
        return names_in(place, (CARD, LINEAGE))
    beside = place.parent.glob(f"{place.name}.*.json")
    named = {file.name.removeprefix(f"{place.name}."): file for file in sorted(beside)}
    return {ALONE: place, **{name: file for name, file in named.items() if name != LINEAGE}}


def artefact_lineage(place: Path) -> Path | None:
    """The file with the lineage of an artefact; None if it has none."""
    file = lineage_file(place)
    if not is_file(file) and place.suffix == ENDING:
        file = place.with_name(LINEAGE)  # the file was exported into a folder of its own
    return file if is_file(file) else None


def tip_of(place: Path) -> str | None:
    """The tip of an artefact's lineage; None if it has none that can be read."""
    file = artefact_lineage(place)
    try:
        return read_chain(file).chain.tip if file else None
    except UsageError:
        return None


def _tip(run: RunPaths) -> str:
    try:
        return read_chain(run.lineage).chain.tip
    except UsageError:
        return "a run without a lineage"
