"""Places where a command may write its output: beside the files of a run and its base, never among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import is_within
from lora_ns.model.files import TOKENIZER_FILES
from lora_ns.model.folder import GENERATION, SETTINGS
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest

_ELSEWHERE = "choose another path"


def check_output(output: Path, run: RunDir, manifest: Manifest, base_path: Path | None) -> None:
    """Refuse to write among the files of a run or its base; other paths in the run directory are fine.

    Args:
        output: the file or folder to write.
        run: the run that is read.
        manifest: its manifest.
        base_path: path to the base, if it has moved.

    Raises:
        UsageError: if it is one of these files, or in one of their folders.
    """
    if run.owns(output):
        raise UsageError(Problem(str(output), "is a file of the run", _ELSEWHERE))
    if run.holds(output):
        return
    for place in _places_of_base(manifest, base_path):
        if is_within(output, place):
            raise UsageError(Problem(str(output), "is a file of the base", _ELSEWHERE))


def check_beside(output: Path, place: Path) -> None:
    """Refuse to write into the folder of an artefact, or onto its file. Raises `UsageError`."""
    if is_within(output, place):
        raise UsageError(Problem(str(output), "is a part of the artefact", _ELSEWHERE))


def _places_of_base(manifest: Manifest, base_path: Path | None) -> Iterator[Path]:
    """Yield the folders of a base; for a GGUF base, only its files, because its folder may contain anything."""
    record = manifest.base
    for place in (base_path, record.moved_to, record.path):
        if place is None:
            continue
        folder = Path(place)
        if folder.is_file():
            yield folder
        elif record.gguf_file and (folder / record.gguf_file).is_file():
            yield from (folder / name for name in (record.gguf_file, SETTINGS, GENERATION, *TOKENIZER_FILES))
        else:
            yield folder
