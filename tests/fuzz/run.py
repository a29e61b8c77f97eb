"""Fuzzes one target: `python -m tests.fuzz.run requests FOLDER -max_total_time=60`.

Coverage-guided by atheris (libFuzzer); our own modules and those that read for us are instrumented
as they are imported. Ends with an error, after it printed the input, at the first finding.
"""

import logging
import sys
import tempfile
from pathlib import Path

import atheris

# Instrumented: what the bytes reach. Not torch and its like, which would take minutes.
OURS = [
    "routes",
    "schemas",
    "accounts",
    "auth",
    "cache",
    "errors",
    "jwt",
    "context",
    "memo",
    "tests",
]

with atheris.instrument_imports(include=OURS):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until the time is up or something is found."""
    name, folder, *flags = sys.argv[1:]
    corpus = Path(folder, "corpus")
    corpus.mkdir(parents=True)
    logging.disable(logging.CRITICAL)
    target, seeds = TARGETS[name](Path(tempfile.mkdtemp(dir=folder)))
    for i, seed in enumerate(seeds):
        (corpus / str(i)).write_bytes(seed)

    def shown(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            print(f"FOUND {data!r}", flush=True)
            raise

    # A process's peak begins with that of the one it came from, so the limit is on one allocation.
    limits = ["-timeout=20", "-rss_limit_mb=0", "-malloc_limit_mb=1024"]
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={folder}/", *limits, str(corpus)], shown)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
