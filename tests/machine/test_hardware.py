"""What `lora_ns.machine.hardware` reads of cores, memory and GPUs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lora_ns.machine import hardware as machine
from lora_ns.machine.hardware import Gpu, Machine, detect, parse_gpus, run_limited, visible_gpus

MIB = 1024 * 1024
GIB = 1024 * MIB
H100 = "0, GPU-aaaa1111, NVIDIA H100 80GB HBM3, 81559, 81008, 9.0, 580.65.06"
T4 = "1, GPU-aaaa2222, Tesla T4, 15360, 15000, 7.5, 580.65.06"
MEMINFO = f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {32 * GIB // 1024} kB\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a program of that name on an otherwise empty PATH."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def write(body: str) -> None:
        program = tree(tmp_path, {"bin/nvidia-smi": f"#!{sys.executable}\n{body}\n"}) / "bin/nvidia-smi"
        program.chmod(0o755)

    return write


def test_this_machine_has_a_name_cores_and_memory_and_is_plain_json() -> None:
    found = detect()
    assert found.cpu
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 0 < found.available_bytes <= found.memory_bytes
    assert json.loads(json.dumps(dataclasses.asdict(found)))["cores"] == found.cores


@pytest.mark.parametrize(
    ("gpus", "mps", "accelerator"),
    [((), False, "cpu"), ((), True, "mps"), ((Gpu(0, "A", 1, 1, (8, 0), "1"),), False, "cuda")],
)
def test_the_accelerator_is_cuda_before_mps_before_cpu(gpus: tuple[Gpu, ...], mps: bool, accelerator: str) -> None:
    assert Machine("cpu", 1, False, 1, 1, gpus, mps).accelerator == accelerator


@pytest.mark.parametrize(("capability", "bf16"), [((7, 5), False), ((8, 0), True), ((8, 9), True), ((12, 0), True)])
def test_bf16_comes_with_ampere(capability: tuple[int, int], bf16: bool) -> None:
    assert Gpu(0, "A", 1, 1, capability, "1").bf16 is bf16


def test_detection_imports_nothing_heavy() -> None:
    code = "import sys; from lora_ns.machine.hardware import detect; detect(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_repository())
    assert done.stdout == "False\n"


def _repository() -> Path:
    return Path(machine.__file__).parents[1]


# Processor


@pytest.mark.parametrize(
    ("cpuinfo", "name", "bf16"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx512_bf16\n\nmodel name\t: other\n", "AMD EPYC", True),
        ("model name\t: Intel Xeon\nflags\t\t: fpu amx_bf16 amx_tile\n", "Intel Xeon", True),
        ("model name\t: Old\nflags\t\t: fpu avx512f avx512_vnni\n", "Old", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", None, True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", None, False),
        ("", None, False),
    ],
)
def test_the_first_processor_tells_name_and_bf16(tmp_path: Path, cpuinfo: str, name: str | None, bf16: bool) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": cpuinfo})
    assert machine.cpu_has_bf16(root) is bf16
    assert machine.cpu_name(root) == name if name else machine.cpu_name(root)


CORES = {
    "no control groups": ({}, 8),
    "v2 without a limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    "v2 own group": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
    "v2 part of a core": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
    "v2 rounds up": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n"}, 3),
    "v2 parent is stricter": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
        },
        1,
    ),
    "v2 host path in a container": (
        {"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"},
        4,
    ),
    "v1": (
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/job\n2:memory:/\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "v1 without a limit": (
        {
            "proc/self/cgroup": "3:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        8,
    ),
    "more than there are": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 8),
    "garbage": ({"proc/self/cgroup": "x\n::\n0::/\n", "sys/fs/cgroup/cpu.max": "many 0\n"}, 8),
}


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
@pytest.mark.parametrize("name", CORES)
def test_cores_respect_affinity_and_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files, cores = CORES[name]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert machine.usable_cores(tree(tmp_path, files)) == cores


# Memory

MEMORY = {
    "no control groups": ({}, (64 * GIB, 32 * GIB)),
    "v2 without a limit": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n"},
        (64 * GIB, 32 * GIB),
    ),
    "v2 without its reclaimable cache": (
        {
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{5 * GIB}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {2 * GIB}\n",
        },
        (8 * GIB, 5 * GIB),
    ),
    "v2 parent is stricter": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{1 * GIB}\n",
            "sys/fs/cgroup/a/b/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/a/b/memory.current": "0\n",
        },
        (4 * GIB, 3 * GIB),
    ),
    "v1": (
        {
            "proc/self/cgroup": "4:memory:/job\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{16 * GIB}\n",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{6 * GIB}\n",
            "sys/fs/cgroup/memory/job/memory.stat": f"inactive_file 1\ntotal_inactive_file {1 * GIB}\n",
        },
        (16 * GIB, 11 * GIB),
    ),
    "v1 without a limit": (
        {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"},
        (64 * GIB, 32 * GIB),
    ),
    "used up": (
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/memory.current": f"{GIB + 1}\n",
        },
        (GIB, 0),
    ),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_respects_the_control_groups(tmp_path: Path, name: str) -> None:
    files, expected = MEMORY[name]
    assert machine.memory_bytes(tree(tmp_path, {"proc/meminfo": MEMINFO, **files})) == expected


def test_memory_is_read_without_proc(tmp_path: Path) -> None:
    memory, available = machine.memory_bytes(tmp_path)
    assert 0 < available <= memory


def test_vm_stat_counts_free_inactive_and_speculative_pages() -> None:
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:   10.\nPages active:  99.\n"
        "Pages inactive:   20.\nPages speculative:   3.\nPages wired down:  7.\n"
    )
    assert machine.parse_vm_stat(text) == 33 * 16384
    assert machine.parse_vm_stat("garbage") == 0


# GPUs


def test_nvidia_smi_is_read() -> None:
    assert list(parse_gpus(f"{H100}\n{T4}\n").values()) == [
        Gpu(0, "NVIDIA H100 80GB HBM3", 81559 * MIB, 81008 * MIB, (9, 0), "580.65.06"),
        Gpu(1, "Tesla T4", 15360 * MIB, 15000 * MIB, (7, 5), "580.65.06"),
    ]


def test_a_gpu_that_shares_the_system_memory_has_the_system_memory() -> None:
    line = "0, GPU-cccc, NVIDIA GB10, [N/A], [N/A], 12.1, 580.95.05"
    assert list(parse_gpus(line, (128 * GIB, 100 * GIB)).values()) == [
        Gpu(0, "NVIDIA GB10", 128 * GIB, 100 * GIB, (12, 1), "580.95.05")
    ]


GARBAGE = (
    "",
    "No devices were found\n",
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
    "0, GPU-a, name, lots, some, 9, 1\n",
    "0, GPU-a, name, 1, 1, [N/A], 1\n",
    "x, GPU-a, name, 1, 1, 9.0, 1\n",
    "0, GPU-a, name, 1, 1, 9.0\n",
    "0, GPU-a, name, 1, 1, 9.0, 1, 2\n",
    '"\x00",,,,,,\n',
    "0, GPU-a, Broken, [N/A], [N/A], 9.0, 1\n",
)


@pytest.mark.parametrize("text", GARBAGE)
def test_lines_that_make_no_sense_are_passed_over(text: str) -> None:
    assert list(parse_gpus(text)) == []
    assert list(parse_gpus(f"{text}\n{T4}\n")) == ["GPU-aaaa2222"]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, (0, 1)),
        ("0", (0,)),
        ("1", (1,)),
        ("1,0", (1, 0)),
        (" 1 , 0 ", (1, 0)),
        ("", ()),
        ("-1", ()),
        ("none", ()),
        ("2", ()),
        ("0,7,1", (0,)),
        ("0,-1,1", (0,)),
        ("0,0", ()),
        ("GPU-aaaa2222", (1,)),
        ("GPU-aaaa2", (1,)),
        ("GPU-aaaa1111,1", (0, 1)),
        ("GPU-aaaa", ()),
        ("GPU-dead", ()),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(visible: str | None, indices: tuple[int, ...]) -> None:
    assert tuple(gpu.index for gpu in visible_gpus(parse_gpus(f"{H100}\n{T4}\n"), visible)) == indices


def test_gpus_come_from_nvidia_smi(nvidia_smi, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(f"import sys; assert '--format=csv,noheader,nounits' in sys.argv; print('''{H100}\n{T4}''')")
    found = detect()
    assert [gpu.index for gpu in found.gpus] == [0, 1]
    assert found.accelerator == "cuda"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.name for gpu in detect().gpus] == ["Tesla T4"]


@pytest.mark.parametrize(
    "body",
    [
        f"print('''{H100}'''); raise SystemExit(9)",
        "import os; os.abort()",
        "print('garbage')",
        "import sys; sys.stdout.buffer.write(bytes(range(256)))",
    ],
)
def test_an_nvidia_smi_that_fails_means_no_gpus(nvidia_smi, body: str) -> None:
    nvidia_smi(body)
    assert detect().gpus == ()


def test_an_nvidia_smi_that_hangs_means_no_gpus(nvidia_smi, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi("import time; time.sleep(600)")
    monkeypatch.setattr(machine, "_NVIDIA_SMI_SECONDS", 0.2)
    assert detect().gpus == ()


def test_a_file_that_is_not_a_program_means_no_gpus(nvidia_smi, tmp_path: Path) -> None:
    nvidia_smi("")
    (tmp_path / "bin/nvidia-smi").write_bytes(b"\x7fELF nonsense")
    assert detect().gpus == ()


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_are_not_asked_for(
    nvidia_smi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    nvidia_smi(f"open({str(tmp_path / 'asked')!r}, 'w')")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert detect().gpus == ()
    assert not (tmp_path / "asked").exists()


# Processes


def test_a_child_that_is_stopped_takes_its_own_children_along(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    stop = threading.Event()

    def watch() -> None:
        with (tmp_path / "alive").open("rb", buffering=0) as pipe:
            pipe.read(1)
            stop.set()
            pipe.read()  # ends when nobody holds the other end

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    grandchild = f"import time; pipe = open({str(tmp_path / 'alive')!r}, 'wb', 0); pipe.write(b'.'); time.sleep(600)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    finished = run_limited([sys.executable, "-c", child], 600.0, stop)
    assert finished is not None
    assert finished.returncode is None
    watcher.join(60.0)
    assert not watcher.is_alive()


def test_a_child_has_no_input_and_its_signal_is_told() -> None:
    finished = run_limited([sys.executable, "-c", "import os, sys; print(sys.stdin.read()); os.abort()"], 60.0)
    assert finished is not None
    assert finished.returncode == -6


def test_a_child_ends_when_it_is_asked_to_stop() -> None:
    stop = threading.Event()
    stop.set()
    finished = run_limited([sys.executable, "-c", "import time; time.sleep(600)"], 600.0, stop)
    assert finished is not None
    assert finished.returncode is None


def test_a_command_that_does_not_exist_is_none() -> None:
    assert run_limited(["/nowhere/at-all"], 1.0) is None
