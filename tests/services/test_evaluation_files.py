"""What an evaluation keeps: files that strict parsers read, of figures that are computed once."""

import json
import math

import pytest

pytest.importorskip("scipy")

from lora_ns.cli.show import print_json
from lora_ns.cli.verdicts import shown_figure
from lora_ns.files.strict_json import strict_json
from lora_ns.run.directory import RunDir
from lora_ns.services.evaluate_suites import Answered
from lora_ns.services.verdicts import differing, item_rows, report, save_evaluation
from lora_ns.statistics import mean
from lora_ns.suites import Gold, HeldOutSuite, Suite

PAIRS = [("adapter", "base")]


def strict(text):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_undefined_figures_are_null_in_every_file_and_are_shown_as_undefined(tmp_path, capsys):
    golds = [Gold(f"row {place}", None) for place in range(2)]
    losses = {"adapter": [(math.nan, 2), (math.inf, 1)], "base": [(1.0, 2), (0.5, 1)]}
    answered = [Answered(HeldOutSuite(), golds, losses)]
    reports = report(answered, PAIRS)
    folder = save_evaluation(RunDir(tmp_path), answered, reports)
    results = strict((tmp_path / folder / "results.json").read_text())
    figures = results["suites"][0]["whole"]["figures"]["loss"]
    assert figures["adapter"] == {"value": None, "low": None, "high": None}
    assert figures["base"]["value"] == pytest.approx(0.5)
    items = [strict(line) for line in (tmp_path / folder / "items.jsonl").read_text().splitlines()]
    assert [item["scores"]["adapter"]["loss"] for item in items] == [None, None]
    assert items[0]["answers"]["base"] == [1.0, 2]
    print_json(reports[0])
    assert strict(capsys.readouterr().out)["whole"]["figures"]["loss"]["adapter"]["value"] is None
    for is_share in (False, True):
        assert shown_figure(reports[0].whole.figures["loss"]["adapter"], is_share) == "not defined"


@pytest.mark.parametrize("value", [[1.5, "ü", None], {"a": [True, {"b": 2}]}, "", 0.1 + 0.2])
def test_json_without_such_numbers_is_as_it_was(value):
    assert strict_json(value) == json.dumps(value, ensure_ascii=False)
    assert strict_json([value, math.nan]) == json.dumps([value, None], ensure_ascii=False)


def test_a_value_that_contains_itself_is_no_json():
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="Circular"):
        strict_json(value)


def test_the_figures_of_a_system_are_computed_once():
    asked = []

    class Counting(Suite):
        kind: str = "counting"

        def measure(self, golds, answers):
            asked.append(tuple(answers))
            return {"figure": mean(answers)}

    golds = [Gold(f"row {place}", None, {"part": place % 2}) for place in range(6)]
    sides = {"adapter": [1.0, 2.0, 3.0, 4.0, 5.0, 7.0], "base": [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]}
    answered = Answered(Counting(group_by="part"), golds, sides)
    report([answered], PAIRS)
    item_rows(answered)
    assert len(differing([answered], *PAIRS[0], 9)) == 5
    assert sorted(map(len, asked)) == [3, 3, 3, 3, 6, 6]
