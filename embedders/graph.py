"""A BERT-like encoder's layers as an ONNX graph, computed by ONNX Runtime on a CPU.

As in `layers.py` every token of a pass is one row, and the dense work holds no padding. A graph
cannot have as many parts as a pass has lengths, so attention takes all texts padded to the longest:
two gathers in each layer move the rows there and back. The operators are those of ONNX opset 20
(https://onnx.ai/onnx/operators/), IR version 9.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedders.layers import Slot, cores
from errors import ModelUnavailable

OPSET, IR_VERSION = 20, 9
HIDDEN = -1e9  # added to masked scores; with -inf a row of masked scores only becomes NaN
# Attention holds a matrix of heads x width x width for each text: 50 MB for 12 heads at this width.
WIDEST = 1024
ACTIVATIONS = {"GELUActivation": "Gelu", "ReLU": "Relu"}


class MissingPackage(ModelUnavailable):
    """ONNX Runtime is not installed."""


class OnnxLayers:
    """The layers by ONNX Runtime, in float32. Safe to call from several threads at once."""

    name = "onnx"
    shared = False
    firsts = False

    def __init__(self, layers: Sequence[Any], heads: int, dtype: Any) -> None:
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.enable_mem_pattern = False  # it would keep a plan for each shape
        # Threads that spin between operations take the cores from threads that answer requests:
        # 117 against 135 requests/s with 32 clients of single texts, 12.9 against 13.6 ms with one
        # (Zen 3).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph, weights = write_graph(layers, heads, self.firsts)
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

        given = {"states": states.numpy(), **places(slots, used)}
        if self.firsts:
            starts = [np.arange(slot.shape[0]) * slot.shape[1] + slot.start for slot in slots]
            given["firsts"] = np.concatenate(starts)
        (last,) = self._session.run(None, given)
        return torch.from_numpy(last)


class OnnxFirstTokens(OnnxLayers):
    """The same, with a last layer that computes only the first token of each text."""

    firsts = True


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
    layers: Sequence[Any], heads: int, firsts: bool = False
) -> tuple[bytes, dict[str, Any]]:
    """Return a Hugging Face model's layers as an ONNX model from `states` and `places` to states.

    With `firsts` the last layer computes only those rows, each text's first token.
    Its matrices are returned by name, as float32 tensors that share the model's memory where they
    can. Raises KeyError for an activation without an operator here.
    """
    onnx = _import("onnx")
    kind, info = onnx.TensorProto, onnx.helper.make_tensor_value_info
    size = layers[0].output.LayerNorm.weight.shape[0]
    graph = _Graph(onnx, size, heads)
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
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION)
    while graph.weights:  # moved one by one, so that none is in memory twice
        model.graph.initializer.append(graph.weights.pop())
    return model.SerializeToString(), graph.matrices


class _Graph:
    """A graph under construction. Each method adds nodes and returns the name of their output."""

    def __init__(self, onnx: Any, size: int, heads: int) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []  # written into the model
        self.matrices: dict[str, Any] = {}  # given to the runtime
        self._count = 0
        each = size // heads
        self._split = self._weight(np.array([0, 0, -1, each]))  # 0: unchanged
        self._alone = self._weight(np.array([0, 1, -1, each]))
        self._joined = self._weight(np.array([-1, size]))
        # The queries are scaled in their weights.
        self._scale = each**-0.5

    def layer(self, x: str, layer: Any, firsts: bool = False) -> str:
        """Add one transformer layer, or one of the first tokens alone."""
        attention = layer.attention
        mixed = (self._attend_first if firsts else self._attend)(x, attention.self)
        x = self._node("Gather", x, "firsts") if firsts else x
        seen = self._linear(mixed, [attention.output.dense])
        x = self._norm(self._node("Add", seen, x), attention.output.LayerNorm)
        activation = ACTIVATIONS[type(layer.intermediate.intermediate_act_fn).__name__]
        up = self._node(activation, self._linear(x, [layer.intermediate.dense]))
        down = self._linear(up, [layer.output.dense])
        return self._norm(self._node("Add", down, x), layer.output.LayerNorm)

    def _attend(self, x: str, own: Any) -> str:
        qkv = self._linear(x, [own.query, own.key, own.value], self._scale)
        query, key, value = self._nodes("Split", 3, self._spread(qkv), axis=1, num_outputs=3)
        return self._node("Gather", self._mixed(query, key, value), "back")

    def _attend_first(self, x: str, own: Any) -> str:
        first = self._linear(self._node("Gather", x, "firsts"), [own.query], self._scale)
        query = self._node(
            "Transpose", self._node("Reshape", first, self._alone), perm=[0, 2, 1, 3]
        )
        both = self._spread(self._linear(x, [own.key, own.value]))
        key, value = self._nodes("Split", 2, both, axis=1, num_outputs=2)
        return self._mixed(query, key, value)

    def _spread(self, rows: str) -> str:
        """Add what gives each text and head its rows, padded, (n, heads, w, each)."""
        spread = self._node("Reshape", self._node("Gather", rows, "spread"), self._split)
        return self._node("Transpose", spread, perm=[0, 2, 1, 3])

    def _mixed(self, query: str, key: str, value: str) -> str:
        """Add the attention itself; return its rows, padded."""
        scores = self._node("MatMul", query, self._node("Transpose", key, perm=[0, 1, 3, 2]))
        shares = self._node("Softmax", self._node("Add", scores, "bias"), axis=-1)
        seen = self._node("Transpose", self._node("MatMul", shares, value), perm=[0, 2, 1, 3])
        return self._node("Reshape", seen, self._joined)

    def _linear(self, x: str, parts: Sequence[Any], scale: float = 1) -> str:
        """Add linear layers of one input; the first is scaled."""
        import torch

        weights = [part.weight.detach().float() for part in parts]
        biases = [part.bias.detach().float() for part in parts]
        if scale != 1 or len(parts) > 1:
            weights = [torch.cat([weights[0] * scale, *weights[1:]])]
            biases = [torch.cat([biases[0] * scale, *biases[1:]])]
        return self._node("Gemm", x, self._matrix(weights[0]), self._weight(biases[0]), transB=1)

    def _norm(self, x: str, norm: Any) -> str:
        weight, bias = (self._weight(p.detach().float()) for p in (norm.weight, norm.bias))
        return self._node("LayerNormalization", x, weight, bias, epsilon=norm.eps)

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

    def _weight(self, values: Any) -> str:
        name = self._name()
        self.weights.append(self._onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"w{self._count}"

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self._nodes(kind, 1, *inputs, **attributes)[0]

    def _nodes(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        outputs = [f"n{len(self.nodes)}.{i}" for i in range(count)]
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, **attributes))
        return outputs


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise MissingPackage(
            f"this backend needs the package {package}: pip install {package}, or let "
            f"EMBEDDING_BACKEND be auto ({exc})"
        ) from None
