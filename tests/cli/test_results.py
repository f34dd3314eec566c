"""The last lines of a training: measurements, the adapter check, the commands that follow."""

import sys

import pytest

from lora_ns.cli.results import measurements, show_evaluation, show_training
from lora_ns.run.manifest import SealRecord
from lora_ns.services.after_training import JudgedTraining
from lora_ns.services.evaluate import EvaluateResult
from lora_ns.services.evaluate_suites import Answered
from lora_ns.services.verdicts import report
from lora_ns.suites import SUITES, Gold

RUN = "outputs/my run"


def result(seal: SealRecord | None) -> JudgedTraining:
    return JudgedTraining(RUN, f"{RUN}/adapter", 3, 1024, {"before/eval_loss": 2.5, "eval_loss": 1.5}, seal)


def test_a_measure_is_shown_with_an_arrow_only_if_it_was_taken_before_and_after():
    metrics = {"before/eval_loss": 2.5, "before/eval_f1": 0.25, "eval_f1": 0.5, "train_loss": 1.5}
    assert measurements(metrics) == [
        ("eval_loss", "2.5 before training, not measured after it"),
        ("eval_f1", "0.25 -> 0.5"),
        ("train_loss", "1.5"),
    ]


def test_training_and_evaluation_show_a_share_alike(capsys):
    metrics = {"loss": 1.25, "exact_match": 1.0, "exact_match/sum": 0.4275, "accuracy": 0.75}
    show_evaluation(EvaluateResult(8, metrics, baseline={"accuracy": 0.5}), as_json=False)
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines == {"rows": "8", **dict(measurements({**metrics, "baseline/accuracy": 0.5}))}
    assert lines["exact_match"] == "100.0%"
    assert lines["exact_match/sum"] == "42.8%"


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


def test_each_suite_has_a_line_with_its_verdict_and_shares_in_percent(capsys):
    pytest.importorskip("numpy")
    suite, golds = SUITES["number"](name="gsm8k"), [Gold(f"row {number}", "5") for number in range(20)]
    answered = Answered(suite, golds, {"after": ["5"] * 20, "before": ["5"] * 5 + ["6"] * 15})
    metrics = {"before/gsm8k.number": 0.25, "gsm8k.number": 1.0}
    reports = tuple(report([answered], [("after", "before")]))
    show_training(
        JudgedTraining(RUN, RUN, 3, 1, metrics, suites=reports, saved="e/1", notes=("a note",)), as_json=False
    )
    told = capsys.readouterr()
    lines = dict(line.split("  ", 1) for line in told.out.splitlines() if "  " in line.strip())
    assert lines["gsm8k.number"].strip() == "25.0% -> 100.0%"
    assert lines["verdict on gsm8k"].strip().startswith("better: 15 of 20 items won, 0 lost, p < 0.001")
    assert lines["figures and answers"].strip() == "e/1"
    assert "a note" in told.err
