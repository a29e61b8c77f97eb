"""How gunicorn runs the service. Its command line flags win over this file.

One worker holds the models itself; several share a model process for each device, so that a model
is in memory once and all requests fill its batches. Never preload: CUDA and torch's thread pools do
not survive a fork.
"""

import atexit
import os
import sys
import threading
from pathlib import Path

# The service is found first, whatever folder it is started in; what lies there comes last, as it is
# no library. gunicorn puts that folder in front unless it is somewhere already.
_places = (str(Path(__file__).parent), str(Path.cwd()))
sys.path[:] = [_places[0], *(each for each in sys.path if each not in ("", *_places)), _places[1]]

from config import Config, ModelSpec, load_config  # noqa: E402
from observability import logs  # noqa: E402
from server import master, memory, metrics_port, rolling_reload, sockets  # noqa: E402
from settings import open_settings  # noqa: E402


def _read() -> tuple[Config, tuple[ModelSpec, ...]]:
    """Return the settings and the models, from SQL if they are kept there. Raises ConfigError."""
    settings = open_settings(load_config())
    settings.stop()
    return settings.current, settings.current.catalogue()[0]


_config, _models = _read()  # a mistake ends the start here

bind = sockets.bind_of(_config.host, _config.port)
worker_class = "server.worker.DeadlineWorker"  # gthread, but no thread waits for a client
workers = _config.max_workers or master.default_workers(
    _config.model_process, _config.device, _models
)
threads = _config.threads
timeout = _config.timeout_s
graceful_timeout = _config.graceful_timeout_s
keepalive = 75  # longer than the usual 60 s of a load balancer, so that it closes first
worker_connections = sockets.room_for_connections(1000)
backlog = 2048
# The longest id, 512 characters of four bytes, percent-encoded in a path: 6,144 bytes and a name.
limit_request_line = 8190
preload_app = False

# The headers of proxies are read in server/proxies.py; gunicorn would believe any local client.
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
sendfile = False  # replies are kept until the client has taken them
control_socket_disable = True
loglevel = _config.log_level.lower()
logconfig_dict = logs.of_the_master(_config.log_level, _config.log_format)
if Path("/dev/shm").is_dir():  # a file system, not a file in it  # nosec B108
    worker_tmp_dir = "/dev/shm"  # the heartbeat file must not wait for a disk  # nosec B108


def on_starting(server):  # type: ignore[no-untyped-def]
    """Make the service's folders; check the settings before a reload."""
    server.reload = master.reload_if(_read, server.reload)
    master.make_metrics_dir(_config.metrics_dir)
    master.make_run_dir()


def when_ready(server):  # type: ignore[no-untyped-def]
    """Open the metrics' port; have all workers hear of a stop, and of a second interrupt."""
    if _config.enable_metrics:
        metrics_port.listen(server, _config.metrics_host, _config.metrics_port)
    rolling_reload.note_stop(server.WORKERS)


def on_reload(server):  # type: ignore[no-untyped-def]
    """Have the living workers serve until one that starts now is ready.

    gunicorn closes every listener if its own addresses have changed.
    """
    if _config.enable_metrics:
        metrics_port.listen(server, _config.metrics_host, _config.metrics_port)
    rolling_reload.note_reload()


def pre_exec(server):  # type: ignore[no-untyped-def]
    """Keep the metrics' port from a new master (SIGUSR2)."""
    metrics_port.leave_out(server)


def pre_fork(server, worker):  # type: ignore[no-untyped-def]
    """Choose the worker's metrics files and its GPU: the one that the fewest workers have.

    Where a model process holds the models it has the GPUs too.
    """
    master.prepare_worker(worker)
    rolling_reload.announce(worker)
    worker.slot = master.choose_slot(getattr(w, "slot", None) for w in server.WORKERS.values())
    worker.shares_models = master.shares_models(_config.model_process, server.cfg.workers)
    worker.gpu, several = None, server.cfg.workers > 1
    if several and not worker.shares_models and master.is_pinned(_config.device, _models):
        living = [getattr(w, "gpu", None) for w in server.WORKERS.values()]
        worker.gpu = master.choose_gpu(living)
    if worker.shares_models:
        used = master.uses_gpus(_config.device, _models)
        os.environ[master.GPUS] = ",".join(master.gpus()) if used else ""


def post_fork(server, worker):  # type: ignore[no-untyped-def]
    """Set the worker up; divide the cores among workers before any library uses them."""
    rolling_reload.begin(worker.age)
    master.count_as(worker.slot)
    os.environ["MAX_WORKERS"] = str(server.cfg.workers)  # `-w` wins over the setting,
    os.environ["THREADS"] = str(server.cfg.threads)  # and so does `--threads`
    os.environ["MODEL_PROCESS"] = "on" if worker.shares_models else "off"
    worker.read_timeout_s = _config.read_timeout_s
    worker.write_timeout_s = _config.write_timeout_s
    worker.urgent = frozenset((b"/health", b"/health/live", b"/health/ready"))
    if worker.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = worker.gpu
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the older name
        # Passes differ in size: without it free memory is in parts that are each too small.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    master.divide_cores(server.cfg.workers)
    # As a power of two: numpy's threads spin for 2 ms after a product instead of 0.11 s, a core
    # each. A search just after one took 52 ms, else 33 (400,000 rows, 2 cores, 2026-11).
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    memory.use_few_arenas()


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    """Answer on the metrics' port too."""
    from observability import metrics  # here: it reads the directory that `on_starting` made

    token = _config.metrics_token.get_secret_value() if _config.metrics_token else None
    worker.wsgi = metrics_port.beside(worker.wsgi, metrics.exposition, metrics.CONTENT_TYPE, token)


def child_exit(server, worker):  # type: ignore[no-untyped-def]
    """Remove a dead worker's gauges from the sums; note whether it died while it loaded."""
    master.bury(worker)
    rolling_reload.bury(worker)
    master.end_slot(worker.slot)


def worker_exit(server, worker):  # type: ignore[no-untyped-def]
    """End a worker that ends well at once, without taking the interpreter down.

    A thread may be in the middle of a load or a pass. Python would end it inside of C++, which ends
    the process by SIGABRT (`terminate called without an active exception`).
    """
    ended = sys.exc_info()[1]
    if isinstance(ended, SystemExit) and not ended.code:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that answer
        atexit._run_exitfuncs()
        os._exit(0)


def on_exit(server):  # type: ignore[no-untyped-def]
    """Remove the service's folders."""
    master.remove_dirs()
