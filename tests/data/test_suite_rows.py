"""The rows of suites before training: every fault is found, with the suite and the rows."""

import pytest
from minimal_recipe import MINIMAL

pytest.importorskip("numpy")

from lora_ns.data.columns import measured_columns
from lora_ns.data.files.paths import missing_files
from lora_ns.data.rows import Row
from lora_ns.data.sources import origins
from lora_ns.data.suite_rows import check_suites, suite_findings
from lora_ns.errors import DataError, MissingError
from lora_ns.formats import FORMATS, Columns
from lora_ns.machine import packages
from lora_ns.recipe.load import load_recipe

FORM = FORMATS["prompt-completion"](Columns())
USUAL = [Row(f"eval.jsonl:{number}", {"prompt": "a", "completion": "it is 3", "page": "p"}) for number in (1, 2, 3)]
FILES = {
    "good.jsonl": '{"prompt": "1 + 1", "completion": "2"}\n{"prompt": "1 + 2", "completion": "3"}\n',
    "words.jsonl": '{"prompt": "a", "completion": "2"}\n{"prompt": "a", "completion": "two"}\n'
    '{"prompt": "a", "completion": "three"}\n',
    "half.jsonl": '{"prompt": "a", "completion": "2"}\n{"prompt": "a"}\n{"completion": "2"}\n',
    "broken.jsonl": '{"prompt": "a", "completion": "2"}\n{"prompt"\n',
    "empty.jsonl": "",
    "rows.txt2": "a",
    "choices.jsonl": '{"question": "a", "choices": ["b", "c"], "answer": 1}\n'
    '{"question": "a", "choices": ["b", "c"], "answer": "D"}\n{"choices": ["b", "c"], "answer": 1}\n',
}


@pytest.fixture
def loaded(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "train.jsonl").write_text(FILES["good.jsonl"])

    def load(suite):
        (tmp_path / "recipe.toml").write_text(MINIMAL)
        return load_recipe(tmp_path / "recipe.toml", ["dataset.eval_path=good.jsonl", f"evaluation.suites=[{suite}]"])

    return load


NUMBER = 'kind = "number", '
CASES = {
    "no fault": (NUMBER + 'path = "good.jsonl"', {}),
    "no fault among the evaluation rows": (NUMBER + 'cluster_by = "page"', {}),
    "no fault with a judge, who is not asked": (
        'kind = "judge", endpoint = "http://127.0.0.1:1/v1/chat/completions", model = "a", path = "good.jsonl"',
        {},
    ),
    "no fault before the limit": (NUMBER + 'path = "words.jsonl", max_samples = 1', {}),
    "a missing file": (NUMBER + 'path = "none.jsonl"', {"SUITE001": []}),
    "a file of no known kind": (NUMBER + 'path = "rows.txt2"', {"SUITE001": ["rows.txt2"]}),
    "an empty file": (NUMBER + 'path = "empty.jsonl"', {"SUITE001": ["empty.jsonl"]}),
    "a broken row": (NUMBER + 'path = "broken.jsonl"', {"SUITE001": ["broken.jsonl:2"]}),
    "answers without a number": (NUMBER + 'path = "words.jsonl"', {"SUITE002": ["words.jsonl:2", "words.jsonl:3"]}),
    "rows that the format cannot read": (
        NUMBER + 'path = "half.jsonl"',
        {"SUITE002": ["half.jsonl:2", "half.jsonl:3"]},
    ),
    "losses of rows without an answer": (
        'kind = "held-out", path = "half.jsonl"',
        {"SUITE002": ["half.jsonl:2", "half.jsonl:3"]},
    ),
    "no such column to group by": (
        NUMBER + 'path = "good.jsonl", group_by = "topic"',
        {"SUITE002": ["good.jsonl:1", "good.jsonl:2"]},
    ),
    "no such column of clusters": (NUMBER + 'cluster_by = "book"', {"SUITE002": [row.where for row in USUAL]}),
    "no such column of answers": (NUMBER + 'column = "gold"', {"SUITE002": [row.where for row in USUAL]}),
    "a label outside the choices, and a row without a question": (
        'kind = "choice", path = "choices.jsonl"',
        {"SUITE002": ["choices.jsonl:2", "choices.jsonl:3"]},
    ),
    "answers without a tool call": ('kind = "tool-calls"', {"SUITE002": [row.where for row in USUAL]}),
    "no fault in texts": ('kind = "rouge"', {}),
    "a pattern that finds nothing": (
        'kind = "exact-match", answer_pattern = "#### (.+)"',
        {"SUITE002": [row.where for row in USUAL]},
    ),
    "a pattern that no reference answer has": (
        'kind = "regex", pattern = "stone"',
        {"SUITE003": [row.where for row in USUAL]},
    ),
}


def found(loaded, usual=USUAL):
    return list(suite_findings(loaded.recipe, loaded.folder, FORM, usual))


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_found_with_its_suite_and_rows(loaded, tmp_path, case):
    suite, expected = CASES[case]
    recipe = loaded(f"{{{suite}}}")
    by_code = {}
    for finding in found(recipe):
        assert finding.what.startswith("evaluation.suites.0: ")
        assert finding.remedy
        assert finding.error
        by_code.setdefault(finding.code, []).extend(row.removeprefix(f"{tmp_path}/") for row in finding.rows if row)
    assert by_code == expected


@pytest.mark.parametrize("case", CASES)
def test_a_training_refuses_what_is_found(loaded, case):
    suite, expected = CASES[case]
    recipe = loaded(f"{{{suite}}}")
    if not expected:
        check_suites(recipe.recipe, recipe.folder, FORM, USUAL)
        return
    with pytest.raises(DataError) as caught:
        check_suites(recipe.recipe, recipe.folder, FORM, USUAL)
    assert {problem.code for problem in caught.value.problems} == set(expected)


def test_a_few_reference_answers_that_count_as_wrong_are_a_warning(loaded):
    rows = [*USUAL, Row("eval.jsonl:4", {"prompt": "a", "completion": "4"})]
    recipe = loaded('{kind = "regex", pattern = "it is"}')
    (finding,) = found(recipe, rows)
    assert (finding.code, finding.rows, finding.error) == ("SUITE003", ("eval.jsonl:4",), False)
    check_suites(recipe.recipe, recipe.folder, FORM, rows)


def test_all_suites_are_checked(loaded):
    recipe = loaded('{kind = "number", path = "empty.jsonl"}, {kind = "regex", pattern = "stone"}')
    assert [finding.what.partition(":")[0] for finding in found(recipe)] == [
        "evaluation.suites.0",
        "evaluation.suites.1",
    ]


def test_a_missing_file_is_found_without_reading_rows_and_at_its_key(loaded):
    recipe = loaded('{kind = "number", path = "good.jsonl"}, {kind = "held-out", path = "none.jsonl"}')
    (problem,) = missing_files(recipe.recipe, recipe.folder)
    assert (problem.key, problem.what) == ("evaluation.suites.1.path", "no file `none.jsonl`")


def test_another_content_of_a_suite_is_another_origin(loaded, tmp_path):
    recipe = loaded('{kind = "number", path = "words.jsonl"}')
    before = origins(recipe.recipe, recipe.folder)
    (tmp_path / "words.jsonl").write_text(FILES["good.jsonl"])
    assert origins(recipe.recipe, recipe.folder) != before


def test_columns_that_suites_read_are_not_unread(loaded):
    recipe = loaded(
        '{kind = "number", group_by = "g", column = "c"}, {kind = "held-out", path = "x", cluster_by = "d"}'
    )
    assert measured_columns(recipe.recipe, is_evaluation=True) == {"g", "c"}
    assert measured_columns(recipe.recipe, is_evaluation=False) == {"g"}


def test_a_package_that_a_suite_needs_is_named_with_its_extra(loaded, monkeypatch):
    recipe = loaded('{kind = "math"}')
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingError) as caught:
        packages.check_packages(recipe.recipe)
    problem = next(one for one in caught.value.problems if one.key.startswith("evaluation"))
    assert problem.key == "evaluation.suites.0.kind"
    assert (problem.what, problem.remedy) == ("`math_verify` is not installed", "`pip install 'lora-ns[rewards]'`")
