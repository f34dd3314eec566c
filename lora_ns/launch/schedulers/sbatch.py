"""SLURM's text formats: options of `sbatch`, and the output of `scontrol` and `sacct`."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.errors import Problem, UsageError
from lora_ns.launch.jobs import JobState
from lora_ns.table import control_in

_OURS = {
    "nodes": "set `distributed.num_nodes` in the recipe; a trial of a sweep has one node",
    "ntasks": "lorans starts one task per node, with `distributed.num_processes` processes",
    "ntasks_per_node": "lorans starts one task per node, with `distributed.num_processes` processes",
    "time": "use `--time`",
    "array": "give several recipes, or `--jobs N` for a sweep",
    "output": "logs are in the run directory, see `lorans status RUN`",
    "error": "logs are in the run directory, see `lorans status RUN`",
    "open_mode": "logs are always appended to",
    "signal": "`signal-delay-s` sets how long before its end a job gets the signal",
    "requeue": "a job is always requeued",
    "no_requeue": "a job is always requeued",
}
"""Options that lorans sets itself, and the alternative to each."""


_WORKING = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "RESIZING", "SUSPENDED"}


_WORKING |= {"REQUEUE_FED", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT"}


def check_line(text: str) -> None:
    """Refuse text that would not stay on one line of a script, whatever its source. Raises `UsageError`."""
    if found := control_in(text):
        shown = "".join("?" if control_in(sign) else sign for sign in text)
        what = f"contains the control character {found}, which is not allowed in a job script"
        raise UsageError(Problem(shown, what, "choose names and folders without it"))


def parameters(options: Mapping[str, str], known: Mapping[str, object]) -> dict[str, object]:
    """Options of `sbatch` as submitit's parameters.

    Args:
        options: options by their long names, with or without the two hyphens.
        known: submitit's own parameters with their defaults; all other options are passed through.

    Raises:
        UsageError: if lorans sets an option itself, or an option is not a single line.
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
    # Since SLURM 22.05, srun does not inherit the number from its job.
    pinned = {"srun_args": [f"--cpus-per-task={cores}"]} if cores else {}
    return {**found, **pinned, "additional_parameters": {"requeue": True, **others}}


def read_state(output: str) -> JobState:
    """The state in one line of `scontrol --oneliner show job`."""
    values = dict(word.split("=", 1) for word in output.split() if "=" in word)
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


def read_account(output: str) -> JobState | None:
    """The state in the output of `sacct --parsable2 --noheader --format=State,NodeList`; None for an unknown job."""
    lines = output.strip().splitlines()
    if not lines:
        return None
    state, _, nodes = lines[0].partition("|")
    word = state.split()[0] if state.split() else "UNKNOWN"
    return JobState(word, nodes="" if nodes == "None assigned" else nodes, is_over=word not in _WORKING)
