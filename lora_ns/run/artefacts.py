"""What was made of a run: a line in its directory for each merge and export, with the place and the proof."""

from __future__ import annotations

import contextlib
from pathlib import Path

from lora_ns.files.disk import now
from lora_ns.files.reading import is_file
from lora_ns.files.strict_json import strict_json
from lora_ns.run.paths import RunPaths


def keep_proof(run: Path, kind: str, output: Path, is_verified: bool, proof: str) -> None:
    """Append an artefact to those of a run. A run that cannot be written, or is gone, keeps nothing.

    Args:
        run: the run directory.
        kind: the kind of artefact, such as `merged`.
        output: its folder or file.
        is_verified: True if it was found to be the trained model.
        proof: the comparison as a sentence.
    """
    paths = RunPaths(run)
    row = {"made": now(), "kind": kind, "output": str(output.absolute()), "verified": is_verified, "proof": proof}
    if not is_file(paths.manifest_file) or paths.artefacts.is_symlink():
        return
    with contextlib.suppress(OSError), paths.artefacts.open("a", encoding="utf-8") as file:
        file.write(f"{strict_json(row)}\n")
