"""What answers `embed_file.py` is not the service, or goes wrong: told in a line, nothing lost."""

import contextlib
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.clients.command import embed
from tests.clients.gate import REFUSED, Gate
from tests.clients.test_clients import command

VECTOR = '{"data": [{"embedding": "AAAAAAAAgD8="}]}'
NOT_THE_SERVICE = "does not answer as this service does"
STORED = '{"ids": ["other"]}'
STRANGE: dict[str, tuple[int, str, str]] = {
    "a page to sign in": (200, "<html>sign in</html>", NOT_THE_SERVICE),
    "ids of others": (201, STORED, NOT_THE_SERVICE),
    "nothing": (204, "", "answered 204"),
    "accepted": (202, STORED, "answered 202"),
    "not modified": (304, "", "answered 304"),
    "a number": (201, "5", NOT_THE_SERVICE),
    "nested too deeply": (201, "[" * 100_000, NOT_THE_SERVICE),
    "an error nested too deeply": (404, "[" * 100_000, "answered 404"),
    "a firewall's page": (400, "<html>blocked</html>", "answered 400"),
    "another program's error": (400, '{"error": {"message": "no"}}', "answered 400: no"),
    "an error without words": (400, '{"error": null}', "answered 400"),
    "a proxy's limit": (413, "<html>too large</html>", "answered 413"),
    "a vector of nothing": (200, '{"data": [{"embedding": ""}]}', NOT_THE_SERVICE),
}


@contextlib.contextmanager
def answering(status: int, body: str, **headers: str) -> Iterator[str]:
    """Serve one answer to every POST."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer(200, '{"id": "m", "count": 0}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(status, body)

        def answer(self, status: int, body: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n')
    return path


@pytest.mark.fault("Clients")
@pytest.mark.parametrize("name", STRANGE)
def test_what_does_not_answer_as_the_service_does_stores_nothing(source: Path, name: str) -> None:
    """The answer is not the service's: a sign-in page with 200, 204, 304, a proxy's 400, a reply of
    anything -> the run ends and says so; no row counts as stored or refused.
    """
    status, body, wanted = STRANGE[name]
    with answering(status, body) as url:
        for words in (["--store", "c"], [source.with_name("out.npy")]):
            done = embed(url, source, *words, "--on-error", "skip")
            assert done.code == 1 and wanted in done.said, done.said
            assert done.said.count("\n") == 1 and "line 1" not in done.said
    assert list(source.parent.iterdir()) == [source]


@pytest.mark.parametrize("told", ["9" * 5000, "-1", "x"])
def test_a_count_of_cut_texts_that_is_none_is_no_matter(source: Path, told: str) -> None:
    with answering(200, VECTOR, X_Truncated_Inputs=told) as url:
        assert embed(url, source, source.with_name("out.npy")).code == 0


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'a' * 64}.com", "http://.a"])
@pytest.mark.parametrize("words", [[], ["--model", "m"]])
def test_a_host_that_is_none_is_told_as_that(source: Path, url: str, words: list[str]) -> None:
    done = embed(url, source, source.with_name("out.npy"), *words)
    assert done.code == 1 and done.said.count("\n") == 1
    assert "cannot be reached" in done.said or "needs http:// or https:// and a host" in done.said


def test_a_proxy_that_is_none_is_told(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://a..b:1")
    monkeypatch.delenv("no_proxy", raising=False)
    done = embed("http://service.invalid", source, source.with_name("out.npy"))
    assert done.code == 1 and "a proxy of the environment" in done.said


BAD_WORDS = {
    "--model": ["\udcff", " ", "a\nb"],
    "--prefix": ["\udcff", "a/../b", "a\nb", "x" * 500, "\\..\\"],
}


@pytest.mark.parametrize(("word", "value"), [(w, v) for w, all_ in BAD_WORDS.items() for v in all_])
def test_words_that_no_row_could_be_stored_with_are_told_first(
    source: Path, word: str, value: str
) -> None:
    done = embed("http://127.0.0.1:9", source, "--store", "c", word, value, "--on-error", "skip")
    assert done.code == 1 and f"embed_file.py: {word} " in done.said


@pytest.mark.fault("Clients")
def test_what_all_rows_are_refused_for_is_no_rows_fault(fake_url: str, tmp_path: Path) -> None:
    """Every row is refused for the same reason -> the run ends after 20 and says so; the other rows
    are not sent one by one.
    """
    source = tmp_path / "rows.jsonl"
    source.write_text(f'{{"text": "{REFUSED}"}}\n' * 500)
    with Gate(fake_url) as gate:
        words = (source, "--store", "c", "--on-error", "skip", "--parallel", "1")
        done = embed(gate.url, *words)
        assert done.code == 1 and "all refused alike" in done.said
        assert "a text is refused" in done.said and gate.come < 100


DAMAGED = ["{}\n", "HEAD\nnot json\n", "HEAD\n[1]\n", "HEAD\n" + "[" * 100_000 + "\n",
           'HEAD\n{"1": 2}\n']  # fmt: skip


@pytest.mark.fault("Files")
@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("words", [["out.npy"], ["--store", "damaged"]])
def test_a_damaged_log_of_refused_rows_is_told(
    fake_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, words: list[str]
) -> None:
    """The log of refused rows is damaged -> the run says which files to delete."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"r{i}", "text": REFUSED if i in (3, 20) else f"text {i}"} for i in range(21)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = ("rows.jsonl", *words, "--batch", "5", "--parallel", "1", "--on-error", "skip")
    with Gate(fake_url) as gate, monkeypatch.context() as patched:
        patched.setattr(
            "tools.embed_file.write_rejects", lambda *_: (_ for _ in ()).throw(OSError("no"))
        )
        assert embed(gate.url, *said).code == 1  # all is done but the last step
        (log,) = tmp_path.glob("*.part.refused")
        head = log.read_text().partition("\n")[0]
        log.write_text(content.replace("HEAD", head))
        done = embed(gate.url, *said)
        assert done.code == 1 and f"{log.name} is damaged; delete it and" in done.said
        for path in tmp_path.glob("*.part*"):
            path.unlink()
        patched.undo()
        assert embed(gate.url, *said).code == 3


@pytest.mark.fault("Clients")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_whose_service_hangs_can_be_ended(
    fake_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM while the service hangs -> the run says how many requests it waits for; a
    second one ends it.
    """
    source = tmp_path / "rows.txt"
    source.write_text("one\n" * 20)
    with Gate(fake_url) as gate:
        gate.hold_after(0)
        words = (source, tmp_path / "out.npy", "--batch", "5", "--quiet")
        process = subprocess.Popen(command(gate.url, *words), stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            gate.until_held(4)
            process.send_signal(number)
            assert "4 requests are under way: waits for them" in process.stderr.readline()
            process.send_signal(number)
            assert process.wait(30) == 130
        finally:
            process.kill()
            process.stderr.close()
