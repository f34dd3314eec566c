"""Checks of the environment for `lorans env-check`: facts, and for each fault the command that fixes it.

Nothing heavy is imported in this process. Imports that may raise, hang or abort run in a child with a time limit
(`probes`), so that a broken package is named in the report and does not crash the command. A package that nobody needs
never fails the check.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from lora_ns.files.hub_cache import hub_cache, hub_home
from lora_ns.machine.hardware import TRAINING_PYTHON, Finished, Gpu, Machine, detect, nvidia_smi, run_limited
from lora_ns.safety.interpreter import interpreter

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

Status = Literal["ok", "warn", "fail"]


_GIGABYTE = 10**9


_GIBIBYTE = 2**30


_LITTLE_DISK = 10 * _GIGABYTE


_NO_DISK = 1 * _GIGABYTE


_HUB_LIMIT_SECONDS = 7.0


_START_SECONDS = 5.0


_NF4_ERROR = 0.16
"""Largest allowed nf4 round-trip error: half of nf4's widest gap (-1 to -0.6962), plus a little for rounding."""


_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


_SECRET_NAMES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "SWANLAB_API_KEY",
    "COMET_API_KEY",
)


@dataclass(frozen=True)
class Needs:
    """Requirements of a recipe on the environment. The defaults, without a recipe, cover the core packages only."""

    quantization: bool = False
    deepspeed: bool = False
    flash_attention: bool = False
    hub: bool = False
    cuda: bool = False
    output_dir: Path | None = None
    trackers: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    """Packages needed to read the base, by their pip names."""
    sandbox: bool = False
    """Programs that the model writes are run."""


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    status: Status
    fact: str
    remedy: str = ""
    """The command that fixes it, empty where there is nothing to fix."""


@dataclass(frozen=True)
class Report:
    """Every check, in the order of `PROBES`."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True if no check has failed."""
        return all(check.status != "fail" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}


@dataclass(frozen=True)
class VersionRanges:
    """The versions that this release was tested with, from its package metadata."""

    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Version range by package, such as `>=2.13,<2.14`."""

    def pip(self, package: str) -> str:
        """The pip command that installs a tested version."""
        wanted = package + self.packages.get(package, "")
        return f"pip install '{wanted}'" if wanted != package else f"pip install {package}"


@dataclass(frozen=True)
class _Context:
    """Input of the probes."""

    needs: Needs
    timeout_s: float
    machine: Machine
    tested: VersionRanges
    stop: threading.Event = field(default_factory=threading.Event)


def check(needs: Needs, timeout_s: float = 60.0) -> Report:
    """Run every probe; `timeout_s` limits each import and each program, in seconds."""
    context = _Context(needs, timeout_s, detect(), version_ranges())
    with ThreadPoolExecutor(max_workers=max(2, context.machine.cores)) as pool:
        try:
            found = [pool.submit(probe, context) for probe in PROBES.values()]
            checks = [line for future in found for line in future.result()]
        except BaseException:
            context.stop.set()
            raise
    secrets = _secrets()
    return Report(tuple(_without(secrets, line) for line in checks))


# Versions


def version_ranges() -> VersionRanges:
    """Return the tested ranges, from the installed distribution or from the pyproject.toml of a source checkout."""
    try:
        python, requirements = _installed_requirements()
    except metadata.PackageNotFoundError:
        python, requirements = _checkout_requirements(Path(__file__).parents[2] / "pyproject.toml")
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return VersionRanges(python)
    packages = {}
    for requirement in map(Requirement, requirements):
        # `python_version < "3.11"` marks a backport of something newer Pythons have; a `>=` marker is what training
        # needs.
        marker = str(requirement.marker or "")
        if "extra" in marker or "<" not in marker or (requirement.marker and requirement.marker.evaluate()):
            packages[requirement.name] = _format_range(requirement.specifier)
    return VersionRanges(python, packages)


def _installed_requirements() -> tuple[str, list[str]]:
    distribution = metadata.distribution("lora-ns")
    return distribution.metadata["Requires-Python"] or "", distribution.requires or []


def _checkout_requirements(pyproject: Path) -> tuple[str, list[str]]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError):
        return "", []
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    return project.get("requires-python", ""), project.get("dependencies", []) + extras


def _format_range(specifier: SpecifierSet) -> str:
    """Format a range in the usual order, lower bound first."""
    return ",".join(sorted(map(str, specifier), reverse=True))


def _distance(version: str, tested: str) -> str:
    """Return `older` or `newer` than the tested range, `other` for an odd version, or "" if it is inside or unknown."""
    if not tested:
        return ""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    specifiers = SpecifierSet(tested)
    try:
        found = Version(version)
    except InvalidVersion:
        return "other"
    if specifiers.contains(found, prereleases=True):
        return ""
    lower = [Version(one.version) for one in specifiers if one.operator in {">=", ">", "~=", "=="}]
    return "older" if lower and found < max(lower) else "newer"


def _installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# Children


@dataclass(frozen=True)
class _Outcome:
    """Result of one attempt in a child: facts, or an error message."""

    error: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


_CHILD = """
import json, sys
path, program, timeout_s, *arguments = sys.argv[1:]
sys.path[:] = json.loads(path)
from lora_ns.machine.probes import main
main(program, arguments, float(timeout_s))
"""


def _run_program(
    context: _Context, program: str, arguments: Sequence[str] = (), timeout_s: float | None = None
) -> dict[str, _Outcome]:
    """Run one program of `probes` in a child that has this process's `sys.path`, and return the outcomes by attempt."""
    each = context.timeout_s if timeout_s is None else timeout_s
    argv = [*interpreter(), "-c", _CHILD, json.dumps(sys.path), program, str(each), *arguments]
    finished = run_limited(argv, each * max(1, len(arguments)) + _START_SECONDS, context.stop)
    return {} if finished is None else _outcomes(finished, each)


def _outcomes(finished: Finished, timeout_s: float) -> dict[str, _Outcome]:
    """Parse a child's output; an attempt with a start and no end is the one that ended the child."""
    outcomes: dict[str, _Outcome] = {}
    begun, dump = "", []
    for line in finished.stdout.splitlines():
        row = _row(line)
        if row is None:
            dump.append(line)
        elif "begin" in row:
            begun = row["begin"]
        else:
            outcomes[row["end"]] = _Outcome(row.get("error", ""), row.get("facts", {}))
            begun = ""
    if begun:
        outcomes[begun] = _Outcome(_unfinished(finished.returncode, dump, timeout_s))
    return outcomes


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _unfinished(returncode: int | None, dump: Sequence[str], timeout_s: float) -> str:
    """Explain in words why a child did not finish an attempt."""
    frames = _innermost(dump)
    if returncode is None or dump:
        return f"hangs: still running after {timeout_s:g} s{frames}"
    if returncode < 0:
        return f"aborts: {signal.Signals(-returncode).name}"
    return f"ends the process with exit code {returncode}"


def _innermost(dump: Sequence[str]) -> str:
    """Return the innermost frame of the main thread from faulthandler's traceback, which lists that thread last."""
    place = ""
    for previous, line in zip(["", *dump], dump, strict=False):
        if "most recent call first" in previous and (match := re.match(r'\s*File "(.+)", line (\d+)', line)):
            place = f", in {match[1]}:{match[2]}"
    return place


# Packages


@dataclass(frozen=True)
class _Package:
    """A package, the module to import (`module:name` also reads the name) and the packages that it depends on."""

    name: str
    module: str = ""
    depends_on: tuple[str, ...] = ()


PACKAGES = (
    _Package("pydantic"),
    _Package("rich"),
    _Package("typer"),
    _Package("safetensors"),
    _Package("scikit-learn"),
    _Package("torch", "torch"),
    _Package("accelerate", "accelerate:Accelerator", ("torch",)),
    _Package("datasets", "datasets:Dataset"),
    _Package("transformers", "transformers:Trainer", ("torch", "accelerate")),
    _Package("bitsandbytes", "bitsandbytes", ("torch",)),
    _Package("peft", "peft", ("torch", "accelerate", "transformers")),
    _Package("trl", "trl:SFTTrainer", ("torch", "accelerate", "datasets", "transformers")),
)
"""Packages of every run, plus bitsandbytes. Dependencies come first, so that the report blames the package at fault."""


def _packages(context: _Context) -> list[Check]:
    present = [package for package in PACKAGES if package.module and _installed(package.name)]
    outcomes = _import_each(context, present)
    return [
        _package_check(context, package.name, _needs(context.needs, package.name), outcomes.get(package.name))
        for package in PACKAGES
    ]


def _needs(needs: Needs, package: str) -> bool:
    """True if this package of the table is needed; only bitsandbytes is optional."""
    return needs.quantization if package == "bitsandbytes" else True


def _import_each(context: _Context, packages: Sequence[_Package]) -> dict[str, _Outcome]:
    """Import packages in as few children as possible; a package that ends its child is left out of the next one."""
    outcomes: dict[str, _Outcome] = {}
    left = list(packages)
    while left and not context.stop.is_set():
        found = _run_program(context, "imports", [package.module for package in left])
        for package in left:
            if package.module in found:
                outcomes[package.name] = found[package.module]
        left = [package for package in left if package.name not in outcomes]
        if not found and left:
            outcomes[left.pop(0).name] = _Outcome("a child process could not be started")
        left = [package for package in left if not _depends_on_broken(package, outcomes)]
    return outcomes


def _depends_on_broken(package: _Package, outcomes: dict[str, _Outcome]) -> bool:
    """Record a package that cannot work because a dependency is broken, so that no time is spent on it."""
    broken = [name for name in package.depends_on if name in outcomes and outcomes[name].error]
    if broken:
        outcomes[package.name] = _Outcome(f"not tried: needs {broken[0]}")
    return bool(broken)


def _package_check(context: _Context, name: str, needed: bool, outcome: _Outcome | None) -> Check:
    """Report version and import of one package in one line."""
    version, tested = _installed(name), context.tested.packages.get(name, "")
    worst: Status = "fail" if needed else "warn"
    if version is None:
        return Check(name, worst, "is not installed", context.tested.pip(name))
    if outcome is not None and outcome.error:
        return Check(name, worst, f"{version}: import {outcome.error}", _import_remedy(context, name, outcome.error))
    if distance := _distance(version, tested):
        return Check(name, "warn", f"{version} is {distance} than the tested {tested}", context.tested.pip(name))
    return Check(name, "ok", version if outcome is None else f"{version}, imports")


def _import_remedy(context: _Context, name: str, error: str) -> str:
    """Suggest a fix for a failed import. An import from a slow disk looks like a hang, so more time comes first."""
    if error.startswith("not tried"):
        return ""
    if error.startswith("hangs"):
        return f"lorans env-check --timeout {context.timeout_s * 5:g}"
    return _reinstall(context, name)


def _reinstall(context: _Context, name: str) -> str:
    return context.tested.pip(name).replace("pip install", "pip install --force-reinstall --no-deps", 1)


# Python and machine


def _python(context: _Context) -> list[Check]:
    version, tested = platform.python_version(), context.tested.python
    fact = f"{version} on {platform.system()} {platform.machine()}"
    try:
        distance = _distance(version, tested)
    except ImportError:
        return [Check("python", "warn", f"{fact}; versions not checked without `packaging`", "pip install packaging")]
    if distance:
        return [Check("python", "fail", f"{fact}; tested with {tested}", "python3.12 -m venv .venv")]
    if not tested:
        return [Check("python", "warn", f"{fact}; not installed: no tested versions known", "pip install lora-ns")]
    if sys.version_info < TRAINING_PYTHON:
        needed = ".".join(map(str, TRAINING_PYTHON))
        return [Check("python", "fail", f"{fact}; transformers and trl need {needed}", "python3.12 -m venv .venv")]
    return [Check("python", "ok", fact)]


def _cpu(context: _Context) -> list[Check]:
    machine = context.machine
    bf16 = "bf16 instructions" if machine.cpu_bf16 else "no bf16 instructions"
    return [Check("cpu", "ok", f"{machine.cpu}, {_count(machine.cores, 'core')}, {bf16}")]


def _memory(context: _Context) -> list[Check]:
    machine = context.machine
    if not machine.memory_bytes:
        return [Check("memory", "warn", "the system does not report its size")]
    return [Check("memory", "ok", f"{_gib(machine.available_bytes)} available of {_gib(machine.memory_bytes)}")]


def _disk(context: _Context) -> list[Check]:
    """Report the free space for the run, and check that the folder is writable."""
    wanted = context.needs.output_dir
    folder = _existing(wanted or Path())
    free = shutil.disk_usage(folder).free
    fact = f"{free / _GIGABYTE:.1f} GB free at {wanted or Path.cwd()}"
    if wanted and not os.access(folder, os.W_OK):
        return [Check("disk", "fail", f"{folder} is not writable", "set training.output_dir to another folder")]
    if wanted and free < _NO_DISK:
        return [Check("disk", "fail", fact, "set training.output_dir to a larger disk")]
    if free < _LITTLE_DISK:
        return [Check("disk", "warn", f"{fact}: this may be too little for checkpoints and models")]
    return [Check("disk", "ok", fact)]


def _existing(path: Path) -> Path:
    """Return the folder itself, or its nearest existing parent."""
    absolute = path.expanduser().absolute()
    return next(folder for folder in (absolute, *absolute.parents) if os.access(folder, os.F_OK))


# torch and GPUs


def _torch(context: _Context) -> list[Check]:
    """Report threads, GPUs and 4-bit support as torch sees them; faults of torch itself are among the packages."""
    if not _installed("torch"):
        return [_threads(context, {}), *_gpus(context, {})]
    attempts = ["torch", "nf4"] if _installed("bitsandbytes") else ["torch"]
    outcomes = _run_program(context, "torch", attempts)
    facts = outcomes["torch"].facts if "torch" in outcomes else {}
    return [_threads(context, facts), *_gpus(context, facts), *_nf4(context, outcomes)]


def _threads(context: _Context, facts: Mapping[str, Any]) -> Check:
    cores, variable = context.machine.cores, os.environ.get("OMP_NUM_THREADS")
    threads = facts.get("threads")
    if threads is None:
        return Check("threads", "ok", f"unknown without torch; {_count(cores, 'core')}")
    fact = f"torch uses {_count(threads, 'thread')} on {_count(cores, 'core')}"
    if variable == "1" and cores > 1:
        return Check("threads", "warn", f"{fact}: OMP_NUM_THREADS=1", "unset OMP_NUM_THREADS")
    if threads > cores:
        return Check("threads", "warn", f"{fact}: more threads than cores", f"export OMP_NUM_THREADS={cores}")
    return Check("threads", "ok", fact)


def _gpus(context: _Context, facts: Mapping[str, Any]) -> list[Check]:
    gpus = context.machine.gpus
    if not gpus:
        return [_no_gpu(context)]
    worst: Status = "fail" if context.needs.cuda else "warn"
    if facts and not facts["cuda"]:
        remedy = f"pip uninstall -y torch && {context.tested.pip('torch')}"
        return [Check("gpu", worst, f"{gpus[0].name} found, but torch {facts['version']} is a CPU-only build", remedy)]
    if facts.get("cuda_error"):
        fact = f"torch for CUDA {facts['cuda']} and driver {gpus[0].driver}: {facts['cuda_error']}"
        return [Check("gpu", worst, fact, "install a driver for this CUDA version, or a torch for an older CUDA")]
    devices: Sequence[Mapping[str, Any]] = facts.get("devices", [])
    seen = [_gpu(context, gpu, facts) for gpu in gpus]
    if facts and len(devices) != len(gpus):
        fact = f"nvidia-smi shows {len(gpus)}, torch sees {len(devices)}"
        seen.append(Check("gpu", "warn", fact, "echo $CUDA_VISIBLE_DEVICES"))
    return seen


def _gpu(context: _Context, gpu: Gpu, facts: Mapping[str, Any]) -> Check:
    """Report one GPU: its properties, and a test that this torch has working code for it."""
    name = f"gpu {gpu.index}"
    major, minor = gpu.compute_capability
    kind = "bf16" if gpu.bf16 else "no bf16, fp16 is used"
    fact = f"{gpu.name}, {_gib(gpu.free_bytes)} free of {_gib(gpu.memory_bytes)}, sm_{major}{minor}, {kind}"
    worst: Status = "fail" if context.needs.cuda else "warn"
    archs = facts.get("arch_list", [])
    if archs and not covers(archs, gpu.compute_capability):
        fact = f"{fact}: torch is built for {' '.join(archs)}"
        return Check(name, worst, fact, "install a torch build for this GPU: https://pytorch.org/get-started")
    errors = [device["error"] for device in facts.get("devices", []) if device["name"] == gpu.name and device["error"]]
    if errors:
        return Check(name, worst, f"{fact}: {errors[0]}", "nvidia-smi")
    return Check(name, "ok", f"{fact}, driver {gpu.driver}" + (f", CUDA {facts['cuda']}" if facts else ""))


def covers(archs: Sequence[str], capability: tuple[int, int]) -> bool:
    """True if a build with these architectures runs on a device.

    Machine code (`sm_80`) runs on the same major and any later minor version, intermediate code (`compute_90`) on any
    later device. A letter (`sm_90a`) ties it to one device.
    """
    for arch in archs:
        if match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", arch):
            built = (int(match[2]), int(match[3]))
            later = capability >= built and (match[1] == "compute" or capability[0] == built[0])
            if built == capability or (later and not match[4]):
                return True
    return False


def _no_gpu(context: _Context) -> Check:
    """Explain why there is no GPU: no driver, hidden by the environment, or a driver that does not respond."""
    needed: Status = "fail" if context.needs.cuda else "ok"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and shutil.which("nvidia-smi"):
        fact = f"hidden by CUDA_VISIBLE_DEVICES={visible!r}"
        return Check("gpu", "fail" if context.needs.cuda else "warn", fact, "unset CUDA_VISIBLE_DEVICES")
    finished = nvidia_smi()
    if finished is None:
        device = "the Apple GPU (mps)" if context.machine.mps else "the CPU"
        return Check("gpu", needed, f"none: training runs on {device}")
    lines = (finished.stdout.strip() or finished.stderr.strip()).splitlines()
    if finished.returncode is None:
        fact = "nvidia-smi hangs"
    elif finished.returncode:
        fact = f"nvidia-smi fails: {lines[-1] if lines else f'exit code {finished.returncode}'}"
    else:
        fact = f"nvidia-smi lists no GPU{f': {lines[-1][:80]}' if lines else ''}"
    return Check("gpu", "fail" if context.needs.cuda else "warn", fact, "nvidia-smi")


def _nf4(context: _Context, outcomes: Mapping[str, _Outcome]) -> list[Check]:
    """Report the error of a 4-bit round trip, if torch got that far."""
    if "nf4" not in outcomes:
        return []
    worst: Status = "fail" if context.needs.quantization else "warn"
    outcome = outcomes["nf4"]
    if outcome.error:
        return [Check("4-bit", worst, f"bitsandbytes {outcome.error}", _reinstall(context, "bitsandbytes"))]
    error, device = outcome.facts["error"], outcome.facts["device"]
    fact = f"nf4 round trip on {device}: largest error {error:.3f} of the largest weight"
    if not error <= _NF4_ERROR:
        return [Check("4-bit", worst, f"{fact}, limit {_NF4_ERROR}", _reinstall(context, "bitsandbytes"))]
    return [Check("4-bit", "ok", fact)]


# Packages of some recipes


def _flash_attention(context: _Context) -> list[Check]:
    absent = Check("flash-attn", "ok", "not installed, sdpa is used")
    return [_optional(context, "flash-attn", "flash_attn", context.needs.flash_attention, absent)]


def _deepspeed(context: _Context) -> list[Check]:
    absent = Check("deepspeed", "ok", "not installed, ddp and fsdp are used")
    return [_optional(context, "deepspeed", "deepspeed", context.needs.deepspeed, absent)]


def _optional(context: _Context, name: str, module: str, needed: bool, absent: Check) -> Check:
    """Check a package that only some recipes need. If it is broken, it still harms packages that look for it."""
    if not _installed(name):
        install = "pip install flash-attn --no-build-isolation" if name == "flash-attn" else context.tested.pip(name)
        return Check(name, "fail", "is not installed", install) if needed else absent
    outcome = _run_program(context, "imports", [module]).get(module, _Outcome("the child process did not start"))
    found = _package_check(context, name, needed, outcome)
    if outcome.error and not needed:
        return Check(name, "warn", f"{found.fact}; not needed here", f"pip uninstall -y {name}")
    return found


def _compiler(context: _Context) -> list[Check]:
    """Check for g++ and ninja, which DeepSpeed uses to build its CPU optimizer."""
    found = {name: shutil.which(name) for name in ("g++", "ninja")}
    missing = [name for name, path in found.items() if path is None]
    if not missing:
        return [Check("compiler", "ok", "found g++ and ninja")]
    fact = f"{' and '.join(missing)} not found: DeepSpeed's CPU offload needs {'it' if len(missing) == 1 else 'them'}"
    if not context.needs.deepspeed:
        return [Check("compiler", "ok", fact)]
    commands = {"g++": "apt-get install g++", "ninja": "pip install ninja"}
    return [Check("compiler", "warn", fact, " && ".join(commands[name] for name in missing))]


def _trackers(context: _Context) -> list[Check]:
    return [_package_check(context, tracker, True, None) for tracker in context.needs.trackers]


def _base_packages(context: _Context) -> list[Check]:
    return [_package_check(context, package, True, None) for package in context.needs.packages]


def _sandbox(context: _Context) -> list[Check]:
    """Check the walls around programs that a model writes, for recipes that run some."""
    from lora_ns.sandbox.walls import REMEDY, summary, walls

    missing = [wall for wall in walls() if not wall.holds]
    if not missing:
        return [Check("sandbox", "ok", "every wall around generated programs holds")]
    necessary = [wall for wall in missing if wall.is_necessary]
    status: Status = "fail" if necessary and context.needs.sandbox else "ok"
    end = ": generated programs do not run here" if necessary else ""
    return [Check("sandbox", status, f"{summary(missing)}{end}", REMEDY)]


# The hub


def _hub(context: _Context) -> list[Check]:
    return [_reachable(context), _token(), _cache(context)]


def _reachable(context: _Context) -> Check:
    """Check that the hub responds; this fails only if the recipe needs the hub."""
    needed = context.needs.hub
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in _TRUE:
            fact = f"{name} is set: only cached models and datasets are used"
            return Check("hub", "fail", fact, f"unset {name}") if needed else Check("hub", "ok", fact)
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    host = urlsplit(endpoint).hostname or "HF_ENDPOINT"
    limit = min(context.timeout_s, _HUB_LIMIT_SECONDS)
    outcome = _run_program(context, "hub", [endpoint], limit).get("hub", _Outcome("the child process did not start"))
    if not outcome.error:
        return Check("hub", "ok", f"{host} is reachable")
    fact = f"{host} is not reachable: {outcome.error}"
    if needed:
        return Check("hub", "fail", fact, "export HTTPS_PROXY=<your proxy>, or HF_ENDPOINT=<a mirror>")
    return Check("hub", "warn", fact, "export HF_HUB_OFFLINE=1")


def _token() -> Check:
    """Report the source of the token; its value never enters the report."""
    for name in _SECRET_NAMES[:2]:
        if os.environ.get(name):
            return Check("token", "ok", f"set by {name}")
    if os.access(_token_file(), os.R_OK):
        return Check("token", "ok", f"in {_token_file()}")
    return Check("token", "ok", "none: gated and private models cannot be downloaded (`hf auth login`)")


def _token_file() -> Path:
    return Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token").expanduser()


def _cache(context: _Context) -> Check:
    folder = hub_cache()
    existing = _existing(folder)
    free = shutil.disk_usage(existing).free / _GIGABYTE
    if os.access(existing, os.W_OK):
        return Check("cache", "ok", f"{folder}, {free:.1f} GB free")
    status: Status = "fail" if context.needs.hub else "warn"
    return Check("cache", status, f"{folder} is not writable", "export HF_HOME=<a writable folder>")


# The table


def _secrets() -> list[str]:
    """Return the values to mask in every message, wherever they come from."""
    values = [os.environ.get(name, "") for name in _SECRET_NAMES]
    values.append(urlsplit(os.environ.get("HF_ENDPOINT", "")).password or "")
    with suppress(OSError, UnicodeDecodeError):
        values.append(_token_file().read_text(encoding="utf-8").strip())
    return [value for value in values if value]


def _without(secrets: Sequence[str], line: Check) -> Check:
    fact, remedy = line.fact, line.remedy
    for secret in secrets:
        fact, remedy = fact.replace(secret, "***"), remedy.replace(secret, "***")
    return Check(line.name, line.status, fact, remedy)


def _gib(count: int) -> str:
    return f"{count / _GIBIBYTE:.1f} GiB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


PROBES: Mapping[str, Callable[[_Context], list[Check]]] = {
    "python": _python,
    "packages": _packages,
    "cpu": _cpu,
    "memory": _memory,
    "disk": _disk,
    "torch": _torch,
    "flash-attn": _flash_attention,
    "deepspeed": _deepspeed,
    "compiler": _compiler,
    "trackers": _trackers,
    "base": _base_packages,
    "sandbox": _sandbox,
    "hub": _hub,
}
"""Every probe, in the order of the report. As many run in parallel as there are cores."""
