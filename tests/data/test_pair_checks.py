"""Preference pairs before training: each fault is found with the right number of rows, and good rows have none."""

import dataclasses
import json
import random
from pathlib import Path

import pytest

from lora_ns.data.audit import look_at
from lora_ns.data.encode_pairs import EncodedPair
from lora_ns.data.encoded import Encoding, Tally
from lora_ns.data.pair_checks import FEWEST_PAIRS, check_pairs, length_bias
from lora_ns.data.source import Source

WORDS = ("plum", "stone", "river", "cloud", "maple", "otter", "ember", "flint")


def decode(ids):
    return "".join(map(chr, ids))


def pair(where, prompt, chosen, rejected):
    """A pair of texts with a token per character."""
    sides = [[ord(one) for one in f"{prompt}\n{answer}"] for answer in (chosen, rejected)]
    learned = [[number > len(prompt) for number in range(len(side))] for side in sides]
    return EncodedPair(where, {"input_ids": sides[0], "rejected_input_ids": sides[1]}, *learned)


def healthy(count=60, seed=0):
    """Pairs with different prompts, and answers whose lengths have the same distribution."""
    draw = random.Random(seed)

    def answer():
        return " ".join(draw.choices(WORDS, k=draw.randint(3, 9)))

    return [(f"{seed} {number}", f"yes {answer()}", f"no {answer()}") for number in range(count)]


def source_of(name, rows):
    sequences = [pair(f"{name}:{number}", *row) for number, row in enumerate(rows, start=1)]
    return Source(name, []), Encoding(sequences, Tally(rows=len(rows)), [])


def found_in(rows, held_out=()):
    train, evaluation = source_of("rows", rows), source_of("eval", held_out) if held_out else None
    of_pairs, notes = check_pairs(train, evaluation, decode)
    return [*look_at(train, evaluation, decode), *of_pairs], notes


GOOD = healthy()
UNSEEN = healthy(20, seed=1)
SWAPPED_UNSEEN = [(prompt, rejected, chosen) for prompt, chosen, rejected in UNSEEN[:1]]
FLIPPED = [(prompt, rejected, chosen) for prompt, chosen, rejected in GOOD[:3]]
ALIKE = [
    ("a", "Plum, stone.", "plum stone"),
    ("b", "PLUM", " plum!"),
    ("c", "ﬁne", "fine"),  # the ligature
]
RANKING = [("r", "best", "middle"), ("r", "middle", "worst"), ("r", "best", "worst"), ("s", "worst", "best")]
CIRCLE = [("r", "one", "two"), ("r", "two", "three"), ("r", "three", "one"), ("r", "zero", "one"), ("s", "two", "one")]

FAULTS = {
    "near-identical": ([*GOOD, *ALIKE], (), "PAIR003", ["rows:61", "rows:62", "rows:63"]),
    "near-identical in evaluation": (GOOD, [*UNSEEN, *ALIKE[:1]], "PAIR003", ["eval:21"]),
    "swapped": ([*GOOD, *FLIPPED], (), "PAIR004", [f"rows:{60 + n} (as rows:{n})" for n in (1, 2, 3)]),
    "swapped in evaluation": (GOOD, [*UNSEEN, *SWAPPED_UNSEEN], "PAIR004", ["eval:21 (as eval:1)"]),
    "a circle": ([*GOOD, *CIRCLE], (), "PAIR005", ["rows:61", "rows:62", "rows:63"]),
    "longer": ([(a, f"{b} and so on, and so on, and so on", c) for a, b, c in GOOD], (), "PAIR006", []),
    "shorter": ([(a, b, f"{c} and so on, and so on, and so on") for a, b, c in GOOD], (), "PAIR006", []),
    "common prompts": (GOOD, [*UNSEEN, (GOOD[4][0], "new", "old")], "PAIR008", ["eval:21 (as rows:5)"]),
    "swapped across": (GOOD, [*UNSEEN, *FLIPPED[1:2]], "PAIR008", ["eval:21 (as rows:2)"]),
    "the same across": (GOOD, [*UNSEEN, GOOD[6]], "LEAK001", ["eval:21 (as rows:7)"]),
    "twice": ([*GOOD, GOOD[8]], (), "DUP001", ["rows:61 (as rows:9)"]),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "held_out", "code", "places"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_found_alone_with_its_rows(rows, held_out, code, places):
    findings, _ = found_in(rows, held_out)
    assert [(finding.code, list(finding.rows), finding.error) for finding in findings] == [(code, places, False)]


SYMBOLS = [
    ("a", "it is 🙂", "it is 🙁"),
    ("b", "x < 1", "x > 1"),
    ("c", "🙂", "🙁"),
    ("d", "का", "की"),
    ("e", "10", "1 0"),
]
HEALTHY = {
    "random lengths": (GOOD, UNSEEN),
    "other symbols, vowel signs and numbers": ([*GOOD, *SYMBOLS], ()),
    "a ranking": ([*GOOD, *RANKING], ()),
    "the same answers to another prompt": ([*GOOD, ("x", *FLIPPED[0][1:])], ()),
    "the same preferred answer in evaluation": (GOOD, [*UNSEEN, ("0 7?", GOOD[7][1], "else")]),
    "too few for a bias": ([(a, f"{b} and so on, and so on", c) for a, b, c in GOOD[: FEWEST_PAIRS - 1]], ()),
    "one": (GOOD[:1], ()),
}


@pytest.mark.parametrize(("rows", "held_out"), HEALTHY.values(), ids=HEALTHY)
def test_good_rows_have_no_finding(rows, held_out):
    assert found_in(rows, held_out)[0] == []


def test_rows_that_mixing_repeats_count_once():
    source, encoding = source_of("rows", [*GOOD, ALIKE[0]])
    repeated = dataclasses.replace(encoding, sequences=encoding.sequences * 3)
    assert check_pairs((source, repeated), None, decode) == check_pairs((source, encoding), None, decode)


def test_rows_of_other_objectives_are_not_looked_at():
    source, encoding = source_of("rows", GOOD)
    others = [side for row in encoding.sequences for _, side in row.sides()]
    assert check_pairs((source, dataclasses.replace(encoding, sequences=others)), None, decode) == ([], [])


@pytest.mark.parametrize("longer", [True, False])
def test_the_length_bias_is_a_share_with_an_interval(longer):
    rows = [("a", "long one", "short"), ("b", "same", "size"), *[("c", "short", "a long one")] * 7, ("d", "1", "22")]
    rows = [(f"{number}{prompt}", *sides) for number, (prompt, *sides) in enumerate(rows * 3)]
    rows = [(prompt, *(reversed(sides) if longer else sides)) for prompt, *sides in rows]
    findings, notes = found_in(rows)
    side, medians, other = ("longer", "10 and 5", "shorter") if longer else ("shorter", "5 and 10", "longer")
    what = f"the chosen answer is the {side} one in 85% of pairs (95% interval 68% to 94%; medians {medians} tokens)"
    assert findings[0].what == f"rows: {what}, so the model may learn length alone"
    assert f"pairs whose {other} answer" in findings[0].remedy
    assert notes == []


def test_a_weak_length_bias_is_a_note():
    bias = length_bias(source_of("rows", GOOD)[1].sequences)
    assert found_in(GOOD) == ([], [f"rows: {bias}"])
    assert not bias.is_strong


@pytest.fixture
def audited(tmp_path, monkeypatch):
    """Audits rows as `lorans validate --data` does."""
    pytest.importorskip("torch")
    from services_recipes import RECIPE

    from lora_ns.machine.hardware import detect
    from lora_ns.recipe.load import load_recipe
    from lora_ns.run.observer import SilentObserver
    from lora_ns.services.validate import audit, prepare_rows, show_rows

    monkeypatch.chdir(tmp_path)

    def audited(rows, held_out):
        for name, listed in (("train", rows), ("eval", held_out)):
            named = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in listed]
            (Path(f"{name}.jsonl")).write_text("".join(json.dumps(row) + "\n" for row in named))
        recipe = RECIPE.replace("[sft]", '[dpo]\non_overflow = "truncate"').replace("lorans:quickstart/", "")
        recipe = recipe.replace('format = "messages"\nmax_samples = 64\nmax_eval_samples = 8\n', "")
        (Path("recipe.toml")).write_text(recipe)
        made = prepare_rows(load_recipe(Path("recipe.toml")), detect(), SilentObserver())
        last = show_rows(made, 1, len(rows))
        return {finding.code: finding.rows for finding in audit(made, detect()).findings}, last[0].note

    return audited


def test_validate_finds_all_planted_faults_at_once(audited):
    cut = [("Count.", "plum " * 200, "plum"), ("Count on.", "plum", "plum " * 200), ("Go.", "a " * 200, "b " * 200)]
    rows = [*GOOD, *ALIKE[:2], *FLIPPED, *CIRCLE[:3], *cut, ("Say plum.", "plum", "plum")]
    found, why_not = audited(rows, [*UNSEEN, ("Count.", "one", "two")])
    counts = {"PAIR001": 1, "PAIR003": 2, "PAIR004": 3, "PAIR005": 3, "PAIR007": 1, "PAIR008": 1, "EOS003": 2}
    assert {code: len(places) for code, places in found.items()} == counts
    assert found["PAIR001"] == ("train.jsonl:72",)
    assert found["PAIR007"] == ("train.jsonl:69",)
    assert why_not == "left out: both answers are the same"
    assert audited(GOOD, UNSEEN)[0] == {}
