"""The best adapter survives a kill at any moment, and a resumed run begins with the one of its checkpoint."""

import shutil
from pathlib import Path

import pytest

from lora_ns.run import best_adapter
from lora_ns.run.best_adapter import begin_at, find_best, forget_earlier, replace_best
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import BestRecord

RUN_ID = "20260101-000000-00000000"


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return RunDir(tmp_path / "run")


def keep(run, step, saved):
    def write(folder):
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text(f"weights of step {step}")

    replace_best(run, RUN_ID, BestRecord(step=step, metric="loss", value=1 / step), write, saved)


def step_of(best):
    if best is None:
        return None
    assert (best.folder / "adapter_model.safetensors").read_text() == f"weights of step {best.record.step}"
    return best.record.step


def test_the_last_that_was_kept_is_the_best(run):
    assert find_best(run, RUN_ID) is None
    for step in (2, 4, 6):
        keep(run, step, saved=0)
        assert step_of(find_best(run, RUN_ID)) == step
    assert find_best(run, "another run") is None


@pytest.mark.parametrize(("checkpoint", "expected"), [(0, None), (3, 2), (5, 4), (8, 8), (9, 8)])
def test_a_resumed_run_begins_with_the_best_up_to_its_checkpoint(run, checkpoint, expected):
    saved = 0
    for step in (2, 4, 6, 8):
        if step > checkpoint >= saved:
            saved = checkpoint
        keep(run, step, saved)
    assert step_of(begin_at(run, RUN_ID, checkpoint)) == expected
    assert step_of(find_best(run, RUN_ID)) == expected
    assert not run.best_of_checkpoint.exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "lorans.json"])
def test_a_damaged_one_is_not_used(run, name):
    keep(run, 2, saved=0)
    (run.best / name).write_text("{}")
    assert find_best(run, RUN_ID) is None
    assert begin_at(run, RUN_ID, 2) is None


def moments(run, monkeypatch, work, kill_at):
    """Do the work, and end the process at one of the moments at which it changes the disk; False if it has fewer."""
    count = 0

    def moment():
        nonlocal count
        count += 1
        if count == kill_at:
            raise KilledError

    rename, remove = Path.rename, best_adapter.remove

    def renamed(path, target):
        moment()
        return rename(path, target)

    def removed(path):
        moment()
        remove(path)

    def marked(*args, **extra):
        moment()
        mark(*args, **extra)

    mark = best_adapter.mark_folder
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", renamed)
        patch.setattr(best_adapter, "remove", removed)
        patch.setattr(best_adapter, "mark_folder", marked)
        try:
            work()
        except KilledError:
            return True
    return False


@pytest.mark.parametrize("saved", [0, 3, 5])
def test_a_kill_at_any_moment_leaves_what_a_resumed_run_needs(run, monkeypatch, saved):
    killed, moment = True, 0
    while killed:
        moment += 1
        shutil.rmtree(run.path)
        run.path.mkdir()
        keep(run, 2, saved=0)
        if saved == 5:
            keep(run, 4, saved=3)
        killed = moments(run, monkeypatch, lambda at=saved: keep(run, 6, at), moment)
        before = {0: None, 3: 2, 5: 4}[saved]
        if saved:
            assert step_of(find_best(run, RUN_ID)) in {before, 6}, "there is one at every moment"
        for later in (1, 2, 3):  # the resumed run is killed, too
            moments(run, monkeypatch, lambda: begin_at(run, RUN_ID, saved), later)
        assert step_of(begin_at(run, RUN_ID, saved)) == before
    assert moment > 4


def test_what_only_a_resumed_run_needs_is_forgotten_in_the_end(run):
    keep(run, 2, saved=0)
    keep(run, 4, saved=3)
    assert run.best_of_checkpoint.is_dir()
    forget_earlier(run)
    assert not run.best_of_checkpoint.exists()
    assert step_of(find_best(run, RUN_ID)) == 4
