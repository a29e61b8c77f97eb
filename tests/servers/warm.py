"""Start gunicorn in a third of the time: as a fork of a process that has imported its libraries.

There are two such processes. One has imported libraries, and of the service what only defines
things: nothing that reads the environment when it is imported, and nothing that counts, listens or
shares memory, so a service forked from it behaves as one that a shell starts. The other has the
libraries of local models too, which take 6 s of CPU to import; a service with a real model is
forked from it, if it has the environment that those libraries have read. A run of all tests has one
of these, whatever the number of its processes.
"""

import atexit
import functools
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver, popen_forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest import mock

from tests.servers.forked import Forked

LIBRARIES = [
    "alembic.command", "alembic.config", "apsw", "argon2", "cachetools",
    "concurrent.futures.thread", "cryptography.fernet", "dotenv.main", "flask", "flask_limiter",
    "gunicorn.app.wsgiapp", "gunicorn.workers.gthread", "jinja2", "jwt", "limits",
    "logging.config", "numpy.random", "numpy.typing", "orjson", "psycopg",
    "pydantic.functional_validators", "pydantic.main", "pydantic.type_adapter",
    "pydantic.types", "requests", "sqlalchemy.dialects.mysql", "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite", "sqlalchemy.orm", "sqlite3",
]  # fmt: skip
DEFINITIONS = ["config", "schemas.parts", "schemas.service", "schemas.settings", "settings",
               "sql.row_cache", "store.file", "store.pgvector"]  # fmt: skip
OF_MODELS = ["sentence_transformers", "torch", "transformers"]
LAST = "tests.servers.frozen"
# Python and the C library read these when they start, and the models' libraries those. What
# PYTHONPATH names is put on the fork's path (only a `sitecustomize` of its is not run).
AT_THE_START = ("GLIBC_", "LD_", "MALLOC_", "PYTHON", "TZ")
PATH = "PYTHONPATH"
BY_MODELS = ("HF_", "HUGGINGFACE_", "KMP_", "MKL_", "OMP_", "OPENBLAS_", "PYTORCH_",
             "SENTENCE_TRANSFORMERS_", "TORCH", "TRANSFORMERS_")  # fmt: skip
GUNICORN = [sys.executable, "-m", "gunicorn"]

SHARED = "TESTS_FORK_SERVER"  # its socket, and from Python 3.14 the key to it


class _Shared(forkserver.ForkServer):
    """The process with the models' libraries that another process of this run has started."""

    def __init__(self, told: str) -> None:
        super().__init__()
        self._forkserver_address, key = told.rsplit(" ", 1)
        self._forkserver_authkey = bytes.fromhex(key)
        self._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)

    def ensure_running(self) -> None:
        """Do nothing: it ends with the process that started it."""


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*LIBRARIES, *DEFINITIONS, LAST])
_with_models = _Shared(os.environ[SHARED]) if SHARED in os.environ else forkserver.ForkServer()
_with_models.set_forkserver_preload([*LIBRARIES, *DEFINITIONS, *OF_MODELS, LAST])


def share() -> None:
    """Start the process with the models' libraries, for all whom this one starts."""
    _with_models.ensure_running()
    os.environ[SHARED] = told_of(_with_models)


def told_of(server: forkserver.ForkServer) -> str:
    """Return what another process needs to have a running one fork for it."""
    key = getattr(server, "_forkserver_authkey", None) or b""
    return f"{server._forkserver_address} {key.hex()}"


def _read(env: dict[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {k: v for k, v in env.items() if k.startswith(names) and k != PATH}


@functools.cache
def _read_first(names: tuple[str, ...]) -> dict[str, str]:
    """Return what the processes that are forked have read: this one's, when it first asks."""
    return _read(dict(os.environ), names)


def can_fork(command: list[str], env: dict[str, str]) -> bool:
    """Whether a fork would run the command as a new process would."""
    return command[:3] == GUNICORN and _read(env, AT_THE_START) == _read_first(AT_THE_START)


def has_models(env: dict[str, str]) -> bool:
    """Whether a service with this environment loads a local model, with what is imported early."""
    file = env.get("MODEL_CONFIG", "model_config.json")
    models = json.loads(Path(file).read_text())["models"].values() if Path(file).is_file() else []
    local = any(model.get("type", "auto") in ("auto", "sentence_transformer") for model in models)
    named = any(env.get(name) for name in ("EMBEDDING_MODEL", "SUPPORTED_MODELS"))
    return (local or named) and _read(env, BY_MODELS) == _read_first(BY_MODELS)


class _ModelsPopen(popen_forkserver.Popen):
    def _launch(self, process: object) -> None:
        with mock.patch.object(
            popen_forkserver.forkserver,
            "connect_to_new_process",
            _with_models.connect_to_new_process,
        ):
            super()._launch(process)


class _ModelsProcess(ForkServerProcess):
    """A fork of the process that has the models' libraries."""

    _Popen = staticmethod(_ModelsPopen)


class Gunicorn(Forked):
    """A running gunicorn; with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], log: Path) -> None:
        self.log = log
        kind = _ModelsProcess if has_models(env) else _context.Process
        super().__init__(kind(target=_serve, args=(command[3:], str(cwd), env, str(log))))

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
    given = [cwd, *filter(None, env.get(PATH, "").split(os.pathsep))]
    sys.path[:] = [*given, *(path for path in sys.path if path not in ("", *given))]
    from gunicorn.app.wsgiapp import run

    try:
        run(prog="gunicorn")
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
