"""Items of suites that a run was trained on: `validate` and `eval` name them, and `eval` also counts without them."""

import json
import shutil

import pytest

pytest.importorskip("torch")

from services_recipes import CLASSES, RECIPE, run_recipe

from lora_ns.answers.opened import open_run
from lora_ns.cli.verdicts import show_suites
from lora_ns.data.rows import Row
from lora_ns.data.stream import stream_rows
from lora_ns.data.suite_leaks import leak_findings, leaked_items, passages
from lora_ns.formats import FORMATS, Columns, TextClassification
from lora_ns.recipe.load import load_recipe
from lora_ns.services.evaluate import Beside, evaluate
from lora_ns.suites.labels import TagSuite

LONG = "Mara buys three crates of pears on Monday and sells half of them before noon; how many pears are left over?"
TRAINING = [{"prompt": f"Spell {word}.", "completion": word[::-1]} for word in ("plum", "stone", "river", "cloud")] * 2
TRAINING += [{"prompt": LONG, "completion": "60"}, {"prompt": "What is 7 - 2?", "completion": "5"}]
ASKED = [
    {"prompt": f"Now: {LONG}", "completion": "sixty"},
    *({"prompt": f"What is {number} + 2?", "completion": str(number + 2)} for number in range(6)),
    {"prompt": "What is 7 - 2?", "completion": "5"},
]
SUITE = '{kind = "exact-match", path = "asked.jsonl", name = "asked"}'
HELD = {"asked.jsonl:1": "rows.jsonl:9", "asked.jsonl:8": "rows.jsonl:10"}


def write(folder, name, rows):
    (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def short(place):
    return place.rpartition("/")[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaks")
    write(folder, "rows.jsonl", TRAINING)
    write(folder, "asked.jsonl", ASKED)
    text = RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl").replace("max_steps = 6", "max_steps = 1")
    return run_recipe(folder, text, f"evaluation.suites=[{SUITE}]", "sft.max_seq_length=160")


def evaluated(run):
    suites, rows = run.read().recipe.evaluation.suites, [Row("given:1", ASKED[3])]
    result = evaluate(open_run(run), rows, exact_match=False, beside=Beside(suites))
    return result, result.suites[-1]


def test_figures_are_given_with_and_without_the_items(run, capsys):
    result, asked = evaluated(run)
    assert result.notes == ()
    assert {short(item): short(row) for item, row in asked.contaminated.items()} == HELD
    assert (asked.whole.items, asked.clean.items) == (8, 6)
    assert [contest.figure for contest in asked.clean.contests] == ["exact_match"]
    assert result.suites[0].contaminated == {}
    assert result.suites[0].clean is None
    show_suites(result.suites, None)
    out = capsys.readouterr().out
    assert "asked: 2 of 8 items are in the training rows; without them: adapter 100.0 % (" in out
    assert "adapter against base without them: cannot tell:" in out
    saved = [json.loads(line) for line in (run.path / result.saved / "items.jsonl").read_text().splitlines()]
    kept = {short(row["item"]): row["contaminated"] for row in saved if "contaminated" in row}
    assert {item: short(found["row"]) for item, found in kept.items()} == HELD
    table = json.loads((run.path / result.saved / "results.json").read_text())["suites"][-1]
    assert table["clean"]["items"] == 6
    assert len(table["contaminated"]) == 2


def test_changed_training_rows_are_replaced_by_those_that_the_run_keeps(run, tmp_path):
    moved = tmp_path / "rows.kept"
    rows = run.path.parent / "rows.jsonl"
    shutil.copy(rows, moved)
    try:
        write(run.path.parent, "rows.jsonl", TRAINING[:8])
        result, asked = evaluated(run)
        (note,) = result.notes
        assert "has other rows than the run was trained on" in note
        assert "the prepared rows that the run keeps" in note
        assert {short(item): row for item, row in asked.contaminated.items()} == {"asked.jsonl:1": "prepared row 9"}
        rows.unlink()
        run.data.rename(tmp_path / "data")
        result, asked = evaluated(run)
        (note,) = result.notes
        assert "so it is not known which items of the suites are among them" in note
        assert (asked.contaminated, asked.clean) == (None, None)
    finally:
        shutil.copy(moved, rows)
        if (tmp_path / "data").is_dir():
            (tmp_path / "data").rename(run.data)


def test_a_suite_that_is_trained_on_as_a_whole_has_no_figures_without(run, capsys):
    write(run.path.parent, "asked.jsonl", [ASKED[0], ASKED[-1]])
    try:
        _, asked = evaluated(run)
    finally:
        write(run.path.parent, "asked.jsonl", ASKED)
    assert (len(asked.contaminated), asked.clean) == (2, None)
    show_suites([asked], None)
    assert "asked: all 2 items are in the training rows" in capsys.readouterr().out


@pytest.mark.parametrize("streaming", [False, True], ids=["rows", "stream"])
def test_validate_names_the_items_and_their_training_rows(tmp_path, streaming, monkeypatch):
    from lora_ns.data import sources
    from lora_ns.machine.hardware import detect
    from lora_ns.run.observer import SilentObserver
    from lora_ns.services.validate import audit, prepare_rows

    monkeypatch.setattr(sources, "PROBE_ROWS", 4)
    write(tmp_path, "rows.jsonl", TRAINING)
    write(tmp_path, "asked.jsonl", ASKED)
    text = RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl").replace("max_samples = 64\n", "")
    (tmp_path / "recipe.toml").write_text(text)
    given = (f"evaluation.suites=[{SUITE}]", f"dataset.streaming={str(streaming).lower()}")
    loaded = load_recipe(tmp_path / "recipe.toml", given)
    found = audit(prepare_rows(loaded, detect(), SilentObserver()), detect()).findings
    (finding,) = [one for one in found if one.code == "LEAK003"]
    assert finding.what == "evaluation.suites.0: 2 of 8 items are in the training rows"
    assert not finding.error
    assert finding.remedy
    assert [tuple(map(short, place.removesuffix(")").split(" (as "))) for place in finding.rows] == list(HELD.items())


def test_a_suite_that_cannot_be_read_leaves_the_others(tmp_path):
    write(tmp_path, "rows.jsonl", TRAINING)
    write(tmp_path, "asked.jsonl", [*ASKED, {"prompt": 3}])
    (tmp_path / "recipe.toml").write_text(RECIPE)
    suites = f'[{{kind = "number", path = "none.jsonl"}}, {SUITE}]'
    loaded = load_recipe(tmp_path / "recipe.toml", [f"evaluation.suites={suites}"])
    form = FORMATS["prompt-completion"](Columns())
    training = passages([*stream_rows(loaded.recipe, [tmp_path / "rows.jsonl"])], form)
    (finding,) = leak_findings(loaded.recipe, tmp_path, form, (), training)
    assert finding.what == "evaluation.suites.1: 2 of 9 items are in the training rows"


def test_rows_of_the_run_that_training_started_from_are_searched(run, tmp_path):
    write(tmp_path, "rows.jsonl", TRAINING[:8])
    write(tmp_path, "asked.jsonl", ASKED)
    text = RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl").replace("max_steps = 6", "max_steps = 1")
    settings = (f"evaluation.suites=[{SUITE}]", "sft.max_seq_length=160", f"model.init_adapter='{run.path}'")
    later = run_recipe(tmp_path, text, *settings)
    result, asked = evaluated(later)
    assert result.notes == ()
    assert {short(item): short(row) for item, row in asked.contaminated.items()} == HELD
    moved = run.path.rename(run.path.parent / "moved")
    try:
        result, asked = evaluated(later)
    finally:
        moved.rename(run.path)
    assert asked.contaminated == {}
    (note,) = result.notes
    assert note.startswith(f"{run.path}, whose adapter this run started from: its rows cannot be read (")


def test_texts_with_labels_are_searched_without_their_labels(classifier_run):
    texts = {"Plum": "loud", "RIVER": "loud", "a river of plums": "quiet"}
    rows = [
        Row(f"given:{number}", {"text": text, "label": label}) for number, (text, label) in enumerate(texts.items())
    ]
    result = evaluate(open_run(classifier_run), rows, exact_match=False)
    assert not [note for note in result.notes if "training rows" in note]
    (found,) = result.suites
    assert {item: short(row) for item, row in found.contaminated.items()} == {
        "given:0": "classes.jsonl:1",
        "given:1": "classes.jsonl:5",
    }
    assert found.clean.items == 1


def test_pairs_of_glue_are_searched_before_training(tmp_path):
    form = TextClassification(
        Columns(text_column="sentence1", text_pair_column="sentence2"), "single_label_classification"
    )
    trained = {"sentence1": "It rains.", "sentence2": "It is wet.", "label": "equivalent"}
    held = {"#1 String": "It rains", "#2 String": "it is wet", "Quality": 0}
    write(tmp_path, "asked.jsonl", [{**held, "#2 String": "It is dry"}, held])
    (tmp_path / "recipe.toml").write_text(CLASSES)
    suite = 'evaluation.suites=[{kind = "glue", task = "mrpc", path = "asked.jsonl"}]'
    recipe = load_recipe(tmp_path / "recipe.toml", [suite]).recipe
    (finding,) = leak_findings(recipe, tmp_path, form, (), passages([Row("rows.jsonl:1", trained)], form))
    assert finding.what == "evaluation.suites.0: 1 of 2 items are in the training rows"
    assert [short(place) for place in finding.rows] == ["asked.jsonl:2 (as rows.jsonl:1)"]


def test_words_with_tags_are_searched(tmp_path):
    form = FORMATS["token-classification"](Columns())
    words = ["Ada", "lives", "in", "Paris", "."]
    rows = [
        Row(f"rows:{number}", {"tokens": some, "tags": ["O"] * len(some)})
        for number, some in enumerate((words, words[:3]))
    ]
    ((found, none),) = leaked_items([(TagSuite(), rows)], form, passages(rows[:1], form))
    assert (found.row, none) == ("rows:0", None)
