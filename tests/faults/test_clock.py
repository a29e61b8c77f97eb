"""The clock is put forward and back by hours under a running service.

Only the time of day jumps, as NTP makes it jump: the monotonic clock goes on, as the kernel's does.
"""

import email.utils
import json
import mmap
import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Service, until

HOUR = 3600
PASSWORD = "a long password"


# Stands before the C library's own; the offset is in a mapped file, so it jumps at once for all.
PRELOADED = """
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *offset;
__attribute__((constructor)) static void begin(void) {
  int file = open(getenv("CLOCK_OFFSET"), O_RDONLY);
  offset = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
  close(file);
}
int clock_gettime(clockid_t id, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, id, now);
  if (!failed && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
    now->tv_sec += *offset;
  return failed;
}
time_t time(time_t *to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return to ? (*to = now.tv_sec) : now.tv_sec;
}
int gettimeofday(struct timeval *to, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  to->tv_sec = now.tv_sec;
  to->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""


@pytest.fixture
def clock(start, held: Path, tmp_path: Path) -> Iterator[tuple[Service, Callable[[int], None]]]:
    """A service with a clock of its own, and what puts it so many seconds before the real one."""
    if not shutil.which("cc"):
        reason = "no C compiler; on Debian and Ubuntu: apt-get install gcc libc6-dev"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    library = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(tmp_path / "clock.so")]
    subprocess.run(library, input=PRELOADED, text=True, check=True)
    (tmp_path / "offset").write_bytes(bytes(8))
    with (tmp_path / "offset").open("r+b") as file, mmap.mmap(file.fileno(), 8) as offset:

        def put_forward(seconds: int) -> None:
            offset[:] = struct.pack("q", seconds)

        yield (
            start(
                LD_PRELOAD=str(tmp_path / "clock.so"), CLOCK_OFFSET=str(tmp_path / "offset"),
                TIMEOUT="5", REQUEST_DEADLINE="60", HELD=str(held), TOKEN_LIFETIME=str(2 * HOUR),
                AUTH_ENABLED="true", JWT_SECRET_KEY="k" * 40, ADMIN_PASSWORD=PASSWORD,
            ),
            put_forward,
        )  # fmt: skip


@pytest.mark.fault("Process and machine")
def test_a_clock_that_jumps_passes_no_deadline_and_ends_no_worker(clock, held) -> None:
    """The clock jumps by hours -> no deadline passes, and no worker ends."""
    service, put_forward = clock
    workers = service.workers()
    token = signed_in(service)

    def embed(*texts: str) -> int:
        body = {"texts": list(texts)}
        return service.ask("/embed", body, Authorization=f"Bearer {token}")[0]

    statuses: list[int] = []
    for seconds in (HOUR, -HOUR):  # a token lives for two hours, so it stays good at first
        held.touch()
        under_way = threading.Thread(target=lambda: statuses.append(embed("held")))
        under_way.start()
        until(lambda: b"embedding_requests_in_flight 2.0" in metrics_of(service, token))
        put_forward(seconds)
        assert abs(now(service) - time.time() - seconds) < 60  # it has seen it
        held.unlink()
        under_way.join()
        assert embed("a") == (200 if seconds > 0 else 401)  # issued in an hour: not valid yet
    assert statuses == [200, 200]
    time.sleep(6)  # longer than the worker's heartbeat may take
    assert service.workers() == workers
    put_forward(3 * HOUR)
    until(lambda: embed("a") == 401)  # expired, as the new clock has it
    token = signed_in(service)
    assert embed("a") == 200


def signed_in(service: Service) -> str:
    """Sign the admin in; return the token."""
    reply = service.ask("/token", {"username": "admin", "password": PASSWORD})
    return str(json.loads(reply[2])["access_token"])


def metrics_of(service: Service, token: str) -> bytes:
    """Read the metrics."""
    return service.ask("/metrics", Authorization=f"Bearer {token}")[2]


def now(service: Service) -> float:
    """Return the time of day as the service has it, from the head of a reply."""
    head = service.ask("/health/live")[1]
    return email.utils.parsedate_to_datetime(head["Date"]).timestamp()
