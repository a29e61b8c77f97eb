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

Request = tuple[bytes, int, int]  # the whole message, its texts, their tokens


@dataclass
class Tally:
    """What the clients of one kind have seen within the measured time."""

    texts: int = 0
    tokens: int = 0
    errors: int = 0
    latencies_ms: list[float] = field(default_factory=list)


async def _client(
    spec: dict[str, Any], requests: list[Request], first: int, step: int, tally: Tally
) -> None:
    reader, writer = await asyncio.open_connection(spec["host"], spec["port"])
    place = first
    try:
        while True:
            payload, texts, tokens = requests[place % len(requests)]
            place += step
            started = time.perf_counter()
            writer.write(payload)
            status = await _read(reader)
            ended = time.perf_counter()
            if not spec["begin"] <= ended < spec["end"]:
                if ended >= spec["end"]:
                    return
                continue
            if status == 200:
                tally.texts += texts
                tally.tokens += tokens
                tally.latencies_ms.append((ended - started) * 1000)
            else:
                tally.errors += 1
    finally:
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
    started = time.perf_counter()
    spec["begin"] = started + spec["warm_s"]
    spec["end"] = spec["begin"] + spec["seconds"]
    tallies: dict[str, Tally] = defaultdict(Tally)
    tasks = []
    for group in spec["groups"]:
        requests = _requests(spec, group["batches"], group["tokens"])
        for number in range(group["clients"]):
            tally = tallies[group["name"]]
            tasks.append(_client(spec, requests, number, group["clients"], tally))
    await asyncio.gather(*tasks)
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {name: _figures(tally, spec["seconds"]) for name, tally in tallies.items()}
    return {"groups": figures, "client_cpu_s": used.ru_utime + used.ru_stime}


def _figures(tally: Tally, seconds: float) -> dict[str, float]:
    ordered = sorted(tally.latencies_ms)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    return {
        "requests_s": len(ordered) / seconds,
        "texts_s": tally.texts / seconds,
        "tokens_s": tally.tokens / seconds,
        "p50_ms": percentile(0.5),
        "p95_ms": percentile(0.95),
        "p99_ms": percentile(0.99),
        "errors": tally.errors,
    }


if __name__ == "__main__":
    json.dump(asyncio.run(run(json.load(sys.stdin))), sys.stdout)
