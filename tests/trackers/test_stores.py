"""What trackers wrote, read back: curves, config and status of a run that was resumed, each row once."""

import importlib.util
import json
import os
import struct
import zipfile
from collections import Counter

import pytest
from once import once
from tracked_runs import make_run, write_rows

from lora_ns.recipe.tracking import Tracking
from lora_ns.trackers import TRACKERS
from lora_ns.trackers.sent import Sent
from lora_ns.trackers.tracking import send_missing

pytest.importorskip("transformers")
pytest.importorskip("tensorboard")

PATIENCE = 300.0

TEXT = [{"step": step, "loss": 3.0 / step, "grad_norm": 0.5, "learning_rate": 1e-3} for step in range(1, 7)]
CLASSES = [{"step": step, "loss": 1.0 / step, "grad_norm": 0.1} for step in range(1, 7)]
EVALUATIONS = {
    "text": {"eval_loss": 1.5, "eval_mean_token_accuracy": 0.5},
    "classes": {"eval_loss": 0.25, "eval_accuracy": 0.75, "eval_f1_macro": 0.5},
}
SUMMARY = {"train_runtime": 2.5, "train_loss": 1.25}


def rows_of(kind, until):
    """The rows of a run up to a step, with an evaluation and a summary at its end."""
    rows = [row for row in (TEXT if kind == "text" else CLASSES) if row["step"] <= until]
    return [*rows, {"step": until, **EVALUATIONS[kind]}, {"step": until, **SUMMARY}]


def installed():
    return [name for name, tracker in TRACKERS.items() if importlib.util.find_spec(tracker.package)]


def make(folder, kind):
    """A run that stopped after step 4, went on from step 2 and finished after step 6; once it had all trackers."""
    names = installed()
    settings = [
        f"tracking.report_to={json.dumps(names)}",
        *("tracking.mode=offline", "tracking.project=parts", "tracking.run_name=first", 'tracking.tags=["a","b c"]'),
        *("tracking.group=g", f"tracking.mlflow_tracking_uri=sqlite:///{folder}/mlflow.db"),
    ]
    if kind == "classes":
        settings[-1] = f"tracking.mlflow_tracking_uri={folder}/mlruns"
    run = make_run(folder, *settings)
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        patch.chdir(folder)
        write_rows(run, rows_of(kind, 4))
        run.update(status="interrupted")
        first = send_missing(run, names, PATIENCE, told.append)
        (run.path / "report.html").write_text("<!doctype html><title>report</title>")
        write_rows(run, [*rows_of(kind, 2)[:2], *rows_of(kind, 6)[2:]])
        run.update(status="finished")
        second = send_missing(run, names, PATIENCE, told.append)
    return run.path, told, first, second


@pytest.fixture(scope="session", params=["text", pytest.param("classes", marks=pytest.mark.matrix)])
def stored(request, tmp_path_factory):
    return request.param, *once(
        tmp_path_factory, f"tracked-{request.param}", lambda folder: make(folder, request.param)
    )


EXPECTED = dict.fromkeys(range(1, 7), 1)


def test_the_names_in_a_recipe_are_those_of_the_trackers():
    assert set(Tracking.model_fields["report_to"].annotation.__args__[0].__args__) == set(TRACKERS)


def test_every_tracker_has_every_row_and_the_end(stored):
    _, path, told, first, second = stored
    assert not told
    assert [report.problem for report in (*first, *second)] == [None] * 2 * len(second)
    assert all(report.is_closed and not report.missing for report in (*first, *second))
    assert {Sent.read(path / "tracking", report.tracker).status for report in second} == {"finished"}


def test_tensorboard(stored):
    kind, path, *_ = stored
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(path / "tracking" / "tensorboard")).Reload()
    losses = found.Scalars("train/loss")
    assert Counter(event.step for event in losses) == EXPECTED
    assert losses[0].value == pytest.approx(rows_of(kind, 6)[0]["loss"])
    assert set(found.Tags()["scalars"]) >= {f"eval/{key[5:]}" for key in EVALUATIONS[kind]} | {"train/train_loss"}
    texts = {name: found.Tensors(name)[-1].tensor_proto.string_val[0].decode() for name in found.Tags()["tensors"]}
    assert texts["status/text_summary"] == "finished"
    assert texts["tags/text_summary"] == "a, b c"
    assert json.loads(texts["args/text_summary"])["recipe.peft.method"] == "lora"


@pytest.mark.filterwarnings("ignore")  # of SQLAlchemy and alembic, which MLflow calls by older names
def test_mlflow(stored, monkeypatch):
    kind, path, *_ = stored
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"sqlite:///{path.parent}/mlflow.db" if kind == "text" else f"{path.parent}/mlruns"
    client = mlflow.MlflowClient(uri)
    (one,) = client.search_runs([client.get_experiment_by_name("parts").experiment_id])
    assert (one.info.status, one.info.run_name) == ("FINISHED", "first")
    assert one.data.tags.keys() >= {"a", "b c", "group", "lorans.run_id"}
    assert one.data.params["recipe.peft.method"] == "lora"
    assert Counter(metric.step for metric in client.get_metric_history(one.info.run_id, "loss")) == EXPECTED
    assert one.data.metrics.keys() >= {*EVALUATIONS[kind], *SUMMARY}
    assert "report.html" in [file.path for file in client.list_artifacts(one.info.run_id)]


def test_trackio(stored, monkeypatch):
    kind, path, *_ = stored
    pytest.importorskip("trackio")
    import sqlite3

    (file,) = (path.parent / "trackio").glob("parts*.db")
    with sqlite3.connect(file) as base:
        logged = [json.loads(text) for (text,) in base.execute("SELECT metrics FROM metrics")]
        (config,) = {text for (text,) in base.execute("SELECT config FROM configs")}
    assert Counter(row["train/global_step"] for row in logged if "train/loss" in row) == EXPECTED
    keys = {key for row in logged for key in row}
    assert keys >= {f"eval/{key[5:]}" for key in EVALUATIONS[kind]} | {"train/train_loss"}
    assert [row["status"] for row in logged if "status" in row] == ["interrupted", "finished"]
    assert json.loads(config)["recipe.peft.method"] == "lora"


def test_wandb(stored):
    kind, path, *_ = stored
    pytest.importorskip("wandb")
    rows, config, summary, ends = [], {}, {}, []
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
        for field, target in (("config", config), ("summary", summary)):
            for item in getattr(record, field).update:
                target["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
        if record.WhichOneof("record_type") == "exit":
            ends.append(record.exit.exit_code)
    assert Counter(row["train/global_step"] for row in rows if "train/loss" in row) == EXPECTED
    assert {key for row in rows for key in row} >= {f"eval/{key[5:]}" for key in EVALUATIONS[kind]}
    assert ends == [255, 0]
    assert summary["status"] == "finished"
    assert summary["train_loss"] == SUMMARY["train_loss"]
    assert config["recipe.peft.method"] == "lora"


def wandb_records(path):
    """The records of all offline runs of a run, oldest first."""
    from wandb.proto import wandb_internal_pb2

    for file in sorted((path / "tracking" / "wandb").glob("offline-run-*/run-*.wandb"), key=os.path.getmtime):
        for data in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            yield record


def log_records(data):
    """The records of a log as LevelDB writes it, after seven bytes: blocks of 32 KiB with parts of records."""
    place, parts = 7, []
    while place + 7 <= len(data):
        if 32_768 - place % 32_768 < 7:  # no room for a header: the rest of the block is padding
            place += 32_768 - place % 32_768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)  # after the checksum
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield b"".join(parts)
            parts = []


def test_swanlab(stored):
    kind, path, *_ = stored
    pytest.importorskip("swanlab")
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.proto.swanlab.run.v1.run_pb2 import RUN_STATE_ABORTED, RUN_STATE_FINISHED

    parts = sorted((path / "tracking" / "swanlab").glob("run-*/run-*.swanlab"))
    records = [Record.FromString(data) for file in parts for data in log_records(file.read_bytes())]
    scalars = [record.scalar for record in records if record.HasField("scalar")]
    assert Counter(one.step for one in scalars if one.key == "train/loss") == EXPECTED
    assert {one.key for one in scalars} >= {f"eval/{key[5:]}" for key in EVALUATIONS[kind]}
    ends = [record.finish.state for record in records if record.HasField("finish")]
    assert ends == [RUN_STATE_ABORTED, RUN_STATE_FINISHED]
    starts = [record.start for record in records if record.HasField("start")]
    assert [(one.id, list(one.tags), one.group) for one in starts] == [(starts[0].id, ["a", "b c"], "g")] * 2
    assert "recipe.peft.method" in (parts[-1].parent / "files" / "config.yaml").read_text()
    assert (parts[-1].parent / "files" / "report.html").is_file()


def test_comet(stored):
    kind, path, *_ = stored
    pytest.importorskip("comet_ml")
    parts = sorted((path / "tracking").glob("*.zip"), key=os.path.getmtime)
    found = [message for file in parts for message in comet_messages(file)]
    metrics = [payload["metric"] for name, payload in found if name == "metric_msg"]
    assert Counter(one["step"] for one in metrics if one["metricName"] == "train/loss") == EXPECTED
    assert {one["metricName"] for one in metrics} >= {f"eval/{key[5:]}" for key in EVALUATIONS[kind]}
    others = [(payload["key"], payload["value"]) for name, payload in found if name == "log_other"]
    assert [value for key, value in others if key == "status"] == ["interrupted", "finished"]
    config = {one["param"]["paramName"]: one["param"]["paramValue"] for name, one in found if name == "parameter_msg"}
    assert config["args|recipe.peft.method"] == "lora"
    sent = [payload["additional_params"]["fileName"] for name, payload in found if name == "file_upload"]
    assert {"report.html", "recipe.toml", "manifest.json"} <= set(sent)


def comet_messages(file):
    """The kind and the content of each message of an offline experiment."""
    with zipfile.ZipFile(file) as whole:
        for line in whole.read("messages.json").splitlines():
            message = json.loads(line)
            yield message["type"], message["payload"]
