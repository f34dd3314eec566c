"""The traps that give a worse model without a word, end to end; and that the checks see what they are to see.

A test named `..._has_teeth` calls the libraries the unprotected way, where its neighbour's invariant does not hold.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import datasets
import torch
import transformers
import trl
from shapes import SHAPES, make_tokenizer
from trap_runs import adding_bos, chat, run, run_and_keep_trainer, write_base, write_rows
from typer.testing import CliRunner

import lora_ns
from lora_ns.answers.opened import open_trained
from lora_ns.cli.app import app
from lora_ns.data.encoded import pack
from lora_ns.data.rows import Row
from lora_ns.errors import DataError
from lora_ns.run.directory import RunDir
from lora_ns.services.infer import as_row, infer, prompts
from lora_ns.services.merge import merge


def trained_rows(found: RunDir):
    return datasets.load_from_disk(str(found.data / "train"))


def learned(row):
    return [label for label in row["labels"] if label != -100]


# T1: the end token


CHATML = SHAPES["chatml"]
ENDS = {"turn end": "<|im_end|>", "other": "<|endoftext|>"}
PADS = ("own", "eos", "none")
OVERFIT = ("training.max_steps=16", "training.learning_rate=1e-2", "training.warmup_steps=2", "peft.lora_alpha=32")
VARIED = {"initializer_range": 0.2}
"""Weights that differ enough for an adapter to learn an answer within a few steps."""


def with_ends(eos, pad):
    own = ("<pad>",) if pad == "own" else ()
    shape = replace(
        CHATML, special=(*CHATML.special, *own), eos=eos, pad={"own": "<pad>", "eos": eos, "none": None}[pad]
    )
    return make_tokenizer(shape)


@pytest.mark.parametrize("eos", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("pad", PADS)
def test_a_model_that_learned_an_answer_gives_it_and_stops(tmp_path, eos, pad):
    write_base(tmp_path, with_ends(eos, pad), **VARIED)
    write_rows(tmp_path, [chat("a", "bcd")] * 4)
    found, trainer = run_and_keep_trainer(tmp_path, *OVERFIT)
    model = open_trained(found)
    generation = model.manifest.recipe.generation.model_copy(update={"max_new_tokens": 12})
    (answer,) = infer(model, [as_row(model, "a")], generation).rows
    assert (answer["output"], answer["finish_reason"]) == ("bcd", "stop")
    settings = json.loads((found.adapter / "generation_config.json").read_text())
    assert settings.get("pad_token_id") not in settings["eos_token_id"]
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    short, long = {"input_ids": [1, end], "labels": [-100, end]}, {"input_ids": [1] * 5, "labels": [1] * 5}
    assert trainer.data_collator([short, long])["labels"][0].tolist() == [-100, end, -100, -100, -100]


@pytest.mark.parametrize("pad", ["eos"])
def test_the_end_token_has_teeth(pad):
    """transformers' own collator masks the end token together with the padding."""
    tokenizer = with_ends("<|im_end|>", pad)
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert collate([{"input_ids": [1, end]}, {"input_ids": [1] * 5}])["labels"][0].tolist() == [1, *[-100] * 4]


def test_a_model_that_never_learned_the_end_goes_on(tmp_path):
    """Without the label of the end token, the answer is given and goes on: what the test above would see."""
    write_base(tmp_path, with_ends("<|endoftext|>", "own"), **VARIED)
    write_rows(tmp_path, [chat("a", "bcd")] * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lora_ns.data.render.Rendered.labels", property(_without_end))
        model = open_trained(run(tmp_path, *OVERFIT))
    generation = model.manifest.recipe.generation.model_copy(update={"max_new_tokens": 12})
    (answer,) = infer(model, [as_row(model, "a")], generation).rows
    assert answer["output"].startswith("bcd")
    assert (answer["output"], answer["finish_reason"]) != ("bcd", "stop")


def _without_end(rendered):
    last = max(place for place, wanted in enumerate(rendered.trained) if wanted)
    trained = [wanted and place != last for place, wanted in enumerate(rendered.trained)]
    return [token if wanted else -100 for token, wanted in zip(rendered.input_ids, trained, strict=True)]


# T2: the beginning token


def beginnings():
    """Tokenizers that put no beginning token, put one themselves, have it in their template, or both."""
    own = replace(CHATML, special=(*CHATML.special, "<s>"), bos="<s>")
    made = {"chatml": make_tokenizer(CHATML), "chatml, by itself": adding_bos(make_tokenizer(own), "<s>")}
    for name in ("llama-3", "gemma", "mistral"):
        made[name] = make_tokenizer(SHAPES[name])
        made[f"{name}, both"] = adding_bos(make_tokenizer(SHAPES[name]), SHAPES[name].bos)
    return made


BEGINNINGS = beginnings()
FORMS = {
    "messages": ([chat("a plum?", "it falls")], ()),
    "prompt-completion": ([{"prompt": "a plum?", "completion": " it falls"}], ()),
    "templates": (
        [{"q": "a plum?", "a": "it falls"}],
        ("dataset.prompt_template={bos}Q: {q}", "dataset.completion_template= {a}"),
    ),
    "text": ([{"text": "a plum falls"}], ()),
    "text with its own": ([{"text": "{bos}a plum falls"}], ()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", BEGINNINGS)
def test_there_is_one_beginning_token_in_training_and_in_inference(tmp_path, name, form):
    tokenizer = BEGINNINGS[name]
    bos = tokenizer.bos_token or ""
    rows, overrides = FORMS[form]
    rows = [
        {key: value.replace("{bos}", bos) if isinstance(value, str) else value for key, value in row.items()}
        for row in rows
    ]
    overrides = [override.replace("{bos}", bos) for override in overrides]
    write_base(tmp_path, tokenizer)
    write_rows(tmp_path, rows)
    found = run(tmp_path, *overrides)
    model = open_trained(found)
    ids = trained_rows(found)[0]["input_ids"]
    (asked,) = prompts(model, [Row("a", rows[0])])
    puts_one = bool(bos) and (
        "both" in name or "itself" in name or form in {"messages", "templates", "text with its own"}
    )
    if name == "chatml, by itself" and form == "messages":
        puts_one = False  # a chat template is encoded as it is, by every server, too
    for tokens in (ids, asked):
        assert tokens.count(tokenizer.bos_token_id) == puts_one
        assert not puts_one or tokens[0] == tokenizer.bos_token_id
    assert ids[: len(asked)] == asked
    arguments = [part for override in overrides for part in ("--set", override)]
    checked = CliRunner().invoke(app, ["validate", str(tmp_path / "recipe.toml"), "--data", "--json", *arguments])
    assert "BOS001" not in checked.stdout
    assert json.loads(checked.stdout)["data"]["train"]["tokens"] == len(ids)


@pytest.mark.parametrize("name", [name for name in BEGINNINGS if "both" in name])
def test_the_beginning_token_has_teeth(name):
    """A rendered conversation that is encoded as any text begins twice; so does TRL's own way with text."""
    tokenizer = BEGINNINGS[name]
    text = tokenizer.apply_chat_template(chat("a plum?", "it falls")["messages"], tokenize=False)
    assert tokenizer(text)["input_ids"].count(tokenizer.bos_token_id) == 2


# T3: the template at inference


TURNS = ("Name a fruit.", "A plum, of course.", "Another  one?", "Größe 12 🙂")
ASK = """\
import json, sys
from pathlib import Path
from transformers import AutoTokenizer
from lora_ns.data.rows import Row
from lora_ns.run.directory import RunDir
from lora_ns.services.infer import infer
from lora_ns.answers.opened import open_trained
asked = {}
for folder in map(Path, sys.argv[1:]):
    turns = json.loads((folder / "rows.jsonl").read_text().splitlines()[0])["messages"][:-1]
    trained = open_trained(RunDir.open(folder / "run"))
    fed, generate = [], trained.model.generate
    trained.model.generate = lambda **inputs: fed.append(inputs["input_ids"][0].tolist()) or generate(**inputs)
    generation = trained.manifest.recipe.generation.model_copy(update={"max_new_tokens": 1})
    infer(trained, [Row("a", {"messages": turns})], generation)
    asked[str(folder)] = {"infer": fed[0]}
    for place in ("run/adapter", "merged"):
        tokenizer = AutoTokenizer.from_pretrained(folder / place)
        asked[str(folder)][place] = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
print(json.dumps(asked))
"""
MINE = (
    "{%- for message in messages -%}{{ message.role + ': ' + message.content + eos_token }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}"
)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A run for each family and for a template of the recipe's own, and what a fresh process asks the models with."""
    folders = {}
    for name in (*SHAPES, "recipe's own"):
        folder = folders[name] = tmp_path_factory.mktemp("template")
        write_base(folder, make_tokenizer(SHAPES.get(name, CHATML)))
        write_rows(folder, [chat(*TURNS)] * 4)
        (folder / "mine.jinja").write_text(MINE)
        overrides = ("sft.chat_template=mine.jinja",) if name == "recipe's own" else ()
        merge(run(folder, *overrides), folder / "merged")
        (folder / "mine.jinja").unlink()
    environment = {**os.environ, "PYTHONPATH": str(Path(lora_ns.__file__).parent.parent)}
    command = [sys.executable, "-c", ASK, *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: (folder, found[str(folder)]) for name, folder in folders.items()}


@pytest.mark.parametrize("way", ["infer", "run/adapter", "merged"])
@pytest.mark.parametrize("name", [*SHAPES, "recipe's own"])
def test_a_fresh_process_asks_with_the_tokens_before_the_trained_answer(asked, name, way):
    folder, fed = asked[name]
    row = trained_rows(RunDir(folder / "run"))[1 if name == "qwen-3" else 0]
    length = len(fed[way])
    assert row["input_ids"][:length] == fed[way]
    assert row["labels"][length - 1] == -100
    assert row["labels"][length] == row["input_ids"][length]


@pytest.mark.parametrize("name", SHAPES)
def test_the_trained_answer_follows_these_tokens_and_ends_with_one_that_stops(asked, name):
    (folder, fed), shape = asked[name], SHAPES[name]
    row, prompt = trained_rows(RunDir(folder / "run"))[int(shape.splits)], fed["infer"]
    answer = make_tokenizer(shape)(shape.answer(TURNS[-1]), add_special_tokens=False)["input_ids"]
    assert row["input_ids"][: len(prompt) + len(answer)] == [*prompt, *answer]
    assert row["labels"][len(prompt) : len(prompt) + len(answer)] == answer
    settings = json.loads((folder / "run/adapter/generation_config.json").read_text())
    assert answer[-1] in settings["eos_token_id"]
    assert settings.get("pad_token_id") not in settings["eos_token_id"]


def test_the_template_at_inference_has_teeth(asked):
    """Another template asks with other tokens; and a template that drops reasoning does not show a turn as it asked."""
    folder, _ = asked["recipe's own"]
    ids = trained_rows(RunDir(folder / "run"))[0]["input_ids"]
    turns = chat(*TURNS)["messages"]
    other = make_tokenizer(CHATML).apply_chat_template(turns[:-1], add_generation_prompt=True)["input_ids"]
    assert ids[: len(other)] != other
    tokenizer = make_tokenizer(SHAPES["qwen-3"])
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    first = tokenizer.apply_chat_template(turns[:2], tokenize=False)
    assert not whole.startswith(first)


def test_a_template_that_was_changed_after_training_is_refused(asked):
    folder, _ = asked["mistral"]
    template = folder / "run/adapter/chat_template.jinja"
    before = template.read_text()
    template.write_text(MINE)
    try:
        done = CliRunner().invoke(app, ["infer", str(folder / "run"), "--input", "a"])
    finally:
        template.write_text(before)
    assert done.exit_code != 0
    assert "this is not the chat template" in str(done.exception)


# T4: what is in the loss


@pytest.mark.parametrize("packing", ["true", "false"])
@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if not shape.splits])
def test_only_the_answers_move_the_model(tmp_path, name, packing):
    """The labels are the answers, and the loss has a gradient at the positions before their tokens and at no others."""
    shape = SHAPES[name]
    write_base(tmp_path, make_tokenizer(shape))
    write_rows(tmp_path, [chat("hi", "yo", "hello?", "ciao"), chat("a", "b")])
    found, trainer = run_and_keep_trainer(tmp_path, f"sft.packing={packing}")
    tokenizer = trainer.processing_class
    expected = {
        shape.answer("yo") + shape.answer("ciao"),
        shape.answer("b"),
        "".join(map(shape.answer, ("yo", "ciao", "b"))),
    }
    assert {tokenizer.decode(learned(row)) for row in trained_rows(found)} <= expected
    moved, wanted = gradient_places(trainer)
    assert wanted.any()
    assert torch.equal(moved, wanted)


def gradient_places(trainer):
    """Where the last hidden states of a batch have a gradient, and where the next token is to be learned."""
    batch = next(iter(trainer.get_train_dataloader()))
    states = []
    norm = trainer.model.get_base_model().model.norm
    handle = norm.register_forward_hook(
        lambda *call: call[2].requires_grad_(True).retain_grad() or states.append(call[2])
    )
    trainer.model.train()
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    handle.remove()
    wanted = torch.zeros_like(batch["labels"], dtype=torch.bool)
    wanted[:, :-1] = batch["labels"][:, 1:] != -100
    return states[0].grad.abs().sum(-1) > 0, wanted


def test_what_is_in_the_loss_has_teeth(tmp_path):
    """TRL's own way with conversations learns every token, those of the user, too."""
    tokenizer = make_tokenizer(CHATML)
    write_base(tmp_path, tokenizer)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = trl.SFTConfig(output_dir=str(tmp_path / "trl"), bf16=False, use_cpu=True, report_to="none")
    rows = datasets.Dataset.from_list([chat("hi", "yo")] * 8)
    trainer = trl.SFTTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer)
    labels = next(iter(trainer.get_train_dataloader()))["labels"][0].tolist()
    assert "hi" in tokenizer.decode([label for label in labels if label != -100])


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}], "MASK001"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}], "the answer is empty"),
    ],
)
def test_a_row_of_which_nothing_is_learned_is_an_error(tmp_path, turns, told):
    write_base(tmp_path, make_tokenizer(CHATML))
    write_rows(tmp_path, [chat("a", "b"), {"messages": turns}])
    with pytest.raises(DataError, match=told) as caught:
        run(tmp_path)
    assert "rows.jsonl:2" in str(caught.value)
    assert not (tmp_path / "run").exists()


# T5: long rows


LONG = [{"prompt": "p" * size, "completion": " an answer"} for size in (10, 30, 200)]


@pytest.mark.parametrize(("policy", "kept", "cut"), [("drop", 2, 0), ("truncate-prompt", 3, 1)])
def test_the_end_of_an_answer_is_never_cut_off_unasked(tmp_path, policy, kept, cut):
    write_base(tmp_path, make_tokenizer(SHAPES["llama-3"]))
    write_rows(tmp_path, LONG)
    found = run(tmp_path, f"sft.on_overflow={policy}", "sft.max_seq_length=64", 'dataset.format="messages"')
    rows, manifest = trained_rows(found), found.read()
    assert len(rows) == kept
    assert all(learned(row)[-1] in manifest.stop_token_ids for row in rows)
    assert (manifest.data.train.dropped, manifest.data.train.truncated) == (3 - kept, cut)
    assert any("rows too long: " in note for note in manifest.plan.notes)


def test_a_row_whose_whole_answer_is_cut_off_is_an_error(tmp_path):
    write_base(tmp_path, make_tokenizer(SHAPES["llama-3"]))
    write_rows(tmp_path, LONG)
    with pytest.raises(DataError, match=r"rows.jsonl:3: \[MASK001\] .*its answer is cut off") as caught:
        run(tmp_path, "sft.on_overflow=truncate", "sft.max_seq_length=64")
    assert len(caught.value.problems) == 1
    assert not (tmp_path / "run").exists()


def test_a_long_row_is_an_error_unless_the_recipe_says_what_to_do(tmp_path):
    write_base(tmp_path, make_tokenizer(SHAPES["llama-3"]))
    write_rows(tmp_path, LONG)
    with pytest.raises(DataError, match=r"1 of 3 rows longer than 64 tokens, .*: .*rows.jsonl:3 \("):
        run(tmp_path, "sft.max_seq_length=64")


def test_long_rows_have_teeth(tmp_path):
    """TRL cuts the end of a long row off, and with it the answer and its end token."""
    tokenizer = make_tokenizer(SHAPES["llama-3"])
    write_base(tmp_path, tokenizer)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "trl"), bf16=False, use_cpu=True, report_to="none", max_length=24
    )
    rows = datasets.Dataset.from_list([{"prompt": "p" * 20, "completion": " an answer"}] * 8)
    trainer = trl.SFTTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["labels"][0][-1] != -100
    assert batch["input_ids"][0][-1] != tokenizer.eos_token_id


# T6: packed rows


ARCHITECTURES = {
    "llama": (transformers.LlamaConfig, {}),
    "mistral": (transformers.MistralConfig, {"sliding_window": 16}),
    "qwen-2": (transformers.Qwen2Config, {}),
    "qwen-3": (transformers.Qwen3Config, {"head_dim": 16}),
    "gemma": (transformers.GemmaConfig, {"head_dim": 16}),
    "gemma-2": (transformers.Gemma2Config, {"head_dim": 16, "sliding_window": 16, "attn_logit_softcapping": None}),
    "gemma-3": (transformers.Gemma3TextConfig, {"head_dim": 16, "sliding_window": 16}),
    "phi-3": (transformers.Phi3Config, {}),
    "smollm-3": (transformers.SmolLM3Config, {}),
    "olmo-2": (transformers.Olmo2Config, {}),
    "granite": (transformers.GraniteConfig, {}),
}
PACKED = [chat("plum " * number, "falls " * number) for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_rows_give_what_each_gives_alone(tmp_path, name):
    """Logits of each segment are those it has alone, and what stands in another one does not move its loss."""
    config, more = ARCHITECTURES[name]
    write_base(tmp_path, make_tokenizer(CHATML), config, **more)
    write_rows(tmp_path, PACKED)
    _, trainer = run_and_keep_trainer(tmp_path, "sft.packing=true", "sft.max_seq_length=512")
    batch = next(iter(trainer.get_train_dataloader()))
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    assert len(starts) == len(PACKED)
    assert (batch["labels"][0][starts] == -100).all()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    together = logits(trainer.model, inputs)
    for start, end in zip(starts, [*starts[1:], together.shape[0]], strict=True):
        alone = logits(trainer.model, {"input_ids": batch["input_ids"][:, start:end]})
        assert torch.allclose(together[start:end], alone, atol=1e-4)
    changed = batch["input_ids"].clone()
    changed[0, : starts[1]] = 5
    moved = logits(trainer.model, {**inputs, "input_ids": changed})
    assert torch.equal(moved[starts[1] :], together[starts[1] :])


def logits(model, inputs):
    model.eval()
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits[0]


@pytest.mark.parametrize("way", ["positions are lost", "wrapped"])
def test_packing_has_teeth(tmp_path, way):
    """Without positions, or with rows that are cut to fit, a segment sees its neighbours."""
    tokenizer = make_tokenizer(CHATML)
    write_base(tmp_path, tokenizer)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    ids = [tokenizer.apply_chat_template(row["messages"])["input_ids"] for row in PACKED]
    rows = datasets.Dataset.from_dict({"input_ids": ids, "labels": ids})
    packed = pack(rows, 512) if way == "positions are lost" else trl.pack_dataset(rows, 512, "wrapped")
    whole = packed[0]["input_ids"]
    together = logits(model, {"input_ids": torch.tensor([whole])})
    segment = ids[0] if whole[: len(ids[0])] != ids[0] else ids[1]
    start = next(place for place in range(len(whole)) if whole[place : place + len(segment)] == segment)
    alone = logits(model, {"input_ids": torch.tensor([segment])})
    assert not torch.allclose(together[start : start + len(segment)], alone, atol=1e-3)
