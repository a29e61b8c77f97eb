"""A BERT-like encoder's layers as an ONNX graph, computed by ONNX Runtime on a CPU.

As in `layers.py` every token of a pass is one row, and the dense work holds no padding. A graph
cannot have as many parts as a pass has lengths, so attention takes all texts padded to the longest:
two gathers in each layer move the rows there and back. The operators are those of ONNX opset 20
(https://onnx.ai/onnx/operators/), IR version 9.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedders.layers import Slot, cores
from embedders.table import Table
from errors import ModelUnavailable

OPSET, IR_VERSION = 20, 9
RUNTIME = "com.microsoft"  # the domain of ONNX Runtime's own operators
HIDDEN = -1e9  # added to masked scores; with -inf a row of masked scores only becomes NaN
# Attention holds a matrix of heads x width x width for each text: 50 MB for 12 heads at this width.
WIDEST = 1024
ACTIVATIONS = {"GELUActivation": "Gelu", "ReLU": "Relu"}


class MissingPackage(ModelUnavailable):
    """ONNX Runtime is not installed."""


def places(slots: Sequence[Slot], rows: int) -> dict[str, NDArray[Any]]:
    """Return the indices that pad a pass of so many rows for attention, and undo that.

    `spread` (n, w) is the row of every place, `bias` (n, 1, 1, w) hides places without a token, and
    `back` (rows,) is the place of every row; rows after the last token get any.
    """
    lengths = np.concatenate([np.full(slot.shape[0], slot.shape[1]) for slot in slots])
    starts = np.cumsum(lengths) - lengths
    columns = np.arange(lengths.max())
    filled = columns < lengths[:, None]
    back = np.zeros(rows, np.int64)
    back[: lengths.sum()] = np.flatnonzero(filled)
    return {
        "spread": np.where(filled, starts[:, None] + columns, 0),
        "bias": np.where(filled, 0, HIDDEN).astype(np.float32)[:, None, None, :],
        "back": back,
    }


def write_graph(
    layers: Sequence[Any], heads: int, firsts: bool, start: "Start"
) -> tuple[bytes, dict[str, Any]]:
    """Return a Hugging Face model's layers as an ONNX model from `states` and `places` to states.

    With `firsts` the last layer computes only those rows, each text's first token.
    Matrices that are not written into the model are returned by name, as float32 tensors that share
    the model's memory where they can. Raises KeyError for an activation without an operator here.
    """
    onnx = import_package("onnx")
    kind, info = onnx.TensorProto, onnx.helper.make_tensor_value_info
    size = layers[0].output.LayerNorm.weight.shape[0]
    graph = start(onnx, size, heads)
    last = "states"
    for at, layer in enumerate(layers, 1):
        last = graph.layer(last, layer, firsts and at == len(layers))
    inputs = [
        info("states", kind.FLOAT, ["rows", size]),
        info("spread", kind.INT64, ["texts", "width"]),
        info("bias", kind.FLOAT, ["texts", 1, 1, "width"]),
        info("back", kind.INT64, ["rows"]),
        *([info("firsts", kind.INT64, ["texts"])] if firsts else []),
    ]
    output = [info(last, kind.FLOAT, ["texts" if firsts else "rows", size])]
    whole = onnx.helper.make_graph(graph.nodes, "layers", inputs, output)
    opsets = [onnx.helper.make_opsetid(*each) for each in (("", OPSET), (RUNTIME, 1))]
    model = onnx.helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION)
    while graph.weights:  # moved one by one, so that none is in memory twice
        model.graph.initializer.append(graph.weights.pop())
    return model.SerializeToString(), graph.matrices


class Graph:
    """A graph under construction. Each method adds nodes and returns the name of their output."""

    def __init__(self, onnx: Any, size: int, heads: int) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []  # written into the model
        self.matrices: dict[str, Any] = {}  # given to the runtime
        self._constants: dict[tuple[object, ...], str] = {}
        self._count = 0
        each = size // heads
        self._split, self._alone = np.array([0, 0, -1, each]), np.array([0, 1, -1, each])
        self._joined = np.array([-1, size])  # 0 in the others: unchanged
        # The queries are scaled in their weights.
        self._scale = each**-0.5

    def layer(self, x: str, layer: Any, firsts: bool = False) -> str:
        """Add one transformer layer, or one of the first tokens alone."""
        own, out, rows = layer.attention.self, layer.attention.output, "back"
        of = x
        if firsts:
            rows, x = "firsts", self.node("Gather", x, "firsts")
        mixed = self._attend(x, of, own, rows)
        # A bias of the keys adds the same to all scores of a query, which changes no share; one of
        # the values comes through whole, as the shares add up to 1.
        bias = out.dense.bias.detach().float()
        bias = bias + out.dense.weight.detach().float() @ own.value.bias.detach().float()
        seen = self.linear(mixed, out.dense.weight, bias, rows)
        x = self._norm(self.node("Add", seen, x), out.LayerNorm)
        activation = ACTIVATIONS[type(layer.intermediate.intermediate_act_fn).__name__]
        up, down = layer.intermediate.dense, layer.output.dense
        wide = self.node(activation, self.linear(x, up.weight, up.bias, rows, up))
        narrow = self.linear(wide, down.weight, down.bias, rows)
        return self._norm(self.node("Add", narrow, x), layer.output.LayerNorm)

    def _attend(self, x: str, of: str, own: Any, rows: str) -> str:
        """Add what the rows `x` see of the texts' rows `of`."""
        weight, bias = (p.detach().float() for p in (own.query.weight, own.query.bias))
        query = self.linear(x, weight * self._scale, bias * self._scale, rows, own.query)
        key, value = (
            self.linear(of, part.weight, None, "back", own.query) for part in (own.key, own.value)
        )
        if rows == "back":
            query = self._spread(query)
        else:
            query = self.node("Reshape", query, self.constant(self._alone))
        query = self.node("Transpose", query, perm=[0, 2, 1, 3])
        key = self.node("Transpose", self._spread(key), perm=[0, 2, 3, 1])
        value = self.node("Transpose", self._spread(value), perm=[0, 2, 1, 3])
        scores = self.node("Add", self.node("MatMul", query, key), "bias")
        shares = self.node("Softmax", scores, axis=-1)
        seen = self.node("Transpose", self.node("MatMul", shares, value), perm=[0, 2, 1, 3])
        joined = self.node("Reshape", seen, self.constant(self._joined))
        return self.node("Gather", joined, "back") if rows == "back" else joined

    def _spread(self, rows: str) -> str:
        """Add what gives each text its rows, padded, (n, w, heads, each)."""
        return self.node("Reshape", self.node("Gather", rows, "spread"), self.constant(self._split))

    def linear(self, x: str, weight: Any, bias: Any, rows: str, reader: Any = None) -> str:
        """Add a linear layer of `x`, whose rows are as many as those of the input `rows`.

        `reader` is the model's own first linear layer that reads `x`, if that comes from a norm.
        """
        weights = [self._matrix(weight.detach().float())]
        weights += [] if bias is None else [self.weight(bias.detach().float().numpy())]
        return self.node("Gemm", x, *weights, transB=1)

    def _norm(self, x: str, norm: Any) -> str:
        weight, bias = (self.weight(p.detach().float().numpy()) for p in (norm.weight, norm.bias))
        return self.node("LayerNormalization", x, weight, bias, epsilon=norm.eps)

    def _matrix(self, values: Any) -> str:
        name, kind = self._name(), self._onnx.TensorProto
        self.matrices[name] = values.contiguous()
        proto = kind(
            name=name, data_type=kind.FLOAT, dims=values.shape, data_location=kind.EXTERNAL
        )
        place = proto.external_data.add()
        place.key, place.value = "location", "memory"  # given to the runtime, not in a file
        self.weights.append(proto)
        return name

    def weight(self, values: Any) -> str:
        """Add an array of numpy."""
        name = self._name()
        self.weights.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def constant(self, values: Any) -> str:
        """Add a small array, or a number of numpy, once."""
        array = np.asarray(values)
        key = str(array.dtype), array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = self.weight(array)
        return self._constants[key]

    def _name(self) -> str:
        self._count += 1
        return f"w{self._count}"

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output."""
        output = f"n{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output


Start = Callable[[Any, int, int], Graph]


class OnnxLayers:
    """The layers by ONNX Runtime, in float32. Safe to call from several threads at once."""

    name = "onnx"
    shared = False
    firsts = False
    table: type[Table] = Table

    def __init__(self, layers: Sequence[Any], heads: int, dtype: Any, start: Start = Graph) -> None:
        """Copy a model's layers; `start` makes the graph that they are written into."""
        runtime = import_package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.enable_mem_pattern = False  # it would keep a plan for each shape
        # Threads that spin for long between operations take the cores from threads that answer
        # requests: 117 against 135 requests/s with 32 clients of single texts (Zen 3). Spinning for
        # no longer than an operation takes saves waking them: a text of 11 tokens takes 2.2 ms
        # instead of 2.8, of 64 tokens 8.3 instead of 9.7, with the same CPU time (2 cores, AMD EPYC
        # Zen 4, 2026-11-30).
        options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
        graph, weights = write_graph(layers, heads, self.firsts, start)
        # The session reads the model's own matrices, except those it copies into its own layout.
        self._given = [runtime.OrtValue.from_dlpack(values) for values in weights.values()]
        options.add_external_initializers(list(weights), self._given)
        self._session = runtime.InferenceSession(graph, options, ["CPUExecutionProvider"])

    @staticmethod
    def rows(used: int) -> int:
        """Return how many rows a pass of `used` tokens has: as many."""
        return used

    def __call__(self, states: Any, slots: Sequence[Slot], used: int) -> Any:
        """Return the last layer's states, (rows, d)."""
        import torch

        given = {"states": states.float().numpy(), **places(slots, used)}
        if self.firsts:
            starts = [np.arange(slot.shape[0]) * slot.shape[1] + slot.start for slot in slots]
            given["firsts"] = np.concatenate(starts)
        (last,) = self._session.run(None, given)
        return torch.from_numpy(last)


class OnnxFirstTokens(OnnxLayers):
    """The same, with a last layer that computes only the first token of each text."""

    firsts = True


def import_package(package: str) -> Any:
    """Return a package. Raises MissingPackage, with how to install it."""
    # Else ONNX Runtime, from 1.32 on, keeps an id of this machine in the user's home and sends what
    # it runs to its maker. It reads this once, as it starts.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise MissingPackage(
            f"this backend needs the package {package}: pip install {package}, or let "
            f"EMBEDDING_BACKEND be auto ({exc})"
        ) from None
