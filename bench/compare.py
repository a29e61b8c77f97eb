"""Ours beside its rivals on this machine: `make bench`.

Every round starts each server in turn, alone on the machine, and gives it the same loads; a ratio
is taken within a round, and the median of the rounds is told. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.corpus import Corpus, load
from bench.http import least_cosine, measure
from bench.passes import WAYS
from bench.peak import busy_cores, rates
from bench.report import Round, few_answers, medians, tables
from bench.servers import QUIET, RIVALS, ROOT, SERVERS, prepare, started
from bench.window import Window

RIVAL_LOADS = ("single:1", "single:32", "batch32:1", "batch32:4")
LOADS = (*RIVAL_LOADS, "batch32:4:base64", "single:8", "mixed:8", "bulk:1")
DEFAULT = ("ours", "ours-int8", "infinity", "infinity-onnx", "flask", "ort", "ort-int8")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
PACKAGES = ("torch", "sentence-transformers", "transformers", "onnxruntime", "flask", "gunicorn")


@dataclass(frozen=True)
class Plan:
    """How much is measured. Further rounds are left out where all would take over `minutes`."""

    rounds: int
    window: Window
    minutes: float = 30


WHOLE = Plan(3, Window(2.5, least=20))
# For a first look: a server that answers in seconds has four answers in its window.
ROUGH = Plan(1, Window(0.6, least=4, longest=8))


def _own(*command: str) -> dict[str, float]:
    """Run a measurement that is no server in a process of its own; its last line is JSON.

    Raises RuntimeError with the last line of what it said if it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2][-300:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def one_round(names: list[str], window: Window, corpus: Corpus) -> Round:
    """Measure every server once. What fails is named with its reason, and the round goes on."""
    found: Round = {"others_cores": busy_cores(), "peak": rates(), "servers": {}, "passes": {},
                    "not_measured": {}}  # fmt: skip
    found["encode"] = _own("bench.rivals.encode", *window.options())
    for name in names:
        try:
            _serve(name, window, corpus, found["servers"])
        except (RuntimeError, OSError, subprocess.CalledProcessError) as exc:
            found["not_measured"][name] = str(exc)
            _say(f"{name}: not measured: {exc}")
    for name in (name for name in names if name in WAYS):
        _say(f"{name}: without HTTP")
        try:
            found["passes"][name] = _own("bench.passes", name, *window.options())
            if name == "ours":
                found["engine"] = _own("bench.engine", "--seconds", str(2 * window.seconds))
        except RuntimeError as exc:
            found["not_measured"][f"{name}, without HTTP"] = str(exc)
    return found


def _serve(name: str, window: Window, corpus: Corpus, servers: dict[str, Any]) -> None:
    """Start a server, and put into `servers` what it does under each load."""
    server = SERVERS[name]
    with started(server) as running:
        cosine = least_cosine(server, running, corpus)
        servers[name] = {"start_s": running.start_s, "least_cosine": cosine, "loads": {}}
        for what in LOADS if name == "ours" else RIVAL_LOADS:
            _say(f"{name}: {what}")
            servers[name]["loads"][what] = measure(server, running, what, window, corpus)


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {what}", file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Describe what this ran on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    infinity = re.search(r"infinity-emb.*==(.+)", (RIVALS / "infinity.txt").read_text())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        **{name: version(name) for name in PACKAGES},
        "infinity": infinity[1] if infinity else "",
    }


def prepared(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Install and export what the servers need, so that no round waits for it.

    Returns the servers that can be started, and why the others cannot.
    """
    ready, failed = [], {}
    for name in names:
        try:
            prepare(SERVERS[name])
            ready.append(name)
        except (OSError, subprocess.CalledProcessError) as exc:
            failed[name] = str(exc)
    return ready, failed


def measured(plan: Plan, names: list[str], corpus: Corpus) -> list[Round]:
    """Return the rounds: as many as planned, but no more than fit into the time.

    A server that could not be measured is left out of the rounds that follow.
    """
    rounds: list[Round] = []
    began = time.monotonic()
    while len(rounds) < plan.rounds:
        each = (time.monotonic() - began) / max(1, len(rounds))
        if rounds and each * (len(rounds) + 1) > 60 * plan.minutes:
            break
        _say(f"round {len(rounds) + 1} of {plan.rounds}")
        rounds.append(one_round(names, plan.window, corpus))
        names = [name for name in names if name in rounds[-1]["servers"]]
    return rounds


def remarks(plan: Plan, rounds: list[Round], failed: dict[str, str], took_s: float) -> list[str]:
    """Return what a reader of the figures must know, most important first."""
    window, busy = plan.window, max(found["others_cores"] for found in rounds)
    said = [
        f"Rounds: {len(rounds)} of {plan.rounds}, in {took_s / 60:.1f} min. Windows: at least "
        f"{window.seconds:g} s and {window.least} answers of each group of clients, at most "
        f"{window.longest:g} s."
    ]
    if plan.rounds < WHOLE.rounds or window.least < WHOLE.window.least:
        said.insert(0, "ROUGH: few answers or rounds, so a ratio may be off by half.")
    if len(rounds) < plan.rounds:
        said.append(f"One more round would have taken it over {plan.minutes:g} minutes.")
    if busy > 0.1:
        said.append(f"Other programs kept {busy:.1f} cores busy: NOT to be trusted, run it again.")
    for found in rounds:
        failed = failed | found["not_measured"]
    return [
        *said,
        *few_answers(rounds, window),
        *(f"Not measured: {n}: {why}" for n, why in failed.items()),
    ]


def main() -> None:
    """Print the tables, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="rough figures in five minutes")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of a window, at least")
    parser.add_argument("--servers", nargs="*", default=list(DEFAULT), choices=SERVERS)
    given = parser.parse_args()
    plan = ROUGH if given.quick else WHOLE
    window = replace(plan.window, seconds=given.seconds or plan.window.seconds)
    plan = replace(plan, rounds=given.rounds or plan.rounds, window=window)
    corpus, (names, failed) = load(), prepared(given.servers)
    began = time.monotonic()
    rounds = measured(plan, names, corpus)
    told = machine()
    said = remarks(plan, rounds, failed, time.monotonic() - began)
    print(", ".join(f"{key} {value}" for key, value in told.items()), *said, sep="\n\n")
    print(f"\n{tables(rounds, names, corpus)}\n")
    middle = {label: three[0] for label, three in medians(rounds, corpus).items()}
    result = {"machine": told, "remarks": said, "ratios": middle, "rounds": rounds}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
