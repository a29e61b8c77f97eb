"""The base of every server: its own folder, a free port, and ways to stop, freeze and kill it.

What is particular to a server is in `postgres.py`, `mariadb.py`, `redis.py` and `nginx.py`.
"""

import atexit
import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Self

START_TIMEOUT_S = 60.0  # a loaded 2-core machine; idle, each is up within a second
STOP_TIMEOUT_S = 20.0


class Missing(RuntimeError):
    """The server is not installed; the message names the command that installs it."""


def free_port() -> int:
    """Return a free loopback port, outside the range that outgoing connections take theirs from.

    A killed server can therefore start again on the same port.
    """
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free loopback port between 20000 and 32000")


def children(pid: int) -> list[int]:
    """Every living descendant of a process, parents before children."""
    try:  # processes and their threads end while they are looked at
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    found: list[int] = []
    for task in tasks:
        try:
            listed = Path(f"/proc/{pid}/task/{task}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        direct = [int(child) for child in listed.split()]
        found += itertools.chain(direct, *(children(child) for child in direct))
    return found


def workers_of(master: int) -> list[int]:
    """The living workers of gunicorn's master: its children, not what they started themselves."""
    try:
        listed = Path(f"/proc/{master}/task/{master}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in listed.split()]


class Server:
    """A real server. Use it as a context manager, or call `start` and `stop`."""

    program: ClassVar[str]
    install: ClassVar[str]
    runs_as: ClassVar[str | None] = None  # the user to become when the tests run as root

    def __init__(self) -> None:
        self.require()
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.program}-"))
        self.folder.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None
        self._own(self.folder)
        atexit.register(self.stop)

    @classmethod
    def require(cls) -> None:
        """Raise `Missing` if this machine cannot start the server."""
        if cls.find(cls.program) is None:
            raise Missing(f"{cls.program} is not installed; run: {cls.install}")

    @classmethod
    def find(cls, program: str) -> str | None:
        """The path of one of the server's programs."""
        return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

    # ---- what each server defines

    def command(self) -> list[str]:
        """The command line that serves in the foreground."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it answers; by default, whether the port is open."""
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    # ---- start and stop

    def start(self) -> Self:
        """Start it and wait until it answers."""
        log = (self.folder / "server.log").open("ab")
        with log:
            self.process = self._spawn(self.command(), log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.program} did not start:\n{self.log()[-3000:]}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.stop)

    def halt(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it in good order but keep its data."""
        if self.process is None or self.process.poll() is not None:
            return
        self.resume()
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill -9 the server and every process of its own, and wait until all are gone."""
        pids = self._pids()
        self._signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.01)

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a frozen server."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop it in good order and start it on the same port and data."""
        self.halt()
        self.start()

    def log(self) -> str:
        """What the server wrote so far."""
        return (self.folder / "server.log").read_text(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # ---- helpers

    def run(self, *command: str) -> str:
        """Run one of the server's tools as the server's user and return what it printed."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=120, **self._user()
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _spawn(self, command: list[str], log: BinaryIO) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at the test run is not theirs
            **self._user(),
        )

    def _user(self) -> dict[str, Any]:
        """The options that make a child run as `runs_as`; nothing if we are not root."""
        if os.getuid() != 0 or self.runs_as is None:
            return {}
        user = pwd.getpwnam(self.runs_as)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def _own(self, path: Path) -> None:
        if os.getuid() == 0 and self.runs_as is not None:
            user = pwd.getpwnam(self.runs_as)
            os.chown(path, user.pw_uid, user.pw_gid)

    def _pids(self) -> list[int]:
        if self.process is None or self.process.poll() is not None:
            return []
        return [self.process.pid, *children(self.process.pid)]

    def _signal(self, which: signal.Signals) -> None:
        for pid in self._pids():
            try:
                os.kill(pid, which)
            except ProcessLookupError:
                continue


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
