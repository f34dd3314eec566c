"""Suites: what each kind refuses of a row before a model is asked, and that a reference answer counts as right."""

import json
from pathlib import Path

import pytest

from lora_ns.errors import DataError
from lora_ns.files.reading import tomllib
from lora_ns.formats import RowFaultError
from lora_ns.suites import SUITES, Gold


def made(kind, **keys):
    return SUITES[kind].model_validate_json(json.dumps({"kind": kind, **keys}))


FRUIT = {"question": "Which is a fruit?", "choices": ["stone", "plum"], "answer": 1}
REFUSED = [
    ("exact-match", {}, Gold("a:1", None), "no reference answer"),
    ("exact-match", {}, Gold("a:1", " "), "no reference answer"),
    ("exact-match", {"column": "gold"}, Gold("a:1", "1"), "no column `gold`"),
    ("exact-match", {"answer_pattern": "#### (.+)"}, Gold("a:1", "72"), "finds nothing"),
    ("number", {}, Gold("a:1", None), "no reference answer"),
    ("number", {}, Gold("a:1", "many"), "no number"),
    ("number", {"column": "gold"}, Gold("a:1", "3", {"gold": "many"}), "no number"),
    ("number", {"column": "gold"}, Gold("a:1", "3"), "no column `gold`"),
    ("math", {}, Gold("a:1", None), "no reference answer"),
    ("math", {"column": "gold"}, Gold("a:1", None, {"gold": " "}), "empty"),
    ("contains", {}, Gold("a:1", None), "no reference answer"),
    ("contains", {"column": "gold"}, Gold("a:1", "a"), "no column `gold`"),
    ("choice", {}, Gold("a:1", None, {**FRUIT, "answer": 2}), "none of the choices"),
    ("choice", {}, Gold("a:1", None, {"question": "a"}), "no column `choices`"),
    ("choice", {"choices": "endings"}, Gold("a:1", None, FRUIT), "no column `endings`"),
    ("tool-calls", {}, Gold("a:1", "plum"), "calls no tool"),
    ("rouge", {}, Gold("a:1", None), "no reference answer"),
    ("bleu", {"column": "gold"}, Gold("a:1", "a"), "`gold`"),
    ("chrf", {}, Gold("a:1", " "), "no reference answer"),
]


@pytest.mark.parametrize(("kind", "keys", "gold", "reason"), REFUSED)
def test_a_row_that_no_answer_could_satisfy_is_refused(kind, keys, gold, reason):
    pytest.importorskip(SUITES[kind].package or "json")
    with pytest.raises(RowFaultError, match=reason):
        made(kind, **keys).check(gold)


FIT = [
    ("held-out", {}, Gold("a:1", None)),
    ("exact-match", {}, Gold("a:1", "72")),
    ("exact-match", {"answer_pattern": "#### (.+)"}, Gold("a:1", "48 + 24\n#### 72")),
    ("exact-match", {"column": "gold"}, Gold("a:1", None, {"gold": 72})),
    ("number", {}, Gold("a:1", "48 + 24\n#### 72")),
    ("math", {}, Gold("a:1", "$x^2$")),
    ("contains", {}, Gold("a:1", "Paris")),
    ("contains", {"texts": ["a"]}, Gold("a:1", None)),
    ("regex", {"pattern": "a"}, Gold("a:1", None)),
    ("json-schema", {}, Gold("a:1", None)),
    ("choice", {}, Gold("a:1", None, FRUIT)),
    ("tool-calls", {"on_no_call": "expect-none"}, Gold("a:1", "plum")),
    ("rouge", {}, Gold("a:1", "plum")),
    ("bleu", {}, Gold("a:1", "plum")),
    ("chrf", {}, Gold("a:1", "plum")),
]


@pytest.mark.parametrize(("kind", "keys", "gold"), FIT)
def test_a_row_with_what_its_answer_is_measured_by_is_taken(kind, keys, gold):
    pytest.importorskip(SUITES[kind].package or "json")
    made(kind, **keys).check(gold)


CONFLICTS = [
    ("exact-match", {"answer_pattern": "("}, "regular expression"),
    ("regex", {"pattern": "("}, "regular expression"),
    ("contains", {"texts": ["a"], "column": "b"}, "replaces"),
    ("json-schema", {"json_schema": {"type": "objekt"}}, "no type"),
]


@pytest.mark.parametrize(("kind", "keys", "reason"), CONFLICTS)
def test_settings_that_cannot_work_are_at_keys_of_the_suite(kind, keys, reason):
    (conflict,) = made(kind, **keys).conflicts("evaluation.suites.0")
    assert reason in conflict.what
    assert all(key.removeprefix("evaluation.suites.0.") in SUITES[kind].model_fields for key in conflict.keys)


RIGHT = [
    ("exact-match", {}, "72"),
    ("number", {}, "it is 72"),
    ("contains", {}, "Paris"),
    ("math", {}, "$\\frac{1}{2}$"),
]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize(("kind", "keys", "answer"), RIGHT, ids=[kind for kind, _, _ in RIGHT])
def test_the_reference_answer_is_right_and_an_empty_one_is_wrong(kind, keys, answer):
    pytest.importorskip("numpy")
    suite = made(kind, **keys)
    if suite.package:
        pytest.importorskip(suite.package)
    measure = next(iter(suite.measure([Gold("a:1", answer), Gold("a:2", answer)], [answer, ""]).values()))
    assert list(measure.scores) == [1, 0]


def test_a_pattern_that_does_not_end_names_the_row():
    pytest.importorskip("numpy")
    suite = made("regex", pattern="(a+)+$", name="ends")
    with pytest.raises(DataError, match=r"a:2: the suite `ends` .* on the answer generated for it"):
        suite.measure([Gold("a:1", None), Gold("a:2", None)], ["a", "a" * 64 + "b"])


PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.mark.parametrize("kind", [kind for kind, suite in SUITES.items() if suite.package])
def test_the_extra_of_a_kind_brings_its_package(kind):
    suite = SUITES[kind]
    brought = PROJECT["optional-dependencies"][suite.extra]
    assert any(one.startswith(suite.package.replace("_", "-")) for one in brought)


def test_a_suite_is_called_by_its_name_or_its_kind():
    assert (made("number").title, made("number", name="gsm8k").title) == ("number", "gsm8k")
