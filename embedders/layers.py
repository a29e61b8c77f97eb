"""A BERT-like encoder's layers in torch and oneDNN, on the rows of a pass without padding.

Attention takes texts of one length together; the other nine tenths of the work are products of one
dense matrix, by oneDNN with weights in its own layout. A call uses the cores that its thread is set
to; several calls at once share no state that changes.
"""

import copy
import functools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from embedders.table import Table

# oneDNN keeps a kernel for each number of rows: 400 MB after some thousand passes of any size, none
# with sizes rounded up (2 cores, AMX, torch 2.13, 2026-11). Attention of every width from 3 to 256
# adds little: 702 MB after 160 passes, 715 after 700 (2 cores, AVX512-BF16, 2026-11).
ROWS_STEP = 32
FEW_ROWS, FEW_ROWS_STEP = 64, 8


@dataclass(frozen=True)
class Slot:
    """The place of texts of one length in a pass. Slots go from the longest to the shortest."""

    start: int
    shape: tuple[int, int]  # texts, tokens of each


@functools.cache
def cores() -> int:
    """Return how many cores this process may use. The first call precedes any change of it."""
    import torch

    return int(torch.get_num_threads())


@functools.cache
def threads() -> ThreadPoolExecutor:
    """Return the threads that compute packed passes, the same ones for all models.

    torch and oneDNN keep kernels and memory for each thread that ever computed (1.2 GB after 800
    requests from 64 threads), and so an exchanged model brings no new threads.
    """
    return ThreadPoolExecutor(cores(), "encode")


def use_cores(count: int) -> None:
    """Make the operations of the calling thread use `count` cores."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


class TorchLayers:
    """The layers of a Hugging Face model, copied. Safe to call from several threads at once."""

    name = "packed"
    shared = True  # a pass is divided between the cores
    firsts = False
    table = Table

    def __init__(self, layers: Sequence[Any], heads: int, dtype: Any) -> None:
        self._layers = [_Layer(layer, heads, dtype) for layer in layers]

    @staticmethod
    def rows(used: int) -> int:
        """Return how many rows a pass of `used` tokens has."""
        step = FEW_ROWS_STEP if used <= FEW_ROWS else ROWS_STEP
        return -(-used // step) * step

    def __call__(self, states: Any, slots: Sequence[Slot], used: int) -> Any:
        """Return the last layer's states, (rows, d). Call within `torch.inference_mode`."""
        for layer in self._layers:
            states = layer(states, slots, used)
        return states


class FirstTokens(TorchLayers):
    """The same, with a last layer that computes only the first token of each text.

    It suits heads that read nothing else, as those of cross-encoders. 100 pairs of MiniLM-L6 take
    1.62 s of CPU instead of 1.78 in float32, and 1.53 instead of 1.72 by ONNX Runtime (Zen 4, one
    core of a busy machine, 2026-11-29; bench/rerank.py).
    """

    firsts = True

    def __init__(self, layers: Sequence[Any], heads: int, dtype: Any) -> None:
        super().__init__(layers[:-1], heads, dtype)
        self._last = _LastLayer(layers[-1], heads, dtype)

    def __call__(self, states: Any, slots: Sequence[Slot], used: int) -> Any:
        """Return the last layer's states of the first tokens, (texts, d), in the slots' order."""
        return self._last(super().__call__(states, slots, used), slots, used)


class Norm:
    """A layer norm's parameters."""

    def __init__(self, norm: Any, dtype: Any) -> None:
        self._weight, self._bias = (
            p.detach().to(dtype, copy=True) for p in (norm.weight, norm.bias)
        )
        self._eps = norm.eps

    def __call__(self, x: Any) -> Any:
        """Return the normalised rows of `x`."""
        from torch.nn import functional

        return functional.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


class Linear:
    """One or several linear layers of the same input, as one matrix in oneDNN's layout."""

    def __init__(self, parts: Sequence[Any], dtype: Any) -> None:
        import torch

        self._ops: Any = torch.ops.mkldnn
        weight = torch.cat([part.weight for part in parts]).detach().to(dtype)
        self._weight = self._ops._reorder_linear_weight(weight.contiguous())
        self._bias = None
        if parts[0].bias is not None:
            self._bias = torch.cat([part.bias for part in parts]).detach().to(dtype)

    def __call__(self, x: Any) -> Any:
        """Return the layers' results side by side."""
        return self._ops._linear_pointwise(x, self._weight, self._bias, "none", [], "")

    def added(self, x: Any, to: Any) -> Any:
        """Return the result with `to` added."""
        return self._ops._linear_pointwise.binary(x, to, self._weight, self._bias, "add")


def has_onednn() -> bool:
    """Return whether this build of torch has oneDNN."""
    import torch

    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def repacked(network: Any) -> Any:
    """Return a copy of any network whose linear layers have their weights in oneDNN's layout.

    It shares all other tensors with the network, which stays as it is.
    """
    import torch

    own = [each for each in vars(network).values() if not isinstance(each, dict)]  # a tokenizer
    shared = [*network.parameters(), *network.buffers(), *own]
    twin = copy.deepcopy(network, {id(each): each for each in shared})
    for module in twin.modules():
        if type(module) is torch.nn.Linear:
            module.forward = Linear([module], module.weight.dtype)  # type: ignore[assignment]
            module.weight = torch.nn.Parameter(module.weight.new_empty(0), requires_grad=False)
    return twin


class _Layer:
    """One transformer layer: attention for each slot, everything else on all rows at once."""

    def __init__(self, layer: Any, heads: int, dtype: Any) -> None:
        import torch

        attention, own = layer.attention, layer.attention.self
        self._heads = heads
        self._qkv = Linear([own.query, own.key, own.value], dtype)
        self._out = Linear([attention.output.dense], dtype)
        self._norm = Norm(attention.output.LayerNorm, dtype)
        self._up = Linear([layer.intermediate.dense], dtype)
        activation = layer.intermediate.intermediate_act_fn
        gelu = type(activation).__name__ == "GELUActivation"
        in_place: Any = torch._C._nn  # needs no new memory
        self._activate = in_place.gelu_ if gelu else activation
        self._down = Linear([layer.output.dense], dtype)
        self._last_norm = Norm(layer.output.LayerNorm, dtype)

    def __call__(self, x: Any, slots: Sequence[Slot], used: int) -> Any:
        import torch

        qkv = self._qkv(x)
        context = [self._attend(qkv, slot) for slot in slots]
        if used < len(x):
            context.append(x[used:])  # padding rows, of any value
        return self._after(context[0] if len(context) == 1 else torch.cat(context), x)

    def _after(self, mixed: Any, x: Any) -> Any:
        """Return the layer's states, of what the attention mixed and of the states before it."""
        x = self._norm(self._out.added(mixed, x))
        return self._last_norm(self._down.added(self._activate(self._up(x)), x))

    def _attend(self, qkv: Any, slot: Slot) -> Any:
        from torch.nn import functional

        n, width = slot.shape
        parts = qkv[slot.start : slot.start + n * width].view(n, width, 3, self._heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        return seen.transpose(1, 2).reshape(n * width, -1)


class _LastLayer(_Layer):
    """A layer that computes the first token of each text, which attends to all of them."""

    def __init__(self, layer: Any, heads: int, dtype: Any) -> None:
        super().__init__(layer, heads, dtype)
        own = layer.attention.self
        self._query, self._key_value = (
            Linear([own.query], dtype),
            Linear([own.key, own.value], dtype),
        )
        del self._qkv

    def __call__(self, x: Any, slots: Sequence[Slot], used: int) -> Any:
        import torch
        from torch.nn import functional

        blocks = [slice(slot.start, slot.start + math.prod(slot.shape)) for slot in slots]
        firsts = [x[b][:: slot.shape[1]] for b, slot in zip(blocks, slots, strict=True)]
        first, both, context = torch.cat(firsts), self._key_value(x), []
        queries = self._query(first).split([slot.shape[0] for slot in slots])
        for query, block, slot in zip(queries, blocks, slots, strict=True):
            count, width = slot.shape
            key, value = both[block].view(count, width, 2, self._heads, -1).permute(2, 0, 3, 1, 4)
            query = query.view(count, 1, self._heads, -1).transpose(1, 2)
            seen = functional.scaled_dot_product_attention(query, key, value)
            context.append(seen.reshape(count, -1))
        return self._after(torch.cat(context), first)
