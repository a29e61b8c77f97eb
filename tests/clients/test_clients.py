"""The clients that come with the service do what they say, whatever interrupts them."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests

from tests.clients.gate import Gate
from tests.conftest import ROOT, free_port, running
from tests.faults.conftest import until
from tools.plan import prefix_of

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def texts(count: int) -> list[str]:
    return [f"{i} {WORDS[i % 10]} {WORDS[i // 7 % 10]}" for i in range(count)]


def expected(url: str, given: list[str]) -> np.ndarray:
    parts = [
        requests.post(f"{url}/embed", json={"texts": given[i : i + 1000]}, timeout=60).json()
        for i in range(0, len(given), 1000)
    ]
    return np.concatenate([np.float32(part["embeddings"]) for part in parts])


def command(url: str, *words: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "embed_file.py"), *map(str, words), "--url", url]


def run(url: str, *words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(url, *words), capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )


def write_input(folder: Path, kind: str, given: list[str]) -> Path:
    path = folder / f"texts.{kind}"
    if kind == "jsonl":
        rows = ({"id": f"r{i}", "text": text} for i, text in enumerate(given))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        path.write_text("id,text\n" + "".join(f'r{i},"{t}"\n' for i, t in enumerate(given)))
    elif kind == "txt":
        path.write_text("".join(f"{text}\n" for text in given))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        ids = [f"r{i}" for i in range(len(given))]
        pq.write_table(pa.table({"id": ids, "text": given}), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt", "parquet"])
def test_every_kind_of_file_is_embedded(fake_url: str, tmp_path: Path, kind: str) -> None:
    given = texts(500)
    out = tmp_path / "out.npy"
    done = run(fake_url, write_input(tmp_path, kind, given), out, "--batch", "33")
    assert done.returncode == 0, done.stderr
    assert "500/500" in done.stderr and "text/s" in done.stderr
    np.testing.assert_allclose(np.load(out), expected(fake_url, given), atol=1e-7)
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_vectors_are_written_with_their_texts(fake_url: str, tmp_path: Path, kind: str) -> None:
    given = texts(120)
    out = tmp_path / f"out.{kind}"
    assert run(fake_url, write_input(tmp_path, "jsonl", given), out).returncode == 0
    if kind == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(out).to_pylist()
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(120)]
    assert [row["text"] for row in rows] == given
    got = np.float32([row["embedding"] for row in rows])
    np.testing.assert_allclose(got, expected(fake_url, given), atol=1e-7)


@pytest.fixture
def gate(fake_url: str) -> Iterator[Gate]:
    """Stands before the service, so that a run is certainly under way when it is interrupted."""
    with Gate(fake_url) as gate:
        yield gate


SMALL = ("--batch", "5", "--parallel", "2", "--quiet")
PARALLEL, AHEAD = 2, 4  # requests at once; batches that are begun before the first one is noted


def interrupt(gate: Gate, words: tuple, sig: signal.Signals) -> subprocess.Popen[str]:
    """Start a run and end it by a signal once some of it is done and all that is sent is held."""
    gate.hold_after(AHEAD)
    process = subprocess.Popen(
        command(gate.url, *words, *SMALL), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        gate.until_held(PARALLEL)
        process.send_signal(sig)
        # What is under way is answered, as by a real service. Its threads may send another request
        # each before they are told to stop; dozens are left, so that the run cannot end by itself.
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            gate.release()
            time.sleep(0.1)
    finally:
        gate.open()
        process.kill()  # where it did not end, which fails the test
        process.communicate()
    return process


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_goes_on_where_it_was_stopped(
    gate: Gate, fake_url: str, tmp_path: Path, sig: signal.Signals
) -> None:
    given = texts(300)
    source, out = write_input(tmp_path, "jsonl", given), tmp_path / "out.npy"
    part = tmp_path / "out.npy.part"
    process = interrupt(gate, (source, out), sig)
    assert process.returncode == (-sig if sig == signal.SIGKILL else 130)
    done = part.stat().st_size // 32
    assert 0 < done < 300
    assert not out.exists()
    with part.open("ab") as file:
        file.write(b"torn")  # half a row, as a power cut leaves it
    again = run(fake_url, source, out, "--batch", "50")
    assert again.returncode == 0, again.stderr
    np.testing.assert_allclose(np.load(out), expected(fake_url, given), atol=1e-7)


def test_progress_of_another_input_is_not_mixed_in(
    gate: Gate, fake_url: str, tmp_path: Path
) -> None:
    source, out = write_input(tmp_path, "txt", texts(300)), tmp_path / "out.npy"
    interrupt(gate, (source, out), signal.SIGKILL)
    write_input(tmp_path, "txt", texts(50))
    again = run(fake_url, source, out)
    assert again.returncode == 1
    assert "belongs to another input" in again.stderr


def test_another_content_of_the_same_size_is_seen(
    gate: Gate, fake_url: str, tmp_path: Path
) -> None:
    given = texts(300)
    source, out = write_input(tmp_path, "txt", given), tmp_path / "out.npy"
    interrupt(gate, (source, out), signal.SIGKILL)
    write_input(tmp_path, "txt", [given[1], given[0], *given[2:]])
    assert "belongs to another input" in run(fake_url, source, out).stderr


def test_vectors_of_another_space_are_not_mixed_in(
    gate: Gate, fake_url: str, tmp_path: Path
) -> None:
    source, out = write_input(tmp_path, "txt", texts(300)), tmp_path / "out.npy"
    interrupt(gate, (source, out), signal.SIGKILL)
    facts = tmp_path / "out.npy.part.json"  # as another model of the same name left it
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "space": "0123456789abcdef"}))
    again = run(fake_url, source, out)
    assert again.returncode == 1
    assert "cannot be compared" in again.stderr
    assert not out.exists()


def test_two_runs_do_not_write_one_output(fake_url: str, tmp_path: Path) -> None:
    source, out = write_input(tmp_path, "txt", texts(50)), tmp_path / "out.npy"
    with (tmp_path / "out.npy.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = run(fake_url, source, out)
    assert second.returncode == 1
    assert "another run" in second.stderr
    assert run(fake_url, source, out).returncode == 0


def test_a_collection_has_each_text_once_whatever_stops_the_run(
    gate: Gate, fake_url: str, tmp_path: Path
) -> None:
    given = texts(300)
    source = write_input(tmp_path, "txt", given)
    words = (source, "--store", "bulk")
    part = tmp_path / "texts.txt.bulk.part.json"
    done = [0]
    for sig in (signal.SIGKILL, signal.SIGINT):
        interrupt(gate, words, sig)
        done.append(json.loads(part.read_text())["done"])
    assert done == sorted(set(done)) and done[-1] < 300  # each run went on after the one before
    try:
        again = run(gate.url, *words, "--batch", "50")
        assert again.returncode == 0, again.stderr
        kept = f"{fake_url}/collections/bulk"
        assert requests.get(kept, timeout=60).json()["count"] == 300
        for i in (*range(0, 300, 20), 299):
            id_ = f"{prefix_of(source)}-{i}"
            record = requests.get(f"{kept}/vectors/{id_}", timeout=60).json()
            assert record["text"] == given[i]
        assert not part.exists()
    finally:
        requests.delete(f"{fake_url}/collections/bulk", timeout=60)


def test_a_collection_deleted_meanwhile_is_filled_from_the_start(
    gate: Gate, fake_url: str, tmp_path: Path
) -> None:
    source = write_input(tmp_path, "txt", texts(300))
    words = (source, "--store", "gone")
    interrupt(gate, words, signal.SIGKILL)
    for _ in range(2):
        requests.delete(f"{fake_url}/collections/gone", timeout=60)
        assert run(gate.url, *words, "--batch", "50", "--quiet").returncode == 0
        assert requests.get(f"{fake_url}/collections/gone", timeout=60).json()["count"] == 300
    requests.delete(f"{fake_url}/collections/gone", timeout=60)


def counted(url: str, series: str) -> float:
    lines = requests.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if series in line)


HALF = (  # of a body so large that it is read as it comes
    b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 4000000\r\n\r\n{"
)


def work_is_refused(url: str) -> bool:
    return requests.post(f"{url}/embed", json={"texts": 3}, timeout=60).status_code == 429


@contextmanager
def one_under_way(url: str) -> Iterator[None]:
    """Take the one permit of a service by half a request, and let go of it at the end."""
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=60) as half:
        half.sendall(HALF)
        until(lambda: work_is_refused(url))
        yield


@pytest.mark.parametrize(
    ("limit", "count", "batch"),
    [
        ({"THREADS": "2"}, 1000, 50),  # one request at once; the others are told 1 to 2 s
        # It waits for a minute to pass.
        pytest.param({"TEXTS_PER_MINUTE_ADMIN": "300"}, 400, 50, marks=pytest.mark.long),
    ],
)
def test_a_run_waits_as_long_as_it_is_told(
    serve_fake: Callable[..., str], tmp_path: Path, limit: dict, count: int, batch: int
) -> None:
    url = serve_fake(**limit)
    given = texts(count)
    source, out = write_input(tmp_path, "txt", given), tmp_path / "out.npy"

    def refused() -> float:
        return counted(url, 'route="/v1/embeddings",status="429"')

    with ThreadPoolExecutor(1) as pool, ExitStack() as busy:
        if "THREADS" in limit:
            busy.enter_context(one_under_way(url))
        under_way = pool.submit(run, url, source, out, "--batch", str(batch), "--parallel", "8")
        until(refused)
        busy.close()
        done = under_way.result()
    assert done.returncode == 0, done.stderr
    assert "waits" in done.stderr and "429" in done.stderr
    assert 0 < refused() < 60  # refused, and not asked again and again
    assert counted(url, "embedding_texts_total{") == count
    assert np.load(out).shape == (count, 8)


def peak_mb(url: str, *words: str | Path) -> float:
    """Run in a process of its own; return the most memory it had at once."""
    code = (
        "import re, sys; from tools.embed_file import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    command_line = [sys.executable, "-c", code, *map(str, words), "--url", url, "--quiet"]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


def test_memory_stays_flat_however_large_the_file(fake_url: str, tmp_path: Path) -> None:
    few, many = 5_000, int(os.environ.get("BULK_LINES", "40000"))
    for name, lines in (("few", few), ("many", many)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{i} {'x' * 400}\n" for i in range(lines)))
    peaks = [
        peak_mb(fake_url, tmp_path / f"{name}.txt", tmp_path / f"{name}.npy", "--batch", "500")
        for name in ("few", "many")
    ]
    print(f"{few} lines: {peaks[0]:.0f} MB; {many} lines: {peaks[1]:.0f} MB")
    assert len(np.load(tmp_path / "many.npy", mmap_mode="r")) == many
    assert peaks[1] < peaks[0] + 8  # the text alone is 16 MB


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{"no": 1}\n', "line 2 has no text in 'text'"),
        ('{"text": "a"}\n{', "line 2 is not JSON"),
        ("[1]\n", "neither an object nor a string"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(
    fake_url: str, tmp_path: Path, content: str, said: str
) -> None:
    source = tmp_path / "bad.jsonl"
    source.write_text(content)
    done = run(fake_url, source, tmp_path / "out.npy")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_mistakes_of_the_caller_are_told_at_once(fake_url: str, tmp_path: Path) -> None:
    source = write_input(tmp_path, "txt", ["a"])
    assert run(fake_url, source).returncode == 2
    assert run(fake_url, source, tmp_path / "out.xls").returncode == 2
    assert run(fake_url, source, tmp_path / "o.npy", "--batch", "0").returncode == 2
    unknown = run(fake_url, source, tmp_path / "out.npy", "--model", "none")
    assert unknown.returncode == 1
    assert "available: fake" in unknown.stderr


@pytest.mark.parametrize("script", ["test_simple.sh", "test_batch.sh", "test_base64.sh"])
def test_the_shell_tests_pass(real_url: str, script: str) -> None:
    done = subprocess.run([ROOT / "tests" / script, real_url], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok")


def test_the_test_client_finds_all_well(real_url: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "test_client.py", real_url], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "ok    POST /v1/embeddings" in done.stdout
    assert "FAIL" not in done.stdout


def test_the_test_client_walks_a_service_that_asks_for_a_key(tmp_path: Path) -> None:
    port = free_port()
    env = {"HOST": "127.0.0.1", "PORT": str(port), "AUTH_ENABLED": "true",
           "JWT_SECRET_KEY": "signs-the-tokens-of-this-test-only-0",
           "ADMIN_PASSWORD": "a-long-one"}  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    walk = [sys.executable, str(ROOT / "test_client.py"), url]
    with running([sys.executable, "-m", "gunicorn", "app:app"], port, env):
        signed = requests.post(
            f"{url}/token", data={"username": "admin", "password": "a-long-one"}, timeout=60
        ).json()
        as_admin = {**os.environ, "EMBEDDING_API_KEY": signed["access_token"]}
        done = subprocess.run(walk, capture_output=True, text=True, env=as_admin)
        assert done.returncode == 0, done.stdout
        assert "skip  POST /rerank" in done.stdout and done.stdout.count("skip") == 1
        assert "FAIL" not in done.stdout
        nobody = subprocess.run(walk, capture_output=True, text=True)
        assert "skip  users and keys" in nobody.stdout


def test_the_test_client_asks_each_model_for_what_it_gives(kinds_url: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "test_client.py", kinds_url], capture_output=True, text=True
    )
    assert "all: dense, sparse, multi_vector" in done.stdout, done.stdout
    assert "for 'It will rain tomorrow.'" in done.stdout
    assert "FAIL  outputs" not in done.stdout and "FAIL  POST /rerank" not in done.stdout


def test_the_test_client_tells_what_fails() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, ROOT / "test_client.py", url], capture_output=True, text=True
    )
    assert done.returncode > 5
    assert "FAIL  GET /health" in done.stdout
