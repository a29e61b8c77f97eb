"""A worker's way to the model process of a device: calls it, and sees when it is away.

A thread of each worker watches it. A closed connection means that it ended. It is away while it is
stopped, does not answer or cannot be reached. After its end that thread has another started, and
the worker's models are loaded again.
"""

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from circuit_breaker import backoff
from embedders.base import Gone
from errors import ClientGone, DeadlineExceeded, Unavailable
from server import peers
from serving.model_process import starting
from serving.model_process.frames import (
    TICK_S,
    Connection,
    Head,
    Malformed,
    Part,
    Parts,
    raise_error,
)
from serving.model_process.starting import AWAY, ENDS, Replaced, Starter, TooSoon

log = logging.getLogger("model_process")

STATUS_EVERY_S = 1.0
# A process that answers so late counts as away. Its answer waits for no pass and no load, but for
# the interpreter, which the import of a library can hold from a slow disk while a model is loaded.
SILENT_S, LOADING_SILENT_S = 10.0, 60.0
STOPPED_S = 30.0  # a process that is away for so long is replaced
PATIENCE_S = 5.0  # how long a load waits for the next start rather than fail
PAUSES_S = (0.05, 0.5, 1.0, 2.0, 5.0, 10.0)  # between two tries to have a process
LATE_S = 0.25  # how much longer than its deadline a request waits for the process to say so
MOST_FREE = 32  # connections that are kept for the next calls
UNUSED_ROUNDS = 10  # of the watch without a model, after which the process is let go
BROKEN = (OSError, Malformed)


class Client(Protocol):
    """What is loaded in a model process, and loaded again in the next one."""

    stopping_since: float | None

    @property
    def ended(self) -> bool:
        """Whether it is time to load the model again."""

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
        self._alone = bool(options)  # used by this worker only
        self._starter = Starter(folder, name, environment, options, lambda: self._closed)
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._free: list[Connection] = []
        self._leases: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()
        self._watching = False
        self._restoring: threading.Thread | None = None
        self._loads = 0  # of this worker, under way
        self._control: Connection | None = None
        self.pid: int | None = None
        self.changed: str | None = None  # why this worker cannot have a process any more
        self._away_since: float | None = None
        self._unreachable = False  # by new connections, although the process answers
        self._closed = False
        self.away: str | None = AWAY  # why calls cannot be made now
        self.problem: str | None = None  # why there is no process, for the log and admins

    def call(
        self, operation: str, head: Head, *parts: Part,
        deadline: float | None = None, gone: Gone | None = None,
        ended: Callable[[], bool] | None = None, limit_s: float | None = None,
    ) -> tuple[Head, Parts]:  # fmt: skip
        """Return the reply of the process. A call never waits for a process that is away.

        Raises Unavailable, also after `limit_s`, DeadlineExceeded, ClientGone, or the error that
        the process replies.
        """
        began = time.monotonic()

        def idle() -> None:
            if self.away is not None or (ended is not None and ended()):
                raise Unavailable(self.away or ENDS, retry_after_s=1)
            if deadline is not None and time.monotonic() > deadline + LATE_S:
                raise DeadlineExceeded("the request's deadline passed while it was encoded")
            if limit_s is not None and time.monotonic() - began > limit_s:
                raise Unavailable("the model process took too long", retry_after_s=1)
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
            control = self._control
            connection = self._free.pop() if self._free else None
        try:
            connection = connection or self._reach()
            yield connection
        except BaseException as exc:
            _close(connection)
            if isinstance(exc, BROKEN):
                raise self._broken(exc) from None
            raise
        with self._lock:  # to the same process
            keep = control is not None and control is self._control and len(self._free) < MOST_FREE
            if keep:
                self._free.append(connection)
        if not keep:
            connection.close()

    def _reach(self) -> Connection:
        """Return a new connection. Calls are refused from a failure on, until the watch has one."""
        try:
            return self._starter.open()
        except (OSError, Unavailable) as exc:
            self._unreachable = True
            self._note_away("the model process cannot be reached; send this again", str(exc))
            raise

    def _broken(self, exc: BaseException) -> Unavailable:
        log.debug("a call to the model process %s failed (%s)", self.name, exc)
        return Unavailable(AWAY, retry_after_s=1)

    # -- models ----------------------------------------------------------------------------------

    def load(self, head: Head) -> tuple[Connection, Head, Parts]:
        """Load a model, in a process that is started if need be.

        Returns the connection that leases the model until it is closed, and the reply. Raises
        Unavailable or the error that the process replies.
        """
        with self._lock:
            self._loads += 1
        try:
            return self._load(head)
        finally:
            with self._lock:
                self._loads -= 1

    def _load(self, head: Head) -> tuple[Connection, Head, Parts]:
        def idle() -> None:
            if self._closed:
                raise Unavailable(ENDS)
            self._look_at_state()

        for last in (False, False, True):  # the process may have been about to end
            connection: Connection | None = None
            try:
                control = self._connect()
                connection = self._starter.open()
                reply, parts = connection.call("load", head, idle=idle)
                raise_error(reply)
                with self._lock:
                    if control is self._control:
                        self._leases.add(connection)
                        return connection, reply, parts
                raise ConnectionError("it was let go meanwhile")
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
        """Close every connection, for good. The process ends if no other worker needs it."""
        with self._lock:
            self._closed = True
        if self._alone and self._control is not None and peers.is_stopped(self.pid):
            peers.kill(self.pid)  # it cannot end by itself
        self._lose(self._control, ENDS)

    # -- reaching it -----------------------------------------------------------------------------

    def _connect(self) -> Connection:
        """Return the control connection, to a process that is started if need be.

        Raises Unavailable.
        """
        with self._connecting:
            if self._control is not None:
                if not self._control.is_closed():
                    return self._control
                self._lose(self._control)
            if self._closed:
                raise Unavailable(ENDS)
            try:
                control, self.pid = self._starter.find_or_start()
            except Replaced as exc:
                self.changed = exc.message
                raise
            except OSError as exc:
                why = f"the model process could not be started ({exc})"
                raise Unavailable(why, short=AWAY) from None
            with self._lock:
                if not self._closed:
                    self._control, self._away_since, self.away = control, None, None
                    self.problem, self._unreachable = None, False
                    return control
            control.close()
            raise Unavailable(ENDS)

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
            if control is None and not self._is_needed():
                time.sleep(TICK_S)
                continue
            try:
                control = self._connect()
                self._restore()
                asked = self._ask(control)
                pauses = backoff(PAUSES_S)  # one that ends before it has loaded is `TooSoon`
                self._rest(control, asked)
            except BROKEN as exc:
                log.debug("the model process %s is let go (%s)", self.name, exc)
                self._lose(control)
                time.sleep(next(pauses))
            except Exception as exc:  # such as a thread that cannot be started
                self._fail(exc)
                time.sleep(next(pauses))
        self._lose(self._control)

    def _is_needed(self) -> bool:
        """Whether a model here is to be served on."""
        return any(each.stopping_since is None for each in list(self._clients))

    def _fail(self, exc: Exception) -> None:
        """Note why there is no process."""
        if self._closed:
            return
        self.problem = exc.message if isinstance(exc, Unavailable) else repr(exc)
        log.warning("the model process %s: %s", self.name, self.problem)
        for each in list(self._clients):
            each.show(None)

    def _restore(self) -> None:
        """Have what ended loaded again, by a thread: the watch goes on meanwhile."""
        ended = [each for each in list(self._clients) if each.ended]
        if not ended or (self._restoring is not None and self._restoring.is_alive()):
            return

        def restore() -> None:
            for each in ended:
                each.restore()

        self._restoring = threading.Thread(target=restore, name="model-restore", daemon=True)
        self._restoring.start()

    def _ask(self, control: Connection) -> float:
        """Ask how the models are; return since when, in time.monotonic(). Raises OSError."""
        asked = time.monotonic()
        reply, _ = control.call(
            "status", {}, idle=lambda: self._look_at_state(time.monotonic() - asked)
        )
        if not self._starter.is_found():
            raise ConnectionError("its socket is gone: no other worker finds it")
        if not self._unreachable or self._is_reached():
            self._go_on()
            for each in list(self._clients):
                each.show(reply["models"])
        return asked

    def _rest(self, control: Connection, asked: float) -> None:
        """Wait until it is time to ask again. Raises OSError at the end of the process."""
        # While it is away it is asked again at once: its answer tells that it goes on.
        while time.monotonic() - asked < (STATUS_EVERY_S if self._away_since is None else TICK_S):
            if control.is_closed(TICK_S):
                raise ConnectionError("it ended")
            self._look_at_state()

    def _is_reached(self) -> bool:
        """Whether a new connection can be made. Raises ConnectionError where none listens."""
        try:
            self._starter.open().close()
        except ConnectionError:
            raise
        except (OSError, Unavailable):
            return False
        self._unreachable = False
        return True

    def _look_at_state(self, silent_s: float = 0.0) -> None:
        """Refuse calls while the process is stopped or silent.

        Raises ConnectionError after `STOPPED_S`: the process was killed, and another is needed.
        """
        limit_s = LOADING_SILENT_S if self._loads else SILENT_S
        if peers.is_stopped(self.pid):
            since = self._note_away("the model process was stopped; send this again")
        elif silent_s > limit_s:
            since = self._note_away("the model process does not answer; send this again")
        else:
            return
        if time.monotonic() - since > STOPPED_S:
            log.error("the model process %s (%s) stays away: it is replaced", self.name, self.pid)
            peers.kill(self.pid)
            raise ConnectionError("it was killed")

    def _note_away(self, why: str, detail: str = "") -> float:
        """Refuse calls from now on; return since when, in time.monotonic()."""
        with self._lock:
            since = self._away_since
            if since is not None or self._control is None:
                return time.monotonic() if since is None else since
            self._away_since = since = time.monotonic()
            self.away, self.problem = why, f"{why} ({detail})" if detail else None
        log.error("the model process %s (%s): %s", self.name, self.pid, self.problem or why)
        for each in list(self._clients):
            each.show(None)
        return since

    def _go_on(self) -> None:
        with self._lock:
            if self._away_since is None or self._unreachable:
                return
            self._away_since = self.away = self.problem = None
        log.info("the model process %s goes on", self.name)

    def _lose(self, control: Connection | None, why: str = AWAY) -> None:
        """Let go of a process. Calls under way see their own connections closed by its end."""
        with self._lock:
            if control is None or control is not self._control:
                return
            self.away, self._control, self._away_since, self.problem = why, None, None, None
            left = [control, *self._free, *self._leases]
            self._free = []
            self._leases.clear()
        for connection in left:
            connection.close()
        if not self._closed and self._clients:
            log.error("the model process %s (%s) ended", self.name, self.pid)
        starting.reap()
        for each in list(self._clients):
            each.show(None)


def _close(connection: Connection | None) -> None:
    if connection is not None:
        connection.close()
