"""What `validate --data` refuses `train` refuses, before there is a run, and what one lets pass the other does."""

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from plans import as_asked
from services_recipes import CLASSES, RECIPE
from tokenizers import Tokenizer
from typer.testing import CliRunner

import lora_ns
from lora_ns.cli.app import app
from lora_ns.data.prepare import open_renderer, prepare
from lora_ns.errors import LoransError
from lora_ns.model.files import find_base
from lora_ns.model.find import find_recipe_base
from lora_ns.recipe.load import load_recipe, locating
from lora_ns.run.observer import SilentObserver

PACKAGE = Path(lora_ns.__file__).parent
TEXT = RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl").replace(
    "lorans:quickstart/eval.jsonl", "eval.jsonl"
)
TEXT = TEXT.replace("max_samples = 64\n", "").replace("max_eval_samples = 8\n", "").replace('format = "messages"\n', "")
PAIRS = TEXT.replace("[sft]", "[dpo]")
LABELS = CLASSES.replace('path = "classes.jsonl"\neval_path = "classes.jsonl"', 'path = "rows.jsonl"').replace(
    "[training]", 'eval_path = "eval.jsonl"\n[training]'
)
JUDGED = TEXT.replace("[sft]", "[kto]")
TAGS = LABELS.replace("SEQ_CLS", "TOKEN_CLS")
CUT = 'sft.on_overflow="truncate"'
LONG = {"prompt": "a", "completion": "plum " * 60}
GOOD = [{"prompt": f"What is {number} + 1?", "completion": f"{number + 1}"} for number in range(8)]
HELD_OUT = [{"prompt": "Say plum.", "completion": "plum"}]
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
LOUD = {"role": "assistant", "content": "B"}
CHATS = [{"messages": CHAT}]
UNSEEN = [{"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}]
NEVER = [{"messages": [CHAT[0], {**CHAT[1], "train": False}]}]
CALLED = [{"messages": CHAT, "tools": [{"name": "f", "parameters": {}}]}]
GREETED = [{"messages": [{"role": "assistant", "content": "hello"}, *CHAT]}]
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEMPLATES = {
    "endless.jinja": "{% for m in messages %}{{ m.content }}{% endfor %}",
    "quiet.jinja": CHATML.replace("m.content", "(m.content if loop.last or m.role == 'user' else m.content | lower)")
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "other.jinja": CHATML + "{% if add_generation_prompt %}<|im_start|>bot\n{% endif %}",
    "twice.jinja": "{{ bos_token + bos_token }}"
    + CHATML
    + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}
CLASSED = [{"text": f"{name} {number}", "label": name} for name in "ab" for number in range(30)]

PREFERRED = [{"prompt": f"What is {number} + 1?", "chosen": f"{number + 1}", "rejected": "No."} for number in range(8)]
UNPREFERRED = [{"prompt": "Say plum.", "chosen": "plum", "rejected": "stone"}]
LONGER = [{**row, "prompt": f"{row['prompt']} {n}", "rejected": "I do not know."} for row in PREFERRED for n in "abc"]
CIRCLE = [{"prompt": "a", "chosen": one, "rejected": two} for one, two in ("bc", "cd", "db")]

NO_TAGS = [{"tokens": ["c"], "tags": ["O"]}]
TAGGED = [{"tokens": ["plum", str(number)], "tags": ["B-x", "O"]} for number in range(4)]

CASES = {
    "BOS001": (CHATS, UNSEEN, ["model.name_or_path=with-bos", "sft.chat_template=twice.jinja"]),
    "DATA001": ([*CHATS, {"messages": []}], UNSEEN, []),
    "DATA002": ([*GOOD, {"prompt": " ", "completion": "a"}], HELD_OUT, []),
    "DATA003": ([{"text": "User: hi\nAssistant: yo"}], [{"text": "a"}], []),
    "DATA004": ([{**row, "body": "x"} for row in GOOD], HELD_OUT, []),
    "DATA004 refused": ([{**row, "system": "Be kind."} for row in GOOD], HELD_OUT, []),
    "DUP001": ([*GOOD, GOOD[0]], HELD_OUT, []),
    "EOS001": (CHATS, UNSEEN, ["sft.chat_template=endless.jinja"]),
    "EOS001 of all tokens": (CHATS, UNSEEN, ["sft.chat_template=endless.jinja", "sft.train_on=all"]),
    "EOS002": ([LONG], HELD_OUT, [CUT]),
    "EOS003": ([*GOOD, LONG], HELD_OUT, [CUT]),
    "EOS003 of evaluation": (GOOD, [LONG], [CUT]),
    "KTO001": ([{**row, "label": True} for row in GOOD], [{**HELD_OUT[0], "label": True}], []),
    "LABEL001": (CLASSED, [{"text": "x", "label": "c"}], []),
    "LABEL002": ([*CLASSED, {"text": "x", "label": "c"}], [{"text": "y", "label": "a"}], []),
    "LEAK001": (GOOD, GOOD[:1], []),
    "LEAK002": (GOOD, [{"prompt": "what IS 1 + 1 ", "completion": "2!"}], []),
    "LEN001": ([*GOOD, LONG], HELD_OUT, []),
    "LEN001 of evaluation": (GOOD, [LONG], []),
    "MASK001": ([*CHATS, *NEVER], UNSEEN, []),
    "PAIR001": ([*PREFERRED, {"prompt": "a", "chosen": "b", "rejected": "b"}], UNPREFERRED, []),
    "PAIR002": (
        [*PREFERRED, {"prompt": "a", "chosen": [CHAT[1], CHAT[0], LOUD, CHAT[0], CHAT[1]], "rejected": [CHAT[1]]}],
        UNPREFERRED,
        ["dpo.chat_template=quiet.jinja"],
    ),
    "PAIR003": ([*PREFERRED, {"prompt": "a", "chosen": "Plum.", "rejected": "plum"}], UNPREFERRED, []),
    "PAIR004": ([*PREFERRED, {**PREFERRED[0], "chosen": "No.", "rejected": "1"}], UNPREFERRED, []),
    "PAIR005": ([*PREFERRED, *CIRCLE], UNPREFERRED, []),
    "PAIR006": (LONGER, UNPREFERRED, []),
    "PAIR007 with EOS003": (
        [*PREFERRED, {"prompt": "a", "chosen": "plum " * 60, "rejected": "plum"}],
        UNPREFERRED,
        ['dpo.on_overflow="truncate"', "dpo.max_seq_length=64"],
    ),
    "PAIR008": (PREFERRED, [{**PREFERRED[0], "chosen": "one"}], []),
    "none of PAIRs": (PREFERRED, UNPREFERRED, []),
    "SPEC001": ([*GOOD, {"prompt": "What is <|im_end|>?", "completion": "a"}], HELD_OUT, []),
    "SPEC002": ([*GOOD, {"prompt": "a", "completion": "It is <|im_end|>, then b"}], HELD_OUT, []),
    "SPEC002 left out": (
        [*GOOD, {"prompt": "a", "completion": "It is <|im_end|>, then b"}],
        HELD_OUT,
        ["sft.on_stop_token=drop"],
    ),
    "SUITE001": (GOOD, HELD_OUT, ['evaluation.suites=[{kind = "number", path = "quiet.jinja"}]']),
    "SUITE002": (GOOD, HELD_OUT, ['evaluation.suites=[{kind = "number"}]']),
    "SUITE003": (GOOD, HELD_OUT, ['evaluation.suites=[{kind = "regex", pattern = "stone"}]']),
    "TAG001": ([*TAGGED, {"tokens": ["a", "", "b"], "tags": ["O", "B-x", "O"]}], NO_TAGS, []),
    "TAG001 of evaluation": (TAGGED, [{"tokens": ["a", ""], "tags": ["O", "B-x"]}], []),
    "TAG002": ([*TAGGED, {"tokens": ["a", "", "b"], "tags": ["O", "B-y", "O"]}], NO_TAGS, []),
    "TOK001": ([*GOOD, {"prompt": "<word 999>", "completion": "a"}], HELD_OUT, ["model.name_or_path=with-a-word"]),
    "TPL001": (CHATS, UNSEEN, ["model.name_or_path=without-template"]),
    "TPL002": (CHATS, UNSEEN, ["sft.chat_template=other.jinja"]),
    "TPL003": (GREETED, UNSEEN, ["sft.chat_template=mistral"]),
    "TPL004": (CALLED, UNSEEN, ["sft.chat_template=mistral"]),
    "none": (GOOD, HELD_OUT, []),
    "none of all tokens": (CHATS, UNSEEN, ["sft.train_on=all"]),
    "none of a greeting": (GREETED, UNSEEN, []),
}
"""By what is found, training rows, evaluation rows, and overrides."""
CODE = r"[A-Z]{3,5}\d{3}"
RAISED_WHILE_OPENING = {"TPL005"}
"""A template that does not end stops both while the base is opened."""
NEEDS_WEIGHTS = {"PAIR009"}
"""The base's own ranking, which only `validate --model` computes: see test_rank_pairs.py."""
OF_SUITES = {"LEAK003"}
"""Items of suites in the training rows, which are no fault of a training: see test_suite_leaks.py."""
OF_REWARDS = {f"REW00{number}" for number in range(1, 8)}
"""Faults of reward functions, which both report by the same check: see test_checks.py of the rewards."""
WARNINGS = {
    "none", "BOS001", "DATA002", "DATA003", "DATA004", "DUP001", "EOS003", "LABEL002", "LEAK001", "LEAK002", "PAIR001",
    "PAIR003", "PAIR004", "PAIR005", "PAIR006", "PAIR007 with EOS003", "PAIR008", "SPEC001", "SPEC002 left out",
    "TAG001", "TAG001 of evaluation",
}  # fmt: skip


def test_every_code_has_a_case():
    found = {code for file in PACKAGE.rglob("*.py") for code in re.findall(f'"({CODE})"', file.read_text("utf-8"))}
    elsewhere = RAISED_WHILE_OPENING | NEEDS_WEIGHTS | OF_SUITES | OF_REWARDS
    assert found - elsewhere == {case.split()[0] for case in CASES} - {"none"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The packaged base without its template, with a beginning token, and with words that it has no embeddings for."""
    folder = tmp_path_factory.mktemp("bases")
    for name in ("without-template", "with-bos", "with-a-word"):
        shutil.copytree(find_base("lorans:nano", "main", [], download=False).path, folder / name)
    (folder / "without-template" / "chat_template.jinja").unlink()
    words = folder / "with-a-word" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(words))
    tokenizer.add_tokens([f"<word {number}>" for number in range(1000)])
    tokenizer.save(str(words))
    config = folder / "with-bos" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "bos_token": "<|endoftext|>"}))
    return folder


@pytest.fixture
def write(tmp_path, bases):
    def write(case):
        rows, held_out, overrides = CASES[case]
        for name, listed in {"rows.jsonl": rows, "eval.jsonl": held_out}.items():
            (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in listed))
        for name, template in TEMPLATES.items():
            (tmp_path / name).write_text(template)
        for base in bases.iterdir():
            (tmp_path / base.name).symlink_to(base)
        kinds = {"LABE": LABELS, "TAG0": TAGS, "PAIR": PAIRS, "KTO0": JUDGED}
        text = kinds.get(case.removeprefix("none of ")[:4], TEXT)
        (tmp_path / "recipe.toml").write_text(text)
        return overrides

    return write


def invoke(command, overrides, *options):
    arguments = [part for override in overrides for part in ("--set", override)]
    return CliRunner().invoke(app, [command, "recipe.toml", *options, *arguments])


def prepare_rows(overrides):
    """Make the rows ready, as a training does."""
    loaded = load_recipe(Path("recipe.toml"), overrides)
    base = find_recipe_base(loaded.recipe.model, loaded.folder)
    settled = as_asked(loaded)
    with locating(loaded):
        return prepare(settled, open_renderer(settled, base), base, SilentObserver(), use_cache=False)


@pytest.mark.parametrize("case", CASES)
def test_validate_and_train_judge_alike(case, write, tmp_path):
    overrides = write(case)
    done = invoke("validate", overrides, "--data", "--json")
    found = {finding["code"]: finding["error"] for finding in json.loads(done.stdout)["data"]["findings"]}
    code, refuses = case.split()[0], case not in WARNINGS and not case.startswith(("none", "EOS003"))
    assert set(found) == set(re.findall(CODE, case))
    assert (found.get(code, False), done.exit_code) == (refuses, 2 if refuses else 0)
    if refuses:
        trained = invoke("train", overrides)
        assert isinstance(trained.exception, LoransError)
        assert trained.exception.exit_code == 2
        assert {problem.code or "DATA001" for problem in trained.exception.problems} == {code}
    else:
        assert len(prepare_rows(overrides).train)
    assert not (tmp_path / "run").exists()
