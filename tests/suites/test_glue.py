"""The nine tasks of GLUE: figures as those of `evaluate`, and rows in every form that they are published in."""

import random
from typing import get_args

import pytest

from lora_ns.cli.evaluate import chosen_suites
from lora_ns.errors import RecipeError, UsageError
from lora_ns.formats import Columns, RowFaultError, TextClassification
from lora_ns.recipe.load import load_recipe
from lora_ns.suites import GlueSuite, Gold
from lora_ns.suites.glue import GlueTask

CLASSES = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qqp": ("not_duplicate", "duplicate"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "mnli_matched": ("entailment", "neutral", "contradiction"),
    "mnli_mismatched": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
    "wnli": ("not_entailment", "entailment"),
}
"""The classes of `nyu-mll/glue` in their order there."""

MNLI = [("premise", "hypothesis", "label"), ("sentence1", "sentence2", "gold_label")]

COLUMNS = {
    "cola": [("sentence", "label")],
    "sst2": [("sentence", "label")],
    "mrpc": [("sentence1", "sentence2", "label"), ("#1 String", "#2 String", "Quality")],
    "qqp": [("question1", "question2", "label"), ("question1", "question2", "is_duplicate")],
    "stsb": [("sentence1", "sentence2", "label"), ("sentence1", "sentence2", "score")],
    "mnli": MNLI,
    "mnli_matched": MNLI,
    "mnli_mismatched": MNLI,
    "qnli": [("question", "sentence", "label")],
    "rte": [("sentence1", "sentence2", "label")],
    "wnli": [("sentence1", "sentence2", "label")],
}
"""The columns on the hub and in the files of gluebenchmark.com."""


def glue(task, predicted, expected):
    """The metric `glue` of `evaluate`, as it is written there."""
    numpy = pytest.importorskip("numpy")
    metrics, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    preds, labels = numpy.array(predicted), numpy.array(expected)
    if task == "cola":
        return {"matthews_correlation": metrics.matthews_corrcoef(labels, preds)}
    if task == "stsb":
        return {
            "pearson": float(stats.pearsonr(preds, labels)[0]),
            "spearman": float(stats.spearmanr(preds, labels)[0]),
        }
    accuracy = {"accuracy": float((preds == labels).mean())}
    return accuracy | ({"f1": float(metrics.f1_score(y_true=labels, y_pred=preds))} if task in {"mrpc", "qqp"} else {})


def form_of(task, columns=None):
    *texts, label = columns or COLUMNS[task][0]
    kind = "regression" if task == "stsb" else "single_label_classification"
    first, second = (*texts, None)[:2]
    return TextClassification(Columns(text_column=first, text_pair_column=second, label_column=label), kind)


def value(measure):
    from lora_ns.statistics.estimate import value_of

    return value_of(measure)


def test_every_task_is_tried():
    assert {*get_args(GlueTask)} == {*COLUMNS} == {*CLASSES, "stsb"}


@pytest.mark.parametrize("task", COLUMNS)
@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_evaluate_whatever_the_run_calls_its_labels(task, seed):
    draw, suite = random.Random(seed), GlueSuite(task=task)
    names = CLASSES.get(task, ())
    if names:
        expected = [draw.randrange(len(names)) for _ in range(80)]
        predicted = [one if draw.random() < 0.6 else draw.randrange(len(names)) for one in expected]
    else:
        expected = [draw.randrange(26) / 5 for _ in range(80)]
        predicted = [one + draw.gauss(0, 1.2) for one in expected]
    theirs = glue(task, predicted, expected)
    numbers = [str(number) for number in range(len(names))]
    for called in (names, numbers) if names else ((),):
        golds = [Gold("row", None, label=called[one] if called else one) for one in expected]
        ours = suite.measure(golds, [called[one] if called else one for one in predicted])
        assert {name: value(one) for name, one in ours.items()} == pytest.approx(theirs, abs=1e-12, rel=0)


@pytest.mark.parametrize("task", COLUMNS)
def test_rows_of_the_hub_of_the_files_and_of_the_run_are_read_alike(task):
    suite, names = GlueSuite(task=task), CLASSES.get(task, ())
    count = len(COLUMNS[task][0]) - 1
    own = (*("first", "second")[:count], "answer")
    labels = tuple(reversed(names))
    number = len(names) - 1 if names else 3.8
    spellings = [number, str(number), *([names[number]] if names else [])]
    expected = names[number] if names else 3.8
    for columns in (*COLUMNS[task], own):
        for label in spellings:
            row = {"id": 7, **dict(zip(columns, [*("one", "other")[:count], label], strict=True))}
            read = suite.in_columns_of(form_of(task, own), labels, row)
            assert [read[name] for name in own] == [*("one", "other")[:count], expected]
            assert read["id"] == 7
            assert suite.in_columns_of(form_of(task, own), (), row)[own[0]] == "one"  # before labels are known


def test_labels_in_another_order_are_those_of_the_task():
    """Names that are sorted make the positive class of MRPC the first one."""
    suite, labels = GlueSuite(task="mrpc"), ("equivalent", "not_equivalent")
    row = {"sentence1": "a", "sentence2": "b", "label": 1}
    assert suite.in_columns_of(form_of("mrpc"), labels, row)["label"] == "equivalent"
    assert suite.constants({"accuracy": "equivalent", "f1": "not_equivalent"}, labels) == {
        "f1": "equivalent",
        "accuracy": "equivalent",
    }


PAIR = {"sentence1": "a", "sentence2": "b"}
TEXT = {"sentence": "a"}

FAULTS = {
    "a lacking column": ("mrpc", (), {"sentence1": "a", "Quality": 1}, "no `sentence2`, `label`, which rows"),
    "no label at all": ("sst2", (), TEXT, "no `label`, which rows of `sst2` have"),
    "a hidden label": ("rte", (), {**PAIR, "label": -1}, "`label` is -1, which is no class of `rte`"),
    "a null label": ("rte", (), {**PAIR, "label": None}, "`label` is null, which is no class"),
    "true": ("rte", (), {**PAIR, "label": True}, "`label` is true or false, which is no class"),
    "no consensus": ("mnli", (), {**PAIR, "gold_label": "-"}, "`gold_label` is '-', which is no class of `mnli`"),
    "a label of another task": ("sst2", (), {**TEXT, "label": "entailment"}, "`label` is 'entailment', which"),
    "a number too high": ("sst2", (), {**TEXT, "label": 2}, "`label` is 2, which is no class of `sst2`"),
    "a score too high": ("stsb", (), {**PAIR, "label": 5.5}, "`label` is 5.5, and scores are from 0 to 5"),
    "a score that is none": ("stsb", (), {**PAIR, "label": "high"}, "`label` is 'high', and scores are"),
    "NaN": ("stsb", (), {**PAIR, "label": float("nan")}, "`label` is nan, and scores are"),
    "other classes": (
        "sst2",
        ("loud", "quiet"),
        {**TEXT, "label": 1},
        "the classes of `sst2` are `negative`, `positive`, and those of the run `loud`, `quiet`",
    ),
    "more classes": ("sst2", ("0", "1", "2"), {**TEXT, "label": 1}, "and those of the run `0`, `1`, `2`"),
}


@pytest.mark.parametrize(("task", "labels", "row", "told"), FAULTS.values(), ids=FAULTS)
def test_rows_that_are_none_of_the_task_are_refused(task, labels, row, told):
    with pytest.raises(RowFaultError) as caught:
        GlueSuite(task=task).in_columns_of(form_of(task), labels, row)
    assert told in caught.value.what
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("task", "form", "told"),
    [
        ("stsb", form_of("mrpc"), "is `regression`, and the run was trained for `single_label_classification`"),
        ("mrpc", form_of("stsb"), "is `single_label_classification`, and the run was trained for `regression`"),
        ("mrpc", form_of("sst2"), "rows of `mrpc` are pairs of texts, and the run labels single texts"),
        ("sst2", form_of("mrpc"), "rows of `sst2` are single texts, and the run labels pairs of texts"),
    ],
)
def test_runs_that_label_something_else_are_refused_at_the_first_row(task, form, told):
    with pytest.raises(RowFaultError, match=told) as caught:
        GlueSuite(task=task).in_columns_of(form, (), {**PAIR, **TEXT, "label": 1})
    assert caught.value.is_last


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("glue", "the suite `glue` needs `task` (write `--suite glue:TASK`, or a table"),
        ("glue:mrcp", "the suite `glue` has no task `mrcp` (did you mean `mrpc`? one of: cola, sst2, mrpc,"),
        ("glue:", "the suite `glue` has no task `` (one of: cola"),
        ("rouge:mrpc", "the suite `rouge` has no tasks (write `--suite rouge`)"),
        ("gleu:mrpc", "there is no suite `gleu:mrpc` (did you mean"),
    ],
)
def test_tasks_that_there_are_not_are_refused_by_name(name, told):
    with pytest.raises(UsageError) as caught:
        chosen_suites([name], (), allow_code=False, allow_judge=False)
    assert told in str(caught.value)


def test_a_task_is_chosen_by_name():
    suites = chosen_suites(["glue:mrpc", "lm-eval:arc_easy"], (), allow_code=False, allow_judge=False)
    assert [(one.kind, one.title) for one in suites] == [("glue", "mrpc"), ("lm-eval", "arc_easy")]


def problems(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return [str(problem) for problem in caught.value.problems]


SUITE = 'evaluation.suites=[{kind = "glue", task = "TASK", path = "dev.tsv"}]'


def test_recipes_of_classes_take_the_suite_and_others_do_not(write_recipe):
    path = write_recipe()
    classes = ('task_type="SEQ_CLS"',)
    loaded = load_recipe(path, [*classes, SUITE.replace("TASK", "rte")]).recipe
    assert [suite.title for suite in loaded.evaluation.suites] == ["rte"]
    assert loaded.evaluation.asked == ()  # training has its own figures of labels
    (told,) = problems(path, SUITE.replace("TASK", "rte"))
    assert "a model of `[sft]` gives texts no labels, which the suite `rte` measures" in told
    (told,) = problems(path, *classes, SUITE.replace("TASK", "mrcp"))
    assert 'task: got "mrcp" (expected one of: "cola", "sst2", "mrpc",' in told


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_a_constant_answer_has_no_correlation_and_is_beaten_by_one(task):
    pytest.importorskip("scipy")
    from lora_ns.services.evaluate_suites import Answered
    from lora_ns.services.verdicts import report

    draw, suite, names = random.Random(0), GlueSuite(task=task), CLASSES.get(task, ())
    expected = [draw.choice(names) if names else draw.uniform(0, 5) for _ in range(60)]
    if names:
        answers = [one if draw.random() < 0.9 else names[0] for one in expected]
        constants = suite.constants({"accuracy": names[1], "f1": names[1]}, names)
    else:
        answers = [one + draw.gauss(0, 0.5) for one in expected]
        constants = suite.constants({"rmse": 2.5}, ())
    by_figure = {name: [constant] * 60 for name, constant in constants.items()}
    golds = [Gold(f"row {place}", None, label=one) for place, one in enumerate(expected)]
    sides = {"adapter": answers, "constant": next(iter(by_figure.values()))}
    answered = Answered(suite, golds, sides, by_figure={"constant": by_figure})
    (found,) = report([answered], [("adapter", "constant")])
    assert [by_system["constant"].value for by_system in found.whole.figures.values()] == [0] * len(constants)
    assert {one.verdict for one in found.whole.contests} == {"better"}
