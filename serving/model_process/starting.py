"""The start of a model process by whoever needs it first, and the record of failed starts."""

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from errors import Unavailable
from server import peers
from serving.model_process import folder as run_folder
from serving.model_process.frames import Connection, Head, Malformed, raise_error

log = logging.getLogger("model_process")

START_S = 60.0  # how long a process may take to listen: the imports, on a busy machine
HELLO_S = 5.0  # how long a worker that comes waits for a process that is stopped
LONGEST_PAUSE_S = 60.0  # between two starts that lead to no loaded model
AWAY = "the model process is away for a moment; send this again"
ENDS = "the service is stopping; send this again"
_started: list[subprocess.Popen[bytes]] = []  # by this worker, whoever uses them now


class TooSoon(Unavailable):
    """The process was started a moment ago, and ended before it had loaded a model."""

    def __init__(self, failed: int, wait_s: float) -> None:
        super().__init__(
            f"the model process ended {failed} times before it had loaded a model (see the log and "
            f"the kernel's); it is started again in {wait_s:.0f} s",
            short=AWAY,
            retry_after_s=max(1.0, wait_s),
        )
        self.wait_s = wait_s


class Replaced(Unavailable):
    """The service's code is now of another version than this worker."""


class Starter:
    """Finds the process of one name in a run folder, or starts it."""

    def __init__(
        self, folder: Callable[[], Path], name: str, environment: Mapping[str, str],
        options: tuple[str, ...], closed: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Nothing is started once `closed` says that the service stops."""
        self._folder, self._name, self._environment = folder, name, environment
        self._options, self._closed = options, closed
        self._found: tuple[Path, int] | None = None  # the socket and its inode

    def open(self) -> Connection:
        """Return a new connection. Raises OSError, or Unavailable for another user's process."""
        folder = self._folder()
        run_folder.check(folder)
        made = peers.connected(run_folder.socket_path(folder, self._name))
        if not peers.is_own_user(made):
            made.close()
            raise Unavailable("the model process is of another user, so it is not used")
        return Connection(made)

    def find_or_start(self) -> tuple[Connection, int]:
        """Return a connection to the process and its pid. Raises Unavailable or OSError."""
        folder = self._folder()
        run_folder.make_again(folder)
        found = self._find()
        if found is None:
            path = run_folder.socket_path(folder, self._name)
            with run_folder.locked(path.with_suffix(".lock"), START_S):  # another may just do it
                found = self._find(or_kill=True) or self._start(folder, path)
        path = run_folder.socket_path(folder, self._name)
        self._found = path, path.stat().st_ino
        return found

    def is_found(self) -> bool:
        """Whether the socket that was found last is still there for others."""
        if self._found is None:
            return False
        path, inode = self._found
        try:
            return path.stat().st_ino == inode
        except OSError:
            return False

    def _find(self, *, or_kill: bool = False) -> tuple[Connection, int] | None:
        """Return a connection to the process that runs, after its hello; None if there is none.

        One that does not answer may be killed. Raises Unavailable for one that refuses this worker.
        """
        began, pid = time.monotonic(), None

        def idle() -> None:
            if self._closed():
                raise Unavailable(ENDS)
            if time.monotonic() - began > (HELLO_S if peers.is_stopped(pid) else START_S):
                raise TimeoutError("no hello")

        connection: Connection | None = None
        try:
            connection = self.open()
            pid = connection.peer
            head: Head = {"version": run_folder.code_version()}
            reply, _ = connection.call("hello", head, idle=idle)
            raise_error(reply)
            return connection, int(reply["pid"])
        except (OSError, Malformed) as exc:
            if connection is not None:
                connection.close()
            if or_kill and isinstance(exc, TimeoutError) and pid is not None:
                log.error("the model process %s (%s) does not answer: killed", self._name, pid)
                peers.kill(pid)
            return None
        except BaseException:
            if connection is not None:
                connection.close()
            raise

    def _start(self, folder: Path, path: Path) -> tuple[Connection, int]:
        """Start the process, and return once it answers."""
        if self._closed():
            raise Unavailable(ENDS)
        _note_start(run_folder.starts_of(path))
        path.unlink(missing_ok=True)  # a killed one's
        command = [sys.executable, "-P", "-m", "serving.model_process", str(folder), self._name]
        # In a session of its own, so that Ctrl-C reaches the workers only.
        started = subprocess.Popen(
            [*command, run_folder.code_version(), *self._options], env=dict(self._environment),
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        _started.append(started)
        log.info("started the model process %s (%d)", self._name, started.pid)
        end = time.monotonic() + START_S
        try:
            while time.monotonic() < end and started.poll() is None:
                if found := self._find():
                    return found
                time.sleep(0.02)
        except Unavailable:
            started.kill()
            raise
        started.kill()
        code = started.wait()
        if code == run_folder.CHANGED:
            why = "the service's code is now of another version than this worker"
            raise Replaced(why, short=AWAY)
        raise Unavailable(f"the model process could not be started (exit code {code})", short=AWAY)


def reap() -> None:
    """Take note of the processes that ended, so that none stays as a zombie."""
    _started[:] = [each for each in _started if each.poll() is None]


def _note_start(path: Path) -> None:
    """Count a start. Raises TooSoon after one that led to no loaded model."""
    failed, last = 0, 0.0
    with contextlib.suppress(OSError, ValueError):
        count, at = path.read_text(encoding="ascii").split()
        failed, last = int(count), float(at)
    pause_s = min(2.0 ** (failed - 1), LONGEST_PAUSE_S) if failed else 0.0
    wait_s = last + pause_s - time.monotonic()
    if 0 < wait_s <= pause_s:
        raise TooSoon(failed, wait_s)
    with contextlib.suppress(OSError):  # a full disk: whoever waits for the process pauses too
        path.write_text(f"{failed + 1} {time.monotonic()}", encoding="ascii")
