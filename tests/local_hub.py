"""A small Hub on 127.0.0.1 for the real huggingface_hub and datasets clients, which can be told to misbehave.

    with LocalHub() as hub:
        hub.add("org/model", {"config.json": b"{}", "model.safetensors": weights})   # -> the commit
        hub.fault("model.safetensors", cut=1000)                                     # once, then it behaves
        os.environ["HF_ENDPOINT"] = hub.url

It answers what those clients ask: repository info, file trees, paths-info, and resolve with ETag, Range and HEAD.
Large files (see `large`) answer as LFS files do: with a sha256 ETag and a redirect to another host name, to which a
client must not send its token. Plain files for urllib lie under <url>/raw/<path>.
"""

import contextlib
import hashlib
import json
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import LocalServer


@dataclass
class Repo:
    """One commit of one repository. gated: only `accepted` tokens may read files."""

    commit: str
    files: dict[str, bytes]
    large: set[str]
    branches: set[str] = field(default_factory=lambda: {"main"})
    gated: bool = False
    accepted: set[str] = field(default_factory=set)


@dataclass
class Fault:
    """How the next `times` answers to `method` requests whose path ends in `path` go wrong."""

    path: str
    times: int
    method: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    corrupt: bool = False


@dataclass
class Asked:
    """One request as the server saw it."""

    method: str
    path: str
    range: str
    token: str


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class LocalHub(LocalServer):
    """The server. Use as a context manager; `requests` holds what was asked, in order."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.raw: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[Asked] = []
        super().__init__(handler_of(self))
        self.url = self.root

    def add(
        self, repo: str, files: dict[str, bytes], kind: str = "models", large: tuple[str, ...] = (".safetensors",)
    ) -> str:
        """Publish a repository and return its commit. large: endings of the names that are LFS files."""
        listing = json.dumps({name: sha256(data) for name, data in sorted(files.items())})
        commit = hashlib.sha1(listing.encode()).hexdigest()
        self.repos[(kind, repo)] = Repo(commit, files, {name for name in files if name.endswith(large)})
        return commit

    def gate(self, repo: str, kind: str = "models", accepted: tuple[str, ...] = ()) -> None:
        """Let only these tokens read the files; the listing stays open, as on the Hub."""
        self.repos[(kind, repo)].gated = True
        self.repos[(kind, repo)].accepted = set(accepted)

    def fault(
        self,
        path: str,
        times: int = 1,
        method: str = "GET",
        status: int = 0,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
        corrupt: bool = False,
    ) -> None:
        """Go wrong: answer `status`, or close the connection after `cut` bytes, or send wrong bytes."""
        self.faults.append(Fault(path, times, method, status, headers or {}, cut, corrupt))

    def asked(self, ending: str, method: str = "GET") -> list[Asked]:
        return [each for each in self.requests if each.method == method and each.path.endswith(ending)]


@contextlib.contextmanager
def offered(monkeypatch: Any) -> Iterator[LocalHub]:
    """A running LocalHub that this process's huggingface_hub talks to, without a token, and without pauses."""
    from huggingface_hub import constants, file_download

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what a cut connection loses
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with LocalHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def handler_of(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            path = urllib.parse.unquote(url.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            hub.requests.append(Asked(self.command, path, self.headers.get("range") or "", token))
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            fault = next(
                (f for f in hub.faults if f.times > 0 and f.method == self.command and path.endswith(f.path)), None
            )
            if fault is not None:
                fault.times -= 1
                if fault.status:
                    return self.reply(fault.status, b"{}", fault.headers)
            parts = path.strip("/").split("/")
            if parts[0] == "raw":
                data = hub.raw.get("/".join(parts[1:]))
                return self.not_found("EntryNotFound") if data is None else self.send_file(data, {}, fault)
            if parts[0] == "cdn":
                return self.send_file(self.blob(parts[1]), {}, fault)
            if parts[0] == "api":
                return self.whoami(token) if parts[1] == "whoami-v2" else self.api(parts[1:], query, body)
            kind = parts.pop(0) if parts[0] == "datasets" else "models"
            return self.resolve(kind, parts, token, fault)

        def api(self, parts: list[str], query: dict[str, str], body: bytes) -> None:
            kind, name, rest = parts[0], "/".join(parts[1:3]), parts[3:]
            repo = hub.repos.get((kind, name))
            if repo is None:
                return self.not_found("RepoNotFound")
            revision = rest[1] if len(rest) > 1 else "main"
            if revision not in {repo.commit, *repo.branches}:
                return self.not_found("RevisionNotFound")
            if not rest or rest[0] == "revision":
                return self.reply_json({"id": name, "sha": repo.commit, "siblings": [], "private": False})
            if rest[0] == "tree":
                folder = "/".join(rest[2:])
                tree = list(entries(repo, folder, query.get("recursive", "").lower() == "true"))
                return self.reply_json(tree) if tree or not folder else self.not_found("EntryNotFound")
            if rest[0] == "paths-info":
                wanted = paths_of(body)
                everything = {entry["path"]: entry for entry in entries(repo, "", True)}
                return self.reply_json([everything[path] for path in wanted if path in everything])
            return self.not_found("EntryNotFound")

        def whoami(self, token: str) -> None:
            known = {name for repo in hub.repos.values() for name in repo.accepted}
            self.reply_json({"name": f"owner of {token}"}) if token in known else self.reply(401, b"{}", {})

        def resolve(self, kind: str, parts: list[str], token: str, fault: Fault | None) -> None:
            # <owner>/<name>/resolve/<revision>/<file>
            repo = hub.repos.get((kind, "/".join(parts[:2])))
            if repo is None or len(parts) < 5 or parts[2] != "resolve":
                return self.not_found("RepoNotFound")
            if parts[3] not in {repo.commit, *repo.branches}:
                return self.not_found("RevisionNotFound")
            if repo.gated and token not in repo.accepted:
                return self.reply(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
            name = "/".join(parts[4:])
            if name not in repo.files:
                return self.not_found("EntryNotFound", {"X-Repo-Commit": repo.commit})
            data = repo.files[name]
            if name not in repo.large:
                return self.send_file(data, {"X-Repo-Commit": repo.commit, "ETag": f'"{git_blob(data)}"'}, fault)
            headers = {
                "X-Repo-Commit": repo.commit,
                "X-Linked-ETag": f'"{sha256(data)}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"http://localhost:{hub.port}/cdn/{sha256(data)}/{name}",
            }
            return self.reply(302, b"", headers)

        def blob(self, digest: str) -> bytes:
            return next(d for repo in hub.repos.values() for d in repo.files.values() if sha256(d) == digest)

        def send_file(self, data: bytes, headers: dict[str, str], fault: Fault | None) -> None:
            if fault is not None and fault.corrupt:
                data = bytes([data[0] ^ 255]) + data[1:]
            status, part = 200, data
            asked = (self.headers.get("range") or "").removeprefix("bytes=")
            if asked:
                first = int(asked.split("-")[0])
                status, part = 206, data[first:]
                headers = headers | {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
            cut = fault.cut if fault is not None else None
            self.reply(status, part, headers, cut)

        def not_found(self, code: str, headers: dict[str, str] | None = None) -> None:
            self.reply(404, b"{}", {"X-Error-Code": code} | (headers or {}))

        def reply_json(self, value: Any) -> None:
            self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def reply(self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body if cut is None else body[:cut])
            if cut is not None:
                self.close_connection = True

    return Handler


def paths_of(body: bytes) -> list[str]:
    """The paths of a paths-info request, which comes as a form or as JSON."""
    with contextlib.suppress(ValueError):
        value = json.loads(body)["paths"]
        return [value] if isinstance(value, str) else list(value)
    return urllib.parse.parse_qs(body.decode()).get("paths", [])


def entries(repo: Repo, folder: str, recursive: bool) -> Iterator[dict[str, Any]]:
    """The Hub's tree entries below `folder`: files, and the folders that hold them."""
    prefix = f"{folder}/" if folder else ""
    folders = set()
    for name, data in sorted(repo.files.items()):
        if not name.startswith(prefix):
            continue
        steps = name[len(prefix) :].split("/")
        for depth in range(1, len(steps) if recursive else min(len(steps), 2)):
            folders.add(prefix + "/".join(steps[:depth]))
        if recursive or len(steps) == 1:
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git_blob(data)}
            if name in repo.large:
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
            yield entry
    for path in sorted(folders):
        yield {"type": "directory", "path": path, "oid": git_blob(path.encode())}
