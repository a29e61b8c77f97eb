"""Measures the service beside its rivals: `make bench`, or each file by itself."""

import os

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")  # as `gunicorn.conf.py` has it
