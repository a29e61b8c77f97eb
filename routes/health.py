"""What is missing although requests are served, and how much room is left.

`/health` says it in words, the metrics in numbers, which a thread of each worker keeps right: a
look at the room left may hang, as on a network's disk. Knows no HTTP.
"""

import contextlib
import importlib.metadata
import platform
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

from context import Services
from observability import metrics
from rate_limits import Throttle
from store.lazy import problem_of

LOOK_EVERY_S = 2.0


def problems(parts: Services, throttle: Throttle) -> Mapping[str, str | None]:
    """Return by part why it is away, None where it is not."""
    return {
        "settings": parts.settings.degraded,
        "database": parts.accounts.problem,
        "cache": parts.cache.problem if parts.cache else None,
        "vault": parts.vault.problem,
        "store": problem_of(parts.library.store),
        "limits": throttle.problem or parts.accounts.uncounted,
    }


def show(parts: Services, throttle: Throttle) -> None:
    """Set the gauges that tell of the service itself."""
    torch = importlib.metadata.version("torch")
    metrics.BUILD.labels(parts.version, platform.python_version(), torch).set(1)
    for part, problem in problems(parts, throttle).items():
        metrics.DEGRADED.labels(part).set(problem is not None)
    for name in parts.providers.names():
        for host, link in list(parts.providers.get(name).links.items()):
            metrics.PROVIDER_OPEN.labels(name, host).set(link.state == "open")
    for folder, place in (("data", parts.config.data_dir), ("store", parts.config.store_dir)):
        with contextlib.suppress(OSError):
            metrics.DISK_FREE.labels(folder).set(shutil.disk_usage(_there(place)).free)


def watch(parts: Services, throttle: Throttle) -> threading.Event:
    """Show it in a thread until the returned event is set."""
    stop = threading.Event()

    def look() -> None:
        while True:
            show(parts, throttle)
            if stop.wait(LOOK_EVERY_S):
                return

    threading.Thread(target=look, name="vitals", daemon=True).start()
    return stop


def _there(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    place = folder.absolute()
    return next(each for each in (place, *place.parents) if each.exists())
