"""Where rows come from: slices, stratified shares, several sources and how they are mixed."""

import json
from collections import Counter

import pytest
from plans import plan_here

from lora_ns.data.find_labels import find_labels
from lora_ns.data.sources import notes, read_sources
from lora_ns.errors import DataError
from lora_ns.formats import Conversation, PromptCompletion, RawText
from lora_ns.objectives import Classification
from lora_ns.recipe.load import load_recipe, locating

SHORT = "sft.max_seq_length=64"


def plain(name, count):
    return [{"prompt": f"{name} {number}", "completion": "b"} for number in range(count)]


def chats(name, count):
    turns = ({"role": "user", "content": name}, {"role": "assistant", "content": "b"})
    return [{"messages": turns, "number": number} for number in range(count)]


def classes(**counts):
    return [{"text": f"{name} {number}", "label": name} for name, count in counts.items() for number in range(count)]


@pytest.fixture
def write(tmp_path):
    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


@pytest.fixture
def read(write_recipe, minimal):
    def read(*overrides, sources="", text=minimal):
        """The recipe's rows; `sources` come as TOML in the place of its path."""
        text = text.replace('path = "train.jsonl"\n', sources) if sources else text
        loaded = load_recipe(write_recipe(text), overrides)
        with locating(loaded):
            return read_sources(loaded.recipe, loaded.folder)

    return read


@pytest.fixture
def told(read, tmp_path):
    def told(*overrides, **more):
        with pytest.raises(DataError) as caught:
            read(*overrides, **more)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return told


def numbers(source):
    return [int(row.where.rpartition(":")[2]) for row in source.rows]


# Slices


@pytest.mark.parametrize(
    ("overrides", "first", "last"),
    [
        (['slice="10:20"'], 11, 20),
        (['slice="10:20"', "max_samples=3"], 11, 13),
        (['slice=":10%"'], 1, 5),
        (['slice="-5:"'], 46, 50),
        (['slice="-5:"', "max_samples=2"], 46, 47),
        (['slice="50%:"', "max_samples=4"], 26, 29),
        (['slice="40:400"'], 41, 50),
        (["max_samples=4"], 1, 4),
    ],
)
def test_a_slice_is_taken_before_rows_are_counted(read, write, write_recipe, overrides, first, last):
    write("train.jsonl", plain("a", 50))
    overrides = [f"dataset.{override}" for override in overrides]
    expected = list(range(first, last + 1))
    assert numbers(read(*overrides).train) == expected
    named = [
        override.replace("slice", "eval_slice").replace("max_samples", "max_eval_samples") for override in overrides
    ]
    evaluated = read("dataset.eval_path=train.jsonl", *named)
    assert (numbers(evaluated.eval), len(evaluated.train.rows)) == (expected, 50)
    assert plan_here(load_recipe(write_recipe(), [*overrides, SHORT])).train_rows.value == len(expected)


def test_rows_behind_a_slice_are_not_read(read, write, tmp_path):
    write("train.jsonl", plain("a", 9))
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("no row\n")
    assert numbers(read('dataset.slice="3:9"').train) == [4, 5, 6, 7, 8, 9]
    with pytest.raises(DataError, match="not JSON"):
        read('dataset.slice="3:10"')


@pytest.mark.parametrize("key", ["slice", "eval_slice"])
def test_a_slice_without_rows_is_told_at_its_key(told, write, key):
    write("train.jsonl", plain("a", 9))
    override = f'dataset.{key}="9:12"'
    expected = f"--set: dataset.{key}: no row of train.jsonl is in `9:12` (there are 9)"
    assert told("dataset.eval_path=train.jsonl", override) == expected


# Shares


CLASSES = ["task_type=SEQ_CLS", "dataset.eval_fraction=0.1"]


def counted(source):
    return dict(Counter(row.values["label"] for row in source.rows))


def test_a_share_is_stratified_by_class(read, write):
    write("train.jsonl", classes(many=100, some=30, few=8, two=2))
    sources = read(*CLASSES)
    assert counted(sources.eval) == {"many": 9, "some": 3, "few": 1, "two": 1}
    assert counted(sources.train) == {"many": 91, "some": 27, "few": 7, "two": 1}
    again, other = read(*CLASSES), read(*CLASSES, "training.seed=1")
    assert numbers(again.eval) == numbers(sources.eval) != numbers(other.eval)
    assert counted(other.eval) == counted(sources.eval)


def test_fewer_evaluation_rows_are_stratified_too(read, write):
    write("train.jsonl", classes(many=100, some=100))
    assert counted(read(*CLASSES, "dataset.max_eval_samples=6").eval) == {"many": 3, "some": 3}


def test_a_share_can_be_drawn_without_regard_to_classes(read, write):
    write("train.jsonl", classes(many=100, two=2))
    plainly = read(*CLASSES, "dataset.stratify_by_column=none")
    as_text = read("dataset.eval_fraction=0.1", 'dataset.columns={prompt = "text", completion = "label"}')
    assert numbers(plainly.eval) == numbers(as_text.eval)


def test_the_share_of_text_is_drawn_as_ever(read, write):
    """What was set aside by earlier versions is set aside still."""
    write("train.jsonl", plain("a", 30))
    assert numbers(read("dataset.eval_fraction=0.1").eval) == [1, 4, 21]


def test_text_is_stratified_by_a_column_that_is_named(read, write):
    write("train.jsonl", [{**row, "kind": number % 10 == 0} for number, row in enumerate(plain("a", 100))])
    held_out = read("dataset.eval_fraction=0.2", "dataset.stratify_by_column=kind").eval
    assert Counter(row.values["kind"] for row in held_out.rows) == {False: 18, True: 2}


def test_a_column_that_is_not_there_cannot_be_stratified_by(told, write):
    write("train.jsonl", plain("a", 9))
    expected = "train.jsonl:1: no column `kind`, which `stratify_by_column` names (columns: prompt, completion)"
    assert told("dataset.eval_fraction=0.2", "dataset.stratify_by_column=kind").splitlines()[0] == expected


# Several sources

TWO = """[[dataset.sources]]
path = "a.jsonl"
[[dataset.sources]]
path = "b.jsonl"
"""
WEIGHTED = TWO.replace('a.jsonl"', 'a.jsonl"\nweight = 1').replace('b.jsonl"', 'b.jsonl"\nweight = 3')
REPEATED = WEIGHTED.replace("[[", 'stopping_strategy = "all_exhausted"\n[[', 1)


def examples(source):
    return [row.form.example(row.values) for row in source.rows]


def test_sources_without_weights_follow_one_another_each_in_its_format(read, write):
    write("a.jsonl", chats("a", 3))
    write("b.jsonl", [{"text": "b"}] * 2)
    sources = read(sources=TWO + 'slice = "1:"\n')
    kinds = [type(example) for example in examples(sources.train)]
    assert kinds == [Conversation] * 3 + [RawText]
    assert [(part.form.name, len(part.source.rows), part.used) for part in sources.parts] == [
        ("messages", 3, 3),
        ("text", 1, 1),
    ]
    assert [note.partition("]")[0] for note in notes(sources)] == ["[DATA004"]  # `number`, which chats have


def test_one_file_can_be_read_in_two_ways(read, write):
    write("a.jsonl", plain("a", 2))
    text = TWO.replace("b.jsonl", "a.jsonl") + 'format = "messages"\n'
    assert [type(example) for example in examples(read(sources=text).train)] == [
        *[PromptCompletion] * 2,
        *[Conversation] * 2,
    ]


def test_weights_are_shares_of_the_rows(read, write, write_recipe, minimal):
    write("a.jsonl", plain("a", 1000))
    write("b.jsonl", plain("b", 900))
    sources = read(sources=WEIGHTED)
    used = [part.used for part in sources.parts]
    assert used[1] == 900
    assert used[1] / sum(used) == pytest.approx(0.75, abs=0.03)
    assert [part.repeated for part in sources.parts] == [0, 0]
    plan = plan_here(load_recipe(write_recipe(minimal.replace('path = "train.jsonl"', WEIGHTED)), [SHORT]))
    assert (plan.train_rows.value, list(plan.notes[:2])) == (len(sources.train.rows), notes(sources))


def test_repeated_rows_are_counted_and_said(read, write, tmp_path):
    write("a.jsonl", plain("a", 10))
    write("b.jsonl", plain("b", 90))
    sources = read(sources=REPEATED)
    first, second = sources.parts
    assert (second.used, second.repeated) == (90, 0)
    assert first.repeated == first.used - 10 == len(sources.train.rows) - 100
    assert first.repeated
    share = first.used / len(sources.train.rows)
    assert notes(sources)[0] == (
        f"{tmp_path}/a.jsonl: {share:.1%} of the training rows, {first.used} from 10 rows, {first.repeated} of them "
        "repetitions"
    )


def test_the_mix_follows_from_seed_and_weights(read, write):
    write("a.jsonl", plain("a", 50))
    write("b.jsonl", plain("b", 50))
    mixed = read(sources=WEIGHTED).train
    assert read(sources=WEIGHTED).train.sha256 == mixed.sha256
    assert read("training.seed=1", sources=WEIGHTED).train.sha256 != mixed.sha256
    assert read("dataset.sources.1.weight=4", sources=WEIGHTED).train.sha256 != mixed.sha256
    assert read("dataset.sources.1.format=messages", sources=WEIGHTED).train.sha256 != mixed.sha256
    first = read("dataset.max_samples=20", sources=WEIGHTED).train
    assert [row.where for row in first.rows] == [row.where for row in mixed.rows[:20]]


@pytest.mark.parametrize("sources", [TWO, WEIGHTED, REPEATED], ids=["concatenated", "weighted", "repeated"])
@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_both_trained_on_and_evaluated(read, write, sources, seed):
    """What is set aside is set aside before rows are repeated; each source gives its share."""
    write("a.jsonl", plain("a", 10))
    write("b.jsonl", chats("b", 90))
    found = read("dataset.eval_fraction=0.2", f"training.seed={seed}", sources=sources)
    trained, evaluated = ({row.where for row in source.rows} for source in (found.train, found.eval))
    assert len(evaluated) == 20
    assert not trained & evaluated
    assert [part.held_out for part in found.parts] == [2, 18]
    if sources == REPEATED:
        assert len(trained) == 80
        assert len(found.train.rows) > 80


def test_classes_are_found_in_all_sources(read, write):
    write("a.jsonl", classes(x=5))
    write("b.jsonl", [{"sentence": "s", "kind": "y"}] * 5)
    sources = read("task_type=SEQ_CLS", sources=TWO + 'text_column = "sentence"\nlabel_column = "kind"\n')
    assert find_labels(sources.train, sources.format, Classification()) == ("x", "y")


def test_evaluation_rows_may_be_in_another_format(read, write):
    write("a.jsonl", plain("a", 3))
    write("b.jsonl", plain("b", 3))
    write("c.jsonl", chats("c", 2))
    sources = read(sources='eval_path = "c.jsonl"\n' + TWO)
    assert sources.format.name == "messages"
    assert [type(example) for example in examples(sources.eval)] == [Conversation] * 2


MISTAKES = {
    "no file": (
        {"a.jsonl": plain("a", 3)},
        TWO,
        [],
        "recipe.toml:14: dataset.sources.1.path: no file `b.jsonl` (looked at b.jsonl)",
    ),
    "no format": (
        {"a.jsonl": plain("a", 3), "b.jsonl": [{"x": 1}]},
        TWO,
        [],
        "recipe.toml:13: b.jsonl: no format matches the columns `x`",
    ),
    "a column that is not there": (
        {"a.jsonl": plain("a", 3), "b.jsonl": plain("b", 3)},
        TWO + 'columns = {prompt = "promt"}\n',
        [],
        "recipe.toml:15: dataset.sources.1.columns.prompt: `promt` is not a column of the data (b.jsonl) (did you mean",
    ),
    "an empty slice": (
        {"a.jsonl": plain("a", 3), "b.jsonl": plain("b", 3)},
        TWO + 'slice = "5:6"\n',
        [],
        "recipe.toml:15: dataset.sources.1.slice: no row of b.jsonl is in `5:6` (there are 3)",
    ),
    "a weight of nearly nothing": (
        {"a.jsonl": plain("a", 3), "b.jsonl": plain("b", 3)},
        REPEATED,
        ["dataset.sources.0.weight=1e-9"],
        "--set: dataset.sources.0.weight: needs about 9,000,000,003 rows until all 6 have been used once (give it more",
    ),
    "answers in two formats": (
        {"a.jsonl": plain("a", 9), "b.jsonl": chats("b", 9)},
        TWO,
        ["dataset.eval_fraction=0.3", "evaluation.exact_match=true"],
        "--set: evaluation.exact_match: the held-out rows have several formats (prompt-completion, messages)",
    ),
    "labels of two kinds": (
        {"a.jsonl": classes(x=3, y=3), "b.jsonl": [{"text": "a", "label": 0.5}]},
        TWO,
        ["task_type=SEQ_CLS"],
        "recipe.toml:13: dataset.sources.1: its labels are read as regression, but those of `dataset.sources.0` as ",
    ),
    "a text that is no row": (
        {"a.jsonl": plain("a", 3), "b.txt": plain("b", 1)},
        TWO.replace("b.jsonl", "b.txt") + 'slice = ":1"\nprompt_template = "{text}"\ncompletion_template = "{text}"\n',
        [],
        "b.txt[:1]: a .txt file is one text that is learned whole, not a row of prompt-completion",
    ),
    "a table without names": (
        {"a.jsonl": plain("a", 3), "b.csv": [{"x": 1}, {"x": 2}]},
        TWO.replace("b.jsonl", "b.csv"),
        [],
        'recipe.toml:13: b.csv: no format matches the columns `{"x": 1}` (the first line is the header: if it is a ',
    ),
    "a source that is evaluated whole": (
        {"a.jsonl": plain("a", 1), "b.jsonl": plain("b", 1)},
        TWO,
        ["dataset.eval_fraction=0.5"],
        "a.jsonl: dataset.sources.0: no row of a.jsonl is left to train on (give it more rows",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_source_is_told(told, write, case):
    files, sources, overrides, expected = MISTAKES[case]
    for name, rows in files.items():
        write(name, rows)
    assert told(*overrides, sources=sources).startswith(expected)


def test_messages_that_are_not_there_are_called_so(read, write):
    write("train.jsonl", [{"turns": []}])
    sources = read("dataset.format=messages")
    with pytest.raises(Exception, match="no column `messages`"):
        sources.format.example(sources.train.rows[0].values)


# How files are read that do not say so


def test_tabs_in_a_csv_are_found_and_said(read, tmp_path):
    (tmp_path / "train.csv").write_text('prompt\tcompletion\nwhat, "now\tb\n')
    found = read("dataset.path=train.csv")
    assert dict(found.train.rows[0].values) == {"prompt": 'what, "now', "completion": "b"}
    (note,) = notes(found)
    assert note.startswith(f"{tmp_path}/train.csv: read with tabs as the delimiter")
    assert notes(read("dataset.path=train.csv", r'dataset.delimiter="\t"')) == []


@pytest.mark.parametrize("mark", [";", "|"])
def test_another_mark_in_a_csv_is_found_and_said(read, tmp_path, mark):
    (tmp_path / "train.csv").write_text(f"prompt{mark}completion\na, c{mark}b\n")
    found = read("dataset.path=train.csv")
    assert dict(found.train.rows[0].values) == {"prompt": "a, c", "completion": "b"}
    (note,) = notes(found)
    assert note.startswith(f"{tmp_path}/train.csv: read with `{mark}` as the delimiter")
    assert notes(read("dataset.path=train.csv", f"dataset.delimiter={mark}")) == []
    (tmp_path / "train.csv").write_text(f"prompt{mark}completion\na{mark}b\n")
    with pytest.raises(DataError, match="no format matches the columns"):
        read("dataset.path=train.csv", "dataset.delimiter=,")


def test_a_column_that_has_a_mark_in_its_name_is_told_with_the_delimiter(read, tmp_path):
    (tmp_path / "train.csv").write_text("prompt, short;completion\na, c;b\n")
    with pytest.raises(DataError, match='write `delimiter = ";"`'):
        read("dataset.path=train.csv")


def test_a_text_file_is_a_table_or_lines_if_asked(read, tmp_path):
    (tmp_path / "train.txt").write_text("prompt|completion\na|b\n")
    assert read("dataset.path=train.txt").format.name == "text"
    assert read("dataset.path=train.txt", "dataset.delimiter=|").format.name == "prompt-completion"
    lines = read("dataset.path=train.txt", "dataset.sample_by=line")
    assert [lines.format.example(row.values) for row in lines.train.rows] == [
        RawText("prompt|completion"),
        RawText("a|b"),
    ]


# What the plan says of rows in files


def planned(write_recipe, text, *overrides):
    return plan_here(load_recipe(write_recipe(text), overrides))


def test_the_plan_shows_the_format_that_is_found_and_what_nothing_reads(write, write_recipe, minimal):
    write("train.jsonl", [{"question": "a", "answer": "b", "level": 3}] * 4)
    write("eval.jsonl", [{"question": "a", "answer": "b", "kind": "x"}])
    made = planned(write_recipe, minimal, "dataset.eval_path=eval.jsonl", SHORT)
    assert (made.format.value, made.format.why) == ("question-answer", "columns `question`, `answer`")
    assert (made.train_rows.value, made.eval_rows.value) == (4, 1)
    told = [note.partition(" (")[0] for note in made.notes if "DATA004" in note]
    assert [note.rpartition("/")[2] for note in told] == [
        "train.jsonl: not read by `question-answer`: `level`",
        "eval.jsonl: not read by `question-answer`: `kind`",
    ]
    ignoring = ['dataset.ignore_columns=["level", "kind"]', "dataset.eval_path=eval.jsonl", SHORT]
    assert not [note for note in planned(write_recipe, minimal, *ignoring).notes if "DATA004" in note]


def test_the_plan_shows_the_format_of_each_source(write, write_recipe, minimal):
    write("a.jsonl", chats("a", 3))
    write("b.jsonl", [{"text": "b"}] * 2)
    made = planned(write_recipe, minimal.replace('path = "train.jsonl"\n', TWO), SHORT)
    assert made.format.value == "messages, text"
    assert made.format.why.count("by column") == 2


def test_the_plan_refuses_what_a_training_refuses(write, write_recipe, minimal):
    write("train.jsonl", [{"question": "a", "answer": "b", "context": "long ago"}] * 4)
    with pytest.raises(DataError, match=r"\[DATA004\] .*`context` would be lost") as caught:
        planned(write_recipe, minimal, SHORT)
    assert 'ignore_columns = ["context"]' in str(caught.value)
    assert planned(write_recipe, minimal, 'dataset.ignore_columns=["context"]', SHORT).train_rows.value == 4


NOT_FETCHED = "known once `someone/rows` is downloaded"


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("dataset.eval_split=test", NOT_FETCHED),
        ("dataset.eval_fraction=0.1", "0.1 of the training rows, known once they are counted"),
        ("dataset.max_samples=9", "no evaluation rows"),
    ],
)
def test_the_plan_says_what_it_cannot_know_of_rows_on_the_hub(write_recipe, minimal, override, why):
    text = minimal.replace('path = "train.jsonl"', 'name = "someone/rows"')
    made = planned(write_recipe, text, override, SHORT)
    assert (made.format.value, made.eval_rows.value, made.eval_rows.why) == (None, None, why)
    assert (made.format.why, made.train_rows.why) == ("known once the data is read", NOT_FETCHED)


def test_ignored_columns_of_a_source_are_its_own(read, write):
    write("a.jsonl", [{"question": "a", "answer": "b", "context": "x"}])
    write("b.jsonl", [{"question": "a", "answer": "b", "context": "x"}])
    found = read(sources=TWO + 'ignore_columns = ["context"]\n')
    assert [unused.is_refused for unused in found.unused] == [True]
    assert "a.jsonl: not read by" in found.unused[0].problem.what
    assert not read('dataset.ignore_columns=["context"]', sources=TWO).unused


def test_keys_that_arrow_adds_to_rows_of_the_hub_are_not_there(read, minimal, monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = [{"name": "sky", "arguments": {"city": "Rome"}}, {"name": "add", "arguments": {"a": 2, "b": 3}}]
    turns = [{"role": "assistant", "content": "", "tool_calls": [call]} for call in calls]
    rows = [{"messages": [{"role": "user", "content": "a"}, turn]} for turn in turns]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(rows))
    found = read(text=minimal.replace('path = "train.jsonl"', 'name = "someone/rows"'))
    assert [row.values["messages"][1] for row in found.train.rows] == turns
