"""The readers of `lorans import --check`: tokens and numbers by hand, for each rule of the other tools."""

import json
from pathlib import Path

import pytest
from word_tokenizer import shown, word_tokenizer

pytest.importorskip("torch")

from lora_ns.importers.source import parse_source
from lora_ns.services.import_check.axolotl import AxolotlRows
from lora_ns.services.import_check.axolotl_numbers import axolotl_numbers
from lora_ns.services.import_check.llamafactory import LlamaFactoryRows
from lora_ns.services.import_check.llamafactory_numbers import llamafactory_numbers
from lora_ns.services.import_check.rates import compare_rates
from lora_ns.services.import_check.reader import LeftOutError, Rate, UnsupportedError


@pytest.fixture
def theirs():
    """What axolotl makes of a row."""

    def reads(text, row):
        tokenizer = word_tokenizer()
        return shown(tokenizer, AxolotlRows(parse_source(Path("config.yaml"), text), tokenizer).read(0, row))

    return reads


OWN = "datasets: [{path: x, type: {field_instruction: q, field_output: a, format: '{instruction} : {input} :', "
OWN += "no_input_format: '{instruction} :'}}]\n"


CHAT = "datasets: [{path: x, type: chat_template%s}]\n"


BELOW = "<s> Below is an instruction that describes a task"
WRITE = "Write a response that appropriately completes the request."


TURNS = {"messages": [{"role": role, "content": text} for role, text in (("user", "one"), ("assistant", "two three"))]}


BY_HAND = [
    (OWN, {"q": "one", "a": "two"}, ["<s> one : [two] [</s>]"]),
    (OWN, {"q": "one", "a": "two", "input": "three"}, ["<s> one : three : [two] [</s>]"]),
    (OWN, {"q": "one", "a": "two", "input": None}, ["<s> one : [two] [</s>]"]),
    (OWN, {"q": "one", "a": "two", "system": "be brief"}, ["<s> be <unk> : [two] [</s>]"]),  # `briefone`
    (f"{OWN}train_on_inputs: true", {"q": "one", "a": "two"}, ["[<s>] [one] [:] [two] [</s>]"]),
    (f"{OWN}train_on_inputs: 'true'", {"q": "one", "a": "two"}, ["[<s>] [one] [:] [two] [</s>]"]),
    (f"{OWN}sequence_len: 4\nexcess_length_strategy: truncate", {"q": "one", "a": "two"}, ["<s> one : [two]"]),
    (f"{OWN}sequence_len: 5", {"q": "one", "a": "two"}, ["<s> one : [two] [</s>]"]),
    (
        "datasets: [{path: x, type: alpaca}]",
        {"instruction": "one", "output": "two"},
        [f"{BELOW}. {WRITE} ### Instruction: one ### Response: [two] [</s>]"],
    ),
    (
        "datasets: [{path: x, type: alpaca}]",
        {"instruction": "one", "input": "three", "output": "two"},
        [
            f"{BELOW}, paired with an input that provides further context. {WRITE} "
            "### Instruction: one ### Input: three ### Response: [two] [</s>]"
        ],
    ),
    (
        "datasets: [{path: x, type: alpaca_w_system.load_instruct}]",
        {"instruction": "one", "output": "two", "system": "be brief"},
        ["<s> be brief ### Instruction: one ### Response: [two] [</s>]"],
    ),
    (
        "datasets: [{path: x, type: alpaca_chat.load_no_prompt}]",
        {"instruction": "one", "input": "three", "output": "two"},
        ["<s> USER: one three ASSISTANT: [two] [</s>]"],
    ),
    ("datasets: [{path: x, type: completion}]", {"text": "one two"}, ["[<s>] [one] [two] [</s>]"]),
    ("datasets: [{path: x, type: completion, field: t}]", {"t": "one two"}, ["[<s>] [one] [two] [</s>]"]),
    ("datasets: [{path: x, type: completion}]\nsequence_len: 2", {"text": "one two"}, ["[<s>] [one]", "[two] [</s>]"]),
    ("datasets: [{path: x, type: completion}]\nsequence_len: 3", {"text": "one two"}, ["[<s>] [one] [two]"]),
    (CHAT % "", TURNS, ["user: one <|end|> assistant: [two] [three] <|end|>"]),
    (f"{CHAT % ''}eot_tokens: ['<|end|>']", TURNS, ["user: one <|end|> assistant: [two] [three] [<|end|>]"]),
    (
        f"{CHAT % ''}special_tokens: {{eos_token: '<|end|>'}}",
        TURNS,
        ["user: one <|end|> assistant: [two] [three] [<|end|>]"],
    ),
    (f"{CHAT % ''}train_on_inputs: true", TURNS, ["user: [one] <|end|> assistant: [two] [three] <|end|>"]),
    (
        f"{CHAT % ', train_on_eot: all'}eot_tokens: ['<|end|>']",
        TURNS,
        ["user: one [<|end|>] assistant: [two] [three] [<|end|>]"],
    ),
    (f"{CHAT % ', roles_to_train: [human]'}", TURNS, ["user: [one] <|end|> assistant: two three <|end|>"]),
    (
        CHAT % ", field_messages: c, message_property_mappings: {role: from, content: value}",
        {"c": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]},
        ["user: one <|end|> assistant: [two] <|end|>"],
    ),
    (
        "datasets: [{path: x, type: sharegpt}]",
        {"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]},
        ["user: one <|end|> assistant: [two] <|end|>"],
    ),
    (
        CHAT % "",
        {**TURNS, "system": "be brief"},
        ["system: be brief <|end|> user: one <|end|> assistant: [two] [three] <|end|>"],
    ),
    (
        CHAT % ", message_field_training: learn",
        {"messages": [{**TURNS["messages"][0], "learn": True}, {**TURNS["messages"][1], "learn": False}]},
        ["user: [one] <|end|> assistant: two three <|end|>"],
    ),
]


@pytest.mark.parametrize(("text", "row", "expected"), BY_HAND)
def test_axolotls_tokens_are_those_that_its_rules_give_by_hand(theirs, text, row, expected):
    assert theirs(text, row) == expected


@pytest.mark.parametrize(
    ("text", "row", "why"),
    [
        (f"{OWN}sequence_len: 4", {"q": "one", "a": "two"}, "5 tokens, longer than `sequence_len: 4`"),
        (f"{OWN}sequence_len: 3\nexcess_length_strategy: truncate", {"q": "one", "a": "two"}, "none of its tokens"),
        (CHAT % "", {"messages": []}, "has no turns"),
        (CHAT % "", {"messages": [TURNS["messages"][0]]}, "none of its tokens"),
        (f"{CHAT % ''}chat_template: gemma", {"messages": TURNS["messages"][1:]}, "gemma"),
    ],
)
def test_rows_that_axolotl_leaves_out(theirs, text, row, why):
    with pytest.raises(LeftOutError, match=why):
        theirs(text, row)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("datasets: [{path: x, type: pygmalion}]", {"text": "one"}),
        (f"{CHAT % ''}chat_template: phi_3", TURNS),
        (CHAT % ", split_thinking: true", TURNS),
        ("datasets: [{path: x, type: {format: '{instruction!r}', no_input_format: '{instruction!r}'}}]", {}),
    ],
)
def test_what_the_check_does_not_know_is_named_and_not_guessed(theirs, text, row):
    with pytest.raises(UnsupportedError, match="`--check` does not support"):
        theirs(text, row)


# LLaMA-Factory


INFO = {
    "alpaca": {"file_name": "x"},
    "renamed": {"file_name": "x", "columns": {"prompt": "q", "response": "a", "system": "s", "history": "h"}},
    "sharegpt": {"file_name": "x", "formatting": "sharegpt"},
    "openai": {
        "file_name": "x",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
}


ASK = {"instruction": "one", "output": "two"}


SHAREGPT = {"conversations": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two three"}]}


LONG = {"conversations": [*SHAREGPT["conversations"], *SHAREGPT["conversations"]]}


@pytest.fixture
def of_llamafactory(tmp_path, monkeypatch):
    """What LLaMA-Factory makes of a row."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(INFO))

    def reads(text, row):
        tokenizer = word_tokenizer()
        source = parse_source(Path("config.yaml"), f"stage: sft\n{text}")
        return shown(tokenizer, LlamaFactoryRows(source, tokenizer).read(0, row))

    return reads


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        ("dataset: alpaca\ntemplate: empty", {"instruction": "one", "output": "two"}, ["one [two]"]),
        ("dataset: alpaca\ntemplate: vicuna\ndefault_system: be", ASK, ["be USER: one ASSISTANT: [two] [</s>]"]),
        (
            "dataset: alpaca\ntemplate: vicuna\ndefault_system: be",
            {**ASK, "input": "three"},
            ["be USER: one three ASSISTANT: [two] [</s>]"],
        ),
        (
            "dataset: renamed\ntemplate: vicuna",
            {"q": "one", "a": "two", "s": "brief", "input": "never"},
            ["brief USER: one ASSISTANT: [two] [</s>]"],
        ),
        (
            "dataset: renamed\ntemplate: vicuna\ndefault_system: be",
            {"q": "one", "a": "two", "h": [["two", "three"]]},
            ["be USER: two ASSISTANT: [three] [</s>] USER: one ASSISTANT: [two] [</s>]"],
        ),
        ("dataset: sharegpt\ntemplate: empty", SHAREGPT, ["one [two] [three]"]),
        ("dataset: sharegpt\ntemplate: empty\ntrain_on_prompt: true", SHAREGPT, ["[one] [two] [three]"]),
        ("dataset: sharegpt\ntemplate: empty\nmask_history: true", LONG, ["one two three one [two] [three]"]),
        ("dataset: sharegpt\ntemplate: empty\ncutoff_len: 5", LONG, ["one [two] [three] one [two]"]),
        ("dataset: sharegpt\ntemplate: empty\ncutoff_len: 5\npacking: true", LONG, ["one [two] [three] one"]),
        ("dataset: openai\ntemplate: empty", TURNS, ["one [two] [three]"]),
        (
            "dataset: sharegpt\ntemplate: mistral",
            {"conversations": [{"from": "system", "value": "be"}, *SHAREGPT["conversations"]]},
            ["<s> <unk> be <unk> [two] [three] [</s>]"],  # `[INST] be one[/INST]`: white space divides words
        ),
    ],
)
def test_llamafactorys_tokens_are_those_that_its_rules_give_by_hand(of_llamafactory, text, row, expected):
    assert of_llamafactory(text, row) == expected


@pytest.mark.parametrize("change", ["template: no_such", "dataset: no_such", "stage: pt"])
def test_what_the_check_does_not_know_of_llamafactory_is_named(of_llamafactory, change):
    lines = {"dataset": "dataset: alpaca", "template": "template: empty", "stage": "stage: sft"}
    lines[change.partition(":")[0]] = change
    with pytest.raises(UnsupportedError):
        of_llamafactory("\n".join(lines.values()), ASK)


@pytest.mark.parametrize(
    ("text", "gpus", "rows", "expected"),
    [
        ("", 1, 100, {"rank": 8, "alpha": 16, "global batch size": 8, "epochs": 3, "steps": 39, "learning rate": 5e-5}),
        (
            "per_device_train_batch_size: 2\ngradient_accumulation_steps: 4",
            2,
            100,
            {"global batch size": 16, "steps": 21},
        ),
        ("warmup_ratio: 0.1", 1, 100, {"warm-up steps": 4, "schedule": "linear"}),
        ("warmup_steps: 7\nmax_steps: 20", 1, None, {"warm-up steps": 7, "steps": 20}),
        ("val_size: 0.1", 1, 101, {"rows": 90}),
        ("lora_rank: 16\nuse_rslora: true", 1, None, {"alpha": 32, "scaling": 8.0}),
        ("mask_history: true", 1, None, {"loss on": "the last answer"}),
        ("quantization_bit: 4\nbf16: true", 1, None, {"quantization": "bnb-4bit", "precision": "bfloat16"}),
    ],
)
def test_llamafactorys_numbers_are_those_that_its_rules_give_by_hand(text, gpus, rows, expected):
    found = llamafactory_numbers(parse_source(Path("config.yaml"), f"stage: sft\n{text}"), gpus, rows).values
    assert {name: found[name] for name in expected} == expected


# axolotl's numbers


@pytest.mark.parametrize(
    ("text", "gpus", "rows", "expected"),
    [
        ("micro_batch_size: 2\ngradient_accumulation_steps: 4", 2, 100, {"global batch size": 16, "steps": 7}),
        ("micro_batch_size: 4\nbatch_size: 10", 1, 100, {"global batch size": 8, "steps": 13}),
        ("num_epochs: 3\nmicro_batch_size: 8", 1, 100, {"steps": 38}),  # 300 / 8, and not 3 times 13
        ("num_epochs: 3\nmicro_batch_size: 8\nval_set_size: 0.1", 1, 101, {"rows": 90, "steps": 34}),
        ("max_steps: 7\nmicro_batch_size: 8", 1, 100, {"steps": 7}),
        ("micro_batch_size: 1", 1, 1000, {"warm-up steps": 30}),
        ("micro_batch_size: 1", 1, 10_000, {"warm-up steps": 100}),
        ("micro_batch_size: 1\nwarmup_ratio: 0.1", 1, 19, {"warm-up steps": 2}),  # 1 becomes 2
        ("warmup_steps: 1", 1, None, {"warm-up steps": 2, "steps": None}),
        ("sample_packing: true", 1, 100, {"steps": None, "rows": 100, "packing": True}),
        ("lora_r: 16\nlora_alpha: 32", 1, None, {"scaling": 2.0}),
        ("lora_r: 16\nlora_alpha: 32\npeft_use_rslora: true", 1, None, {"scaling": 8.0}),
        ("adapter: qlora\nbf16: true", 1, None, {"quantization": "bnb-4bit", "precision": "bfloat16"}),
        ("bf16: false", 1, None, {"precision": "float32", "max length": 512, "optimizer": "adamw_torch_fused"}),
        ("learning_rate: 2e-4", 1, None, {"learning rate": 2e-4, "schedule": "cosine", "loss on": "answers"}),
    ],
)
def test_axolotls_numbers_are_those_that_its_rules_give_by_hand(text, gpus, rows, expected):
    found = axolotl_numbers(parse_source(Path("config.yaml"), text), gpus, rows).values
    assert {name: found[name] for name in expected} == expected


def test_learning_rates_are_compared_step_by_step():
    cosine = Rate(1e-3, "cosine", 2, 10)
    assert compare_rates(cosine, cosine).is_equal
    later = compare_rates(cosine, Rate(1e-3, "cosine", 3, 10))
    assert (later.is_equal, later.at) == (False, 3)  # the first is at its peak, the other at two thirds of it
    assert (later.theirs, later.ours) == (pytest.approx(1e-3), pytest.approx(2e-3 / 3))
    assert not compare_rates(cosine, Rate(1e-3, "linear", 2, 10)).is_equal
    assert "rex" in compare_rates(Rate(1e-3, "rex", 2, 10), cosine)
    assert compare_rates(Rate(1e-3, "cosine", None, None), cosine).note
    twice = Rate(1e-3, "cosine", 2, 10, {"num_cycles": 2})
    assert not compare_rates(twice, cosine).is_equal
    assert compare_rates(twice, Rate(1e-3, "cosine", 2, 10, '{"num_cycles": 2}')).is_equal
    assert "cosine" in compare_rates(Rate(1e-3, "cosine", 2, 10, {"no_such": 2}), cosine)
