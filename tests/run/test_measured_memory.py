"""Planned and measured memory of the runs of a machine."""

import pytest

from lora_ns.run import measured_memory
from lora_ns.run.measured_memory import remember, remembered


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORANS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_nothing_is_remembered_at_first():
    assert remembered("cpu") == []


def test_runs_are_remembered_by_device():
    remember("cpu", 10, 11)
    remember("cuda", 20, 21)
    remember("cpu", 30, 31)
    assert remembered("cpu") == [(10, 11), (30, 31)]
    assert remembered("cuda") == [(20, 21)]


def test_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(measured_memory, "MOST", 5)
    for number in range(8):
        remember("cpu", number + 1, 1)
    assert [planned for planned, _ in remembered("cpu")] == [4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "damage", ["{", "[]", "7", "null", '{"device": "cpu"}', '{"device": "cpu", "planned": "x", "measured": 1}']
)
def test_damaged_lines_are_skipped(damage):
    remember("cpu", 10, 11)
    file = measured_memory._file()
    file.write_text(file.read_text() + damage + "\n")
    remember("cpu", 20, 21)
    assert remembered("cpu") == [(10, 11), (20, 21)]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"x" * 2_000_000])
def test_a_damaged_file_is_no_error(content):
    remember("cpu", 10, 11)
    measured_memory._file().write_bytes(content)
    assert remembered("cpu") == []
    remember("cpu", 20, 21)
    assert remembered("cpu") == [(20, 21)]


def test_a_folder_that_cannot_be_written_is_no_error(cache):
    cache.write_text("a file")
    remember("cpu", 10, 11)
    assert remembered("cpu") == []
