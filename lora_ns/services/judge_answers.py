"""Answers that another model judges against those of the base: the requests, what is kept of them, and their faults."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from lora_ns.data.cache import find, keep, new_folder
from lora_ns.errors import LoransError, MissingError, Problem, RunError, UsageError
from lora_ns.files.disk import write_atomic
from lora_ns.services.chat_endpoint import ChatEndpoint, EndpointError
from lora_ns.services.evaluate_suites import BASE_NAME, Answered
from lora_ns.suites import Gold, JudgeSuite, Suite
from lora_ns.suites.judge import Judgement, Reply

_TOGETHER = 8
"""Requests at a time."""

_MOST_UNPARSABLE = 0.2
"""Share of the judged items above which unreadable replies are an error."""

_MOST_CONTRARY = 0.5
"""Share of the judged items above which it is noted that the judge goes by the order."""

_NAMED = 5
"""Items that a note names."""


def check_judges(suites: Iterable[Suite]) -> None:
    """Ask the judge of each suite for a verdict on two short answers, so that a fault shows before the hours.

    Raises:
        MissingError: if a judge cannot be reached, or its key is not set.
        UsageError: if it refuses the request.
        RunError: if it stays busy.
    """
    for suite in suites:
        if isinstance(suite, JudgeSuite):
            example = Gold("", "4", question="What is 2 + 2?")
            try:
                _endpoint(suite).complete(suite.request(example, "4", "It is 5."), is_first=True)
            except EndpointError as error:
                raise _refused(suite, error) from None


def judge_answers(answered: Sequence[Answered]) -> tuple[list[Answered], list[str]]:
    """Let judges compare the answers of all systems with those of the base, where a suite asks for it.

    Returns:
        The answers with their judgements, and notes about unreadable replies and judges that go by the order.

    Raises:
        RunError: if a judge stops answering, or more than a fifth of the items have unreadable replies.
    """
    found: list[Answered] = []
    notes: list[str] = []
    for one in answered:
        if isinstance(one.suite, JudgeSuite):
            one = replace(one, judged=_judged(one, one.suite))  # noqa: PLW2901
            notes += _notes(one)
        found.append(one)
    return found, notes


@dataclass(frozen=True)
class _Request:
    """A pair of answers in one order."""

    where: str
    body: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The key of its reply in the cache."""
        return hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()


def _judged(answered: Answered, suite: JudgeSuite) -> dict[str, list[Judgement | None]]:
    """The judgements of each system's answers; those of the base are None. Raises `RunError`."""
    base = answered.answers[BASE_NAME]
    requests = {
        (system, place): (
            _Request(gold.where, suite.request(gold, texts[place], base[place])),
            _Request(gold.where, suite.request(gold, base[place], texts[place])),
        )
        for system, texts in answered.answers.items()
        for place, gold in enumerate(answered.golds)
        if texts[place].strip() != base[place].strip()
    }
    replies = _replies(suite, {one.key: one for pair in requests.values() for one in pair})
    judged: dict[str, list[Judgement | None]] = {
        system: [
            Judgement(*(replies[one.key] for one in requests.get((system, place), ())))
            for place in range(len(answered.golds))
        ]
        for system in answered.measured
    }
    _check_readable(answered, suite, judged)
    return {**judged, BASE_NAME: [None] * len(answered.golds)}


def _replies(suite: JudgeSuite, requests: Mapping[str, _Request]) -> dict[str, Reply]:
    """The replies by key: those that are kept, and those of the judge. Raises `RunError`."""
    kept = {key: Reply.read(text) for key, text in _kept(suite.endpoint) if key in requests}
    asked = _ask(suite, {key: one for key, one in requests.items() if key not in kept})
    return {**kept, **asked}


def _ask(suite: JudgeSuite, requests: Mapping[str, _Request]) -> dict[str, Reply]:
    """Ask the judge, several requests at a time. What it said by the time of a failure is kept. Raises `RunError`."""
    if not requests:
        return {}
    endpoint, pool = _endpoint(suite), ThreadPoolExecutor(max_workers=_TOGETHER)
    futures = {pool.submit(_reply, endpoint, one): key for key, one in requests.items()}
    try:
        for future in as_completed(futures):
            try:
                future.result()
            except EndpointError as error:
                raise _failed(suite, requests[futures[future]], error) from None
    finally:
        endpoint.stop()
        pool.shutdown(cancel_futures=True)
        done = {key: future.result() for future, key in futures.items() if _is_answered(future)}
        _keep(suite.endpoint, {key: one.text for key, one in done.items() if one.choice is not None})
    return done


def _reply(endpoint: ChatEndpoint, request: _Request) -> Reply:
    """The reply to a request. What is no chat completion is one that cannot be read."""
    try:
        return Reply.read(endpoint.complete(request.body))
    except EndpointError as error:
        if error.kind != "strange":
            raise
        return Reply(f"the endpoint {error}", None)


def _is_answered(future: Future[Reply]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _endpoint(suite: JudgeSuite) -> ChatEndpoint:
    """The endpoint of a suite with its key.

    Raises:
        UsageError: if its keys cannot be what they are: a run may come from elsewhere.
        MissingError: if the key is not set.
    """
    if wrong := next(suite.conflicts(""), None):
        what = f"`{wrong.keys[-1].lstrip('.')}` of the suite `{suite.title}` {wrong.what}"
        raise UsageError(Problem("", what, wrong.remedy))
    key = None
    if suite.api_key_env is not None:
        key = os.environ.get(suite.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            state = "has characters that no key has" if key else "is not set"
            what = f"the suite `{suite.title}` needs a key, and the environment variable `{suite.api_key_env}` {state}"
            raise MissingError(Problem("", what, f"`export {suite.api_key_env}=...`, or correct `api_key_env`"))
    return ChatEndpoint(suite.endpoint, key, suite.timeout, suite.max_retries)


def _refused(suite: JudgeSuite, error: EndpointError) -> LoransError:
    """The failure of the first request."""
    what = f"the judge of the suite `{suite.title}` {error}"
    match error.kind:
        case "unreachable":
            remedy = "start it, or correct `endpoint`; proxies are those of `http_proxy`, `https_proxy` and `no_proxy`"
            return MissingError(Problem(suite.endpoint, what, remedy))
        case "slow":
            return MissingError(Problem(suite.endpoint, what, "wait until it has started, or raise `timeout`"))
        case "busy":
            return RunError(Problem(suite.endpoint, what, "try again later, or raise `max_retries`"))
    remedy = "correct `endpoint` or `model` of the suite"
    if error.status in {401, 403}:
        remedy = "name the environment variable with a valid key as `api_key_env`"
    elif error.status in {400, 422}:
        remedy = "correct `model`; some models need `temperature = 1`"
    return UsageError(Problem(suite.endpoint, what, remedy))


def _failed(suite: JudgeSuite, request: _Request, error: EndpointError) -> RunError:
    """The failure of a later request."""
    what = f"the judge of the suite `{suite.title}` at {suite.endpoint} {error}"
    advice = {"slow": ", raise `timeout`", "busy": ", raise `max_retries`"}.get(error.kind, "")
    remedy = f"run the command again{advice}: what the judge and the base said so far is kept"
    return RunError(Problem(request.where, what, remedy))


def _check_readable(answered: Answered, suite: JudgeSuite, judged: Mapping[str, Sequence[Judgement | None]]) -> None:
    """Check that most replies can be read. Raises `RunError` with examples."""
    asked = [
        (gold.where, one)
        for of_system in judged.values()
        for gold, one in zip(answered.golds, of_system, strict=True)
        if one is not None and one.is_asked
    ]
    wrong = [(where, one) for where, one in asked if one.verdict == "unparsable"]
    if len(wrong) <= _MOST_UNPARSABLE * len(asked):
        return
    share = f"{len(wrong)} of {len(asked)} items"
    what = f"the judge of the suite `{suite.title}` gave no verdict that can be read on {share}"
    remedy = "choose another `model`, or a `criterion` that asks for nothing else"
    examples = [Problem(where, f"the judge replied: {_unread(one)}") for where, one in wrong[:3]]
    raise RunError([Problem(suite.endpoint, what, remedy), *examples])


def _unread(judgement: Judgement) -> str:
    """The beginning of a reply that cannot be read."""
    reply = next(one for one in (judgement.first, judgement.second) if one is not None and one.choice is None)
    text = " ".join(reply.text.split())
    return f"{text[:200]}..." if len(text) > 200 else text or "nothing"


def _notes(answered: Answered) -> Iterator[str]:
    """Notes about unreadable replies, and about a judge that goes by the order."""
    title = answered.suite.title
    for system in answered.measured:
        asked = [
            (gold.where, one) for gold, one in zip(answered.golds, answered.judged[system], strict=True) if one.is_asked
        ]
        about, total = f"{title}, {system} against base", f"{len(asked)} items"
        if wrong := [where for where, one in asked if one.verdict == "unparsable"]:
            named = ", ".join(wrong[:_NAMED]) + (", ..." if len(wrong) > _NAMED else "")
            yield f"{about}: unparsable replies of the judge on {len(wrong)} of {total}, counted as ties: {named}"
        contrary = sum(one.verdict != "unparsable" and not one.agrees for _, one in asked)
        if contrary > _MOST_CONTRARY * len(asked):
            what = f"the judge changes its verdict with the order of the answers on {contrary} of {total}"
            yield f"{about}: {what}; choose another judge or criterion"


def _folder(endpoint: str) -> str:
    return f"judge-{hashlib.sha256(endpoint.encode()).hexdigest()[:32]}"


def _kept(endpoint: str) -> Iterator[tuple[str, str]]:
    """Yield the replies of an endpoint that are in the cache, by key; what cannot be read is left out."""
    with suppress(OSError):
        folder = find(_folder(endpoint))
        for file in sorted(folder.glob("*.json")) if folder else ():
            with suppress(OSError, ValueError, AttributeError):
                found = json.loads(file.read_text(encoding="utf-8"))
                yield from ((key, text) for key, text in found.items() if isinstance(text, str))


def _keep(endpoint: str, replies: Mapping[str, str]) -> None:
    """Keep replies in the cache; a full or read-only disk costs only the requests."""
    if not replies:
        return
    with suppress(OSError, LoransError):
        folder = find(_folder(endpoint)) or keep(new_folder(), _folder(endpoint))
        write_atomic(folder / f"{secrets.token_hex(8)}.json", json.dumps(replies))
