"""Cores, memory and GPUs of this machine, read without importing torch.

Nothing here fails. An unreadable value has a fallback, and a GPU that `nvidia-smi` cannot describe is left out.
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
"""The oldest Python that the training libraries support. Commands that need no torch also run on 3.10."""


_QUERY = ("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version")


_NVIDIA_SMI_SECONDS = 10.0


_REAP_SECONDS = 2.0


_STOP_SECONDS = 0.2


_TAIL_BYTES = 256 * 1024


_MEBIBYTE = 1024 * 1024


_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


_VECTOR_FLAGS = (
    *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve", "sve2"),
)
"""Instruction sets by which libraries choose the kernels of a CPU, by the kernel's names."""


_ROOT = Path("/")


@dataclass(frozen=True)
class Gpu:
    """A CUDA device that this process may use."""

    index: int
    """Its index in `nvidia-smi`."""
    name: str
    memory_bytes: int
    free_bytes: int
    compute_capability: tuple[int, int]
    driver: str

    @property
    def bf16(self) -> bool:
        """True if it computes in bfloat16, as Ampere and later do."""
        return self.compute_capability >= (8, 0)


@dataclass(frozen=True)
class Machine:
    """Resources that this process may use, within the limits of its container. Unknown sizes are 0 bytes."""

    cpu: str
    cores: int
    cpu_bf16: bool
    memory_bytes: int
    available_bytes: int
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False
    instruction_sets: tuple[str, ...] = ()
    """Those that decide which kernels compute; empty if unknown."""

    @property
    def accelerator(self) -> str:
        """The device type for training: `cuda`, `mps` or `cpu`."""
        if self.gpus:
            return "cuda"
        return "mps" if self.mps else "cpu"


def detect() -> Machine:
    """Describe this machine's resources as far as this process may use them."""
    memory, available = memory_bytes()
    return Machine(
        cpu=cpu_name(),
        cores=usable_cores(),
        cpu_bf16=cpu_has_bf16(),
        memory_bytes=memory,
        available_bytes=available,
        gpus=_detect_gpus((memory, available)),
        mps=sys.platform == "darwin" and platform.machine() == "arm64",
        instruction_sets=instruction_sets(),
    )


# Processes


@dataclass(frozen=True)
class Finished:
    """Result of a child process. `returncode` is None after the time limit, and negative after a signal."""

    returncode: int | None
    stdout: str
    stderr: str


def run_limited(argv: Sequence[str], timeout_s: float, stop: threading.Event | None = None) -> Finished | None:
    """Run a command without input in its own process group; returns None if it cannot be started.

    The group is killed at the time limit, and as soon as `stop` is set. The output goes through files, because a
    surviving grandchild would keep a pipe open. A child that the kernel cannot kill (a hanging driver) is abandoned.
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
    """Return the exit code, or None at the deadline or when `stop` is set."""
    while not stop.is_set():
        left = deadline - time.monotonic()
        if left <= 0:
            break
        with suppress(subprocess.TimeoutExpired):
            return child.wait(min(left, _STOP_SECONDS))
    return None


def _tail(file: IO[bytes]) -> str:
    """Read the last part of a file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    return file.read().decode(errors="replace")


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's process group."""
    with suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.wait(_REAP_SECONDS)


def _first_line(*argv: str) -> str:
    """Return the first line of a command's output, or an empty string."""
    finished = run_limited(argv, _REAP_SECONDS)
    return finished.stdout.partition("\n")[0].strip() if finished and finished.returncode == 0 else ""


# Processor


def cpu_name(root: Path = _ROOT) -> str:
    """Return the processor's marketing name, or its architecture."""
    fields = _cpuinfo(root)
    if sys.platform == "darwin" and not fields:
        fields = {"model name": _first_line("sysctl", "-n", "machdep.cpu.brand_string")}
    return fields.get("model name") or platform.processor() or platform.machine() or "unknown"


def cpu_has_bf16(root: Path = _ROOT) -> bool:
    """Detect bfloat16 instructions. Without them the dtype works, but slowly."""
    if sys.platform == "darwin" and not _cpuinfo(root):
        return _first_line("sysctl", "-n", "hw.optional.arm.FEAT_BF16") == "1"
    return not _BF16_FLAGS.isdisjoint(_cpu_flags(root))


def instruction_sets(root: Path = _ROOT) -> tuple[str, ...]:
    """List the CPU's instruction sets that decide which kernels compute; empty if the system does not list them."""
    flags = _cpu_flags(root)
    return tuple(name for name in _VECTOR_FLAGS if name in flags)


def _cpu_flags(root: Path) -> set[str]:
    """Return the flags of the first processor."""
    fields = _cpuinfo(root)
    return set(f"{fields.get('flags', '')} {fields.get('features', '')}".split())


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the fields of the first processor, keys in lower case."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip().lower()] = value.strip()
    return fields


def usable_cores(root: Path = _ROOT) -> int:
    """Count the cores that this process may use: its affinity, limited by control group quotas (rounded up)."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _cpu_quotas(root)]
    return max(1, min([cores, *quotas]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the limit, in cores, of every control group of this process."""
    for group in _control_groups(root, "cpu"):
        quota, _, period = _read(group / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
            yield int(quota) / int(period)


# Memory


def memory_bytes(root: Path = _ROOT) -> tuple[int, int]:
    """Return total and available memory of this process in bytes, within the limits of its control groups."""
    memory, available = _system_memory(root)
    for limit, free in _memory_limits(root):
        memory, available = min(memory, limit), min(available, free)
    return memory, max(0, available)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and remaining bytes of every control group of this process that has a limit."""
    for group in _control_groups(root, "memory"):
        limit = _read(group / "memory.max").strip() or _read(group / "memory.limit_in_bytes").strip()
        used = _read(group / "memory.current").strip() or _read(group / "memory.usage_in_bytes").strip()
        if limit.isdecimal():
            held = int(used) - _reclaimable(group) if used.isdecimal() else 0
            yield int(limit), int(limit) - max(0, held)


def _reclaimable(group: Path) -> int:
    """Return the page cache that the kernel counts as used and can reclaim, in bytes."""
    stat = dict(line.split(" ", 1) for line in _read(group / "memory.stat").splitlines() if " " in line)
    value = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"
    return int(value) if value.isdecimal() else 0


def _system_memory(root: Path) -> tuple[int, int]:
    """Return total and available memory of the whole system, in bytes."""
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
    """Return a page count of the system configuration, in bytes, or 0 if it is unknown."""
    try:
        return max(0, os.sysconf(name) * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 0


def _free_elsewhere() -> int:
    """Return available memory on systems without /proc in bytes, or 0 if it is unknown."""
    if sys.platform == "darwin":
        finished = run_limited(["vm_stat"], _REAP_SECONDS)
        return parse_vm_stat(finished.stdout) if finished else 0
    return _pages("SC_AVPHYS_PAGES")


def parse_vm_stat(text: str) -> int:
    """Add up free, inactive and speculative memory in the output of macOS's `vm_stat`, in bytes."""
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
    """Yield the folders of this process's control group and its parents for one controller, in cgroup v1 and v2.

    A container often sees its own group as the root of the tree, while /proc/self/cgroup has the host's path. Folders
    that do not exist are skipped, and the root is always a candidate.
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
    """Read a system file as text; returns an empty string if that fails."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# GPUs


def nvidia_smi() -> Finished | None:
    """Query `nvidia-smi` for the GPUs; returns None if it is not installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    return run_limited(
        [program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"], _NVIDIA_SMI_SECONDS
    )


def parse_gpus(text: str, unified: tuple[int, int] = (0, 0)) -> dict[str, Gpu]:
    """Parse the output of `nvidia-smi` into GPUs by UUID; malformed lines are skipped.

    A GPU that shares the system's memory reports no memory itself. For it, `unified` gives total and free memory in
    bytes.
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
    """Select the GPUs that CUDA_VISIBLE_DEVICES leaves to this process, in its order.

    This follows CUDA's rules: unset means all, parsing stops at the first entry that matches no device, an entry is an
    index or an unambiguous prefix of a UUID, and a device listed twice leaves none.
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
    """Return the one device that an entry of CUDA_VISIBLE_DEVICES refers to, or None."""
    if entry.isdecimal():
        ordered = list(gpus.values())
        return ordered[int(entry)] if int(entry) < len(ordered) else None
    matches = [gpu for uuid, gpu in gpus.items() if entry.startswith("GPU-") and uuid.startswith(entry)]
    return matches[0] if len(matches) == 1 else None


def _detect_gpus(unified: tuple[int, int]) -> tuple[Gpu, ...]:
    """Return the GPUs of this process; none if `nvidia-smi` is missing, hangs, fails or prints something else."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and _hides_all(visible):
        return ()
    finished = nvidia_smi()
    if finished is None or finished.returncode != 0:
        return ()
    return visible_gpus(parse_gpus(finished.stdout, unified), visible)


def _hides_all(visible: str) -> bool:
    """True if CUDA_VISIBLE_DEVICES hides every GPU, so that no query is needed."""
    first = visible.partition(",")[0].strip()
    return not (first.isdecimal() or first.startswith("GPU-"))
