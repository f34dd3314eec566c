"""A damaged checkpoint is passed over by name, and the one before is taken; one that is whole is never passed over."""

import json
import os
import shutil
import zipfile
from importlib.util import find_spec

import pytest
from damaged_folders import DAMAGE, without_hashes

from lora_ns.errors import UsageError
from lora_ns.files.marks import MARK
from lora_ns.run.last_checkpoint import best_of, check_own, last_complete_checkpoint, mark_checkpoint, put_aside, search


def write_checkpoint(folder, step, best=None):
    folder.mkdir(parents=True)
    state = {"global_step": step, "best_model_checkpoint": best and f"/where/it/was/{best}"}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    (folder / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}" + bytes(90))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data.pkl", bytes(range(100)))
    mark_checkpoint(folder, "mine", step)


@pytest.fixture
def checkpoints(tmp_path):
    for step in (4, 8, 12):
        write_checkpoint(tmp_path / f"checkpoint-{step}", step, "checkpoint-4" if step > 4 else None)
    return tmp_path


def told(found):
    return [str(passed) for passed in found.passed]


def test_the_last_whole_one_is_taken(checkpoints):
    assert search(checkpoints, "mine").last == (checkpoints / "checkpoint-12", 12)
    assert told(search(checkpoints, "mine")) == []
    assert set(search(checkpoints, "mine", every=True).whole) == {4, 8, 12}
    assert last_complete_checkpoint(checkpoints, "mine") == (checkpoints / "checkpoint-12", 12)
    assert search(checkpoints / "none", "mine").last is None


@pytest.mark.parametrize("name", ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_one_is_named_and_the_one_before_taken(checkpoints, name, kind):
    damage, what = DAMAGE[kind]
    damage(checkpoints / "checkpoint-12" / name)
    found = search(checkpoints, "mine")
    assert found.last == (checkpoints / "checkpoint-8", 8)
    (passed,) = told(found)
    assert passed.startswith(f"checkpoint-12: {name} {what}")
    assert found.damaged == found.passed


@pytest.mark.parametrize("kind", ["zeros", "cut"])
def test_a_damaged_mark_is_named(checkpoints, kind):
    DAMAGE[kind][0](checkpoints / "checkpoint-12" / MARK)
    found = search(checkpoints, "mine")
    assert (found.last[1], found.passed[0].was_finished) == (8, True)
    assert told(found)[0].startswith(f"checkpoint-12: {MARK} is damaged (")


def test_one_without_a_mark_was_never_finished(checkpoints):
    (checkpoints / "checkpoint-12" / MARK).unlink()
    found = search(checkpoints, "mine")
    assert (found.last[1], found.damaged) == (8, ())
    assert told(found) == ["checkpoint-12: is incomplete (it has no lorans.json)"]


def test_others_are_passed_over(checkpoints):
    shutil.copytree(checkpoints / "checkpoint-12", checkpoints / "checkpoint-16")
    assert told(search(checkpoints, "mine")) == ["checkpoint-16: is of step 12, by its lorans.json"]
    assert told(search(checkpoints, "another"))[0] == "checkpoint-16: belongs to another run"
    assert search(checkpoints, "another").last is None


def test_the_best_weights_so_far_are_held_against_their_mark_too(checkpoints):
    assert best_of(checkpoints / "checkpoint-12") == checkpoints / "checkpoint-4"
    DAMAGE["flipped"][0](checkpoints / "checkpoint-4" / "adapter_model.safetensors")
    found = search(checkpoints, "mine")
    lost = "adapter_model.safetensors is damaged (its SHA-256 differs)"
    assert found.last is None
    assert told(found)[0] == f"checkpoint-12: checkpoint-4 has the best weights so far but is damaged: {lost}"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{}", "is damaged ('global_step')"),
        ("[1]", "is damaged ("),
        ('{"global_step": 3}', "is of step 3"),
        pytest.param(
            '{"global_step": 12, "a": 1}',
            "is damaged (`a` is not",
            marks=pytest.mark.skipif(not find_spec("transformers"), reason="nothing knows the trainer's keys"),
        ),
        ('{"global_step": 12, "epoch": "1"}', "is damaged (`epoch` is not"),
        ('{"global_step": 12, "log_history": [1]}', "is damaged (`log_history` is not"),
        ('{"global_step": 12, "stateful_callbacks": {"A": {"args": 1}}}', "is damaged (`stateful_callbacks` is not"),
        ("{", "is damaged ("),
    ],
)
def test_a_state_that_cannot_be_gone_on_from_is_named_where_there_is_no_hash(checkpoints, content, what):
    folder = checkpoints / "checkpoint-12"
    (folder / "trainer_state.json").write_text(content)
    mark_checkpoint(folder, "mine", 12)
    without_hashes(folder)
    assert told(search(checkpoints, "mine"))[0].startswith(f"checkpoint-12: trainer_state.json {what}")


@pytest.mark.parametrize("is_folder", [False, True], ids=["gone", "a folder"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("adapter_model.safetensors", ""),
        ("optimizer.pt", ": it was saved with `save_only_model`, so a run cannot resume from it"),
        ("scheduler.pt", ""),
        ("rng_state.pth", ""),
    ],
)
def test_one_without_a_part_is_not_gone_on_from(checkpoints, name, why, is_folder):
    part = checkpoints / "checkpoint-12" / name
    part.unlink()
    if is_folder:
        part.mkdir()
    mark_checkpoint(checkpoints / "checkpoint-12", "mine", 12)
    assert told(search(checkpoints, "mine")) == [f"checkpoint-12: {name} is missing{why}"]


@pytest.mark.parametrize("places", [("global_step12/states.pt",), ("pytorch_model_fsdp_0/0", "optimizer_0/0")])
def test_parts_of_deepspeed_and_fsdp_are_found_where_those_write_them(checkpoints, places):
    folder = checkpoints / "checkpoint-12"
    for name in ("adapter_model.safetensors", "optimizer.pt"):
        (folder / name).unlink()
    if places[0].startswith("global_step"):
        (folder / "scheduler.pt").unlink()
    for place in places:
        (folder / place).parent.mkdir()
        (folder / place).write_bytes(b"x")
    mark_checkpoint(folder, "mine", 12)
    assert search(checkpoints, "mine").last == (folder, 12)


def test_what_is_passed_over_makes_room_for_new_checkpoints(checkpoints):
    (checkpoints / "checkpoint-12" / MARK).unlink()
    DAMAGE["flipped"][0](checkpoints / "checkpoint-8" / "optimizer.pt")
    put_aside(search(checkpoints, "mine").passed)
    assert {folder.name for folder in checkpoints.iterdir()} == {"checkpoint-4", "damaged-checkpoint-8"}


def test_checkpoints_on_another_disk_are_gone_on_from_and_none_is_removed_there(checkpoints, tmp_path):
    for name in ("checkpoint-12", "damaged-checkpoint-12"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / MARK).unlink(missing_ok=True)
        (tmp_path / name / "notes").write_text("mine")
    link = tmp_path / "run"
    link.symlink_to(checkpoints)
    check_own(link, "mine")
    found = search(link, "mine")
    put_aside(found.passed)
    assert found.last == (link / "checkpoint-8", 8)
    assert {file.parent.name for file in tmp_path.rglob("notes")} == {
        "damaged-checkpoint-12",
        "damaged-checkpoint-12-2",
    }


def test_a_checkpoint_that_is_a_link_is_put_aside_as_one(checkpoints, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes").write_text("mine")
    (checkpoints / "checkpoint-16").symlink_to(tmp_path / "elsewhere")
    put_aside(search(checkpoints, "mine").passed)
    assert (checkpoints / "damaged-checkpoint-16").is_symlink()
    assert (tmp_path / "elsewhere" / "notes").read_text() == "mine"


def test_checkpoints_of_another_run_behind_a_link_are_refused(checkpoints, tmp_path):
    write_checkpoint(checkpoints / "checkpoint-16", 16)
    mark_checkpoint(checkpoints / "checkpoint-16", "theirs", 16)
    check_own(checkpoints, "mine")
    (tmp_path / "run").symlink_to(checkpoints)
    with pytest.raises(UsageError, match="run: is a link to a folder with checkpoint-16 of another run"):
        check_own(tmp_path / "run", "mine")


@pytest.mark.parametrize("name", ["trainer_state.json", MARK, "more"])
@pytest.mark.parametrize("kind", ["pipe", "endless", "nowhere"])
def test_what_is_no_file_in_a_checkpoint_is_named_and_not_read(checkpoints, name, kind):
    file = checkpoints / "checkpoint-12" / name
    file.unlink(missing_ok=True)
    os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero" if kind == "endless" else "/nowhere")
    found = search(checkpoints, "mine")
    what = {"pipe": "is a pipe, not a file", "endless": "is a device, not a file", "nowhere": "is a broken link"}
    assert found.last[1] == 8
    assert last_complete_checkpoint(checkpoints, "mine")[1] == (12 if name == "more" else 8)
    assert name in told(found)[0]
    assert what[kind].removeprefix("is ") in told(found)[0] or (name == MARK and kind == "nowhere")
