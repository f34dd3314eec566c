"""Scores, several labels, tags of words: each from a recipe to a model that is used, and better than saying nothing."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy
import torch
from safetensors.torch import load_file
from services_recipes import CLASSES
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from typer.testing import CliRunner

from lora_ns.answers.opened import open_trained
from lora_ns.cli.app import app
from lora_ns.data.rows import Row
from lora_ns.errors import DataError, LoransError, UsageError
from lora_ns.machine.libraries import Noise
from lora_ns.methods import METHODS
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import ASSETS
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.evaluate import evaluate
from lora_ns.services.infer import as_row, infer
from lora_ns.services.merge import merge
from lora_ns.services.train import train

WORDS = ["plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint"]
SCORES = [
    {"text": text, "label": score}
    for word in WORDS
    for text, score in ((word, 0.5), (word.capitalize(), 2), (word.upper(), 3.5))
]
SEVERAL = [
    {"text": text, "label": labels}
    for word in WORDS
    for text, labels in (
        (word, []),
        (word.upper(), ["loud"]),
        (f"{word}?", ["asks"]),
        (f"{word.upper()}?", ["asks", "loud"]),
    )
]
TAGGED = [
    {"tokens": words, "tags": ["B-loud" if word.isupper() else "O" for word in words]}
    for one, two in zip(WORDS, reversed(WORDS), strict=True)
    for words in ([one, two], [one.upper(), two], [one, two.upper(), one])
]
TAGS = CLASSES.replace("SEQ_CLS", "TOKEN_CLS")
FEW = ("training.max_steps=2", "training.save_steps=2", "training.eval_steps=2")


def run_rows(
    folder: Path,
    text: str,
    rows: list,
    *overrides: str,
    name: str = "classes.jsonl",
    observer: SilentObserver = SilentObserver(),  # noqa: B008 -- it keeps nothing
) -> RunDir:
    (folder / "recipe.toml").write_text(text.replace("classes.jsonl", name))
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = Path.cwd()
    os.chdir(folder)
    try:
        with Noise() as noise:
            result = train(load_recipe(folder / "recipe.toml", overrides), observer, noise, use_cache=False)
    finally:
        os.chdir(before)
    return RunDir.open(Path(result.run))


@pytest.fixture
def trained_on(tmp_path):
    return lambda text, rows, *overrides, **more: run_rows(tmp_path, text, rows, *overrides, **more)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A run of each kind of label."""
    return {
        name: run_rows(tmp_path_factory.mktemp(name), text, rows, "training.max_steps=60")
        for name, text, rows in (("scores", CLASSES, SCORES), ("several", CLASSES, SEVERAL), ("tags", TAGS, TAGGED))
    }


def said(run, *rows):
    model = open_trained(run)
    return infer(model, [Row("row", row) for row in rows], model.manifest.recipe.generation).rows


# Each kind of label


def test_scores_are_learned_and_beat_their_mean(runs, tmp_path):
    manifest = runs["scores"].read()
    assert (manifest.problem_type, manifest.labels) == ("regression", ())
    assert "regression, because `label` has numbers such as 0.5" in manifest.plan.train_rows.why
    always_mean = numpy.std([row["label"] for row in SCORES])
    assert manifest.metrics["eval_rmse"] < 0.5 * always_mean
    assert manifest.metrics["eval_pearson"] > 0.9
    assert manifest.metrics["eval_spearman"] > 0.8
    rows = said(runs["scores"], {"text": "plum"}, {"text": "PLUM", "more": 1})
    assert rows[1]["more"] == 1
    assert rows[0]["output"] < 1.5 < rows[1]["output"]
    assert evaluate(open_trained(runs["scores"]), [Row("r", row) for row in SCORES], False).metrics == pytest.approx(
        {name: manifest.metrics[f"eval_{name}"] for name in ("pearson", "spearman", "rmse")}, abs=1e-4
    )
    merge(runs["scores"], tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert (merged.config.num_labels, merged.config.problem_type) == (1, "regression")


def test_several_labels_are_learned_and_beat_those_that_are_usual(runs, tmp_path):
    manifest = runs["several"].read()
    assert (manifest.problem_type, manifest.labels) == ("multi_label_classification", ("asks", "loud"))
    assert manifest.metrics["eval_subset_accuracy"] > 0.25 + 0.3
    assert manifest.metrics["eval_f1_micro"] > 0.8
    (row,) = said(runs["several"], {"text": "MAPLE?"})
    assert row["output"] == ["asks", "loud"]
    assert all(0.5 <= row["scores"][name] <= 1 for name in row["output"])
    found = evaluate(open_trained(runs["several"]), [Row("r", row) for row in SEVERAL], False).metrics
    assert found == pytest.approx({name: manifest.metrics[f"eval_{name}"] for name in found})
    merge(runs["several"], tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "asks", 1: "loud"}
    assert merged.config.problem_type == "multi_label_classification"


def test_tags_are_learned_and_beat_no_entity_at_all(runs, tmp_path):
    manifest = runs["tags"].read()
    assert manifest.labels == ("O", "B-loud")
    assert manifest.metrics["eval_f1"] > 0.8
    assert manifest.metrics["eval_f1/loud"] == manifest.metrics["eval_f1"]
    (row,) = said(runs["tags"], {"tokens": ["river", "MAPLE", "stone"], "tags": ["O", "O", "O"], "id": 7})
    assert row["tags"] == ["O", "B-loud", "O"]
    assert (row["id"], row["expected_tags"]) == (7, ["O", "O", "O"])
    (entity,) = row["entities"]
    assert 0.5 < entity.pop("score") <= 1
    assert entity == {"type": "loud", "start": 1, "end": 2, "text": "MAPLE"}
    found = evaluate(open_trained(runs["tags"]), [Row("r", row) for row in TAGGED], False).metrics
    assert found == pytest.approx({name: manifest.metrics[f"eval_{name}"] for name in found})
    assert merge(runs["tags"], tmp_path / "merged").largest_difference < 1e-4
    merged = AutoModelForTokenClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "O", 1: "B-loud"}
    settings = json.loads((runs["tags"].adapter / "adapter_config.json").read_text())
    assert (settings["task_type"], "score" in settings["modules_to_save"]) == ("TOKEN_CLS", True)


@pytest.mark.parametrize(
    ("name", "text", "printed"),
    [
        ("scores", "plum", "0."),
        ("several", "maple", "no label"),
        ("several", "MAPLE?", ("asks  0.9", "asks  1.0")),
        ("tags", "river MAPLE", "river MAPLE/B-loud"),
    ],
)
def test_what_infer_prints(runs, name, text, printed):
    done = CliRunner().invoke(app, ["infer", str(runs[name].path), "--input", text], catch_exceptions=False)
    assert done.stdout.splitlines()[-1].startswith(printed)


BASELINES = {
    "scores": (SCORES, {"rmse": numpy.std([row["label"] for row in SCORES])}),
    "several": (SEVERAL, {"f1_micro": 2 / 3, "f1_macro": 2 / 3, "subset_accuracy": 0.25}),
    "tags": (TAGGED, {"accuracy": 40 / 56, "f1": 0.0}),
}


@pytest.mark.parametrize("name", BASELINES)
def test_a_constant_answer_is_measured_beside_the_model(runs, name):
    rows, reached = BASELINES[name]
    opened = open_trained(runs[name])
    metrics = opened.manifest.metrics
    assert {key: value for key, value in metrics.items() if key.startswith("baseline/")} == pytest.approx(
        {f"baseline/eval_{metric}": value for metric, value in reached.items()}
    )
    found = evaluate(opened, [Row("r", row) for row in rows], False)
    assert (found.baseline, found.notes) == (pytest.approx(reached), ())
    (suite,) = found.suites
    assert {one: suite.whole.figures[one]["adapter"].value for one in found.metrics} == pytest.approx(found.metrics)
    assert [one.verdict for one in suite.whole.contests if one.figure == suite.deciding] == ["better"]
    older = replace(opened, manifest=opened.manifest.model_copy(update={"baseline": {}}))
    plain = evaluate(older, [Row("r", row) for row in rows], False)
    assert (plain.metrics, plain.baseline, plain.notes) == (found.metrics, {}, ())


def test_a_model_that_is_no_better_than_a_constant_is_said_to_be(runs, tmp_path):
    class Warned(SilentObserver):
        def warn(self, text):
            told.append(text)

    told = []
    run = run_rows(tmp_path, CLASSES, [{**row, "label": row["label"] + 50} for row in SCORES], *FEW, observer=Warned())
    metrics = run.read().metrics
    expected = f"RMSE {metrics['eval_rmse']:.4g}, the mean has {metrics['baseline/eval_rmse']:.4g}"
    assert f"worse than always answering the mean: {expected}" in told
    found = evaluate(open_trained(runs["scores"]), [Row("r", {"text": "plum", "label": 2.0})], False)
    assert found.notes == (f"worse than always answering the mean: RMSE {found.metrics['rmse']:.4g}, the mean has 0",)


def test_answers_do_not_depend_on_the_batch_nor_on_how_a_sentence_is_cut(runs):
    model = open_trained(runs["tags"])
    rows = [Row(str(number), row) for number, row in enumerate([*TAGGED[:5], {"tokens": ["RIVER", "stone"] * 40}])]
    settings = model.manifest.recipe.generation
    alone = [infer(model, [row], settings).rows[0]["tags"] for row in rows]
    together = infer(model, rows, settings.model_copy(update={"batch_size": 6})).rows
    assert [row["tags"] for row in together] == alone
    assert len(alone[-1]) == 80
    assert alone[-1].count("B-loud") > 20


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """A folder with a base of one layer, which is as wide as all methods need."""
    folder = tmp_path_factory.mktemp("one-layer")
    config = AutoConfig.from_pretrained(ASSETS / "nano", num_hidden_layers=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(ASSETS / "nano").save_pretrained(folder / "base")
    return folder


@pytest.mark.parametrize(
    "method", [name for name, kind in METHODS.items() if kind.capabilities.token_classification is True]
)
def test_every_method_that_may_tag_does(one_layer, tmp_path, method):
    text = TAGS.replace("lorans:nano", "base").replace('"run"', f'"{tmp_path / "run"}"')
    run = run_rows(one_layer, text, TAGGED, f'peft.method="{method}"', *FEW)
    (row,) = said(run, {"tokens": ["river", "MAPLE"]})
    assert len(row["tags"]) == 2
    assert any("score" in key for key in load_file(run.adapter / WEIGHTS))


# Loss


@pytest.mark.parametrize(
    ("text", "rows", "weights"),
    [
        (
            CLASSES,
            [{"text": row["text"], "label": "loud" if row["text"].isupper() else "quiet"} for row in SCORES],
            "[3.0, 0.5]",
        ),
        (CLASSES, SCORES, '"none"'),
        (CLASSES, SEVERAL, '"balanced"'),
        (TAGS, TAGGED, '"balanced"'),
    ],
    ids=["classes", "scores", "several", "tags"],
)
def test_neither_the_micro_batch_nor_the_evaluation_batch_moves_the_result(tmp_path, monkeypatch, text, rows, weights):
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda _, values: values)  # a head has some of its own
    results = []
    for size in (1, 8):
        folder = tmp_path / str(size)
        folder.mkdir()
        overrides = [
            "training.global_batch_size=8",
            f"training.per_device_train_batch_size={size}",
            f"training.per_device_eval_batch_size={1 if size == 8 else 5}",
            "training.group_by_length=false",
            "training.max_steps=3",
            "training.learning_rate=1e-3",
            f"classification.class_weights={weights}",
        ]
        if weights == '"none"':
            overrides.pop()
        run = run_rows(folder, text, rows, *overrides)
        results.append((load_file(run.adapter / WEIGHTS), run.read().metrics["eval_loss"]))
    (one, one_loss), (eight, eight_loss) = results
    assert all(torch.allclose(one[key], eight[key], atol=1e-5) for key in one)
    assert one_loss == pytest.approx(eight_loss, abs=1e-5)


def test_balanced_weights_turn_a_classifier_to_the_rare_class(tmp_path):
    rows = [{"text": word, "label": "usual"} for word in WORDS * 4] + [{"text": "odd", "label": "rare"}]
    losses = {}
    for weights in ("none", "balanced"):
        folder = tmp_path / weights
        folder.mkdir()
        run = run_rows(
            folder, CLASSES, rows, f"classification.class_weights={weights}", *FEW, "training.global_batch_size=33"
        )
        losses[weights] = said(run, {"text": "odd"})[0]["scores"]["rare"]
    assert losses["balanced"] > losses["none"]


@pytest.mark.parametrize(
    ("rows", "overrides", "told"),
    [
        (
            SCORES,
            ["classification.class_weights=balanced"],
            "class_weights: `class_weights` has no effect with regression",
        ),
        (SCORES, ["classification.threshold=0.3"], "`threshold` has no effect with regression"),
        (SEVERAL, ["classification.class_weights=[1.0, 2.0, 3.0]"], "3 weights for 2 labels: asks, loud (give one"),
        ([{"text": "a", "label": "x"}] * 3, [], "only one class, `x`"),
        ([{"text": "a", "label": []}] * 3, [], "no label in any row"),
        (
            SEVERAL,
            ['classification.labels=["asks", "shouts"]'],
            "label `loud` is not among those trained (known: asks, shouts)",
        ),
        (SEVERAL, ["classification.problem_type=single_label_classification"], "`label` is a list"),
    ],
)
def test_what_does_not_go_with_the_labels_is_told(trained_on, rows, overrides, told):
    with pytest.raises(LoransError) as caught:
        trained_on(CLASSES, rows, *overrides)
    assert told in str(caught.value)


def test_rows_may_give_the_numbers_of_labels_that_the_recipe_names(trained_on):
    rows = [{"text": "a", "label": [1]}, {"text": "b", "label": [0, 1]}]
    run = trained_on(CLASSES, rows, 'classification.labels=["x", "y"]', *FEW)
    assert run.read().labels == ("x", "y")
    with pytest.raises(DataError, match="label `2` is not among those trained"):
        evaluate(open_trained(run), [Row("r", {"text": "a", "label": [2]})], False)


def test_whole_numbers_are_scores_if_the_recipe_says_so(trained_on):
    rows = [{"text": word, "label": number} for number, word in enumerate(WORDS)]
    run = trained_on(CLASSES, rows, "classification.problem_type=regression", *FEW)
    assert run.read().problem_type == "regression"


@pytest.mark.parametrize("kind", [".parquet", ".jsonl"])
def test_labels_come_from_parquet_as_they_do_from_json(trained_on, tmp_path, kind):
    if kind == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(SEVERAL), tmp_path / "other.parquet")
        run = trained_on(CLASSES, [], f"dataset.path=other{kind}", f"dataset.eval_path=other{kind}", *FEW)
    else:
        run = trained_on(CLASSES, SEVERAL, *FEW)
    assert run.read().labels == ("asks", "loud")


def test_scores_from_a_table_are_scores(trained_on, tmp_path):
    (tmp_path / "scores.csv").write_text("text,label\na,0.5\nb,2\nc,1.25\n")
    run = trained_on(CLASSES, [], "dataset.path=scores.csv", "dataset.eval_path=scores.csv", *FEW)
    assert run.read().problem_type == "regression"


def test_a_prediction_that_never_changes_has_no_correlation_and_no_nan(runs):
    rows = [Row("r", {"text": "plum", "label": score}) for score in (1.0, 2.0)]
    found = evaluate(open_trained(runs["scores"]), rows, False).metrics
    assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
    assert math.isfinite(found["rmse"])


# Words


def test_conll_trains_and_an_unknown_tag_is_told_with_its_place(trained_on, tmp_path):
    (tmp_path / "train.conll").write_text("a O\nPLUM B-loud\n\nb O\n" * 4)
    (tmp_path / "eval.conll").write_text("a O\n\nb B-odd\n")
    paths = ("dataset.path=train.conll", "dataset.eval_path=train.conll")
    assert trained_on(TAGS, [], *paths, *FEW).read().labels == ("O", "B-loud")
    with pytest.raises(
        DataError, match=r"eval.conll:3: \[LABEL001\] tag `B-odd` is not among those trained \(known: O"
    ):
        trained_on(TAGS, [], paths[0], "dataset.eval_path=eval.conll", "training.output_dir=other", *FEW)


def test_a_sentence_that_is_too_long_is_cut_and_its_words_are_counted(trained_on):
    rows = [*TAGGED, {"tokens": ["plum"] * 40, "tags": ["O"] * 40}]
    manifest = trained_on(TAGS, rows, *FEW).read()
    assert manifest.data.train.truncated == 1
    assert "training rows too long: 0 left out, 1 truncated (24 words with their tags)" in manifest.plan.notes


def test_a_word_that_becomes_no_token_moves_no_tag(runs):
    rows = said(runs["tags"], {"tokens": ["river", "", "MAPLE", "stone"]}, {"tokens": [""]}, {"tokens": ["MAPLE"]})
    assert [row["tags"] for row in rows] == [["O", "O", "B-loud", "O"], ["O"], ["B-loud"]]


def test_what_merging_refuses_it_refuses_for_tags_too(trained_on, tmp_path):
    run = trained_on(TAGS, TAGGED, "peft.method=prefix-tuning", *FEW)
    with pytest.raises(UsageError, match="cannot be merged"):
        merge(run, tmp_path / "merged")


def test_a_text_is_split_into_words(runs):
    model = open_trained(runs["tags"])
    assert as_row(model, " river  MAPLE\t").values == {"tokens": ["river", "MAPLE"]}


# Before training


def shown(folder, text, rows, *arguments):
    (folder / "recipe.toml").write_text(text.replace("eval_path", "#"))
    (folder / "classes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CliRunner().invoke(app, ["validate", str(folder / "recipe.toml"), *arguments], catch_exceptions=False).stdout


@pytest.mark.parametrize(
    ("text", "rows", "expected"),
    [
        (CLASSES, [{"text": "ab", "label": "x"}, {"text": "c", "label": "y"}], "2 tokens, class `x`"),
        (CLASSES, [{"text": "ab", "label": 1}, {"text": "c", "label": 0}], "2 tokens, class `1`"),
        (CLASSES, [{"text": "ab", "label": 1.5}], "2 tokens, score 1.5"),
        (CLASSES, [{"text": "ab", "label": ["y", "x"]}], "2 tokens, labels `y`, `x`"),
        (CLASSES, [{"text": "ab", "label": []}, {"text": "ab", "label": ["y", "x"]}], "2 tokens, no label"),
        (TAGS, [{"tokens": ["ab", "", "c"], "tags": ["B-x", "O", "O"]}], "3 tokens, 2 words with a tag: ab/B-x c/O"),
    ],
)
def test_a_shown_row_names_what_is_learned(tmp_path, text, rows, expected):
    first = shown(tmp_path, text, rows, "--show", "1").splitlines()[0]
    assert first.endswith(f"classes.jsonl:1: {expected}")


def test_the_class_that_is_measured_and_the_joint_of_pairs_are_told(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in ("no", "yes")]
    told = shown(tmp_path, CLASSES, rows, "--show", "1")
    assert "note: f1, precision and recall refer to class `yes`, the second of two" in told
    assert "note: the base's tokenizer puts nothing between the two texts of a pair" in told
    assert "\na\nb\n" in told
