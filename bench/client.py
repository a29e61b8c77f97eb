"""Closed-loop clients: each sends its next request when its last one is answered.

Runs as a process of its own (`python -m bench.client`, one JSON spec on stdin, one JSON result on
stdout), with requests built beforehand and replies only counted, so that it costs the server's
cores little. What it costs is in the result.
"""

import asyncio
import json
import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from bench.window import Window

Request = tuple[bytes, int, int]  # the whole message, its texts, their tokens


@dataclass
class Tally:
    """What the clients of one kind have seen within the measured time."""

    requests_s: float = 0.0
    texts_s: float = 0.0
    tokens_s: float = 0.0
    errors: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """Return how many requests were answered, with an error or without."""
        return len(self.latencies_ms) + self.errors


@dataclass
class Crowd:
    """Clients whose measured time is not over yet; the others go on loading the server for them."""

    begin: float
    window: Window
    measuring: int
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))

    def is_over(self, now: float) -> bool:
        """Return whether a client that has an answer now may stop measuring."""
        answers = [tally.answers for tally in self.tallies.values()]
        return self.window.over(now - self.begin, answers)


async def _client(
    spec: dict[str, Any], requests: list[Request], first: int, step: int, tally: Tally, crowd: Crowd
) -> None:
    """Send until everyone is done. Only whole requests count, over the time they took.

    So a client that got one slow answer has a rate too, not none or one a window.
    """
    reader, writer = await asyncio.open_connection(spec["host"], spec["port"])
    place, began, counts = first, None, [0, 0, 0]
    finished = False
    try:
        while crowd.measuring:
            payload, texts, tokens = requests[place % len(requests)]
            place += step
            started = time.perf_counter()
            writer.write(payload)
            status = await _read(reader)
            ended = time.perf_counter()
            if finished or started < crowd.begin:
                continue
            began = began if began is not None else started
            if status == 200:
                counts = [counts[0] + 1, counts[1] + texts, counts[2] + tokens]
                tally.latencies_ms.append((ended - started) * 1000)
            else:
                tally.errors += 1
            if crowd.is_over(ended):
                finished = True
                crowd.measuring -= 1
                tally.requests_s += counts[0] / (ended - began)
                tally.texts_s += counts[1] / (ended - began)
                tally.tokens_s += counts[2] / (ended - began)
    finally:
        if not finished:
            crowd.measuring -= 1
        writer.close()


async def _read(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    at = lower.index(b"content-length:") + 15
    await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
    return int(head.split(b" ", 2)[1])


def _requests(spec: dict[str, Any], batches: list[list[str]], tokens: list[int]) -> list[Request]:
    made = []
    for batch, count in zip(batches, tokens, strict=True):
        given = batch[0] if len(batch) == 1 else batch
        body = json.dumps(
            {"model": spec["model"], "input": given, "encoding_format": spec["format"]}
        ).encode()
        head = (
            f"POST {spec['path']} HTTP/1.1\r\nHost: {spec['host']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append((head.encode() + body, len(batch), count))
    return made


async def run(spec: dict[str, Any]) -> dict[str, object]:
    """Drive one server with every group of clients at once; return each group's figures."""
    clients = sum(group["clients"] for group in spec["groups"])
    crowd = Crowd(time.perf_counter() + spec["warm_s"], Window(**spec["window"]), clients)
    tasks = []
    for group in spec["groups"]:
        requests = _requests(spec, group["batches"], group["tokens"])
        for number in range(group["clients"]):
            tally = crowd.tallies[group["name"]]
            tasks.append(_client(spec, requests, number, group["clients"], tally, crowd))
    await asyncio.gather(*tasks)
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {name: _figures(tally) for name, tally in crowd.tallies.items()}
    return {"groups": figures, "client_cpu_s": used.ru_utime + used.ru_stime}


def _figures(tally: Tally) -> dict[str, float]:
    ordered = sorted(tally.latencies_ms)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    return {
        "requests": len(ordered),
        "requests_s": tally.requests_s,
        "texts_s": tally.texts_s,
        "tokens_s": tally.tokens_s,
        "p50_ms": percentile(0.5),
        "p95_ms": percentile(0.95),
        "p99_ms": percentile(0.99),
        "errors": tally.errors,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
