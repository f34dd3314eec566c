"""Where a command that reads a run may write: beside the files of the run and its base, and never among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import is_within
from lora_ns.model.files import TOKENIZER_FILES
from lora_ns.model.folder import GENERATION, SETTINGS
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest

_ELSEWHERE = "name another place"


def check_output(output: Path, run: RunDir, manifest: Manifest, base_path: Path | None) -> None:
    """Refuse to write among the files of a run, or of its base; beside those of the run there is room.

    Args:
        output: the file or folder that is to be written.
        run: the run that is read.
        manifest: of the run.
        base_path: where its base lies now, if not where it was.

    Raises:
        UsageError: if it is one of them, or in one of their folders.
    """
    if run.owns(output):
        raise UsageError(Problem(str(output), "is among the files of the run", _ELSEWHERE))
    if run.holds(output):
        return
    for place in _places_of_base(manifest, base_path):
        if is_within(output, place):
            raise UsageError(Problem(str(output), "is among the files of the base", _ELSEWHERE))


def _places_of_base(manifest: Manifest, base_path: Path | None) -> Iterator[Path]:
    """The folders of a base, or its files where one of them is in GGUF, beside which may be anything."""
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
