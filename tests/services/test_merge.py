"""`lorans merge` from a run to a folder: sizes, files, and what is left of a merge that fails."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest

pytest.importorskip("torch")

from command_line import lorans
from safetensors.torch import load_file, save_file

import lora_ns.merging.shards
import lora_ns.services.export_merged
import lora_ns.services.merge
from lora_ns.answers.changed_files import Force
from lora_ns.errors import LoransError, RunError, UsageError
from lora_ns.exports.card import CARD
from lora_ns.exports.lineage import REPORT
from lora_ns.exports.record import RECORD
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.shards import ShardWriter, bytes_of
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import ASSETS
from lora_ns.run.directory import RunDir
from lora_ns.run.lineage import LINEAGE
from lora_ns.services.export import ExportResult, export_plain
from lora_ns.services.export_gguf import export_gguf
from lora_ns.services.export_ollama import export_ollama
from lora_ns.services.export_quantized import export_quantized
from lora_ns.services.merge import MergeResult, merge
from lora_ns.services.verify import Proof, verify


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


def merge_until(run, output, writes):
    """Merge in a process of its own, and kill it before it writes another tensor."""
    write, count = ShardWriter.write, iter(range(1000))

    def killed(self, *arguments):
        if next(count) == writes:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, *arguments)

    ShardWriter.write = killed
    merge(run, output)


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with all libraries imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "peft", "safetensors.torch", "lora_ns.services.merge"])
    return context


@pytest.mark.matrix
def test_a_killed_merge_leaves_nothing_and_the_next_one_clears_its_remains(lora_run, tmp_path, processes):
    process = processes.Process(target=merge_until, args=(lora_run, tmp_path / "merged", 9))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".merged.lorans-new"]
    merge(lora_run, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def told(place):
    """The files of a folder, or one file, without the report, which has the name of the folder."""
    found = files(place) if place.is_dir() else {"": place.read_bytes()}
    return {name: content for name, content in found.items() if name != REPORT}


def removed(place):
    """Remove a folder, or a file with the report beside it: the record is left over."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
        place.with_name(f"{place.name}.{REPORT}").unlink(missing_ok=True)


WORKS = {
    "merge": (merge, "merged"),
    "plain": (export_plain, "plain"),
    "quantized": (export_quantized, "quantized"),
    "gguf": (export_gguf, "model.gguf"),
    "ollama": (export_ollama, "ollama"),
}
"""What writes a folder or a file, and the name that it is given."""


@pytest.mark.matrix
@pytest.mark.parametrize("name", WORKS)
def test_what_is_killed_at_any_moment_leaves_the_old_state_or_the_whole(lora_run, tmp_path, processes, name):
    work, place = WORKS[name]
    output = tmp_path / place

    def started():
        process = processes.Process(target=work, args=(lora_run, output))
        process.start()
        return process

    for _ in range(2):  # the first one also starts the server
        begin = time.monotonic()
        started().join()
        took = time.monotonic() - begin
        expected = told(output)
        removed(output)
    draw, killed = random.Random(20), 0
    for number in range(20):
        if number % 2 and not output.suffix:
            output.mkdir(exist_ok=True)
        was_there = output.exists()
        process = started()
        process.join(draw.uniform(0, took))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        assert output.exists() >= was_there
        if output.exists():
            assert told(output) in ({}, expected)
            removed(output)
    assert killed > 10
    work(lora_run, output)
    assert told(output) == expected
    beside = [f"{place}.{REPORT}", f"{place}.{RECORD}"] if output.suffix else []
    assert sorted(path.name for path in tmp_path.iterdir()) == [place, *beside]


@pytest.mark.parametrize("moment", [0, 1, 20, None])
def test_a_disk_that_becomes_full_is_reported_with_the_folder(lora_run, tmp_path, monkeypatch, moment):
    count = iter(range(1000))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write = lora_ns.merging.shards._write_all
    monkeypatch.setattr(
        lora_ns.merging.shards, "_write_all", lambda *given: full() if next(count) == moment else write(*given)
    )
    if moment is None:
        monkeypatch.setattr(lora_ns.services.merge, "_check_streams", needs_whole_model)
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(RunError, match=r"merged: no space left on the disk") as caught:
        merge(lora_run, tmp_path / "merged")
    assert caught.value.problems[0].where == str(tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_space_is_checked_before_anything_is_written(lora_run, tmp_path, monkeypatch):
    monkeypatch.setattr(ShardWriter, "write", lambda *_: pytest.fail("written"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**7))
    with pytest.raises(RunError, match=r"about \d+ MB needed, 10 MB free") as caught:
        merge(lora_run, tmp_path / "merged")
    assert caught.value.problems[0].where == str(tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def sharded(tmp_path):
    """The embedded base in two weight files."""
    folder = tmp_path / "base"
    shutil.copytree(ASSETS / "nano", folder)
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    place = {name: SHARDS[number % 2] for number, name in enumerate(stored)}
    for shard in SHARDS:
        parts = {name: value for name, value in stored.items() if place[name] == shard}
        save_file(parts, folder / shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return folder


def remove_shard(folder):
    (folder / SHARDS[1]).unlink()


def cut_shard(folder):
    with (folder / SHARDS[1]).open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 100)


def double_tensor(folder):
    first, second = (load_file(folder / shard) for shard in SHARDS)
    name = min(first)
    save_file({**second, name: first[name]}, folder / SHARDS[1], metadata={"format": "pt"})


def test_a_base_in_several_files_gives_the_same_model(lora_run, tmp_path, sharded):
    notes = []
    merge(lora_run, tmp_path / "merged", sharded, force=Force(notes.append))
    merge(lora_run, tmp_path / "whole")
    assert files(tmp_path / "merged") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (remove_shard, f"{SHARDS[1]}"),
        (cut_shard, rf"{SHARDS[1]}: not a safetensors file: cut short"),
        (double_tensor, rf"{SHARDS[1]}: `[\w.]+` is also in another file"),
    ],
)
def test_a_broken_shard_of_the_base_is_named(lora_run, tmp_path, sharded, plant, told):
    plant(sharded)
    with pytest.raises(LoransError, match=told) as caught:
        merge(lora_run, tmp_path / "merged", sharded, force=Force(print))
    assert caught.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("plant", "told"),
    [
        (lambda file: file.unlink(), "no adapter: the run is finished"),
        (lambda file: save_file({}, file), "not an adapter of this base: `.*` is missing"),
    ],
)
def test_an_adapter_without_weights_is_refused(lora_run, tmp_path, plant, told):
    run = RunDir(tmp_path / "run")
    shutil.copytree(lora_run.path, run.path)
    plant(run.adapter / WEIGHTS)
    with pytest.raises(UsageError, match=told):
        merge(run, tmp_path / "merged", force=Force(print))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_distance_from_training_in_8_bits_is_shown(lora_run, tmp_path, monkeypatch):
    found = MergeResult("merged", 10, "float32", 1e-7, 1e-7, 0.0204, 0.00271)
    proof = Proof("merged", "run", (), None, None, frozen=True)
    result = ExportResult("merged", "merged", found, proof)
    monkeypatch.setattr(lora_ns.services.export_merged, "export_merged", lambda *_: result)
    shown = " ".join(lorans("merge", lora_run.path, "-o", tmp_path / "merged").stdout.split())
    assert "logits differ by 2.0e-02 of the largest, KL 2.7e-03" in shown


def test_the_command_writes_what_export_writes(lora_run, tmp_path):
    own = json.loads(lorans("merge", lora_run.path, "-o", tmp_path / "own", "--json").stdout)
    other = json.loads(lorans("export", lora_run.path, "--to", "merged", "-o", tmp_path / "other", "--json").stdout)
    about = {"verified": True, "proof": own["proof"], "lineage": own["lineage"]}
    assert own == {**other["made"], "output": str(tmp_path / "own"), **about}
    assert own["proof"] == {**other["proof"], "folder": str(tmp_path / "own")}
    ours, theirs = files(tmp_path / "own"), files(tmp_path / "other")
    assert {REPORT, CARD} <= ours.keys()
    for name in ours.keys() - {LINEAGE}:  # which has the hash of the report, and the report the place
        text = ours[name].decode(errors="replace").replace("/own", "/other").replace(own["lineage"], other["lineage"])
        assert text == theirs[name].decode(errors="replace"), name


def test_a_merged_model_that_is_not_the_trained_one_is_marked_and_ends_with_one(lora_run, tmp_path, monkeypatch):
    def spoiled(opened, folder, *rest, **named):
        file = folder / "model.safetensors"
        tensors = load_file(file)
        tensors["model.layers.0.mlp.down_proj.weight"] *= 2
        save_file(tensors, file, metadata={"format": "pt"})
        return verify(opened, folder, *rest, **named)

    monkeypatch.setattr(lora_ns.services.export_merged, "verify", spoiled)
    done = lorans("merge", lora_run.path, "-o", tmp_path / "merged", "--dtype", "float32")
    assert done.returncode == 1
    assert "is not the trained model: logits: differ by" in done.stderr
    assert json.loads((tmp_path / "merged" / REPORT).read_text())["verified"] is False


def test_another_base_is_a_stated_loss(lora_run, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(ASSETS / "nano", base)
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"] *= 1.5
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    done = lorans("merge", lora_run.path, "-o", tmp_path / "merged", "--base", base, "--force", "--json")
    result = json.loads(done.stdout)
    assert (result["loss"], result["verified"]) == ("merged into another base than that of training", True)
    assert (result["proof"]["bound"], result["proof"]["comparison"]["largest_difference"] > 1e-3) == (None, True)
    assert "merged into another base than that of training" in (tmp_path / "merged" / CARD).read_text()


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
