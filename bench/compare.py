"""Ours beside its rivals on this machine: `make bench`.

Every round starts each server in turn, alone on the machine, and gives it the same loads; a ratio
is taken within a round, and the median of the rounds is told. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.corpus import Corpus, load
from bench.http import least_cosine, measure
from bench.peak import busy_cores, gemm_peak, rates, share
from bench.servers import QUIET, ROOT, SERVERS, started

RIVAL_LOADS = ("single:1", "single:32", "batch32:1", "batch32:4")
LOADS = (*RIVAL_LOADS, "batch32:4:base64", "single:8", "mixed:8", "bulk:1")
# A request of these takes seconds on a slow machine: so many times as long, or one is all there is.
LONGER = {"batch32:4": 2, "batch32:4:base64": 2}
# What is compared, in which load, and whether more is better.
RATIOS = {
    "batch32:4 texts/s": ("batch32:4", "batch32", "texts_s"),
    "batch32:1 texts/s": ("batch32:1", "batch32", "texts_s"),
    "single:32 requests/s": ("single:32", "single", "requests_s"),
    "single:1 p50": ("single:1", "single", "p50_ms"),
}


def _own(*command: str) -> dict[str, float]:
    """Run a measurement that is no server in a process of its own; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def one_round(names: list[str], seconds: float, corpus: Corpus) -> dict[str, Any]:
    """Measure every server once."""
    found: dict[str, Any] = {"others_cores": busy_cores(), "peak": rates()}
    found["encode"] = _own("bench.rivals.encode", str(seconds))
    for name in names:
        server = SERVERS[name]
        try:
            with started(server) as running:
                wanted = LOADS if name == "ours" else RIVAL_LOADS
                loads = {
                    what: measure(server, running, what, seconds * LONGER.get(what, 1), corpus)
                    for what in wanted
                }
                cosine = least_cosine(server, running, corpus)
                found[name] = {"start_s": running.start_s, "least_cosine": cosine, **loads}
        except (RuntimeError, subprocess.CalledProcessError) as exc:
            print(f"{name} could not be measured: {exc}", file=sys.stderr)
    longer = seconds * LONGER["batch32:4"]
    found["engine"] = _own("bench.engine", "--seconds", str(longer))
    return found


def ratios(found: dict[str, Any], corpus: Corpus) -> dict[str, float]:
    """Return every ratio of one round, ours over the other."""
    told = {}
    ours = found["ours"]

    def figure(of: dict[str, Any], what: str, group: str, key: str) -> float:
        return float(of[what]["groups"][group][key])

    for name in set(found) & set(SERVERS) - {"ours"}:
        for label, where in RATIOS.items():
            told[f"{label} / {name}"] = figure(ours, *where) / max(
                figure(found[name], *where), 1e-9
            )
    texts = figure(ours, "batch32:4", "batch32", "texts_s")
    coded = figure(ours, "batch32:4:base64", "batch32", "texts_s")
    told["batch32:4 texts/s / encode"] = texts / found["encode"]["texts_s"]
    told["batch32:4 floats / engine"] = texts / found["engine"]["texts_s"]
    told["batch32:4 base64 / engine"] = coded / found["engine"]["texts_s"]
    told["batch32:4 share of the GEMM peak"] = share(corpus, texts, gemm_peak(found["peak"]))
    told["mixed p99 of single / p99 alone"] = figure(ours, "mixed:8", "single", "p99_ms") / figure(
        ours, "single:8", "single", "p99_ms"
    )
    bulk = figure(ours, "mixed:8", "bulk", "texts_s") / figure(ours, "bulk:1", "bulk", "texts_s")
    told["mixed bulk texts/s / bulk alone"] = bulk
    return told


def machine() -> dict[str, Any]:
    """Describe what this ran on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    kinds = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    packages = ("torch", "sentence-transformers", "transformers", "flask", "gunicorn")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "flags": kinds,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        **{name: version(name) for name in packages},
    }


def main() -> None:
    """Print the tables, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.8)
    parser.add_argument(
        "--servers", nargs="*", default=["ours", "infinity", "infinity-onnx", "flask"]
    )
    given = parser.parse_args()
    corpus = load()
    rounds = [one_round(given.servers, given.seconds, corpus) for _ in range(given.rounds)]
    print(f"| server | load | {'requests/s | texts/s | tokens/s | p50 ms | p99 ms | peak MB'} |")
    print("|---" * 8 + "|")
    for name in given.servers:
        for what in LOADS:
            for line in _lines(rounds, name, what):
                print(line)
    busy = max(found["others_cores"] for found in rounds)
    if busy > 0.1:
        print(
            f"\nOther programs kept {busy:.1f} cores busy: NOT to be trusted, run it again alone."
        )
    each = [ratios(found, corpus) for found in rounds]
    keys = sorted({key for found in each for key in found})
    medians = {key: statistics.median(r[key] for r in each if key in r) for key in keys}
    print("\n| ratio (median of rounds) | value | lowest | highest |\n|---|---|---|---|")
    for key, value in medians.items():
        seen = [r[key] for r in each if key in r]
        print(f"| {key} | {value:.2f} | {min(seen):.2f} | {max(seen):.2f} |")
    for name in given.servers:
        cosines = [found[name]["least_cosine"] for found in rounds if name in found]
        print(
            f"\nleast cosine of {name} to float32 `encode`: {min(cosines, default=0):.6f}", end=""
        )
    print("\n")
    print(
        json.dumps(
            {"machine": machine(), "others_cores": busy, "ratios": medians, "rounds": rounds}
        )
    )


def _lines(rounds: list[dict[str, Any]], name: str, what: str) -> list[str]:
    found = [r[name][what] for r in rounds if what in r.get(name, {})]
    lines = []
    for group in found[0]["groups"] if found else ():
        keys = ("requests_s", "texts_s", "tokens_s", "p50_ms", "p99_ms")
        cells = [statistics.median(f["groups"][group][key] for f in found) for key in keys]
        peak = max(f["peak_mb"] for f in found)
        numbers = " | ".join(f"{cell:,.1f}" for cell in cells)
        lines.append(f"| {name} | {what} ({group}) | {numbers} | {peak:.0f} |")
    return lines


if __name__ == "__main__":
    main()
