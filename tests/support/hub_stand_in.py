"""A local stand-in for the hub: the part of its HTTP API that is used to fetch a model or a dataset."""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
REFUSALS = {
    "absent": (404, "RepoNotFound"),
    "private": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "revision": (404, "RevisionNotFound"),
    "forbidden": (403, ""),
    "teapot": (418, ""),
    "broken": (500, ""),
}
"""Names of repositories that refuse every request, with the HTTP status and the hub's error code."""


def offline_environment(**more: str) -> dict[str, str]:
    """The environment of a process that can reach the stand-in, without proxies."""
    plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return {**plain, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", **more}


@contextlib.contextmanager
def hub(repositories: Mapping[str, Path] | None = None) -> Iterator[str]:
    """Serve folders as repositories, such as `models/owner/name`; yields the endpoint."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.repositories = repositories or {}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self._answer(asked.get("paths"))

    def _answer(self, paths: list[str] | None = None) -> None:
        """Answer `/api/KIND/owner/name/...` or `/[KIND/]owner/name/resolve/COMMIT/file`: a description, or a file."""
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_api = parts[0] == "api"
        rest = parts[1:] if is_api else parts
        kind, rest = (rest[0], rest[1:]) if rest[0] in ("models", "datasets") else ("models", rest)
        name = "/".join(rest[:2])
        folder = self.server.repositories.get(f"{kind}/{name}")
        if folder is None:
            self._refuse(*REFUSALS.get(rest[1], REFUSALS["absent"]))
        elif is_api:
            self._send(json.dumps(describe(folder, name, rest[2:], paths)).encode(), {})
        else:
            self._send_file(folder / "/".join(rest[4:]))

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self, file: Path) -> None:
        if not file.is_file():
            self._refuse(404, "EntryNotFound")
            return
        content = file.read_bytes()
        self._send(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def _send(self, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def describe(folder: Path, name: str, what: list[str], paths: list[str] | None) -> object:
    """The API's description of a repository, or of the files in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = [
        {
            "type": "file",
            "path": str(file.relative_to(folder)),
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        }
        for file in files
    ]
    if what[:1] == ["paths-info"]:
        return [entry for entry in entries if entry["path"] in (paths or [])]
    if what[:1] == ["tree"]:
        below = "/".join(what[2:])
        return [entry for entry in entries if not below or str(entry["path"]).startswith(f"{below}/")]
    siblings = [{"rfilename": entry["path"]} for entry in entries]
    return {"id": name, "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": siblings}
