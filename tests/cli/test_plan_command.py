"""`lorans plan`: what it says of rows that it cannot count, and how it looks on a terminal and in a pipe."""

import json
import re
from pathlib import Path

import pytest
from command_line import lorans
from minimal_recipe import MINIMAL
from terminals import command, on_a_terminal, plain, shown

from lora_ns.machine import hardware
from lora_ns.machine.hardware import Gpu, Machine

ALONE = Machine("cpu", 2, True, 16 * 10**9, 16 * 10**9)
FOUR_GPUS = Machine("cpu", 16, True, 10**12, 10**12, (Gpu(0, "GPU", 80 * 10**9, 80 * 10**9, (9, 0), "580"),) * 4)
ROOT = Path(__file__).parents[2]
RECIPES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").rglob("*.toml"))
COUNTED = "known once the training rows are counted"
FOLLOW = ("steps_per_epoch", "max_steps", "warmup_steps", "logging_steps", "eval_steps", "save_steps")
"""What follows from the number of training rows."""
HUB = "dataset={name='owner/rows'}"
NOT_FETCHED = "known once `owner/rows` is downloaded"
SHOWS_19 = "enough to show a difference of 19 points or more in right answers"
ROWS = [{"prompt": f"{number} + 1", "completion": str(number + 1)} for number in range(40)]


@pytest.fixture
def recipe(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "detect", lambda: ALONE)  # whose free memory stays as it is
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("train", "held"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return write_recipe(MINIMAL + "[sft]\nmax_seq_length = 64\n")


def planned(recipe, *overrides):
    done = lorans("plan", recipe, "--json", *(part for one in overrides for part in ("--set", one)))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_pair_counts_as_two_labelled_answers(recipe, tmp_path):
    pairs = [{"prompt": str(number), "chosen": "a", "rejected": "b"} for number in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    text = Path(recipe).read_text().replace("[sft]", "[kto]")
    Path(recipe).write_text(text)
    files = "dataset={path='pairs.jsonl', eval_path='pairs.jsonl'}"
    found = planned(recipe, files, "training.global_batch_size=8", "training.num_train_epochs=1")
    assert found["train_rows"] == {"value": 80, "origin": "computed", "why": "answers in 40 rows of the files"}
    assert (found["eval_rows"]["value"], found["max_steps"]["value"]) == (80, 10)
    assert planned(recipe, files, "kto={loss_type='apo_zero_unpaired'}")["train_rows"]["value"] == 80


UNKNOWN = {
    "a dataset of the hub": ([HUB], NOT_FETCHED, (None, "no evaluation rows")),
    "a share of one": (
        ["dataset={name='owner/rows', eval_fraction=0.1}"],
        NOT_FETCHED,
        (None, "0.1 of the training rows, known once they are counted"),
    ),
    "a split beside it": (["dataset={name='owner/rows', eval_split='test'}"], NOT_FETCHED, (None, NOT_FETCHED)),
    "a file beside it": (["dataset={name='owner/rows', eval_path='held.jsonl'}"], NOT_FETCHED, (40, SHOWS_19)),
    "no file beside it": (
        ["dataset={name='owner/rows', eval_path='none.jsonl'}"],
        NOT_FETCHED,
        (None, "no file `none.jsonl`"),
    ),
    "no file": (["dataset.path=none.jsonl"], "no file `none.jsonl`", (None, "no evaluation rows")),
    "a share of no file": (
        ["dataset.path=none.jsonl", "dataset.eval_fraction=0.1"],
        "no file `none.jsonl`",
        (None, "0.1 of the training rows, known once they are counted"),
    ),
    "one of several sources": (
        ["dataset={sources=[{path='train.jsonl'}, {name='owner/rows'}]}"],
        f"dataset.sources.1: {NOT_FETCHED}",
        (None, "no evaluation rows"),
    ),
    "packed rows": (["sft.packing=true"], "known once 40 rows are tokenised and packed", (0, "no evaluation rows")),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_counted_is_said_with_all_that_follows_from_it(recipe, name):
    overrides, why, evaluation = UNKNOWN[name]
    plan = planned(recipe, *overrides)
    assert (plan["train_rows"]["value"], plan["train_rows"]["why"]) == (None, why)
    assert (plan["eval_rows"]["value"], plan["eval_rows"]["why"]) == evaluation
    assert [plan[key]["value"] for key in FOLLOW] == [None] * len(FOLLOW)
    assert all(COUNTED in plan[key]["why"] for key in FOLLOW)
    lines = {line.split()[0]: line.split()[1] for line in lorans("plan", recipe, *sets(overrides)).stdout.splitlines()}
    assert [lines[key] for key in ("train_rows", *FOLLOW)] == ["unknown"] * (len(FOLLOW) + 1)
    assert lines["eval_rows"] == (
        "none"
        if "no evaluation" in evaluation[1] and evaluation[0] is None
        else "unknown"
        if evaluation[0] is None
        else str(evaluation[0])
    )


def test_a_file_that_is_not_there_is_noted_with_where_it_was_looked_for(recipe, tmp_path):
    notes = planned(recipe, "dataset.path=none.jsonl", "dataset.eval_path=other.jsonl")["notes"]
    assert [note.partition(" (looked at ")[0] for note in notes] == [
        "dataset.path: no file `none.jsonl`",
        "dataset.eval_path: no file `other.jsonl`",
    ]


KNOWN = {
    "files": ([], (40, "rows of the files"), (0, "no evaluation rows")),
    "two files": (["dataset.eval_path=held.jsonl"], (40, "rows of the files"), (40, SHOWS_19)),
    "a share": (
        ["dataset.eval_fraction=0.1"],
        (36, "rows of the files"),
        (4, "too few to show any difference in right answers"),
    ),
    "no evaluation file": (["dataset.eval_path=none.jsonl"], (40, "rows of the files"), (None, "no file `none.jsonl`")),
    "a stream": (
        ["dataset.streaming=true", "training.max_steps=5", "dataset.eval_path=held.jsonl"],
        (None, "a stream, read during training, shuffled in a buffer of 10,000"),
        (40, SHOWS_19),
    ),
    "a stream of the hub": (
        ["dataset={name='owner/rows', streaming=true, eval_path='held.jsonl'}", "training.max_steps=5"],
        (None, "a stream, read during training, shuffled in a buffer of 10,000"),
        (40, SHOWS_19),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_can_be_counted_is_counted(recipe, name):
    overrides, train, evaluation = KNOWN[name]
    plan = planned(recipe, *overrides)
    assert (plan["train_rows"]["value"], plan["train_rows"]["why"]) == train
    assert (plan["eval_rows"]["value"], plan["eval_rows"]["why"]) == evaluation
    assert plan["max_steps"]["value"]


def test_evaluation_rows_with_scores_are_not_called_right_or_wrong(recipe):
    text = Path(recipe).read_text().replace("[sft]", '[classification]\nproblem_type = "regression"')
    Path(recipe).write_text(text.replace('"CAUSAL_LM"', '"SEQ_CLS"'))
    rows = Path(recipe).with_name("held.jsonl")
    rows.write_text("".join(json.dumps({"text": "a", "label": number / 4}) + "\n" for number in range(40)))
    plan = planned(recipe, "dataset={path='held.jsonl', eval_path='held.jsonl'}")
    assert (plan["eval_rows"]["value"], plan["eval_rows"]["why"]) == (40, "")


CACHED = {
    "all": ([HUB], 1000, None),
    "a slice": (["dataset={name='owner/rows', slice=':10%'}"], 100, None),
    "the first ones": (["dataset={name='owner/rows', max_samples=7}"], 7, None),
    "a split": (["dataset={name='owner/rows', eval_split='test'}"], 1000, 30),
    "a part of a split": (["dataset={name='owner/rows', eval_split='test', max_eval_samples=4}"], 1000, 4),
    "a share": (["dataset={name='owner/rows', eval_fraction=0.1}"], 900, 100),
    "a part of a share": (["dataset={name='owner/rows', eval_fraction=0.1, max_eval_samples=4}"], 900, 4),
    "another configuration": (["dataset={name='owner/rows', subset='other'}"], None, None),
}


@pytest.mark.parametrize("name", CACHED)
def test_a_dataset_in_the_cache_is_counted_as_the_cache_says(recipe, tmp_path, name):
    overrides, train, evaluation = CACHED[name]
    folder = tmp_path / "home/datasets/owner___rows/default/0.0.0/0123"
    folder.mkdir(parents=True)
    splits = {"train": {"num_examples": 1000}, "test": {"num_examples": 30}}
    (folder / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    plan = planned(recipe, *overrides)
    assert (plan["train_rows"]["value"], plan["eval_rows"]["value"]) == (train, evaluation)
    if train is None:
        assert plan["train_rows"]["why"] == "known once `owner/rows` is read from the cache"


# How it looks


def without_memory(lines):
    """The lines of a plan without those on its memory, which are bars on a terminal."""
    return [line for line in lines if not re.match(r"memory\.|free_memory|(  \w+|memory|free) +[0-9.]+ GB", line)]


@pytest.mark.parametrize("path", RECIPES)
def test_the_plan_of_a_shipped_recipe_fits_80_columns(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(hardware, "detect", lambda: FOUR_GPUS if "distributed" in path else ALONE)
    lines, piped = shown("plan", path), lorans("plan", path).stdout
    assert max(map(len, lines)) <= 80
    both = ["".join(without_memory(text)) for text in (lines, piped.splitlines())]
    said = [re.sub(r"[\s:]|computed", "", text) for text in both]
    assert said[0] == said[1]
    assert shown("plan", path, "--wide") == piped.splitlines()


def test_a_terminal_of_any_width_is_filled_and_not_passed(recipe):
    for columns in (60, 100, 200):
        lines = shown("plan", recipe, columns=columns)
        assert max(map(len, lines)) <= columns
    assert len(without_memory(lines)) == len(without_memory(lorans("plan", recipe).stdout.splitlines()))


@pytest.mark.parametrize("surroundings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_colours_are_left_out_where_they_are_not_wanted(recipe, surroundings):
    coloured = on_a_terminal(command("plan", recipe))
    bare = on_a_terminal(command("plan", recipe), **surroundings)
    assert "\x1b[" in coloured
    assert "\x1b" not in bare
    assert [line.rstrip() for line in plain(coloured).splitlines()] == bare.splitlines()


def sets(overrides):
    return [part for one in overrides for part in ("--set", one)]


LLAMA = "model.name_or_path=meta-llama/Llama-3.1-8B"


def test_a_published_base_is_planned_without_its_files(recipe):
    found = planned(recipe, LLAMA, "peft.lora_r=16", "peft.lora_alpha=32")
    assert found["base_parameters"] == {
        "value": 8_030_261_248,
        "origin": "computed",
        "why": "llama, 32 layers; the published shape",
    }
    assert found["adapter_parameters"]["value"] == 41_943_040
    assert found["memory_bytes"]["value"] > 16 * 10**9


def test_an_unknown_base_of_the_hub_stays_unknown(recipe):
    found = planned(recipe, "model.name_or_path=someone/else")
    assert {found[name]["value"] for name in ("base_parameters", "adapter_parameters", "memory_bytes")} == {None}
    assert found["base_parameters"]["why"] == "known once the base is on this machine"


@pytest.mark.parametrize("method", ["lora", "ia3", "vera", "prompt-tuning", "oft", "ln-tuning"])
@pytest.mark.parametrize("bits", ["none", "bnb-4bit"])
def test_a_published_base_is_planned_with_every_method_and_quantisation(recipe, method, bits):
    pytest.importorskip("peft")
    pytest.importorskip("bitsandbytes")
    found = planned(recipe, LLAMA, f"peft={{method='{method}'}}", f"quantization.method={bits}")
    assert found["adapter_parameters"]["value"] > 0
    assert (found["memory_bytes"]["value"] < 16 * 10**9) == (bits == "bnb-4bit")


def test_a_plan_is_made_for_another_gpu(recipe):
    done = lorans("plan", recipe, "--json", "--gpu", "rtx 4090", "--set", LLAMA)
    found = json.loads(done.stdout)
    assert found["device"] == {"value": "cuda", "origin": "computed", "why": "GeForce RTX 4090"}
    assert (found["dtype"]["value"], found["tokens_per_second"]["value"] > 100) == ("bfloat16", True)
    shown = lorans("plan", recipe, "--wide", "--gpu", "8xH100", "--set", LLAMA).stdout
    assert "the first of 8" in shown
    assert "assumes 40%" in shown


def test_an_unknown_gpu_is_a_mistake_of_usage(recipe):
    done = lorans("plan", recipe, "--gpu", "RTX 4091")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean `RTX 4090`" in done.stderr


def test_a_plan_is_fitted_into_a_size(recipe):
    large = ("--set", "model.name_or_path=lorans:nano", "--set", "training.per_device_train_batch_size=256")
    done = lorans("plan", recipe, *large, "--set", "dataset.path=train.jsonl", "--fit", "1.3GB")
    assert done.returncode == 0, done.stderr
    assert "does not fit in 1.30 GB: " in done.stdout
    assert re.search(r"^   --set training\.\S+=", done.stdout, re.M)
    words = next(line for line in done.stdout.splitlines() if line.startswith("   --set ")).split()
    again = lorans("plan", recipe, *large, "--set", "dataset.path=train.jsonl", "--fit", "1.3GB", *words, "--json")
    found = json.loads(again.stdout)
    assert found["fit"]["fits"]
    assert found["free_memory_bytes"] == 1_300_000_000
    assert sum(found["memory"].values()) == found["memory_bytes"]["value"]


@pytest.mark.parametrize("size", ["", "24", "0GB", "1XB", "GB", "-1GB"])
def test_a_size_that_is_none_is_refused(recipe, size):
    done = lorans("plan", recipe, f"--fit={size}")
    assert done.returncode == 2
    assert "is not a size of memory (write a number and a unit" in done.stderr


def test_the_terms_of_the_memory_are_bars_on_a_terminal(recipe):
    drawn = "\n".join(shown("plan", recipe, "--set", "model.name_or_path=lorans:nano"))
    assert re.search(r"^  runtime +\d\.\d\d GB +[█▏▎▍▌▋▊▉]+ *$", drawn, re.M)
    assert re.search(r"^memory +\d+\.\d\d GB +[█▏▎▍▌▋▊▉]+ *$", drawn, re.M)
    assert re.search(r"^free +\d+\.\d\d GB +[█▏▎▍▌▋▊▉]+ *$", drawn, re.M)
