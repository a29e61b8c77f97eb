"""The product of token states with a vocabulary, of which each text keeps its largest values.

The logits of all tokens are never held: a block of the vocabulary is computed, pooled, and its
memory is free for the next.
"""

import copy
import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from embedders.layers import Linear, TorchLayers

BLOCK = 2048  # terms


def without_decoder(network: Any) -> tuple[Any, Any]:
    """Return a masked language model whose result is what its decoder reads, and the decoder.

    The weights are shared, and the given network stays as it is.
    """
    import torch

    decoder = network.get_output_embeddings()
    path = next(name for name, module in network.named_modules() if module is decoder).split(".")
    headless = part = _shallow(network)
    for name in path[:-1]:
        part._modules[name] = _shallow(part._modules[name])
        part = part._modules[name]
    part._modules[path[-1]] = torch.nn.Identity()
    return headless, decoder


def _shallow(module: Any) -> Any:
    made = copy.copy(module)
    made._modules = dict(module._modules)
    return made


class Terms:
    """Makes each text's weights of all terms of what the decoder reads."""

    def __init__(self, decoder: Any, dtype: Any, pooling: Any, most: int | None) -> None:
        """Copy the decoder where that is faster. At most `most` weights of a text stay."""
        import torch

        self._sums = pooling.pooling_strategy == "sum"
        self._logarithms = 2 if pooling.activation_function == "log1p_relu" else 1
        self._most = most
        self._count = len(decoder.weight)
        weight, bias = decoder.weight.detach().to(dtype), decoder.bias
        bias = weight.new_zeros(self._count) if bias is None else bias.detach().to(dtype)
        self._blocks: list[tuple[slice, Any]] = []
        mkldnn: Any = torch.backends.mkldnn
        self._packs = weight.device.type == "cpu" and mkldnn.is_available()
        for start in range(0, self._count, BLOCK):
            block = slice(start, min(start + BLOCK, self._count))
            rows = SimpleNamespace(weight=weight[block], bias=bias[block])
            linear = functools.partial(torch.nn.functional.linear, **vars(rows))
            self._blocks.append((block, Linear([rows], dtype) if self._packs else linear))

    def __call__(self, states: Any, lengths: Sequence[int]) -> Any:
        """Return (n, vocabulary) float32 of (tokens, d), text after text. Needs inference mode."""
        import torch

        used = len(states)
        if self._packs:  # see ROWS_STEP in layers.py
            more = TorchLayers.rows(used) - used
            states = torch.cat([states, states.new_zeros(more, states.shape[1])])
        scores = states.new_empty((len(lengths), self._count), dtype=torch.float32)
        for block, linear in self._blocks:
            logits = linear(states)[:used]
            if self._sums:
                logits = self._activated(logits.float())
            self._pool(logits, lengths, scores[:, block])
        if not self._sums:
            scores = self._activated(scores)
        return self.heaviest(scores)

    def heaviest(self, weights: Any) -> Any:
        """Return an array or a tensor (..., vocabulary) with the model's most weights of a text."""
        from sentence_transformers.util import select_max_active_dims

        return select_max_active_dims(weights, self._most)

    def _pool(self, logits: Any, lengths: Sequence[int], to: Any) -> None:
        """Write each text's largest values, or their sums, to a row of `to`."""
        import torch

        if logits.is_cuda:
            counts = torch.tensor(lengths, device=logits.device)
            reduce = "sum" if self._sums else "max"
            to.copy_(torch.segment_reduce(logits.float(), reduce, lengths=counts, unsafe=True))
            return
        for row, each in zip(to, logits.split(list(lengths)), strict=True):
            row.copy_(each.sum(0) if self._sums else each.amax(0))

    def _activated(self, values: Any) -> Any:
        values = values.relu_()
        for _ in range(self._logarithms):
            values = values.log1p_()
        return values
