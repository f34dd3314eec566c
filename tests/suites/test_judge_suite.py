"""`judge`: what a reply says, what two orders make of it, and what cannot be an endpoint or a variable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ns.suites import Gold, JudgeSuite
from lora_ns.suites.judge import Judgement, Reply

URL = "http://localhost:8000/v1/chat/completions"


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("B is vague. [[A]]", "A"),
        ("[[b]]", "B"),
        ("So it is [[ C ]].", "tie"),
        ("[[tie]]", "tie"),
        ("A", "A"),
        ("**B**.", "B"),
        ("Tie", "tie"),
        ("[[A]] because of this. So: [[A]]", "A"),
        ("<think>[[B]] or [[A]]?</think>\n[[A]]", "A"),
        ("<think>[[B]], but the length ends", None),
        ("[[A]] if answer A is better, [[B]] if answer B is better", None),
        ("A is better", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_a_reply_is_read_if_it_names_one_verdict(text, choice):
    assert Reply.read(text).choice == choice


ORDERS = [
    ("A", "B", "win", True),
    ("B", "A", "loss", True),
    ("tie", "tie", "tie", True),
    ("A", "A", "tie", False),
    ("B", "B", "tie", False),
    ("A", "tie", "tie", False),
    ("tie", "A", "tie", False),
    (None, "B", "unparsable", False),
    ("A", None, "unparsable", False),
    (None, None, "unparsable", False),
]


@pytest.mark.parametrize(("first", "second", "verdict", "agrees"), ORDERS)
def test_only_both_orders_together_decide(first, second, verdict, agrees):
    one = Judgement(Reply("", first), Reply("", second))
    assert (one.verdict, one.agrees) == (verdict, agrees)


def test_an_answer_that_is_not_judged_is_a_tie():
    assert (Judgement().verdict, Judgement().is_asked) == ("tie", False)


def test_replies_are_cut_off_in_records():
    assert Judgement(Reply("ab", "A"), Reply("cd", "B")).told(1)["replies"] == [
        {"choice": "A", "text": "a"},
        {"choice": "B", "text": "c"},
    ]


@given(st.lists(st.sampled_from(ORDERS), min_size=1, max_size=8))
def test_win_rate_and_agreement_are_those_of_the_items(orders):
    pytest.importorskip("numpy")
    judged = [Judgement(Reply("", first), Reply("", second)) for first, second, _, _ in orders]
    figures = JudgeSuite(endpoint=URL, model="a").measure([Gold("", None)] * len(judged), judged)
    rows = figures["agreement"].rows
    wins, losses = (sum(one[2] == verdict for one in orders) for verdict in ("win", "loss"))
    assert figures["judge"].scores.mean() == pytest.approx(0.5 + (wins - losses) / 2 / len(orders))
    assert figures["agreement"].formula(rows.sum(axis=0)) == pytest.approx(sum(one[3] for one in orders) / len(orders))


@pytest.mark.parametrize(
    ("keys", "named", "told"),
    [
        ({"endpoint": "localhost:8000"}, "endpoint", "no URL of the web"),
        ({"endpoint": "ftp://host/v1/chat/completions"}, "endpoint", "no URL of the web"),
        ({"endpoint": "http:///v1/chat/completions"}, "endpoint", "no URL of the web"),
        ({"endpoint": "http://host:99999/v1/chat/completions"}, "endpoint", "no URL of the web"),
        ({"endpoint": "http://[host/v1/chat/completions"}, "endpoint", "no URL of the web"),
        ({"endpoint": "http://host:8000/v1"}, "endpoint", "http://host:8000/v1/chat/completions"),
        ({"endpoint": URL + "#a"}, "endpoint", "whole URL"),
        ({"api_key_env": "k3y-of-mine"}, "api_key_env", "not the key"),
        ({"api_key_env": "deadbeef12345"}, "api_key_env", "not the key"),
    ],
)
def test_what_cannot_be_an_endpoint_or_a_variable_is_refused(keys, named, told):
    (conflict,) = JudgeSuite.model_validate({"endpoint": URL, "model": "a", **keys}).conflicts("evaluation.suites.0")
    assert conflict.keys == (f"evaluation.suites.0.{named}",)
    assert told in f"{conflict.what} {conflict.remedy}"
    assert keys.get("api_key_env", "---") not in f"{conflict.what} {conflict.remedy}"


WHOLE = [URL, "https://a.org/openai/chat/completions?api-version=1", "http://[::1]:80/v1/chat/completions"]


@pytest.mark.parametrize("url", WHOLE)
def test_a_whole_url_is_taken(url):
    assert not list(JudgeSuite(endpoint=url, model="a", api_key_env="OPENAI_API_KEY").conflicts("evaluation.suites.0"))
