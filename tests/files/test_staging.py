"""What is written beside its place: one command at a time, nothing replaced that is no file, nothing left behind."""

import errno
import os
import stat
import threading

import pytest

from lora_ns.errors import RunError, UsageError
from lora_ns.files.staging import folder, output, staged_beside, target_of


def test_a_file_is_there_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "o.jsonl"
    with output(path, overwrite=False) as file:
        assert not path.exists()
        file.write(["a", "\ud800"])
    assert path.read_text() == "a\n\\ud800\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["o.jsonl"]


def test_nothing_is_left_of_what_was_not_written(tmp_path):
    with pytest.raises(ZeroDivisionError), output(tmp_path / "o", overwrite=False):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_the_target_of_a_link_is_written(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with output(tmp_path / "link", overwrite=True) as file:
        file.write(["new"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new\n"


def test_a_pipe_and_a_device_stay_what_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    with output(tmp_path / "pipe", overwrite=False) as file:
        file.write(["a"])
    reader.join(10)
    assert read == ["a\n"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    (tmp_path / "null").symlink_to("/dev/null")
    with output(tmp_path / "null", overwrite=False) as file:
        file.write(["a"])
    assert stat.S_ISCHR((tmp_path / "null").stat().st_mode)


@pytest.mark.parametrize("name", ["file/o.jsonl", "folder", "mine"])
def test_what_cannot_be_written_is_said_at_once(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UsageError), output(tmp_path / name, overwrite=False):
        pytest.fail("it was begun")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("write", [lambda path: output(path, overwrite=True), folder], ids=["file", "folder"])
@pytest.mark.parametrize("name", ["one", "two", "one/new"])
def test_a_link_that_leads_to_itself_is_said_at_once_and_stays(tmp_path, write, name):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(UsageError, match="Too many levels of symbolic links"), write(tmp_path / name):
        pytest.fail("it was begun")
    with pytest.raises(UsageError, match="Too many levels of symbolic links"):
        target_of(tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one", "two"]
    assert (tmp_path / "one").is_symlink()


def test_what_a_link_leads_to_need_not_be_there(tmp_path):
    (tmp_path / "link").symlink_to("target")
    assert target_of(tmp_path / "link") == target_of(tmp_path / "target") == tmp_path / "target"


def test_a_full_disk_is_a_message(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    with output(tmp_path / "full", overwrite=False) as file, pytest.raises(RunError, match="No space left"):
        file.write(["a"])


@pytest.mark.parametrize("write", [lambda path: output(path, overwrite=True), folder], ids=["file", "folder"])
def test_the_second_command_is_refused_and_the_first_goes_on(tmp_path, write):
    with write(tmp_path / "o"):
        with pytest.raises(UsageError, match="another command is writing it"), write(tmp_path / "o"):
            pytest.fail("both write")
        assert staged_beside(tmp_path / "o").exists()


def test_what_a_killed_command_left_is_taken_over_and_nothing_else(tmp_path):
    staged_beside(tmp_path / "o").write_text("half a line, which is long")
    (tmp_path / ".o.bak").touch()
    with output(tmp_path / "o", overwrite=False) as file:
        file.write(["a"])
    staged_beside(tmp_path / "m").mkdir()
    (staged_beside(tmp_path / "m") / "weights").touch()
    with folder(tmp_path / "m") as staged:
        assert not list(staged.iterdir())
        (staged / "config.json").touch()
        staged.rename(tmp_path / "m")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".o.bak", "m", "o"]
    assert (tmp_path / "o").read_text() == "a\n"


def test_a_part_is_kept_under_a_name_that_nobody_has(tmp_path):
    (tmp_path / "o.part").write_text("mine")
    with output(tmp_path / "o", overwrite=False) as file:
        assert file.keep(["a"]) == tmp_path / "o.part1"
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"o.part": "mine", "o.part1": "a\n"}
    (tmp_path / "null").symlink_to("/dev/null")
    with output(tmp_path / "null", overwrite=False) as file:
        assert file.keep(["a"]) is None


def test_what_a_disk_took_before_it_was_full_is_kept(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with output(tmp_path / "o", overwrite=False) as file:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"No space left .*the lines written so far are in .*o\.part\)"):
            file.write(["a", "b"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["o.part"]


@pytest.mark.parametrize("method", ["write", "keep"])
def test_a_folder_that_is_gone_when_answers_come_is_a_message(tmp_path, method):
    (tmp_path / "folder").mkdir()
    with output(tmp_path / "folder" / "o", overwrite=False) as file:
        (tmp_path / "folder").rename(tmp_path / "elsewhere")
        with pytest.raises(RunError, match=r"folder/o: cannot be written: No such file"):
            getattr(file, method)(["a"])
    assert (tmp_path / "elsewhere" / staged_beside(tmp_path / "o").name).read_text() == "a\n"
