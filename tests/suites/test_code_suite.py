"""`code`: pass@1 of programs, each run once, and only where it is allowed."""

import pytest

from lora_ns.errors import MissingError, UsageError
from lora_ns.formats import RowFaultError
from lora_ns.sandbox import walls
from lora_ns.suites import Gold
from lora_ns.suites.code import CodeSuite

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
