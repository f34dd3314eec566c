"""Runs of labels get verdicts: against the constant answer, their checkpoints and other runs, on the same rows."""

import json
import shutil
from pathlib import Path
from xml.etree.ElementTree import parse

import pytest

pytest.importorskip("torch")

from services_recipes import class_rows
from typer.testing import CliRunner

from lora_ns.answers.opened import open_run
from lora_ns.cli.app import app
from lora_ns.errors import UsageError
from lora_ns.services.evaluate_systems import others_beside


def lorans(*arguments, code=0):
    done = CliRunner().invoke(app, [str(one) for one in ("eval", *arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Held-out rows, one of which has a label that no model would find."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    found = [*class_rows() * 3, {"text": "plum", "label": "loud"}]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in found))
    return file


@pytest.fixture(scope="module")
def other(classifier_run, tmp_path_factory):
    """Another run, with the weights of the first one."""
    folder = tmp_path_factory.mktemp("others") / "constant"
    return Path(shutil.copytree(classifier_run.path, folder))


@pytest.fixture(scope="module")
def compared(classifier_run, other, rows):
    return json.loads(lorans(classifier_run.path, other, "--checkpoints", "--data", rows, "--json", "--show", 9).stdout)


def test_a_run_is_better_than_the_best_constant_and_equal_to_its_copies(compared, classifier_run, other):
    (report,) = compared["suites"]
    assert (report["name"], next(iter(report["whole"]["figures"]))) == ("classes", "f1")
    rivals = {
        f"{other.parent.name}/constant",
        "checkpoint-30",
    }  # a run called `constant` is not taken for the constant answer
    contests = {(one["system"], one["against"]): one for one in report["whole"]["contests"] if one["figure"] == "f1"}
    assert contests.keys() == {
        *((name, "constant") for name in {"adapter", *rivals}),
        *((name, "adapter") for name in rivals),
    }
    assert contests["adapter", "constant"]["verdict"] == "better"
    assert all(contests[name, "adapter"]["difference"] == 0 for name in rivals)
    figures = report["whole"]["figures"]
    for name, value in compared["metrics"].items():
        assert figures[name]["adapter"]["value"] == pytest.approx(value)
    for name, value in compared["baseline"].items():
        assert figures[name]["constant"]["value"] == pytest.approx(value)
    assert "constant" not in figures["matthews_correlation"]
    assert figures.keys() >= {"f1/loud", "f1/quiet"}


def test_each_row_is_kept_with_its_labels(compared):
    items = [json.loads(line) for line in (Path(compared["saved"]) / "items.jsonl").read_text().splitlines()]
    assert len(items) == compared["rows"] == 49
    assert (items[-1]["question"], items[-1]["expected"]) == ("plum", "loud")
    assert items[-1]["answers"]["adapter"] in {"loud", "quiet"}
    assert compared["differences"] == []  # they are those to the first other run, which has the same weights


def test_gates_judge_labels(classifier_run, rows, tmp_path):
    file = tmp_path / "eval.xml"
    asked = (
        "--fail-under",
        "f1=0.6",
        "--fail-under",
        "classes.f1/quiet=0.5",
        "--fail-if-worse",
        "--junit",
        file,
        "--show",
        "2",
    )
    told = lorans(classifier_run.path, "--data", rows, *asked).stdout
    assert "adapter against constant: better: " in told
    assert "passed: classes.f1: not worse" in told
    assert told.count("  constant: quiet\n  adapter: loud\n") == 2
    assert [case.attrib["name"] for case in parse(file).iter("testcase")] == [
        "f1",
        "classes.f1/quiet",
        "classes.f1 not worse",
    ]
    assert (
        "failed: accuracy is"
        in lorans(classifier_run.path, "--data", rows, "--fail-under", "accuracy=1", code=1).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--model", "lorans:nano"), "--model: a run of `[classification]` is compared with other runs"),
        (("--suite", "rouge"), "--suite: a run of `[classification]` writes no text"),
        (("--exact-match",), "--exact-match: a run of `[classification]` writes no text"),
    ],
)
def test_what_cannot_be_asked_of_labels_is_refused_by_name(classifier_run, rows, arguments, told):
    with pytest.raises(UsageError) as caught:
        lorans(classifier_run.path, "--data", rows, *arguments)
    assert str(caught.value).startswith(told)


def test_runs_that_answer_otherwise_are_not_compared(classifier_run, lora_run):
    labels, text = open_run(classifier_run), open_run(lora_run)
    for first, second, told in (
        (labels, text, "answers with text, and the first run with `single_label_classification`"),
        (text, labels, "answers with `single_label_classification`, and the first run with text"),
    ):
        with pytest.raises(UsageError, match=told):
            others_beside(first, [second], [])
    more = labels.manifest.model_copy(update={"labels": ("loud", "silent")})
    strange = type(labels)(lora_run, more, labels.base, labels.tokenizer)
    with pytest.raises(UsageError, match="has other labels than the first run: quiet, silent"):
        others_beside(labels, [strange], [])
