"""The last hour of the metrics, for charts."""

import functools
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from context import services
from errors import UnknownModel
from observability import timeline
from observability.history import EVERY_S, History, follow
from observability.names import public_name
from routes.table import ROUTES, Route
from schemas.service import TimelineQuery, TimelineReply


@functools.cache
def history() -> History | None:
    """Return the hour that the workers of this service keep; None without the metrics' folder."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is None:
        return None
    # Probes, scrapes and the pages' files are no work, and quick answers would hide slow ones.
    working = {row.path for row in ROUTES if row.counted and not row.probe}
    quiet = {row.path for row in ROUTES} - working
    return History(Path(folder), lambda route: route not in quiet)


def watch() -> threading.Event | None:
    """Read the metrics every few seconds until the returned event is set, if there is one."""
    kept = history()
    return follow(kept) if kept else None


@Route("GET", "/metrics/history", access="metrics", tag="service", probe=True,
       errors=(400,))  # fmt: skip
def show_history(query: TimelineQuery) -> TimelineReply:
    """Return the last hour of the metrics, a column for each number, of all workers together."""
    kept = history()
    models = kept.models() if kept else []
    configured = map(public_name, services().engine.registry.models)
    if query.model is not None and query.model not in (*models, *configured):
        raise UnknownModel(
            f"nothing was counted of a model {query.model[:128]!r}: name one of models, as a reply "
            "without a model lists them",
            param="model",
        )
    readings = kept.readings() if kept else []
    recent = [each for each in readings if query.since is None or each.at > query.since]
    times, rows = timeline.rows_of(recent, query.model, query.lane)
    gpus = sorted({name.split()[1] for row in rows for name in row if " " in name})

    def columns(names: Iterable[str], of: str = "") -> Any:
        return {name: [row.get(name + of) for row in rows] for name in names}

    return {
        "every_s": EVERY_S,
        "models": models,
        "times": times,
        "columns": columns(timeline.NAMES),
        "gpus": {gpu: columns(timeline.OF_A_GPU.values(), f" {gpu}") for gpu in gpus},
    }
