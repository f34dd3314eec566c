"""Suites of choices and of texts on the embedded base: figures are those of what the model computes and writes."""

import json

import pytest

pytest.importorskip("torch")

import torch

from lora_ns.answers.opened import open_trained
from lora_ns.answers.weights import BASE
from lora_ns.answers.work import compute_here
from lora_ns.data.rows import Row
from lora_ns.errors import DataError
from lora_ns.services.evaluate_suites import System, answer_suites
from lora_ns.suites import SUITES, ChoiceSuite

MMLU = [
    {"question": f"Which of these is {name}?", "choices": ["plum", "a stone", "the river", "x"], "answer": place % 4}
    for place, name in enumerate(["red", "hard", "wet", "short", "long"])
]
ARC = [
    {
        "question": row["question"],
        "choices": {"text": row["choices"], "label": list("ABCD")},
        "answerKey": "DCBA"[place % 4],
    }
    for place, row in enumerate(MMLU)
]


@pytest.fixture(scope="module")
def trained(lora_run):
    return open_trained(lora_run)


def answered(trained, suite, values):
    rows = [Row(f"rows.jsonl:{number}", one) for number, one in enumerate(values, start=1)]
    systems = [System("adapter", trained), System("base", trained, BASE)]
    return answer_suites(systems, [suite], lambda _: rows, compute_here)[0]


def value(measure):
    return float(measure.rows[:, 1].mean())


def log_likelihood(trained, question, choice):
    """The log-likelihood of an answer after the prompt of inference, token by token."""
    tokenizer = trained.tokenizer
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, choice))
    with torch.no_grad():
        logits = trained.model(input_ids=torch.tensor([before + after])).logits[0].float().log_softmax(-1)
    return sum(logits[len(before) + place - 1, token].item() for place, token in enumerate(after))


def test_the_choice_is_the_one_that_the_model_finds_likeliest(trained):
    for suite, rows in ((ChoiceSuite(), MMLU), (ChoiceSuite(), ARC), (ChoiceSuite(answer_with="letter"), MMLU)):
        found = answered(trained, suite, rows)
        offered = [suite.offered(row) for row in rows]
        scores = [[log_likelihood(trained, one.question, text) for text in one.texts] for one in offered]
        for losses, likelihoods in zip(found.answers["adapter"], scores, strict=True):
            assert [-loss for loss, _ in losses] == pytest.approx(likelihoods, abs=1e-3)
        by_character = [
            [score / len(text) for score, text in zip(row, one.texts, strict=True)]
            for row, one in zip(scores, offered, strict=True)
        ]
        measures = suite.measure(found.golds, found.answers["adapter"])
        for name, by_row in (("acc", scores), ("acc_norm", by_character)):
            right = [row.index(max(row)) == one.right for row, one in zip(by_row, offered, strict=True)]
            assert measures[name].scores.tolist() == right
        assert found.answers["base"] != found.answers["adapter"]
        assert found.golds[0].answer == offered[0].texts[offered[0].right]


def test_the_likeliest_choices_are_all_right_and_the_others_all_wrong(trained):
    losses = answered(trained, ChoiceSuite(), MMLU).answers["adapter"]
    best = [[loss for loss, _ in row].index(min(loss for loss, _ in row)) for row in losses]
    for shift in range(4):
        rows = [{**row, "answer": (one + shift) % 4} for row, one in zip(MMLU, best, strict=True)]
        found = answered(trained, ChoiceSuite(), rows)
        assert value(found.suite.measure(found.golds, found.answers["adapter"])["acc"]) == (shift == 0)


def test_rows_without_a_right_choice_are_named_together(trained):
    rows = [MMLU[0], {**MMLU[1], "answer": 9}, {**MMLU[2], "choices": ["one"]}, {**MMLU[3], "choices": ["a", "a"]}]
    with pytest.raises(DataError) as caught:
        answered(trained, ChoiceSuite(), rows)
    assert [problem.where for problem in caught.value.problems] == ["rows.jsonl:2", "rows.jsonl:3", "rows.jsonl:4"]


@pytest.mark.parametrize(("kind", "best"), [("rouge", 1.0), ("bleu", 100.0), ("chrf", 100.0)])
def test_texts_are_compared_with_what_the_model_writes(trained, kind, best):
    suite = SUITES[kind]()
    pytest.importorskip(suite.package)
    questions = [{"prompt": row["question"], "completion": "the plum is red"} for row in MMLU[:2]]
    found = answered(trained, suite, questions)
    assert set(found.answers) == {"adapter", "base"}
    first, *_ = suite.measure(found.golds, [gold.answer for gold in found.golds]).values()
    assert float(first.formula(first.rows.sum(axis=0))) == pytest.approx(best)


def test_expected_tool_calls_are_those_of_the_turn(trained):
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    turns = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "tool_calls": [call]}]
    found = answered(trained, SUITES["tool-calls"](), [{"messages": turns}])
    text = json.dumps(call["function"])
    assert value(found.suite.measure(found.golds, [f"<tool_call>{text}</tool_call>"])["tool_calls"]) == 1
    assert value(found.suite.measure(found.golds, found.answers["adapter"])["tool_calls"]) == 0
