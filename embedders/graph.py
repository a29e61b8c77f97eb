"""A BERT-like encoder's layers as an ONNX graph, and the runtimes that compute it on a CPU.

As in `layers.py` every token of a pass is one row and the dense work holds no padding. A graph
cannot have as many parts as a pass has lengths, so attention alone sees the texts side by side,
filled up to the longest: two gathers a layer bring rows there and back.
The operators are those of ONNX opset 20 (https://onnx.ai/onnx/operators/), IR version 9.
"""

import importlib
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedders.layers import Slot, TorchLayers, cores
from errors import ModelUnavailable

OPSET, IR_VERSION = 20, 9
HIDDEN = -1e9  # added to what attention must not see; -inf makes NaN of a row of nothing else
# Attention holds a matrix of heads x width x width for each text: 50 MB for 12 heads at this width.
WIDEST = 1024
WIDTH_STEP = 8
ACTIVATIONS = {"GELUActivation": "Gelu", "ReLU": "Relu"}


class MissingPackage(ModelUnavailable):
    """A runtime is not installed."""


class OnnxLayers:
    """The layers by ONNX Runtime, in float32. Safe to call from several threads at once."""

    name = "onnx"
    shared = False

    def __init__(self, layers: Sequence[Any], heads: int, dtype: Any) -> None:
        runtime = _import("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.enable_mem_pattern = False  # it keeps a plan for each shape that it has seen
        # Threads that spin for the next operation take the cores from those that answer requests:
        # 32 clients of single texts 117 requests/s, else 135; one alone 12.9 ms, else 13.6 (Zen 3).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph, weights = write_graph(layers, heads)
        # The session reads the model's own matrices where it has no copy in a layout of its own.
        self._given = [runtime.OrtValue.from_dlpack(values) for values in weights.values()]
        options.add_external_initializers(list(weights), self._given)
        self._session = runtime.InferenceSession(graph, options, ["CPUExecutionProvider"])

    @staticmethod
    def rows(used: int) -> int:
        """Return how many rows a pass of `used` tokens has: no more than it needs."""
        return used

    def __call__(self, states: Any, slots: Sequence[Slot], used: int) -> Any:
        """Return the last layer's states, (rows, d)."""
        import torch

        (last,) = self._session.run(None, {"states": states.numpy(), **places(slots, used)})
        return torch.from_numpy(last)


class OpenVinoLayers:
    """The layers by OpenVINO, in float32 or bfloat16. Calls wait for one another."""

    name = "openvino"
    shared = False

    def __init__(self, layers: Sequence[Any], heads: int, dtype: Any) -> None:
        import torch

        core = import_openvino().Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": cores(),
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "ENABLE_CPU_PINNING": False,  # several workers would share the first cores
        }
        model = core.read_model(write_graph(layers, heads, within=True)[0])
        self._request = core.compile_model(model, "CPU", options).create_infer_request()
        self._lock = threading.Lock()

    # It keeps a kernel for each shape that it has seen, as torch's oneDNN does.
    rows = staticmethod(TorchLayers.rows)

    def __call__(self, states: Any, slots: Sequence[Slot], used: int) -> Any:
        """Return the last layer's states, (rows, d) float32."""
        import torch

        rows = {"states": states.float().numpy(), **places(slots, len(states), WIDTH_STEP)}
        with self._lock:
            last = self._request.infer(rows, share_inputs=True)[0]
        return torch.from_numpy(last.copy())


def places(slots: Sequence[Slot], rows: int, width_step: int = 1) -> dict[str, NDArray[Any]]:
    """Return how a pass of so many rows is spread for attention and brought back.

    `spread` (n, w) names a row for every place, `bias` (n, 1, 1, w) hides those that hold no token,
    `back` (rows,) names a place for every row; rows beyond the last token get any.
    """
    lengths = np.concatenate([np.full(slot.shape[0], slot.shape[1]) for slot in slots])
    starts = np.cumsum(lengths) - lengths
    columns = np.arange(-(-lengths.max() // width_step) * width_step)
    filled = columns < lengths[:, None]
    back = np.zeros(rows, np.int64)
    back[: lengths.sum()] = np.flatnonzero(filled)
    return {
        "spread": np.where(filled, starts[:, None] + columns, 0),
        "bias": np.where(filled, 0, HIDDEN).astype(np.float32)[:, None, None, :],
        "back": back,
    }


def write_graph(
    layers: Sequence[Any], heads: int, within: bool = False
) -> tuple[bytes, dict[str, Any]]:
    """Return the layers of a Hugging Face model as an ONNX model: `states` and `places` to states.

    Beside it are its matrices by name, float32 tensors, which share memory with the model's where
    they can; none if they are to be written `within` the ONNX model. Raises KeyError for an
    activation that has no operator here.
    """
    onnx = _import("onnx")
    kind, info = onnx.TensorProto, onnx.helper.make_tensor_value_info
    size = layers[0].output.LayerNorm.weight.shape[0]
    graph = _Graph(onnx, size, heads, within)
    last = "states"
    for layer in layers:
        last = graph.layer(last, layer)
    inputs = [
        info("states", kind.FLOAT, ["rows", size]),
        info("spread", kind.INT64, ["texts", "width"]),
        info("bias", kind.FLOAT, ["texts", 1, 1, "width"]),
        info("back", kind.INT64, ["rows"]),
    ]
    output = [info(last, kind.FLOAT, ["rows", size])]
    whole = onnx.helper.make_graph(graph.nodes, "layers", inputs, output)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION)
    while graph.weights:  # one by one: none is in memory twice
        model.graph.initializer.append(graph.weights.pop())
    return model.SerializeToString(), graph.matrices


class _Graph:
    """A graph as it grows; each method adds nodes and returns the name of what they give."""

    def __init__(self, onnx: Any, size: int, heads: int, within: bool) -> None:
        self._onnx, self._within = onnx, within
        self.nodes: list[Any] = []
        self.weights: list[Any] = []  # written in the model
        self.matrices: dict[str, Any] = {}  # handed over beside it
        self._count = 0
        each = size // heads
        self._split = self._weight(np.array([0, 0, 3 * heads, each]))  # 0: as it was
        self._joined = self._weight(np.array([-1, size]))
        # The queries are scaled once and for all, in their weights.
        self._scale = each**-0.5

    def layer(self, x: str, layer: Any) -> str:
        """Add one transformer layer."""
        attention = layer.attention
        seen = self._linear(self._attend(x, attention.self), [attention.output.dense])
        x = self._norm(self._node("Add", seen, x), attention.output.LayerNorm)
        activation = ACTIVATIONS[type(layer.intermediate.intermediate_act_fn).__name__]
        up = self._node(activation, self._linear(x, [layer.intermediate.dense]))
        down = self._linear(up, [layer.output.dense])
        return self._norm(self._node("Add", down, x), layer.output.LayerNorm)

    def _attend(self, x: str, own: Any) -> str:
        qkv = self._linear(x, [own.query, own.key, own.value], self._scale)
        spread = self._node("Reshape", self._node("Gather", qkv, "spread"), self._split)
        by_head = self._node("Transpose", spread, perm=[0, 2, 1, 3])
        query, key, value = self._nodes("Split", 3, by_head, axis=1, num_outputs=3)
        scores = self._node("MatMul", query, self._node("Transpose", key, perm=[0, 1, 3, 2]))
        shares = self._node("Softmax", self._node("Add", scores, "bias"), axis=-1)
        seen = self._node("Transpose", self._node("MatMul", shares, value), perm=[0, 2, 1, 3])
        return self._node("Gather", self._node("Reshape", seen, self._joined), "back")

    def _linear(self, x: str, parts: Sequence[Any], scale: float = 1) -> str:
        """Add linear layers of one input, the first of several scaled."""
        import torch

        weights = [part.weight.detach().float() for part in parts]
        biases = [part.bias.detach().float() for part in parts]
        if len(parts) > 1:
            weights = [torch.cat([weights[0] * scale, *weights[1:]])]
            biases = [torch.cat([biases[0] * scale, *biases[1:]])]
        return self._node("Gemm", x, self._matrix(weights[0]), self._weight(biases[0]), transB=1)

    def _norm(self, x: str, norm: Any) -> str:
        weight, bias = (self._weight(p.detach().float()) for p in (norm.weight, norm.bias))
        return self._node("LayerNormalization", x, weight, bias, epsilon=norm.eps)

    def _matrix(self, values: Any) -> str:
        if self._within:
            return self._weight(values)
        name, kind = self._name(), self._onnx.TensorProto
        self.matrices[name] = values.contiguous()
        told = kind(name=name, data_type=kind.FLOAT, dims=values.shape, data_location=kind.EXTERNAL)
        place = told.external_data.add()
        place.key, place.value = "location", "memory"  # no file: the runtime is given it
        self.weights.append(told)
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


def import_openvino() -> Any:
    """Import OpenVINO without the package that tells its maker of its use: it has a stub instead.

    Raises ModelUnavailable if it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return _import("openvino")


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise MissingPackage(
            f"this backend needs the package {package}: pip install {package}, or let "
            f"EMBEDDING_BACKEND be auto ({exc})"
        ) from None
