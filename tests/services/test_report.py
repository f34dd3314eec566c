"""The report that a run writes at its end, whatever the end, and the proofs of what is made of it."""

import json

import pytest

pytest.importorskip("torch")

from services_recipes import RECIPE

from lora_ns.errors import LoransError
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer
from lora_ns.services.report import report, report_at_end


def facts_of(run):
    """The facts of a run, whose report is written as at its end."""
    told = []
    report_at_end(run, told.append)
    assert not told
    return json.loads(run.report_facts.read_text())


def test_a_finished_run_has_its_report(lora_run):
    facts = facts_of(lora_run)
    assert lora_run.report.read_text().startswith("<!doctype html>")
    assert (facts["status"], facts["notes"], facts["version"]) == ("finished", [], 1)
    (side,) = facts["trained_rows"][0]["sides"]
    trained = "".join(piece["text"] for piece in side["pieces"] if piece["kind"].startswith("trained"))
    assert len(facts["trained_rows"]) == 3
    assert trained.endswith("<|im_end|>")
    assert side["trained"] < side["tokens"]
    assert facts["curves"]["memory_bytes"]["values"][-1] > 0
    assert facts["curves"]["loss"]["steps"][-1] == 6


def test_a_classifier_shows_where_it_is_wrong(classifier_run):
    facts = facts_of(classifier_run)
    found = facts["predictions"]
    assert (found["step"], found["rows"], found["labels"]) == (30, 16, ["loud", "quiet"])
    right = sum(one["rows"] * (one["recall"] or 0) for one in found["classes"]) / found["rows"]
    assert right == pytest.approx(facts["metrics"]["eval_accuracy"])
    assert sum(one["rows"] for one in found["calibration"]) == 16
    assert facts["trained_rows"][0]["learned"] in {"class `loud`", "class `quiet`"}
    assert "Confusion matrix" in classifier_run.report.read_text()


class Stop(Observer):
    """Fails in the third step, and notes the end."""

    def __init__(self):
        self.over = []

    def ended(self, run):
        self.over.append(run.path.name)

    def step(self, step, tokens):
        if step == 3:
            raise LoransError("stopped by the test")


def test_a_failed_run_has_its_report(trained, tmp_path):
    observer = Stop()
    with pytest.raises(LoransError):
        trained(RECIPE, observer=observer)
    assert observer.over == ["run"]
    facts = facts_of(RunDir(tmp_path / "run"))
    assert (facts["status"], facts["verdict"]["state"]) == ("failed", "failed")
    assert "Stopped by the test" in facts["verdict"]["reasons"]
    assert facts["commands"]["resume"].endswith("--resume")


def test_what_is_exported_is_in_the_report(lora_run, tmp_path):
    from lora_ns.services.export import export_plain

    export_plain(lora_run, tmp_path / "plain")
    report(lora_run, tmp_path / "report.html")
    (found,) = json.loads((tmp_path / "report.json").read_text())["artefacts"]
    assert (found["kind"], found["verified"]) == ("plain", True)
    assert found["output"] == str(tmp_path / "plain")
    assert "as the trained model" in (tmp_path / "report.html").read_text()
