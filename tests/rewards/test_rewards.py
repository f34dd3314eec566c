"""Reward functions: each a pure function of a completion and its row."""

import importlib.util
import json
import math
from pathlib import Path

import pytest

from lora_ns.errors import LoransError
from lora_ns.formats import RowFaultError
from lora_ns.rewards import REWARDS, Completion, RewardFaultError
from lora_ns.safety.deadline import OverrunError


def made(name, **keys):
    return REWARDS[name].model_validate_json(json.dumps({"name": name, **keys}))


SCORES = [
    ("exact", {}, " 42\n", "42", 1.0),
    ("exact", {}, "42.", "42", 0.0),
    ("exact", {}, "Paris", "paris", 0.0),
    ("exact", {"ignore_case": True}, "Paris", "paris", 1.0),
    ("number", {}, "so it is 72", "She sold 48/2 = 24. 48+24 = 72\n#### 72", 1.0),
    ("number", {}, "#### 1,200 apples, 7 pears", "1200", 1.0),
    ("number", {}, "$18.50.", "18.5", 1.0),
    ("number", {}, "7 then \\boxed{-3}, since 9", "-3", 1.0),
    ("number", {}, "no idea", "3", 0.0),
    ("number", {}, "3 or 4", "3", 0.0),
    ("number", {"tolerance": 0.01}, "3.14", "3.1416", 1.0),
    ("number", {}, "3.14", "3.1416", 0.0),
    ("regex", {"pattern": r"answer: \d+"}, "the answer: 12!", None, 1.0),
    ("regex", {"pattern": r"answer: \d+", "full_match": True}, "the answer: 12!", None, 0.0),
    ("regex", {"pattern": "a.b", "full_match": True}, "a\nb", None, 1.0),
    ("format", {}, "<think>2 + 2</think>\n<answer>4</answer>", None, 1.0),
    ("format", {}, "<think>2 + 2</think> so <answer>4</answer>", None, 0.0),
    ("format", {}, "<answer>4</answer><think>2 + 2</think>", None, 0.0),
    ("format", {}, "<think>a</think><answer>b</answer><answer>c</answer>", None, 0.0),
    ("format", {}, "<think> </think><answer>4</answer>", None, 0.0),
    ("format", {}, "<think>a<answer>4</answer></think>", None, 0.0),
    ("format", {"opens_in_prompt": True}, "2 + 2</think><answer>4</answer>", None, 1.0),
    ("format", {"tags": ["a"]}, "<a>x</a>", None, 1.0),
    ("length", {"max_tokens": 3}, "abc", None, 1.0),
    ("length", {"max_tokens": 2}, "abc", None, 0.0),
    ("length", {"max_tokens": 2, "slack": 1}, "abc", None, 0.5),
    ("length", {"min_tokens": 5, "slack": 3}, "abc", None, 0.5),
    ("repetition", {"ngram_size": 1}, "a b a b", None, 0.5),
    ("repetition", {}, "one two", None, 1.0),
    ("contains", {}, "it is Paris.", "Paris", 1.0),
    ("contains", {"texts": ["a", "z"]}, "abc", None, 0.5),
    ("contains", {"texts": ["A"], "ignore_case": True}, "abc", None, 1.0),
]


@pytest.mark.parametrize(("name", "keys", "text", "answer", "expected"), SCORES)
def test_a_completion_gets_its_score(name, keys, text, answer, expected):
    given = Completion(text, answer, ids=range(len(text)))
    assert made(name, **keys).score(given) == pytest.approx(expected)


JSON = [
    ({}, '{"a": 1}', 1.0),
    ({}, "{a: 1}", 0.0),
    ({}, '{"a": NaN}', 0.0),
    ({"json_schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', 1.0),
    ({"json_schema": {"type": "object", "required": ["a"]}, "valid_json": 0.2}, '{"b": 1}', 0.2),
    ({"json_schema": {"type": "array"}}, "[" * 5000, 0.0),
]


@pytest.mark.parametrize(("keys", "text", "expected"), JSON)
def test_json_is_compared_with_the_schema(keys, text, expected):
    pytest.importorskip("jsonschema")
    assert made("json-schema", **keys).score(Completion(text)) == expected


FORMULAS = [("\\frac{1}{2}", "0.5", 1.0), ("$x^2 + 2x + 1$", "$(x+1)^2$", 1.0), ("$3$", "$4$", 0.0), ("none", "4", 0.0)]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize(("text", "answer", "expected"), FORMULAS)
def test_formulas_are_equal_if_their_values_are(text, answer, expected):
    pytest.importorskip("math_verify")
    wrapped = text if text.startswith("$") else f"${text}$" if text.startswith("\\") else text
    assert made("math").score(Completion(wrapped, answer)) == expected


@pytest.mark.parametrize("name", ["exact", "number", "math", "contains"])
def test_a_row_without_the_expected_text_is_refused(name):
    with pytest.raises(RowFaultError, match="no reference answer"):
        made(name).check(Completion(""))
    with pytest.raises(RowFaultError, match="no column `gold`"):
        made(name, column="gold").check(Completion("", "1"))
    with pytest.raises(RowFaultError, match="empty"):
        made(name, column="gold").check(Completion("", None, {"gold": " "}))
    made(name, column="gold").check(Completion("", None, {"gold": "3"}))


def test_an_expected_text_without_a_number_is_refused():
    with pytest.raises(RowFaultError, match="no number"):
        made("number").check(Completion("", "many"))


def test_a_search_that_does_not_end_is_stopped():
    with pytest.raises(OverrunError):
        made("regex", pattern="(a+)+$").score(Completion("a" * 64 + "b"))


REFUSED = [
    ("regex", {"pattern": "("}, "regular expression"),
    ("length", {}, "no bounds"),
    ("length", {"min_tokens": 4, "max_tokens": 2}, "no length"),
    ("contains", {"texts": ["a"], "column": "b"}, "replaces"),
    ("json-schema", {"json_schema": {"type": "objekt"}}, "no type"),
    ("python", {"python": "rewards"}, "rewards"),
]


@pytest.mark.parametrize(("name", "keys", "reason"), REFUSED)
def test_settings_that_cannot_work_are_refused(name, keys, reason):
    found = list(made(name, **keys).conflicts("grpo.rewards.0"))
    assert [reason in conflict.what for conflict in found] == [True]
    assert all(key.startswith("grpo.rewards.0") for conflict in found for key in conflict.keys)


OWN = """\
def shortest(prompts, completions, completion_ids, gold, **columns):
    return [1 / len(completion) if word else None for completion, word in zip(completions, gold)]


def turns(prompts, completions, **columns):
    asked = [prompt[-1]["content"] for prompt in prompts]
    return [float(text in completion[0]["content"]) for text, completion in zip(asked, completions)]


def fails(**columns):
    return 1 / 0
"""


def own(tmp_path: Path, name: str):
    (tmp_path / "own.py").write_text(OWN)
    return made("python", python=f"own.py:{name}").scorer([tmp_path / "nowhere", tmp_path])


def test_a_function_of_a_file_gets_the_columns_of_the_rows(tmp_path):
    batch = [Completion("ab", None, {"gold": "x"}), Completion("ab", None, {"gold": ""})]
    assert list(own(tmp_path, "shortest")(batch)) == [0.5, None]
    asked = [Completion("so hi", turns=[{"role": "user", "content": "hi"}])]
    assert list(own(tmp_path, "turns")(asked)) == [1.0]


def test_a_fault_of_a_function_names_its_line(tmp_path):
    with pytest.raises(RewardFaultError) as caught:
        own(tmp_path, "fails")([Completion("")])
    assert caught.value.problem.where == f"{tmp_path / 'own.py'}:11"
    assert "ZeroDivisionError" in caught.value.problem.what


@pytest.mark.parametrize(("value", "message"), [("own.py:longest", "no function"), ("other.py:x", "no such file")])
def test_a_function_that_is_missing_is_reported(tmp_path, value, message):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(LoransError, match=message):
        made("python", python=value).scorer([tmp_path])


def test_a_file_that_cannot_be_run_is_reported_with_its_line(tmp_path):
    (tmp_path / "own.py").write_text("x = 1\nraise ValueError('no key')\n")
    with pytest.raises(LoransError, match="no key") as caught:
        made("python", python="own.py:x").scorer([tmp_path])
    assert caught.value.problems[0].where.endswith("own.py:2")


def test_every_function_has_a_weight_and_a_name_of_its_own():
    assert all(kind.model_fields["weight"].default == 1 for kind in REWARDS.values())
    assert set(REWARDS) == {kind.model_fields["name"].default for kind in REWARDS.values()}
    needed = [kind.package for kind in REWARDS.values() if kind.package]
    assert all(importlib.util.find_spec(name) or math.inf for name in needed)
