"""A model on a GPU that is not there: its passes raise what torch raises, when a text says so.

The exceptions are torch's own classes with torch's own words; that a real GPU raises them is not
shown here.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from config import ModelSettings, ModelSpec
from embedders.base import Embedder, Input, Item, Prompt, Truncate, Vectors
from embedders.device import DeviceEmbedder
from embedders.fake import FakeEmbedder


def full() -> Exception:
    """Return what torch's allocator raises."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")


def accelerator(text: str, code: int) -> Exception:
    """Return what a CUDA call raises."""
    exc = torch.AcceleratorError(text)
    exc.error_code = code
    return exc


def lost() -> Exception:
    """Return what every CUDA call raises once an assertion of a kernel has failed."""
    return accelerator("CUDA error: device-side assert triggered\nCUDA kernel errors might be", 710)


def odd() -> Exception:
    """Return an error that says nothing of the device."""
    return RuntimeError("expected mat1 and mat2 to have the same dtype, but got: float != BFloat16")


class Simulated(DeviceEmbedder):
    """Obeys the words `huge lost odd nan` of its texts; `raises` has more words."""

    def __init__(self, device: str = "cuda:0", name: str = "simulated") -> None:
        self._fake = FakeEmbedder(name, max_tokens=64)
        self._device = torch.device(device)
        self.facts = replace(self._fake.facts, device=device)
        self.weights: torch.Tensor | None = torch.ones(1000)
        self.raises: dict[str, Callable[[], Exception]] = {"huge": full, "lost": lost, "odd": odd}
        self.exactly_raises: Callable[[], Exception] | None = None
        self.taken = 0  # tries that find no memory, whatever they are for
        self.passes: list[list[str]] = []
        self.threads: set[str] = set()
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

    def prepare(self, inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        return self._fake.prepare(inputs, prompt, truncate)

    def _forward(self, items: Sequence[Item]) -> Vectors:
        texts = [str(item.payload) for item in items]
        self.passes.append(texts)
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.open.wait(60)
        if self.taken:
            self.taken -= 1
            raise full()
        for word in (word for text in texts for word in text.split()):
            if word in self.raises:
                raise self.raises[word]()
        vectors = self._fake.encode(items).vectors
        for row, text in enumerate(texts):
            if "nan" in text.split():
                vectors[row] = np.nan
        return vectors

    def _forward_exactly(self, items: Sequence[Item]) -> Vectors:
        if self.exactly_raises:
            raise self.exactly_raises()
        return self._fake.encode(items).vectors

    def _release(self) -> None:
        self.weights = None

    def vector(self, text: str) -> np.ndarray:
        """Return the vector of one text, before normalisation."""
        return self._fake.vector(text)


def building(*embedders: Embedder) -> Callable[[ModelSpec, ModelSettings], Embedder]:
    """Return a builder that gives these, one after the other, the last one for ever."""
    left = list(embedders)

    def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
        return left.pop(0) if len(left) > 1 else left[0]

    return build
