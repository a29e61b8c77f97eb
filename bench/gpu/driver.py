"""Runs every part in a process of its own, ends those that take too long, prints the tables.

The libraries are imported once, and each part is a fork, as long as a fork can use the device. What
a part leaves running is ended with it, a server's processes too.
"""

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.gpu import packed, table
from bench.processes import below

ROOT = Path(__file__).parent.parent.parent
# The most wanted first, each with its share of the time, as seconds of 400.
PARTS = {
    "ground": 12, "right": 65, "passes": 75, "http": 100, "rivals": 20, "batcher": 22, "full": 25,
    "lost": 35, "swap": 28, "growth": 18,
}  # fmt: skip
ENDING_S = 4.0  # from the time at which a part should be done until it is killed
TABLE_S = 2.0
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG: what a part gets when this process is killed
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: what a part leaves behind becomes this process's child


def main(arguments: list[str]) -> int:
    """Run the parts; return 0 if all were done and found nothing wrong, else 1."""
    parser = argparse.ArgumentParser("python -m bench.gpu", description=__doc__)
    parser.add_argument("--pack", type=Path, help="a folder of `bench.gpu pack` (made if missing)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seconds", type=_seconds, default=3, help="of one measured load")
    parser.add_argument(
        "--seconds-total", type=_seconds, default=400, help="of everything but making a pack"
    )
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    given = parser.parse_args(arguments)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # ends what runs, as an interrupt does
    out = Path(os.environ.get("OUT") or ROOT / "bench" / "out" / "gpu")
    out.mkdir(parents=True, exist_ok=True)
    results, log = out / "result.jsonl", out / "log.txt"
    for file in (results, log, out / "table.md"):
        file.unlink(missing_ok=True)
    outcomes = []
    pack = given.pack or ROOT / "bench" / "out" / "gpu-pack"
    _make_if_missing(pack)
    end = time.monotonic() + given.seconds_total - TABLE_S
    with _unpacked(pack) as data:
        warm = _warm(given.device, log)
        left = list(given.only)
        while left:
            shares = sum(PARTS[name] for name in left)
            name = left.pop(0)
            began = time.monotonic()
            limit = began + (end - began) * PARTS[name] / shares
            run = {
                "part": name, "data": str(data), "device": given.device, "seconds": given.seconds,
                "results": str(results), "end": limit - ENDING_S,
            }  # fmt: skip
            outcome = ended(lambda run=run: _part(run, warm), limit, log)  # type: ignore[misc]
            outcomes.append(outcome)
            row = {"part": name, "outcome": outcome, "took_s": time.monotonic() - began}
            if outcome != "done":
                row["said"] = _last_line(log)
            with results.open("a", encoding="utf-8") as appended:
                appended.write(json.dumps(row) + "\n")
            print(f"{name}: {outcome} in {row['took_s']:.1f} s", flush=True)
    text = table.tables(results)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\n{results}")
    return int(set(outcomes) != {"done"})


def _seconds(text: str) -> float:
    """Return a time from the command line."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no positive number of seconds")


def _make_if_missing(pack: Path) -> None:
    """Make a pack where none is, or where one was cut off."""
    if not packed.is_whole(pack):
        print(f"makes the pack {pack}, which takes minutes and is kept", flush=True)
        command = [sys.executable, "-m", "bench.gpu", "pack", str(pack), "--no-wheels"]
        subprocess.run(command, cwd=ROOT, check=False)  # it may weigh too much, and be right
        if not packed.is_whole(pack):
            sys.exit(f"no pack could be made in {pack}")


@contextlib.contextmanager
def _unpacked(pack: Path) -> Iterator[Path]:
    """Unpack, set the environment and the import path, and return the folder of the data."""
    with packed.scratch(Path(tempfile.gettempdir()), "bench-gpu-") as scratch:
        data, site = packed.open_pack(pack, scratch)
        paths = [str(path) for path in (site, ROOT) if path]
        sys.path[:0] = paths
        os.environ.update({
            "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
            "BENCH_CORPUS": str(data / "corpus.json"), "BENCH_MODEL": str(data / "minilm"),
            "HF_HUB_CACHE": str(data / "hub"), "HF_HUB_OFFLINE": "1",
            "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # as the service's workers have it
        })  # fmt: skip
        yield data


def _warm(device: str, log: Path) -> bool:
    """Import the libraries; return whether a fork of this process can use the device then."""
    try:
        for name in PARTS:
            importlib.import_module(f"bench.gpu.{name}")
    except Exception:
        traceback.print_exc()  # each part will say so of itself
        return False

    def compute() -> None:
        import torch

        torch.ones(1, device=device).add_(1).item()

    return ended(compute, time.monotonic() + 30, log) == "done"


def _last_line(log: Path) -> str:
    """Return the last line of what the parts have written."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return lines[-1][:300] if lines else ""


def _part(run: dict[str, object], warm: bool) -> None:
    """Run a part, in this process or in a new program; called in a fork."""
    if not warm:
        os.execv(sys.executable, [sys.executable, "-m", "bench.gpu.driver", json.dumps(run)])
    module = importlib.import_module(f"bench.gpu.{run['part']}")
    from bench.gpu.run import Run

    here = Run(**{**run, "data": Path(str(run["data"])), "results": Path(str(run["results"]))})  # type: ignore[arg-type]
    try:
        module.main(here)
    except (Exception, SystemExit) as exc:
        here.record(failed=f"{type(exc).__name__}: {exc}")
        raise


def ended(work: Callable[[], object], limit: float, log: Path) -> str:
    """Do `work` in a fork; return how it ended: done, failed, killed, or out of time."""
    _control(SUBREAPER, 1)
    sys.stdout.flush()
    driver = os.getpid()
    pid = os.fork()
    if pid == 0:
        _forked(work, log, driver)
    status = None
    try:
        while time.monotonic() < limit and status is None:
            found, code = os.waitpid(pid, os.WNOHANG)
            status = code if found else None
            time.sleep(0.02)
    finally:  # also where this process is interrupted
        _end(pid, reaped=status is not None)
    if status is None:
        return "out of time"
    code = os.waitstatus_to_exitcode(status)
    return "done" if code == 0 else f"killed by signal {-code}" if code < 0 else "failed"


def _control(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # where it is not Linux
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _forked(work: Callable[[], object], log: Path, driver: int) -> None:
    """Do `work` and end the process; it ends with the driver too, and what it started with it."""
    code = 1
    try:
        os.setsid()
        _control(SUBREAPER, 1)
        signal.signal(signal.SIGTERM, _end_all)
        _control(DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != driver:
            _end_all()
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(said, 1)
        os.dup2(said, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end(pid: int, *, reaped: bool) -> None:
    """End a part and all that it started: first its group, then whatever has left it."""
    if not reaped:
        _signal(os.killpg, pid, signal.SIGTERM)
        time.sleep(0.5)
        _signal(os.killpg, pid, signal.SIGKILL)
    for each in below(os.getpid()):
        _signal(os.kill, each, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # none is left
        while True:
            os.waitpid(-1, 0)


def _end_all(*_: object) -> None:
    """Kill all that this process started, and itself."""
    for each in below(os.getpid()):
        _signal(os.kill, each, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        send(pid, number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end_all)  # a new program has lost the fork's
    _part(json.loads(sys.argv[1]), warm=True)
