"""The application that gunicorn loads: `gunicorn app:app`. `python app.py` starts the same."""

import os
import sys

import tracing
from config import load_config
from context import KEY
from factory import create_app, version
from logs import configure
from server import arbiter, deadlines, relay
from serving.watchdog import watch, wind_up

if __name__ == "__main__":
    # Replaces this process, so that both commands run one and the same server.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "app:app", *sys.argv[1:]])

config = load_config()
configure(config.log_level, config.log_format)
if config.otel_enabled:
    tracing.open_tracing(config.otel_endpoint, config.otel_service_name, version())
app = create_app(config, pause_s=arbiter.pause_s())
registry = app.extensions[KEY].engine.registry
watch(registry, settled=arbiter.settle, ready=relay.take_over)
deadlines.near_the_end.append(lambda: wind_up(registry))
