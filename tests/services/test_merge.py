"""`lorans merge` from a run to a folder: sizes, files, and what is left of a merge that fails."""

import json
import shutil

import pytest

pytest.importorskip("torch")

from safetensors.torch import load_file

import lora_ns.services.merge
from lora_ns.errors import UsageError
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.shards import ShardWriter, bytes_of
from lora_ns.model.files import ASSETS
from lora_ns.services.merge import merge


def needs_whole_model(*_):
    raise WholeModelError("it is tested")


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_both_ways_write_the_same_files(lora_run, tmp_path, monkeypatch):
    streamed = merge(lora_run, tmp_path / "streamed", dtype="float32", max_shard_size="2MB")
    monkeypatch.setattr(lora_ns.services.merge, "_check_streams", needs_whole_model)
    whole = merge(lora_run, tmp_path / "whole", dtype="float32", max_shard_size="2MB")
    assert (streamed.whole_model, whole.whole_model) == (None, "it is tested")
    assert streamed.parameters == whole.parameters
    ours, theirs = files(tmp_path / "streamed"), files(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert len([name for name in ours if name.endswith(".safetensors")]) > 1
    for name in ours:
        if name.endswith(".safetensors"):
            assert load_file(tmp_path / "streamed" / name).keys() == load_file(tmp_path / "whole" / name).keys()
        else:
            assert ours[name] == theirs[name], name


def test_other_weights_in_the_folder_of_the_base_are_not_copied(lora_run, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(ASSETS / "nano", base)
    for name in ("consolidated.safetensors", "pytorch_model.bin", "original/consolidated.00.pth"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes((base / "model.safetensors").read_bytes())
    merge(lora_run, tmp_path / "merged", base)
    found = files(tmp_path / "merged")
    assert [name for name in found if name.endswith((".safetensors", ".bin", ".pth"))] == ["model.safetensors"]
    assert "quantization_config" not in json.loads(found["config.json"])


@pytest.mark.parametrize("moment", [0, 1, 20])
@pytest.mark.parametrize("is_there", [False, True])
def test_an_interrupted_merge_leaves_what_was_there(lora_run, tmp_path, monkeypatch, moment, is_there):
    write, count = ShardWriter.write, iter(range(1000))

    def interrupted(self, *arguments):
        if next(count) == moment:
            raise KeyboardInterrupt
        write(self, *arguments)

    if is_there:
        (tmp_path / "merged").mkdir()
    monkeypatch.setattr(ShardWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(lora_run, tmp_path / "merged")
    assert [path.name for path in tmp_path.rglob("*")] == (["merged"] if is_there else [])
    monkeypatch.undo()
    merge(lora_run, tmp_path / "merged")
    assert (tmp_path / "merged/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("size", "found"), [("5GB", 5 * 10**9), ("500 mb", 5 * 10**8), ("1.5GB", 15 * 10**8), ("10KB", 10**4)]
)
def test_sizes_of_files(size, found):
    assert bytes_of(size) == found


@pytest.mark.parametrize("size", ["", "5", "GB", "-5GB", "5GiB", "1e3MB", "0MB"])
def test_what_is_no_size_is_refused(lora_run, tmp_path, size):
    with pytest.raises(UsageError, match="is not a size of a file"):
        merge(lora_run, tmp_path / "merged", max_shard_size=size)
    assert not (tmp_path / "merged").exists()
