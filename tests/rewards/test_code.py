"""`code`: the program in a completion, the tests of its row, and its score."""

import pytest

from lora_ns.errors import MissingError
from lora_ns.formats import RowFaultError
from lora_ns.objectives import OBJECTIVES
from lora_ns.rewards import Completion
from lora_ns.rewards.code import Code
from lora_ns.rewards.programs import code_in, program_of
from lora_ns.sandbox import walls
from lora_ns.sandbox.outcome import Verdict

TESTS = "assert twice(2) == 4"
CODES = {
    "all of it": ("def twice(x): ...", "def twice(x): ..."),
    "a block": ("Here:\n```python\ndef twice(x): ...\n```\nDone.", "def twice(x): ..."),
    "a block without a language": ("```\nx = 1\n```", "x = 1"),
    "a block without an end": ("```py\ndef twice(x):\n    return", "def twice(x):\n    return"),
    "an indented block": ("1. So:\n   ```python\n   def twice(x):\n       ...\n   ```", "def twice(x):\n    ..."),
    "a block of another language": ("```bash\npip install x\n```\n```python\nx = 1\n```", "x = 1"),
    "a usage after it": ("```python\ndef twice(x): ...\n```\n```python\nprint(twice(1))\n```", "def twice(x): ..."),
    "a draft before it": ("```python\ndef twice(x): 1\n```\n```python\ndef twice(x): 2\n```", "def twice(x): 2"),
    "reasoning before it": ("```python\ndef twice(x): 1\n```</think>\ndef twice(x): 2", "\ndef twice(x): 2"),
}


@pytest.mark.parametrize(("text", "code"), CODES.values(), ids=CODES)
def test_the_code_of_a_completion_is_found(text, code):
    assert code_in(text, TESTS) == code


BEGUN = 'def half(x): return x / 2\n\n\ndef twice(x):\n    """Twice x."""\n'
CHECK = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 6\n"
HUMAN_EVAL = {"prompt": BEGUN, "test": CHECK, "entry_point": "twice"}
MBPP = {
    "prompt": "Write a function to double a number.",
    "test_list": ["assert twice(2) == 4", "assert twice(math.pi) == math.tau"],
    "test_imports": ["import math"],
    "test_setup_code": "",
}


def test_a_begun_function_is_completed_up_to_its_end():
    program = program_of("    return 2 * x\n\nprint(twice(2))\n", HUMAN_EVAL)
    assert program.code == f"{BEGUN}    return 2 * x\n"
    assert program.tests == (f"{CHECK}\ncheck(twice)",)


FAULTS = {
    "no tests": ({"prompt": "x"}, None, "no tests"),
    "an empty list": ({"test_list": []}, None, "has no tests"),
    "an empty text": ({"test": " "}, None, "has no tests"),
    "no such column": ({"test": "x"}, "unit_tests", "no column `unit_tests`"),
    "numbers": ({"test_list": [1, 2]}, None, "no list of texts"),
    "no function to check": ({"test": CHECK}, None, "no `entry_point`"),
    "code as a function": ({"test": CHECK, "entry_point": "a(), b"}, None, "no name of a function"),
}


@pytest.mark.parametrize(("row", "column", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_row_without_tests_is_refused(row, column, reason):
    with pytest.raises(RowFaultError, match=reason):
        Code(column=column).check(Completion("", values=row))


@pytest.fixture
def _walls():
    try:
        walls.require()
    except MissingError as error:
        pytest.skip(str(error))


WHOLE = "```python\ndef twice(x):\n    return 2 * x\n```"
SCORES = {
    "the rest of a function": ("    return 2 * x\n", HUMAN_EVAL, {}, 1.0),
    "the whole function": (WHOLE, HUMAN_EVAL, {}, 1.0),
    "with the help of the prompt": ("def twice(x): return half(4 * x)", HUMAN_EVAL, {}, 1.0),
    "a wrong one": ("    return 4\n", HUMAN_EVAL, {}, 0.0),
    "nothing": ("", HUMAN_EVAL, {}, 0.0),
    "no function": ("I cannot do that.", HUMAN_EVAL, {}, 0.0),
    "statements": (WHOLE, MBPP, {}, 1.0),
    "one of two statements": ("def twice(x): return 4", MBPP, {}, 0.0),
    "a share of two statements": ("def twice(x): return 4", MBPP, {"partial": True}, 0.5),
    "what is set up from the program": (
        WHOLE,
        {"test_setup_code": "four = twice(2)", "test": "assert four == 4"},
        {},
        1.0,
    ),
    "another column": (WHOLE, {"unit_tests": "assert twice(1) == 2"}, {"column": "unit_tests"}, 1.0),
    "the end before the tests": ("import sys\nprint('ok')\nsys.exit(0)", MBPP, {"partial": True}, 0.0),
    "what equals everything": (
        "class A:\n    def __eq__(self, other): return True\ndef twice(x): return A()",
        MBPP,
        {},
        0.0,
    ),
}


@pytest.mark.usefixtures("_walls")
def test_a_program_gets_its_score():
    found = {name: Code(**keys).score(Completion(text, values=row)) for name, (text, row, keys, _) in SCORES.items()}
    assert found == {name: expected for name, (*_, expected) in SCORES.items()}


@pytest.mark.usefixtures("_walls")
def test_programs_of_a_batch_keep_their_order_and_have_verdicts():
    texts = ["def twice(x): return 4", WHOLE, "1 / 0", WHOLE]
    found = Code().outcomes([Completion(text, values=MBPP) for text in texts])
    passed, failed = Verdict.PASSED, Verdict.FAILED
    assert [outcome.verdict for outcome in found] == [failed, passed, Verdict.RAISED, passed]
    assert found[1] is found[3]
    assert "ZeroDivisionError" in str(found[2])


def test_without_a_wall_nothing_runs(monkeypatch):
    missing = walls.Wall("network", False, "unshare: Operation not permitted")
    monkeypatch.setattr(walls, "walls", lambda: (missing,))
    monkeypatch.setattr("lora_ns.sandbox.run.run_unchecked", None)
    with pytest.raises(MissingError, match="no wall for `network`"):
        Code().scorer(())
    with pytest.raises(MissingError, match="no wall for `network`"):
        Code().score(Completion(WHOLE, values=MBPP))


@pytest.mark.parametrize(
    ("rewards", "is_allowed", "keys"),
    [
        ([{"name": "code"}], False, ["grpo.rewards.0.name"]),
        ([{"name": "exact"}, {"python": "own.py:judge"}], False, ["grpo.rewards.1.python"]),
        ([{"name": "exact"}], True, ["grpo.allow_code"]),
        ([{"name": "code"}, {"python": "own.py:judge"}], True, []),
    ],
)
def test_code_runs_only_if_the_recipe_allows_it(rewards, is_allowed, keys):
    given = {"rewards": rewards} | ({"allow_code": True} if is_allowed else {})
    found = OBJECTIVES["grpo"].model_validate(given, strict=False).conflicts()
    assert [key for conflict in found for key in conflict.keys if "code" in conflict.what] == keys
