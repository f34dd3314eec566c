"""Who may read the board: programs of this user with the token, through the addresses at which it is served.

A page of another site cannot read it: it has no token, its requests bring no cookie, and a domain name that was pointed
at this machine (DNS rebinding) is refused by the `Host` header.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every response, beside the content security policy."""


class Guard:
    """Lets a request pass to the board, or answers it: other methods, other hosts, no token."""

    def __init__(self, app: ASGIApp, *, token: str | None, host: str, port: int) -> None:
        """Guard an application.

        Args:
            app: the application.
            token: the token; None for a board without one.
            host: the address at which it is served.
            port: its port, which is in the name of the cookie: boards of one machine share their cookies.
        """
        self._app, self._token, self._cookie = app, token, f"lorans_board_{port}"
        self._hosts, self._any_address = allowed_hosts(host), host not in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        from starlette.requests import Request

        if scope["type"] != "http":
            return  # the protocol of WebSockets is not spoken here
        request = Request(scope)
        refused = self._refusal(request)
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in {"GET", "HEAD"}:
            return _plain("the board only reads: GET and HEAD", 405, {"Allow": "GET, HEAD"})
        if not self._is_own_host(request.headers.get("host", "")):
            return _plain("this is not an address of the board", 421)
        if self._token is None:
            return None
        given = request.query_params.get("token")
        if given is not None and _is_same(given, self._token):
            return self._welcome(request)
        if _is_same(request.cookies.get(self._cookie, ""), self._token):
            return None
        return _plain("open the address that `lorans board` has printed: it contains the token", 403)

    def _welcome(self, request: Request) -> Response:
        """Keep the token in a cookie, and send the browser on to the same address without it."""
        from urllib.parse import urlencode

        from starlette.responses import RedirectResponse

        rest = urlencode([(name, value) for name, value in request.query_params.multi_items() if name != "token"])
        path = "/" + request.url.path.lstrip("/")  # `//other.org` would be another host
        response = RedirectResponse(path + (f"?{rest}" if rest else ""), 303, HEADERS)
        response.set_cookie(self._cookie, self._token or "", httponly=True, samesite="strict")
        return response

    def _is_own_host(self, header: str) -> bool:
        name = host_in(header)
        return name in self._hosts or (self._any_address and _is_address(name))


def allowed_hosts(host: str) -> Collection[str]:
    """Return the names under which a board at an address may be asked for."""
    if host in LOOPBACK:
        return LOOPBACK
    return {*LOOPBACK, host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}


def host_in(header: str) -> str:
    """Return the name or address in a `Host` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _plain(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(f"{text}\n", status, {**HEADERS, **(headers or {})})
