"""What the system refuses is one message, however a library says it; what is a bug stays one."""

import errno
import os
from types import SimpleNamespace

import pytest

from lora_ns.errors import Problem
from lora_ns.files import shortage
from lora_ns.files.shortage import check_writable, exhaustion, is_disk_full, is_out_of_memory, unwritable
from lora_ns.launch.torchrun import dump_error


class SafetensorError(Exception):
    """Named as that of safetensors is."""


def test_an_error_for_which_there_was_no_memory_is_out_of_memory():
    assert is_out_of_memory(SystemError("error return without exception set"))
    assert "out of memory" in str(exhaustion(SystemError("error return without exception set")))
    assert not is_out_of_memory(SystemError("bad argument to internal function"))


def torch_says(number):
    return RuntimeError(f"open file failed because of errno {number} on fopen: refused, file path: checkpoint.pt")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "x"), "no space left on the disk"),
        (OSError(errno.EDQUOT, "x"), "no space left on the disk"),
        (SafetensorError("I/O error: x (os error 28)"), "no space left on the disk"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written: Read-only file system"),
        (SafetensorError("I/O error: x (os error 30)"), "cannot be written: Read-only file system"),
        (torch_says(errno.EROFS), "cannot be written: Read-only file system"),
        (OSError(errno.ESTALE, "Stale file handle"), "cannot be written: Stale file handle"),
        (OSError(errno.EIO, "Input/output error"), "cannot be written: Input/output error"),
        (SafetensorError("I/O error: x (os error 13)"), "cannot be written: Permission denied"),
        (OSError(errno.EMFILE, "x"), "cannot be written: too many open files"),
        (SafetensorError("I/O error: x (os error 24)"), "cannot be written: too many open files"),
        (OSError(errno.EACCES, "x"), None),  # of a socket, as far as is known
        (OSError(errno.EINVAL, "x"), None),
        (RuntimeError("shapes differ (os error 30)"), None),
        (ValueError("errno 28"), None),
    ],
)
def test_an_error_of_the_disk_is_known_whoever_says_it(tmp_path, error, told):
    found = unwritable(error, tmp_path)
    assert (found and found.what) == told


@pytest.mark.parametrize(
    ("number", "file", "is_told"),
    [
        (errno.EACCES, "run/metrics.jsonl", True),
        (errno.EACCES, "elsewhere/data.jsonl", False),
        (errno.EROFS, "elsewhere/data.jsonl", False),
        (errno.ENOENT, "run", True),  # it cannot be made
        (errno.ENOENT, "run/data/rows", False),  # a bug: the folder is there
    ],
)
def test_an_error_of_another_place_stays_what_it_is(tmp_path, number, file, is_told):
    (tmp_path / "run").mkdir()
    error = OSError(number, os.strerror(number), str(tmp_path / file))
    assert (unwritable(error, tmp_path / "run") is not None) == is_told


def test_a_folder_that_is_gone_is_told(tmp_path):
    missing = tmp_path / "gone" / "run"
    error = OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(missing / "rows"))
    assert unwritable(error, missing).what == "cannot be written: No such file or directory"
    assert unwritable(RuntimeError(f"Parent directory {missing} does not exist."), missing) is not None


@pytest.mark.parametrize(("free", "is_full"), [(0, True), (1 << 30, False)])
def test_torch_does_not_say_that_a_disk_is_full(tmp_path, monkeypatch, free, is_full):
    monkeypatch.setattr(shortage.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    error = RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 1 vs 0")
    assert is_disk_full(error, tmp_path / "not" / "there") == is_full


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "too many open files"),
        (OSError(errno.ENFILE, os.strerror(errno.ENFILE)), "too many open files"),
        (RuntimeError("Too many open files. Communication with the workers is no longer possible."), "too many"),
        (ImportError("x.so: cannot open shared object file: Too many open files"), "too many open files"),
        (ImportError("x.so: failed to map segment from shared object"), "out of memory"),
        (MemoryError(), "out of memory"),
    ],
)
def test_a_machine_with_too_little_is_a_message_also_as_the_cause(error, told):
    for raised in (error, _caused(error)):
        assert told in str(exhaustion(raised))
    assert exhaustion(_caused(ValueError("x"))) is None


def test_another_process_that_has_too_little_says_it_as_the_first_does():
    unforeseen = Problem("", "OSError", "look at the traceback")
    told = dump_error(_caused(OSError(errno.EMFILE, os.strerror(errno.EMFILE))), unforeseen)
    assert (told["expected"], told["problems"][0]["what"]) == (True, "too many open files")
    assert dump_error(OSError(errno.EINVAL, "x"), unforeseen)["problems"][0]["what"] == "OSError"


def _caused(error):
    try:
        raise ImportError("could not be imported") from error
    except ImportError as raised:
        return raised


def test_where_nothing_can_be_written_is_known_before(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert check_writable(tmp_path / "new" / "run") is None
    assert "is not a folder" in check_writable(tmp_path / "file" / "run").what
    monkeypatch.setattr(shortage.os, "access", lambda *_: False)
    assert "Permission denied" in check_writable(tmp_path / "new" / "run").what
    monkeypatch.setattr(shortage.os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert "Read-only file system" in check_writable(tmp_path / "new" / "run").what
