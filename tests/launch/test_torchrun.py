"""What starts the processes of a run, and what is made of how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched_by import LAUNCHED

from lora_ns.cli.rank import rank
from lora_ns.errors import MissingError, RunError, UsageError
from lora_ns.launch.torchrun import Launcher, _failure, argv, check_not_launched, environment, ignored_note
from lora_ns.run.directory import RunDir
from lora_ns.safety.interpreter import interpreter

HOSTILE = {
    "ACCELERATE_USE_FSDP": "true",
    "MASTER_PORT": "1",
    "OMP_NUM_THREADS": "1",
    "PET_NNODES": "3",
    "RANK": "3",
    "WORLD_SIZE": "5",
}


def test_the_command_is_torchruns_own():
    assert argv(Path("run"), 2, "--launched") == [
        *(
            *interpreter(),
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "--max_restarts",
            "0",
        ),
        *("--no_python", *interpreter(), "-m", "lora_ns", "rank", "run", "--launched"),
    ]


@pytest.mark.parametrize(("processes", "cores", "threads"), [(2, 8, "4"), (3, 8, "2"), (4, 2, "1")])
def test_the_processes_see_nothing_of_other_launchers(processes, cores, threads):
    assert environment({"PATH": "/bin", **HOSTILE}, processes, cores) == {
        "PATH": f"{Path(sys.executable).parent}:/bin",
        "OMP_NUM_THREADS": threads,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


def test_what_is_not_read_is_told_in_one_line(tmp_path):
    surroundings = {"HF_HOME": str(tmp_path), "PATH": "/bin"}
    assert ignored_note(surroundings) is None
    file = tmp_path / "accelerate" / "default_config.yaml"
    file.parent.mkdir()
    file.touch()
    names = ", ".join(f"`{name}`" for name in HOSTILE)
    told = f"ignored: {names}, {file}; `[distributed]` determines how this run is launched"
    assert ignored_note({**surroundings, **HOSTILE}) == told
    assert ignored_note(surroundings, read=tmp_path / "other.yaml") is not None
    assert ignored_note(surroundings, read=file) is None


def test_a_launcher_is_known_by_all_that_it_sets():
    expected = Launcher(processes=4, nodes=2, endpoint="10.0.0.1:29500", node=1, is_first=True, restarts=3)
    assert Launcher.of(LAUNCHED) == expected
    assert Launcher.of({**LAUNCHED, "WORLD_SIZE": "1"}) is None
    for name in LAUNCHED:
        assert Launcher.of({key: value for key, value in LAUNCHED.items() if key != name}) is None


def test_what_one_process_does_is_refused_in_each_of_several():
    check_not_launched({"WORLD_SIZE": "2", "RANK": "0"})
    with pytest.raises(
        UsageError, match=r"started 8 processes, and each of them .* \(run the command without the launcher"
    ):
        check_not_launched(LAUNCHED)


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path)
    run.clear_ranks()
    run.log.touch()
    return run


def told(run, rank, time, expected=True, exit_code=1):
    problem = {"where": "", "what": f"fault {rank}", "remedy": "mend it"}
    error = {"rank": rank, "host": "here", "time": time, "expected": expected, "exit_code": exit_code}
    (run.ranks / f"rank{rank}.error.json").write_text(json.dumps({**error, "problems": [problem]}))


@pytest.mark.parametrize(("code", "kind"), [(1, RunError), (2, UsageError), (3, MissingError)])
def test_the_first_rank_that_failed_speaks_with_its_exit_code(run, code, kind):
    told(run, 0, 1.0, expected=False)  # the connection to another rank was closed
    told(run, 1, 3.0)
    told(run, 2, 2.0, exit_code=code)
    failure = _failure(run, 1)
    assert type(failure) is kind
    assert str(failure) == "rank 2 on here: fault 2 (mend it)"


def test_a_rank_that_was_killed_is_named_from_what_torchrun_says(run):
    run.log.write_text("Root Cause:\n  rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: 7)\n")
    assert "rank 1 was killed by SIGKILL" in str(_failure(run, 1))
    run.log.write_text("nothing")
    assert "the launcher exited with code 1" in str(_failure(run, 1))


RANK = "from lora_ns.launch.workers import end_with_parent; end_with_parent(); import time; time.sleep(60)"
LAUNCHER = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {RANK!r}], start_new_session=True)
pathlib.Path("told").write_text(str(child.pid))
pathlib.Path("told").rename("pid")
time.sleep(60)
"""
COMMAND = f"""
import contextlib, os, sys, time
from pathlib import Path
from lora_ns.errors import RunError
from lora_ns.launch.torchrun import launch
from lora_ns.run.directory import RunDir
with contextlib.suppress(RunError):
    launch(RunDir(Path("run")), [sys.executable, "-c", {LAUNCHER!r}], os.environ, print, lambda: 0)
time.sleep(60)
"""


def is_gone(pid):
    """Whether a process has ended, also if nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def ended_within(seconds, *pids):
    until = time.monotonic() + seconds
    while time.monotonic() < until and not all(map(is_gone, pids)):
        time.sleep(0.05)
    return all(map(is_gone, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("killed", ["the command", "the launcher"])
def test_all_that_a_command_has_started_ends_with_it_however_that_ends(tmp_path, killed):
    (tmp_path / "run").mkdir()
    with subprocess.Popen([sys.executable, "-c", COMMAND], cwd=tmp_path, stderr=subprocess.DEVNULL) as command:
        while not (tmp_path / "pid").exists():
            time.sleep(0.05)
        rank = int((tmp_path / "pid").read_text())
        launcher = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(command.pid if killed == "the command" else launcher, signal.SIGKILL)
        have_ended = ended_within(5, launcher, rank)
        command.kill()
    assert have_ended


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of others does not do this")
def test_what_is_started_by_a_process_that_has_ended_ends_at_once():
    command = [sys.executable, "-m", "lora_ns.launch.tethered", str(2**22 + 1), sys.executable, "-c", "print('runs')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("launched", [True, False], ids=["by lorans", "by another launcher"])
def test_a_rank_ends_with_the_command_that_launched_it_and_no_other(tmp_path, monkeypatch, launched):
    watched = []
    monkeypatch.setattr("lora_ns.launch.workers.end_with_parent", lambda: watched.append(True))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(UsageError, match="not a run directory"):
        rank(tmp_path, launched)
    assert watched == [True] * launched
