"""What a killed process leaves among temporary files is removed by the next one, and nothing that is in use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_ns.data import cache
from lora_ns.files.locks import try_lock
from lora_ns.files.temporary import claim, release, remove_abandoned, temporary_file, temporary_folder

KILLED = """
import os, signal
from lora_ns.data.cache import new_folder
from lora_ns.files.temporary import temporary_file, temporary_folder
temporary_file(".log")
with temporary_folder() as folder:
    (folder / "share").touch()
    new_folder()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def places(tmp_path, monkeypatch):
    for name, folder in (("TMPDIR", tmp_path / "tmp"), ("LORANS_CACHE", tmp_path / "cache")):
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp", tmp_path / "cache"


def names(*folders):
    return sorted(file.name for folder in folders for file in folder.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next(places):
    (places[0] / "lorans-kept.log").touch()
    assert subprocess.run([sys.executable, "-c", KILLED], check=False).returncode < 0
    assert len(names(*places)) == 4
    with temporary_folder():
        assert cache.find("key") is None
    assert names(*places) == ["lorans-kept.log"]


def test_what_is_in_use_stays(places):
    handle, log = temporary_file(".log")
    with temporary_folder() as folder:
        entry = cache.new_folder()
        with temporary_folder():
            assert cache.find("key") is None
        assert all(path.exists() for path in (log, folder, entry))
        kept = cache.keep(entry, "key")
    assert kept.is_dir()
    os.close(handle)
    remove_abandoned(places[0], "lorans-temporary-")
    assert (cache.find("key"), names(*places)) == (kept, ["key"])


def test_what_was_removed_before_it_was_in_use_is_made_again(places, monkeypatch):
    made = []

    def removed_once(handle, **named):
        if not made:
            made.append(names(places[0]))
            for file in places[0].iterdir():
                file.unlink() if file.is_file() else file.rmdir()
        return try_lock(handle, **named)

    monkeypatch.setattr("lora_ns.files.temporary.try_lock", removed_once)
    with temporary_folder() as folder:
        assert folder.is_dir()
        assert made[0] != [folder.name]


def test_nothing_is_removed_where_locks_are_unknown_or_through_a_link(places, monkeypatch):
    mine = places[1] / "mine"
    mine.mkdir()
    (places[0] / "lorans-temporary-link").symlink_to(mine)
    remove_abandoned(places[0], "lorans-temporary-")
    assert mine.is_dir()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    (places[0] / "lorans-temporary-file").touch()
    remove_abandoned(places[0], "lorans-temporary-")
    assert names(places[0]) == ["lorans-temporary-file", "lorans-temporary-link"]


def test_what_is_gone_cannot_be_claimed(tmp_path):
    assert not claim(tmp_path / "none")
    release(Path("none"))
