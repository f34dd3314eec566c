"""A tracker that cannot be reached, never answers or has no disk is reported, and delays a run by seconds."""

import os
import resource
import socket
import threading
import time

import pytest
from tracked_runs import make_run, write_rows

from lora_ns.errors import MissingError, UsageError
from lora_ns.services.track import track
from lora_ns.trackers import Tracked
from lora_ns.trackers.sent import Sent
from lora_ns.trackers.tracking import END_SECONDS, loading, tracking

ROWS = [{"step": step, "loss": 1.0 / step} for step in range(1, 4)]
PATIENCE = 300.0


def followed(run, names, first="", process=None):
    """The warnings of a run that ends once `first` has been reported, and the seconds that its end took."""
    told, is_told = [], threading.Event()

    def tell(text):
        told.append(text)
        if text.startswith(first):
            is_told.set()

    write_rows(run, ROWS)
    with tracking(run, names, tell, process):
        assert not first or is_told.wait(PATIENCE)
        run.update(status="finished")
        began = time.monotonic()
    return told, time.monotonic() - began


def test_without_trackers_nothing_is_started(tmp_path):
    run = make_run(tmp_path)
    with loading([]) as process:
        assert process is None
        assert followed(run, [])[0] == []
    assert not run.tracking.exists()


def test_a_run_that_ends_before_the_libraries_are_loaded_does_not_wait_for_them(tmp_path, monkeypatch):
    package = tmp_path / "packages" / "wandb"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").write_text("import threading; threading.Event().wait()\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)
    run = make_run(tmp_path)
    told, seconds = followed(run, ["wandb"])
    assert END_SECONDS <= seconds < 2 * END_SECONDS
    what = f"W&B lacks 3 rows, because it did not answer within {END_SECONDS:.0f} seconds"
    assert told == [f"{what}; `lorans track {run.path}` sends what is missing"]


def test_a_run_that_is_not_created_leaves_no_process():
    with loading(["wandb"]) as process:
        pass
    assert process._process.returncode is not None


@pytest.mark.matrix
def test_trackers_that_fail_or_hang_are_reported_and_the_others_are_served(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    for package in ("tensorboard", "mlflow", "wandb"):
        pytest.importorskip(package)
    names = ["tensorboard", "mlflow", "wandb"]
    run = make_run(tmp_path, "tracking.mlflow_tracking_uri=http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        with loading(names) as process:
            told, seconds = followed(run, names, "MLflow cannot be reached: ", process)
    assert seconds < 2 * END_SECONDS
    assert Sent.read(run.tracking, "tensorboard").is_closed
    text = "\n".join(told)
    assert "MLflow lacks 3 rows" in text
    assert "W&B lacks 3 rows" in text
    assert text.count(f"`lorans track {run.path}`") == 2
    assert "aaaaaaaa" not in text + run.tracking.joinpath("trackers.log").read_text()


@pytest.mark.matrix
def test_a_full_disk_of_a_tracker_is_reported(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("tensorboard")
    run = make_run(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))  # the process of the trackers inherits it
    try:
        context = loading(["tensorboard"])
        process = context.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    problem = "TensorBoard cannot be reached: [Errno 27] File too large"
    told, _ = followed(run, ["tensorboard"], problem, process)
    context.__exit__(None, None, None)
    assert [text[: len(problem)] for text in told[:1]] == [problem]
    assert told[1].startswith("TensorBoard lacks")


def test_secrets_are_no_part_of_the_config(tmp_path):
    run, secret = make_run(tmp_path), "hf_" + "aB3" * 12
    manifest = run.read().model_copy(update={"packages": {"index": f"https://user:{secret}@example.org"}})
    config = Tracked(run, manifest).config
    assert config["packages.index"]
    assert secret not in str(config)


@pytest.mark.parametrize(
    ("names", "error", "expected"),
    [
        ([], UsageError, "names no tracker"),
        (["wandbb"], UsageError, "--to: got `wandbb`"),
        (["comet_ml"], MissingError, "`comet_ml` is not installed"),
    ],
)
def test_track_names_what_is_wrong(tmp_path, monkeypatch, names, error, expected):
    monkeypatch.setattr("lora_ns.machine.packages.importlib.util.find_spec", lambda _: None)
    with pytest.raises(error, match=expected):
        track(make_run(tmp_path), names, 1.0, lambda _: None)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"tracker": 5}', '{"tracker": "wandb", "step": "x"}', "\0" * 20])
def test_a_damaged_record_is_as_if_nothing_was_sent(tmp_path, damage):
    (tmp_path / "wandb.json").write_text(damage)
    assert Sent.read(tmp_path, "wandb") == Sent(tracker="wandb")


def test_rows_are_sent_once_whatever_a_resumed_run_trains_again():
    sent = Sent(tracker="wandb")
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 2, "epoch": 1.0, "eval_loss": 0.7}]
    for row in rows:
        assert not sent.has(row)
        sent = sent.after(row)
        assert sent.has(row)
    assert all(sent.has(row) for row in rows)
    assert not sent.has({"step": 2, "train_runtime": 1.0})
    assert not sent.has({"step": 3, "loss": 0.4})
    assert sent.rows == 3
