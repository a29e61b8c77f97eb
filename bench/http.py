"""Starts a server, drives it with closed-loop clients from another process, prints what it did.

python -m bench.http ours                  every load
python -m bench.http infinity single:32 batch32:4 --seconds 10
python -m bench.http --command "my-server --port {port} {model}" --model minilm single:32

A command of one's own must speak OpenAI's API on `{port}`; `{model}` is the bundled model's folder.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bench.corpus import REFERENCE, Corpus, load
from bench.servers import ROOT, SERVERS, Running, Server, started
from bench.window import Window

ALL = ("single:1", "single:8", "single:32", "single:64", "batch32:1", "batch32:4",
       "batch32:4:base64", "bulk:1", "mixed:8")  # fmt: skip
SHOWN = ("requests_s", "texts_s", "tokens_s", "p50_ms", "p95_ms", "p99_ms", "errors")


def groups(load_name: str, clients: int, corpus: Corpus) -> list[dict[str, Any]]:
    """Return who sends what in a load."""
    docs, queries = corpus.docs, corpus.queries
    whole = len(docs) - len(docs) % 512
    kinds = {
        "single": [[text] for text in queries],
        "batch32": [docs[i : i + 32] for i in range(0, whole, 32)],
        "bulk": [docs[i : i + 512] for i in range(0, whole, 512)],
    }
    wanted = {"mixed": [("single", clients), ("bulk", 1)]}.get(load_name, [(load_name, clients)])
    return [
        {
            "name": name,
            "clients": count,
            "batches": kinds[name],
            "tokens": [sum(corpus.tokens[text] for text in batch) for batch in kinds[name]],
        }
        for name, count in wanted
    ]


def measure(
    server: Server, running: Running, what: str, window: Window | float, corpus: Corpus,
    processes: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Drive a running server with one load, such as `batch32:4` or `batch32:4:base64`.

    A number is a window of so many seconds. Several processes share the clients where one of them
    would be the limit; then each waits for as many answers as the window says.
    """
    window = window if isinstance(window, Window) else Window(window)
    name, clients, form = (what + ":float").split(":")[:3]
    shares = [int(clients) // processes + (n < int(clients) % processes) for n in range(processes)]
    spec = {
        "host": "127.0.0.1", "port": running.port, "path": server.path, "model": server.model,
        "format": form, "warm_s": min(2.0, window.seconds / 2), "window": asdict(window),
    }  # fmt: skip
    cpu = running.cpu_s()
    results = [
        _sent(sending)
        for sending in [
            _sending({**spec, "groups": groups(name, share, corpus)}) for share in shares if share
        ]
    ]
    return {
        "groups": _together([result["groups"] for result in results]),
        "client_cpu_s": sum(result["client_cpu_s"] for result in results),
        "server_cpu_s": running.cpu_s() - cpu,
        "peak_mb": running.memory_mb(),
        "rss_mb": running.memory_mb("VmRSS"),
    }


def _sending(spec: dict[str, Any]) -> subprocess.Popen[str]:
    """Start clients."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.client"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdin
    json.dump(spec, process.stdin)
    process.stdin.close()
    return process


def _sent(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what clients have seen, once they are done."""
    assert process.stdout
    said = process.stdout.read()
    if code := process.wait():
        raise subprocess.CalledProcessError(code, process.args)
    result: dict[str, Any] = json.loads(said)
    return result


def _together(parts: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return each group over all processes: rates add up, of times the longest counts."""
    return {
        name: {
            key: (max if key.endswith("_ms") else sum)(part[name][key] for part in parts)
            for key in figures
        }
        for name, figures in parts[0].items()
    }


def least_cosine(server: Server, running: Running, corpus: Corpus) -> float:
    """Return the least cosine of the vectors to those that `bench.rivals.encode` left."""
    true = np.load(REFERENCE)
    body = json.dumps({"model": server.model, "input": corpus.docs[: len(true)]}).encode()
    asked = urllib.request.Request(
        f"http://127.0.0.1:{running.port}{server.path}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as reply:  # on loopback  # nosec B310
        rows = json.load(reply)["data"]
    got = np.array([row["embedding"] for row in sorted(rows, key=lambda row: int(row["index"]))])
    got /= np.linalg.norm(got, axis=1, keepdims=True)
    return float((got * true).sum(axis=1).min())


def table(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Write the results as a Markdown table, a line a group of clients."""
    lines = [f"| load | {' | '.join(SHOWN)} | server CPU s | peak MB |"]
    lines.append("|---" * (len(SHOWN) + 3) + "|")
    for what, result in rows:
        for name, figures in result["groups"].items():
            cells = " | ".join(f"{figures[key]:,.1f}" for key in SHOWN)
            label = what if len(result["groups"]) == 1 else f"{what} ({name})"
            used = f"{result['server_cpu_s']:.1f} | {result['peak_mb']:.0f}"
            lines.append(f"| {label} | {cells} | {used} |")
    return "\n".join(lines)


def main() -> None:
    """Measure one server under the loads given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help=f"a server ({', '.join(SERVERS)}), then loads")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--command", help="start this in place of a known server")
    parser.add_argument("--model", default="minilm", help="what the command calls the model")
    parser.add_argument("--path", default="/v1/embeddings")
    parser.add_argument("--ready", default="/health", help="answers once the command can encode")
    given = parser.parse_args()
    if given.command:
        words = tuple(shlex.split(given.command))
        server = Server("command", words, given.model, given.path, given.ready)
    elif given.what and given.what[0] in SERVERS:
        server = SERVERS[given.what.pop(0)]
    else:
        parser.error(f"name a server ({', '.join(SERVERS)}) or give a --command")
    corpus = load()
    rows = []
    with started(server) as running:
        for what in given.what or ALL:
            rows.append((what, measure(server, running, what, given.seconds, corpus)))
            time.sleep(0.2)
    print(f"{server.name}: ready in {running.start_s:.1f} s\n\n{table(rows)}\n")
    print(json.dumps({"server": server.name, "start_s": running.start_s, "loads": dict(rows)}))


if __name__ == "__main__":
    main()
