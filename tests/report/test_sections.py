"""The report of a run: self-contained, tolerant of damage, and with everything foreign as text."""

import json
import random
from html.parser import HTMLParser

import pytest
from minimal_recipe import MINIMAL
from reported_runs import LABELS, add_evaluation, falling, suite

pytest.importorskip("matplotlib")

from lora_ns.errors import MissingError
from lora_ns.report.charts import all_plots
from lora_ns.report.facts import gather
from lora_ns.report.sections import page
from lora_ns.run.manifest import BestRecord
from lora_ns.services.report import report, report_at_end

HOSTILE = "<script>alert(1)</script><img src=x onerror=y> \x1b[31mred\x1b[0m \"'& \u202e"
SECRET = "hf_" + "a1B2" * 8
FILES = [
    *("metrics.jsonl", "trained_rows.json", "predictions.json", "samples.jsonl", "artefacts.jsonl", "recipe.toml"),
    *("evaluations/1/results.json", "evaluations/1/items.jsonl"),
]
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Parsed(HTMLParser):
    """The elements of a page, their balance, and all that could leave it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links, self.ids, self.texts = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(text):
    found = Parsed(text)
    assert not found.open
    assert "script" not in found.tags
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert len(found.ids) == len(set(found.ids))
    assert "default-src 'none'" in text.replace("&#x27;", "'")
    assert "\x1b" not in text
    assert "\u202e" not in text
    return " ".join(" ".join(found.texts).split())


def item(number, after, before):
    scores = {name: {"exact_match": float(answer == "yes")} for name, answer in (("after", after), ("before", before))}
    return {
        "suite": "exact-match", "item": f"row {number}", "question": HOSTILE, "expected": "yes",
        "answers": {"after": after, "before": before}, "scores": scores,
    }  # fmt: skip


def test_everything_foreign_is_text(make_run):
    run = make_run(recipe=LABELS, status="failed", error=f"{HOSTILE} {SECRET}")
    pieces = [{"text": HOSTILE, "kind": "trained"}, {"text": "<|im_end|>", "kind": "context special", "tag": "<b>"}]
    side = {"name": HOSTILE, "tokens": 3, "trained": 2, "pieces": pieces}
    run.trained_rows.write_text(json.dumps([{"learned": HOSTILE, "sides": [side]}]))
    add_evaluation(run, [suite()], [item(1, HOSTILE, SECRET)])
    run.samples.write_text(json.dumps({"step": 1, "prompt": HOSTILE, "completion": HOSTILE}) + "\n")
    table = {"step": 1, "kind": "single_label_classification", "rows": 2, "labels": [HOSTILE, "b"],
             "expected": [0, 1], "predicted": [0, 0], "confidence": [0.9, 0.6]}  # fmt: skip
    run.predictions.write_text(json.dumps(table))
    row = {"kind": HOSTILE, "output": f"/{HOSTILE}", "verified": False, "proof": HOSTILE}
    run.artefacts.write_text(json.dumps(row) + "\n")
    found = gather(run)
    text = parsed(page(found))
    assert text.count("<script>alert(1)</script>") >= 8
    assert SECRET not in text + json.dumps(found.as_table())


def test_a_report_says_what_happened_in_order(make_run):
    run = make_run()
    pieces = [{"text": "question", "kind": "context"}, {"text": "answer", "kind": "trained"}]
    side = {"name": "", "tokens": 2, "trained": 1, "pieces": pieces}
    run.trained_rows.write_text(json.dumps([{"learned": "", "sides": [side]}]))
    items = [item(number, "yes", "no") for number in range(3)] + [item(3, "no", "yes")]
    add_evaluation(run, [suite()], items)
    html = page(gather(run))
    text = parsed(html)
    place = 0
    for part in (
        *("Learned: exact_match rose from 0.2 to 0.8", "Curves", "Loss:", "What was trained", "1 trained", "Data"),
        *("rows.jsonl", "Before and after", "exact McNemar", "Samples", "adapter check passed", "Recipe"),
        *("training.seed", "--set", "Environment", "Commands", f"lorans infer {run.path}", "lorans reproduce"),
    ):
        assert part in text[place:], part
        place = text.index(part, place)
    assert "<mark>answer</mark>" in html
    assert "planned" in html


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", "[1]", "\0" * 50, '{"suites": [1]}', '[{"sides": [1, {"pieces": 3}]}]', "[" * 5000],
)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_left_out(make_run, monkeypatch, name, damage):
    monkeypatch.setattr("lora_ns.report.sections.svg", lambda _: "")  # drawing is not what is tested
    run = make_run()
    add_evaluation(run, [suite()], [item(1, "yes", "no")])
    (run.path / name).write_text(damage)
    found = gather(run)
    parsed(page(found))
    json.dumps(found.as_table(), allow_nan=False)


def test_a_run_that_has_only_begun_has_a_report(make_run):
    run = make_run([], status="running")
    run.metrics.unlink()
    run.recipe.unlink()
    found = gather(run)
    assert found.verdict.sentence.startswith("Running at step 0")
    parsed(page(found))


def test_two_hundred_thousand_steps_make_a_page_of_3_mb(make_run):
    rng = random.Random(0)
    rows = [{**falling(1)[1], "step": step, "loss": rng.random(), "num_input_tokens_seen": step, "train_runtime": step}
            for step in range(1, 200_001)]  # fmt: skip
    rows[120_000]["loss"] = 77.0
    run = make_run(rows)
    result = report(run)
    assert result.bytes <= 3_000_000
    assert 77.0 in json.loads(run.report_facts.read_text())["curves"]["loss"]["values"]


def test_every_plot_is_written(make_run, tmp_path):
    run = make_run()
    result = report(run, tmp_path / "page.html", tmp_path / "plots")
    names = {f"{plot.key}{suffix}" for plot in all_plots(gather(run)) for suffix in (".png", ".svg")}
    assert {file.name for file in (tmp_path / "plots").iterdir()} == names
    assert {"loss.png", "learning-rate.svg", "gradient-norm.svg", "speed.svg", "memory.svg"} <= names
    assert (tmp_path / "page.json").is_file()
    assert not run.report.exists()
    assert result.state == "learned"


def test_a_report_that_cannot_be_written_is_a_warning(make_run, monkeypatch):
    run, told = make_run(), []
    monkeypatch.setattr("lora_ns.services.report.page", lambda _: 1 / 0)
    report_at_end(run, told.append)
    assert told == ["no report was written: ZeroDivisionError: division by zero; please report this"]


def test_a_report_says_how_a_run_ended_and_how_to_find_a_cause(make_run):
    best = BestRecord(step=20, metric="loss", value=0.5)
    run = make_run([], status="finished", ended="early stopping: enough", best=best, adapter_step=20)
    run.bad_batch.write_text('{"step": 7, "rank": 0, "rows": []}\n{"step": 7, "rank": 1, "rows": []}\nhalf a li')
    report(run)
    page, facts = run.report.read_text(), json.loads(run.report_facts.read_text())
    assert "Ended early: early stopping: enough." in page
    assert "The best evaluation is that of step 20: eval_loss 0.5. The adapter is that of this step." in page
    assert "1 step was skipped, because the gradient was not finite: 7." in page
    assert f"<code>lorans explain {run.path}</code>" in page, "a flat run"
    assert (facts["bad_steps"], facts["best"]["step"], facts["ended"]) == ([7], 20, "early stopping: enough")
    assert facts["commands"]["explain"] == f"lorans explain {run.path}"


def test_a_healthy_run_needs_no_explanation(make_run):
    run = make_run()
    report(run)
    assert "lorans explain" not in run.report.read_text()


def test_values_of_another_file_have_it_as_their_origin(make_run, tmp_path):
    (tmp_path / "accelerate.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 2\nmixed_precision: bf16\n")
    run = make_run(recipe=MINIMAL + '[distributed]\naccelerate_config = "accelerate.yaml"\n')
    origins = {one.key: one.origin for one in gather(run).recipe}
    assert origins["distributed.num_processes"] == "accelerate_config"
    assert origins["distributed.accelerate_config"] == "recipe"
    assert (origins["training.seed"], origins["peft.lora_alpha"]) == ("--set", "default")


def test_without_matplotlib_a_report_says_what_to_install(make_run, monkeypatch):
    run, told = make_run(), []
    monkeypatch.setattr("lora_ns.report.plots.find_spec", lambda _: None)
    with pytest.raises(MissingError, match="pip install matplotlib"):
        report(run)
    report_at_end(run, told.append)
    assert told[0].startswith("no report was written: plots need `matplotlib`")
