"""Measures what interactive and bulk requests cost each other, with a promise and without.

python -m bench.lanes                          8 clients of single texts, one of 512 texts
python -m bench.lanes --minutes 5              the promise for five minutes
python -m bench.lanes --seconds 4 --minutes 0.1     a short one, whose figures are rough

Each lane alone, then both; bulk under a flood of single texts, which come at half of the rate that
the server can serve, whether or not earlier ones are answered; both again, once a time is promised
to interactive requests. Prints a table, and the ratios as JSON.
"""

import argparse
import asyncio
import json
import re
import time
import urllib.request
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.corpus import Corpus, load
from bench.http import measure, table
from bench.overload import Client, payload_of
from bench.servers import MODEL, SERVERS, Running, started

FLOODING = "single:32"  # the load by which the capacity is measured
TIMES = 3  # bulk requests whose time is taken, of which the median counts
TEXTS = 512  # of a bulk request, as in `bulk:1`


@dataclass(frozen=True)
class Lanes:
    """What is measured on one running server."""

    running: Running
    corpus: Corpus
    seconds: float
    clients: int

    def load(self, what: str, seconds: float | None = None) -> dict[str, Any]:
        """Return what clients of one load have seen."""
        return measure(SERVERS["ours"], self.running, what, seconds or self.seconds, self.corpus)

    def bulk_s(self, rate: float = 0.0) -> float:
        """Return the seconds of a bulk request while so many single texts a second come."""
        return asyncio.run(self._bulk_s(rate))

    async def _bulk_s(self, rate: float) -> float:
        client = Client(self.running.port)
        flood = asyncio.create_task(self._flood(client, rate)) if rate else None
        await asyncio.sleep(2.0 if rate else 0.0)
        took = []
        for number in range(TIMES):
            begin = number * TEXTS % (len(self.corpus.docs) - TEXTS)
            texts = self.corpus.docs[begin : begin + TEXTS]
            answer = await client.send(0, _payload(texts))
            if answer.status != 200:
                raise RuntimeError(f"a bulk request got {answer.status}")
            took.append(answer.took_ms / 1000)
        if flood is not None:
            flood.cancel()
        client.close()
        return median(took)

    async def _flood(self, client: Client, rate: float) -> None:
        """Send single texts at their times until it is ended."""
        queries, sent, began = self.corpus.queries, set(), time.perf_counter()
        number = 0
        try:
            while True:
                payload = payload_of(queries[number % len(queries)], MODEL)
                task = asyncio.create_task(client.send(0, payload))
                sent.add(task)
                task.add_done_callback(sent.discard)
                number += 1
                await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        finally:
            for task in list(sent):
                task.cancel()

    def promise(self, milliseconds: float | None) -> None:
        """Promise a time to interactive requests, or nothing."""
        url = f"http://127.0.0.1:{self.running.port}/settings"
        body = json.dumps({"key": "interactive_p99_ms", "value": milliseconds}).encode()
        kind = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=30):  # nosec
            pass  # on loopback

    def counted(self) -> tuple[float, float]:
        """Return how many interactive requests the server has counted, and how many were late."""
        url = f"http://127.0.0.1:{self.running.port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as reply:  # on loopback  # nosec B310
            text = reply.read().decode()
        asked = re.findall(
            r'^embedding_queue_seconds_count{lane="interactive".*} (\S+)$', text, re.M
        )
        late = re.findall(r"^embedding_promise_missed_total{.*} (\S+)$", text, re.M)
        return sum(map(float, asked)), sum(map(float, late))


def _payload(texts: list[str]) -> bytes:
    """Write a whole request for many texts."""
    body = json.dumps({"model": MODEL, "input": texts, "encoding_format": "base64"}).encode()
    return (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    ) + body


def compared(
    both: dict[str, Any], singles: dict[str, Any], bulk: dict[str, Any]
) -> dict[str, float]:
    """Return what the lanes cost each other: ratios to what each is alone."""
    beside, alone = both["groups"], singles["groups"]["single"]
    return {
        "p50": round(beside["single"]["p50_ms"] / alone["p50_ms"], 2),
        "p99": round(beside["single"]["p99_ms"] / alone["p99_ms"], 2),
        "bulk_rate": round(beside["bulk"]["texts_s"] / bulk["groups"]["bulk"]["texts_s"], 2),
        "errors": sum(group["errors"] for group in beside.values()),
    }


def report(lanes: Lanes, promise_ms: float, minutes: float) -> tuple[str, dict[str, Any]]:
    """Measure everything; return a table and the ratios."""
    mixed = f"mixed:{lanes.clients}"
    singles, bulk = lanes.load(f"single:{lanes.clients}"), lanes.load("bulk:1")
    both = lanes.load(mixed)
    capacity = lanes.load(FLOODING)["groups"]["single"]["requests_s"]
    alone_s, flooded_s = lanes.bulk_s(), lanes.bulk_s(capacity / 2)
    lanes.promise(promise_ms)
    before = lanes.counted()
    promised = lanes.load(mixed, 60 * minutes)
    asked, late = (now - then for now, then in zip(lanes.counted(), before, strict=True))
    flooded_promised_s = lanes.bulk_s(capacity / 2)
    rows = [("singles alone", singles), ("bulk alone", bulk), ("both", both),
            (f"both, {promise_ms:.0f} ms promised", promised)]  # fmt: skip
    return table(rows), {
        "both": compared(both, singles, bulk),
        "promised": {
            **compared(promised, singles, bulk),
            "promise_ms": promise_ms,
            "minutes": minutes,
            "p99_ms": round(promised["groups"]["single"]["p99_ms"], 1),
            "asked": int(asked),
            "missed_share": round(late / max(asked, 1), 4),
        },
        "flood": {
            "singles_s": round(capacity / 2, 1),
            "bulk_alone_s": round(alone_s, 2),
            "slower": round(flooded_s / alone_s, 2),
            "slower_promised": round(flooded_promised_s / alone_s, 2),
        },
    }


def main() -> None:
    """Print a table, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the promise")
    parser.add_argument("--promise", type=float, default=100.0, help="milliseconds")
    parser.add_argument("--clients", type=int, default=8, help="of single texts")
    given = parser.parse_args()
    with started(SERVERS["ours"]) as running:
        lanes = Lanes(running, load(), given.seconds, given.clients)
        rows, ratios = report(lanes, given.promise, given.minutes)
    print(rows)
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
