"""A loopback hub of models: as much of Hugging Face's interface as its library asks for downloads.

It serves folders, `<org>/<name>` under its own. The library takes it by `HF_ENDPOINT`.
"""

import hashlib
import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import pytest

LFS = (".safetensors", ".bin", ".pt", ".onnx", ".model")


class Hub:
    """The repositories in a folder, one commit each. `asked` has a line for each request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.gated: dict[str, str] = {}  # a repository, and the token that opens it
        self.failing = 0  # the status that it answers with, if any
        self.held: threading.Event | None = None  # weights stop half-way until it is set
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port: whoever asks from now on is refused the connection."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def serve_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point this process's library at this hub, as `HF_ENDPOINT` does for a new process."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def add(self, name: str, source: Path) -> None:
        """Publish a folder as the repository `name`."""
        shutil.copytree(source, self.folder / name, dirs_exist_ok=True)

    def files(self, name: str) -> list[str]:
        """Return the paths of a repository's files."""
        root = self.folder / name
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())

    def commit(self, name: str) -> str:
        """Return the commit that a repository is at: it follows from the files."""
        whole = hashlib.sha1()
        for path in self.files(name):
            whole.update(path.encode() + (self.folder / name / path).read_bytes())
        return whole.hexdigest()

    def etag(self, name: str, path: str) -> str:
        """Return what the hub calls a file's content: its sha256 in LFS, else git's sha1."""
        content = (self.folder / name / path).read_bytes()
        if path.endswith(LFS):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def fill(
        self, cache: Path, name: str, paths: list[str], *, absent: tuple[str, ...] = ()
    ) -> Path:
        """Put some files into a cache as another program does that reads only these.

        `absent` are those that it asked for in vain. Return the snapshot's folder.
        """
        place = cache / ("models--" + name.replace("/", "--"))
        commit = self.commit(name)
        for path in paths:
            blob, link = (
                place / "blobs" / self.etag(name, path),
                place / "snapshots" / commit / path,
            )
            blob.parent.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name / path, blob)
            link.symlink_to(os.path.relpath(blob, link.parent))
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        for path in absent:
            mark = place / ".no_exist" / commit / path
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        return place / "snapshots" / commit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # no connection outlives `stop`

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *args: object) -> None:
        """Write nothing: a test's output is its own."""

    def _answer(self, body: bool) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        if hub.failing:
            self._send(hub.failing, b"", {}, body)
            return
        listing = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        if not (hub.folder / name).is_dir():
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"}, body)
        elif not listing and hub.gated.get(name, "") not in self.headers.get("Authorization", ""):
            self._send(401, b"", {"X-Error-Code": "GatedRepo"}, body)
        elif len(rest) > 1 and rest[1] not in ("main", hub.commit(name)):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        elif listing:
            self._send(200, json.dumps(self._listing(hub, name, rest)).encode(), {}, body)
        else:
            self._file(hub, name, "/".join(rest[2:]), body)

    def _listing(self, hub: Hub, name: str, rest: list[str]) -> object:
        files = hub.files(name)
        if rest[:1] == ["tree"]:
            return [self._entry(hub, name, path) for path in files]
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": hub.commit(name), "siblings": siblings}

    def _entry(self, hub: Hub, name: str, path: str) -> dict[str, object]:
        size, etag = (hub.folder / name / path).stat().st_size, hub.etag(name, path)
        entry: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": etag[:40]}
        if path.endswith(LFS):
            entry["lfs"] = {"oid": etag, "size": size, "pointerSize": 134}
        return entry

    def _file(self, hub: Hub, name: str, path: str, body: bool) -> None:
        file = hub.folder / name / path
        headers = {"X-Repo-Commit": hub.commit(name)}
        if not file.is_file():
            self._send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"}, body)
            return
        headers["ETag"] = f'"{hub.etag(name, path)}"'
        self._send(200, file.read_bytes(), headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        held: threading.Event | None = self.server.hub.held  # type: ignore[attr-defined]
        if body and held is not None and self.path.endswith(LFS):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            held.wait(60)
            content = content[len(content) // 2 :]
        if body:
            self.wfile.write(content)
