"""The last lines of a training: measurements, the adapter check, the commands that follow."""

import sys

import pytest

from lora_ns.cli.results import measurements, show_training
from lora_ns.run.manifest import SealRecord
from lora_ns.training.fit import TrainResult

RUN = "outputs/my run"


def result(seal: SealRecord | None) -> TrainResult:
    return TrainResult(RUN, f"{RUN}/adapter", 3, 1024, {"before/eval_loss": 2.5, "eval_loss": 1.5}, seal)


def test_a_measure_is_shown_with_an_arrow_only_if_it_was_taken_before_and_after():
    metrics = {"before/eval_loss": 2.5, "before/eval_f1": 0.25, "eval_f1": 0.5, "train_loss": 1.5}
    assert measurements(metrics) == [
        ("eval_loss", "2.5 before training, not measured after it"),
        ("eval_f1", "0.25 -> 0.5"),
        ("train_loss", "1.5"),
    ]


@pytest.mark.parametrize(
    ("seal", "shown"),
    [
        (None, None),
        (SealRecord(rows=4, largest_difference=0), "passed (reloaded logits match on 4 rows)"),
        (
            SealRecord(rows=4, largest_difference=1.5e-6, adapter_effect=0.9),
            "passed (reloaded logits match on 4 rows within 1.5e-06; "
            "the adapter changes the base's logits by 0.9 of the largest)",
        ),
    ],
)
def test_the_adapter_check_and_the_next_commands_are_shown(capsys, seal, shown):
    show_training(result(seal), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[2].strip() for line in lines if line.startswith("adapter check")] == (
        [shown] if shown else []
    )
    assert lines[-3:] == [
        "next:",
        "  lorans infer 'outputs/my run' --input \"...\"",
        "  lorans merge 'outputs/my run' --output merged",
    ]


def test_a_terminal_gets_a_panel_that_fits_it(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_training(result(SealRecord(rows=4, largest_difference=0, adapter_effect=0.9)), as_json=False)
    out = capsys.readouterr().out
    assert "trained" in out.splitlines()[0]
    assert max(map(len, out.splitlines())) <= 80
    assert "2.5 -> 1.5" in out
