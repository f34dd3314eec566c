"""What lorans asks of a Ray cluster, without one."""

from pathlib import Path

import pytest

from lora_ns.errors import MissingError
from lora_ns.launch.schedulers import ray


class Cluster:
    """A cluster that goes away after some jobs."""

    def __init__(self, most):
        self.most, self.submitted, self.stopped = most, [], []

    def submit_job(self, entrypoint):
        if len(self.submitted) == self.most:
            raise ConnectionError("the cluster is gone")
        self.submitted.append(entrypoint)
        return f"raysubmit_{len(self.submitted)}"

    def stop_job(self, number):
        self.stopped.append(number)


JOBS = [(Path(f"/run/jobs/{number}"), None) for number in (1, 2, 3)]


def test_each_job_has_its_folder_in_its_command(monkeypatch):
    cluster = Cluster(3)
    monkeypatch.setattr(ray, "_client", lambda _: cluster)
    assert ray.OnRay({}).submit(JOBS) == ["raysubmit_1", "raysubmit_2", "raysubmit_3"]
    assert [str(folder) in command for (folder, _), command in zip(JOBS, cluster.submitted, strict=True)] == [True] * 3
    assert cluster.stopped == []


def test_jobs_are_stopped_if_one_of_them_cannot_be_submitted(monkeypatch):
    cluster = Cluster(2)
    monkeypatch.setattr(ray, "_client", lambda _: cluster)
    with pytest.raises(MissingError, match="the cluster is gone"):
        ray.OnRay({}).submit(JOBS)
    assert cluster.stopped == ["raysubmit_1", "raysubmit_2"]
