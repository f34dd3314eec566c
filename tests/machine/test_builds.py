"""A build that was killed holds up nobody, and one that is going on is left alone."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("psutil")

from lora_ns.machine import builds
from lora_ns.machine.builds import end_abandoned_builds


@pytest.fixture(params=["TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"])
def lock(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv(request.param, str(tmp_path))
    above = tmp_path if request.param == "TORCH_EXTENSIONS_DIR" else tmp_path / "torch_extensions" / "py311_cpu"
    path = above / "deepspeed_shm_comm" / "lock"
    path.parent.mkdir(parents=True)
    path.touch()
    (path.parent / "build.ninja").touch()
    return path


def test_the_lock_of_a_killed_build_is_removed(lock: Path) -> None:
    end_abandoned_builds()
    assert [path.name for path in lock.parent.iterdir()] == ["build.ninja"]


def test_a_build_that_goes_on_keeps_its_lock(lock: Path) -> None:
    with lock.open():
        end_abandoned_builds()
        assert lock.exists()


@pytest.mark.parametrize("unknown", ["other-user", "other-machine"])
def test_an_unknown_build_keeps_its_lock_as_long_as_a_build_may_take(
    unknown: str, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if unknown == "other-user":
        monkeypatch.setattr(os, "getuid", lambda: lock.stat().st_uid + 1)
    else:
        monkeypatch.setattr(builds, "_is_shared", lambda _: True)
    end_abandoned_builds()
    assert lock.exists()
    hours_ago = time.time() - 7200
    os.utime(lock, (hours_ago, hours_ago))
    end_abandoned_builds()
    assert not lock.exists()


def test_only_file_systems_of_this_machine_are_not_shared(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    psutil = pytest.importorskip("psutil")

    def mounted(device: str, kind: str) -> None:
        part = SimpleNamespace(device=device, mountpoint=str(lock.parent.resolve()), fstype=kind)
        monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [part])

    for device, kind, is_shared in (
        ("/dev/sda1", "ext4", False),
        ("overlay", "overlay", False),
        ("server:/home", "nfs4", True),
        ("//server/home", "cifs", True),
    ):
        mounted(device, kind)
        assert builds._is_shared(lock) is is_shared


def test_nothing_is_there_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "none"))
    end_abandoned_builds()
    assert not (tmp_path / "none").exists()


def test_every_command_that_uses_the_libraries_looks_for_such_locks(lock: Path) -> None:
    pytest.importorskip("torch")
    from lora_ns.machine import libraries
    from lora_ns.machine.hardware import detect

    libraries.prepare(detect())
    assert not lock.exists()
