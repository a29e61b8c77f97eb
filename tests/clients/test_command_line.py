"""What is asked of `embed_file.py` is checked before anything is read, sent or written."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.clients.command import embed
from tests.clients.conftest import fake_service
from tests.clients.gate import Gate
from tests.conftest import ROOT, free_port

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("one\ntwo\n")
    return path


URLS = [
    "localhost:8001", "ftp://localhost", "http://", "http:///x", "//localhost", "http://h:99999",
    "http://h:x", "http://user:secret@localhost", "http://localhost?a=1", "http://a b",
]  # fmt: skip


@pytest.mark.fault("Files")
@pytest.mark.parametrize("url", URLS)
def test_an_address_that_is_none_is_told_at_once(source: Path, tmp_path: Path, url: str) -> None:
    """The address lacks its scheme, or the key has a line end -> an error at once, no request."""
    done = embed(url, source, tmp_path / "out.npy")
    assert done.code == 1 and "it needs http:// or https:// and a host" in done.said
    assert "secret" not in done.said and done.said.count("\n") == 1


@pytest.mark.parametrize("key", ["emb_a\n", " emb_a", "emb a", "emb_\u00e9", "\t"])
def test_a_key_that_is_none_is_told_at_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("EMBEDDING_API_KEY", key)
    done = embed(NOBODY, source, tmp_path / "out.npy")
    assert done.code == 1 and "EMBEDDING_API_KEY has a blank" in done.said
    assert "emb" not in done.said.replace("embed_file", "")


@pytest.mark.parametrize("name", ["a/b", "..", ".", "../up", "-x", "a b", "x" * 300, "caf\u00e9"])
def test_a_name_that_is_no_collections_is_told_at_once(source: Path, name: str) -> None:
    done = embed(NOBODY, source, f"--store={name}")
    assert done.code == 1 and "a collection's name begins with a letter or digit" in done.said
    assert done.said.count("\n") == 1


def test_files_that_cannot_be_used_are_told_at_once(source: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "folder.txt").mkdir()
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.npy"
    rows.write_text('{"text": "a"}\n')
    shutil.copy(rows, tmp_path / "o.jsonl.rejects.jsonl")
    for words, wanted in {
        (source, tmp_path / "none" / "out.npy"): f"there is no folder {tmp_path}/none",
        (source, tmp_path / "folder.npy"): "is a folder",
        (tmp_path / "folder.txt", out): "is no file",
        (rows, rows): "would write over it",
        (tmp_path / "o.jsonl.rejects.jsonl", tmp_path / "o.jsonl"): "would write over it",
        (rows, out, "--text-columns", "a"): "has no column 'a'",
    }.items():
        done = embed(NOBODY, *words)
        assert done.code == 1 and wanted in done.said, done.said
        assert done.said.count("\n") == 1
    assert embed(NOBODY, tmp_path / "none.txt").code == 2
    assert "none.txt' does not exist" in embed(NOBODY, tmp_path / "none.txt").said
    assert rows.read_text() == '{"text": "a"}\n'
    assert "does not exist" in embed(NOBODY, "x" * 5000 + ".txt", out).said


def test_names_with_blanks_and_line_ends_are_names(fake_url: str, tmp_path: Path) -> None:
    source, out = tmp_path / "my texts\n\x1b[31m.txt", tmp_path / "my out.npy"
    source.write_text("one\ntwo\n")
    try:
        assert embed(fake_url, source, out).code == 0
        assert np.load(out).shape == (2, 8)
        assert embed(fake_url, source, "--store", "odd-names").code == 0
        source.write_bytes(b"\xff\n")
        assert embed(fake_url, source, out).said.count("\n") == 1
    finally:
        requests.delete(f"{fake_url}/collections/odd-names", timeout=60)


def test_an_output_that_needs_pyarrow_is_told_before_anything_is_embedded(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError\n")  # as where it is not installed
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(ROOT / "embed_file.py"), source, tmp_path / "out.parquet"]
    done = subprocess.run(
        [*command, "--url", NOBODY], capture_output=True, text=True, env=env, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == "embed_file.py: Parquet needs pyarrow: pip install pyarrow\n"


def test_a_service_that_was_never_there_is_given_up_soon(source: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    done = embed(f"http://127.0.0.1:{free_port()}", source, tmp_path / "out.npy")
    assert done.code == 1 and "cannot be reached (ConnectionError)" in done.said
    assert time.monotonic() - begun < 30


def test_an_address_of_something_else_is_told(source: Path, tmp_path: Path, fake_url: str) -> None:
    done = embed(f"{fake_url}/nowhere", source, tmp_path / "out.npy")
    assert done.code == 1 and "404" in done.said
    done = embed(f"{fake_url}/docs#", source, tmp_path / "out.npy", "--model", "fake")
    assert done.code == 1 and done.said.count("\n") == 1


@pytest.mark.fault("Files")
def test_more_texts_than_a_request_may_have_are_sent_in_several(
    fake_url: str, tmp_path: Path
) -> None:
    """`--batch 2048` with `--store`, where a request may store 1,000 -> several requests."""
    source = tmp_path / "texts.txt"
    source.write_text("".join(f"text {i}\n" for i in range(2500)))
    try:
        assert embed(fake_url, source, "--store", "many", "--batch", "2048").code == 0
        reply = requests.get(f"{fake_url}/collections/many", timeout=60)
        assert reply.json()["count"] == 2500
    finally:
        requests.delete(f"{fake_url}/collections/many", timeout=60)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A service that asks for a key, and an administrator's."""
    settings = {"AUTH_ENABLED": "true", "ADMIN_PASSWORD": "a-long-one",
                "JWT_SECRET_KEY": "signs-the-tokens-of-this-test-only-0"}  # fmt: skip
    with fake_service(tmp_path_factory.mktemp("guarded"), **settings) as url:
        form = {"username": "admin", "password": "a-long-one"}
        yield url, requests.post(f"{url}/token", data=form, timeout=60).json()["access_token"]


NETRC = ["default login a password b", "machine 127.0.0.1 login a password b"]


@pytest.mark.fault("Files")
@pytest.mark.parametrize("content", NETRC)
def test_a_password_in_netrc_does_not_replace_the_key(
    guarded: tuple[str, str],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
) -> None:
    """`~/.netrc` has a password for the host, or for all -> the key is sent all the same."""
    url, key = guarded
    (tmp_path / "netrc").write_text(content)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("EMBEDDING_API_KEY", key)
    done = embed(url, source, tmp_path / "out.npy")
    assert done.code == 0, done.said
    env = {**os.environ, "EMBEDDING_URL": url}
    for script, wanted in (
        ("test_client.py", "ok    users and keys"),
        ("examples/with_requests.py", "0 texts"),
    ):
        words = [sys.executable, script, *([url] if script == "test_client.py" else [])]
        walk = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=ROOT, env=env)
        assert wanted in walk.stdout and "401" not in walk.stdout, walk.stdout + walk.stderr


def test_a_proxy_of_the_environment_is_used(
    fake_url: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gate(fake_url) as gate:
        monkeypatch.setenv("HTTP_PROXY", gate.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        done = embed("http://service.invalid", source, tmp_path / "out.npy")
        assert done.code == 0 and gate.come == 1, done.said


def on_a_disk(script: str, folder: Path, url: str) -> str:
    """Run a shell script with disks of its own, which end with it; return all that it prints."""
    command = f"{sys.executable} {ROOT}/embed_file.py --quiet --url {url}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=120,
        cwd=folder, env={**os.environ, "EMBED": command},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


may_mount = pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="needs the right to mount",
)


@may_mount
@pytest.mark.fault("Files")
def test_a_read_only_folder_is_no_hindrance(fake_url: str, tmp_path: Path) -> None:
    """The input's folder is read-only -> the progress is kept in the working folder."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"no": 1}\n')
    script = """mount --bind disk disk && mount -o remount,bind,ro disk
    $EMBED disk/rows.jsonl --store readonly --on-error skip; echo code $?
    $EMBED disk/rows.jsonl disk/out.npy --on-error skip; echo code $?"""
    try:
        said = on_a_disk(script, tmp_path, fake_url)
        assert "code 3\ncode 1" in said and "the progress is kept in this folder" in said
        assert "Read-only file system: 'disk/out.npy.part'" in said
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["disk", "rows.jsonl.readonly.rejects.jsonl"]
        reply = requests.get(f"{fake_url}/collections/readonly", timeout=60)
        assert reply.json()["count"] == 2
    finally:
        requests.delete(f"{fake_url}/collections/readonly", timeout=60)


@may_mount
@pytest.mark.fault("Files")
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    fake_url: str, tmp_path: Path
) -> None:
    """The disk is full -> one line says so; the same command continues when there is room."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "texts.txt").write_text("".join(f"text {i}\n" for i in range(1200)))
    script = """mount -t tmpfs -o size=24k none disk
    $EMBED texts.txt disk/out.npy; echo code $?
    mount -o remount,size=1m disk
    $EMBED texts.txt disk/out.npy; echo code $?
    ls disk; cp disk/out.npy ."""
    said = on_a_disk(script, tmp_path, fake_url)
    assert "code 1\ncode 0\nout.npy\n" in said and said.count("No space left on device") == 1
    assert "Traceback" not in said
    assert np.load(tmp_path / "out.npy").shape == (1200, 8)
