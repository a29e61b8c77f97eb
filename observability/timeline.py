"""What the readings of the last hour say: rates, quantiles and shares, a column each over time.

A quantile is made of the differences of a histogram's buckets, added up over workers, models and
lanes; it is never an average of quantiles.
"""

from collections.abc import Mapping, Sequence

from observability import metrics
from observability.history import COUNTED, EVERY_S, LONGEST_S, Numbers, Reading

Row = dict[str, float | None]
NAMES = (
    "requests", "client_errors", "server_errors", "p50", "p95", "p99", "wait_p50", "wait_p99",
    "texts", "tokens", "fill", "cache_hits", "queue_interactive", "queue_bulk", "memory", "cores",
)  # fmt: skip
QUEUED = "embedding_queue_texts"
OF_A_GPU = {
    "embedding_gpu_utilization_ratio": "busy", "embedding_gpu_memory_used_bytes": "memory_used",
    "embedding_gpu_memory_bytes": "memory",
}  # fmt: skip


def rows_of(
    readings: Sequence[Reading], model: str | None = None, lane: str | None = None
) -> tuple[list[float], list[Row]]:
    """Return times, in seconds since 1970, and a row of each: of a model, of a lane, or of all.

    The names are `NAMES`, and those of `OF_A_GPU` with a GPU's number, as `busy 0`. A value is
    missing where nothing was measured, or nothing happened that could be. A time in which nobody
    measured is one empty row.
    """
    times: list[float] = []
    rows: list[Row] = []
    for reading in readings:
        if reading.span_s > LONGEST_S:
            times.append(round(reading.at - EVERY_S, 3))
            rows.append({})
        times.append(reading.at)
        row = _levels(reading.shown, model, lane)
        if 0 < reading.span_s <= LONGEST_S:
            row |= _rates(reading, model, lane)
        rows.append(row)
    return times, rows


def quantile(share: float, buckets: Numbers) -> float | None:
    """Return a quantile of a histogram of `SECONDS` as Prometheus's `histogram_quantile` does.

    `buckets` are cumulative, the last one without a bound: a quantile there is the last bound. It
    is None where nothing was counted.
    """
    if not buckets or not buckets[-1]:
        return None
    wanted, bounds = share * buckets[-1], metrics.SECONDS
    for place, upto in enumerate(buckets[:-1]):
        if upto >= wanted:
            under, floor = (buckets[place - 1], bounds[place - 1]) if place else (0.0, 0.0)
            return floor + (bounds[place] - floor) * (wanted - under) / (upto - under)
    return float(bounds[-1])


def _sums(
    counted: Mapping[str, Sequence[float]], model: str | None, lane: str | None
) -> dict[str, Numbers]:
    """Return the sums over models and lanes, or those of one where a metric tells them apart."""
    wanted = {"model": model, "lane": lane}
    found: dict[str, Numbers] = {}
    for name, numbers in counted.items():
        metric, *values = name.split("\n")
        of = dict(zip(COUNTED[metric], values, strict=True))
        if any(wanted.get(label) not in (None, value) for label, value in of.items()):
            continue
        kind = next((of[label] for label in ("status", "outcome") if label in of), "")
        key = f"{metric.removeprefix('embedding_')} {kind}".strip()
        before = found.get(key, [0.0] * len(numbers))
        found[key] = [a + b for a, b in zip(before, numbers, strict=True)]
    return found


def _rates(reading: Reading, model: str | None, lane: str | None) -> Row:
    """Return what was counted, a second, and what its histograms say.

    Latency is that of requests; of a model or a lane it is their time at the model.
    """
    grown = _sums(reading.counted, model, lane)
    chosen = model is not None or lane is not None

    def rate(name: str) -> float:
        """A counter's, or a histogram's, whose count is the last bucket, before the sum."""
        return grown.get(name, [0.0])[-2:][0] / reading.span_s

    kinds = [f"request_seconds {kind}xx" for kind in range(1, 6)]
    answered = grown.get("model_seconds" if chosen else kinds[1], [])[:-1]
    waited = grown.get("queue_seconds", [])[:-1]
    passes, filled = grown.get("pass_fill_ratio", [0.0, 0.0])[-2:]
    hits, misses = rate("cache hit"), rate("cache miss")
    return {
        "requests": rate("model_seconds") if chosen else sum(map(rate, kinds)),
        "client_errors": rate(kinds[3]),
        "server_errors": rate(kinds[4]),
        **{f"p{share}": quantile(share / 100, answered) for share in (50, 95, 99)},
        **{f"wait_p{share}": quantile(share / 100, waited) for share in (50, 99)},
        "texts": rate("texts"),
        "tokens": rate("tokens"),
        "fill": filled / passes if passes else None,
        "cache_hits": hits / (hits + misses) if hits + misses else None,
        "cores": rate("process_cpu_seconds") + rate("model_process_cpu_seconds"),
    }


def _levels(shown: Mapping[str, float], model: str | None, lane: str | None) -> Row:
    """Return what waits in each lane that is asked for, the memory, and how the GPUs are."""
    lanes = [each for each in metrics.LANES if lane in (None, each)]
    row: Row = dict.fromkeys(("memory", *(f"queue_{each}" for each in lanes)), 0.0)
    for name, value in shown.items():
        metric, *values = name.split("\n")
        if metric in OF_A_GPU:
            row[f"{OF_A_GPU[metric]} {values[0]}"] = value
            continue
        if metric == QUEUED and model not in (None, values[0]):
            continue
        kind = f"queue_{values[1]}" if metric == QUEUED else "memory"
        if kind in row:
            row[kind] = (row[kind] or 0.0) + value
    return row
