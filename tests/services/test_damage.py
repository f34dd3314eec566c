"""A damaged run is gone on with from what is whole, or refused by the name of what is not, and never believed."""

import shutil

import pytest

pytest.importorskip("torch")

from services_recipes import RECIPE, run_recipe

from lora_ns.answers.opened import open_run
from lora_ns.errors import ModelError, UsageError
from lora_ns.files.disk import sha256_file
from lora_ns.files.marks import MARK, mark_folder
from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import packaged
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import mark_checkpoint
from lora_ns.run.observer import SilentObserver
from lora_ns.services.resume import resume


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    """A run as it was after its fourth step of six, and the adapter that it would have had."""
    folder = tmp_path_factory.mktemp("broken-off")
    run = run_recipe(folder, RECIPE, "training.save_steps=2", "training.save_total_limit=5")
    expected = sha256_file(run.adapter / WEIGHTS)
    shutil.rmtree(run.adapter)
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    run.update(status="interrupted", adapter={})
    return run, expected


@pytest.fixture
def damaged(broken_off, tmp_path):
    run = RunDir(tmp_path / "run")
    shutil.copytree(broken_off[0].path, run.path)
    return run, broken_off[1]


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) * 6 // 10] ^= 5
    file.write_bytes(content)


class Told(SilentObserver):
    def __init__(self):
        self.notes = []

    def warn(self, text):
        self.notes.append(text)


def told_of(run, **more):
    """What is said while a run goes on."""
    observer = Told()
    with Noise() as noise:
        resume(run, observer, noise, **more)
    return observer.notes


def refused(run):
    """Why a run does not go on."""
    with pytest.raises(UsageError) as caught:
        told_of(run)
    assert run.read().status == "interrupted"
    return str(caught.value)


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(damaged):
    run, expected = damaged
    flip(run.checkpoints / "checkpoint-4" / WEIGHTS)
    run.metrics.write_bytes(run.metrics.read_bytes() + b'{"step": 4, "lo')
    assert told_of(run) == [
        f"checkpoint-4: {WEIGHTS} is damaged (its SHA-256 differs); skipped",
        "resuming from checkpoint-2",
        "metrics.jsonl: removed 1 line (not written completely)",
    ]
    assert run.read().adapter[WEIGHTS] == expected
    assert (run.checkpoints / "damaged-checkpoint-4").is_dir()


def test_where_every_checkpoint_is_damaged_the_first_step_is_asked_for(damaged):
    run, expected = damaged
    (run.checkpoints / "checkpoint-4" / "optimizer.pt").unlink()
    (run.checkpoints / "checkpoint-2" / MARK).write_bytes(bytes(9))
    told = refused(run)
    for line in (
        f"{run.checkpoints}/checkpoint-4: optimizer.pt is missing\n",
        f"{run.checkpoints}/checkpoint-2: {MARK} is damaged (",
        f"{run.path}: no checkpoint is complete (restore one, or start from the first step with "
        f"`lorans train {run.path} --resume --from-start`)",
    ):
        assert line in told
    assert told_of(run, from_start=True)[-1] == "no complete checkpoint: starting from the first step"
    assert run.read().adapter[WEIGHTS] == expected


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "dataset_info.json", "state.json", MARK])
def test_damaged_rows_are_named_before_they_are_read(damaged, name):
    run, _ = damaged
    file = run.data / MARK if name == MARK else run.data / "train" / name
    file.write_bytes(file.read_bytes()[:-7])
    told = refused(run)
    assert told.startswith(f"{file}: is damaged (")
    assert told.endswith("(restore it, or start a new run with `--overwrite`, which reads the rows again)")


def test_a_run_with_links_goes_on_and_changes_nothing_of_others_behind_them(damaged, tmp_path):
    run, expected = damaged
    run.checkpoints.rename(tmp_path / "scratch")
    run.checkpoints.symlink_to(tmp_path / "scratch")
    shutil.copytree(tmp_path / "scratch" / "checkpoint-2", tmp_path / "scratch" / "checkpoint-3")
    mark_checkpoint(tmp_path / "scratch" / "checkpoint-3", "theirs", 3)
    assert refused(run).startswith(f"{run.checkpoints}: is a link to a folder with checkpoint-3 of another")
    shutil.rmtree(tmp_path / "scratch" / "checkpoint-3")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes").write_text("mine")
    run.adapter.symlink_to(tmp_path / "elsewhere")
    told_of(run)
    assert run.read().adapter[WEIGHTS] == expected
    assert not run.adapter.is_symlink()
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["notes"]


def test_a_damaged_start_of_an_adapter_is_named(damaged):
    run, _ = damaged
    shutil.copytree(run.checkpoints / "checkpoint-2", run.start)
    mark_folder(run.start)
    flip(run.start / WEIGHTS)
    fault = "is damaged (its SHA-256 differs) (restore it, or start a new run with `--overwrite`)"
    assert refused(run) == f"{run.start / WEIGHTS}: {fault}"


def test_weights_that_were_marked_as_whole_and_cannot_be_read_are_named(damaged):
    run, _ = damaged
    last = run.checkpoints / "checkpoint-4"
    with (last / WEIGHTS).open("ab") as file:
        file.write(bytes(8))
    mark_checkpoint(last, run.read().run_id, 4)
    with pytest.raises(UsageError, match=r"checkpoint-4: its weights cannot be read: .*not fully covered"):
        told_of(run)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_what_a_library_raises_of_a_checkpoint_that_was_marked_as_whole_is_one_line(damaged, name):
    import torch

    run, _ = damaged
    last = run.checkpoints / "checkpoint-4"
    torch.save([], last / name)
    mark_checkpoint(last, run.read().run_id, 4)
    with pytest.raises(
        ModelError, match=r"checkpoint-4: cannot be resumed from: .* \(restore the checkpoint, or remove"
    ):
        told_of(run)


def test_a_run_goes_on_with_a_base_that_has_moved(tmp_path):
    shutil.copytree(packaged("lorans:nano"), tmp_path / "base")
    text = RECIPE.replace('"lorans:nano"', '"base"').replace("max_steps = 6", "max_steps = 2")
    run = run_recipe(tmp_path, text, "training.save_steps=1")
    expected = run.read().adapter[WEIGHTS]
    shutil.rmtree(run.checkpoints / "checkpoint-2")
    run.update(status="interrupted", adapter={})
    (tmp_path / "base").rename(tmp_path / "moved")
    assert refused(run).endswith("(give its current folder with `--base`)")
    told_of(run, moved=tmp_path / "moved")
    assert (run.read().adapter[WEIGHTS], run.read().base.path) == (expected, str(tmp_path / "base"))
    assert open_run(run).base.path == tmp_path / "moved"
