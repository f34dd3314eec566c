"""Sequences of choices: the prompt of inference, then a choice, whose tokens alone are scored."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from damaged_bases import NANO

from lora_ns.answers.ask_choices import choice_items
from lora_ns.data.render import make_renderer
from lora_ns.data.rows import Row
from lora_ns.formats import FORMATS, Columns, RowFaultError
from lora_ns.objectives import Sft
from lora_ns.suites import ChoiceSuite
from lora_ns.table import IGNORED

MMLU = {"question": "Which letter?", "choices": ["a", "bcd", "ef gh"], "answer": 2}
PLAIN = {"format": "prompt-completion"}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(NANO)


def items_of(tokenizer, row, form="messages", suite=None, room=None, loss_on="assistant", **columns):
    renderer = make_renderer(tokenizer, (tokenizer.eos_token_id,), Sft())
    renderer = replace(renderer, loss_on=loss_on)
    return choice_items(renderer, FORMATS[form](Columns(**columns)), suite or ChoiceSuite(), Row("row", row), room)


def texts_of(tokenizer, items):
    """What comes before each choice, and what is scored, as texts."""
    found = []
    for ids, labels in items:
        start = next(place for place, label in enumerate(labels) if label != IGNORED)
        assert labels == [IGNORED] * start + ids[start:]
        found.append((tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])))
    return found


CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"


@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
@pytest.mark.parametrize(
    ("row", "given", "before"),
    [
        (MMLU, {}, CHAT.format("Which letter?")),
        (MMLU, {"form": "question-answer"}, CHAT.format("Which letter?")),
        ({**MMLU, "system": "Be brief."}, {"form": "question-answer"}, SYSTEM + CHAT.format("Which letter?")),
        (MMLU, {"form": "alpaca"}, CHAT.format("Which letter?")),
        (MMLU, {"form": "prompt"}, CHAT.format("Which letter?")),
        (
            MMLU,
            {"prompt_template": "Q: {question}", "completion_template": "{answer}"},
            CHAT.format("Q: Which letter?"),
        ),
        (
            {**MMLU, "topic": "letters"},
            {"prompt_template": "{topic}: {question}", "completion_template": "{answer}"},
            CHAT.format("letters: Which letter?"),
        ),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}], **MMLU},
            {"suite": ChoiceSuite(question="none")},
            CHAT.format("Hi"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Ho", "train": True},
                    {"role": "user", "content": "Which?"},
                ],
                **MMLU,
            },
            {"suite": ChoiceSuite(question="none")},
            CHAT.format("Hi") + "Ho<|im_end|>\n" + CHAT.format("Which?"),
        ),
    ],
)
def test_a_choice_answers_the_prompt_of_the_run_and_is_scored_alone(tokenizer, row, given, before, loss_on):
    gold, items = items_of(tokenizer, row, loss_on=loss_on, **given)
    assert texts_of(tokenizer, items) == [(before, "a"), (before, "bcd"), (before, "ef gh")]
    assert gold.answer == "ef gh"


@pytest.mark.parametrize(
    ("given", "before", "space"),
    [
        ({"form": "prompt-completion"}, "Which letter?", " "),
        ({"form": "text"}, "Which letter?", " "),
        ({"form": "prompt-completion", "prompt_template": "{question}\nAnswer:"}, "Which letter?\nAnswer:", " "),
        ({"form": "prompt-completion", "prompt_template": "{question}\n"}, "Which letter?\n", ""),
    ],
)
def test_after_plain_text_a_space_is_before_the_choice(tokenizer, given, before, space):
    _, items = items_of(tokenizer, MMLU, **given)
    assert ["".join(parts) for parts in texts_of(tokenizer, items)] == [
        f"{before}{space}{choice}" for choice in MMLU["choices"]
    ]
    assert {parts[0] for parts in texts_of(tokenizer, items)} == {before}


def test_letters_answer_a_question_with_the_choices_below(tokenizer):
    gold, items = items_of(tokenizer, MMLU, suite=ChoiceSuite(answer_with="letter"))
    before = CHAT.format("Which letter?\nA. a\nB. bcd\nC. ef gh")
    assert texts_of(tokenizer, items) == [(before, letter) for letter in "ABC"]
    assert gold.answer == "C"


def test_a_choice_beyond_the_positions_of_the_model_is_refused(tokenizer):
    _, items = items_of(tokenizer, MMLU)
    longest = max(len(ids) for ids, _ in items)
    items_of(tokenizer, MMLU, room=longest)
    with pytest.raises(RowFaultError, match=f"ends at token {longest}, and the model has {longest - 1} positions"):
        items_of(tokenizer, MMLU, room=longest - 1)


def test_choices_that_the_template_makes_equal_are_refused(tokenizer, monkeypatch):
    first = tokenizer.chat_template.replace("message['content']", "message['content'][:1]")
    monkeypatch.setattr(tokenizer, "chat_template", first)
    items_of(tokenizer, MMLU)
    with pytest.raises(RowFaultError, match="two of its choices are the same tokens"):
        items_of(tokenizer, {**MMLU, "choices": ["bcd", "bdc"], "answer": 0})
