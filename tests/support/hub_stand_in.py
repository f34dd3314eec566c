"""A local stand-in for the hub: the part of its HTTP API that is used to fetch a model or a dataset."""

import base64
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
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
    with _serving(Handler, repositories or {}) as endpoint:
        yield endpoint


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler], repositories: Mapping[str, object]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.repositories = repositories
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

    def _send(self, content: bytes, headers: Mapping[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Repositories(dict[str, dict[str, bytes]]):
    """Repositories that files are pushed to: their files by name."""

    def __init__(self) -> None:
        super().__init__()
        self.private: dict[str, bool] = {}
        self.stored: dict[str, bytes] = {}
        """Large files by their hash, which arrive before the commit that names them."""
        self.sent: list[str] = []
        """Hashes of the large files, as they arrived."""
        self.fails: Mapping[str, int] = {}
        """HTTP status with which requests fail whose path has a part."""


@contextlib.contextmanager
def pushed_to(repositories: Repositories) -> Iterator[str]:
    """Serve the part of the API that is used to push to a repository of models; yields the endpoint."""
    with _serving(Receiver, repositories) as endpoint:
        yield endpoint


class Receiver(Handler):
    """Answers requests that create repositories, send files, commit them and list them."""

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._fails():
            digest = hashlib.sha256(content).hexdigest()
            self.server.repositories.stored[digest] = content
            self.server.repositories.sent.append(digest)
            self._send(b"", {})

    def do_GET(self) -> None:
        if self._fails():
            return
        name, rest = self._asked()
        files = self.server.repositories.get(name)
        if files is None:
            self._refuse(404, "RepoNotFound")
            return
        entries = [{"type": "file", "path": file, "size": len(content), "oid": ""} for file, content in files.items()]
        siblings = [{"rfilename": file} for file in files]
        found = {"id": name, "sha": COMMIT, "private": self.server.repositories.private[name], "siblings": siblings}
        self._send(json.dumps(entries if rest[:1] == ["tree"] else found).encode(), {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._fails():
            return
        name, rest = self._asked()
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._send(b'{"errors": [], "warnings": []}', {})
        elif rest[:1] == ["preupload"]:
            asked = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            told = [
                {"path": one["path"], "uploadMode": modes[one["path"].endswith(".safetensors")], "shouldIgnore": False}
                for one in asked
            ]
            self._send(json.dumps({"files": told}).encode(), {})
        elif rest[:1] == ["commit"]:
            self._commit(name, [json.loads(line) for line in body.splitlines()])
        else:
            self._send(json.dumps(self._batch(json.loads(body))).encode(), {})

    def _asked(self) -> tuple[str, list[str]]:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        return "/".join(parts[2:4]), parts[4:]

    def _fails(self) -> bool:
        status = next((status for part, status in self.server.repositories.fails.items() if part in self.path), 0)
        if status:
            self._refuse(status, "")
        return bool(status)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"{}")

    def _create(self, asked: Mapping[str, object]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        is_new = name not in self.server.repositories
        if is_new:
            self.server.repositories[name] = {}
            self.server.repositories.private[name] = asked.get("visibility") == "private"
        told = {"url": f"http://{self.headers['Host']}/{name}", "name": name}
        self._send(json.dumps(told).encode(), {}, 200 if is_new else 409)

    def _batch(self, asked: Mapping[str, list[dict[str, object]]]) -> object:
        """Places to send large files to; those that are there have none."""
        objects = []
        for one in asked["objects"]:
            href = f"http://{self.headers['Host']}/large/{one['oid']}"
            is_new = one["oid"] not in self.server.repositories.stored
            objects.append({**one, **({"actions": {"upload": {"href": href}}} if is_new else {})})
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, lines: Sequence[Mapping[str, dict[str, str]]]) -> None:
        files = self.server.repositories[name]
        for line in lines:
            kind, value = line["key"], line["value"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.server.repositories.stored[value["oid"]]
            elif kind == "deletedFile":
                del files[value["path"]]
        told = {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        self._send(json.dumps(told).encode(), {})


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
