"""A worker's way to the model process of a device: starts it, calls it, and sees when it is away.

Whoever needs the process first starts it, under the lock of a file. A thread of each worker watches
it: a closed connection means that it ended, the state of its process that it was stopped. After its
end that thread has another started, and the worker's models loaded again.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from circuit_breaker import backoff
from embedders.base import Gone
from errors import ClientGone, DeadlineExceeded, Unavailable
from serving.model_process import folder as run_folder
from serving.model_process.frames import (
    TICK_S,
    Connection,
    Head,
    Malformed,
    Part,
    Parts,
    is_own_user,
    raise_error,
)

log = logging.getLogger("model_process")

START_S = 60.0  # how long a process may take to listen: the imports, on a busy machine
STATUS_EVERY_S = 1.0
SILENT_S = 5.0  # a process that answers so late counts as stopped where there is no /proc
STOPPED_S = 30.0  # a process that nobody lets go on is replaced
LONGEST_PAUSE_S = 60.0  # between two starts that lead to no loaded model
PATIENCE_S = 5.0  # how long a load waits for the next start rather than fail
PAUSES_S = (0.05, 0.5, 1.0, 2.0, 5.0, 10.0)  # between two tries to have a process
LATE_S = 0.25  # how much longer than its deadline a request waits for the process to say so
MOST_FREE = 32  # connections that are kept for the next calls
UNUSED_ROUNDS = 10  # of the watch without a model, after which the process is let go
AWAY = "the model process is away for a moment; send this again"
ENDS = "the service is stopping; send this again"
_started: list[subprocess.Popen[bytes]] = []  # by this worker, whoever uses them now
BROKEN = (OSError, Malformed)


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


class Client(Protocol):
    """What is loaded in a model process, and loaded again in the next one."""

    def restore(self) -> None:
        """Load the model if its lease has ended. Never raises."""

    def show(self, status: Mapping[str, Head] | None) -> None:
        """Take what the process says of its models; None: it is away."""


class ModelProcess:
    """One model process as one worker sees it. Safe from many threads."""

    def __init__(
        self, folder: Callable[[], Path], name: str, environment: Mapping[str, str], *options: str
    ) -> None:
        """Take the run folder, the process's name in it, and how to start it."""
        self.name = name
        self._folder, self._environment, self._options = folder, environment, options
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._free: list[Connection] = []
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._watching = False
        self._control: Connection | None = None
        self.pid: int | None = None
        self.changed: str | None = None  # why this worker cannot have a process any more
        self._stopped_since: float | None = None
        self._closed = False
        self.away: str | None = AWAY  # why calls cannot be made now

    def call(
        self, operation: str, head: Head, *parts: Part,
        deadline: float | None = None, gone: Gone | None = None,
        ended: Callable[[], bool] | None = None,
    ) -> tuple[Head, Parts]:  # fmt: skip
        """Return the reply of the process. A call never waits for a process that is away.

        Raises Unavailable, DeadlineExceeded, ClientGone, or the error that the process replies.
        """

        def idle() -> None:
            if self.away is not None or (ended is not None and ended()):
                raise Unavailable(self.away or ENDS, retry_after_s=1)
            if deadline is not None and time.monotonic() > deadline + LATE_S:
                raise DeadlineExceeded("the request's deadline passed while it was encoded")
            if gone is not None and gone():
                raise ClientGone("the client closed the connection")

        if self.away is not None:
            raise Unavailable(self.away, retry_after_s=1)
        with self._connection() as connection:
            reply, rows = connection.call(operation, head, *parts, idle=idle)
        raise_error(reply)
        return reply, rows

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Lend a connection, and close it if its call does not end well."""
        with self._lock:
            connection = self._free.pop() if self._free else None
        try:
            connection = connection or self._open()
            yield connection
        except BaseException as exc:
            _close(connection)
            if isinstance(exc, BROKEN):
                raise self._broken(exc) from None
            raise
        with self._lock:
            keep = self._control is not None and len(self._free) < MOST_FREE
            if keep:
                self._free.append(connection)
        if not keep:
            connection.close()

    def _broken(self, exc: BaseException) -> Unavailable:
        log.debug("a call to the model process %s failed (%s)", self.name, exc)
        return Unavailable(AWAY, retry_after_s=1)

    # -- models ----------------------------------------------------------------------------------

    def load(self, head: Head) -> tuple[Connection, Head, Parts]:
        """Load a model, in a process that is started if need be.

        Returns the connection that leases the model until it is closed, and the reply. Raises
        Unavailable or the error that the process replies.
        """

        def idle() -> None:
            if self._closed:
                raise Unavailable(ENDS)
            self._look_at_state()

        for last in (False, False, True):  # the process may have been about to end
            connection: Connection | None = None
            try:
                self._connect()
                connection = self._open()
                reply, parts = connection.call("load", head, idle=idle)
                raise_error(reply)
                return connection, reply, parts
            except TooSoon as exc:
                if last or exc.wait_s > PATIENCE_S:
                    raise
                time.sleep(exc.wait_s)
            except BaseException as exc:
                _close(connection)
                if not isinstance(exc, BROKEN):
                    raise
                if last:
                    raise self._broken(exc) from None
        raise AssertionError

    def keep(self, client: Client) -> None:
        """Watch the process for a client from now on, until `forget`."""
        with self._lock:
            self._clients.add(client)
            if self._watching:
                return
            self._watching = True
        threading.Thread(target=self._watch, name="model-process", daemon=True).start()

    def forget(self, client: Client) -> None:
        """Restore a client no more."""
        with self._lock:
            self._clients.discard(client)

    def close(self) -> None:
        """Close every connection. The process ends if no other worker needs it."""
        self._closed = True
        self._lose(self._control, ENDS)

    # -- starting --------------------------------------------------------------------------------

    def _open(self) -> Connection:
        """Return a new connection. Raises OSError, or Unavailable for another user's process."""
        folder = self._folder()
        run_folder.check(folder)
        made = run_folder.connected(run_folder.socket_path(folder, self.name))
        if not is_own_user(made):
            made.close()
            raise Unavailable("the model process is of another user, so it is not used")
        return Connection(made)

    def _connect(self) -> Connection:
        """Return the control connection, to a process that is started if need be.

        Raises Unavailable.
        """
        with self._connecting:
            if self._control is not None:
                if not self._control.is_closed():
                    return self._control
                self._lose(self._control)
            control = self._find() or self._start()
            with self._lock:
                self._control, self._stopped_since, self.away = control, None, None
            return control

    def _find(self) -> Connection | None:
        """Return a connection to the process that runs, after its hello; None if there is none.

        Raises Unavailable for one that refuses this worker.
        """
        began = time.monotonic()

        def idle() -> None:
            if time.monotonic() - began > START_S:
                raise ConnectionError("no hello")

        connection: Connection | None = None
        try:
            connection = self._open()
            head: Head = {"version": run_folder.code_version()}
            reply, _ = connection.call("hello", head, idle=idle)
            raise_error(reply)
            self.pid = int(reply["pid"])
        except BROKEN:
            _close(connection)
            return None
        except BaseException:
            _close(connection)
            raise
        return connection

    def _start(self) -> Connection:
        """Start the process, unless another worker just does. Raises Unavailable."""
        folder = self._folder()
        path = run_folder.socket_path(folder, self.name)
        with run_folder.locked(path.with_suffix(".lock"), START_S):
            if found := self._find():
                return found
            _note_start(run_folder.starts_of(path))
            path.unlink(missing_ok=True)  # a killed one's
            command = [sys.executable, "-P", "-m", "serving.model_process", str(folder), self.name,
                       run_folder.code_version()]  # fmt: skip
            # In a session of its own, so that Ctrl-C reaches the workers only.
            started = subprocess.Popen(
                [*command, *self._options], env=dict(self._environment),
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            _started.append(started)
            log.info("started the model process %s (%d)", self.name, started.pid)
            end = time.monotonic() + START_S
            while time.monotonic() < end and started.poll() is None:
                if found := self._find():
                    return found
                time.sleep(0.02)
            started.kill()
            code = started.wait()
            if code == run_folder.CHANGED:
                self.changed = "the service's code is now of another version than this worker"
            why = self.changed or f"the model process could not be started (exit code {code})"
            raise Unavailable(why, short=AWAY)

    # -- watching --------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have the process run, and the clients' models loaded in it, while there are clients."""
        pauses, unused = backoff(PAUSES_S), 0
        while not self._closed:
            unused = 0 if self._clients else unused + 1
            with self._lock:
                if unused > UNUSED_ROUNDS and not self._clients:
                    self._watching = False
                    break
            control = self._control
            try:
                control = self._connect()
                for each in list(self._clients):
                    each.restore()
                self._ask(control)
                pauses = backoff(PAUSES_S)
            except BROKEN:
                self._lose(control)
            except Unavailable as exc:
                log.warning("the model process %s: %s", self.name, exc.message)
                time.sleep(next(pauses))
        self._lose(self._control)

    def _ask(self, control: Connection) -> None:
        """Ask how the models are, and wait for the next time. Raises OSError at its end."""
        asked = time.monotonic()
        reply, _ = control.call(
            "status", {}, idle=lambda: self._look_at_state(time.monotonic() - asked)
        )
        self._go_on()
        for each in list(self._clients):
            each.show(reply["models"])
        while time.monotonic() - asked < STATUS_EVERY_S:
            if control.is_closed(TICK_S):
                raise ConnectionError("it ended")
            self._look_at_state()

    def _look_at_state(self, silent_s: float = 0.0) -> None:
        """Refuse calls while the process is stopped, and replace it after `STOPPED_S`."""
        state = state_of(self.pid)
        if state not in ("T", None) or (state is None and silent_s < SILENT_S):
            if state is not None:
                self._go_on()
            return
        if self._stopped_since is None:
            self._stopped_since = time.monotonic()
            self.away = "the model process was stopped; send this again"
            log.error("the model process %s (%s) was stopped", self.name, self.pid)
            for each in list(self._clients):
                each.show(None)
        elif time.monotonic() - self._stopped_since > STOPPED_S and self.pid is not None:
            log.error("the model process %s stays stopped: it is replaced", self.name)
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def _go_on(self) -> None:
        if self._stopped_since is not None:
            self._stopped_since = self.away = None
            log.info("the model process %s goes on", self.name)

    def _lose(self, control: Connection | None, why: str = AWAY) -> None:
        """Let go of a process that ended. Its calls see their own connections closed."""
        with self._lock:
            if control is None or control is not self._control:
                return
            self.away, self._control, self._stopped_since = why, None, None
            left, self._free = [control, *self._free], []
        for connection in left:
            connection.close()
        if not self._closed and self._clients:
            log.error("the model process %s (%s) ended", self.name, self.pid)
        _started[:] = [each for each in _started if each.poll() is None]  # so that none is a zombie
        for each in list(self._clients):
            each.show(None)


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
    path.write_text(f"{failed + 1} {time.monotonic()}", encoding="ascii")


def state_of(pid: int | None) -> str | None:
    """Return a process's state as /proc has it (T: stopped); None where that cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[0]


def _close(connection: Connection | None) -> None:
    if connection is not None:
        connection.close()
