"""SLURM's words: options of `sbatch`, and what `scontrol` says of a job."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.errors import Problem, UsageError
from lora_ns.launch.jobs import JobState
from lora_ns.table import control_in

_OURS = {
    "nodes": "write `distributed.num_nodes` into the recipe",
    "ntasks": "lorans starts one task on each node, and `distributed.num_processes` in it",
    "ntasks_per_node": "lorans starts one task on each node, and `distributed.num_processes` in it",
    "time": "give it by `--time`",
    "array": "name several recipes",
    "output": "logs lie in the run directory, see `lorans status RUN`",
    "error": "logs lie in the run directory, see `lorans status RUN`",
    "open_mode": "logs are always gone on with",
    "signal": "`signal-delay-s` says how long before its end a job is told",
    "requeue": "a job is always queued again",
    "no_requeue": "a job is always queued again",
}
"""Options that follow from something else."""


_WORKING = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SUSPENDED"}


_WORKING |= {"REQUEUE_FED", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"}


def check_line(text: str) -> None:
    """Refuse what would not stay on its line of a script, wherever it came from. Raises `UsageError`."""
    if found := control_in(text):
        shown = "".join("?" if control_in(sign) else sign for sign in text)
        what = f"the control character {found} cannot be a part of a job's script"
        raise UsageError(Problem(shown, what, "choose names and folders without it"))


def parameters(options: Mapping[str, str], known: Mapping[str, object]) -> dict[str, object]:
    """Options of `sbatch` as submitit takes them.

    Args:
        options: by their long names, with or without the two hyphens.
        known: submitit's own names, each with its default; all others are handed on as they are.

    Raises:
        UsageError: if an option is one that lorans sets, or is no single line.
    """
    found: dict[str, object] = {}
    others: dict[str, object] = {}
    for given, value in options.items():
        check_line(f"{given}={value}")
        name = given.lstrip("-").replace("-", "_")
        if name in _OURS:
            raise UsageError(Problem("--option", f"`{given}` is set by lorans", _OURS[name]))
        if name in known and name not in {"setup", "teardown", "srun_args", "additional_parameters", "use_srun"}:
            found[name] = int(value) if value.isdecimal() else value or True
        else:
            others[name.replace("_", "-")] = value or True
    cores = found.get("cpus_per_task")
    # Since SLURM 22.05 srun does not take the number from the job that it is in.
    pinned = {"srun_args": [f"--cpus-per-task={cores}"]} if cores else {}
    return {**found, **pinned, "additional_parameters": {"requeue": True, **others}}


def read_state(told: str) -> JobState:
    """What one line of `scontrol --oneliner show job` says."""
    values = dict(word.split("=", 1) for word in told.split() if "=" in word)
    state = values.get("JobState", "UNKNOWN")
    reason = values.get("Reason", "None")
    nodes = values.get("NodeList", "(null)")
    return JobState(
        state,
        "" if reason == "None" else reason,
        "" if nodes == "(null)" else nodes,
        int(values.get("Restarts", 0)),
        state not in _WORKING,
    )


def read_account(told: str) -> JobState | None:
    """What `sacct --parsable2 --noheader --format=State,NodeList` says, if it knows the job."""
    lines = told.strip().splitlines()
    if not lines:
        return None
    state, _, nodes = lines[0].partition("|")
    word = state.split()[0] if state.split() else "UNKNOWN"
    return JobState(word, nodes="" if nodes == "None assigned" else nodes, is_over=word not in _WORKING)
