"""The application for gunicorn: `gunicorn app:app`. `python app.py` starts the same server."""

import os
import sys

from config import load_config
from factory import create_worker
from observability import tracing
from observability.logs import configure
from tools.places import version

if __name__ == "__main__":
    # Replaces this process, so that both commands run the same server.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "app:app", *sys.argv[1:]])

config = load_config()
configure(config.log_level, config.log_format)
if config.otel_enabled:
    tracing.open_tracing(config.otel_endpoint, config.otel_service_name, version())
app = create_worker(config)
