"""Progress that nobody can read any more ends nothing, and the exit code says what a closed terminal does not show."""

import io
import os
import subprocess
import sys

import pytest
from terminals import on_a_terminal, plain

from lora_ns.cli.show import Progress, note, print_pairs


def closed_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def closed_terminal():
    above, below = os.openpty()
    os.close(above)
    return below


@pytest.mark.parametrize("behind", [closed_pipe, closed_terminal])
def test_progress_goes_on_when_nobody_reads_it(behind):
    descriptor = behind()
    with Progress(descriptor) as progress:
        progress.stage("reading the data")
        progress.warn("something")
        progress.begin(0, 2)
        progress.step(1, 10)
        progress.logged({"step": 1, "loss": 2.0, "learning_rate": None})
        progress.rows(1, 2)
        progress.stage("saving the adapter")
    os.close(descriptor)


@pytest.mark.parametrize("behind", [closed_pipe, closed_terminal])
def test_an_error_that_nobody_reads_has_its_exit_code(tmp_path, behind):
    descriptor = behind()
    words = [sys.executable, "-m", "lora_ns", "plan", str(tmp_path / "none.toml")]
    done = subprocess.run(words, stderr=descriptor, stdout=subprocess.DEVNULL, check=False)
    os.close(descriptor)
    assert done.returncode == 2


def test_a_terminal_gets_a_bar_for_rows_with_the_stage_and_the_count():
    def count_rows(stream):
        with Progress(stream.fileno()) as progress:
            progress.stage("tokenising")
            progress.rows(500, 2000)
            progress.warn("a note above the bar")
            progress.rows(2000, 2000)
            progress.stage("training")

    shown = on_a_terminal(count_rows)
    assert "tokenising" in shown
    assert "2000/2000" in shown
    assert "a note above the bar" in shown


DISPLAYS = {
    "a bar for rows": lambda progress: progress.rows(500, 2000),
    "a training": lambda progress: progress.begin(0, 2),
}


@pytest.mark.parametrize("begin", DISPLAYS.values(), ids=DISPLAYS)
def test_output_of_libraries_goes_past_a_display(begin, monkeypatch):
    noise = io.StringIO()  # as while `Noise` collects it

    def write(stream):
        monkeypatch.setattr(sys, "stdout", noise)
        monkeypatch.setattr(sys, "stderr", noise)
        with Progress(stream.fileno()) as progress:
            progress.stage("tokenising")
            begin(progress)
            for of_library in (sys.stdout, sys.stderr):
                print("Saving the dataset", file=of_library)

    assert "Saving" not in on_a_terminal(write)
    assert noise.getvalue() == "Saving the dataset\n" * 2


def test_a_training_shows_the_metrics_of_its_objective(tmp_path):
    rows = [
        {"step": 1, "loss": 0.5, "rewards/accuracies": 0.75, "rewards/margins": 0.25, "logps/chosen": -3.0},
        {"step": 1, "eval_loss": 0.6, "eval_rewards/accuracies": 0.5, "eval_logps/chosen": -4.0},
    ]

    def write(stream):
        with Progress(stream.fileno()) as progress:
            progress.shows({"rewards/accuracies": "pairs right", "rewards/margins": "margin"})
            progress.begin(0, 2)
            for row in rows:
                progress.logged(row)

    with (tmp_path / "lines").open("w") as stream:
        write(stream)
    first, second = (line.split() for line in (tmp_path / "lines").read_text().splitlines())
    assert first[2:5] == ["loss=0.5", "rewards/accuracies=0.75", "rewards/margins=0.25"]
    assert second[2:4] == ["eval_loss=0.6", "eval_rewards/accuracies=0.5"]
    shown = plain(on_a_terminal(write))
    assert [text in shown for text in ("pairs right 0.75", "eval 0.5", "margin 0.25", "logps")] == [True] * 3 + [False]


LONG = "one two three four five six seven eight nine ten " * 4


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_a_terminal_wraps_pairs_below_their_values_and_notes_below_their_texts(columns):
    def write(_):
        print_pairs([("name", LONG), ("longer name", "value")])
        note(LONG)

    got = on_a_terminal(write, columns=columns)
    lines = plain(got).splitlines()
    assert max(map(len, lines)) <= columns
    place = lines.index("longer name  value")
    assert lines[0].startswith("name         one two")
    assert all(line.startswith(" " * 13) for line in lines[1:place])
    assert lines[place + 1].startswith("note: one")
    assert all(line.startswith(" " * 6) for line in lines[place + 2 :])
    assert "\x1b[36mname\x1b[0m" in got


def test_a_pipe_gets_each_pair_and_each_note_on_one_line(capsys):
    print_pairs([("name", LONG)])
    note(LONG)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (f"name  {LONG}\n", f"note: {LONG}\n")
