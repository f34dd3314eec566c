"""Verdicts, answers side by side and gates, on a terminal as in a pipe."""

import sys

import pytest

from lora_ns.cli.verdicts import show_differences, show_gates, show_suites
from lora_ns.services.gates import Gate
from lora_ns.services.verdicts import Contest, Differing, Figure, Figures, SuiteReport

REASON = "better: 99 of 200 items won, 1 lost, p < 0.001 (Holm, 2 comparisons)"
CONTEST = Contest(
    "exact_match", "adapter", "base", 0.5, 0.4, 0.6, 1e-9, "exact McNemar", 99, 100, 1, 0.1, "better", REASON
)
FIGURES = Figures(
    200,
    {
        "exact_match": {"adapter": Figure(0.99, 0.964, 0.997), "base": Figure(0.5, 0.431, 0.569)},
        "loss": {"adapter": Figure(0.015, 0.006, 0.067), "base": Figure(4.926, 4.231, 5.593)},
    },
    (CONTEST,),
)
REPORT = SuiteReport("exact-match", "exact-match", FIGURES, {"old\x07": FIGURES}, ("loss",), ("exact_match",))
ITEMS = [
    Differing(
        "exact-match", "evaluation row 66", "Take 2\x1b[31m from 3.", "1", {"base": "1", "adapter": "11"}, "lost"
    ),
    Differing("exact-match", "evaluation row 2", None, None, {"base": "l-i-b", "adapter": "ulb " * 40}, "other"),
]
GATES = [Gate("exact_match", passed=True, told="exact_match is 0.99"), Gate("loss", passed=False, told="loss is 2")]


@pytest.fixture(params=["pipe", "terminal", "terminal without colours"])
def shown(request, monkeypatch, capsys):
    if request.param != "pipe":
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "dumb" if "without" in request.param else "xterm")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_suites([REPORT], "outputs/run/evaluations/1")
    show_differences(ITEMS)
    show_gates(GATES, as_json=False)
    return capsys.readouterr().out


def plain(text):
    """The text without the colours that lorans itself writes."""
    for code in ("0", "1", "3", "31", "32", "33", "36"):
        text = text.replace(f"\x1b[{code}m", "")
    return text


def test_figures_have_intervals_and_contests_a_sentence(shown):
    assert "99.0 % (96.4 to 99.7)" in shown
    assert "4.926 (4.231 to 5.593)" in shown
    assert f"adapter against base: {REASON}" in plain(shown)
    assert "figures and answers: outputs/run/evaluations/1" in shown


def test_foreign_text_steers_no_terminal(shown):
    rest = plain(shown)
    assert "\x1b" not in rest
    assert "\x07" not in rest
    assert "Take 2\\x1b[31m from 3." in rest


def test_answers_stand_side_by_side(shown):
    text = plain(shown)
    assert "exact-match, evaluation row 66, lost\n  question: Take 2" in text
    assert text.index("  base: 1\n") < text.index("  adapter: 11\n")


def test_gates_are_named_with_their_outcome(shown):
    assert "passed: exact_match is 0.99\nfailed: loss is 2\n" in plain(shown)


def test_json_keeps_standard_output_to_itself(capsys):
    show_gates(GATES, as_json=True)
    out, err = capsys.readouterr()
    assert (out, "failed: loss is 2" in err, "passed" in err) == ("", True, False)
