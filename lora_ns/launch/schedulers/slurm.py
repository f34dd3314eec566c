"""SLURM, through submitit: scripts, arrays, and jobs that are requeued when they are stopped."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import MissingError, Problem, RunError, UsageError
from lora_ns.launch.jobs import Job, JobState
from lora_ns.launch.schedulers.sbatch import check_line, parameters, read_account, read_state
from lora_ns.safety.interpreter import interpreter

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

_TIMEOUTS = 100
"""Maximum number of times that a job is requeued after its time limit."""


_STOPPED = {-signal.SIGTERM, 128 + signal.SIGTERM}


_AFTER_SIGTERM = 600.0
"""Seconds that a scheduler may take to end a job after its SIGTERM."""


_PORTS = range(20_000, 30_000)


class Slurm:
    """The cluster to which `sbatch` on this machine submits."""

    def __init__(self, minutes: int, options: dict[str, str]) -> None:
        self._minutes, self._options = minutes, options

    def script(self, jobs: Sequence[tuple[Path, Job]]) -> str:
        """The script for `sbatch`. Raises `MissingError` and `UsageError`."""
        executor = self._executor(jobs)
        if len(jobs) > 1:
            executor.parameters["map_count"] = len(jobs)
        return str(executor._make_submission_file_text(executor._submitit_command_str, "")).rstrip()

    def submit(self, jobs: Sequence[tuple[Path, Job]]) -> list[str]:
        """Submit jobs, several as an array, and return their SLURM ids.

        Raises:
            MissingError: if submitit is not installed, or this machine has no `sbatch`.
            UsageError: the reason for which `sbatch` refuses the options.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        if shutil.which("sbatch") is None:
            raise MissingError(Problem("", "`sbatch` not found: this machine is not part of a SLURM cluster", _LOGIN))
        executor = self._executor(jobs)
        try:
            with executor.batch():
                submitted = [executor.submit(Work(str(folder))) for folder, _ in jobs]
            return [str(job.job_id) for job in submitted]
        except (FailedJobError, FailedSubmissionError) as error:
            message = " ".join(str(error).split()).removeprefix("sbatch: error: ")
            raise UsageError(Problem("sbatch", message, "correct `--option`; `--dry-run` prints the script")) from None

    def _executor(self, jobs: Sequence[tuple[Path, Job]]) -> Any:
        """submitit's executor, which can write scripts without a cluster, too."""
        if importlib.util.find_spec("submitit") is None:
            raise MissingError(Problem("", "`submitit` is not installed", "`pip install 'lora-ns[slurm]'`"))
        from submitit.slurm.slurm import SlurmExecutor, _get_default_parameters

        class Executor(SlurmExecutor):  # type: ignore[misc, unused-ignore]
            @classmethod
            def affinity(cls) -> int:
                return 2

        (folder, job), nodes = jobs[0], {job.nodes for _, job in jobs}
        if len(nodes) > 1:
            what = f"recipes for {' and '.join(map(str, sorted(nodes)))} nodes cannot share an array"
            raise UsageError(Problem("", what, "submit them one by one"))
        check_line(str(folder))
        settings = parameters(self._options, _get_default_parameters())
        name = re.sub(r"\s+", "-", job.recipe().recipe.task_name)
        executor = Executor(folder, max_num_timeout=_TIMEOUTS, python=shlex.join(interpreter()))
        executor.update_parameters(
            **{"job_name": name, **settings}, time=self._minutes, nodes=job.nodes, ntasks_per_node=1
        )
        return executor


_LOGIN = "submit from a machine with `sbatch`, or use `--dry-run`"


class Work:
    """The callable that submitit runs in each task of a job: it runs the job's command in its own process.

    submitit calls `checkpoint` when a job is about to be stopped (SIGUSR2), and requeues the job.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Train until the run is finished. Raises `SystemExit` with the command's exit code if it fails."""
        from submitit import JobEnvironment

        here = JobEnvironment()
        port = _PORTS[int(here.raw_job_id) % len(_PORTS)]
        place = ["--node", str(here.node), "--rdzv-endpoint", f"{here.hostnames[0]}:{port}"]
        self._child = subprocess.Popen([*interpreter(), "-m", "lora_ns", "job", self.folder, *place])
        code = _ended(self._child)
        if code in _STOPPED:
            time.sleep(_AFTER_SIGTERM)  # SLURM would not requeue a job that ends by itself now
        if code:
            sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """Stop after the current step and save it; returns the callable that resumes the job."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            _ended(self._child)
        return DelayedSubmission(Work(self.folder))


def _ended(child: subprocess.Popen[bytes]) -> int:
    """Wait for a process and return its exit code.

    A signal handler may wait for the same process, which would deadlock on the lock inside `Popen.wait`.
    """
    if child.returncode is None:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child.wait()


def state(job: Job) -> JobState:
    """The state of a job in SLURM, which forgets old jobs unless it has accounting.

    Raises:
        MissingError: if this machine has no `scontrol`.
        RunError: if SLURM does not respond.
    """
    number = str(job.id)
    if shutil.which("scontrol") is None:
        raise MissingError(Problem("", "`scontrol` not found: this machine is not part of a SLURM cluster", _LOGIN))
    finished = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", number], capture_output=True, text=True, check=False
    )
    if finished.returncode == 0 and "JobState=" in finished.stdout:
        return read_state(finished.stdout)
    if "Invalid job id" not in finished.stderr:
        raise RunError(Problem("scontrol", " ".join(finished.stderr.split()), "try again later"))
    kept = None
    if shutil.which("sacct"):
        words = ["sacct", "--parsable2", "--noheader", "--allocations", "--format=State,NodeList", "--jobs", number]
        kept = read_account(subprocess.run(words, capture_output=True, text=True, check=False).stdout)
    return kept or JobState("GONE", "SLURM no longer knows it", is_over=True)


def log(folder: Path, job: Job) -> str:
    """The job's log, from all its nodes."""
    number = str(job.id)
    files = sorted(Path(job.logs or folder).glob(f"{number}_*_log.*"))
    return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
