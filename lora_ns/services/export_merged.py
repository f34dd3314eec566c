"""Exporting a run, or several on one base, as a merged model: for `lorans merge` and `lorans export --to merged`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_ns.answers.changed_files import REFUSED, Force
from lora_ns.answers.opened import Opened
from lora_ns.exports.lineage import REPORT
from lora_ns.files.temporary import temporary_folder
from lora_ns.merging.shards import LARGEST_SHARD
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.services.combine import Combination, combine
from lora_ns.services.export import ExportResult, proven, write_card, write_report
from lora_ns.services.merge import MergeResult, merge
from lora_ns.services.verify import verify


def export_merged(
    run: RunDir,
    output: Path,
    dtype: str | None = None,
    max_shard_size: str | None = None,
    base_path: Path | None = None,
    force: Force = REFUSED,
    observer: Observer | None = None,
    combination: Combination | None = None,
    into_original: bool = False,
) -> ExportResult:
    """Merge a run's adapter into its base as `merge` does, read the folder back, and compare it with the trained model.

    Report and card are in the folder when it gets its name. A combination of runs is compared with the base and the
    combined adapter.

    Args:
        run: the run directory.
        output: the folder to write; for a symbolic link, its target.
        dtype: the dtype to write, if not that of the stored base.
        max_shard_size: largest size of a weight file, such as `5GB`.
        base_path: path to the base model, if it has moved.
        force: the response to a part that does not match the manifest. On another base, the difference is measured.
        observer: receives the stages.
        combination: runs to combine, of which this is the first.
        into_original: merge into the weights that the base had before it was quantised for training, and measure the
            difference from the trained model.

    Raises:
        UsageError: as `merge` and `combine` do.
        RunError: as `merge` does, or if the folder differs from the trained model; it is kept, and its report says so.
    """
    observer = observer or SilentObserver()
    with contextlib.ExitStack() as stack:
        adapter = None
        if combination is not None:
            adapter = combine(combination, stack.enter_context(temporary_folder()), base_path, force, observer)
        others = combination.runs[1:] if combination else ()
        proving = _Proving(output, observer, adapter, str(combination) if combination else None, others)
        size = max_shard_size or LARGEST_SHARD
        merge(run, output, base_path, dtype, force, observer, size, adapter, proving, into_original)
    (result,) = proving.results
    return proven(result)


@dataclass(frozen=True)
class _Proving:
    """Compares a merged model, and writes report and card beside it."""

    output: Path
    observer: Observer
    adapter: Path | None
    combined: str | None
    others: tuple[RunDir, ...]
    results: list[ExportResult] = field(default_factory=list)

    def __call__(self, opened: Opened, staged: Path, merged: MergeResult) -> None:
        """Read the folder back while it has a temporary name."""
        target = merged.output
        proof = verify(opened, staged, self.observer, lossy=merged.loss is not None, adapter=self.adapter)
        made = replace(merged, output=str(self.output), combined=self.combined)
        result = ExportResult(str(self.output), "merged", made, replace(proof, folder=target))
        result = write_report(staged / REPORT, result, opened.run, opened.manifest, others=self.others)
        write_card(staged, result, opened.run)
        self.results.append(result)
