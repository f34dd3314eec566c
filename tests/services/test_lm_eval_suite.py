"""Tasks of lm-evaluation-harness on the embedded base: its figures are those of our suites on the same items."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("lm_eval")

from damaged_bases import NANO
from services_recipes import RECIPE, run_recipe
from typer.testing import CliRunner

from lora_ns.answers.opened import open_trained
from lora_ns.answers.weights import BASE
from lora_ns.answers.work import compute_here
from lora_ns.cli.app import app
from lora_ns.cli.evaluate import check_processes
from lora_ns.data.rows import Row
from lora_ns.errors import LoransError
from lora_ns.services.evaluate_suites import System, answer_suites
from lora_ns.suites import ChoiceSuite, LmEvalSuite

ROWS = [
    {"question": f"Which of these is {name}?", "choices": ["plum", "a stone", "the river", "x"], "answer": place % 4}
    for place, name in enumerate(["red", "hard", "wet", "short", "long"])
]

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: "{delimiter}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
{more}
"""


@pytest.fixture(scope="module")
def trained(lora_run):
    return open_trained(lora_run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return folder


def lorans(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def write_task(folder, name, more="", delimiter=""):
    text = TASK.format(name=name, rows=folder / "rows.jsonl", delimiter=delimiter, more=more)
    (folder / f"{name}.yaml").write_text(text)


def suite_of(folder, task, **settings):
    return LmEvalSuite(task=task, include_path=str(folder), allow_code=True, **settings)


def answered(trained, *suites, systems=None):
    rows = [Row(f"rows.jsonl:{number}", one) for number, one in enumerate(ROWS, start=1)]
    systems = systems or [System("adapter", trained), System("base", trained, BASE)]
    return answer_suites(systems, suites, lambda _: rows, compute_here)


@pytest.mark.parametrize("in_chat", [True, False])
def test_its_choices_are_those_of_the_suite_choice_item_by_item(trained, folder, in_chat):
    write_task(folder, "fruits", delimiter="" if in_chat else " ")
    if not in_chat:
        data = trained.manifest.data.model_copy(update={"format": "prompt-completion", "columns": {}})
        trained = replace(trained, manifest=trained.manifest.model_copy(update={"data": data}))
    harness, ours = answered(trained, suite_of(folder, "fruits"), ChoiceSuite())
    for system in ("adapter", "base"):
        for asked, losses in zip(harness.answers[system], ours.answers[system], strict=True):
            assert asked["answer"] == pytest.approx([-loss for loss, _ in losses], abs=1e-3)
        theirs, own = harness.measures(system), ours.measures(system)
        assert [*theirs] == ["acc", "acc_norm"]
        for name, measure in theirs.items():
            assert measure.scores.tolist() == own[name].scores.tolist()
    assert harness.answers["adapter"] != harness.answers["base"]
    assert [(gold.question, gold.answer) for gold in harness.golds] == [
        (row["question"], row["choices"][row["answer"]]) for row in ROWS
    ]


def test_the_base_answers_as_the_harness_loads_it_by_itself(trained, folder):
    import lm_eval
    from lm_eval.tasks import TaskManager

    write_task(folder, "fruits")
    (found,) = answered(trained, suite_of(folder, "fruits", apply_chat_template=True))
    own = lm_eval.simple_evaluate(
        "hf",
        model_args={"pretrained": str(NANO), "dtype": "float32"},
        tasks=["fruits"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        apply_chat_template=True,
    )
    for asked, sample in zip(found.answers["base"], own["samples"]["fruits"], strict=True):
        assert asked["answer"] == pytest.approx([score for score, _ in sample["filtered_resps"]], abs=1e-3)
        assert asked["scores"] == {name: sample[name] for name in ("acc", "acc_norm")}


def test_it_reads_as_many_items_as_it_is_told(trained, folder):
    write_task(folder, "limited")
    (found,) = answered(trained, suite_of(folder, "limited", max_samples=2, num_fewshot=1))
    assert [gold.where for gold in found.golds] == ["limited 0", "limited 1"]
    assert found.golds[1].question == ROWS[1]["question"]


def test_what_the_model_writes_is_scored_and_every_filter_is_a_figure(trained, folder):
    (folder / "written.yaml").write_text(
        f"task: written\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{choices[0]}}'\n"
        "generation_kwargs: {max_gen_toks: 4, until: ['\\n']}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
        "filter_list:\n"
        "- {name: whole, filter: [{function: take_first}]}\n"
        "- {name: first, filter: [{function: regex, regex_pattern: '(.)'}, {function: take_first}]}\n"
    )
    (found,) = answered(trained, suite_of(folder, "written"))
    assert [*found.measures("base")] == ["exact_match.whole", "exact_match.first"]
    assert all(isinstance(one["answer"], str) for one in found.answers["adapter"])
    json.dumps(found.answers)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("unsafe_code: true", "without a sandbox"),
        ("process_results: !function missing.py.results", "cannot load the task"),
        ("doc_to_image: picture", "pictures"),
    ],
)
def test_tasks_that_cannot_be_asked_are_refused(trained, folder, more, told):
    write_task(folder, "refused", more)
    with pytest.raises(LoransError, match=told):
        answered(trained, suite_of(folder, "refused"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset_kwargs": "{trust_remote_code: true}"}, "trust_remote_code"),
        ({"metric_list": "[{metric: some/metric, hf_evaluate: true}]"}, "comes from the hub"),
        ({"metric_list": "[{metric: perplexity}]"}, "no metric with a value for each item"),
        ({"dataset_path": "somebody/rows", "dataset_kwargs": "{}"}, "cannot load the task"),
        ({"doc_to_text": '"{{ 1 / 0 }}"'}, "cannot load the task"),
        ({"doc_to_text": '"{{ 1 / (answer - 2) }}"'}, "cannot ask the task"),
    ],
)
def test_faults_of_a_task_are_no_traceback(trained, folder, change, told):
    write_task(folder, "faulty")
    lines = (folder / "faulty.yaml").read_text().splitlines()
    kept = [line for line in lines if line.partition(":")[0] not in change]
    (folder / "faulty.yaml").write_text("\n".join([*kept, *(f"{key}: {value}" for key, value in change.items())]))
    with pytest.raises(LoransError, match=told):
        answered(trained, suite_of(folder, "faulty"))


def test_another_name_is_suggested(trained, folder):
    write_task(folder, "fruits")
    with pytest.raises(LoransError, match="`fruits`"):
        answered(trained, suite_of(folder, "fruit"))


def test_task_files_need_consent(trained, folder):
    write_task(folder, "fruits")
    with pytest.raises(LoransError, match="--allow-code"):
        answered(trained, LmEvalSuite(task="fruits", include_path=str(folder)))


def test_several_processes_are_refused(folder):
    check_processes([suite_of(folder, "fruits"), ChoiceSuite()], 1, "--num-processes")
    check_processes([ChoiceSuite()], 2, "--num-processes")
    with pytest.raises(LoransError, match="`fruits` is asked in one process"):
        check_processes([ChoiceSuite(), suite_of(folder, "fruits")], 2, "--num-processes")


def test_a_run_with_virtual_tokens_is_asked_from_its_recipe(folder, tmp_path):
    write_task(folder, "fruits")
    suites = f"""
    [[evaluation.suites]]
    kind = "lm-eval"
    task = "fruits"
    include_path = "{folder}"
    allow_code = true
    [[evaluation.suites]]
    kind = "choice"
    path = "{folder / "rows.jsonl"}"
    """
    run = run_recipe(tmp_path, RECIPE + suites, "peft.method=prompt-tuning")
    with pytest.raises(LoransError, match="--allow-code"):
        lorans("eval", run.path, "--suite", "fruits")
    shown = lorans("eval", run.path, "--suite", "fruits", "--suite", "choice", "--allow-code", "--json")
    result = json.loads(shown.stdout)
    harness, ours = result["suites"][-2:]
    assert (harness["name"], ours["name"]) == ("fruits", "choice")
    assert {name: harness["whole"]["figures"][name] for name in ("acc", "acc_norm")} == ours["whole"]["figures"]
    assert [one["verdict"] for one in harness["whole"]["contests"]] == [
        one["verdict"] for one in ours["whole"]["contests"]
    ]
    items = [json.loads(line) for line in (Path(result["saved"]) / "items.jsonl").read_text().splitlines()]
    theirs, own = ([one for one in items if one["suite"] == name] for name in ("fruits", "choice"))
    for system in ("adapter", "base"):
        for asked, scored in zip(theirs, own, strict=True):
            assert asked["answers"][system]["answer"] == pytest.approx(
                [-loss for loss, _ in scored["answers"][system]], abs=1e-3
            )
    assert harness["contaminated"] == {}
