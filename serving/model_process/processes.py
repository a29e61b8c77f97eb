"""The model processes of this machine, one for each device, and the build that sends models there.

Remote providers stay in the workers. Of several GPUs each is seen by its own process only.
"""

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from config import ModelSettings, ModelSpec
from embedders import REMOTE
from embedders.base import Embedder
from errors import ModelUnavailable, Unavailable
from server import master
from server.master import DIVIDED, GPUS, RUN_DIR
from serving.loader import Build
from serving.model_process.client import ModelProcess
from serving.model_process.embedder import ProcessEmbedder
from serving.model_process.folder import ROOT
from serving.model_process.frames import Head, Part, Parts

CUDA = "CUDA_VISIBLE_DEVICES"
CALL_S = 1.0  # how long a call to what workers share may take: a cache is to save time


class Processes:
    """The model processes that a worker uses. Safe from many threads."""

    def __init__(self, gpus: list[str] | None = None) -> None:
        """Take the GPUs as CUDA_VISIBLE_DEVICES names them; None: those that the master saw."""
        given = os.environ.get(GPUS)
        if gpus is None:
            gpus = master.gpus() if given is None else [each for each in given.split(",") if each]
        self.gpus = gpus
        self._lock = threading.Lock()
        self._known: dict[str, ModelProcess] = {}
        self._private: Path | None = None

    def build(self, elsewhere: Build) -> "ProcessBuild":
        """Return a build that loads local models in their processes, and others by `elsewhere`."""
        return ProcessBuild(self, elsewhere)

    def of(self, device: str) -> tuple[ModelProcess, str, str]:
        """Return the process of a device, and the device's name inside of it and outside."""
        kind, _, index = device.partition(":")
        place = int(index or 0)
        if kind == "cuda" and place < len(self.gpus):
            return self._process(f"gpu{place}"), "cuda", f"cuda:{place}"
        if kind == "cuda" and self.gpus:
            raise ModelUnavailable(f"DEVICE={device}: this machine has {len(self.gpus)} GPUs")
        if kind == "auto" and self.gpus:
            return self._process("gpu0"), "auto", "cuda:0"
        return self._process("cpu"), device, device

    def call(self, operation: str, head: Head, *parts: Part) -> tuple[Head, Parts]:
        """Return the reply of the first process, which all workers share; never start it.

        Raises Unavailable, or the error that the process replies.
        """
        with self._lock:
            process = self._known.get("gpu0" if self.gpus else "cpu")
        if process is None:
            raise Unavailable("no model process runs")
        return process.call(operation, head, *parts, limit_s=CALL_S)

    def close(self) -> None:
        """Let go of every process, for good."""
        with self._lock:
            known = list(self._known.values())
        for process in known:
            process.close()

    def _process(self, name: str) -> ModelProcess:
        with self._lock:
            if name not in self._known:
                private = () if os.environ.get(RUN_DIR) else ("--private",)
                self._known[name] = ModelProcess(
                    self._folder, name, self._environment(name), *private
                )
            return self._known[name]

    def _folder(self) -> Path:
        """Return the run folder: the service's, or one of this process alone."""
        if given := os.environ.get(RUN_DIR):
            return Path(given)
        with self._lock:
            if self._private is None or not self._private.exists():
                self._private = Path(tempfile.mkdtemp(prefix="embedding-models-"))
                atexit.register(shutil.rmtree, self._private, ignore_errors=True)
            return self._private

    def _environment(self, name: str) -> Mapping[str, str]:
        """Return the environment of a process: all cores, and its own GPU or none."""
        divided = os.environ.get(DIVIDED, "").split(",")
        environment = {k: v for k, v in os.environ.items() if k not in (*divided, DIVIDED)}
        paths = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        # A progress bar is no line of a log, and writing to a closed pipe it keeps tqdm's lock.
        environment.setdefault("TQDM_DISABLE", "1")
        if self.gpus:
            environment[CUDA] = self.gpus[int(name[3:])] if name != "cpu" else ""
        return environment


class ProcessBuild:
    """Builds the models of a worker: local ones in the model process of their device."""

    def __init__(self, processes: Processes, elsewhere: Build) -> None:
        self._processes, self._elsewhere = processes, elsewhere

    def __call__(self, spec: ModelSpec, settings: ModelSettings) -> Embedder:
        """Return the embedder of one place. Raises what loading raises."""
        if not runs_here(spec):
            return self._elsewhere(spec, settings)
        process, inside, outside = self._processes.of(spec.device or settings.device)
        place = spec.model_copy(update={"device": inside, "devices": (), "base_urls": ()})
        return ProcessEmbedder(process, place, settings, outside)

    def devices(self, spec: ModelSpec, settings: ModelSettings) -> tuple[str, ...]:
        """Return the devices on which a model that names none gets a replica: every GPU."""
        wanted = spec.device or settings.device
        if spec.devices or not runs_here(spec) or len(self._processes.gpus) < 2:
            return spec.devices
        if wanted not in ("auto", "cuda"):
            return ()
        return tuple(f"cuda:{index}" for index in range(len(self._processes.gpus)))


def runs_here(spec: ModelSpec) -> bool:
    """Whether a place of a model is a device of this machine."""
    elsewhere = spec.base_url is not None or (bool(spec.base_urls) and not spec.devices)
    return spec.type not in REMOTE and not elsewhere
