"""What a pass that fails on its device means, whatever kind of model runs there.

Full memory halves the pass, and where not even one item fits the model moves to the CPU; a lost
device is told, for this process cannot use it again. The kinds of local models derive from it.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import metrics
from embedders.base import DeviceBroken, Embedder, Encoded, Item, OutOfMemory, Vectors

log = logging.getLogger("embedders")


class DeviceEmbedder(Embedder):
    """An embedder whose passes run on one device. `_forward` runs one, `_modules` are moved."""

    _device: Any  # a torch.device

    def _forward(self, items: Sequence[Item]) -> Vectors:
        """Run one pass. Returns (n, d) float32; raises what torch does."""
        raise NotImplementedError

    def _modules(self) -> Sequence[Any]:
        """Return what holds the weights."""
        raise NotImplementedError

    def encode(self, items: Sequence[Item], deadline: float | None = None) -> Encoded:
        """Run one pass over all `items`. Returns (n, d) float32.

        When not even one item fits on the GPU the model moves to the CPU, rather than die.
        Raises OutOfMemory for a pass that was too large, DeviceBroken for a lost device.
        """
        import torch

        try:
            return Encoded(self._forward(items), [item.tokens for item in items])
        except torch.cuda.OutOfMemoryError:
            failure: Exception = OutOfMemory("the GPU's memory is full")
        except torch.AcceleratorError as exc:  # sticky: the context is lost to this process
            failure = DeviceBroken(f"the device failed ({type(exc).__name__})")
        if isinstance(failure, OutOfMemory):  # outside of `except`: that holds the pass's tensors
            torch.cuda.empty_cache()
            if len(items) == 1:  # not even that fits; larger passes are halved by the batcher
                self._move_to_cpu()
                return Encoded(self._forward(items), [item.tokens for item in items])
        raise failure

    def _move_to_cpu(self) -> None:
        import torch

        log.error("out of memory on %s: the model goes on, more slowly, on the CPU", self._device)
        metrics.FAULTS.labels("moved_to_cpu").inc()
        self._device = torch.device("cpu")
        for module in self._modules():
            module.to(self._device)
        self.facts = replace(self.facts, device="cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
