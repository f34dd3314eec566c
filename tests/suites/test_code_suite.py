"""`code`: pass@1 of programs, each run once, and only where it is allowed."""

import itertools

import pytest

from lora_ns.data.rows import Row
from lora_ns.data.suite_rows import prompt_of
from lora_ns.errors import MissingError, UsageError
from lora_ns.formats import FORMATS, Columns, RowFaultError
from lora_ns.sandbox import walls
from lora_ns.sandbox.outcome import Outcome, Verdict
from lora_ns.suites import Gold
from lora_ns.suites.code import CodeSuite, pass_at

ROW = {"test_list": ["assert twice(2) == 4"]}
ANSWERS = ["def twice(x): return 2 * x", "def twice(x): return x", "raise SystemExit(0)"]


def test_the_share_of_programs_that_pass_is_measured_and_none_runs_twice(monkeypatch):
    pytest.importorskip("scipy")
    try:
        walls.require()
    except MissingError as error:
        pytest.skip(str(error))
    suite, golds = CodeSuite(allow_code=True), [Gold("", None, ROW)] * len(ANSWERS)
    assert suite.measure(golds, ANSWERS)["pass@1"].scores.tolist() == [1, 0, 0]
    monkeypatch.setattr("lora_ns.sandbox.run.run_unchecked", None)
    assert suite.measure(golds[:2], ANSWERS[:2])["pass@1"].scores.tolist() == [1, 0]
    assert "SystemExit" in str(suite.outcomes(golds, ANSWERS)[2])


@pytest.mark.parametrize(("n", "c", "k"), [(1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (5, 3, 3), (6, 1, 6), (6, 0, 2)])
def test_pass_at_k_is_the_share_of_all_choices_of_k_answers_in_which_one_passes(n, c, k):
    chosen = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at(k, n, c) == pytest.approx(sum(map(any, chosen)) / len(chosen), abs=1e-12)


def test_several_answers_are_one_item_and_a_program_counts_for_each():
    pytest.importorskip("scipy")
    suite = CodeSuite(allow_code=True, num_samples=4, k=(1, 2))
    verdicts = {"right": Verdict.PASSED, "wrong": Verdict.FAILED}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CodeSuite, "outcomes", lambda _, __, texts: [Outcome(verdicts[text], "") for text in texts])
        found = suite.measure([Gold("", None, ROW)] * 2, [["right", *["wrong"] * 3], ["wrong"] * 4])
    assert {name: measure.scores.tolist() for name, measure in found.items()} == {
        "pass@1": [0.25, 0],
        "pass@2": [0.5, 0],
    }
    assert suite.decoding["do_sample"]
    assert suite.shown(Gold("", None), ["right", "wrong"]) == "right"


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"k": (1, 8)}, "k"),
        ({"k": ()}, "k"),
        ({"temperature": 0.2}, "temperature"),
        ({"num_samples": 4, "k": (5,)}, "k"),
    ],
)
def test_settings_that_have_no_effect_or_too_few_answers_are_conflicts(keys, key):
    (conflict,) = CodeSuite(allow_code=True, **keys).conflicts("evaluation.suites.0")
    assert conflict.keys == (f"evaluation.suites.0.{key}",)


def test_code_is_not_run_without_consent():
    with pytest.raises(UsageError, match="allow_code = true"):
        CodeSuite().check(Gold("", None, ROW))
    assert [conflict.keys for conflict in CodeSuite().conflicts("evaluation.suites.0")] == [
        ("evaluation.suites.0.kind",)
    ]
    assert not list(CodeSuite(allow_code=True).conflicts("evaluation.suites.0"))


def test_without_a_wall_or_tests_a_row_is_refused_before_it_is_asked(monkeypatch):
    monkeypatch.setattr(walls, "walls", lambda: ())
    with pytest.raises(RowFaultError, match="no tests"):
        CodeSuite(allow_code=True).check(Gold("", None, {"test": ""}))
    monkeypatch.setattr(walls, "walls", lambda: (walls.Wall("network", False, "refused"),))
    with pytest.raises(MissingError, match="no wall for `network`"):
        CodeSuite(allow_code=True).check(Gold("", None, ROW))


HUMANEVAL = {"prompt": "def twice(x):\n", "entry_point": "twice", "test": "def check(f):\n    assert f(2) == 4"}
MBPP = {"text": "Write twice.", "test_list": ["assert twice(2) == 4", "assert twice(0) == 0"]}
CHAT = FORMATS["messages"](Columns(prompt_template="{question}", completion_template="{answer}"))


@pytest.mark.parametrize(
    ("values", "keys", "asked"),
    [
        (HUMANEVAL, {}, "def twice(x):"),
        (MBPP, {}, "Write twice.\nThe code has to pass these tests:\n\nassert twice(2) == 4\nassert twice(0) == 0"),
        ({**MBPP, "question": "Twice?"}, {}, "Twice?"),
        ({**MBPP, "question": "Twice?"}, {"question": "text"}, "Write twice."),
    ],
    ids=["humaneval", "mbpp", "in the format", "column"],
)
def test_rows_of_humaneval_and_mbpp_are_asked_by_any_run(values, keys, asked):
    prompt = prompt_of(CHAT, CodeSuite(allow_code=True, **keys), Row("rows.jsonl:1", values))
    assert prompt.messages[-1].content.strip() == asked


def test_rows_without_any_question_are_told():
    with pytest.raises(RowFaultError, match="question"):
        prompt_of(CHAT, CodeSuite(allow_code=True), Row("rows.jsonl:1", ROW))
