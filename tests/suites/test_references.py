"""Figures equal those of sacrebleu, rouge-score, scikit-learn, scipy and seqeval on the same predictions."""

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("numpy")

import numpy as np

from lora_ns.objectives.metrics import classification_metrics, multi_label_metrics, regression_metrics, tag_metrics
from lora_ns.statistics import Measure, entity_f1, f1, matthews, pearson, share, spearman
from lora_ns.statistics.groups import Groups
from lora_ns.suites import Gold
from lora_ns.suites.bleu import BleuSuite
from lora_ns.suites.chrf import ChrfSuite
from lora_ns.suites.rouge import RougeSuite

SEEDS = range(6)

SENTENCE = "the a cat dog sat on mat, running runs. ran Über straße 12 3.5 (and) 猫は 好き don't state-of-the-art"
WORDS = SENTENCE.split()


def value(measure: Measure, chosen: Sequence[int] | None = None) -> float:
    """The figure of all items, or of some, which may be there repeatedly, as in a resample."""
    statistic = measure.of(Groups.of(measure.items, None))
    if chosen is None:
        return statistic.value()
    draws = np.bincount(chosen, minlength=measure.items)[None, :]
    return float(statistic.resampled(draws)[0])


def texts(random_: random.Random, count: int, fewest: int = 0) -> list[str]:
    return [" ".join(random_.choices(WORDS, k=random_.randint(fewest, 14))) for _ in range(count)]


def answers_to(random_: random.Random, expected: Sequence[str]) -> list[str]:
    """Answers that are right, empty, cut, changed in some words, or of something else."""
    found = []
    for text in expected:
        words = text.split()
        changed = [word if random_.random() < 0.7 else random_.choice(WORDS) for word in words]
        cut = words[: random_.randint(0, len(words))]
        found.append(" ".join(random_.choice([words, [], changed, changed, cut, random_.choices(WORDS, k=9)])))
    return found


def resample(random_: random.Random, count: int) -> list[int]:
    return random_.choices(range(count), k=count)


def picked(items: Sequence[Any], chosen: Sequence[int]) -> list[Any]:
    return [items[place] for place in chosen]


def texts_with_answers(seed: int, references: int = 1) -> tuple[list[Gold], list[list[str | None]], list[str]]:
    """Rows, their references as sacrebleu takes them (some rows have fewer), and answers."""
    random_ = random.Random(seed)
    columns: list[list[str]] = [texts(random_, 20, 1) for _ in range(references)]
    counts = [random_.randint(1, references) for _ in range(20)]
    several = [[column[item] for column in columns[: counts[item]]] for item in range(20)]
    golds = [Gold(f"row {item}", one[0], {"all": one}) for item, one in enumerate(several)]
    streams = [[one[number] if number < len(one) else None for one in several] for number in range(references)]
    return golds, streams, answers_to(random_, columns[0])


BLEUS = [{}, {"lowercase": True}, {"tokenize": "intl"}, {"tokenize": "char"}, {"tokenize": "zh"}, {"tokenize": "none"}]
CHRFS = [{}, {"word_order": 2}, {"word_order": 1, "lowercase": True}]


@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize(
    ("suite", "metric", "settings"),
    [*((BleuSuite, "BLEU", one) for one in BLEUS), *((ChrfSuite, "CHRF", one) for one in CHRFS)],
)
def test_corpus_scores_are_those_of_sacrebleu_on_all_items_and_on_resamples(
    suite: type, metric: str, settings: dict[str, Any], references: int
) -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    theirs = getattr(metrics, metric)(**settings)
    for seed in SEEDS:
        golds, streams, answers = texts_with_answers(seed, references)
        (measure,) = suite(column="all", **settings).measure(golds, answers).values()
        assert value(measure) == pytest.approx(theirs.corpus_score(answers, streams).score, abs=1e-9)
        chosen = resample(random.Random(seed), len(golds))
        expected = theirs.corpus_score(picked(answers, chosen), [picked(stream, chosen) for stream in streams]).score
        assert value(measure, chosen) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("answer", ["", "   ", "cat", "a cat", "the cat sat", "the cat sat on", "the cat sat on a mat"])
@pytest.mark.parametrize(("suite", "metric"), [(BleuSuite, "BLEU"), (ChrfSuite, "CHRF")])
def test_a_corpus_of_one_short_answer_is_scored_as_by_sacrebleu(suite: type, metric: str, answer: str) -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    for expected in ("cat", "the cat sat on a mat", "猫"):
        measures = suite().measure([Gold("row", expected)], [answer])
        theirs = getattr(metrics, metric)().corpus_score([answer], [[expected]]).score
        assert value(*measures.values()) == pytest.approx(theirs, abs=1e-9)


def test_sentence_chrf_decides_which_items_are_won() -> None:
    metrics = pytest.importorskip("sacrebleu.metrics")
    golds, streams, answers = texts_with_answers(0)
    measure = ChrfSuite().measure(golds, answers)["chrf"]
    theirs = [
        metrics.CHRF().sentence_score(answer, [text]).score for answer, text in zip(answers, streams[0], strict=True)
    ]
    assert measure.scores == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("use_stemmer", [False, True])
def test_rouge_is_the_mean_of_rouge_score(use_stemmer: bool) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=use_stemmer)
    for seed in SEEDS:
        golds, _, answers = texts_with_answers(seed, references=2)
        measures = RougeSuite(column="all", use_stemmer=use_stemmer).measure(golds, answers)
        assert list(measures) == ["rougeL", "rouge1", "rouge2"]
        for name, measure in measures.items():
            single = [
                max(theirs.score(text, answer)[name].fmeasure for text in gold.values["all"])
                for gold, answer in zip(golds, answers, strict=True)
            ]
            assert value(measure) == pytest.approx(np.mean(single))
            chosen = resample(random.Random(seed), len(golds))
            assert value(measure, chosen) == pytest.approx(np.mean(picked(single, chosen)))


def classes(seed: int, count: int, size: int = 60) -> tuple[list[int], list[int]]:
    """Predicted and expected classes, about half of them right; every third seed predicts one class alone."""
    random_ = random.Random(seed)
    expected = [random_.randrange(count) for _ in range(size)]
    if seed % 3 == 2:
        return [0] * size, expected
    return [one if random_.random() < 0.5 else random_.randrange(count) for one in expected], expected


def numbers(seed: int, size: int = 40) -> tuple[list[float], list[float]]:
    """Predicted and expected scores between 0 and 5, with ties."""
    random_ = random.Random(seed)
    expected = [round(random_.uniform(0, 5), 1) for _ in range(size)]
    return [round(one + random_.gauss(0, 1.5), 1) for one in expected], expected


def _sklearn(name: str, **more: Any) -> Callable[[Any, Any], float]:
    metrics = pytest.importorskip("sklearn.metrics")
    return lambda predicted, expected: float(getattr(metrics, name)(expected, predicted, **more))


def _scipy(name: str) -> Callable[[Any, Any], float]:
    stats = pytest.importorskip("scipy.stats")
    return lambda predicted, expected: float(getattr(stats, name)(predicted, expected).statistic)


def _accuracy(predicted: Sequence[int], expected: Sequence[int]) -> Measure:
    return share([one == other for one, other in zip(predicted, expected, strict=True)])


GLUE = {
    "MNLI, QNLI, RTE, SST-2, WNLI": ("accuracy", classes, _accuracy, lambda: _sklearn("accuracy_score")),
    "MRPC, QQP": ("f1", classes, f1, lambda: _sklearn("f1_score", zero_division=0)),
    "CoLA": ("matthews_correlation", classes, matthews, lambda: _sklearn("matthews_corrcoef")),
    "STS-B, Pearson": ("pearson", numbers, pearson, lambda: _scipy("pearsonr")),
    "STS-B, Spearman": ("spearman", numbers, spearman, lambda: _scipy("spearmanr")),
}
"""Figures of GLUE's nine tasks: our name, predictions, our measure, and the library that GLUE's own script calls."""


@pytest.mark.parametrize("task", GLUE)
def test_figures_of_glue(task: str) -> None:
    name, predictions, ours, reference = GLUE[task]
    theirs = reference()
    for seed in SEEDS:
        predicted, expected = predictions(seed, 2) if predictions is classes else predictions(seed)
        metrics = (
            classification_metrics(predicted, expected, 2)
            if predictions is classes
            else regression_metrics(predicted, expected)
        )
        measure = ours(predicted, expected)
        assert metrics[name] == pytest.approx(theirs(predicted, expected))
        assert value(measure) == pytest.approx(theirs(predicted, expected))
        chosen = resample(random.Random(seed), len(expected))
        assert value(measure, chosen) == pytest.approx(theirs(picked(predicted, chosen), picked(expected, chosen)))


@pytest.mark.parametrize("count", [2, 3, 7, 12])
def test_figures_of_classes_are_those_of_sklearn(count: int) -> None:
    average = "binary" if count == 2 else "macro"
    labels = None if count == 2 else list(range(count))
    for seed in SEEDS:
        predicted, expected = classes(seed, count)
        assert value(f1(predicted, expected, count)) == pytest.approx(
            _sklearn("f1_score", average=average, labels=labels, zero_division=0)(predicted, expected)
        )
        assert value(matthews(predicted, expected, count)) == pytest.approx(
            _sklearn("matthews_corrcoef")(predicted, expected)
        )


def test_micro_f1_of_several_labels_is_that_of_sklearn() -> None:
    for seed in SEEDS:
        random_ = np.random.default_rng(seed)
        predicted, expected = random_.integers(0, 2, (2, 30, 4))
        measure = entity_f1((predicted & expected).sum(1), predicted.sum(1), expected.sum(1))
        theirs = _sklearn("f1_score", average="micro", zero_division=0)
        assert value(measure) == pytest.approx(theirs(predicted, expected))
        assert multi_label_metrics(predicted, expected)["f1_micro"] == pytest.approx(theirs(predicted, expected))


TAGS = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def test_f1_of_entities_is_that_of_seqeval_and_of_conlleval_on_resamples() -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    for seed in SEEDS:
        random_ = random.Random(seed)
        expected = [random_.choices(TAGS, k=random_.randint(1, 12)) for _ in range(25)]
        predicted = [[tag if random_.random() < 0.8 else random_.choice(TAGS) for tag in row] for row in expected]
        pairs = [(set(entities(one)), set(entities(other))) for one, other in zip(predicted, expected, strict=True)]
        measure = entity_f1(*zip(*((len(one & other), len(one), len(other)) for one, other in pairs), strict=True))
        chosen = resample(random_, len(expected))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of entity types without a prediction
            theirs = metrics.f1_score(expected, predicted)
            resampled = metrics.f1_score(picked(expected, chosen), picked(predicted, chosen))
        assert tag_metrics(predicted, expected)["f1"] == pytest.approx(theirs)
        assert value(measure) == pytest.approx(theirs)
        assert value(measure, chosen) == pytest.approx(resampled)
