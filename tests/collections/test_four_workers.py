"""Four workers of the service on one folder: who wrote something finds it on whichever answers."""

import json
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from tests.conftest import free_port, running, write_models
from tests.faults.conftest import until
from tests.servers.process import workers_of

CLIENTS, EACH = 4, 40


def ask(url: str, body: object = None, method: str | None = None) -> tuple[int, dict]:
    """Send one request over a connection of its own: any worker may take it."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def test_what_one_worker_acknowledges_every_worker_reads_searches_counts_and_forgets(
    tmp_path: Path,
) -> None:
    models = {"fake": {"type": "fake", "model_name": "tests/fake", "dimensions": 8}}
    log = tmp_path / "access"
    flags = ["-w", "4", "--access-logfile", str(log), "--access-logformat", "%(p)s %(m)s"]
    port = free_port()
    base = f"http://127.0.0.1:{port}/collections"
    env = {"HOST": "127.0.0.1", "PORT": str(port)}
    env["MODEL_CONFIG"] = str(write_models(tmp_path / "m.json", models))
    wrong: list[object] = []

    def expect(name: str, status: int, answer: tuple[int, dict]) -> dict:
        if answer[0] != status:
            wrong.append((name, *answer))
        return answer[1]

    def client(me: int) -> None:
        for i in range(EACH):
            name, sent = f"{me}-{i}", [float(me + 1), float(i + 1), *[0.5] * 6]
            where = f"{base}/docs/vectors/{quote(name)}"
            expect(name, 201, ask(f"{base}/docs/vectors", {"id": name, "vector": sent}))
            if expect(name, 200, ask(where)).get("vector") != sent:
                wrong.append((name, "not its vector"))
            best = expect(name, 200, ask(f"{base}/docs/search", {"vector": sent, "k": 1}))
            if [hit["id"] for hit in best.get("results", ())] != [name]:
                wrong.append((name, best))
            if i % 4 == 0:
                expect(name, 200, ask(where, method="DELETE"))
                expect(name, 404, ask(where))

    command = [sys.executable, "-m", "gunicorn", *flags, "app:app"]
    with running(command, port, env) as process:
        until(lambda: process.log.read_text().count("is ready in") == 4)
        assert ask(base, {"name": "docs", "dimension": 8})[0] == 201
        threads = [threading.Thread(target=client, args=(me,)) for me in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        left = CLIENTS * EACH * 3 // 4
        counts = {ask(f"{base}/docs/vectors/count", {})[1]["count"] for _ in range(20)}
        assert counts == {left}
        workers = {f"<{pid}>" for pid in workers_of(process.pid)}
    writers = {line.split()[0] for line in log.read_text().splitlines() if "POST" in line}
    assert writers == workers and len(workers) == 4
