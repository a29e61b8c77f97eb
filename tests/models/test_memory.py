"""An idle model's memory goes back to the system: a real model in a process of its own."""

import json
import subprocess
import sys

from tests.conftest import ROOT
from tests.embedders.repositories import NAME

MEASURE = """
import json, sys, time
from pathlib import Path
import embedders
from config import Config, ModelSpec
from engine import EmbedRequest, Engine
from serving.registry import Registry

def mb():
    rows = Path("/proc/self/status").read_text().splitlines()
    return int(next(row for row in rows if row.startswith("VmRSS")).split()[1]) / 1024

settings = Config(device="cpu", dtype="float32", cache="none")
specs = [ModelSpec(id=name, model_name=sys.argv[1], idle_unload_s=0.5) for name in ("warm", "m")]
registry = Registry(specs, "m", settings, embedders.build, embedders.size_of)
engine = Engine(registry)

def embed():
    return engine.embed(EmbedRequest(["a text"], "m")).vectors.tolist()

def gone():
    end = time.monotonic() + 60
    while registry.models["m"].state != "unloaded" and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1)  # its memory is returned in a thread
    return mb()

registry.load_now()  # the libraries, and what they keep, come with the first
gone()
found = []
for _ in range(2):
    vectors = embed()
    loaded = mb()
    found.append((loaded, gone()))
size = registry.default.memory_bytes / (1 << 20)
print(json.dumps({"found": found, "size": size, "vectors": vectors}))
"""


def test_the_memory_of_an_idle_model_is_returned_and_it_comes_back() -> None:
    command = [sys.executable, "-c", MEASURE, NAME]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for loaded, unloaded in said["found"]:
        assert loaded - unloaded > 0.7 * said["size"], said["found"]
    assert said["found"][-1][1] < said["found"][0][1] + 0.2 * said["size"], said["found"]
    assert len(said["vectors"][0]) == 384
