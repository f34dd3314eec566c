"""A run of labels is measured by GLUE's figures, on rows in the form of the hub or of GLUE's own files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from services_recipes import class_rows

from lora_ns.answers.opened import open_run
from lora_ns.data.files.read import read_files
from lora_ns.data.suite_rows import Asking
from lora_ns.errors import DataError, UsageError
from lora_ns.formats import Columns, TextClassification
from lora_ns.services.evaluate import Beside, evaluate
from lora_ns.suites import GlueSuite

SST2 = GlueSuite(task="sst2")
NUMBERS = {"loud": 1, "quiet": 0}


@pytest.fixture(scope="module")
def opened(classifier_run):
    """A run whose labels are those of SST-2, the positive one first: it calls loud texts positive."""
    found = open_run(classifier_run)
    assert found.manifest.labels == ("loud", "quiet")
    names = {"loud": "positive", "quiet": "negative"}
    baseline = {metric: names[label] for metric, label in found.manifest.baseline.items()}
    manifest = found.manifest.model_copy(update={"labels": ("positive", "negative"), "baseline": baseline})
    return replace(found, manifest=manifest)


def written(folder, rows, name="dev.tsv"):
    file = folder / name
    lines = [("index", "sentence", "label"), *((number, *row) for number, row in enumerate(rows))]
    file.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return file


def asked(opened, rows, *suites):
    return evaluate(opened, rows, False, beside=Beside(suites=suites, show=3))


def test_a_run_gets_the_figure_of_the_task_with_interval_and_verdict(opened, tmp_path):
    rows = [*((row["text"], NUMBERS[row["label"]]) for row in class_rows() * 2), ("plum", 1)]
    file = written(tmp_path, rows)
    found = asked(opened, read_files([file]).rows, SST2)
    (report,) = found.suites
    assert (report.name, report.kind, report.whole.items, found.rows) == ("sst2", "glue", 33, 33)
    items = [json.loads(line) for line in (Path(found.saved) / "items.jsonl").read_text().splitlines()]
    assert {one["expected"] for one in items} == {"positive", "negative"}
    right = sum(one["answers"]["adapter"] == one["expected"] for one in items) / len(items)
    assert found.metrics == {"sst2.accuracy": pytest.approx(right)}
    by_system = report.whole.figures["accuracy"]
    assert by_system["adapter"].low < right < by_system["adapter"].high
    assert round(by_system["constant"].value * 33) in {16, 17}
    (contest,) = report.whole.contests
    assert (contest.system, contest.against, contest.test) == ("adapter", "constant", "exact McNemar")
    assert contest.verdict == "better"
    own = asked(opened, None, SST2.model_copy(update={"path": str(file), "name": "dev"}))
    assert own.metrics == {"dev.accuracy": pytest.approx(right)}


@pytest.mark.parametrize(
    ("suite", "rows", "error", "told"),
    [
        ("sst2", [("a", 1), ("b", -1)], DataError, "dev.tsv:3: `label` is '-1', which is no class of `sst2` (write"),
        ("rte", [("a", 1)], DataError, "dev.tsv:2: rows of `rte` are pairs of texts, and the run labels single texts"),
        ("cola", [("a", 1)], DataError, "dev.tsv:2: the classes of `cola` are `unacceptable`, `acceptable`, and those"),
        ("stsb", [("a", 1)], DataError, "dev.tsv:2: `stsb` is `regression`, and the run was trained for"),
        ("sst2", [], (DataError, UsageError), "dev.tsv"),
    ],
)
def test_what_is_none_of_the_task_is_named_before_the_model_answers(opened, tmp_path, suite, rows, error, told):
    chosen = GlueSuite(task=suite, path=str(written(tmp_path, rows)))
    with pytest.raises(error) as caught:
        asked(opened, None, chosen)
    assert told in str(caught.value)


def test_a_run_of_text_is_not_asked_for_labels(lora_run, tmp_path):
    rows = read_files([written(tmp_path, [("a", 1)])]).rows
    with pytest.raises(UsageError, match=r"a run of `\[sft\]` gives texts no labels, which the suite `sst2` measures"):
        evaluate(open_run(lora_run), rows, False, beside=Beside(suites=(SST2,)))


def test_rows_are_checked_before_training(tmp_path):
    form = TextClassification(Columns(text_column="sentence"))
    rows = read_files([written(tmp_path, [("a", 1), ("b", 3), ("c", "positive")])]).rows
    (found,) = Asking(SST2, "evaluation.suites.0", form).findings(rows)
    assert found.code == "SUITE002"
    assert found.rows == (f"{tmp_path}/dev.tsv:3",)
    assert "evaluation.suites.0: `label` is '3', which is no class of `sst2`" in found.what
