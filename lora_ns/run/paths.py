"""The names of all files and folders in a run directory."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path


class RunPaths:
    """Paths of the files and folders of a run, existing or not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def recipe(self) -> Path:
        """The recipe as it was written."""
        return self.path / "recipe.toml"

    @property
    def manifest_file(self) -> Path:
        """The manifest."""
        return self.path / "manifest.json"

    @property
    def lineage(self) -> Path:
        """The chain of hashes from the base and the rows to the adapter."""
        return self.path / "lineage.json"

    @property
    def metrics(self) -> Path:
        """One row per logging or evaluation step."""
        return self.path / "metrics.jsonl"

    @property
    def bad_batch(self) -> Path:
        """The rows of steps that were skipped because their gradient was not finite, as JSON lines."""
        return self.path / "bad_batch.jsonl"

    @property
    def log(self) -> Path:
        """Output of the libraries."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints, from which a run can resume."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter: plain PEFT, with tokenizer, template and generation settings."""
        return self.path / "adapter"

    @property
    def best(self) -> Path:
        """The adapter of the best evaluation, like `adapter`."""
        return self.path / "best"

    @property
    def best_of_checkpoint(self) -> Path:
        """The best adapter up to the last checkpoint, while `best` is of a later step."""
        return self.path / "best_of_checkpoint"

    @property
    def start(self) -> Path:
        """The initial adapter, if it is that of another run or if computing it again could give a different one."""
        return self.path / "start"

    @property
    def base_adapters(self) -> Path:
        """Copies of the adapters that are merged into the base, in numbered folders."""
        return self.path / "base_adapters"

    @property
    def reference(self) -> Path:
        """Log-probabilities of the reference, if they were computed before training."""
        return self.path / "reference"

    def base_adapter(self, number: int) -> Path:
        """The folder of one of these copies, counted from 0."""
        return self.base_adapters / str(number + 1)

    @property
    def data(self) -> Path:
        """The rows as the model sees them."""
        return self.path / "data"

    @property
    def places(self) -> Path:
        """The places of the training rows in the files that they were read from."""
        return self.data / "places.json"

    @property
    def code(self) -> Path:
        """Copies of the Python files of reward functions, which a resumed run goes on with."""
        return self.path / "code"

    @property
    def preflight(self) -> Path:
        """The scores of the completions before the first step."""
        return self.path / "preflight.json"

    @property
    def samples(self) -> Path:
        """A few completions of each evaluation, as JSON lines."""
        return self.path / "samples.jsonl"

    @property
    def trained_rows(self) -> Path:
        """The first training rows as text, with the tokens in the loss marked, which the report shows."""
        return self.path / "trained_rows.json"

    @property
    def predictions(self) -> Path:
        """The last predictions of a run with labels on its evaluation rows."""
        return self.path / "predictions.json"

    @property
    def artefacts(self) -> Path:
        """What was merged and exported, with its place and proof, as JSON lines."""
        return self.path / "artefacts.jsonl"

    @property
    def report(self) -> Path:
        """The report as a page."""
        return self.path / "report.html"

    @property
    def report_facts(self) -> Path:
        """The facts of the report for programs."""
        return self.path / "report.json"

    @property
    def probes(self) -> Path:
        """A few texts with the answers of the trained model, which artefacts are compared with."""
        return self.path / "probes.safetensors"

    @property
    def evaluations(self) -> Path:
        """Results of `lorans eval` and of training, in numbered folders."""
        return self.path / "evaluations"

    @property
    def answers_before(self) -> Path:
        """The answers to all suites before training, which a resumed run is compared with, too."""
        return self.evaluations / "before.json"

    @property
    def answers_after(self) -> Path:
        """The answers to all suites after training."""
        return self.evaluations / "after.json"

    @property
    def tracking(self) -> Path:
        """What each tracker has been sent, their log, and the files of those that keep some."""
        return self.path / "tracking"

    @property
    def ranks(self) -> Path:
        """Messages between the processes of a run in training, and the error of each."""
        return self.path / "ranks"

    @property
    def jobs(self) -> Path:
        """Jobs for a scheduler, in numbered folders; they stay when a run is replaced."""
        return self.path / "jobs"

    @property
    def stop_file(self) -> Path:
        """The number of a signal: the run stops after the current step."""
        return self.ranks / "stop"

    @property
    def stopped_file(self) -> Path:
        """The number of the signal for which the processes stopped, whichever machine received it."""
        return self.ranks / "stopped"

    @property
    def launcher_file(self) -> Path:
        """The process id of the launcher, if it is not `lorans train`."""
        return self.ranks / "launcher"

    @property
    def spare(self) -> Path:
        """Folder for the error of a process, if the disk of the run is full."""
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"lorans-ranks-{name}"

    @property
    def _parts(self) -> tuple[Path, ...]:
        """Everything that a run writes."""
        files = (self.recipe, self.manifest_file, self.lineage, self.metrics, self.bad_batch, self.log)
        answers = (self.preflight, self.samples, self.probes, self.predictions)
        shown = (self.trained_rows, self.artefacts, self.report, self.report_facts)
        return (*self._folders, *files, *answers, *shown)

    @property
    def _folders(self) -> tuple[Path, ...]:
        earlier = (self.start, self.base_adapters, self.reference)
        adapters = (self.adapter, self.best, self.best_of_checkpoint)
        others = (self.data, self.code, self.evaluations, self.tracking, self.ranks)
        return (self.checkpoints, *adapters, *earlier, *others)
