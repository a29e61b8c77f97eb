"""Run a test's program in a fork of a process that has imported the store.

The import takes 0.8 s of CPU, and what is then written, killed or stopped a few milliseconds.
"""

import atexit
import os
import sys
from multiprocessing import forkserver, popen_forkserver
from multiprocessing.connection import Connection, Pipe
from multiprocessing.context import ForkServerProcess
from typing import TextIO
from unittest import mock

from tests.servers.forked import Forked

LIBRARIES = ["tests.store.faults", "tests.store.sql_writer"]

_server = forkserver.ForkServer()
_server.set_forkserver_preload(LIBRARIES)


class _Popen(popen_forkserver.Popen):
    def _launch(self, process: object) -> None:
        with mock.patch.object(
            popen_forkserver.forkserver, "connect_to_new_process", _server.connect_to_new_process
        ):
            super()._launch(process)


class _Process(ForkServerProcess):
    _Popen = staticmethod(_Popen)


class Program(Forked):
    """`python -c CODE ARGS` that runs; with the part of `subprocess.Popen[str]` the tests use."""

    def __init__(self, code: str, *args: str, **env: str) -> None:
        mine, its = Pipe(duplex=False)
        with mine, its:
            process = _Process(target=_run, args=(code, args, {**os.environ, **env}, its))
            super().__init__(process)
            self.stdout: TextIO = os.fdopen(os.dup(mine.fileno()), encoding="utf-8")

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Return what it prints until its end."""
        with self.stdout:
            said = self.stdout.read()
        self.wait(timeout)
        return said, None

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._process.kill()

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stdout.close()
        self.wait()
        self._process.close()


def _run(code: str, args: tuple[str, ...], env: dict[str, str], out: Connection) -> None:
    os.dup2(out.fileno(), 1)
    out.close()
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["-c", *args]
    try:
        exec(compile(code, "<a test's program>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
