"""What a user hands in is opened, decoded and parsed in one place: whatever it is, one located message, at once."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lora_ns.errors import DataError, LoransError, RecipeError, UsageError, close_to, did_you_mean, first_line
from lora_ns.files import reading
from lora_ns.files.reading import (
    decode,
    exists,
    is_file,
    parse_json,
    parse_toml,
    read_bytes,
    read_json,
    read_text,
    split_lines,
)
from lora_ns.methods import METHODS


def fault(call) -> str:
    with pytest.raises(LoransError) as caught:
        call()
    (problem,) = caught.value.problems
    return str(problem)


def a_fifo(folder: Path) -> Path:
    os.mkfifo(folder / "fifo")
    return folder / "fifo"


def a_socket(folder: Path) -> Path:
    here = Path.cwd()
    os.chdir(folder)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    os.chdir(here)
    return folder / "socket"


def a_circle(folder: Path) -> Path:
    (folder / "circle").symlink_to(folder / "circle")
    return folder / "circle"


NO_FILES = {
    "nothing": (lambda folder: folder / "none", "no such file (check the path)"),
    "below a file": (lambda _: Path("/dev/null/x"), "no such file (check the path)"),
    "a folder": (lambda folder: folder, "is a folder (name a file)"),
    "a fifo": (a_fifo, "is a pipe, not a file"),
    "a socket": (a_socket, "is a socket, not a file"),
    "zeros": (lambda _: Path("/dev/zero"), "is a device, not a file"),
    "a circle of links": (a_circle, "cannot be read: Too many levels of symbolic links"),
    "a long name": (lambda folder: folder / ("x" * 300), "cannot be read: File name too long"),
    "a long path": (lambda folder: folder / ("x/" * 2500), "cannot be read: File name too long"),
    "NUL": (lambda folder: folder / "a\0b", "cannot be read: a file name cannot contain a NUL character"),
    "memory of a process": (lambda _: Path("/proc/self/mem"), "cannot be read: Input/output error"),
    "a file without an end": (lambda _: Path("/proc/self/pagemap"), "is larger than 64 MiB"),
}


@pytest.mark.parametrize(("path", "what"), NO_FILES.values(), ids=NO_FILES)
@pytest.mark.parametrize("error", [RecipeError, DataError])
def test_what_is_no_file_is_refused_at_once(tmp_path, path, what, error):
    path = path(tmp_path)
    with pytest.raises(error) as caught:
        read_bytes(path, error)
    assert str(caught.value) == f"{path}: {what}"


@pytest.mark.parametrize(("path", "what"), NO_FILES.values(), ids=NO_FILES)
def test_questions_about_paths_have_answers(tmp_path, path, what):
    path = path(tmp_path)
    assert is_file(path) == path.as_posix().startswith("/proc")
    assert exists(path) == (
        not what.startswith(("no such", "cannot be read: F", "cannot be read: a", "cannot be read: T"))
    )


def test_a_file_may_be_a_link_and_as_large_as_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", most=5) == b"12345"
    (tmp_path / "file").write_bytes(b"1" * 1025)
    said = fault(
        lambda: read_bytes(tmp_path / "link", most=1024, where="r.toml:1", before="key: a.yaml ", remedy="cut it")
    )
    assert said == "r.toml:1: key: a.yaml is larger than 1 KiB (cut it)"


def test_an_open_pipe_is_read_only_where_it_will_do():
    code = "import sys; from pathlib import Path; from lora_ns.files.reading import read_text\n"
    for how, told in (("takes_pipes=True", "caf\u00e9\n"), ("", "is a pipe, not a file")):
        run = [sys.executable, "-c", f"{code}print(read_text(Path('/dev/stdin'), {how}), end='')"]
        ended = subprocess.run(run, input="caf\u00e9\n", capture_output=True, text=True, check=False, timeout=60)
        assert told in ended.stdout + ended.stderr


def test_text_is_utf8_without_its_mark(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_text(file) == "a\r\nb"
    file.write_bytes(b"ab\xff")
    assert fault(lambda: read_text(file)) == f"{file}: not UTF-8 at byte 3 (save the file as UTF-8)"
    assert fault(lambda: decode(b"\xed\xa0\x80", "here")).startswith("here: not UTF-8 at byte 1")


def test_only_line_ends_end_a_line():
    assert split_lines("a\u2028b\x0cc\x85d\x1ee\r\nf\rg\n\nh") == ["a\u2028b\x0cc\x85d\x1ee", "f\rg", "", "h"]
    assert split_lines("a\n") == ["a"]
    assert split_lines("") == []


BROKEN_JSON = {
    "nothing": ("", ":1: not JSON at column 1: expecting value (check the syntax)"),
    "half": ('{\n"a": [1,', ":2: not JSON at column 9: expecting value (check the syntax)"),
    "deep": ("[" * 10_000, ": cannot be read: nested too deeply (write it as a string)"),
    "deep and whole": ("[" * 101 + "]" * 101, ": cannot be read: nested too deeply (write it as a string)"),
    "deep tables": ('{"a":' * 10_000, ": cannot be read: nested too deeply (write it as a string)"),
    "digits": ("9" * 10_000, ": cannot be read: an integer has too many digits (write it as a string)"),
}


@pytest.mark.parametrize(("text", "what"), BROKEN_JSON.values(), ids=BROKEN_JSON)
def test_json_that_cannot_be_read_has_its_place(tmp_path, text, what):
    (tmp_path / "a.json").write_text(text)
    assert fault(lambda: read_json(tmp_path / "a.json")) == f"{tmp_path}/a.json{what}"


def test_json_as_deep_as_allowed_is_read():
    assert parse_json("[" * 100 + "]" * 100, "here") is not None


IS_COMPILED = reading.tomllib.__name__ == "tomli"

BROKEN_TOML = {
    "no value": ("a = 1\nb =\n", ":2: not TOML: invalid value"),
    "deep": ("a = 1\nx = " + "[" * 10_000, ":2: cannot be read: nested too deeply"),
    "deep and whole": ("a = 1\nx = " + "[" * 101 + "]" * 101, ":2: cannot be read: nested too deeply"),
    "deep tables": ("a = 1\n[" + ".".join("b" * 3000) + "]", ":2: cannot be read: nested too deeply"),
    "deep keys": ("a = 1\n" + ".".join("b" * 3000) + " = 1", ":2: cannot be read: nested too deeply"),
    # tomli, which Python 3.10 has instead, is compiled, and done in time
    "very deep keys": (
        ".".join("b" * 200_000) + " = 1",
        ":1: cannot be read: nested too deeply" if IS_COMPILED else ": cannot be read: it takes more than",
    ),
    "digits": ("a = 1\nb = " + "9" * 10_000, ":2: cannot be read: an integer has too many digits"),
    "more than 64 bits": ("a = 1\nb = 9223372036854775808", ":2: an integer does not fit into 64 bits"),
}


@pytest.mark.parametrize(("text", "what"), BROKEN_TOML.values(), ids=BROKEN_TOML)
def test_toml_that_cannot_be_read_has_its_place(monkeypatch, text, what):
    monkeypatch.setattr(reading, "SECONDS", 1.0)
    said = fault(lambda: parse_toml(text, "r.toml", RecipeError))
    assert said.startswith(f"r.toml{what}")
    assert len(said) < 300


def test_numbers_of_64_bits_are_read():
    assert parse_toml("a = 9223372036854775807\nb = -9223372036854775808\nc = true", "here")["c"] is True


def test_names_that_are_no_slip_of_the_pen_are_not_compared():
    assert close_to("lora_alfa", ["lora_alpha", "x" * 10**6]) == ["lora_alpha"]
    assert close_to("x" * 10**6, ["lora_alpha"]) == []


def test_a_name_that_is_spelt_nearly_like_others_is_asked_for():
    known = ["lora_alpha", "lora_r", "seed"]
    assert did_you_mean("lora_alfa", known) == "did you mean `lora_alpha`?"
    assert did_you_mean("lora_", known, most=2) == "did you mean `lora_r` or `lora_alpha`?"
    assert did_you_mean("lora_alfa", known, beside="known: all") == "did you mean `lora_alpha`? known: all"
    assert did_you_mean("lora_alfa", known, write="peft.{}".format) == "did you mean `peft.lora_alpha`?"
    assert did_you_mean("lora_alfa", known, write=lambda _: None) == did_you_mean("x", known) == ""
    assert did_you_mean("x", known, beside="known: all") == "known: all"


@pytest.mark.parametrize("name", ["lroa", "olra", "loar", "lor", "loraa", "lira"])
def test_one_slip_is_nearer_than_two(name):
    assert close_to(name, ["lora", "road"]) == close_to(name, ["road", "lora"]) == ["lora"]
    assert close_to(name, METHODS) == ["lora"]


@pytest.mark.parametrize("known", [["seed", "feed"], ["feed", "seed"]])
def test_of_equally_near_names_the_first_is_asked_for(known):
    assert close_to("weed", known, most=2) == known
    assert did_you_mean("weed", known) == f"did you mean `{known[0]}`?"


@pytest.mark.parametrize(
    ("text", "line"), [("\n one\ntwo", "one"), ("one", "one"), ("", "ValueError"), ("\n", "ValueError")]
)
def test_an_error_is_told_by_its_first_line_or_its_kind(text, line):
    assert first_line(ValueError(text)) == line


def test_reading_works_in_any_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(parse_toml("a = 1", "here", UsageError)))
    thread.start()
    thread.join()
    assert found == [{"a": 1}]
