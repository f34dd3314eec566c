"""`lorans import --check`: tokens by hand for each rule of the other tool, and changes that it has to find."""

import json
from pathlib import Path

import pytest
from command_line import lorans

pytest.importorskip("torch")

from lora_ns.importers.source import parse_source
from lora_ns.machine.hardware import detect
from lora_ns.model.files import packaged
from lora_ns.recipe.load import load_recipe
from lora_ns.services.import_ import import_config
from lora_ns.services.import_check.axolotl import AxolotlRows
from lora_ns.services.import_check.axolotl_numbers import axolotl_numbers
from lora_ns.services.import_check.check import Asked, check_import, compare
from lora_ns.services.import_check.rates import compare_rates
from lora_ns.services.import_check.reader import LeftOutError, Rate, UnreadError

# A tokenizer whose tokens are words: `<s>` begins a text, `</s>` ends it, `<|end|>` ends a turn.

WORDS = (
    "<unk> <s> </s> <|end|> one two three : user: assistant: system: Below is an instruction that describes a task, "
    "task. paired with input provides further context. Write response appropriately completes the request. ### "
    "Instruction: Input: Response: be brief USER: ASSISTANT: SYSTEM:"
)


@pytest.fixture(scope="module")
def make_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    def make():
        words = {word: number for number, word in enumerate(dict.fromkeys(WORDS.split()))}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", words["<s>"])]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            additional_special_tokens=["<|end|>"],
            chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }} <|end|> {% endfor %}",
        )

    return make


@pytest.fixture
def theirs(make_tokenizer):
    """What axolotl makes of a row: each sequence as words, with those in brackets that are learned."""

    def reads(text, row):
        tokenizer = make_tokenizer()
        found = AxolotlRows(parse_source(Path("config.yaml"), text), tokenizer).read(0, row)
        return [
            " ".join(
                f"[{word}]" if learned else word
                for word, learned in zip(tokenizer.convert_ids_to_tokens(list(one.ids)), one.trained, strict=True)
            )
            for one in found
        ]

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
        (f"{OWN}sequence_len: 3\nexcess_length_strategy: truncate", {"q": "one", "a": "two"}, "no token"),
        (CHAT % "", {"messages": []}, "no turns"),
        (CHAT % "", {"messages": [TURNS["messages"][0]]}, "no token"),
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
    with pytest.raises(UnreadError, match="this check does not"):
        theirs(text, row)


# Numbers


@pytest.mark.parametrize(
    ("text", "gpus", "rows", "expected"),
    [
        ("micro_batch_size: 2\ngradient_accumulation_steps: 4", 2, 100, {"rows per step": 16, "steps": 7}),
        ("micro_batch_size: 4\nbatch_size: 10", 1, 100, {"rows per step": 8, "steps": 13}),
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
        ("adapter: qlora\nbf16: true", 1, None, {"base stored as": "bnb-4bit", "precision": "bfloat16"}),
        ("bf16: false", 1, None, {"precision": "float32", "longest row": 512, "optimizer": "adamw_torch_fused"}),
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


# Both sides


HEAD = """\
base_model: lorans:nano
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
micro_batch_size: 2
gradient_accumulation_steps: 2
sequence_len: 512
warmup_steps: 2
max_steps: 6
learning_rate: 2e-4
output_dir: out
"""


ROWS = {
    "alpaca": [
        {"instruction": f"add {n}", "input": "" if n % 2 else f"{n} more", "output": f"It is {n}."} for n in range(8)
    ],
    "chat_template": [
        {
            "messages": [
                {"role": "user", "content": f"How many is {n}?"},
                {"role": "assistant", "content": f"It is {n}."},
                {"role": "user", "content": "And twice that?"},
                {"role": "assistant", "content": f"That is {2 * n}."},
            ]
        }
        for n in range(8)
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": f"Hi {n}"}, {"from": "gpt", "value": f"Hello, {n}!"}]}
        for n in range(8)
    ],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Writes a configuration with its rows into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(kind, more=""):
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS[kind])))
        text = f"{HEAD}datasets:\n  - path: rows.jsonl\n    type: {kind}\n{more}"
        (tmp_path / "config.yaml").write_text(text)
        return tmp_path / "config.yaml"

    return write


@pytest.mark.parametrize("kind", ROWS)
def test_an_imported_recipe_trains_the_same(here, kind):
    check = check_import(import_config(here(kind)), detect(), Asked())
    assert [pair.name for pair in check.numbers if not pair.is_equal] == []
    assert check.rates.is_equal
    assert [pair.said for pair in check.rows.pairs] == [""] * 8
    assert all(pair.theirs.count > 2 for pair in check.rows.pairs)
    assert check.is_proven


CHANGES = [
    ("alpaca", "", 'sft.train_on="all"', "axolotl trains", '`sft.train_on = "all"`'),
    ("alpaca", "train_on_inputs: true\n", 'sft.train_on="assistant"', "axolotl trains", "`train_on_inputs: true`"),
    ("chat_template", "", 'sft.train_on="last"', "axolotl trains", "the first token that only axolotl learns"),
    ("alpaca", "", 'dataset.completion_template=" {output}"', "differs from token", "this recipe"),
    ("alpaca", "", "sft.max_seq_length=8", "this recipe leaves row 1 out", "longer than"),
    (
        "sharegpt",
        "",
        'sft.chat_template="other.jinja"',
        "row 1 differs from token 1 on: axolotl has",
        "this recipe `Note`",
    ),
]


@pytest.mark.parametrize(("kind", "more", "change", "said", "why"), CHANGES)
def test_a_recipe_that_was_changed_is_caught_in_words(here, kind, more, change, said, why):
    imported = import_config(here(kind, more))
    Path("other.jinja").write_text(f"Note: {packaged('lorans:nano/chat_template.jinja').read_text()}")
    loaded = load_recipe(Path("recipe.toml"), [change], text=imported.text)
    check = compare(loaded, imported.translation.source, "axolotl", detect(), Asked(rows=2))
    assert check.is_different
    assert len(check.rows.different) == 2
    assert said in check.rows.different[0].said
    assert why in check.rows.different[0].said


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("peft.lora_r=4", "rank"),
        ("peft.lora_alpha=8", "scaling"),
        ("training.learning_rate=1e-4", "learning rate"),
        ("training.warmup_steps=3", "warm-up steps"),
        ("training.global_batch_size=8", "rows per step"),
        ('training.optim="adamw_torch"', "optimizer"),
        ('sft.on_overflow="truncate"', "longer rows"),
        ("sft.packing=true", "packing"),
        ('peft.target_modules=["q_proj"]', "adapted"),
    ],
)
def test_a_number_that_was_changed_is_caught(here, change, name):
    imported = import_config(here("alpaca"))
    loaded = load_recipe(Path("recipe.toml"), [change], text=imported.text)
    check = compare(loaded, imported.translation.source, "axolotl", detect(), Asked(rows=1))
    assert name in [pair.name for pair in check.numbers if not pair.is_equal]


# The command


def test_the_command_proves_an_import_and_says_so(here):
    here("alpaca")
    done = lorans("import", "config.yaml", "-o", "recipe.toml", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows: 8 of 8 rows: same tokens, same labels" in done.stdout
    assert "learning rate: the same in each of 6 steps" in done.stdout
    assert done.stdout.endswith("check: this recipe trains what axolotl would\n")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_the_command_exits_with_2_at_a_difference_and_3_without_a_tokenizer(here, tmp_path):
    here("alpaca")
    assert lorans("import", "config.yaml", "-o", "mine.toml").returncode == 0
    text = (tmp_path / "mine.toml").read_text().replace("[sft]\n", '[sft]\ntrain_on = "all"\n')
    (tmp_path / "mine.toml").write_text(text)
    done = lorans("import", "config.yaml", "--check", "--recipe", "mine.toml", "--json")
    told = json.loads(done.stdout)["check"]
    assert done.returncode == 2
    assert (told["same"], told["different"], told["rows"]["same"]) == (False, True, 0)
    assert told["rows"]["rows"][0]["theirs"]["sequences"][0]["labels"].count(-100) > 10
    (tmp_path / "config.yaml").write_text((tmp_path / "config.yaml").read_text().replace("lorans:nano", "no/such-base"))
    done = lorans("import", "config.yaml", "--check")
    assert done.returncode == 3
    assert "not compared: `no/such-base` is not on this machine" in done.stderr
    assert lorans("import", "config.yaml", "--check", "--base", "lorans:nano").returncode == 0


@pytest.mark.parametrize("option", [("--data", "rows.jsonl"), ("--base", "lorans:nano"), ("--recipe", "mine.toml")])
def test_options_of_the_check_need_it(here, option):
    here("alpaca")
    done = lorans("import", "config.yaml", *option)
    assert (done.returncode, done.stdout) == (2, "")
    assert "add `--check`" in done.stderr
