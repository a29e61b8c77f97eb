"""Start gunicorn in a third of the time: as a fork of a process that has imported its libraries.

That process has imported no module of the service and none that reads the environment when it is
imported, so a service forked from it behaves as one that a shell starts.
"""

import atexit
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

LIBRARIES = [
    "alembic.command", "argon2", "concurrent.futures.thread", "cryptography.fernet", "dotenv.main",
    "flask", "flask_limiter", "gunicorn.app.wsgiapp", "gunicorn.workers.gthread", "jinja2", "jwt",
    "limits", "logging.config", "numpy.typing", "orjson", "psycopg",
    "pydantic.functional_validators", "pydantic.main", "pydantic.types", "requests",
    "sqlalchemy.dialects.mysql", "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite",
    "sqlalchemy.orm", "sqlite3",
]  # fmt: skip
# Python and the C library read these when they start.
AT_THE_START = ("GLIBC_", "LD_", "MALLOC_", "PYTHON", "TZ")
GUNICORN = [sys.executable, "-m", "gunicorn"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)
_first = {name: value for name, value in os.environ.items() if name.startswith(AT_THE_START)}


def can_fork(command: list[str], env: dict[str, str]) -> bool:
    """Whether a fork would run the command as a new process would."""
    read = {name: value for name, value in env.items() if name.startswith(AT_THE_START)}
    return command[:3] == GUNICORN and read == _first


class Forked:
    """A running gunicorn; with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], log: Path) -> None:
        self.log = log
        self._process = _context.Process(target=_serve, args=(command[3:], str(cwd), env, str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, minus the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired("gunicorn", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _serve(args: list[str], cwd: str, env: dict[str, str], log: str) -> None:
    """Become `python -m gunicorn` with these arguments."""
    for number in (0, 1, 2):
        name = log if number else os.devnull
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    main = importlib.util.find_spec("gunicorn.__main__")
    assert main is not None and main.origin is not None
    sys.argv = [main.origin, *args]  # what SIGUSR2 starts again
    sys.path[:] = [cwd, *(path for path in sys.path if path not in ("", cwd))]
    from gunicorn.app.wsgiapp import run

    try:
        run(prog="gunicorn")
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
