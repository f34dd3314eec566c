"""A local stand-in for an OpenAI-compatible endpoint, whose judge is a function of the two answers."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATH = "/v1/chat/completions"

Judge = Callable[[str, str], str]
"""Replies to answer A and answer B."""


def longer(one: str, other: str) -> str:
    """An honest judge: the longer answer is better."""
    return f"Reasons. [[{'C' if len(one) == len(other) else 'A' if len(one) > len(other) else 'B'}]]"


def first(_one: str, _other: str) -> str:
    """A judge that goes by the order."""
    return "[[A]]"


class Endpoint(ThreadingHTTPServer):
    """The stand-in, with what it was asked."""

    daemon_threads = True
    request_queue_size = 64  # of fewer, a connection waits a second

    def __init__(self, judge: Judge, failures: list[tuple[int, dict[str, str], bytes]], hangs: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.judge = judge
        self.failures = failures
        """Responses to the first requests: status, headers and body."""
        self.hangs = hangs
        self.trickles = False
        """Sends a byte at a time, without an end."""
        self.released = threading.Event()
        self.asked: list[dict] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{PATH}"


@contextlib.contextmanager
def endpoint(judge: Judge = longer, failures=(), hangs: bool = False) -> Iterator[Endpoint]:
    """Serve a judge. One that hangs accepts requests and answers none."""
    with Endpoint(judge, list(failures), hangs) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        server.asked.append(body)
        server.headers.append(dict(self.headers))
        if server.hangs:
            server.released.wait(10)
            return
        if server.trickles:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not server.released.wait(0.02):
                    self.wfile.write(b" ")
            return
        if server.failures:
            self._send(*server.failures.pop(0))
            return
        text = body["messages"][-1]["content"]
        answers = (re.search(rf"<answer_{name}>\n(.*?)\n</answer_{name}>", text, re.DOTALL)[1] for name in "ab")
        said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": server.judge(*answers)}}]}
        self._send(200, {}, json.dumps(said).encode())

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
