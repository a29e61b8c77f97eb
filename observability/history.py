"""The last hour of the metrics: a reading every five seconds, the same from every worker.

One worker of a service reads: the one that holds the lock of a file in the metrics' directory. It
adds a row to another file there, which all of them follow, so the hour outlives each worker. A row
holds the counters that changed, as they are, so whoever takes over loses nothing.
"""

import contextlib
import fcntl
import itertools
import json
import logging
import operator
import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from prometheus_client.mmap_dict import MmapedDict

from observability.machine import Gpus, Processes

log = logging.getLogger(__name__)

EVERY_S = 5.0
ROWS = 720  # an hour
# A longer time between two readings was not measured: this machine or all workers stood still.
LONGEST_S = 3 * EVERY_S
MOST_BYTES = 8 << 20  # of the file, which is halved then; an hour of 5 busy models takes 3.5 MB

Numbers = list[float]
# The metrics that are kept, and the labels that tell their series apart.
COUNTED = {
    "embedding_request_seconds": ("status",), "embedding_model_seconds": ("model", "lane"),
    "embedding_queue_seconds": ("model", "lane"), "embedding_pass_fill_ratio": ("model",),
    "embedding_texts": ("model",), "embedding_tokens": ("model",), "embedding_cache": ("outcome",),
    "embedding_model_process_cpu_seconds": (), "embedding_process_cpu_seconds": (),
}  # fmt: skip
SHOWN = {
    "embedding_queue_texts": ("model", "lane"), "embedding_model_process_memory_bytes": (),
    "embedding_process_memory_bytes": (), "embedding_gpu_memory_used_bytes": ("gpu",),
    "embedding_gpu_memory_bytes": ("gpu",), "embedding_gpu_utilization_ratio": ("gpu",),
}  # fmt: skip
SUMS = ("counter_", "histogram_", "gauge_livesum_")  # the workers' files that are added up


@dataclass(frozen=True)
class Reading:
    """What was counted in `span_s` seconds, and what was shown at their end, `at`.

    A series is named by its metric and its labels' values, parted by line feeds. A histogram is
    its cumulative buckets and its sum. `span_s` is 0 where nothing is known before.
    """

    at: float  # seconds since 1970
    span_s: float
    counted: "dict[str, array[float]]"  # only what grew
    shown: dict[str, float]


class History:
    """The readings of the last hour."""

    def __init__(self, folder: Path, counts: Callable[[str], bool]) -> None:
        """Keep them in the metrics' folder. `counts` is whether a route's requests matter."""
        self._folder, self._counts = folder, counts
        self._rows_file = folder / "history.rows"
        self._lock = threading.Lock()
        self._held: int | None = None  # the descriptor that holds the lock of the one that reads
        self._places: dict[str, tuple[str, float] | None] = {}
        self._forget(None)

    def record(self) -> None:
        """Read the metrics and keep what they show, unless another worker does."""
        if not self._is_reader():
            return
        counted, shown = self._read()
        with self._lock:
            self._catch_up()
            changed = {name: now for name, now in counted.items() if self._totals.get(name) != now}
            self._add({"at": round(time.time(), 3), "counted": changed, "shown": shown})

    def readings(self) -> list[Reading]:
        """Return the readings of the last hour, the oldest first."""
        with self._lock:
            self._catch_up()
            return [each for each in self._readings if each.at > time.time() - ROWS * EVERY_S]

    def models(self) -> list[str]:
        """Return the models that anything was counted of, as metrics name them."""
        with self._lock:
            series = [name.split("\n") for name in self._totals]
        return sorted({labels[0] for metric, *labels in series if "model" in COUNTED[metric]})

    def _is_reader(self) -> bool:
        """Return whether this process reads for all. It does until it ends."""
        if self._held is None:
            held = os.open(self._folder / "history.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(held)
                return False
            self._held = held
        return True

    # ---- reading the metrics

    def _read(self) -> tuple[dict[str, Numbers], dict[str, float]]:
        """Return the counters and the gauges that are kept, by their series' names.

        Only what is kept is added up: 26 ms of CPU, 90 by the library's own merge, for 4 workers
        that had answered on 120 routes (2 cores of an AMD EPYC, 2026-11-30).
        """
        sums: dict[tuple[str, float], float] = {}
        for file in self._folder.glob("*.db"):
            # A dead worker's file may go at any moment; one that is just being made is empty.
            with contextlib.suppress(FileNotFoundError):
                if file.name.startswith(SUMS) and file.stat().st_size:
                    self._add_up(file, sums)
        for family in (*Processes().collect(), *Gpus().collect()):
            for sample in family.samples:
                if (name := _name(family.name, sample.labels)) is not None:
                    sums[name, 0.0] = sample.value
        series: dict[str, dict[float, float]] = {}
        for (name, part), value in sums.items():
            series.setdefault(name, {})[part] = value
        counted = {name: _numbers(of) for name, of in series.items() if _metric(name) in COUNTED}
        return counted, {n: of[0.0] for n, of in series.items() if _metric(n) in SHOWN}

    def _add_up(self, file: Path, sums: dict[tuple[str, float], float]) -> None:
        rows = MmapedDict.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
        for key, value, *_ in rows:
            place = self._places[key] if key in self._places else self._place(key)
            if place is not None:
                sums[place] = sums.get(place, 0.0) + value

    def _place(self, key: str) -> tuple[str, float] | None:
        """Return a file's entry as its series and its bucket's bound; None if it is not kept."""
        metric, sample, labels, _ = json.loads(key)
        name = _name(metric, labels) if self._counts(labels.get("route", "")) else None
        part = float(labels["le"]) if "le" in labels else -1.0 if sample.endswith("_sum") else 0.0
        place = self._places[key] = None if name is None else (name, part)
        return place

    # ---- the file: rows of JSON, of which the first holds every counter

    def _catch_up(self) -> None:
        """Take the rows that were added since the last call."""
        with contextlib.suppress(FileNotFoundError), self._rows_file.open("rb") as file:
            found = os.fstat(file.fileno()).st_ino
            if found != self._file:  # it was written anew
                self._forget(found)
            file.seek(self._read_to)
            added = file.read()
            # What follows the last line feed is being written, or its writer was killed meanwhile.
            whole = added[: added.rfind(b"\n") + 1]
            self._read_to += len(whole)
            for line in whole.splitlines():
                self._take(orjson.loads(line))

    def _add(self, row: dict[str, Any]) -> None:
        """Add a row to the file, over what a killed writer left of one."""
        if self._rows >= 2 * ROWS or self._read_to > MOST_BYTES:
            self._shorten()
        line = orjson.dumps(row) + b"\n"
        opened = os.open(self._rows_file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(opened, line, self._read_to)
            os.ftruncate(opened, self._read_to + len(line))
        finally:
            os.close(opened)

    def _shorten(self) -> None:
        """Write the file anew without its older half."""
        lines = self._rows_file.read_bytes()[: self._read_to].splitlines()
        rows = [orjson.loads(line) for line in lines]
        older, kept = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        start = {**older[-1], "counted": {}}
        for row in older:
            start["counted"].update(row["counted"])
        new = self._rows_file.with_suffix(".new")
        new.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in (start, *kept)))
        new.replace(self._rows_file)
        self._catch_up()

    def _forget(self, file: int | None) -> None:
        self._file, self._read_to, self._rows = file, 0, 0
        self._totals: dict[str, Numbers] = {}
        self._readings: deque[Reading] = deque(maxlen=ROWS)

    def _take(self, row: dict[str, Any]) -> None:
        """Keep what a row adds to the one before."""
        span_s = max(0.0, row["at"] - self._readings[-1].at) if self._readings else 0.0
        grown: dict[str, array[float]] = {}
        for name, now in row["counted"].items() if self._readings else ():
            was = self._totals.get(name) or [0.0] * len(now)
            grown[name] = array("d", map(operator.sub, now, was))
        self._totals.update(row["counted"])
        self._rows += 1
        self._readings.append(Reading(row["at"], span_s, grown, row["shown"]))


def follow(history: History) -> threading.Event:
    """Keep readings in a thread until the returned event is set."""
    stop = threading.Event()

    def read() -> None:
        failed = False
        # All workers at the same moments: who takes over goes on in the same step.
        while not stop.wait(EVERY_S - time.time() % EVERY_S):
            try:
                history.record()
                failed = False
            except Exception as exc:  # a full disk, a file that is being written: the next may do
                if not failed:
                    log.warning("the last hour of the metrics has a gap: %r", exc)
                failed = True

    threading.Thread(target=read, name="history", daemon=True).start()
    return stop


def _name(metric: str, labels: Mapping[str, str]) -> str | None:
    """Return the name of a series; None if its metric is not kept."""
    kept = COUNTED.get(metric, SHOWN.get(metric))
    if kept is None:
        return None
    return "\n".join((metric, *(labels[label].replace("\n", " ") for label in kept)))


def _metric(name: str) -> str:
    return name.partition("\n")[0]


def _numbers(parts: dict[float, float]) -> Numbers:
    """Return a counter's number, or a histogram's: its buckets, added up, and its sum."""
    if set(parts) == {0.0}:
        return [parts[0.0]]
    sum_ = parts.pop(-1.0, 0.0)
    return [*itertools.accumulate(parts[bound] for bound in sorted(parts)), sum_]
