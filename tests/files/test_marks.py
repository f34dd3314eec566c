"""No damage to a marked folder goes unseen, and each is named."""

import json
import random
import shutil
import struct
import zipfile

import pytest
from damaged_folders import DAMAGE, flipped, without_hashes

from lora_ns.files.marks import MARK, Fault, fault_of, mark_folder, read_mark

FILES = ("a.json", "weights.safetensors", "optimizer.pt", "deep/rows.arrow")


def write_parts(folder):
    (folder / "deep").mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps({"step": 4, "rows": list(range(20))}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}}).encode()
    (folder / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    with zipfile.ZipFile(folder / "optimizer.pt", "w") as archive:
        archive.writestr("state/data.pkl", bytes(range(256)))
    (folder / "deep/rows.arrow").write_bytes(bytes(range(200)))


@pytest.fixture
def folder(tmp_path):
    write_parts(tmp_path / "folder")
    mark_folder(tmp_path / "folder", step=4)
    return tmp_path / "folder"


def test_a_folder_that_is_what_it_was_has_no_fault(folder):
    assert fault_of(folder) is None
    assert read_mark(folder).extra == {"step": 4}
    (folder / ".nfs0001").write_text("left by a file system")
    assert fault_of(folder) is None
    without_hashes(folder)
    assert fault_of(folder) is None


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named(folder, name, kind):
    damage, told = DAMAGE[kind]
    damage(folder / name)
    fault = fault_of(folder)
    assert fault.name == name
    assert fault.what.startswith(told)


def test_any_changed_byte_of_any_file_is_seen(folder, tmp_path):
    draw = random.Random(1)
    for name in FILES:
        for _ in range(12):
            shutil.copy(folder / name, tmp_path / "kept")
            flipped(folder / name, draw.randrange(10_000), draw.randrange(1, 256))
            assert fault_of(folder) == Fault(name, "is damaged (its SHA-256 differs)")
            shutil.copy(tmp_path / "kept", folder / name)


@pytest.mark.parametrize("name", FILES[:3])
def test_zeros_are_seen_by_the_form_alone_where_there_is_no_hash(folder, name):
    without_hashes(folder)
    DAMAGE["zeros"][0](folder / name)
    assert fault_of(folder).name == name
    (folder / MARK).unlink()
    assert fault_of(folder).name == name


@pytest.mark.parametrize("kind", ["cut", "longer", "missing"])
def test_sizes_alone_tell_where_there_is_no_hash(folder, kind):
    without_hashes(folder)
    DAMAGE[kind][0](folder / "deep/rows.arrow")
    assert fault_of(folder).name == "deep/rows.arrow"


def test_what_torch_saves_has_checksums_of_its_own(folder):
    without_hashes(folder)
    flipped(folder / "optimizer.pt", 100)
    assert fault_of(folder) == Fault("optimizer.pt", "is damaged (the checksum of state/data.pkl differs)")


def test_a_file_that_the_run_did_not_write_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"x")
    assert fault_of(folder) == Fault("model.safetensors", "was added after the folder was written")


def test_a_mark_with_any_change_is_a_mark_of_the_same_or_a_fault(folder):
    whole, draw = (folder / MARK).read_bytes(), random.Random(2)
    for number in range(80):
        end = draw.randrange(len(whole))
        (folder / MARK).write_bytes(whole[:end])
        assert isinstance(read_mark(folder), Fault), number
        (folder / MARK).write_bytes(whole)
        flipped(folder / MARK, end, draw.randrange(1, 256))
        found = fault_of(folder)
        assert found is None or isinstance(found, Fault)
    for content in (
        b"[]",
        b"3",
        b'{"files": 3}',
        b'{"files": {"a": "b"}}',
        b'{"files": {}, "sha256": [1]}',
        b"[" * 9000,
    ):
        (folder / MARK).write_bytes(content)
        assert fault_of(folder).name == MARK
