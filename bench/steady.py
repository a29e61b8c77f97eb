"""The server's memory over 100,000 requests: single texts and batches by turns, all widths.

python -m bench.steady [--requests 100000] [--first 5000]
"""

import argparse
import json
import urllib.request

from bench.corpus import load
from bench.http import measure
from bench.servers import SERVERS, Running, started

# Mostly single texts, as many requests as possible; every so often batches of every width.
TURNS = ("single:32", "single:32", "single:32", "batch32:4")


def answered(running: Running) -> int:
    """Return how many requests the server has counted."""
    asked = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/metrics", headers={"Accept": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=10) as reply:  # on loopback  # nosec B310
        return int(json.load(reply)["requests_total"])


def main() -> None:
    """Print the memory every so often, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=5_000)
    given = parser.parse_args()
    corpus, server, turn, errors = load(), SERVERS["ours"], 0, 0
    seen: list[tuple[int, float]] = []
    with started(server) as running:
        while not seen or seen[-1][0] < given.requests:
            result = measure(running=running, server=server, what=TURNS[turn % len(TURNS)],
                             window=5, corpus=corpus)  # fmt: skip
            errors += sum(group["errors"] for group in result["groups"].values())
            turn += 1
            seen.append((answered(running), running.memory_mb("VmRSS")))
            print(f"{seen[-1][0]:>8} requests  {seen[-1][1]:.1f} MB", flush=True)
    early = next(memory for count, memory in seen if count >= given.first)
    last = seen[-1][1]
    print(
        json.dumps(
            {
                "requests": seen[-1][0], "errors": errors, "first_mb": round(early, 1),
                "last_mb": round(last, 1), "growth": round(last / early - 1, 4),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
