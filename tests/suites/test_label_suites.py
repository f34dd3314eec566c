"""Figures of labels have the values of the metrics that training reports."""

import random
from dataclasses import replace

import pytest

from lora_ns.objectives.baselines import Baseline, label_metrics
from lora_ns.services.evaluate_suites import Answered
from lora_ns.services.verdicts import report
from lora_ns.statistics.groups import Groups
from lora_ns.suites import Gold
from lora_ns.suites.labels import suite_of

ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "S-LOC", "E-PER")
WORDS = ("NOUN", "VERB", "ADV", "DET")


def some_tags(draw, labels, like=None):
    lengths = [draw.randint(1, 9) for _ in range(40)] if like is None else map(len, like)
    return [[draw.choice(labels) for _ in range(length)] for length in lengths]


def some_labels(draw, labels, _like=None):
    return [[name for name in labels if draw.random() < 0.4] for _ in range(40)]


def some_scores(draw, _labels, _like=None):
    return [draw.choice([0.0, 0.5, 1.25, draw.gauss(2, 1)]) for _ in range(40)]


def some_classes(draw, labels, _like=None):
    return [draw.choice(labels) for _ in range(40)]


def as_trained(kind, labels, one):
    if kind == "regression":
        return one
    if kind == "multi_label_classification":
        return [float(name in one) for name in labels]
    return [labels.index(tag) for tag in one] if kind is None else labels.index(one)


KINDS = {
    "two classes": ("single_label_classification", ("no", "yes"), some_classes, "f1"),
    "classes": ("single_label_classification", ("a", "b", "c", "unseen"), some_classes, "accuracy"),
    "labels": ("multi_label_classification", ("a", "b", "c"), some_labels, "f1_micro"),
    "scores": ("regression", (), some_scores, "rmse"),
    "entities": (None, ENTITIES, some_tags, "f1"),
    "parts of speech": (None, WORDS, some_tags, "accuracy"),
}


def value(measure):
    return measure.of(Groups.of(measure.items, None)).value()


@pytest.mark.parametrize(("kind", "labels", "some", "deciding"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_figures_are_the_metrics_of_training(kind, labels, some, deciding, seed):
    pytest.importorskip("seqeval")
    draw = random.Random(seed)
    given = [name for name in labels if name != "unseen"]
    expected = some(draw, given)
    wrong = some(draw, given, expected)
    answers = [one if draw.random() < 0.6 else other for one, other in zip(expected, wrong, strict=True)]
    suite = suite_of(kind, labels)
    measures = suite.measure([Gold("row", None, label=one) for one in expected], answers)
    metrics = label_metrics(kind, labels, answers, [as_trained(kind, labels, one) for one in expected])
    assert next(iter(measures)) == deciding
    assert {name: value(measures[name]) for name in metrics} == pytest.approx(metrics)
    assert {name.split("/")[0] for name in measures} <= {*metrics, "f1"}


def test_each_class_has_its_f1_score_if_they_are_few():
    pytest.importorskip("sklearn")
    from sklearn.metrics import f1_score

    draw = random.Random(0)
    labels = tuple("abcd")
    sides = [some_classes(draw, labels) for _ in range(2)]
    for kind in ("single_label_classification", None):
        expected, answers = ([[one] for one in side] if kind is None else side for side in sides)
        measures = suite_of(kind, labels).measure([Gold("row", None, label=one) for one in expected], answers)
        scores = f1_score(*sides, average=None, labels=labels)
        assert [value(measures[f"f1/{name}"]) for name in labels] == pytest.approx(scores)
    many = tuple(f"c{number}" for number in range(11))
    assert not any("/" in name for name in suite_of(kind, many).measure([Gold("r", None, label=["c1"])], [["c2"]]))


LEARNED = {
    "two classes": [1] * 9 + [0] * 3,
    "labels": [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]],
    "scores": [0.5, 1.5],
    "entities": [[0, 0, 1]],
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_constant_is_beaten_by_right_answers_and_ties_with_itself(name):
    pytest.importorskip("seqeval")
    kind, labels, some, deciding = KINDS[name]
    expected = some(random.Random(1), labels)
    baseline = Baseline.of(kind, labels, LEARNED[name])
    constant = baseline.answers(baseline.constants[deciding], expected)
    answers = {"right": expected, "same": constant, "constant": constant}
    by_figure = {"constant": {deciding: constant}}
    golds = [Gold(str(place), None, label=one) for place, one in enumerate(expected)]
    answered = Answered(suite_of(kind, labels), golds, answers, by_figure=by_figure)
    (found,) = report([answered], [("right", "constant"), ("same", "constant"), ("same", "nobody")])
    assert found.whole.figures[deciding].keys() == answers.keys()
    assert all("constant" not in by_system for one, by_system in found.whole.figures.items() if one != deciding)
    assert [(one.system, one.verdict) for one in found.whole.contests] == [("right", "better"), ("same", "cannot tell")]
    reached = baseline.measure([as_trained(kind, labels, one) for one in expected])
    assert found.whole.figures[deciding]["constant"].value == pytest.approx(reached[deciding])
    alone = replace(answered, answers={"right": expected}, by_figure={})
    assert report([alone], [("right", "constant")])[0].whole.contests == ()


def test_answers_are_shown_as_people_write_them():
    gold = Gold("row", None, question="river MAPLE", label=["O", "B-loud"])
    assert suite_of(None, ("O", "B-loud")).shown(gold, gold.label) == "river MAPLE/B-loud"
    assert suite_of(None, ("O", "B-loud")).shown(gold, ["O"]) == "O"
    labels = suite_of("multi_label_classification", ("a", "b"))
    assert [labels.shown(gold, one) for one in (["a", "b"], [])] == ["a, b", "no label"]
    assert suite_of("regression", ()).shown(gold, 0.123456) == "0.1235"
    assert suite_of("single_label_classification", ("a", "b")).shown(gold, "a") == "a"
