"""The base's ranking of pairs: shares with their test, labels that look inverted, and rows that stand out."""

import pytest
from test_pair_checks import pair

from lora_ns.data.base_ranking import (
    MOST_PAIRS,
    Agreement,
    AnswerPair,
    LogProbability,
    answer_pairs,
    looks_inverted,
    rank,
    sample,
)
from lora_ns.data.encode_completions import EncodedCompletion
from lora_ns.data.interval import wilson_interval

SHARES = {
    "all right": ([1.0] * 10, 1.0, 1.0),
    "none right": ([-1.0] * 10, 0.0, 2**-10),
    "two of ten": ([1.0] * 2 + [-1.0] * 8, 0.2, 56 / 1024),
    "ties are not tested": ([0.0] * 4 + [-1.0] * 4, 0.25, 1 / 16),
    "only ties": ([0.0] * 4, 0.5, 1.0),
}


@pytest.mark.parametrize(("margins", "share", "below_half"), SHARES.values(), ids=SHARES)
def test_a_share_has_its_interval_and_its_binomial_test(margins, share, below_half):
    found = Agreement.of(margins)
    assert (found.share, found.below_half) == pytest.approx((share, below_half))
    assert (found.lowest, found.highest) == wilson_interval(share, len(margins))


CASES = {
    "inverted": (20, 25, True),
    "inverted by chance": (42, 42, False),
    "even": (50, 50, False),
    "agreed": (90, 90, False),
    "short answers are to be preferred": (60, 20, False),
    "long answers are to be preferred": (20, 60, False),
}


@pytest.mark.parametrize(("by_sum", "by_mean", "inverted"), CASES.values(), ids=CASES)
def test_labels_are_named_if_length_explains_neither_measure(by_sum, by_mean, inverted):
    margins = [[1.0] * right + [-1.0] * (100 - right) for right in (by_sum, by_mean)]
    assert looks_inverted(*map(Agreement.of, margins)) is inverted


def test_an_inverted_set_is_named_with_its_numbers():
    pairs = [AnswerPair(f"rows:{number}", *([pair("", "a", "b", "c")] * 2)) for number in range(1, 41)]
    good, bad = LogProbability(-5.0, 10), LogProbability(-30.0, 10)
    found = rank("rows", pairs, 90, [(good, bad)] * 10 + [(bad, good)] * 30)
    assert (found.pairs, found.of, found.by_sum.share, found.by_mean.share) == (40, 90, 0.25, 0.25)
    assert [finding.code for finding in found.findings] == ["PAIR009"]
    assert "ranks only 25% (95% interval 14% to 40%) of the pairs right" in found.findings[0].what
    assert found.far == tuple((f"rows:{number}", 25.0) for number in range(11, 41))
    assert found.note.startswith("30 of 40 pairs have a rejected answer that the base finds far likelier")
    assert found.note.endswith(
        "rows:11 (by 25 nats), rows:12 (by 25 nats), rows:13 (by 25 nats), "
        "rows:14 (by 25 nats), rows:15 (by 25 nats) and 25 more"
    )
    healthy = rank("rows", pairs, 40, [(good, bad)] * 40)
    assert (healthy.findings, healthy.far, healthy.note) == ((), (), "")


def completion(number, prompt, answer, is_desirable):
    ids = [ord(one) for one in f"{prompt}\n{answer}"]
    trained = [place > len(prompt) for place in range(len(ids))]
    return EncodedCompletion(f"rows:{number}", {"input_ids": ids, "label": int(is_desirable)}, trained)


def test_labelled_answers_are_paired_within_their_prompt_first():
    rows = [
        ("a", "x", True),
        ("b", "x", False),
        ("c", "y", True),
        ("a", "z", False),
        ("d", "w", False),
        ("d", "v", False),
    ]
    found = answer_pairs([completion(number, *row) for number, row in enumerate(rows, start=1)])
    assert [(one.where, one.same_prompt) for one in found] == [
        ("rows:1 (against rows:4)", True),
        ("rows:3 (against rows:2)", False),
    ]


def test_a_sample_is_taken_from_all_pairs_once():
    rows = [pair(f"rows:{number}", "a", str(number), "b") for number in range(1000)]
    pairs = answer_pairs([*rows, *rows])
    assert [one.where for one in pairs] == [row.where for row in rows]
    chosen = [one.where for one in sample(pairs)]
    assert len(chosen) == MOST_PAIRS
    assert (chosen[0], chosen[1], chosen[-1]) == ("rows:0", "rows:5", "rows:995")
    assert sample(pairs[:3]) == pairs[:3]
    assert sample([]) == []
