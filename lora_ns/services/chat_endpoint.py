"""A client of OpenAI-compatible endpoints: one request, one reply, or a failure with its reason."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import IO, Any, Literal
from urllib.error import HTTPError, URLError

from lora_ns.errors import first_line
from lora_ns.safety.credentials import HIDDEN, scrubbed

Kind = Literal["unreachable", "slow", "busy", "refused", "strange"]
"""No connection; no reply in time; 429 or 5xx; another HTTP error; a reply that is no chat completion."""

_MOST_BYTES = 4 * 2**20

_LONGEST_PAUSE = 60.0

_EXCERPT = 300


class EndpointError(Exception):
    """A request failed. The message says why, without the key."""

    def __init__(self, kind: Kind, what: str, status: int = 0, pause: float | None = None) -> None:
        super().__init__(what)
        self.kind = kind
        self.status = status
        """HTTP status; 0 without a response."""
        self.pause = pause
        """Seconds that the endpoint asks to wait; None if it does not say."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key and the text would go to a place that nobody named."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        del req, fp, code, msg, headers, newurl


@dataclass(frozen=True)
class ChatEndpoint:
    """A URL that completes chats. Proxies are those of the environment (`https_proxy`, `no_proxy`)."""

    url: str
    key: str | None = field(repr=False)
    """Key that is sent with each request."""
    timeout: float
    """Seconds for a request."""
    max_retries: int
    """Number of times that a request is repeated if the endpoint is busy or does not answer."""
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def stop(self) -> None:
        """Repeat no further request. Those in progress end by themselves."""
        self._stopped.set()

    def complete(self, body: Mapping[str, Any], is_first: bool = False) -> str:
        """The reply to a request, repeated while the endpoint is busy.

        Args:
            body: the request.
            is_first: nothing has been sent before, so an endpoint that cannot be reached is not tried again.

        Raises:
            EndpointError: if there is none.
        """
        lasting = {"refused", "strange", *(["unreachable", "slow"] if is_first else [])}
        for attempt in range(self.max_retries + 1):
            try:
                return self._complete_once(body)
            except EndpointError as error:
                pause = 2.0**attempt if error.pause is None else error.pause
                if error.kind in lasting or attempt == self.max_retries:
                    raise
                if self._stopped.wait(min(pause, _LONGEST_PAUSE)):
                    raise
        raise AssertionError

    def _complete_once(self, body: Mapping[str, Any]) -> str:
        raw = self._post(json.dumps(body).encode())
        try:
            content = json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise EndpointError("strange", f"answers what is no chat completion: {self._excerpt(raw)}") from None
        return self._without_key(content) if isinstance(content, str) else ""

    def _post(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "lorans"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        late, request = time.monotonic() + self.timeout, urllib.request.Request(self.url, data, headers)
        opener = urllib.request.build_opener(_NoRedirects)
        try:
            with opener.open(request, timeout=self.timeout) as response:
                return _read(response, late)
        except HTTPError as error:
            raise self._of_status(error) from None
        except TimeoutError:
            raise self._slow() from None
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._slow() from None
            reason = error.reason if isinstance(error.reason, BaseException) else error
            raise EndpointError("unreachable", f"cannot be reached: {self._told(reason)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EndpointError("unreachable", f"ends the connection: {self._told(error)}") from None

    def _slow(self) -> EndpointError:
        return EndpointError("slow", f"gave no reply in {self.timeout:g} seconds")

    def _of_status(self, error: HTTPError) -> EndpointError:
        """The failure that an HTTP status means, with the endpoint's own words."""
        with error:
            try:
                raw = error.read(_MOST_BYTES)
            except (OSError, http.client.HTTPException):
                raw = b""
            said = self._excerpt(raw)
            what = f"answers with HTTP {error.code}{': ' * bool(said)}{said}"
            if 300 <= error.code < 400:
                what = f"redirects to {self._without_key(error.headers.get('Location', 'another place'))}"
            is_busy = error.code in {408, 409, 425, 429} or error.code >= 500
            return EndpointError(
                "busy" if is_busy else "refused", what, error.code, _seconds(error.headers.get("Retry-After"))
            )

    def _told(self, error: BaseException) -> str:
        reason = getattr(error, "strerror", None)
        return self._without_key(reason if isinstance(reason, str) else first_line(error))

    def _excerpt(self, raw: bytes) -> str:
        """The endpoint's error message, or the beginning of its response."""
        text = raw.decode("utf-8", "replace")
        try:
            found = json.loads(text)["error"]["message"]
            text = found if isinstance(found, str) else text
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        text = " ".join(text[: 10 * _EXCERPT].split())
        return self._without_key(text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}...")

    def _without_key(self, text: str) -> str:
        """A text of the endpoint, in which it may repeat the key."""
        return scrubbed(text.replace(self.key, HIDDEN) if self.key else text)


def _seconds(header: str | None) -> float | None:
    """The seconds of a `Retry-After`; None for a date or nothing."""
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None


def _read(response: http.client.HTTPResponse, late: float) -> bytes:
    """Read a response until a time. Raises `TimeoutError`; a response that is too long is cut off."""
    parts, size = [], 0
    while size < _MOST_BYTES and (part := response.read1(65_536)):
        parts.append(part)
        size += len(part)
        if time.monotonic() > late:
            raise TimeoutError
    return b"".join(parts)
