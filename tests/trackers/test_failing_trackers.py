"""A tracker that cannot be reached, never answers or has no disk is reported, and delays a run by seconds."""

import resource
import socket
import time

import pytest
from tracked_runs import make_run, write_rows

from lora_ns.errors import MissingError, UsageError
from lora_ns.services.track import track
from lora_ns.trackers.sent import Sent
from lora_ns.trackers.tracking import END_SECONDS, LOAD_SECONDS, tracking

ROWS = [{"step": step, "loss": 1.0 / step} for step in range(1, 4)]


def followed(run, *names):
    """The warnings of a run that ends at once, and the seconds that its end took."""
    told = []
    write_rows(run, ROWS)
    with tracking(run, names, told.append):
        run.update(status="finished")
        began = time.monotonic()
    return told, time.monotonic() - began


def test_without_trackers_nothing_is_started(tmp_path):
    run = make_run(tmp_path)
    assert followed(run)[0] == []
    assert not run.tracking.exists()


def test_trackers_that_fail_or_hang_are_reported_and_the_others_are_served(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    for package in ("tensorboard", "mlflow", "wandb"):
        pytest.importorskip(package)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        run = make_run(tmp_path, "tracking.mlflow_tracking_uri=http://127.0.0.1:9")
        told, seconds = followed(run, "tensorboard", "mlflow", "wandb")
    assert seconds < LOAD_SECONDS + 2 * END_SECONDS
    if Sent.read(run.tracking, "tensorboard").rows:  # its libraries were loaded in time
        assert Sent.read(run.tracking, "tensorboard").is_closed
    text = "\n".join(told)
    assert "MLflow lacks 3 rows" in text
    assert "W&B lacks 3 rows" in text
    assert text.count(f"`lorans track {run.path}`") >= 2
    assert "aaaaaaaa" not in text + run.tracking.joinpath("trackers.log").read_text()


def test_a_full_disk_of_a_tracker_is_reported(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("tensorboard")
    run = make_run(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write_rows(run, ROWS)
    told = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))  # the process of the trackers inherits it
    try:
        context = tracking(run, ["tensorboard"], told.append)
        context.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run.update(status="finished")
    context.__exit__(None, None, None)
    assert any(text.startswith("TensorBoard lacks") for text in told)
    if Sent.read(run.tracking, "tensorboard").id:  # its libraries were loaded in time
        assert any(text.startswith("TensorBoard cannot be reached: [Errno 27] File too large") for text in told)


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
