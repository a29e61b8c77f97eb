"""`make bench`: how long a window is, what its tables say, and a rough run of it."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import architectures, compare, report
from bench.client import run
from bench.corpus import Corpus
from bench.passes import batches, p50_ms
from bench.servers import SERVERS, exported
from bench.window import Window
from tests.conftest import ROOT

CORPUS = Corpus(
    queries=[f"query {n}" for n in range(4)],
    docs=[f"text {n}" for n in range(64)],
    tokens={f"query {n}": 14 for n in range(4)} | {f"text {n}": 64 for n in range(64)},
)


# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elapsed", "answers", "over"),
    [
        (1.9, [500], False),  # too short, whatever was answered
        (2.0, [20], True),
        (2.0, [19], False),
        (9.0, [500, 19], False),  # each group needs its own
        (9.0, [20, 20], True),
        (60.0, [0], True),  # the longest
    ],
)
def test_a_window_lasts_until_each_group_has_enough_answers(
    elapsed: float, answers: list[int], over: bool
) -> None:
    assert Window(2.0, least=20, longest=60).over(elapsed, answers) is over


def test_a_window_without_a_number_of_answers_is_as_long_as_it_says() -> None:
    window = Window(90)
    assert not window.over(70, [1000])
    assert window.over(90, [0])


def test_a_command_line_carries_a_window() -> None:
    parser, window = argparse.ArgumentParser(), Window(0.5, 3, 8)
    Window(2.5, 20).add_options(parser)
    assert Window.from_options(parser.parse_args(window.options())) == window
    assert Window.from_options(parser.parse_args([])) == Window(2.5, 20)


@pytest.fixture
def slow() -> Iterator[int]:
    """The port of a server that answers one request at a time, each after 50 ms."""
    one_at_a_time, pause = threading.Lock(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with one_at_a_time:
                pause.wait(0.05)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def drive(port: int, least: int, longest: float, *groups: str) -> dict[str, Any]:
    """Two clients a group, a window of no length of its own."""
    sends = [
        {"name": name, "clients": 2, "batches": [["a", "b"]], "tokens": [7]} for name in groups
    ]
    spec = {"host": "127.0.0.1", "port": port, "path": "/", "model": "m", "format": "float",
            "warm_s": 0, "groups": sends,
            "window": {"seconds": 0.0, "least": least, "longest": longest}}  # fmt: skip
    # In a thread of its own: a browser of another test may have a loop that runs in this one.
    with ThreadPoolExecutor(1) as thread:
        found: Any = thread.submit(lambda: asyncio.run(run(spec))).result()["groups"]
    return dict(found)


def test_clients_go_on_until_each_group_has_its_answers(slow: int) -> None:
    found = drive(slow, 6, 60, "one", "other")
    for figures in found.values():
        assert figures["requests"] >= 6 and figures["errors"] == 0
        assert figures["texts_s"] == pytest.approx(2 * figures["requests_s"])
        assert figures["tokens_s"] == pytest.approx(7 * figures["requests_s"])
        assert figures["p50_ms"] >= 50


def test_the_longest_window_ends_with_fewer_answers(slow: int) -> None:
    figures = drive(slow, 10_000, 0.3, "one")["one"]
    assert 1 <= figures["requests"] < 10_000


# -- passes ----------------------------------------------------------------------------------------


def test_a_shape_has_texts_of_exactly_its_tokens() -> None:
    for call in batches("16 x 64", CORPUS):
        assert [CORPUS.tokens[text] for text in call] == [64] * 16
    assert [len(call) for call in batches("batch32", CORPUS)] == [32, 32]
    assert batches("1 x 14", CORPUS) == [[text] for text in CORPUS.queries]
    with pytest.raises(ValueError, match="0 texts for 8 x 128"):
        batches("8 x 128", CORPUS)


def test_passes_take_their_texts_in_turn() -> None:
    calls, seen = [["a"], ["b"], ["c"]], []
    assert p50_ms(seen.append, calls, Window(0, least=7)) >= 0
    assert seen == [["a"], ["b"], *[["a"], ["b"], ["c"]] * 2, ["a"]]


# -- what is told ----------------------------------------------------------------------------------


def server(texts_s: float, p50_ms: float, answers: int = 20) -> dict[str, Any]:
    """What one server did in one round."""

    def load(group: str) -> dict[str, Any]:
        figures = {"requests": answers, "requests_s": texts_s, "texts_s": texts_s, "errors": 0,
                   "tokens_s": 60 * texts_s, "p50_ms": p50_ms, "p99_ms": 2 * p50_ms}  # fmt: skip
        return {"groups": {group: figures}, "peak_mb": 500.0}

    loads = {what: load(what.split(":")[0]) for what in compare.RIVAL_LOADS}
    return {"start_s": 5.0, "least_cosine": 0.9998, "loads": loads}


def one_round(ours: float, **more: Any) -> dict[str, Any]:
    """A round in which `ort` does 100 texts/s, and the int8 service did not start."""
    return {
        "others_cores": 0.0, "servers": {"ours": server(ours, 4.0), "ort": server(100, 5.0)},
        "passes": {"ours": {"single": 3.0, "1 x 14": 2.0}, "ort": {"single": 2.5, "1 x 14": 4.0}},
        "peak": {"float32_gflops": 50.0, "bfloat16_gflops": 200.0, "int8_gops": 700.0},
        "encode": {"texts_s": 40.0}, "engine": {"texts_s": 2 * ours},
        "not_measured": {"ours-int8": "the server ended with 1: no such dtype"}, **more,
    }  # fmt: skip


def test_a_ratio_is_taken_within_a_round() -> None:
    found = report.medians([one_round(200), one_round(300), one_round(800)], CORPUS)
    assert found["`batch32`, 4 clients, texts/s: ours / ort"] == (3, 2, 8)
    assert found["`batch32`, 4 clients, texts/s: ours / `encode`"] == (7.5, 5, 20)
    assert found["without HTTP, 1 x 14, p50 ms: ours / ort"] == (0.5, 0.5, 0.5)
    assert found["`batch32`, 4 clients, floats: over HTTP / the engine alone"][0] == 0.5


def test_the_tables_have_a_column_for_each_server_that_was_measured() -> None:
    text = report.tables([one_round(200)], ["ours", "ours-int8", "ort"], CORPUS)
    assert "| load | ours | ort |\n|---|---|---|\n" in text
    assert "| `single`, 1 client, p50 ms | 4.00 | 5.00 |" in text
    assert "| `single`, 1 client: ms over HTTP beyond the engine's | 1.00 | 2.50 |" in text
    assert "| ort | batch32:4 | 100 | 100 | 6,000 | 5.00 | 10.0 | 20 | 0 |" in text
    assert "int8_gops 700" in text


def test_what_cannot_be_trusted_is_said() -> None:
    found = one_round(200, others_cores=0.4)
    found["servers"]["ort"] = server(100, 5.0, answers=19)
    said = compare.remarks(compare.WHOLE, [found], {"infinity": "pip failed"}, 600)
    assert said[0].startswith("Rounds: 1 of 3, in 10.0 min.")
    assert "One more round would have taken it over 30 minutes." in said
    assert any("0.4 cores busy: NOT to be trusted" in line for line in said)
    assert "ort answered batch32:4 (batch32) 19 times in 60 s." in said
    assert "Not measured: ours-int8: the server ended with 1: no such dtype" in said
    assert "Not measured: infinity: pip failed" in said
    assert not any("ROUGH" in line for line in said)


def test_a_quick_run_says_that_it_is_rough() -> None:
    said = compare.remarks(compare.ROUGH, [one_round(200)], {}, 200)
    assert said[0].startswith("ROUGH")


def test_no_round_starts_that_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], []

    def takes_eleven_minutes(names: list[str], *_: object) -> dict[str, Any]:
        asked.append(names)
        clock[0] += 11 * 60
        return one_round(200)

    monkeypatch.setattr(compare.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(compare, "one_round", takes_eleven_minutes)
    rounds = compare.measured(compare.WHOLE, ["ours", "ours-int8", "ort"], CORPUS)
    assert len(rounds) == 2
    assert asked == [["ours", "ours-int8", "ort"], ["ours", "ort"]]  # what failed is left out


# -- the rivals and the whole ----------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.999999), ("int8", 0.97)])
def test_the_bare_session_gives_the_librarys_vectors(
    dtype: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("bench.servers.OUT", tmp_path)
    folder = exported(dtype)
    texts = ["A cat sits outside.", "The quick brown fox jumps over the lazy dog. " * 5]
    code = ("import json, sys; from bench.rivals.bare_session import encode;"
            "print(json.dumps(encode(json.loads(sys.argv[1])).tolist()))")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(texts)], check=True, capture_output=True, text=True,
        cwd=ROOT, env={**os.environ, "ONNX_MODEL": str(folder)},
    )  # fmt: skip
    got = np.array(json.loads(done.stdout))
    true = SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    assert (got * true).sum(axis=1).min() >= least
    assert np.linalg.norm(got, axis=1) == pytest.approx(1, abs=1e-5)


def test_every_server_can_be_named() -> None:
    assert set(compare.DEFAULT) <= set(SERVERS)


@pytest.mark.long
def test_a_quick_run_prints_tables_and_one_object() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.compare", "--quick", "--servers", "ours", "ort"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ROUGH" in done.stdout
    assert "| load | ours | ort |" in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    (found,) = result["rounds"]
    assert set(found["servers"]) == set(found["passes"]) == {"ours", "ort"}
    assert found["servers"]["ours"]["least_cosine"] >= 0.9995
    assert not found["not_measured"]


# -- other architectures ---------------------------------------------------------------------------


def test_ways_take_turns_on_texts_of_their_own() -> None:
    seen: list[tuple[str, list[str]]] = []
    docs = [str(n) for n in range(20)]
    ways = {"a": (2, lambda texts: seen.append(("a", list(texts)))),
            "b": (1, lambda texts: seen.append(("b", list(texts))))}  # fmt: skip
    turns = architectures.by_turns(ways, docs, Window(0, least=2))
    assert [set(turn) for turn in turns] == [{"a", "b"}] * 2
    assert seen[2:] == [("a", ["0", "1"]), ("b", ["2"]), ("b", ["3"]), ("a", ["4", "5"])]


def test_an_architecture_that_takes_too_long_is_named() -> None:
    found = architectures.apart("distilbert-base", Window(1), limit_s=0.01)
    assert found == {"architecture": "distilbert-base", "failed": "not done in 0 s"}
    assert len(architectures.row(found)) == len(architectures.HEAD)


@pytest.mark.long
def test_an_architecture_is_measured_beside_the_library() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.architectures", "--only", "distilbert-base", "--seconds",
         "0.1", "--least", "1", "--longest", "1"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = json.loads(done.stdout.splitlines()[-1])["architectures"]
    assert found["least_cosine"] >= 0.9995, found
    assert set(found["texts_s"]) == {"ours", "float32", "bfloat16"}
    assert "| distilbert-base |" in done.stdout
