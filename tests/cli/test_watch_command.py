"""`lorans watch`: runs followed by their files."""

import json
import signal

import pytest
from command_line import lorans
from run_folders import HOSTILE, manifest, rows, write_run
from terminals import command, on_a_terminal, plain, shown

from lora_ns.services.watch import MOST_FAILURES, Watched


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A run in training, of a machine whose locks cannot be seen."""
    monkeypatch.setattr("lora_ns.run.overview.is_locked", lambda _: None)
    return write_run(tmp_path / "run", manifest(status="running"), rows(20), log="UserWarning: careful\n")


def end(run, status):
    """Let a run end."""
    (run / "manifest.json").write_text(json.dumps(manifest(status=status)))


def test_a_run_is_shown_once_where_there_is_no_terminal(running):
    done = lorans("watch", running)
    assert done.returncode == 0
    for part in ("running, step 20/100", "2:40 left", "loss", "50 tokens/s", "planned memory 1.0 GB", "careful"):
        assert part in done.stdout


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("running", 0), ("failed", 1), ("interrupted", 1)])
def test_the_exit_code_says_whether_a_run_did_not_finish(running, tmp_path, status, code):
    other = write_run(tmp_path / "other", manifest("other", "finished"), rows(5))
    end(running, status)
    assert lorans("watch", other, running, "--once").returncode == code


def test_the_display_follows_the_run_until_it_has_ended(running, monkeypatch):
    looks = []

    def sleep(_):
        looks.append(1)
        with (running / "metrics.jsonl").open("a") as file:
            file.write('{"step": 40, "loss": 0.125, "eval_loss": 0.25}\n')
        if len(looks) == 2:
            end(running, "finished")

    monkeypatch.setattr("lora_ns.cli.watch.time.sleep", sleep)
    text = plain(on_a_terminal(command("watch", running)))
    assert len(looks) == 2
    assert "running, step 20/100" in text
    assert "running, step 40/100" in text
    assert text.rstrip().rpartition("finished, step 40/100")[1]
    assert "eval_loss 0.25" in text


def test_an_interrupt_ends_the_display_and_leaves_the_run_alone(running, monkeypatch):
    before = (running / "manifest.json").read_bytes()
    monkeypatch.setattr("lora_ns.cli.watch.time.sleep", lambda _: signal.raise_signal(signal.SIGINT))
    codes = []

    def write(_):
        from lora_ns.cli.app import main

        with pytest.raises(SystemExit) as ended:
            main(["watch", str(running)])
        codes.append(ended.value.code)

    on_a_terminal(write)
    assert codes == [130]
    assert (running / "manifest.json").read_bytes() == before


def test_a_resumed_run_starts_its_losses_again(running):
    watched = Watched(running)
    assert len(watched.look().losses) == 20
    shorter = running.parent / "metrics"
    shorter.write_text("".join(f"{json.dumps(row)}\n" for row in rows(8)))
    shorter.replace(running / "metrics.jsonl")
    assert len(watched.look().losses) == 8


def test_a_run_that_is_gone_has_ended_after_several_looks(running):
    watched = Watched(running)
    watched.look()
    (running / "manifest.json").unlink()
    seen = [watched.look() for _ in range(MOST_FAILURES)]
    assert [one.is_over for one in seen] == [False] * (MOST_FAILURES - 1) + [True]
    assert seen[-1].has_failed


def test_json_has_the_last_value_of_every_metric(running):
    with (running / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "loss": NaN, "odd": "text", "kl": 0.5}\n')
    (table,) = json.loads(lorans("watch", running, "--json").stdout)["runs"]
    assert table["last"]["kl"] == 0.5
    assert table["tokens_per_second"] == 50.0
    assert table["is_over"] is False


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_hostile_names_warnings_and_metrics_are_shown_as_text_that_fits(tmp_path, columns):
    table = manifest(status="failed", error=HOSTILE)
    logged = [*rows(5), {"step": 6, HOSTILE: 1.0, "loss": 1e300}]
    run = write_run(tmp_path / HOSTILE, table, logged, log=f"Warning {HOSTILE}\n")
    lines = shown("watch", run, columns=columns)
    assert max(map(len, lines)) <= columns
    assert not any("\x1b[31m" in line or "\u202e" in line for line in lines)


def test_what_is_no_run_is_refused_all_at_once(tmp_path):
    done = lorans("watch", tmp_path, tmp_path / "missing")
    assert done.returncode == 2
    assert "no manifest.json" in done.stderr
    assert "no such run directory" in done.stderr
