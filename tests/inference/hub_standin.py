"""A stand-in for the models' hub on this machine: what the hub's own client asks, and no more."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = ".safetensors"  # kept by Git LFS there


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """The files of one commit."""

    name: str
    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    told: dict[str, bytes] = field(default_factory=dict)
    """What the hub says a file holds, where it is not what it sends."""
    downloads: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, folder: Path, **more: bytes) -> Repository:
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        return cls(name, {**files, **more})

    def siblings(self) -> list[dict[str, Any]]:
        found = []
        for name, sent in self.files.items():
            data = self.told.get(name, sent)
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_id(data)}
            if name.endswith(LARGE):
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
            found.append(entry)
        return found

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": e["rfilename"], "size": e["size"], "oid": e["blobId"]}
            | ({"lfs": {**e["lfs"], "oid": e["lfs"]["sha256"]}} if "lfs" in e else {})
            for e in self.siblings()
        ]


@contextlib.contextmanager
def hub(*repositories: Repository) -> Iterator[str]:
    """Its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path).removeprefix("/")
            for repository in repositories:
                api, resolve = f"api/models/{repository.name}", f"{repository.name}/resolve/"
                if path.startswith(f"{api}/tree/"):
                    self.send(json.dumps(repository.tree()).encode(), with_body)
                    return
                if path == api or path.startswith(f"{api}/revision/"):
                    asked = path.removeprefix(f"{api}/revision/")
                    if path == api or asked in ("main", repository.commit):
                        body = {
                            "id": repository.name,
                            "sha": repository.commit,
                            "siblings": repository.siblings(),
                        }
                        self.send(json.dumps(body).encode(), with_body)
                        return
                if path.startswith(resolve):
                    name = path.removeprefix(resolve).partition("/")[2]
                    if name in repository.files:
                        self.file(repository, name, with_body)
                        return
            self.send(b"{}", with_body, status=404, **{"X-Error-Code": "RepoNotFound"})

        def file(self, repository: Repository, name: str, with_body: bool) -> None:
            data = repository.files[name]
            tag = hashlib.sha256(data).hexdigest() if name.endswith(LARGE) else git_id(data)
            if with_body:
                repository.downloads.append(name)
            headers = {"ETag": f'"{tag}"', "X-Repo-Commit": repository.commit}
            self.send(data, with_body, **headers)

        def send(self, data: bytes, with_body: bool, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if with_body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
