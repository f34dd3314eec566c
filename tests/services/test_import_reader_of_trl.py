"""The reader of TRL for `lorans import --check`: tokens and numbers by hand, and the tokens of TRL itself."""

from pathlib import Path

import pytest
import yaml
from word_tokenizer import CHAT_TEMPLATE, shown, word_tokenizer

pytest.importorskip("torch")

from lora_ns.importers.source import parse_source
from lora_ns.services.import_check.reader import LeftOutError, UnsupportedError
from lora_ns.services.import_check.trl import TrlRows
from lora_ns.services.import_check.trl_numbers import WHY, trl_numbers


def reader_of(text, tokenizer):
    return TrlRows(parse_source(Path("config.yaml"), f"use_peft: true\n{text}"), tokenizer)


def tokens_of(text, row):
    """What the reader makes of a row."""
    tokenizer = word_tokenizer()
    return shown(
        tokenizer, TrlRows(parse_source(Path("config.yaml"), f"use_peft: true\n{text}"), tokenizer).read(0, row)
    )


ASK = {"role": "user", "content": "one"}


SAY = {"role": "assistant", "content": "two three"}


CHAT = {"messages": [ASK, SAY]}


LONG = {"messages": [ASK, SAY, ASK, SAY]}


PLAIN = {"prompt": "one :", "completion": " two"}


SIDES = {"prompt": [ASK], "completion": [SAY]}


SHAREGPT = {"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]}


MARKED = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }} <|end|>"
    "{% endgeneration %} {% else %}{{ m.content }} <|end|> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


MARKING = yaml.safe_dump({"assistant_only_loss": True, "chat_template": MARKED})


OPENING = yaml.safe_dump({"chat_template": MARKED})


ANSWERED = "user: one <|end|> assistant: [two] [three] [<|end|>]"


WHOLE = "[user:] [one] [<|end|>] [assistant:] [two] [three] [<|end|>]"


BY_HAND = [
    ("", {"text": "one two"}, ["[<s>] [one] [two] [</s>]"]),
    ("", {"text": "one two</s>"}, ["[<s>] [one] [two] [</s>]"]),
    ("dataset_text_field: t", {"t": "one", "text": "two"}, ["[<s>] [one] [</s>]"]),
    ("eos_token: <|end|>", {"text": "one"}, ["[<s>] [one] [<|end|>]"]),
    ("max_length: 2", {"text": "one two"}, ["[<s>] [one]"]),
    ("max_length:", {"text": "one two"}, ["[<s>] [one] [two] [</s>]"]),
    ("max_seq_length: 2", {"text": "one two"}, ["[<s>] [one]"]),
    ("max_length: 3\npacking: true", {"text": "one two"}, ["[<s>] [one] [two]"]),
    ("max_length: 3\npacking: true\npacking_strategy: bfd_split", {"text": "one two"}, ["[<s>] [one] [two]", "[</s>]"]),
    ("", PLAIN, ["<s> one : [two] [</s>]"]),
    ("completion_only_loss: true", PLAIN, ["<s> one : [two] [</s>]"]),
    ("completion_only_loss: false", PLAIN, ["[<s>] [one] [:] [two] [</s>]"]),
    ("max_length: 4", PLAIN, ["<s> one : [two]"]),
    ("", {**PLAIN, "text": "one"}, ["<s> one : [two]"]),  # the end is added to the text, which is not read
    ("", {"prompt": "one tw", "completion": "o"}, ["<s> one [two] [</s>]"]),  # the completion begins in a token
    ("", CHAT, [WHOLE]),
    ("", LONG, [f"{WHOLE} {WHOLE}"]),
    ("completion_only_loss: true", CHAT, [WHOLE]),
    (
        MARKING,
        LONG,
        [f"{ANSWERED} {ANSWERED}"],
    ),
    (f"{MARKING}max_length: 6", LONG, ["user: one <|end|> assistant: [two] [three]"]),
    ("", SIDES, ["user: one <|end|> [assistant:] [two] [three] [<|end|>]"]),  # without a generation prompt
    (OPENING, SIDES, [ANSWERED]),
    (MARKING, SIDES, [ANSWERED]),
    (f"{OPENING}completion_only_loss: false", SIDES, [WHOLE]),
    ("", SHAREGPT, ["[human:] [one] [<|end|>] [gpt:] [two] [<|end|>]"]),
]


@pytest.mark.parametrize(("text", "row", "expected"), BY_HAND)
def test_trls_tokens_are_those_that_its_rules_give_by_hand(text, row, expected):
    assert tokens_of(text, row) == expected


def test_only_the_columns_that_the_configuration_names_are_read():
    text = "datasets: [{path: x, columns: [messages]}]"
    assert tokens_of(text, {**CHAT, "prompt": "three"}) == [WHOLE]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("max_length: 3", PLAIN),
        ("max_length: 3\npacking: true", PLAIN),
        (f"{MARKING}max_length: 4", CHAT),
    ],
)
def test_rows_of_which_trl_would_learn_nothing_are_left_out(text, row):
    with pytest.raises(LeftOutError, match="no token"):
        tokens_of(text, row)


@pytest.mark.parametrize(
    ("text", "row", "why"),
    [
        ("", {"instruction": "one", "output": "two"}, "stops at a row with `instruction`, `output`"),
        ("", {**CHAT, "prompt": "one"}, "without `completion`"),
        ("assistant_only_loss: true", CHAT, "no `{% generation %}`"),
        (MARKING, {"messages": [ASK]}, "marks nothing"),
        ("chat_template_path: some/model", CHAT, "another model"),
        ("chat_template_path: none.jinja", CHAT, "none.jinja"),
        ("eos_token: <eos>", {"text": "one"}, "no token `<eos>`"),
        ("packing: true\npacking_strategy: wrapped", {"text": "one"}, "cut anywhere"),
        ("dataset_kwargs: {skip_prepare_dataset: true}", {"text": "one"}, "skip_prepare_dataset"),
        ("", {"text": "one", "images": []}, "`images`"),
        ("datasets: [{path: a, columns: [messages]}, {path: b, columns: [text]}]", CHAT, "several formats"),
    ],
)
def test_where_trl_stops_and_what_the_check_does_not_know_is_named(text, row, why):
    with pytest.raises(UnsupportedError, match=why):
        tokens_of(text, row)


# TRL itself

KINDS = {
    "texts": ("", [{"text": "one two"}, {"text": "three</s>"}]),
    "cut texts": ("max_length: 2", [{"text": "one two"}, {"text": "three"}]),
    "prompts": ("", [PLAIN, {"prompt": "one tw", "completion": "o"}]),
    "whole prompts": ("completion_only_loss: false", [PLAIN]),
    "cut prompts": ("max_length: 3", [PLAIN, {"prompt": "one", "completion": " two"}]),
    "prompts and texts": ("", [{**PLAIN, "text": "one"}]),
    "conversations": ("", [CHAT, LONG]),
    "marked conversations": (f"{MARKING}max_length: 12", [CHAT, LONG]),
    "completions of turns": (OPENING, [SIDES]),
    "sharegpt": ("", [SHAREGPT]),
    "another end": ("eos_token: <|end|>", [{"text": "one"}, {"text": "two <|end|>"}]),
}


@pytest.fixture(scope="module")
def of_trl(tmp_path_factory):
    """What TRL's own trainer makes of rows, by the keys of a configuration."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    folder = tmp_path_factory.mktemp("trl")

    def prepares(text, rows):
        tokenizer = word_tokenizer()
        keys = yaml.safe_load(text) or {}
        tokenizer.chat_template = keys.pop("chat_template", CHAT_TEMPLATE)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
        arguments = trl.SFTConfig(
            output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False, **keys
        )
        trainer = trl.SFTTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        return [(list(row["input_ids"]), list(row["labels"])) for row in trainer.train_dataset]

    return prepares


@pytest.mark.parametrize("kind", KINDS)
def test_the_reader_makes_the_tokens_and_labels_that_trl_makes(of_trl, kind):
    text, rows = KINDS[kind]
    reader = reader_of(text, word_tokenizer())
    found = []
    for row in rows:
        try:
            found += [(list(one.ids), one.labels) for one in reader.read(0, row)]
        except LeftOutError:
            continue
    assert found == of_trl(text, rows)
    assert found


# Numbers


@pytest.mark.parametrize(
    ("text", "gpus", "rows", "expected"),
    [
        ("", 1, 100, {"rank": 16, "alpha": 32, "scaling": 2.0, "dropout": 0.05, "global batch size": 8, "steps": 39}),
        ("", 1, 100, {"learning rate": 2e-5, "schedule": "linear", "warm-up steps": 0, "epochs": 3}),
        ("", 1, None, {"max length": 1024, "longer rows": "truncate", "optimizer": "adamw_torch_fused"}),
        (
            "per_device_train_batch_size: 2\ngradient_accumulation_steps: 4",
            2,
            100,
            {"global batch size": 16, "steps": 21},
        ),
        ("dataloader_drop_last: true", 1, 100, {"steps": 36}),
        ("warmup_ratio: 0.1", 1, 100, {"warm-up steps": 4}),
        ("warmup_steps: 0.1", 1, 100, {"warm-up steps": 4}),
        ("warmup_steps: 7\nmax_steps: 20", 1, None, {"warm-up steps": 7, "steps": 20, "epochs": None}),
        ("packing: true", 1, 100, {"steps": None, "rows": 100, "packing": True}),
        ("packing: true\npacking_strategy: bfd_split", 1, None, {"longer rows": "split"}),
        ("truncation_mode: keep_end", 1, None, {"longer rows": "cut at the beginning"}),
        ("max_length:", 1, None, {"max length": "no limit"}),
        ("datasets: [{path: x}]\ntest_split_size: 0.1", 1, 101, {"rows": 90}),
        ("dataset_mixture: {datasets: [{id: x}], test_split_size: 10}", 1, 101, {"rows": 91}),
        ("use_rslora: true", 1, None, {"scaling": 8.0}),
        ("lora_target_modules: all-linear", 1, None, {"target modules": "all-linear"}),
        ("model_name_or_path: lorans:nano", 1, None, {"target modules": ["q_proj", "v_proj"]}),
        ("model_name_or_path: no/such-base", 1, None, {"target modules": None}),
        ("load_in_4bit: true\nbf16: true", 1, None, {"quantization": "bnb-4bit", "precision": "bfloat16"}),
        ("load_in_8bit: true\ntorch_dtype: float16", 1, None, {"quantization": "bnb-8bit", "precision": "float16"}),
        ("bf16: false", 1, None, {"precision": "float32"}),
        ("assistant_only_loss: true", 1, None, {"loss on": "answers"}),
        ("completion_only_loss: false", 1, None, {"loss on": "every token"}),
        ("datasets: [{path: x, columns: [messages]}]", 1, None, {"loss on": "every token"}),
        ("datasets: [{path: x, columns: [prompt, completion]}]", 1, None, {"loss on": "answers"}),
    ],
)
def test_trls_numbers_are_those_that_its_rules_give_by_hand(text, gpus, rows, expected):
    found = trl_numbers(parse_source(Path("config.yaml"), f"use_peft: true\n{text}"), gpus, rows).values
    assert {name: found[name] for name in expected} == expected


def test_a_loss_that_follows_from_the_rows_is_not_stated():
    assert "loss on" not in trl_numbers(parse_source(Path("config.yaml"), "dataset_name: a/b"), 1, None).values
    assert set(WHY) <= set(trl_numbers(parse_source(Path("config.yaml"), "use_peft: true"), 1, None).values)
