"""A file store under a real gunicorn: what one worker wrote, every worker reads at once."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.store.faults import ROOT, opened

APP = """
import json, os, time
from pathlib import Path
from store import Item
from store.file import FileStore

store = FileStore(Path(os.environ["STORE_DIR"]))

def app(environ, start_response):
    id_ = environ["PATH_INFO"].strip("/")
    if id_ == "ready":
        time.sleep(0.1)  # another worker takes the next one
    if environ["REQUEST_METHOD"] == "POST":
        store.upsert("docs", [Item(id_, [1.0, 2.0, 3.0])])
        status, body = "201 Created", {"pid": os.getpid()}
    else:
        found = store.get("docs", [id_]) and store.search("docs", [1.0, 2.0, 3.0], 1).hits[0]
        status, body = "200 OK" if found else "404 Not Found", {"pid": os.getpid()}
    data = json.dumps(body).encode()
    start_response(status, [("Content-Length", str(len(data)))])
    return [data]
"""
NAIVE = """
import json, os, pickle, time
from pathlib import Path
path = Path(os.environ["STORE_DIR"]) / "pickle"
rows = pickle.loads(path.read_bytes()) if path.exists() else {}

def app(environ, start_response):
    id_ = environ["PATH_INFO"].strip("/")
    if id_ == "ready":
        time.sleep(0.1)  # another worker takes the next one
    if environ["REQUEST_METHOD"] == "POST":
        rows[id_] = 1
        new = path.with_suffix(f".{os.getpid()}")
        new.write_bytes(pickle.dumps(rows))
        os.replace(new, path)
        status = "201 Created"
    else:
        status = "200 OK" if id_ in rows else "404 Not Found"
    data = json.dumps({"pid": os.getpid()}).encode()
    start_response(status, [("Content-Length", str(len(data)))])
    return [data]
"""


@contextmanager
def served(tmp_path: Path, code: str, *flags: str) -> Iterator[str]:
    """Run an app under gunicorn with four workers; give its address."""
    (tmp_path / "small_app.py").write_text(code)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "-w", "4", "-b", f"127.0.0.1:{port}"]
    server = subprocess.Popen(
        [*command, "-c", "/dev/null", "--log-level", "error", *flags, "small_app:app"],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "STORE_DIR": str(tmp_path / "s")}
        | {"OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        deadline, pids, ready = time.monotonic() + 90, {0}, f"http://127.0.0.1:{port}/ready"
        while len(pids) < 5:  # each has answered, and at first nobody
            assert time.monotonic() < deadline and server.poll() is None, "gunicorn did not start"
            with ThreadPoolExecutor(8) as pool:
                pids |= {pid for _, pid in pool.map(ask, [ready] * 8, ["GET"] * 8)}
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def ask(url: str, method: str) -> tuple[int, int]:
    """Return the status and which worker answered."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as reply:
            return reply.status, json.load(reply)["pid"]
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)["pid"] if exc.code == 404 else 0
    except OSError:
        return 0, 0


def reads_of_own_writes(url: str, each: int) -> tuple[int, set[int]]:
    """Let four clients write and read back; return the misses and the workers seen."""
    missed, pids = [], set()

    def client(me: int) -> None:
        for i in range(each):
            status, pid = ask(f"{url}/{me}-{i}", "POST")
            assert status == 201
            pids.add(pid)
            for _ in range(2):
                status, pid = ask(f"{url}/{me}-{i}", "GET")
                pids.add(pid)
                if status != 200:
                    missed.append((me, i))

    threads = [threading.Thread(target=client, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(missed), pids


@pytest.mark.parametrize("flags", [(), ("--preload",)], ids=["plain", "preload"])
def test_gunicorn_workers_read_each_others_writes_at_once(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with opened(tmp_path / "s") as store:
        store.create("docs", 3)
    with served(tmp_path, APP, *flags) as url:
        missed, pids = reads_of_own_writes(url, 40)
    assert missed == 0 and len(pids) == 4
    with opened(tmp_path / "s") as store:
        assert store.count("docs") == 160 and store.verify("docs").ok


def test_a_dict_in_each_worker_does_not(tmp_path: Path) -> None:
    """The control: a dict and a whole-file pickle with an atomic rename."""
    (tmp_path / "s").mkdir()
    with served(tmp_path, NAIVE) as url:
        missed, _ = reads_of_own_writes(url, 15)
    assert missed > 0
