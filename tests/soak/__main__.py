"""Loads a real service for a long time while things break, and prints what grew.

python -m tests.soak --minutes 30

While the load runs (`load.py`), connections are broken off, clients send slowly, Redis freezes and
the model's device fails; a worker is killed at the start and at the end. After a warm-up, a third
of the time, in which everything happens at least once, memory, file descriptors, threads and metric
series must stay as they are: the median of the last third of the samples is held against that of
the first. Connections are not among the descriptors, since they come and go with the load; those of
clients must all be gone when it rests.
"""

import argparse
import contextlib
import os
import signal
import socket
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import free_port, running
from tests.servers.process import children
from tests.servers.redis import Redis
from tests.soak.load import MODEL, Load, until

ALLOWED = 0.02  # growth
# What comes and goes, so that even the least of some samples may or may not hold it: a thread asks
# for Redis while that is away, one measures the store some seconds after a write; the pools keep up
# to three connections to a file of SQLite, each with two descriptors.
COME_AND_GO = {"threads": 2, "files": 4}
SAMPLE_S = 1.0
ENV = {
    "HOST": "127.0.0.1", "EMBEDDING_MODEL": MODEL, "SUPPORTED_MODELS": MODEL, "DEVICE": "cpu",
    "THREADS": "16", "CACHE": "redis", "CACHE_TTL": "5", "READ_TIMEOUT": "3",
    "REQUESTS_PER_MINUTE_ANONYMOUS": "0", "LOG_LEVEL": "WARNING",
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What the service holds at one moment."""

    memory_mb: float
    files: float
    threads: float
    series: float


class Soak:
    """One service under load, its faults, and the samples taken of it."""

    def __init__(self, port: int, master: int, redis: Redis) -> None:
        self.load, self.master, self.redis = Load(port), master, redis
        self.faults: dict[str, int] = {}
        self._stop = threading.Event()
        self._breaking = threading.Thread(target=self._break_things)

    def worker(self) -> int | None:
        """Return the worker's pid, if there is one just now."""
        return next(iter(children(self.master)), None)

    def healthy(self) -> bool:
        """Whether /health answers 200."""
        try:
            return self.load.ask("/health", timeout=3)[0] == 200
        except (OSError, ValueError):
            return False

    def sample(self) -> Sample:
        """Look at the worker now."""
        place = Path(f"/proc/{self.worker()}")
        fields = dict(
            line.split(":", 1)
            for line in (place / "status").read_text().splitlines()
            if ":" in line
        )
        return Sample(
            int(fields["VmRSS"].split()[0]) / 1024,
            len(self._held() - self._connections()),
            int(fields["Threads"]),
            self._series(),
        )

    def _held(self) -> set[str]:
        """Return what the worker's descriptors stand for; a connection as `socket:[inode]`."""
        held = set()
        for number in Path(f"/proc/{self.worker()}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                target = os.readlink(number)
                held.add(target if target.startswith("socket:") else str(number))
        return held

    def _connections(self, *, to_redis: bool = True) -> set[str]:
        """Return the connections of clients, and those to Redis: they come and go with the load.

        proc(5), net/tcp: local and remote address, state (0A listens), and the inode at the tenth.
        """
        found = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, *rest = line.split()
            of_client = int(local.split(":")[1], 16) == self.load.port and state != "0A"
            if of_client or (to_redis and int(remote.split(":")[1], 16) == self.redis.port):
                found.add(f"socket:[{rest[5]}]")
        return found

    def rest(self) -> bool:
        """Pause the load; return whether the worker then closes every connection."""
        self.load.paused.set()
        gone = until(lambda: not self._held() & self._connections(to_redis=False), 30)
        self.load.paused.clear()
        return gone

    def _series(self) -> int:
        with socket.create_connection(("127.0.0.1", self.load.port), timeout=20) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            text = b"".join(iter(lambda: sock.recv(65536), b""))
        return sum(line[:1] not in (b"#", b"") for line in text.splitlines())

    # -- faults ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the load and the faults."""
        self.load.learn()
        self.load.start()
        self._breaking.start()

    def stop(self) -> None:
        """End both."""
        self._stop.set()
        self._breaking.join()
        self.load.stop()

    def kill_worker(self) -> bool:
        """Kill the worker; return whether another serves within two minutes."""
        worker = self.worker()
        self.load.shaky.set()
        os.kill(worker or 0, signal.SIGKILL)
        self._count("workers killed")
        back = until(lambda: self.worker() != worker and self.healthy(), 120)
        self.load.shaky.clear()
        return back

    def fill_threads(self) -> None:
        """Ask so much at once that the worker has made all the threads it will ever have."""
        body = {"texts": self.load.texts}
        crowd = [
            threading.Thread(target=self.load.ask, args=("/batch-embed", body)) for _ in range(32)
        ]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        # Those above are refused before the last threads are needed; half a request holds one.
        with contextlib.ExitStack() as held:
            for _ in range(2 * int(ENV["THREADS"])):
                sock = held.enter_context(socket.create_connection(("127.0.0.1", self.load.port)))
                sock.sendall(b"GET /health HTTP/1.1\r\n")
            time.sleep(1)

    def _count(self, what: str) -> None:
        self.faults[what] = self.faults.get(what, 0) + 1

    def _break_things(self) -> None:
        while not self._stop.wait(1):
            for fault in (self._abort, self._drip, self._freeze_redis):
                if self.load.paused.is_set():
                    break
                fault()
                if self._stop.wait(1):
                    break

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", self.load.port), timeout=5)
        except OSError:
            return None  # the worker is being killed

    def _abort(self) -> None:
        """Break connections off in the middle of a request, and before its answer."""
        body = b'{"texts": ["gone before it is answered"]}'
        whole = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        whole += b"Content-Length: %d\r\n\r\n" % len(body) + body
        for i in range(10):
            if sock := self._connect():
                with sock:
                    sock.sendall(whole if i % 2 else whole[: 20 * i])
                self._count("connections broken off")

    def _drip(self) -> None:
        """Send headers a byte at a time, until cut off."""
        if sock := self._connect():
            with sock:
                sock.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
                try:
                    while not self._stop.wait(0.2):
                        sock.sendall(b"a")
                except OSError:
                    self._count("slow clients cut off")

    def _freeze_redis(self) -> None:
        self.redis.pause()
        self._stop.wait(2)
        self.redis.resume()
        self._count("times Redis froze")


def run(soak: Soak, seconds: float) -> tuple[list[Sample], list[str]]:
    """Load, break, sample; return the samples and what was not as it must be."""
    problems: list[str] = []
    soak.start()
    began = time.monotonic()
    try:
        if not soak.kill_worker():
            problems.append("no worker came back after the first kill")
        soak.fill_threads()
        while time.monotonic() < began + seconds / 3:
            time.sleep(0.2)
        samples, shown = [], time.monotonic()
        while time.monotonic() < began + seconds:
            samples.append(soak.sample())
            if time.monotonic() - shown >= min(60, seconds / 8):
                shown = time.monotonic()
                print(progress(shown - began, samples[-1], soak.load), flush=True)
            time.sleep(SAMPLE_S)
        if not soak.rest():
            problems.append("connections of clients that are gone are left")
        if not soak.kill_worker():
            problems.append("no worker came back after the last kill")
    finally:
        soak.redis.resume()
        soak.stop()
    return samples, problems + soak.load.wrong


def progress(at_s: float, sample: Sample, load: Load) -> str:
    """Return one line for whoever watches."""
    return (
        f"{at_s:6.0f} s  {load.done.total():7} right  {len(load.wrong)} wrong  "
        f"{load.refused:5} asked to come back  {sample.memory_mb:7.1f} MB  {sample.files:.0f} files"
        f"  {sample.threads:.0f} threads  {sample.series:.0f} series"
    )


def growth(samples: list[Sample]) -> list[tuple[str, float, float, float]]:
    """Return name, first, last and relative growth of everything that is sampled."""
    third = max(1, len(samples) // 3)
    rows = []
    for name in Sample.__dataclass_fields__:
        typical = min if name in COME_AND_GO else statistics.median
        first = typical(getattr(s, name) for s in samples[:third])
        last = typical(getattr(s, name) for s in samples[-third:])
        rows.append((name, first, last, last / first - 1))
    return rows


def too_much(rows: list[tuple[str, float, float, float]]) -> list[str]:
    """Return what grew by more than is allowed."""
    return [
        f"{name} grew by {by:.1%}"
        for name, first, last, by in rows
        if by > ALLOWED and last - first > COME_AND_GO.get(name, 0)
    ]


def main() -> None:
    """Run it and end with 1 if anything grew or was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    seconds = parser.parse_args().minutes * 60
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "tests.soak.service:app"]
    with Redis() as redis:
        env = {**ENV, "PORT": str(port), "REDIS_URL": redis.url()}
        with running(command, port, env, cold=True) as server:
            soak = Soak(port, server.pid, redis)
            samples, problems = run(soak, seconds)
    rows = growth(samples)
    problems += too_much(rows)
    print("\n| what | first third | last third | growth |\n|---|---|---|---|")
    for name, first, last, by in rows:
        print(f"| {name} | {first:.1f} | {last:.1f} | {by:+.2%} |")
    print(f"\nright answers: {dict(soak.load.done)}\nfaults: {soak.faults}")
    print(f"asked to come back: {soak.load.refused}; broken while killed: {soak.load.broken}")
    if problems:
        sys.exit("\n".join(problems[:20]))


if __name__ == "__main__":
    main()
