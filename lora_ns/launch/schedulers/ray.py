"""Ray: a Ray job drives Ray Train, which places the nodes of a run and restarts them."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shlex
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lora_ns.errors import MissingError, Problem, RunError, UsageError, first_line
from lora_ns.launch.jobs import Job, JobState, read_job
from lora_ns.safety.interpreter import interpreter

T = TypeVar("T")


_OPTIONS = {
    "address": "address of the cluster, such as `http://10.0.0.1:8265`",
    "cpus-per-node": "cores that Ray reserves on each node",
    "gpus-per-node": "GPUs that Ray reserves on each node",
    "max-failures": "number of restarts after a lost node",
}


_OVER = {"STOPPED", "SUCCEEDED", "FAILED"}


class OnRay:
    """A Ray cluster, reached through the address of its dashboard."""

    def __init__(self, options: Mapping[str, str]) -> None:
        """Check the options. Raises `UsageError` if one is unknown, or is not a number although it must be."""
        for name, value in options.items():
            if name not in _OPTIONS:
                known = ", ".join(f"`{known}`" for known in _OPTIONS)
                raise UsageError(Problem("--option", f"unknown option `{name}` for Ray", f"one of: {known}"))
            if name != "address" and not value.isdecimal():
                raise UsageError(Problem("--option", f"`{name}={value}`", f"write a number: {_OPTIONS[name]}"))
        check_address(options)
        self._options = options

    def script(self, jobs: Sequence[tuple[Path, Job]]) -> str:
        """The commands that Ray runs, one line for each job."""
        return "\n".join(_entrypoint(folder) for folder, _ in jobs)

    def submit(self, jobs: Sequence[tuple[Path, Job]]) -> list[str]:
        """Submit jobs and return their Ray ids. Raises `MissingError` if the cluster cannot be reached."""
        client, submitted = _client(self._options), list[str]()
        try:
            for folder, _ in jobs:
                submitted.append(str(_asking(partial(client.submit_job, entrypoint=_entrypoint(folder)))))
        except BaseException:
            for number in submitted:
                with contextlib.suppress(RuntimeError, OSError):
                    client.stop_job(number)
            raise
        return submitted


def _entrypoint(folder: Path) -> str:
    return shlex.join([*interpreter(), "-m", "lora_ns", "job", str(folder), "--on-ray"])


_ADDRESS = re.compile(r"auto|((https?|ray)://)?[A-Za-z0-9][A-Za-z0-9.\[\]:_-]*(/([\w.-][\w./-]*)?)?")


def check_address(options: Mapping[str, str]) -> None:
    """Refuse an address that would make Ray import a module named in it. Raises `UsageError`."""
    address = options.get("address")
    if address is not None and not _ADDRESS.fullmatch(address):
        raise UsageError(Problem("address", f"`{address}` is not a cluster address", "such as http://10.0.0.1:8265"))


def _client(options: Mapping[str, str]) -> Any:
    if importlib.util.find_spec("ray") is None:
        raise MissingError(Problem("", "`ray` is not installed", "`pip install 'lora-ns[ray]'`"))
    check_address(options)
    from ray.job_submission import JobSubmissionClient

    return _asking(lambda: JobSubmissionClient(options.get("address")))


def _asking(ask: Callable[[], T]) -> T:
    """The response of the cluster. Raises `MissingError` if it cannot be reached."""
    try:
        return ask()
    except (ConnectionError, RuntimeError) as error:
        remedy = "start a cluster with `ray start --head`, or set `--option address=http://HOST:8265` or `RAY_ADDRESS`"
        raise MissingError(Problem("ray", first_line(error), remedy)) from None


def drive(folder: Path) -> None:
    """Train a job on its nodes with Ray Train. Raises `RunError` if a node fails more often than allowed."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    job = read_job(folder)
    restarts = job.recipe().recipe.distributed.restarts
    cpus, gpus = (int(job.options.get(f"{kind}-per-node", 0)) for kind in ("cpus", "gpus"))
    resources = {"CPU": float(cpus or 1), **({"GPU": float(gpus)} if gpus else {})}
    ray.init(address="auto")
    # Not TorchTrainer, which would create another process group across the nodes.
    trainer = DataParallelTrainer(
        _on_node,
        train_loop_config={"folder": str(folder), "nodes": job.nodes},
        scaling_config=ScalingConfig(
            num_workers=job.nodes,
            use_gpu=bool(gpus),
            resources_per_worker=resources,
            placement_strategy="STRICT_SPREAD" if job.nodes > 1 else "PACK",
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=int(job.options.get("max-failures", restarts))),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        message = next((line for line in str(error).splitlines() if "lorans job" in line), first_line(error))
        raise RunError(Problem(job.run, message.strip(), f"`lorans status {job.run} --log` shows its log")) from None


def _on_node(config: dict[str, Any]) -> None:
    """Run the job's command on a node, in its own process. Called by Ray Train."""
    from ray.train import get_context
    from ray.train.collective import broadcast_from_rank_zero

    node, folder = get_context().get_world_rank(), config["folder"]
    endpoint = broadcast_from_rank_zero(_free_endpoint())
    place = ["--node", str(node), "--rdzv-endpoint", endpoint, "--end-with-parent"]
    # Ray kills this process if it fails or must stop; the command notices when its standard input is closed.
    command = [*interpreter(), "-m", "lora_ns", "job", folder, *place]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        code = child.wait()
    if code:
        raise RuntimeError(f"`lorans job` exited with code {code} on {socket.gethostname()}, node {node}")


def _free_endpoint() -> str:
    """Address of this node with a free port."""
    import ray

    address = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((address, 0))
        return f"{address}:{probe.getsockname()[1]}"


def state(job: Job) -> JobState:
    """The state of a job in Ray. Raises `MissingError` if the cluster cannot be reached."""
    client = _client(job.options)
    info = _asking(lambda: client.get_job_info(job.id))
    status = str(info.status.value)
    message = (info.message or "").partition(",")[0] if status == "FAILED" else ""
    return JobState(status, message, is_over=status in _OVER)


def log(folder: Path, job: Job) -> str:
    """The job's log, from all its nodes."""
    del folder
    client = _client(job.options)
    return str(_asking(lambda: client.get_job_logs(job.id)))
