"""The service as of the version that a file names when a worker starts."""

import os
from pathlib import Path

from serving.model_process import folder

_version = Path(os.environ["VERSION_FILE"]).read_text()
folder.code_version = lambda: _version

from app import app  # noqa: E402, F401
