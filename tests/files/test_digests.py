"""Digests: a small file has its SHA-256, a large one that of its chunks; either form is compared."""

import hashlib

import pytest

from lora_ns.files import digests
from lora_ns.files.digests import digests_of, first_difference, names_in


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(digests, "CHUNK", 8)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 16, 17, 40])
def test_a_digest_is_that_of_the_chunks(tmp_path, size):
    file, content = tmp_path / "file", bytes(range(size))
    file.write_bytes(content)
    plain = f"sha256:{hashlib.sha256(content).hexdigest()}"
    chunks = [hashlib.sha256(content[begin : begin + 8]).digest() for begin in range(0, size, 8)]
    tree = f"sha256-16MiB:{hashlib.sha256(b''.join(chunks)).hexdigest()}"
    found = digests_of({"file": file})["file"]
    assert found == (plain if size <= 8 else tree)
    for digest in (found, plain):
        assert first_difference({"file": file}, {"file": digest}) is None
    if size:
        file.write_bytes(content[:-1] + b"\xff")
        for digest in (found, plain):
            assert first_difference({"file": file}, {"file": digest}).name == "file"


def test_what_is_no_file_differs(tmp_path):
    (tmp_path / "folder").mkdir()
    files = {name: tmp_path / name for name in ("folder", "missing")}
    assert first_difference(files, {"missing": "sha256:0"}).found == "is missing"
    assert first_difference(files, {"folder": "sha256:0"}).found == "is a folder"


def test_hidden_files_and_those_apart_are_left_out(tmp_path):
    for name in (".git/config", "a/b.json", "a/.c", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(names_in(tmp_path, ("README.md",))) == ["a/b.json"]
