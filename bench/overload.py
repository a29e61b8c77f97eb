"""Measures what a service can do, offers it twice that, and says how it bears it.

python -m bench.overload                 our service, 60 seconds of twice its capacity
python -m bench.overload --seconds 10 --factor 3 --port 8001     one that runs already

Ends with 1 if something was lost or wrong, or if `/health` or a refusal took over `--limit-ms`.

Requests come at their times whether or not earlier ones are answered (an open loop), as from many
callers who know nothing of each other. `/health` is asked all the while, each time on a connection
of its own, as probes do.
"""

import argparse
import asyncio
import base64
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field

import numpy as np

from bench.corpus import OUT
from bench.servers import MODEL, ROOT, SERVERS, started

CLIENTS = 32  # enough to keep the model busy while its capacity is measured
HEALTH_EVERY_S = 0.02
TEXTS, WORDS = 128, 45  # texts of about 60 tokens
WAIT_S = 60.0  # for the last answers


@dataclass(frozen=True)
class Answer:
    """What came back for one request; status 0 is nothing at all."""

    text: int
    status: int
    took_ms: float
    retry_after: str | None = None
    body: bytes = b""


@dataclass
class Report:
    """What came of the load. Times are the client's, in milliseconds."""

    capacity: float = 0.0  # requests a second
    offered: float = 0.0  # requests a second
    statuses: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    wrong: int = 0  # accepted, but with another vector than the text's own
    without_retry_after: int = 0
    accepted_p50: float = 0.0
    accepted_p99: float = 0.0
    refused_p50: float = 0.0
    refused_p99: float = 0.0
    refused_max: float = 0.0
    health_failed: int = 0
    health_p50: float = 0.0
    health_p99: float = 0.0
    health_max: float = 0.0
    rhythm_p99: float = 0.0  # how late the client itself was: none of that is the service's

    def problems(self, limit_ms: float) -> list[str]:
        """Return what was not as it must be: nothing lost or wrong, and nobody kept waiting."""
        kept = {
            "lost requests": self.lost,
            "wrong vectors": self.wrong,
            "refusals without Retry-After": self.without_retry_after,
            "answers other than 200 and 429": sum(self.statuses.values())
            - sum(self.statuses.get(status, 0) for status in ("200", "429")),
            "failed /health": self.health_failed,
            "nothing refused": int("429" not in self.statuses),
            "nothing accepted": int("200" not in self.statuses),
        }
        slow = {"/health (p99)": self.health_p99, "a refusal (longest)": self.refused_max}
        return [f"{what}: {count}" for what, count in kept.items() if count] + [
            f"{what} took {ms} ms, over {limit_ms}" for what, ms in slow.items() if ms > limit_ms
        ]


class Client:
    """Sends requests on connections that it keeps open, a new one where none is free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, text: int, payload: bytes, *, fresh: bool = False) -> Answer:
        """Send one request; `fresh` opens a connection for it alone."""
        began = time.perf_counter()
        try:
            if self._idle and not fresh:
                reader, writer = self._idle.pop()
            else:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(payload)
            status, headers, body = await _read(reader)
        except (OSError, EOFError):
            return Answer(text, 0, (time.perf_counter() - began) * 1000)
        took = (time.perf_counter() - began) * 1000
        if fresh or b"connection: close" in headers:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return Answer(text, status, took, _header(headers, b"retry-after: "), body)

    def close(self) -> None:
        """Close what is open."""
        for _, writer in self._idle:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = _header(head, b"content-length: ")
    return int(head.split(b" ", 2)[1]), head, await reader.readexactly(int(length or 0))


def _header(head: bytes, name: bytes) -> str | None:
    at = head.find(b"\r\n" + name)
    if at < 0:
        return None
    at += 2 + len(name)
    return head[at : head.index(b"\r\n", at)].decode()


def payload_of(text: str, model: str) -> bytes:
    """Write a whole request for one text."""
    given = {"model": model, "input": text, "encoding_format": "base64"}
    body = json.dumps(given).encode()
    return (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    ) + body


HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def closed(
    client: Client, payloads: list[bytes], seconds: float
) -> tuple[float, list[Answer]]:
    """Keep CLIENTS requests under way; return requests a second and the answers."""
    answers: list[Answer] = []
    end = time.perf_counter() + seconds

    async def one(first: int) -> None:
        place = first
        while time.perf_counter() < end:
            text = place % len(payloads)
            answers.append(await client.send(text, payloads[text]))
            place += CLIENTS

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(CLIENTS)))
    return len(answers) / (time.perf_counter() - began), answers


async def paced(
    every_s: float, seconds: float, send: Callable[[int], Awaitable[Answer]]
) -> tuple[list[Answer], list[float]]:
    """Send at fixed times whatever becomes of the answers; also return how late each was, in ms."""
    tasks, late = [], []
    began = time.perf_counter()
    for number in range(int(seconds / every_s)):
        due = began + number * every_s
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        late.append((time.perf_counter() - due) * 1000)
        tasks.append(asyncio.ensure_future(asyncio.wait_for(send(number), WAIT_S)))
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return [a if isinstance(a, Answer) else Answer(-1, 0, WAIT_S * 1000) for a in done], late


async def run(port: int, model: str, texts: list[str], seconds: float, factor: float) -> Report:
    """Learn each text's vector and the capacity, then offer `factor` times as much."""
    client, payloads = Client(port), [payload_of(text, model) for text in texts]
    own = [vector_of((await client.send(i, p)).body) for i, p in enumerate(payloads)]
    capacity, _ = await closed(client, payloads, max(3.0, seconds / 6))
    rate = capacity * factor

    def embed(number: int) -> Awaitable[Answer]:
        text = number % len(payloads)
        return client.send(text, payloads[text])

    def probe(number: int) -> Awaitable[Answer]:
        return client.send(number, HEALTH, fresh=True)

    (answers, late), (probes, _) = await asyncio.gather(
        paced(1 / rate, seconds, embed), paced(HEALTH_EVERY_S, seconds, probe)
    )
    client.close()
    return judge(capacity, rate, answers, probes, late, own)


def judge(
    capacity: float,
    rate: float,
    answers: list[Answer],
    probes: list[Answer],
    late: list[float],
    own: list[np.ndarray],
) -> Report:
    """Sum up."""
    accepted = [a for a in answers if a.status == 200]
    refused = [a for a in answers if a.status == 429]
    return Report(
        capacity=round(capacity, 1),
        offered=round(rate, 1),
        statuses={str(k): v for k, v in sorted(Counter(a.status for a in answers).items())},
        lost=sum(a.status == 0 for a in answers),
        wrong=sum(not alike(vector_of(a.body), own[a.text]) for a in accepted),
        without_retry_after=sum(not (a.retry_after or "").isdigit() for a in refused),
        accepted_p50=percentile(accepted, 0.5),
        accepted_p99=percentile(accepted, 0.99),
        refused_p50=percentile(refused, 0.5),
        refused_p99=percentile(refused, 0.99),
        refused_max=percentile(refused, 1),
        health_failed=sum(a.status != 200 for a in probes),
        health_p50=percentile(probes, 0.5),
        health_p99=percentile(probes, 0.99),
        health_max=percentile(probes, 1),
        rhythm_p99=round(float(np.percentile(late, 99)), 1),
    )


def percentile(answers: list[Answer], share: float) -> float:
    """Return a percentile of the times, in milliseconds."""
    times = [answer.took_ms for answer in answers]
    return round(float(np.percentile(times, share * 100)), 1) if times else 0.0


def vector_of(body: bytes) -> np.ndarray:
    """Return the one vector of a reply, (d,) float32."""
    return np.frombuffer(base64.b64decode(json.loads(body)["data"][0]["embedding"]), "<f4")


def alike(vector: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether two vectors are of one text: passes in bfloat16 differ a little."""
    return vector.shape == other.shape and float(vector @ other) > 0.999


def made_up_texts() -> list[str]:
    """Return different texts of words from the documentation."""
    words = " ".join(file.read_text() for file in sorted((ROOT / "docs").glob("*.md"))).split()
    rng = random.Random(1)
    return [" ".join(rng.choices(words, k=WORDS)) for _ in range(TEXTS)]


def main() -> None:
    """Overload a service that runs, or our own with its defaults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--factor", type=float, default=2)
    parser.add_argument("--limit-ms", type=float, default=50)
    parser.add_argument("--port", type=int, help="of a service that runs already")
    parser.add_argument("--model", default=MODEL)
    given = parser.parse_args()
    if given.port:
        texts = made_up_texts()
        report = asyncio.run(run(given.port, given.model, texts, given.seconds, given.factor))
        print(json.dumps(asdict(report), indent=2))
        if problems := report.problems(given.limit_ms):
            sys.exit("\n".join(problems))
        return
    OUT.mkdir(exist_ok=True)
    with started(SERVERS["ours"]) as running:
        command = [sys.executable, "-m", "bench.overload", *sys.argv[1:]]
        sys.exit(subprocess.run([*command, "--port", str(running.port)], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
