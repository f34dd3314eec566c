"""The base ranks the pairs of a recipe in `validate --data --model`: inverted labels are named, healthy ones not."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("torch")

from test_pairs import PAIRS
from typer.testing import CliRunner

import lora_ns
from lora_ns.answers.loss import sequence_loss, sequence_losses
from lora_ns.cli.app import app
from lora_ns.model.files import find_base
from lora_ns.model.load import Loading, load_base
from lora_ns.table import IGNORED

FILE = Path(lora_ns.__file__).parent / "assets" / "quickstart" / "train.jsonl"
SORTED = [row for line in FILE.read_text().splitlines() if (row := json.loads(line))["skill"] == "sort"][:41]
HEALTHY = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
    for row, other in pairwise(SORTED)
]
"""A right and a wrong answer of about the same length, to questions that the packaged base has learned."""
INVERTED = [
    *({**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in HEALTHY[:30]),
    *HEALTHY[30:],
]


@pytest.fixture
def validate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(rows, text=PAIRS, *options):
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "held_out.jsonl").write_text(json.dumps(rows[0] | {"prompt": "Spell plum backwards."}) + "\n")
        (tmp_path / "recipe.toml").write_text(text.replace('eval_path = "pairs', 'eval_path = "held_out'))
        return CliRunner().invoke(app, ["validate", "recipe.toml", "--data", "--model", *options])

    return run


def labelled(rows):
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in rows
        for side in ("chosen", "rejected")
    ]


ALL = PAIRS.replace("max_samples = 64\n", "")

CASES = {
    "healthy pairs": (HEALTHY, ALL, 40),
    "inverted pairs": (INVERTED, ALL, 10),
    "inverted labels": (labelled(INVERTED), ALL.replace("[dpo]", "[kto]"), 10),
}


@pytest.mark.parametrize(("rows", "text", "right"), CASES.values(), ids=CASES)
def test_inverted_labels_are_named_with_the_right_number(validate, rows, text, right):
    found = json.loads(validate(rows, text, "--json").stdout)["ranking"]
    assert (found["pairs"], found["of"], found["same_prompt"]) == (40, 40, True)
    assert found["by_mean"]["share"] == found["by_sum"]["share"] == right / 40
    assert [finding["code"] for finding in found["findings"]] == (["PAIR009"] if right == 10 else [])


def test_the_ranking_is_printed_and_a_warning_fails_if_asked(validate):
    done = validate(INVERTED)
    assert done.exit_code == 0
    assert "by answer  25% (95% interval 14% to 40%) right, by the log-probability of the whole answer" in done.stdout
    assert "warning: [PAIR009] " in done.stdout
    assert validate(INVERTED, PAIRS, "--strict").exit_code == 2


def test_padded_sequences_have_the_losses_of_single_ones():
    model = load_base(find_base("lorans:nano", "main", [], download=False), Loading("CAUSAL_LM", "float32", "cpu"))
    lengths = (12, 5, 9, 30, 7)
    rows = [(list(range(20, 20 + n)), [IGNORED] * 3 + list(range(23, 20 + n))) for n in lengths]
    found = sequence_losses(model, rows, 0, "float32")
    for (ids, labels), (loss, tokens) in zip(rows, found, strict=True):
        expected, count = sequence_loss(model, ids, labels, "float32")
        assert loss == pytest.approx(expected, rel=1e-5)
        assert tokens == count
