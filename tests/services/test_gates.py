"""Gates judge what was measured: a figure by its limit, a run by its verdicts."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

pytest.importorskip("torch")

from lora_ns.errors import UsageError
from lora_ns.services.evaluate import EvaluateResult
from lora_ns.services.gates import Gates
from lora_ns.services.junit import write_junit
from lora_ns.services.verdicts import Contest, Figure, Figures, SuiteReport

CONTEST = Contest(
    figure="number",
    system="adapter",
    against="base",
    difference=0.1,
    low=0.05,
    high=0.15,
    p_value=0.001,
    test="exact McNemar",
    wins=10,
    ties=90,
    losses=0,
    smallest=0.08,
    verdict="better",
    reason="better: 10 of 100 items won, 0 lost, p = 0.001",
)


def suite(verdict="better", system="adapter", against="base", figure="number", in_group=False):
    figures = {
        "number": {"adapter": Figure(0.5, 0.4, 0.6), "base": Figure(0.4, 0.3, 0.5)},
        "loss": {"adapter": Figure(2.5, 2.4, 2.6), "base": Figure(3.0, 2.9, 3.1)},
    }
    contest = replace(CONTEST, verdict=verdict, system=system, against=against, figure=figure)
    whole, group = Figures(100, figures, (CONTEST,)), Figures(50, figures, (contest,))
    return SuiteReport("gsm8k", "number", whole if in_group else replace(group, items=100), {"old": group}, ("loss",))


METRICS = {"gsm8k.number": 0.5, "gsm8k.number/old": 0.5, "gsm8k.loss": 2.5}


@pytest.mark.parametrize(
    ("under", "over", "passed"),
    [
        (["gsm8k.number=0.5"], [], True),
        (["gsm8k.number=0.51"], [], False),
        (["gsm8k.number/old=0.5"], [], True),
        ([], ["gsm8k.loss=2.5"], True),
        ([], ["gsm8k.loss=2.4"], False),
        ([], ["gsm8k.number=0.4"], False),
    ],
)
def test_a_figure_is_held_to_its_limit(under, over, passed):
    (gate,) = Gates.of(under, over, if_worse=False).judge(METRICS, [suite()])
    assert gate.passed is passed


@pytest.mark.parametrize(
    ("under", "told"),
    [
        ("gsm8k.number", "is no figure with a number"),
        ("=0.4", "is no figure with a number"),
        ("gsm8k.number=nan", "is no figure with a number"),
        ("gsm8k.nunber=0.4", "did you mean `gsm8k.number`?"),
        ("gsm8k.loss=2", "write `--fail-over gsm8k.loss=2`"),
    ],
)
def test_a_gate_that_cannot_be_judged_is_refused(under, told):
    with pytest.raises(UsageError) as caught:
        Gates.of([under], [], if_worse=False).judge(METRICS, [suite()])
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("contest", "passed"),
    [
        ({"verdict": "better"}, True),
        ({"verdict": "cannot tell"}, True),
        ({"verdict": "worse"}, False),
        ({"verdict": "worse", "in_group": True}, False),
        ({"verdict": "better", "system": "other", "against": "adapter"}, False),
        ({"verdict": "worse", "system": "other", "against": "adapter"}, True),
        ({"verdict": "worse", "system": "other", "against": "base"}, True),
        ({"verdict": "worse", "figure": "loss"}, True),
    ],
)
def test_a_run_is_worse_by_a_verdict_on_the_deciding_figure_that_it_lost(contest, passed):
    gates = Gates.of([], [], if_worse=True).judge({}, [suite(**contest)])
    assert all(gate.passed for gate in gates) is passed
    assert len(gates) == 2


def test_without_a_comparison_nothing_can_be_worse():
    with pytest.raises(UsageError, match="nothing is compared"):
        Gates.of([], [], if_worse=True).judge({"accuracy": 1.0}, [])


def test_a_ci_server_reads_figures_and_failures(tmp_path):
    gates = Gates.of(["gsm8k.number=0.6"], [], if_worse=True).judge(METRICS, [suite("cannot tell")])
    write_junit(tmp_path / "eval.xml", "run\x07<1>", EvaluateResult(100, METRICS), gates)
    root = ElementTree.parse(tmp_path / "eval.xml").getroot()
    (found,) = root
    assert (found.get("tests"), found.get("failures")) == ("3", "1")
    assert {one.get("name"): float(one.get("value")) for one in found.iter("property")} == METRICS
    (failure,) = found.iter("failure")
    assert failure.get("message") == "gsm8k.number is 0.5, and has to be at least 0.6"


def test_an_evaluation_without_gates_is_one_case_that_passed(tmp_path):
    write_junit(tmp_path / "eval.xml", "run", EvaluateResult(100, METRICS), [])
    (found,) = ElementTree.parse(tmp_path / "eval.xml").getroot()
    assert (found.get("tests"), found.get("failures")) == ("1", "0")
