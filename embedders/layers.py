"""A BERT-like encoder's layers in torch and oneDNN, on the rows of a pass without padding.

Attention takes texts of one length together; the other nine tenths of the work are products of one
dense matrix, by oneDNN with weights in its own layout. A call uses the cores that its thread is set
to; several calls at once share no state that changes.
"""

import copy
import functools
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


# The layers in TorchScript, which leaves Python's interpreter alone for a whole pass. Operations
# that are called from Python wait for it after each of them: beside one thread that is busy in
# Python 16 texts took 1,178 ms that way and take 99 ms by this (one core of an AMD EPYC Zen 4,
# bfloat16, MiniLM-L6, 2026-11-30). A layer is a list of tensors: weight and bias of the linear
# layers and of the norms, in the order of use. oneDNN's operator wants a list of `number`, which
# no annotation of Python is, so this is a text.
SOURCE = """
def linear(x: Tensor, layer: List[Tensor], at: int) -> Tensor:
    scalars: List[Optional[number]] = []
    return torch.ops.mkldnn._linear_pointwise(x, layer[at], layer[at + 1], "none", scalars, "")

def added(x: Tensor, to: Tensor, layer: List[Tensor], at: int) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, to, layer[at], layer[at + 1], "add")

def normed(x: Tensor, layer: List[Tensor], at: int, eps: float) -> Tensor:
    return torch.layer_norm(x, [x.size(1)], layer[at], layer[at + 1], eps)

def joined(parts: List[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)

def after(mixed: Tensor, x: Tensor, layer: List[Tensor], activation: str, eps: float) -> Tensor:
    x = normed(added(mixed, x, layer, 2), layer, 4, eps)
    wide = linear(x, layer, 6)
    if activation == "relu":
        wide = torch.relu_(wide)
    else:  # how the error function is computed
        wide = torch.ops.aten.gelu_(wide, approximate=activation)
    return normed(added(wide, x, layer, 8), layer, 10, eps)

def all_layers(
    x: Tensor, layers: List[List[Tensor]], slots: List[Tuple[int, int, int]], used: int,
    heads: int, activation: str, eps: float,
) -> Tensor:
    for layer in layers:
        qkv = linear(x, layer, 0)
        mixed: List[Tensor] = []
        for start, texts, width in slots:
            parts = qkv[start : start + texts * width].view(texts, width, 3, heads, -1)
            query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
            seen = torch.ops.aten.scaled_dot_product_attention(query, key, value)
            mixed.append(seen.transpose(1, 2).reshape(texts * width, -1))
        if used < x.size(0):
            mixed.append(x[used:])  # padding rows, of any value
        x = after(joined(mixed), x, layer, activation, eps)
    return x

def first_tokens(
    x: Tensor, layer: List[Tensor], slots: List[Tuple[int, int, int]],
    heads: int, activation: str, eps: float,
) -> Tensor:
    firsts: List[Tensor] = []
    counts: List[int] = []
    for start, texts, width in slots:
        firsts.append(x[start : start + texts * width : width])
        counts.append(texts)
    first = joined(firsts)
    queries, both = linear(first, layer, 12).split(counts), linear(x, layer, 0)
    mixed: List[Tensor] = []
    for i, (start, texts, width) in enumerate(slots):
        parts = both[start : start + texts * width].view(texts, width, 2, heads, -1)
        key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        query = queries[i].view(texts, 1, heads, -1).transpose(1, 2)
        seen = torch.ops.aten.scaled_dot_product_attention(query, key, value)
        mixed.append(seen.reshape(texts, -1))
    return after(joined(mixed), first, layer, activation, eps)
"""
ACTIVATIONS = {"GELUActivation": "none", "NewGELUActivation": "tanh", "ReLU": "relu"}


@functools.cache
def _script() -> Any:
    import torch

    return torch.jit.CompilationUnit(SOURCE)


class TorchLayers:
    """The layers of a Hugging Face model, copied. Safe to call from several threads at once."""

    name = "packed"
    shared = True  # a pass is divided between the cores
    firsts = False
    table = Table

    def __init__(self, layers: Sequence[Any], heads: int, dtype: Any) -> None:
        """Copy the layers. Raises KeyError for an activation that is not written out above."""
        act = layers[0].intermediate.intermediate_act_fn
        eps = layers[0].output.LayerNorm.eps
        self._settings = heads, ACTIVATIONS[type(act).__name__], eps
        self._layers = [_tensors(layer, dtype, ("query", "key", "value")) for layer in layers]

    @staticmethod
    def rows(used: int) -> int:
        """Return how many rows a pass of `used` tokens has."""
        step = FEW_ROWS_STEP if used <= FEW_ROWS else ROWS_STEP
        return -(-used // step) * step

    def __call__(self, states: Any, slots: Sequence[Slot], used: int) -> Any:
        """Return the last layer's states, (rows, d). Call within `torch.inference_mode`."""
        places = [(slot.start, *slot.shape) for slot in slots]
        return _script().all_layers(states, self._layers, places, used, *self._settings)


class FirstTokens(TorchLayers):
    """The same, with a last layer that computes only the first token of each text.

    It suits heads that read nothing else, as those of cross-encoders. 100 pairs of MiniLM-L6 take
    1.62 s of CPU instead of 1.78 in float32, and 1.53 instead of 1.72 by ONNX Runtime (Zen 4, one
    core of a busy machine, 2026-11-29; bench/rerank.py).
    """

    firsts = True

    def __init__(self, layers: Sequence[Any], heads: int, dtype: Any) -> None:
        super().__init__(layers, heads, dtype)
        query = Linear([layers[-1].attention.self.query], dtype)
        self._layers[-1] = [*_tensors(layers[-1], dtype, ("key", "value")), *query.tensors]

    def __call__(self, states: Any, slots: Sequence[Slot], used: int) -> Any:
        """Return the last layer's states of the first tokens, (texts, d), in the slots' order."""
        *most, last = self._layers
        places = [(slot.start, *slot.shape) for slot in slots]
        script = _script()
        states = script.all_layers(states, most, places, used, *self._settings)
        return script.first_tokens(states, last, places, *self._settings)


def _tensors(layer: Any, dtype: Any, parts: Sequence[str]) -> list[Any]:
    """Return the tensors of a layer, with these parts of its attention in one matrix."""
    attention, out = layer.attention, layer.attention.output
    return [
        *Linear([getattr(attention.self, part) for part in parts], dtype).tensors,
        *Linear([out.dense], dtype).tensors,
        *Norm(out.LayerNorm, dtype).tensors,
        *Linear([layer.intermediate.dense], dtype).tensors,
        *Linear([layer.output.dense], dtype).tensors,
        *Norm(layer.output.LayerNorm, dtype).tensors,
    ]


class Norm:
    """A layer norm's parameters."""

    def __init__(self, norm: Any, dtype: Any) -> None:
        self.tensors = [p.detach().to(dtype, copy=True) for p in (norm.weight, norm.bias)]
        self._eps = norm.eps

    def __call__(self, x: Any) -> Any:
        """Return the normalised rows of `x`."""
        from torch.nn import functional

        weight, bias = self.tensors
        return functional.layer_norm(x, weight.shape, weight, bias, self._eps)


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

    @property
    def tensors(self) -> list[Any]:
        """The weight, and the bias, which is zero where there is none."""
        import torch

        if self._bias is not None:
            return [self._weight, self._bias]
        return [self._weight, torch.zeros(self._weight.shape[0], dtype=self._weight.dtype)]


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
