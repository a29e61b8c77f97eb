"""How gunicorn runs the service. Its command line flags win over this file.

One worker: the threads of a worker share one model and batch together; every further worker loads
its own copy. Never preload: CUDA and torch's thread pools do not survive a fork.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from config import load_config  # noqa: E402
from settings import open_settings  # noqa: E402

_settings = open_settings(load_config())
_config = _settings.current  # host and port may be kept in SQL
_settings.stop()
_config.catalogue()  # a mistake in the model files stops the start here, with its message

bind = [f"{_config.host}:{_config.port}"]
worker_class = "gthread"
workers = _config.max_workers
threads = _config.threads
timeout = _config.timeout_s
graceful_timeout = _config.graceful_timeout_s
keepalive = 75  # longer than the usual 60 s of a balancer, so that it closes first
worker_connections = 1000
backlog = 2048
preload_app = False
control_socket_disable = True
loglevel = _config.log_level.lower()
if Path("/dev/shm").is_dir():
    worker_tmp_dir = "/dev/shm"  # the heartbeat file must not wait for a disk


def post_fork(server, worker):  # type: ignore[no-untyped-def]
    """Tell the worker how many there are, and share the cores out before any library uses them."""
    os.environ["MAX_WORKERS"] = str(server.cfg.workers)  # `-w` wins over the setting
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = max(1, (cores or 1) // max(1, server.cfg.workers))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(share))
