"""A model as judge: a planted winner is found, a judge that goes by the order decides nothing, faults are named."""

import json
import os
import socket
from pathlib import Path

import pytest

pytest.importorskip("torch")

from judge_stand_in import PATH, endpoint, first, longer

from lora_ns.answers.opened import open_run
from lora_ns.cli.evaluate import chosen_suites
from lora_ns.data.rows import Row
from lora_ns.errors import LoransError, MissingError, RunError, UsageError
from lora_ns.services.evaluate import Beside, evaluate
from lora_ns.services.evaluate_suites import Answered
from lora_ns.services.judge_answers import check_judges, judge_answers
from lora_ns.services.verdicts import item_rows, report
from lora_ns.suites import Gold, JudgeSuite

COUNT = 12
LONG = [f"{place} is a long answer" for place in range(COUNT)]
SHORT = [str(place) for place in range(COUNT)]
KEY = "a-key-of-no-known-form-7"
BUSY = (429, {"Retry-After": "0"}, b'{"error": {"message": "too many requests"}}')


@pytest.fixture(autouse=True)
def _own_cache_without_proxies(monkeypatch, tmp_path):
    monkeypatch.setenv("LORANS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def made(url, **keys):
    keys = {"timeout": 5.0, "max_retries": 0, **keys}
    return JudgeSuite.model_validate_json(json.dumps({"endpoint": url, "model": "judge-1", **keys}))


def answered(suite, adapter, base=SHORT, **others):
    golds = [Gold(f"rows.jsonl:{place + 1}", "7", question=f"Question {place}?") for place in range(len(base))]
    return Answered(suite, golds, {"adapter": adapter, "base": base, **others})


def judged(suite, adapter, base=SHORT, **others):
    """The report of a suite, its notes and its items."""
    found, notes = judge_answers([answered(suite, adapter, base, **others)])
    pairs = [(name, "base") for name in ("adapter", *others)] + [(name, "adapter") for name in others]
    (one,) = report(found, pairs)
    return one, notes, item_rows(found[0])


def test_a_planted_winner_is_found_and_the_base_has_no_figure():
    with endpoint(longer) as server:
        found, notes, items = judged(made(server.url), LONG)
    assert found.deciding == "judge"
    assert found.whole.figures["judge"].keys() == found.whole.figures["agreement"].keys() == {"adapter"}
    assert found.whole.figures["judge"]["adapter"].value == found.whole.figures["agreement"]["adapter"].value == 1
    (contest,) = found.whole.contests
    assert (contest.verdict, contest.wins, contest.ties, contest.losses) == ("better", COUNT, 0, 0)
    assert contest.difference == 0.5
    assert len(server.asked) == 2 * COUNT
    assert not notes
    assert items[0]["scores"] == {"adapter": {"judge": 1.0}}
    said = items[0]["judged"]["adapter"]
    assert (said["verdict"], said["agrees"], [one["choice"] for one in said["replies"]]) == ("win", True, ["A", "B"])


def test_the_other_way_round_the_adapter_is_worse():
    with endpoint(longer) as server:
        found, _, _ = judged(made(server.url), SHORT, LONG)
    assert [contest.verdict for contest in found.whole.contests] == ["worse"]


def test_a_judge_that_goes_by_the_order_finds_no_winner_and_is_told():
    with endpoint(first) as server:
        found, notes, items = judged(made(server.url), LONG)
    assert found.whole.figures["judge"]["adapter"].value == 0.5
    assert found.whole.figures["agreement"]["adapter"].value == 0
    assert [contest.verdict for contest in found.whole.contests] == ["cannot tell"]
    assert {item["judged"]["adapter"]["verdict"] for item in items} == {"tie"}
    assert "changes its verdict with the order of the answers on 12 of 12 items" in notes[0]


def test_equal_answers_are_ties_that_nobody_is_asked_about():
    with endpoint(first) as server:
        found, notes, _ = judged(made(server.url), [f" {text}\n" for text in SHORT])
    assert not server.asked
    assert not notes
    assert found.whole.figures["judge"]["adapter"].value == 0.5
    assert found.whole.figures["agreement"]["adapter"].value == 1


def test_agreement_counts_only_what_was_asked():
    with endpoint(first) as server:
        found, _, _ = judged(made(server.url), [*LONG[:1], *SHORT[1:]])
    assert len(server.asked) == 2
    assert found.whole.figures["agreement"]["adapter"].value == 0


def test_another_run_is_compared_with_base_and_adapter_by_win_rates_alone():
    with endpoint(longer) as server:
        found, _, _ = judged(made(server.url), LONG, SHORT, other=[*LONG[:6], *SHORT[6:]])
    assert len(server.asked) == 2 * COUNT  # answers that are equal are judged once
    contests = {(one.figure, one.system, one.against): one.wins for one in found.whole.contests}
    assert contests == {
        ("judge", "adapter", "base"): 12,
        ("judge", "other", "base"): 6,
        ("judge", "other", "adapter"): 0,
    }


def test_groups_have_win_rates_of_their_own():
    with endpoint(longer) as server:
        one = answered(made(server.url, group_by="kind"), [*LONG[:6], *SHORT[6:]])
        golds = [Gold(gold.where, "7", {"kind": "ab"[place >= 6]}) for place, gold in enumerate(one.golds)]
        found, _ = judge_answers([Answered(one.suite, golds, one.answers)])
        (reported,) = report(found, [("adapter", "base")])
    assert {name: part.figures["judge"]["adapter"].value for name, part in reported.groups.items()} == {
        "a": 1,
        "b": 0.5,
    }


def test_what_was_said_is_not_asked_again_and_other_settings_are():
    with endpoint(longer) as server:
        once, _, items = judged(made(server.url), LONG)
        again, _, same = judged(made(server.url), LONG)
        assert (len(server.asked), once, items) == (2 * COUNT, again, same)
        judged(made(server.url, criterion="shortness"), LONG)
        assert len(server.asked) == 4 * COUNT


def test_the_request_has_question_criterion_seed_and_the_key_of_the_variable(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    keys = {"criterion": "brevity {wins}", "show_reference": True, "seed": 3}
    with endpoint(longer) as server:
        suite = made(server.url, api_key_env="JUDGE_KEY", **keys)
        judged(suite, LONG[:1], SHORT[:1])
    body, (text, other) = server.asked[0], sorted(one["messages"][0]["content"] for one in server.asked)
    assert (body["model"], body["temperature"], body["seed"]) == ("judge-1", 0, 3)
    assert all(part in text for part in ("Question 0?", "brevity {wins}", "<reference_answer>\n7\n", LONG[0]))
    assert text.replace("answer_a", "answer_x").replace("answer_b", "answer_a").replace("answer_x", "answer_b") != other
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(suite)


def test_a_busy_endpoint_is_asked_again():
    with endpoint(longer, [BUSY, (503, {"Retry-After": "0"}, b"loading")]) as server:
        check_judges([made(server.url, max_retries=2)])
    assert len(server.asked) == 3


def unused():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}{PATH}"


def test_a_judge_that_is_down_is_missing_before_any_answer():
    with pytest.raises(MissingError, match=r"127\.0\.0\.1.*cannot be reached: Connection refused.*`endpoint`"):
        check_judges([made(unused(), max_retries=3)])


def test_without_its_variable_nothing_is_sent(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with endpoint(longer) as server, pytest.raises(MissingError, match="`JUDGE_KEY` is not set"):
        check_judges([made(server.url, api_key_env="JUDGE_KEY")])
    monkeypatch.setenv("JUDGE_KEY", "two\nlines")
    with pytest.raises(MissingError) as caught:
        check_judges([made(server.url, api_key_env="JUDGE_KEY")])
    assert "two" not in str(caught.value)
    assert not server.asked


REFUSALS = [
    ((401, {}, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()), UsageError, r"HTTP 401: bad key \*\*\*"),
    ((404, {}, b'{"error": {"message": "no model judge-1"}}'), UsageError, "no model judge-1"),
    ((400, {}, b""), UsageError, "HTTP 400 .*`temperature = 1`"),
    ((302, {"Location": "http://127.0.0.1:1/other"}, b""), UsageError, "redirects to http://127"),
    ((200, {}, b"<html>a web page</html>"), UsageError, "no chat completion: <html>a web page"),
    ((200, {}, b'{"choices": []}'), UsageError, "no chat completion"),
    (BUSY, RunError, "HTTP 429: too many requests"),
]


@pytest.mark.parametrize(("response", "kind", "told"), REFUSALS, ids=[str(one[0][0]) for one in REFUSALS])
def test_an_endpoint_that_refuses_is_told_in_its_own_words(monkeypatch, response, kind, told):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with endpoint(longer, [response]) as server, pytest.raises(kind, match=told) as caught:
        check_judges([made(server.url, api_key_env="JUDGE_KEY")])
    assert KEY not in str(caught.value)
    assert server.url in str(caught.value)
    assert len(server.asked) == 1


def test_a_slow_judge_is_told_with_the_item_and_what_others_said_is_kept():
    with endpoint(longer) as server:
        judged(made(server.url), LONG[:2], SHORT[:2])
        server.hangs = True
        with pytest.raises(RunError, match=r"rows\.jsonl:3: .* gave no reply in 0\.2 seconds .*raise `timeout`"):
            judged(made(server.url, timeout=0.2), LONG[:3], SHORT[:3])
        with pytest.raises(MissingError, match=r"no reply in 0\.2 seconds"):
            check_judges([made(server.url, timeout=0.2)])
        server.hangs = False
        asked = len(server.asked)
        judged(made(server.url), LONG[:3], SHORT[:3])
    assert len(server.asked) == asked + 2


def test_a_response_without_an_end_is_slow_or_cut_off():
    with endpoint(longer, [(200, {}, b" " * 5 * 2**20)]) as server:
        with pytest.raises(UsageError, match="no chat completion"):
            check_judges([made(server.url)])
        server.trickles = True
        with pytest.raises(MissingError, match=r"no reply in 0\.2 seconds"):
            check_judges([made(server.url, timeout=0.2)])


def test_a_reply_that_repeats_the_key_is_kept_without_it(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with endpoint(lambda *answers: f"{longer(*answers)} {KEY}") as server:
        _, _, items = judged(made(server.url, api_key_env="JUDGE_KEY"), LONG)
    assert "***" in json.dumps(items)
    assert KEY not in json.dumps(items) + "".join(file.read_text() for file in cache_files())


def test_what_is_said_before_a_failure_is_kept():
    with endpoint(longer) as server:
        server.judge = lambda one, other: server.failures.append((500, {}, b"out of memory")) or longer(one, other)
        with pytest.raises(RunError, match=r"rows\.jsonl:.*HTTP 500: out of memory"):
            judged(made(server.url), LONG)
        said = sum(len(json.loads(file.read_text())) for file in cache_files())
        server.judge, server.failures[:] = longer, []
        asked = len(server.asked)
        judged(made(server.url), LONG)
    assert said > 0
    assert len(server.asked) == asked + 2 * COUNT - said


def cache_files():
    return list(Path(os.environ["LORANS_CACHE"]).glob("judge-*/*.json"))


@pytest.mark.parametrize("nonsense", ["I cannot judge", "[[A]] or [[B]]", ""])
def test_nonsense_is_an_error_with_examples(nonsense):
    with endpoint(lambda *_: nonsense) as server, pytest.raises(RunError) as caught:
        judged(made(server.url), LONG)
    told = str(caught.value)
    assert "gave no verdict that can be read on 12 of 12 items" in told
    assert f"rows.jsonl:1: the judge replied: {nonsense or 'nothing'}" in told
    assert not cache_files()


def test_a_little_nonsense_is_counted_and_named():
    def judge(one, other):
        return "no idea" if "5" in (one, other) else longer(one, other)

    with endpoint(judge) as server:
        found, notes, items = judged(made(server.url), LONG)
        judged(made(server.url), LONG)
    assert items[5]["judged"]["adapter"]["verdict"] == "unparsable"
    assert items[5]["scores"]["adapter"] == {"judge": 0.5}
    assert [contest.ties for contest in found.whole.contests] == [1]
    assert notes == [
        "judge, adapter against base: unparsable replies of the judge on 1 of 12 items, counted as ties: rows.jsonl:6"
    ]
    assert len(server.asked) == 2 * COUNT + 2  # nonsense alone is asked about again


def test_a_response_that_is_no_completion_is_nonsense():
    with endpoint(longer, [(200, {}, b"[[A]]")]) as server:
        _, notes, _ = judged(made(server.url), LONG)
    assert "unparsable replies of the judge on 1 of 12 items" in notes[0]


def test_damage_in_the_cache_costs_only_requests():
    with endpoint(longer) as server:
        judged(made(server.url), LONG)
        for file in cache_files():
            file.write_bytes(b"\xff{")
        judged(made(server.url), LONG)
    assert len(server.asked) == 4 * COUNT


def test_settings_of_a_strange_run_are_checked_again():
    with pytest.raises(LoransError, match="`endpoint` of the suite `judge` is no URL of the web"):
        check_judges([made("file:///etc/passwd")])


def test_nothing_is_sent_without_consent_on_the_command_line():
    suite = made("https://example.org/v1/chat/completions", api_key_env="HF_TOKEN")
    with pytest.raises(UsageError, match=r"sends .* to https://example\.org/.*, with the key in `HF_TOKEN`"):
        chosen_suites(None, [suite], allow_code=False, allow_judge=False)
    assert chosen_suites(None, [suite], allow_code=False, allow_judge=True) == [suite]


ROWS = [
    Row(f"rows.jsonl:{number}", {"prompt": f"Spell {word} backwards.", "completion": word[::-1]})
    for number, word in enumerate(["plum", "pear", "river"], start=1)
]


def evaluations(run):
    return sorted(run.path.glob("evaluations/*"))


def test_a_run_is_judged_against_its_base(lora_run):
    with endpoint(longer) as server:
        beside = Beside((made(server.url),))
        found = evaluate(open_run(lora_run), ROWS, False, beside=beside)
    (asked,) = [one for one in found.suites if one.name == "judge"]
    assert found.metrics["judge.judge"] == asked.whole.figures["judge"]["adapter"].value
    items = [json.loads(line) for line in (Path(found.saved) / "items.jsonl").read_text().splitlines()]
    judged = [item for item in items if item["suite"] == "judge"]
    differing = [item for item in judged if item["answers"]["adapter"].strip() != item["answers"]["base"].strip()]
    assert differing
    assert len(server.asked) == 1 + 2 * len(differing)
    for item in differing:
        lengths = [len(item["answers"][name]) for name in ("adapter", "base")]
        expected = "win" if lengths[0] > lengths[1] else "loss" if lengths[0] < lengths[1] else "tie"
        assert item["judged"]["adapter"]["verdict"] == expected


def test_a_judge_that_is_down_costs_no_answer_and_nonsense_leaves_nothing(lora_run):
    before = evaluations(lora_run)

    def computing(opened):
        raise AssertionError("a model was asked")

    with pytest.raises(MissingError):
        evaluate(open_run(lora_run), ROWS, False, computing, Beside((made(unused()),)))
    with endpoint(lambda *_: "nonsense") as server, pytest.raises(RunError):
        evaluate(open_run(lora_run), ROWS, False, beside=Beside((made(server.url),)))
    assert evaluations(lora_run) == before
