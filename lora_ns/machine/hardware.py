"""What this machine has to train with: cores, memory and GPUs, read without importing torch.

Nothing here fails: what cannot be read has a fallback, and a GPU that `nvidia-smi` cannot describe is no GPU.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TRAINING_PYTHON = (3, 11)
"""The first Python that the libraries which train have releases for; the commands without torch run on 3.10, too."""


_QUERY = ("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version")


_NVIDIA_SMI_SECONDS = 10.0


_REAP_SECONDS = 2.0


_STOP_SECONDS = 0.2


_TAIL_BYTES = 256 * 1024


_MEBIBYTE = 1024 * 1024


_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


_ROOT = Path("/")


@dataclass(frozen=True)
class Gpu:
    """One CUDA device that this process may use."""

    index: int
    """The number that `nvidia-smi` gives it."""
    name: str
    memory_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int]
    driver: str

    @property
    def bf16(self) -> bool:
        """Whether it computes in bfloat16: Ampere and later do."""
        return self.compute_capability >= (8, 0)


@dataclass(frozen=True)
class Machine:
    """What this process may use, limits of its container included; 0 bytes where the system does not tell."""

    cpu: str
    cores: int
    cpu_bf16: bool
    memory_bytes: int
    available_bytes: int
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False

    @property
    def accelerator(self) -> str:
        """What training runs on: `cuda`, `mps` or `cpu`."""
        if self.gpus:
            return "cuda"
        return "mps" if self.mps else "cpu"


def detect() -> Machine:
    """Describe this machine as this process may use it."""
    memory, available = memory_bytes()
    return Machine(
        cpu=cpu_name(),
        cores=usable_cores(),
        cpu_bf16=cpu_has_bf16(),
        memory_bytes=memory,
        available_bytes=available,
        gpus=_detect_gpus((memory, available)),
        mps=sys.platform == "darwin" and platform.machine() == "arm64",
    )


# Processes


@dataclass(frozen=True)
class Finished:
    """How a child process ended: `returncode` is None where the time limit ended it, negative where a signal did."""

    returncode: int | None
    stdout: str
    stderr: str


def run_limited(argv: Sequence[str], timeout_s: float, stop: threading.Event | None = None) -> Finished | None:
    """Run a command without input in a process group of its own; None where it cannot be started.

    The group is killed at the time limit, and as soon as `stop` is set. The output goes through files, because a
    grandchild that survives would keep a pipe open; a child that the kernel does not let die (a driver that hangs) is
    left alone.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        except OSError:
            return None
        try:
            returncode = _wait(child, time.monotonic() + timeout_s, stop or threading.Event())
        finally:
            if child.returncode is None:
                _kill_group(child)
        return Finished(returncode, _tail(out), _tail(err))


def _wait(child: subprocess.Popen[bytes], deadline: float, stop: threading.Event) -> int | None:
    """The exit code, or None at the deadline or when it is asked to stop."""
    while not stop.is_set():
        left = deadline - time.monotonic()
        if left <= 0:
            break
        with suppress(subprocess.TimeoutExpired):
            return child.wait(min(left, _STOP_SECONDS))
    return None


def _tail(file: IO[bytes]) -> str:
    """The end of what was written to a file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    return file.read().decode(errors="replace")


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End the child and everything that it started."""
    with suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_REAP_SECONDS)


def _first_line(*argv: str) -> str:
    """What a command prints first, or an empty string."""
    finished = run_limited(argv, _REAP_SECONDS)
    return finished.stdout.partition("\n")[0].strip() if finished and finished.returncode == 0 else ""


# Processor


def cpu_name(root: Path = _ROOT) -> str:
    """The processor's name as its maker sells it, or the architecture."""
    fields = _cpuinfo(root)
    if sys.platform == "darwin" and not fields:
        fields = {"model name": _first_line("sysctl", "-n", "machdep.cpu.brand_string")}
    return fields.get("model name") or platform.processor() or platform.machine() or "unknown"


def cpu_has_bf16(root: Path = _ROOT) -> bool:
    """Whether the processor has bfloat16 instructions; without them the type works, but slowly."""
    fields = _cpuinfo(root)
    if sys.platform == "darwin" and not fields:
        return _first_line("sysctl", "-n", "hw.optional.arm.FEAT_BF16") == "1"
    return not _BF16_FLAGS.isdisjoint(f"{fields.get('flags', '')} {fields.get('features', '')}".split())


def _cpuinfo(root: Path) -> dict[str, str]:
    """The fields of the first processor, keys in lower case."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip().lower()] = value.strip()
    return fields


def usable_cores(root: Path = _ROOT) -> int:
    """How many cores this process may use: its affinity, and the quota of its control groups rounded up."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _cpu_quotas(root)]
    return max(1, min([cores, *quotas]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """The limits, in cores, of every control group that this process is in."""
    for group in _control_groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
            yield int(quota) / int(period)


# Memory


def memory_bytes(root: Path = _ROOT) -> tuple[int, int]:
    """Total and available memory for this process, the limits of its control groups respected."""
    memory, available = _system_memory(root)
    for limit, free in _memory_limits(root):
        memory, available = min(memory, limit), min(available, free)
    return memory, max(0, available)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and what is left of it, for every control group that this process is in and that has one."""
    for group in _control_groups(root, "memory"):
        limit = _read(group / "memory.max").strip() or _read(group / "memory.limit_in_bytes").strip()
        used = _read(group / "memory.current").strip() or _read(group / "memory.usage_in_bytes").strip()
        if limit.isdecimal():
            held = int(used) - _reclaimable(group) if used.isdecimal() else 0
            yield int(limit), int(limit) - max(0, held)


def _reclaimable(group: Path) -> int:
    """The file cache that the kernel counts as used and gives back when it is asked to."""
    stat = dict(line.split(" ", 1) for line in _read(group / "memory.stat").splitlines() if " " in line)
    value = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"
    return int(value) if value.isdecimal() else 0


def _system_memory(root: Path) -> tuple[int, int]:
    """Total and available memory of the whole system."""
    fields = {}
    for line in _read(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdecimal():
            fields[key] = int(number[0]) * 1024
    memory = fields.get("MemTotal") or _pages("SC_PHYS_PAGES")
    available = fields.get("MemAvailable") or fields.get("MemFree") or _free_elsewhere()
    return memory, min(memory, available) if available else memory


def _pages(name: str) -> int:
    """A number of memory pages that the system configuration knows, in bytes."""
    try:
        return max(0, os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 0


def _free_elsewhere() -> int:
    """Available memory on systems without /proc, 0 where it is not known."""
    if sys.platform == "darwin":
        finished = run_limited(["vm_stat"], _REAP_SECONDS)
        return parse_vm_stat(finished.stdout) if finished else 0
    return _pages("SC_AVPHYS_PAGES")


def parse_vm_stat(text: str) -> int:
    """Free, inactive and speculative memory in what macOS's `vm_stat` prints, in bytes."""
    header, _, body = text.partition("\n")
    sizes = [int(word) for word in header.split() if word.isdecimal()]
    pages = 0
    for line in body.splitlines():
        key, _, value = line.partition(":")
        if key in {"Pages free", "Pages inactive", "Pages speculative"}:
            number = value.strip().rstrip(".")
            pages += int(number) if number.isdecimal() else 0
    return pages * sizes[0] if sizes else 0


# Control groups


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of its parents, for one controller, both versions.

    A container often sees its own group as the top of the tree while /proc/self/cgroup tells the host's path: folders
    that do not exist are passed over, and the top is always among the candidates.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            tops = [mounts, mounts / "unified"]
        elif controller in names.split(","):
            tops = [mounts / controller, mounts / names]
        else:
            continue
        for top in tops:
            inner = top / path.strip("/")
            folders = [inner, *inner.parents]
            yield from (folder for folder in folders[: folders.index(top) + 1] if folder.is_dir())


def _read(path: Path) -> str:
    """The text of a file of the system, or an empty string."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# GPUs


def nvidia_smi() -> Finished | None:
    """Ask `nvidia-smi` for the GPUs; None where there is no such program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    return run_limited(
        [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"], _NVIDIA_SMI_SECONDS
    )


def parse_gpus(text: str, unified: tuple[int, int] = (0, 0)) -> dict[str, Gpu]:
    """Read what `nvidia-smi` printed, by UUID; a line that makes no sense is passed over.

    A GPU that shares the system's memory reports none of its own: `unified` is the total and free memory to use then.
    """
    gpus = {}
    for line in text.splitlines():
        with suppress(ValueError):
            index, uuid, name, total, free, capability, driver = (cell.strip() for cell in line.split(","))
            major, minor = capability.split(".")
            memory, unused = (int(total) * _MEBIBYTE,) * 2 if total.isdecimal() else unified
            if free.isdecimal():
                unused = int(free) * _MEBIBYTE
            if memory > 0:
                gpus[uuid] = Gpu(int(index), name, memory, unused, (int(major), int(minor)), driver)
    return gpus


def visible_gpus(gpus: Mapping[str, Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, in its order.

    CUDA's own rules: unset is all, reading ends at the first entry that names no device, an entry is a number or the
    unambiguous beginning of a UUID, and a device named twice leaves none.
    """
    if visible is None:
        return tuple(gpus.values())
    chosen: list[Gpu] = []
    for entry in visible.split(","):
        gpu = _named_gpu(gpus, entry.strip())
        if gpu is None:
            break
        if gpu in chosen:
            return ()
        chosen.append(gpu)
    return tuple(chosen)


def _named_gpu(gpus: Mapping[str, Gpu], entry: str) -> Gpu | None:
    """The one device that an entry of CUDA_VISIBLE_DEVICES means."""
    if entry.isdecimal():
        ordered = list(gpus.values())
        return ordered[int(entry)] if int(entry) < len(ordered) else None
    matches = [gpu for uuid, gpu in gpus.items() if entry.startswith("GPU-") and uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _detect_gpus(unified: tuple[int, int]) -> tuple[Gpu, ...]:
    """The GPUs of this process, none where `nvidia-smi` is absent, hangs, fails or prints something else."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and _named_none(visible):
        return ()
    finished = nvidia_smi()
    if finished is None or finished.returncode != 0:
        return ()
    return visible_gpus(parse_gpus(finished.stdout, unified), visible)


def _named_none(visible: str) -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides every GPU, so that none need be asked for."""
    first = visible.partition(",")[0].strip()
    return not (first.isdecimal() or first.startswith("GPU-"))
