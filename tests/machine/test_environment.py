"""`lora_ns.machine.environment` with fake packages: what raises, hangs, aborts, is old or is missing is named."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import packaging.requirements  # noqa: F401 - imported before the path is cut down to the fakes
import pytest

import lora_ns.errors
from lora_ns.machine import environment
from lora_ns.machine.environment import Check, Needs, VersionRanges, check, covers, version_ranges
from lora_ns.machine.hardware import Gpu, Machine
from lora_ns.sandbox import walls
from lora_ns.sandbox.walls import Wall

GIB = 2**30
REPOSITORY = Path(lora_ns.errors.__file__).parents[1]
VERSIONS = {
    "pydantic": "2.12.0",
    "rich": "14.0.0",
    "typer": "0.20.0",
    "safetensors": "0.8.0",
    "scikit-learn": "1.8.0",
    "torch": "2.13.0",
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "transformers": "5.23.0",
    "bitsandbytes": "0.50.2",
    "peft": "0.21.2",
    "trl": "1.16.0",
}
OWN_METADATA = """Metadata-Version: 2.4
Name: lora-ns
Version: 0.1.0
Requires-Python: <3.99,>=3.10
Requires-Dist: accelerate<1.16,>=1.15
Requires-Dist: bitsandbytes<0.51,>=0.50.2
Requires-Dist: datasets<5.3,>=5.2
Requires-Dist: peft<0.22,>=0.21.2
Requires-Dist: tomli<3,>=2.2; python_version < '3.0'
Requires-Dist: torch<2.14,>=2.13
Requires-Dist: transformers<5.24,>=5.23
Requires-Dist: trl<1.17,>=1.16
Provides-Extra: deepspeed
Requires-Dist: deepspeed<0.20,>=0.19.8; extra == 'deepspeed'
"""
LAZY = "def __getattr__(name):\n    return object\n"
TORCH = """
import types
__version__ = {version!r}
version = types.SimpleNamespace(cuda={cuda!r})
def get_num_threads():
    return {threads}
def _init():
    {init}
cuda = types.SimpleNamespace(init=_init, get_arch_list=lambda: {archs!r}, device_count=lambda: 0)
"""


def fake_torch(
    version: str = "2.13.0",
    cuda: str | None = None,
    threads: int = 1,
    init: str = "pass",
    archs: tuple[str, ...] = ("sm_80", "sm_90"),
) -> str:
    return TORCH.format(version=version, cuda=cuda, threads=threads, init=init, archs=list(archs))


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A world in which every package is a fake that works; the function replaces one of them."""
    monkeypatch.setattr(environment, "TRAINING_PYTHON", sys.version_info[:2])
    site = tmp_path / "site"
    library = [entry for entry in sys.path if "site-packages" not in entry and "dist-packages" not in entry]

    def put(name: str, version: str = "", body: str = "") -> None:
        module = site / name.replace("-", "_")
        module.mkdir(parents=True, exist_ok=True)
        (module / "__init__.py").write_text(body or LAZY)
        folder = site / f"{name.replace('-', '_')}-fake.dist-info"
        folder.mkdir(exist_ok=True)
        number = version or VERSIONS[name]
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")

    for name in VERSIONS:
        put(name)
    put("torch", body=fake_torch())
    (site / "lora_ns-0.1.0.dist-info").mkdir()
    (site / "lora_ns-0.1.0.dist-info/METADATA").write_text(OWN_METADATA)
    monkeypatch.setattr(sys, "path", [str(site), str(REPOSITORY), *library])
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    machine_with(monkeypatch)
    return put


def machine_with(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu, cores: int = 2, memory: int = 8 * GIB) -> None:
    machine = Machine("Some CPU", cores, True, memory, memory // 2, gpus)
    monkeypatch.setattr(environment, "detect", lambda: machine)


def lines(needs: Needs | None = None, timeout_s: float = 60.0) -> dict[str, Check]:
    return {line.name: line for line in check(needs or Needs(), timeout_s).checks}


def faults(found: dict[str, Check]) -> dict[str, str]:
    """Every line that is not ok; the fakes have no 4-bit weights."""
    return {name: line.status for name, line in found.items() if line.status != "ok" and name not in {"4-bit", "disk"}}


def test_a_world_that_works_has_no_fault(install: Install) -> None:
    report = check(Needs())
    assert report.ok
    assert faults({line.name: line for line in report.checks}) == {}
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True
    assert [line["name"] for line in report.to_dict()["checks"]] == [line.name for line in report.checks]


def test_the_report_is_ordered_by_the_table_of_probes(install: Install) -> None:
    names = [line.name for line in check(Needs()).checks]
    assert names[: 1 + len(VERSIONS)] == ["python", *(package.name for package in environment.PACKAGES)]
    assert names[-3:] == ["hub", "token", "cache"]


@pytest.mark.parametrize(
    ("name", "is_needed", "status"), [("network", True, "fail"), ("network", False, "ok"), ("total memory", True, "ok")]
)
def test_a_missing_wall_of_the_sandbox_is_named(
    install: Install, monkeypatch: pytest.MonkeyPatch, name: str, is_needed: bool, status: str
) -> None:
    monkeypatch.setattr(walls, "walls", lambda: (Wall(name, False, "unshare: Operation not permitted"),))
    found = lines(Needs(sandbox=is_needed))["sandbox"]
    assert found.status == status
    assert f"no wall for `{name}` (unshare: Operation not permitted)" in found.fact
    assert ("do not run here" in found.fact) == (name == "network")


# Packages that are broken

RAISES = "raise OSError('first line\\nlibcudart.so.13: cannot open shared object file')"
BROKEN = {
    "raises": (RAISES, "OSError: libcudart.so.13: cannot open shared object file"),
    "raises nothing to read": ("raise RuntimeError", "RuntimeError"),
    "leaves": ("import sys; sys.exit('no GPU')", "SystemExit: no GPU"),
    "aborts": ("import os; os.abort()", "aborts: SIGABRT"),
    "ends the process": ("import os; os._exit(7)", "ends the process with exit code 7"),
    "lacks a name": ("x = 1", "AttributeError: module 'trl' has no attribute 'SFTTrainer'"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_package_is_named_and_classified(install: Install, kind: str) -> None:
    body, said = BROKEN[kind]
    install("trl", body=body)
    found = lines()
    assert faults(found) == {"trl": "fail"}
    assert found["trl"].fact == f"1.16.0: import {said}"
    assert found["trl"].remedy == "pip install --force-reinstall --no-deps 'trl>=1.16,<1.17'"


def test_a_package_that_hangs_is_named_with_the_line_where_it_does(install: Install, tmp_path: Path) -> None:
    install("peft", body="import time\n\ntime.sleep(600)\n")
    found = lines(timeout_s=2.0)
    assert faults(found) == {"peft": "fail"}
    where = tmp_path / "site/peft/__init__.py"
    assert found["peft"] == Check(
        "peft",
        "fail",
        f"0.21.2: import hangs: still running after 2 s, in {where}:3",
        "lorans env-check --timeout 10",
    )


def test_what_stands_on_a_broken_package_is_not_tried(install: Install, tmp_path: Path) -> None:
    install("torch", body="import os; os.abort()")
    install("trl", body=f"open({str(tmp_path / 'tried')!r}, 'w')")
    found = lines()
    assert found["torch"].fact == "2.13.0: import aborts: SIGABRT"
    assert {line.fact for line in found.values() if "not tried" in line.fact} == {
        f"{VERSIONS[name]}: import not tried: needs torch" for name in ("accelerate", "transformers", "peft", "trl")
    } | {f"{VERSIONS['bitsandbytes']}: import not tried: needs torch"}
    assert found["datasets"].status == "ok"
    assert not (tmp_path / "tried").exists()


def test_several_broken_packages_are_all_named(install: Install) -> None:
    install("accelerate", body=RAISES)
    install("datasets", body="import os; os.abort()")
    install("bitsandbytes", body="import os; os._exit(1)")
    assert faults(lines()) == {
        "accelerate": "fail",
        "datasets": "fail",
        "bitsandbytes": "warn",
        "transformers": "fail",
        "peft": "fail",
        "trl": "fail",
    }


def test_noise_on_both_streams_changes_nothing(install: Install) -> None:
    noise = """
import atexit, os, sys
os.write(1, b'\\xff\\n{}\\n[]\\n')
atexit.register(print, '{"end": "trl:SFTTrainer", "error": "no"}')
print('noise' * 100_000, file=sys.stderr)
"""
    install("datasets", body=noise + LAZY)
    assert faults(lines()) == {}


def test_a_broken_package_that_nobody_needs_is_a_warning(install: Install) -> None:
    install("bitsandbytes", body=RAISES)
    assert faults(lines()) == {"bitsandbytes": "warn"}
    assert faults(lines(Needs(quantization=True))) == {"bitsandbytes": "fail"}


# Versions


@pytest.mark.parametrize(
    ("version", "fact"),
    [
        ("2.13.1", None),
        ("2.13.0+cpu", None),
        ("2.12.9", "2.12.9 is older than the tested >=2.13,<2.14"),
        ("2.14.0", "2.14.0 is newer than the tested >=2.13,<2.14"),
        ("2.13.0.dev20260101", "2.13.0.dev20260101 is older than the tested >=2.13,<2.14"),
        ("unknown", "unknown is other than the tested >=2.13,<2.14"),
    ],
)
def test_a_version_outside_of_the_tested_range_is_a_warning(install: Install, version: str, fact: str | None) -> None:
    install("torch", version, fake_torch(version))
    found = lines()["torch"]
    if fact is None:
        assert (found.status, found.fact) == ("ok", f"{version}, imports")
    else:
        assert found == Check("torch", "warn", fact, "pip install 'torch>=2.13,<2.14'")


def test_a_missing_core_package_is_a_failure_with_its_command(install: Install, tmp_path: Path) -> None:
    (tmp_path / "site/trl-fake.dist-info/METADATA").unlink()
    (tmp_path / "site/trl-fake.dist-info").rmdir()
    assert lines()["trl"] == Check("trl", "fail", "is not installed", "pip install 'trl>=1.16,<1.17'")


def test_ranges_come_from_the_metadata_of_this_distribution(install: Install) -> None:
    found = version_ranges()
    assert found.packages["torch"] == ">=2.13,<2.14"
    assert found.packages["deepspeed"] == ">=0.19.8,<0.20"
    assert "tomli" not in found.packages
    assert found.pip("torch") == "pip install 'torch>=2.13,<2.14'"
    assert found.pip("wandb") == "pip install wandb"


def test_a_source_checkout_that_is_not_installed_has_the_ranges_of_its_pyproject(
    install: Install, tmp_path: Path
) -> None:
    (tmp_path / "site/lora_ns-0.1.0.dist-info/METADATA").unlink()
    (tmp_path / "site/lora_ns-0.1.0.dist-info").rmdir()
    found = version_ranges()
    assert set(VERSIONS) <= set(found.packages)
    assert "deepspeed" in found.packages
    assert found.python.startswith(">=3.10")


def test_a_copy_without_ranges_says_so(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "version_ranges", VersionRanges)
    found = lines()
    assert found["python"].status == "warn"
    assert found["torch"].status == "ok"


def test_a_python_outside_of_the_tested_range_is_a_failure(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "version_ranges", lambda: VersionRanges(">=3.98"))
    assert lines()["python"].status == "fail"


def test_a_python_that_cannot_train_is_a_failure(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "TRAINING_PYTHON", (3, 98))
    assert lines()["python"].status == "fail"
    assert lines()["python"].fact.endswith("transformers and trl need 3.98")


# What a recipe needs


@pytest.mark.parametrize(
    ("needs", "name", "remedy"),
    [
        (Needs(deepspeed=True), "deepspeed", "pip install 'deepspeed>=0.19.8,<0.20'"),
        (Needs(flash_attention=True), "flash-attn", "pip install flash-attn --no-build-isolation"),
        (Needs(trackers=("trackio",)), "trackio", "pip install trackio"),
    ],
)
def test_what_is_needed_and_missing_is_a_failure(install: Install, needs: Needs, name: str, remedy: str) -> None:
    assert lines(needs)[name] == Check(name, "fail", "is not installed", remedy)
    assert name not in faults(lines())


@pytest.mark.parametrize(("name", "module"), [("deepspeed", "deepspeed"), ("flash-attn", "flash_attn")])
def test_an_optional_package_that_is_broken_is_imported_and_judged_by_need(
    install: Install, name: str, module: str
) -> None:
    install(name, "0.19.8", RAISES)
    found = lines()[name]
    assert (found.status, found.remedy) == ("warn", f"pip uninstall -y {name}")
    assert "libcudart" in found.fact
    needed = lines(Needs(deepspeed=True, flash_attention=True))[name]
    assert needed.status == "fail"


def test_little_disk_is_a_warning_and_none_a_failure_for_a_run(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statuses(free: int) -> tuple[str, str]:
        monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
        return lines()["disk"].status, lines(Needs(output_dir=tmp_path / "a/b"))["disk"].status

    assert statuses(50 * 10**9) == ("ok", "ok")
    assert statuses(5 * 10**9) == ("warn", "warn")
    assert statuses(10**8) == ("warn", "fail")


def test_no_gpu_is_a_failure_only_where_one_is_needed(install: Install) -> None:
    assert lines()["gpu"] == Check("gpu", "ok", "none: training runs on the CPU")
    assert lines(Needs(cuda=True))["gpu"].status == "fail"


# Threads and GPUs


@pytest.mark.parametrize(
    ("threads", "cores", "asked", "status", "remedy"),
    [
        (2, 2, None, "ok", ""),
        (4, 8, None, "ok", ""),
        (1, 8, "1", "warn", "unset OMP_NUM_THREADS"),
        (1, 1, "1", "ok", ""),
        (64, 2, None, "warn", "export OMP_NUM_THREADS=2"),
    ],
)
def test_threads_are_compared_with_cores(
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    cores: int,
    asked: str | None,
    status: str,
    remedy: str,
) -> None:
    install("torch", body=fake_torch(threads=threads))
    machine_with(monkeypatch, cores=cores)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    found = lines()["threads"]
    assert (found.status, found.remedy) == (status, remedy)


H100 = Gpu(0, "NVIDIA H100", 80 * GIB, 79 * GIB, (9, 0), "580.65")
V100 = Gpu(0, "Tesla V100", 16 * GIB, 16 * GIB, (7, 0), "580.65")
BLACKWELL = Gpu(0, "NVIDIA RTX 5090", 32 * GIB, 31 * GIB, (12, 0), "580.65")


def test_a_torch_for_cpus_beside_a_gpu_is_a_warning_with_the_command(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("torch", body=fake_torch("2.13.0+cpu"))
    machine_with(monkeypatch, H100)
    assert lines()["gpu"] == Check(
        "gpu",
        "warn",
        "NVIDIA H100 found, but torch 2.13.0+cpu is a CPU-only build",
        "pip uninstall -y torch && pip install 'torch>=2.13,<2.14'",
    )
    assert lines(Needs(cuda=True))["gpu"].status == "fail"


def test_a_driver_that_is_too_old_is_told_with_both_versions(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("torch", body=fake_torch(cuda="13.0", init="raise RuntimeError('The NVIDIA driver is too old')"))
    machine_with(monkeypatch, H100)
    found = lines()["gpu"]
    assert found.status == "warn"
    assert found.fact == "torch for CUDA 13.0 and driver 580.65: RuntimeError: The NVIDIA driver is too old"


def test_a_gpu_is_told_with_memory_capability_and_precision(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("torch", body=fake_torch(cuda="13.0", archs=("sm_70", "sm_90")))
    machine_with(monkeypatch, H100)
    found = lines()
    assert found["gpu 0"].fact == ("NVIDIA H100, 79.0 GiB free of 80.0 GiB, sm_90, bf16, driver 580.65, CUDA 13.0")
    assert found["gpu"] == Check("gpu", "warn", "nvidia-smi shows 1, torch sees 0", "echo $CUDA_VISIBLE_DEVICES")
    machine_with(monkeypatch, V100)
    assert "sm_70, no bf16, fp16 is used" in lines()["gpu 0"].fact


def test_a_torch_without_code_for_the_gpu_is_told(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("torch", body=fake_torch(cuda="12.4"))
    machine_with(monkeypatch, BLACKWELL)
    found = lines()["gpu 0"]
    assert found.status == "warn"
    assert found.fact.endswith("sm_120, bf16: torch is built for sm_80 sm_90")


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (["sm_80"], (8, 0), True),
        (["sm_80"], (8, 6), True),
        (["sm_86"], (8, 0), False),
        (["sm_80"], (9, 0), False),
        (["sm_80", "compute_80"], (9, 0), True),
        (["compute_90"], (8, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_120a"], (12, 1), False),
        (["sm_100", "sm_120"], (12, 0), True),
        (["gfx90a"], (9, 0), False),
        ([], (9, 0), False),
    ],
)
def test_machine_code_runs_on_its_own_major_version(archs: list[str], capability: tuple[int, int], runs: bool) -> None:
    assert covers(archs, capability) is runs


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        ("print('Driver/library version mismatch'); exit(18)", "nvidia-smi fails: Driver/library version mismatch"),
        ("exit(3)", "nvidia-smi fails: exit code 3"),
        ("print('No devices were found')", "nvidia-smi lists no GPU: No devices were found"),
    ],
)
def test_an_nvidia_smi_that_is_there_and_fails_is_a_warning(
    install: Install, tmp_path: Path, body: str, fact: str
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text(f"#!{sys.executable}\n{body}\n")
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    assert lines()["gpu"] == Check("gpu", "warn", fact, "nvidia-smi")


# The hub


class _Answer(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_any_answer_of_the_endpoint_means_reachable(
    install: Install, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert lines()["hub"] == Check("hub", "ok", "127.0.0.1 is reachable")


def test_a_hub_that_does_not_answer_matters_only_if_it_is_needed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert lines()["hub"].status == "warn"
    assert lines(Needs(hub=True))["hub"].status == "fail"


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_is_said_and_nothing_is_asked(install: Install, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv(name, "true")
    assert lines()["hub"] == Check("hub", "ok", f"{name} is set: only cached models and datasets are used")
    assert lines(Needs(hub=True))["hub"].status == "fail"


def test_a_token_is_told_and_never_shown(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_environment")
    monkeypatch.setenv("HF_ENDPOINT", "http://somebody:hunter2@127.0.0.1:9")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/token").write_text("hf_secret_of_the_file\n")
    install("trl", body="import os; raise RuntimeError(os.environ['HF_TOKEN'] + os.environ['HF_ENDPOINT'])")
    install("peft", body="import os; raise RuntimeError(open(os.environ['HF_HOME'] + '/token').read())")
    report = check(Needs())
    said = json.dumps(report.to_dict())
    assert "secret" not in said
    assert "hunter2" not in said
    found = {line.name: line for line in report.checks}
    assert found["token"].fact == "set by HF_TOKEN"
    assert "***" in found["trl"].fact
    monkeypatch.delenv("HF_TOKEN")
    assert lines()["token"].fact == f"in {tmp_path / 'hf/token'}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_matters_only_if_it_is_needed(install: Install, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir(mode=0o500)
    assert lines()["cache"].status == "warn"
    assert lines(Needs(hub=True))["cache"].status == "fail"


# As a whole


def test_fakes_on_pythonpath_are_found_from_a_fresh_process_without_any_heavy_import(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("trl", body=RAISES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)]))
    code = (
        "import sys; from lora_ns.machine.environment import Needs, check; found = check(Needs()); "
        "print([line.fact for line in found.checks if line.name == 'trl']); "
        "print(sorted({'torch', 'trl', 'peft', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == f"['1.16.0: import {BROKEN['raises'][1]}']\n[]\n"


def test_an_interrupt_ends_the_children(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> list[Check]:
        raise KeyboardInterrupt

    install("torch", body="import time; time.sleep(600)")
    monkeypatch.setattr(environment, "PROBES", {"stop": interrupted, **environment.PROBES})
    with pytest.raises(KeyboardInterrupt):
        check(Needs(), 600.0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs torch and bitsandbytes")
def test_the_real_packages_work_and_4_bit_weights_come_back() -> None:
    found = lines(timeout_s=300.0)
    assert found["torch"].status == "ok"
    assert found["4-bit"].status == "ok"
