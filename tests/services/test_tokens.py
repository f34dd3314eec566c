"""Equal rows give equal tokens wherever they come from; long rows go as the recipe says; packed rows stay apart."""

import gzip
import hashlib
import itertools
import json

import pytest

pytest.importorskip("torch")

import pyarrow
import pyarrow.parquet
import torch
import zstandard
from services_recipes import RECIPE

from lora_ns.answers.opened import open_trained
from lora_ns.data.encoded import Encoding, as_dataset, pack
from lora_ns.data.stream import open_stream
from lora_ns.errors import LoransError
from lora_ns.machine.hardware import detect
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import SilentObserver
from lora_ns.services.validate import audit, prepare_rows

ROWS = [{"prompt": f"What is {number} + 1?", "completion": f'{number + 1}, "of course"\n🙂'} for number in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
PLAIN = RECIPE.replace("lorans:quickstart/train.jsonl", "rows.jsonl").replace("max_samples = 64\n", "")
PLAIN = PLAIN.replace('eval_path = "lorans:quickstart/eval.jsonl"\n', "").replace("max_eval_samples = 8\n", "")


def as_csv(rows):
    quoted = [f'"{row["prompt"]}","{row["completion"]}"' for row in rows]
    doubled = [line[1:-1].replace('"', '""').replace('"",""', '","') for line in quoted]
    return "prompt,completion\n" + "".join(f'"{line}"\n' for line in doubled)


def write(folder, name):
    path = folder / name
    match name:
        case "rows.jsonl":
            path.write_bytes(LINES)
        case "rows.json":
            path.write_text(json.dumps(ROWS))
        case "rows.csv":
            path.write_text(as_csv(ROWS), newline="")
        case "rows.parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        case "rows.jsonl.gz":
            path.write_bytes(gzip.compress(LINES))
        case "rows.jsonl.zst":
            path.write_bytes(zstandard.compress(LINES))


@pytest.fixture
def prepared(tmp_path):
    def prepare(text=PLAIN, *overrides):
        (tmp_path / "recipe.toml").write_text(text)
        return prepare_rows(load_recipe(tmp_path / "recipe.toml", overrides), detect(), SilentObserver())

    return prepare


def token_hash(encoding):
    return hashlib.sha256(json.dumps([list(row.row().items()) for row in encoding.sequences]).encode()).hexdigest()


@pytest.mark.parametrize("name", ["rows.json", "rows.csv", "rows.parquet", "rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_copy_of_another_kind_gives_the_same_tokens(prepared, tmp_path, name):
    write(tmp_path, "rows.jsonl")
    write(tmp_path, name)
    first, other = prepared(), prepared(PLAIN, f"dataset.path={name}")
    assert len(first.train.sequences) == len(ROWS)
    assert token_hash(first.train) == token_hash(other.train)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_streamed_copy_gives_the_same_tokens_in_every_pass(prepared, tmp_path, name):
    write(tmp_path, "rows.jsonl")
    write(tmp_path, name)
    whole = prepared().train
    overrides = [f"dataset.path={name}", "dataset.streaming=true", "dataset.shuffle_buffer_size=0"]
    made = prepared(PLAIN, *overrides)
    stream = open_stream(made.settled.recipe, made.settled.folder, made.rows.sources.format, made.rows.renderer)
    passes = stream.sequences()
    for _ in range(2):
        streamed = list(itertools.islice(passes, len(ROWS)))
        assert token_hash(Encoding(streamed, whole.tally, [])) == token_hash(whole)
    assert (stream.tally.rows, stream.tally.tokens) == (whole.tally.rows, whole.tally.tokens)
    assert stream.tally.trained_tokens == whole.tally.trained_tokens


def test_a_long_text_is_split_into_pieces_that_follow_one_another(prepared, tmp_path):
    text = "Once upon a time there was a plum. " * 40
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "Short."}) + "\n")
    made = prepared(PLAIN.replace('format = "messages"\n', ""), "sft.on_overflow=split")
    pieces = [row.input_ids for row in made.train.sequences if row.where.endswith(":1")]
    whole = made.rows.renderer.tokenizer(text)["input_ids"]
    assert [token for piece in pieces for token in piece] == [*whole, made.rows.renderer.tokenizer.eos_token_id]
    assert all(len(piece) == 128 for piece in pieces[:-1])
    assert all(all(row.trained) for row in made.train.sequences)
    assert not audit(made, detect()).findings


def test_an_answer_is_not_split(prepared, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "plum " * 90}) + "\n")
    made = prepared(PLAIN, "sft.on_overflow=split").train
    assert not made.problems
    assert "only raw text can be split" in made.overflow.what


LIMITS = {"drop": 128, "truncate-prompt": 128, "truncate": 221}
"""The longest row has 223 tokens, of which the last two are the end token and a line break."""


@pytest.mark.parametrize("policy", LIMITS)
def test_a_long_row_is_left_out_or_cut_as_the_recipe_says(prepared, tmp_path, policy):
    """Only `truncate` takes the end of the answer away, and the report says so."""
    rows = [{"prompt": "p" * letters, "completion": "ok"} for letters in (1, 20, 200)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = prepared(PLAIN, f"sft.on_overflow={policy}", f"sft.max_seq_length={LIMITS[policy]}")
    assert [row.where.rpartition(":")[2] for row in made.train.sequences] == (["1", "2", "3"][: 2 + (policy != "drop")])
    assert (made.train.tally.dropped, made.train.tally.truncated) == ((1, 0) if policy == "drop" else (0, 1))
    ends = [
        [token for token, learned in zip(row.input_ids, row.trained, strict=True) if learned][-1]
        for row in made.train.sequences
    ]
    stops = made.rows.renderer.stops
    assert [end in stops for end in ends] == [
        True,
        True,
        *([policy != "truncate"] if policy != "drop" else []),
    ]
    codes = [finding.code for finding in audit(made, detect()).findings]
    assert codes == (["EOS003"] if policy == "truncate" else [])


def test_packed_rows_do_not_see_each_other(prepared, tmp_path, lora_run):
    """The logits of each packed row are those it has alone, and its first token is nobody's target."""
    write(tmp_path, "rows.jsonl")
    made = prepared()
    data = as_dataset(made.train.sequences)
    packed = pack(data, 128)[0]
    assert len(packed["seq_lengths"]) > 1
    positions = [place for length in packed["seq_lengths"] for place in range(length)]
    model = open_trained(lora_run).model.eval()
    with torch.no_grad():
        together = model(
            input_ids=torch.tensor([packed["input_ids"]]), position_ids=torch.tensor([positions]), use_cache=False
        ).logits[0]
        start = 0
        for length in packed["seq_lengths"]:
            ids = torch.tensor([packed["input_ids"][start : start + length]])
            assert torch.allclose(together[start : start + length], model(input_ids=ids).logits[0], atol=1e-4)
            assert packed["labels"][start] == -100
            start += length


def test_a_format_that_cannot_be_read_is_told_before_anything_is_encoded(prepared, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"colour": "blue"}\n')
    with pytest.raises(LoransError, match="no format matches the columns `colour`"):
        prepared(PLAIN.replace('format = "messages"\n', ""))
