"""How many processes answer, what each sees of the machine, and what is made of how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_ns.errors import InterruptedRunError, LoransError, MissingError, RunError, UsageError
from lora_ns.launch.workers import WorkerFiles, count_workers, reporting_to_parent, run_workers, worker_environments
from lora_ns.machine.hardware import Gpu, Machine


def machine(gpus=0, cores=4):
    found = tuple(Gpu(number, "H100", 80 << 30, 80 << 30, (9, 0), "1") for number in range(gpus))
    return Machine("cpu", cores, True, 1 << 30, 1 << 30, found)


@pytest.mark.parametrize(
    ("asked", "by_gpu", "device", "gpus", "count"),
    [
        (None, False, "cuda", 4, 1),
        (3, False, "cpu", 0, 3),
        (4, False, "cpu", 2, 4),  # a run that was trained on the CPU of a machine with GPUs
        (2, False, "cuda", 4, 2),
        (2, True, "cuda", 4, 2),
        ("auto", True, "cuda", 4, 4),
        (1, False, "mps", 0, 1),
    ],
)
def test_each_process_has_a_device_or_a_core(asked, by_gpu, device, gpus, count):
    assert count_workers(asked, by_gpu, device, machine(gpus)) == count


@pytest.mark.parametrize(
    ("asked", "by_gpu", "device", "gpus", "told"),
    [
        (5, False, "cpu", 0, "5 processes, but this machine has 4 cores (write at most 4)"),
        (3, True, "cuda", 2, "3 processes, but this machine has 2 GPUs (write at most 2)"),
        (2, False, "cuda", 1, "2 processes, but this machine has 1 GPU (write at most 1)"),
        (2, False, "cuda", 0, "2 processes, but this machine has 0 GPUs (the run was trained on a GPU, and needs one)"),
        (2, False, "mps", 0, "an Apple GPU supports one process only (leave out `--num-processes`)"),
        ("auto", True, "cpu", 2, "--gpus: this run was trained on a CPU, and runs on one (use `--num-processes N` "),
        (2, True, "cpu", 2, "--gpus: this run was trained on a CPU, and runs on one (use `--num-processes N` "),
    ],
)
def test_what_there_is_not_is_refused(asked, by_gpu, device, gpus, told):
    with pytest.raises(UsageError) as caught:
        count_workers(asked, by_gpu, device, machine(gpus))
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("visible", "names"), [(None, ["0", "1"]), ("2,3", ["2", "3"]), ("GPU-a, GPU-b,GPU-c", ["GPU-a", "GPU-b"])]
)
def test_each_process_sees_one_of_the_visible_gpus(visible, names):
    surroundings = {"RANK": "3"} | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    found = worker_environments(surroundings, 2, "cuda", machine(4))
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == names


def test_each_process_has_its_part_of_the_cores_and_nothing_of_other_launchers():
    strays = {"RANK": "3", "WORLD_SIZE": "5", "OMP_NUM_THREADS": "7", "ACCELERATE_USE_FSDP": "true"}
    for one in worker_environments({**strays, "HOME": "/here"}, 2, "cpu", machine()):
        assert one["OMP_NUM_THREADS"] == "2"
        assert one["HOME"] == "/here"
        assert not {"RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP"} & one.keys()


def raised_in_a_process(files, error):
    with pytest.raises(type(error)), reporting_to_parent(files):
        raise error


SOON = "import time; time.sleep(60)"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs programs in the place of workers, in the folder of their files."""
    children = []

    def run(*programs, stopped=lambda: 0):
        def start(files, env):
            command = [sys.executable, "-c", programs[files.number]]
            files.log.touch()
            children.append(subprocess.Popen(command, env=env, stdin=subprocess.PIPE, start_new_session=True))
            return children[-1]

        monkeypatch.setattr("lora_ns.launch.workers._start", start)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        began = time.monotonic()
        try:
            run_workers(tmp_path, [dict(os.environ)] * len(programs), lambda _: None, stopped)
        finally:
            assert time.monotonic() - began < 10
            assert all(child.returncode is not None for child in children)

    return run


@pytest.mark.parametrize("kind", [RunError, UsageError, MissingError])
def test_the_first_that_fails_speaks_with_its_exit_code_and_the_others_end(run, tmp_path, kind):
    raised_in_a_process(WorkerFiles(tmp_path, 1), kind("no space"))
    with pytest.raises(LoransError, match=r"^process 2 of 2: no space$") as caught:
        run(SOON, f"raise SystemExit({kind.exit_code})")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "process 1 of 2 was killed by SIGKILL (fewer pro"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "process 1 of 2 was killed by SIGSEGV ("),
        ("raise SystemExit(7)", "process 1 of 2 exited with code 7 ("),
    ],
)
def test_one_that_says_nothing_is_named_with_how_it_ended(run, program, told):
    with pytest.raises(RunError) as caught:
        run(program, SOON)
    assert str(caught.value).startswith(told)
    assert Path(str(caught.value).rpartition("see ")[2].removesuffix(")")).is_file()


def test_a_fault_of_a_process_keeps_its_log(run, tmp_path):
    raised_in_a_process(WorkerFiles(tmp_path, 0), ZeroDivisionError("by zero"))
    told = r"a child process: ZeroDivisionError: by zero \(the traceback is in .*\.log\)"
    with pytest.raises(RunError, match=told):
        run("raise SystemExit(1)")


def test_a_signal_ends_all(run):
    with pytest.raises(InterruptedRunError, match="stopped before all rows were done") as caught:
        run(SOON, SOON, stopped=lambda: signal.SIGTERM)
    assert caught.value.signal_number == signal.SIGTERM


def test_a_process_ends_with_the_one_that_started_it():
    program = "from lora_ns.launch.workers import end_with_parent; end_with_parent(); import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    child.stdin.close()
    assert child.wait(10) == 1


def test_the_hidden_command_tells_its_parent_what_is_wrong(tmp_path):
    files = WorkerFiles(tmp_path, 0)
    files.share.write_text(json.dumps({"run": str(tmp_path / "none"), "processes": 2}))
    command = [sys.executable, "-m", "lora_ns", "worker", str(tmp_path), "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.wait(60) == 2
        child.stdin.close()
    told = json.loads(files.error.read_text())
    assert (told["expected"], told["exit_code"], len(told["problems"])) == (True, 2, 1)
    assert not files.part.exists()
