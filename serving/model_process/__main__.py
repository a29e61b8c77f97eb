"""Runs a model process: `python -m serving.model_process FOLDER NAME VERSION [--private]`.

It counts its metrics in a slot of its own, which has to be chosen before any metric is made.
"""

import signal
import sys
from pathlib import Path

from errors import Unavailable
from server import master
from serving.model_process import folder

if __name__ == "__main__":
    _folder, _name, _version, *_options = sys.argv[1:]
    if _version != folder.code_version():  # its worker is of code that is no longer there
        sys.exit(folder.CHANGED)
    try:
        folder.check(Path(_folder))
        _slot = folder.take_slot(Path(_folder))
    except (Unavailable, OSError) as exc:
        sys.exit(f"the model process cannot run: {exc}")
    master.end_slot(_slot)  # what a killed one left
    master.count_as(_slot)

from cache import shared  # noqa: E402
from serving.model_process.host import Host, prepare_process  # noqa: E402

if __name__ == "__main__":
    _config = prepare_process()
    try:
        _host = Host(Path(_folder), _name, _slot, private="--private" in _options)
    except (Unavailable, OSError) as exc:
        sys.exit(f"the model process cannot listen: {exc}")
    _host.register(shared.operations(_config))
    signal.signal(signal.SIGTERM, lambda *_: _host.stop())
    _host.serve()
