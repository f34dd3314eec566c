"""`init` chooses task, format and columns by the rows and the base, or asks; what it writes can be trained on."""

import json
import shutil
import struct

import pytest

from lora_ns.data.files.read import read_rows
from lora_ns.errors import LoransError, UsageError
from lora_ns.formats import Columns, detect
from lora_ns.model.files import ASSETS
from lora_ns.objectives import OBJECTIVE_TABLES
from lora_ns.recipe.load import load_recipe
from lora_ns.services.init.draft import Wanted
from lora_ns.services.init.make import make_files, write_files
from lora_ns.services.init.question import take_defaults

COUNT = 12
QUESTIONS = [f"How many plums are {number} plums and one?" for number in range(COUNT)]
TEXTS = [f"The plum number {number} fell from its tree in the night." for number in range(COUNT)]
TURNS = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": f"{number + 1} plums"}]
    for number, question in enumerate(QUESTIONS)
]


def lines(**columns):
    """JSON lines of some columns; what is no list of rows is the same in each."""
    rows = [
        {name: values[number] if isinstance(values, list) else values for name, values in columns.items()}
        for number in range(COUNT)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(mark, header, *columns):
    return "".join(mark.join(map(str, cells)) + "\n" for cells in [header, *zip(*columns, strict=True)] if cells)


def every(*values):
    return [values[number % len(values)] for number in range(COUNT)]


ANSWERS = [f"There are {number + 1} plums on the table." for number in range(COUNT)]
CONLL = "".join(f"Ann B-PER\nsaw O\nLima{number} B-LOC\n\n" for number in range(COUNT))

FILES = {
    "chat": ("chat.jsonl", lines(messages=TURNS)),
    "sharegpt": (
        "sharegpt.json",
        json.dumps([{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}] * COUNT),
    ),
    "alpaca": ("alpaca.jsonl", lines(instruction=QUESTIONS, input="", output=ANSWERS)),
    "prompt": ("prompt.jsonl", lines(prompt=QUESTIONS, completion=ANSWERS)),
    "question": ("question.jsonl", lines(question=QUESTIONS, answer=ANSWERS)),
    "category": ("category.jsonl", lines(question=QUESTIONS, answer=ANSWERS, category=every("plums", "trees"))),
    "other names": ("other.jsonl", lines(problem=QUESTIONS, solution=ANSWERS)),
    "no names": ("none.jsonl", lines(first=QUESTIONS, second=ANSWERS)),
    "labels": ("labels.csv", table(",", ["text", "label"], TEXTS, every("good", "bad"))),
    "free label": ("free.csv", table(",", ["text", "label"], TEXTS, ANSWERS)),
    "tsv": ("sentences.tsv", table("\t", ["sentence", "sentiment"], TEXTS, every(0, 1, 2))),
    "no header": ("bare.tsv", table("\t", [], TEXTS, every(0, 1))),
    "pairs": ("pairs.jsonl", lines(sentence1=TEXTS, sentence2=QUESTIONS, label=every("same", "other"))),
    "scores": ("scores.csv", table(",", ["text", "score"], TEXTS, [number / 4 for number in range(COUNT)])),
    "several": ("several.jsonl", lines(text=TEXTS, labels=every(["a"], ["a", "b"], []))),
    "conll": ("names.conll", CONLL),
    "tags": ("tags.jsonl", lines(tokens=[["Ann", "ran"]] * COUNT, ner_tags=[["B-PER", "O"]] * COUNT)),
    "text": ("text.txt", "\n".join(TEXTS)),
    "texts": ("texts.jsonl", lines(text=TEXTS)),
    "preference": ("preference.jsonl", lines(prompt=QUESTIONS, chosen=ANSWERS, rejected=TEXTS)),
    "verdicts": ("verdicts.jsonl", lines(messages=TURNS, label=every(True, False))),
    "tags of KTO": ("kto.jsonl", lines(prompt=QUESTIONS, completion=ANSWERS, kto_tag=every(True, False))),
    "verdicts as text": ("words.jsonl", lines(messages=TURNS, label=every("true", "false"))),
    "trees": (
        "trees.jsonl",
        lines(
            message_tree_id="1",
            prompt={"role": "prompter", "text": "Hi", "replies": [{"role": "assistant", "text": "Ho", "replies": []}]},
        ),
    ),
}

CHATML = {"sft.chat_template": "chatml"}
PLAIN = {"dataset.prompt_template": "Question: {question}\nAnswer:", "dataset.completion_template": " {answer}"}
TEXT, LABELS, TAGS = "CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"
REFUSED = "which cannot generate text"


def text(file_format, **more):
    return {"task_type": TEXT, "dataset.format": file_format, **more}


def labels(column, *, text_column="text", **more):
    return {"task_type": LABELS, "dataset.text_column": text_column, "dataset.label_column": column, **more}


GOOD_BAD = {"classification.labels": ("bad", "good")}
FREE = "`--task CAUSAL_LM` or `--task SEQ_CLS`"
SENTENCES = labels("sentiment", text_column="sentence")
PAIRS = {
    **labels("label", text_column="sentence1"),
    "dataset.text_pair_column": "sentence2",
    "classification.labels": ("other", "same"),
}
SCORES = labels("score", **{"classification.problem_type": "regression"})
SEVERAL = labels(
    "labels", **{"classification.problem_type": "multi_label_classification", "classification.labels": ("a", "b")}
)
HEADERLESS = labels("label", **{"dataset.column_names": ("text", "label")})
OTHER_PLAIN = {"dataset.prompt_template": "Question: {problem}\nAnswer:", "dataset.completion_template": " {solution}"}
WITH_CATEGORY = labels("category", text_column="question", **{"classification.labels": ("plums", "trees")})
DPO = {"dpo.max_seq_length": 512}
DPO_CHATML = {"dpo.chat_template": "chatml", "dpo.beta": 0.1}
KTO = {"kto.max_seq_length": 512}
KTO_CHATML = {"kto.chat_template": "chatml", "kto.beta": 0.1}
NOT_TRAINED = "hold good and bad answers, in a form that no objective reads"

EXPECTED = {
    # by the file: with the base in the package, with one without a chat template, with an encoder
    "chat": (text("messages"), text("messages", **CHATML), REFUSED),
    "sharegpt": (text("sharegpt"), text("sharegpt", **CHATML), REFUSED),
    "alpaca": (text("alpaca"), text("alpaca", **CHATML), REFUSED),
    "prompt": (text("messages"), text("prompt-completion"), REFUSED),
    "question": (text("question-answer"), text("auto", **PLAIN), REFUSED),
    "category": (text("question-answer"), text("auto", **PLAIN), WITH_CATEGORY),
    "other names": (text("question-answer"), text("auto", **OTHER_PLAIN), REFUSED),
    "no names": ('--set \'dataset.columns={ question = "first"',) * 2 + (REFUSED,),
    "labels": (labels("label", **GOOD_BAD),) * 3,
    "free label": (FREE, FREE, "`--task SEQ_CLS`"),
    "tsv": (SENTENCES,) * 3,
    "no header": (HEADERLESS,) * 3,
    "pairs": (PAIRS,) * 3,
    "scores": (SCORES,) * 3,
    "several": (SEVERAL,) * 3,
    "conll": ({"task_type": TAGS},) * 3,
    "tags": ({"task_type": TAGS},) * 3,
    "text": (text("text"), text("text"), REFUSED),
    "texts": (text("text"), text("text"), REFUSED),
    "preference": (text("preference", **DPO), text("preference", **DPO_CHATML), REFUSED),
    "verdicts": (text("labelled-completion", **KTO), text("labelled-completion", **KTO_CHATML), REFUSED),
    "tags of KTO": (text("labelled-completion", **KTO), text("labelled-completion", **KTO_CHATML), REFUSED),
    "verdicts as text": (NOT_TRAINED, NOT_TRAINED, REFUSED),
    "trees": (text("oasst"), text("oasst", **CHATML), REFUSED),
}
BASES = ("lorans:nano", "plain", "encoder")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of a base without a chat template, and of an encoder with hardly any weights."""
    folder = tmp_path_factory.mktemp("bases")
    shutil.copytree(ASSETS / "nano", folder / "plain", ignore=shutil.ignore_patterns("chat_template.jinja"))
    (folder / "encoder").mkdir()
    config = {"architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_size": 8, "vocab_size": 16}
    (folder / "encoder/config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    header = json.dumps({"embeddings.weight": {"dtype": "F32", "shape": [16, 8], "data_offsets": [0, 512]}}).encode()
    (folder / "encoder/model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(512))
    return folder


@pytest.fixture
def here(tmp_path, bases, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "encoder"):
        (tmp_path / name).symlink_to(bases / name)
    return tmp_path


def put(folder, name):
    """A file of the table, written to a folder."""
    file, content = FILES[name]
    (folder / file).write_text(content, encoding="utf-8")
    return file


def made(folder, *, ask=take_defaults, name="new", **wanted):
    files, reasons = make_files(Wanted(folder / name, **wanted), ask)
    write_files(folder / name, files)
    return load_recipe(folder / name / "recipe.toml"), reasons


def value(recipe, key):
    fields = recipe.model_dump()
    fields[recipe.objective.toml] = fields["objective"]
    for part in key.split("."):
        fields = fields[part]
    return fields


def never(question):
    raise AssertionError(question)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", FILES)
def test_rows_and_base_choose(here, name, base):
    expected = EXPECTED[name][BASES.index(base)]
    file = put(here, name)
    if isinstance(expected, str):
        with pytest.raises(UsageError) as caught:
            made(here, data=file, model=base)
        assert expected in str(caught.value)
        assert not (here / "new").exists()
        return
    loaded, reasons = made(here, data=file, model=base)
    recipe = loaded.recipe
    assert {key: value(recipe, key) for key in expected} == expected
    assert any(reason.startswith(f"task: {expected['task_type']}, because ") for reason in reasons)
    rows = read_rows(here / file, layout=layout(recipe))
    columns = Columns(**{key: getattr(recipe.dataset, key) for key in Columns.__dataclass_fields__})
    form, _ = detect(columns, list(rows[0].values), rows[0].values, recipe.objective.examples)
    if name not in {"scores", "several"}:  # whose kind of label the recipe says
        assert all(form.example(row.values) for row in rows)


def layout(recipe):
    from lora_ns.data.files.paths import layout_of

    return layout_of(recipe.dataset)


@pytest.mark.parametrize("name", [name for name, (kept, *_) in EXPECTED.items() if not isinstance(kept, str)])
def test_what_is_written_passes_the_check_of_its_rows(here, name):
    pytest.importorskip("transformers")
    from lora_ns.machine.hardware import detect as detect_machine
    from lora_ns.run.observer import Observer
    from lora_ns.services import validate

    loaded, _ = made(here, data=put(here, name), model="lorans:nano")
    machine = detect_machine()
    audit = validate.audit(validate.prepare_rows(loaded, machine, Observer()), machine)
    assert not [finding for finding in audit.findings if finding.error]


AS_ANSWER = {"task_type": TEXT, "dataset.columns": {"question": "text", "answer": "label"}}
ASKED = {
    # file, base, options, answer, what is written then
    "free label, as an answer": ("free label", "lorans:nano", 2, 0, AS_ANSWER),
    "free label, as classes": ("free label", "lorans:nano", 2, 1, labels("label")),
    "free label over an encoder": ("free label", "encoder", 2, 0, labels("label")),
    "category": ("category", "lorans:nano", 2, 1, WITH_CATEGORY),
    "no names": ("no names", "lorans:nano", 2, 1, {"dataset.columns": {"question": "second", "answer": "first"}}),
    "verdicts": ("verdicts as text", "lorans:nano", 2, 1, text("messages", **{"dataset.ignore_columns": ("label",)})),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_is_open_is_asked_and_the_answer_is_written(here, case):
    name, base, options, answer, expected = ASKED[case]
    questions = []

    def ask(question):
        questions.append(question)
        return answer

    loaded, _ = made(here, ask=ask, data=put(here, name), model=base)
    assert {key: value(loaded.recipe, key) for key in expected} == expected
    assert [len(question.options) for question in questions] == [options]


BETTER = "dataset.columns={chosen='better', rejected='worse'}"
OBJECTIVES = {
    # file, options, what is written then
    "pairs": ("preference", {"objective": "dpo"}, text("preference", **DPO)),
    "pairs without a reference": ("preference", {"objective": "orpo"}, text("preference", **{"orpo.beta": 0.1})),
    "simpo": (
        "preference",
        {"objective": "cpo", "overrides": ["cpo.loss_type=simpo"]},
        text("preference", **{"cpo.loss_type": "simpo"}),
    ),
    "pairs as labelled answers": ("preference", {"objective": "kto"}, text("preference", **KTO)),
    "pairs for a reward model": (
        "preference",
        {"objective": "reward"},
        {"task_type": LABELS, "dataset.format": "preference", "reward.max_seq_length": 512},
    ),
    "pairs for a score": ("preference", {"task": LABELS}, {"task_type": LABELS, "reward.max_seq_length": 512}),
    "pairs with other names": (
        "other pairs",
        {"objective": "dpo", "overrides": [BETTER]},
        text("preference", **{"dataset.columns": {"chosen": "better", "rejected": "worse"}}),
    ),
    "pairs beside a conversation": ("worse answer", {"objective": "dpo"}, text("preference", **DPO)),
    "labelled answers with other names": (
        "alpaca tags",
        {"objective": "kto"},
        text("labelled-completion", **KTO),
    ),
    "the recipe of another objective": ("preference", {"start": "dpo", "objective": "kto"}, text("preference", **KTO)),
    "a recipe that writes text": (
        "preference",
        {"start": "dpo", "objective": "reward"},
        {"task_type": LABELS, "evaluation.exact_match": False, "reward.max_seq_length": 512},
    ),
    "questions with answers to reach": (
        "question",
        {"objective": "grpo"},
        text("prompt", **{"grpo.max_seq_length": 512}),
    ),
    "the same with the plain gradient": ("prompt", {"objective": "rloo"}, text("prompt")),
    "questions for a teacher": ("prompt", {"objective": "distillation"}, text("prompt")),
    "text": ("chat", {"objective": "sft"}, text("messages")),
    "classes": ("labels", {"objective": "classification"}, labels("label", **GOOD_BAD)),
    "tags": ("conll", {"objective": "classification"}, {"task_type": TAGS}),
}
MORE_FILES = {
    "other pairs": ("others.jsonl", lines(prompt=QUESTIONS, better=ANSWERS, worse=TEXTS)),
    "worse answer": ("worse.jsonl", lines(messages=TURNS, rejected_response=TEXTS)),
    "alpaca tags": ("tagged.jsonl", lines(instruction=QUESTIONS, output=ANSWERS, label=every(True, False))),
}


@pytest.mark.parametrize("case", OBJECTIVES)
def test_the_objective_that_is_asked_for_is_written_and_reads_the_rows(here, case):
    name, wanted, expected = OBJECTIVES[case]
    file, content = {**FILES, **MORE_FILES}[name]
    (here / file).write_text(content)
    loaded, _ = made(here, ask=never, data=file, model="lorans:nano", **wanted)
    assert {key: value(loaded.recipe, key) for key in expected} == expected
    assert loaded.recipe.objective.toml == wanted.get("objective", "reward")
    rows = read_rows(here / file, layout=layout(loaded.recipe))
    columns = Columns(**{key: getattr(loaded.recipe.dataset, key) for key in Columns.__dataclass_fields__})
    form, _ = detect(columns, list(rows[0].values), rows[0].values, loaded.recipe.objective.examples)
    assert all(form.example(row.values) for row in rows)


@pytest.mark.parametrize("name", OBJECTIVE_TABLES)
def test_an_objective_without_rows_gets_a_few_to_replace(here, name):
    loaded, _ = made(here, objective=name)
    assert loaded.recipe.objective.toml == name
    assert read_rows(here / "new/train.jsonl")


@pytest.mark.parametrize(
    "name", ["chat", "alpaca", "labels", "pairs", "scores", "several", "conll", "texts", "other names"]
)
def test_what_is_clear_is_not_asked(here, name):
    made(here, ask=never, data=put(here, name), model="lorans:nano")


@pytest.mark.parametrize("case", [case for case in ASKED if case != "free label over an encoder"])
def test_the_remedy_of_an_open_question_answers_it(here, case):
    import re
    import shlex

    name, base, *_ = ASKED[case]
    file = put(here, name)
    if name == "category":
        made(here, data=file, model=base, task=LABELS)
        return
    with pytest.raises(UsageError) as caught:
        made(here, data=file, model=base)
    option = shlex.split(re.search("`(--(?:task|set) .*?[^`])`(?: or|$|\\))", str(caught.value))[1])
    words = dict.fromkeys(option[::2], None)
    overrides = [word for flag, word in zip(option[::2], option[1::2], strict=True) if flag == "--set"]
    task = option[1] if "--task" in words else None
    loaded, _ = made(here, ask=never, data=file, model=base, overrides=overrides, task=task)
    assert loaded.recipe.task_type == TEXT


def test_a_column_that_would_be_lost_is_asked_about_and_one_that_says_the_same_is_left_out(here):
    rows = [{"instruction": question, "output": answer} for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]
    whole = [{**row, "text": f"{row['instruction']}\n{row['output']}"} for row in rows]
    lost = [{**row, "question": f"other {number}"} for number, row in enumerate(rows)]
    for name, content in {"whole": whole, "lost": lost}.items():
        (here / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    loaded, reasons = made(here, ask=never, data="whole.jsonl", model="lorans:nano")
    assert loaded.recipe.dataset.ignore_columns == ("text",)
    assert "ignored columns: `text`" in reasons
    with pytest.raises(UsageError, match=r"dataset\.ignore_columns"):
        made(here, name="other", data="lost.jsonl", model="lorans:nano")


@pytest.mark.parametrize(("rows", "fraction"), [(4, 0.0), (40, 0.1), (800, 0.05), (6000, 0.05)])
def test_the_evaluation_share_goes_by_the_number_of_rows(here, rows, fraction):
    content = "".join(
        json.dumps({"prompt": f"a {number}", "completion": f"b {number}"}) + "\n" for number in range(rows)
    )
    (here / "rows.jsonl").write_text(content)
    loaded, reasons = made(here, data="rows.jsonl")
    assert loaded.recipe.dataset.eval_fraction == fraction
    assert any(reason.startswith("evaluation rows: ") for reason in reasons)


BESIDE = {
    "the same name": ("train.jsonl", "valid.jsonl", True),
    "a name in common": ("plums_train.jsonl", "plums.dev.jsonl", True),
    "another task": ("plums_train.jsonl", "nuts_dev.jsonl", False),
    "another kind": ("train.jsonl", "valid.csv", False),
    "no training file": ("plums.jsonl", "test.jsonl", False),
}


@pytest.mark.parametrize("case", BESIDE)
def test_evaluation_rows_are_those_of_the_file_that_belongs_to_the_training_rows(here, case):
    training, other, belongs = BESIDE[case]
    (here / training).write_text(FILES["chat"][1])
    (here / other).write_text(FILES["chat"][1] if other.endswith(".jsonl") else "messages\na\n")
    dataset = made(here, data=training)[0].recipe.dataset
    assert (dataset.eval_path, dataset.eval_fraction) == ((f"../{other}", 0.0) if belongs else (None, 0.1))


def test_a_file_with_labels_of_its_own_or_other_columns_is_no_evaluation(here):
    (here / "train.csv").write_text(FILES["labels"][1])
    (here / "test.csv").write_text(table(",", ["text", "label"], TEXTS, every(-1)))
    (here / "dev.csv").write_text(table(",", ["text", "stars"], TEXTS, every("good", "bad")))
    assert made(here, data="train.csv")[0].recipe.dataset.eval_path is None


def test_of_a_folder_with_its_splits_only_the_training_rows_are_trained_on(here):
    (here / "data").mkdir()
    for name in ("train", "validation", "test"):
        (here / f"data/{name}.jsonl").write_text(FILES["chat"][1])
    dataset = made(here, data="data")[0].recipe.dataset
    assert (dataset.path, dataset.eval_path) == ("../data/train.jsonl", "../data/validation.jsonl")


def test_a_run_directory_is_one_that_no_run_has(here):
    (here / "outputs/new").mkdir(parents=True)
    (here / "outputs/new-2").mkdir()
    assert made(here)[0].recipe.training.output_dir == "outputs/new-3"


def test_rows_that_are_longer_than_usual_get_room_and_those_that_are_longer_than_the_base_reads_are_told(here):
    pytest.importorskip("tokenizers")
    long, short = {"prompt": "a", "completion": "plum " * 300}, {"prompt": "a", "completion": "b"}
    (here / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*[long] * 2, *[short] * 20]))
    loaded, reasons = made(here, data="long.jsonl")
    assert loaded.recipe.objective.on_overflow == "drop"
    assert any("2 of 22 rows are longer than 512 tokens" in reason for reason in reasons)
    (here / "text.txt").write_text("The plum fell. " * 500)
    assert made(here, name="text", data="text.txt")[0].recipe.objective.on_overflow == "split"


def test_what_a_recipe_says_is_kept_as_far_as_the_rows_have_it(here):
    question, prompt = put(here, "question"), put(here, "prompt")
    kept, _ = made(here, name="kept", start="gsm8k", data=question, model="plain")
    assert kept.recipe.dataset.prompt_template == "Question: {question}\nAnswer:"
    assert (kept.recipe.peft.lora_r, kept.recipe.training.optim) == (32, "paged_adamw_8bit")
    left, reasons = made(here, name="left", start="gsm8k", data=prompt, model="plain")
    assert left.recipe.dataset.prompt_template is None
    assert any("`prompt_template`" in reason and "names column `question`" in reason for reason in reasons)
    grouped, reasons = made(here, name="grouped", start="quickstart", data=prompt)
    assert (grouped.recipe.evaluation.exact_match, grouped.recipe.evaluation.group_by) == (True, None)
    assert any("`evaluation.group_by`: left out" in reason for reason in reasons)
    with pytest.raises(UsageError, match="`glue-mrpc` is a recipe for SEQ_CLS, but the rows of question"):
        made(here, name="none", start="glue-mrpc", data=question)


WRONG = {
    "no base": ({"model": "./nowhere"}, "--model: no folder `./nowhere`"),
    "no data": ({"data": "nowhere.jsonl"}, "--data: no file `nowhere.jsonl`"),
    "another task": ({"data": "chat.jsonl", "task": TAGS}, "--task: the rows of chat.jsonl do not fit TOKEN_CLS"),
    "an encoder that is to write": ({"model": "encoder", "task": TEXT}, REFUSED),
    "rows without pairs": (
        {"data": "chat.jsonl", "objective": "orpo"},
        "--objective: the rows of chat.jsonl do not fit [orpo]: no column `rejected`",
    ),
    "pairs for text": (
        {"data": "preference.jsonl", "objective": "sft"},
        "the rows of preference.jsonl do not fit [sft] (they fit [dpo] or [cpo] or [kto] or [orpo] or [reward])",
    ),
    "an objective of another task": (
        {"data": "preference.jsonl", "objective": "reward", "task": TEXT},
        "--task: [reward] does not train CAUSAL_LM, but SEQ_CLS",
    ),
    "an encoder that is to prefer": ({"data": "preference.jsonl", "objective": "kto", "model": "encoder"}, REFUSED),
    "an unknown key": ({"overrides": ["training.sed=1"]}, "did you mean `seed`?"),
    "a method that does not go": ({"data": "names.conll", "method": "prompt-tuning"}, "prompt-tuning does not fit"),
    "a table in a text": ({"data": "table.txt"}, "looks like a table with 3 tab-separated columns"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_go_together_is_told_and_nothing_is_written(here, case):
    wanted, told = WRONG[case]
    put(here, "chat")
    put(here, "conll")
    put(here, "preference")
    (here / "table.txt").write_text("1\tone plum\ttwo plums\n" * 5)
    with pytest.raises(LoransError) as caught:
        made(here, **wanted)
    assert told in str(caught.value)
    assert caught.value.problems[0].remedy
    assert not (here / "new").exists()


def test_a_base_that_is_not_here_is_named_and_said_to_be_unseen(here):
    loaded, reasons = made(here, data=put(here, "chat"), model="owner/name")
    assert loaded.recipe.model.name_or_path == "owner/name"
    assert "base: owner/name, not inspected because it is not on this machine" in reasons


def test_a_base_is_named_from_where_the_recipe_is_and_as_it_is_stored(here, bases):
    shutil.copytree(bases / "plain", here / "stored")
    config = json.loads((here / "stored/config.json").read_text())
    stored = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    (here / "stored/config.json").write_text(json.dumps({**config, "quantization_config": stored}))
    loaded, reasons = made(here, start="gsm8k", data=put(here, "question"), model="stored")
    assert (loaded.recipe.model.name_or_path, loaded.recipe.quantization.method) == ("../stored", "gptq")
    assert any("stored in 4 bits (gptq), so `bnb-4bit` is left out" in reason for reason in reasons)


def test_a_gguf_file_is_named_and_takes_no_quantisation(here):
    pytest.importorskip("gguf")
    pytest.importorskip("torch")
    from gguf_files import write_gguf

    write_gguf(here / "nano.gguf")
    loaded, reasons = made(here, start="gsm8k", data=put(here, "question"), model="nano.gguf")
    assert (loaded.recipe.model.name_or_path, loaded.recipe.quantization.method) == ("../nano.gguf", "none")
    assert any("a GGUF file, which is dequantised, so `bnb-4bit` is left out" in reason for reason in reasons)


def test_columns_that_say_nothing_are_no_guess(here):
    (here / "rows.jsonl").write_text(lines(name=QUESTIONS, instruction=ANSWERS, instances=[[1]] * COUNT))
    with pytest.raises(UsageError, match=r"write `prompt_template` and .*; here, use `--set dataset\.KEY=VALUE`"):
        made(here, data="rows.jsonl")


def test_a_question_and_its_answer_among_other_texts_are_proposed(here):
    (here / "rows.jsonl").write_text(lines(number=QUESTIONS, prompt=QUESTIONS, canonical_solution=ANSWERS))
    with pytest.raises(UsageError, match="`--task CAUSAL_LM`"):
        made(here, data="rows.jsonl")
    loaded, reasons = made(here, data="rows.jsonl", task=TEXT)
    assert loaded.recipe.dataset.columns == {"question": "prompt", "answer": "canonical_solution"}
    assert "unused columns: `number`" in reasons


def test_a_task_without_rows_gets_a_few_to_replace(here):
    for task in (TEXT, LABELS, TAGS):
        loaded, _ = made(here, name=task, task=task)
        assert loaded.recipe.task_type == task
        assert read_rows(here / task / "train.jsonl")


def test_an_empty_folder_is_filled_and_left_empty_if_that_fails(here, monkeypatch):
    from lora_ns.services.init import make

    (here / "new").mkdir()
    made(here)
    assert (here / "new/recipe.toml").is_file()
    (here / "empty").mkdir()
    write, written = make.write_atomic, []

    def fail(path, text):
        if len(written) == 2:
            raise OSError(28, "no space")
        written.append(path)
        write(path, text)

    monkeypatch.setattr(make, "write_atomic", fail)
    for name in ("empty", "none"):
        written.clear()
        with pytest.raises(OSError, match="no space"):
            made(here, name=name)
    assert list((here / "empty").iterdir()) == []
    assert not list(here.glob("*none*"))


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {}}}
WITH_TOOLS = [
    {"role": "user", "content": "Is it dry?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "dry"},
    {"role": "assistant", "content": "It is."},
]


def test_a_template_that_shows_no_tools_is_replaced_where_rows_have_some(here, bases):
    (here / "tools.jsonl").write_text(lines(messages=[WITH_TOOLS] * COUNT, tools=[[TOOL]] * COUNT))
    loaded, reasons = made(here, data="tools.jsonl")
    assert loaded.recipe.objective.chat_template == "chatml"
    assert any("that of the base does not render tools" in reason for reason in reasons)
    shutil.copytree(bases / "plain", here / "bare")
    tokenizer = (here / "bare/tokenizer.json").read_text().replace("<|im_end|>", "<|the_end|>")
    (here / "bare/tokenizer.json").write_text(tokenizer)
    with pytest.raises(UsageError, match=r"sft\.chat_template=FILE"):
        made(here, name="other", data="tools.jsonl", model="bare")
    own = ["sft.chat_template=own.jinja"]
    assert made(here, name="own", data="tools.jsonl", model="bare", overrides=own)[0].recipe.objective.chat_template
    loaded, _ = made(here, name="chat", data=put(here, "chat"), model="bare")
    assert loaded.recipe.objective.chat_template == "mistral"


def test_what_the_user_sets_stays(here):
    pytest.importorskip("tokenizers")
    (here / "long.jsonl").write_text(lines(prompt="a", completion="plum " * 300))
    overrides = ["sft.max_seq_length=64", "sft.on_overflow=truncate", "dataset.eval_fraction=0.3"]
    loaded, _ = made(here, data="long.jsonl", overrides=overrides)
    objective = loaded.recipe.objective
    assert (objective.max_seq_length, objective.on_overflow, loaded.recipe.dataset.eval_fraction) == (
        64,
        "truncate",
        0.3,
    )
