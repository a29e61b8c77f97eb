"""The tables of `make bench`: what its rounds found, as Markdown.

A round is a dict: `servers` by name with `loads`, `least_cosine` and `start_s`; `passes` by way;
`encode`, `engine`, `peak`; `not_measured` by name with the reason. What could not be measured has
no cell and no ratio.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from bench.corpus import Corpus
from bench.passes import SHAPES
from bench.peak import gemm_peak, share
from bench.window import Window

Round = dict[str, Any]
Where = tuple[str, str, str]  # a load, a group of its clients, a figure of that group
LONE: Where = ("single:1", "single", "p50_ms")
FULL: Where = ("batch32:4", "batch32", "texts_s")
COMPARED = {
    "`single`, 1 client, p50 ms": LONE,
    "`single`, 32 clients, requests/s": ("single:32", "single", "requests_s"),
    "`batch32`, 1 client, texts/s": ("batch32:1", "batch32", "texts_s"),
    "`batch32`, 4 clients, texts/s": FULL,
}
# What of ours is held to which others; to all that is not ours where none is named.
HELD: dict[str, tuple[str, ...]] = {"ours": (), "ours-int8": ("ours", "ort-int8")}
# Two figures of ours whose ratio is told.
WITHIN: dict[str, tuple[Where, Where]] = {
    "`mixed`, p99 of single requests / alone": (
        ("mixed:8", "single", "p99_ms"), ("single:8", "single", "p99_ms"),
    ),
    "`mixed`, texts/s of the bulk client / alone": (
        ("mixed:8", "bulk", "texts_s"), ("bulk:1", "bulk", "texts_s"),
    ),
}  # fmt: skip
DETAILS = {
    "requests/s": "requests_s", "texts/s": "texts_s", "tokens/s": "tokens_s", "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
}  # fmt: skip


def figure(found: Round, name: str, where: Where) -> float | None:
    """Return what a server reached in one round, or None where that was not measured."""
    load, group, key = where
    groups = found["servers"].get(name, {}).get("loads", {}).get(load, {}).get("groups", {})
    return float(groups[group][key]) if group in groups else None


def ratios(found: Round, corpus: Corpus) -> dict[str, float]:
    """Return every ratio of one round of which both parts were measured."""
    told: dict[str, float] = {}

    def put(label: str, over: float | None, under: float | None) -> None:
        if over is not None and under:
            told[label] = over / under

    theirs = dict.fromkeys((*found["servers"], *found["passes"]))
    for mine, named in HELD.items():
        for other in named or [name for name in theirs if not name.startswith("ours")]:
            for label, where in COMPARED.items():
                both = figure(found, mine, where), figure(found, other, where)
                put(f"{label}: {mine} / {other}", *both)
            for shape in SHAPES:
                both = _pass_ms(found, mine, shape), _pass_ms(found, other, shape)
                put(f"without HTTP, {shape}, p50 ms: {mine} / {other}", *both)
    texts, alone = figure(found, "ours", FULL), found.get("engine", {}).get("texts_s")
    coded = figure(found, "ours", ("batch32:4:base64", "batch32", "texts_s"))
    put("`batch32`, 4 clients, texts/s: ours / `encode`", texts, found["encode"]["texts_s"])
    put("`batch32`, 4 clients, floats: over HTTP / the engine alone", texts, alone)
    put("`batch32`, 4 clients, base64: over HTTP / the engine alone", coded, alone)
    for label, (one, other) in WITHIN.items():
        put(label, figure(found, "ours", one), figure(found, "ours", other))
    of_int8 = _share(found, "ours-int8", corpus, found["peak"]["int8_gops"])
    put("`batch32`, 4 clients, share of the rate of int8 products: ours-int8", of_int8, 1)
    return told


def medians(rounds: Sequence[Round], corpus: Corpus) -> dict[str, tuple[float, float, float]]:
    """Return each ratio's median, lowest and highest over the rounds."""
    each = [ratios(found, corpus) for found in rounds]
    seen = {key: [told[key] for told in each if key in told] for told in each for key in told}
    return {key: (statistics.median(v), min(v), max(v)) for key, v in seen.items()}


def tables(rounds: Sequence[Round], names: Sequence[str], corpus: Corpus) -> str:
    """Return the tables for docs/benchmarks.md: medians of the rounds, ratios within a round."""
    measured = [name for name in names if any(name in found["servers"] for found in rounds)]
    ways = list(dict.fromkeys(way for found in rounds for way in found["passes"]))
    rates = {key: _middle(found["peak"][key] for found in rounds) for key in rounds[0]["peak"]}
    encode = _middle(found["encode"]["texts_s"] for found in rounds)
    passes = [
        [way, *(_middle(_pass_ms(found, way, shape) for found in rounds) for shape in SHAPES)]
        for way in ways
    ]
    spread = [
        [label, *(f"{value:.2f}" for value in three)]
        for label, three in medians(rounds, corpus).items()
    ]
    return "\n\n".join(
        (
            table(["load", *measured], _summary(rounds, measured, corpus)),
            f"`encode`, 32 texts a call, without HTTP: {encode} texts/s.",
            "The machine: " + ", ".join(f"{key} {rate}" for key, rate in rates.items()) + ".",
            table(["without HTTP, p50 ms", *SHAPES], passes),
            table(["ratio", "median", "lowest", "highest"], spread),
            table(["server", "load", *DETAILS, "answers", "errors"], _details(rounds, measured)),
        )
    )


def few_answers(rounds: Sequence[Round], window: Window) -> list[str]:
    """Return a sentence for each window that ended before it had enough answers."""
    return [
        f"{name} answered {load} ({group}) {figures['requests']} times in {window.longest:.0f} s."
        for found in rounds
        for name, server in found["servers"].items()
        for load, result in server["loads"].items()
        for group, figures in result["groups"].items()
        if figures["requests"] < window.least
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _summary(rounds: Sequence[Round], names: Sequence[str], corpus: Corpus) -> list[list[str]]:
    """Return a row for each figure, with a cell for each server."""
    values: dict[str, Callable[[Round, str], float | None]] = {
        label: partial(figure, where=where) for label, where in COMPARED.items()
    }
    values |= {
        "the same, share of the rate of float products": lambda found, name: _share(
            found, name, corpus, gemm_peak(found["peak"])
        ),
        "`single`, 1 client: ms over HTTP beyond the engine's": _outside_ms,
        "start to ready, s": lambda found, name: found["servers"].get(name, {}).get("start_s"),
        "peak memory, MB": _peak_mb,
    }
    rows = [
        [label, *(_middle(value(found, name) for found in rounds) for name in names)]
        for label, value in values.items()
    ]
    cosines = [
        [each["least_cosine"] for found in rounds if (each := found["servers"].get(name))]
        for name in names
    ]
    return [*rows, ["least cosine to `encode` in float32", *(f"{min(c):.6f}" for c in cosines)]]


def _details(rounds: Sequence[Round], names: Sequence[str]) -> list[list[str]]:
    """Return a row for each server, load and group: medians, the fewest answers, all errors."""
    rows = []
    for name in names:
        each = [found["servers"][name]["loads"] for found in rounds if name in found["servers"]]
        places = {
            (load, group) for loads in each for load in loads for group in loads[load]["groups"]
        }
        for load, group in sorted(places):
            seen = [loads[load]["groups"][group] for loads in each if load in loads]
            cells = [_middle(figures[key] for figures in seen) for key in DETAILS.values()]
            fewest = min(figures["requests"] for figures in seen)
            errors = sum(figures["errors"] for figures in seen)
            label = load if load.startswith(group) else f"{load} ({group})"
            rows.append([name, label, *cells, str(fewest), str(errors)])
    return rows


def _pass_ms(found: Round, way: str, shape: str) -> float | None:
    passes: dict[str, float] = found["passes"].get(way, {})
    return passes.get(shape)


def _outside_ms(found: Round, name: str) -> float | None:
    """Return what a lone request takes beside its pass: HTTP, JSON and the client."""
    whole, alone = figure(found, name, LONE), _pass_ms(found, name, "single")
    return None if whole is None or alone is None else whole - alone


def _share(found: Round, name: str, corpus: Corpus, gflops: float) -> float | None:
    texts_s = figure(found, name, FULL)
    return None if texts_s is None else share(corpus, texts_s, gflops)


def _peak_mb(found: Round, name: str) -> float | None:
    loads = found["servers"].get(name, {}).get("loads", {})
    return max((load["peak_mb"] for load in loads.values()), default=None)


def _middle(values: Iterable[float | None]) -> str:
    """Return the median of the values that are known, with three or more digits, or ""."""
    there = [value for value in values if value is not None]
    if not there:
        return ""
    middle = statistics.median(there)
    return f"{middle:,.{2 if abs(middle) < 10 else 1 if abs(middle) < 100 else 0}f}"
