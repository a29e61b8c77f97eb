"""A BERT-like encoder's layers in int8, computed by ONNX Runtime on a CPU.

The matrices of the dense layers are int8 with a scale for each output; the rows that they multiply
are rounded to 8 bits in each pass, each row with a scale of its own. So a text's vector does not
depend on the other texts of its pass, as it does with one scale for a whole pass. All else is
float32. The operators beside ONNX's own are those of ONNX Runtime
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedders.graph import IR_VERSION, OPSET, RUNTIME, WIDEST, Graph, OnnxLayers, import_package
from embedders.packed import can_pack
from embedders.table import MOST, SMALLEST, RoundedTable, Table, rounded
from errors import ModelUnavailable

ZERO = np.uint8(128)  # what stands for 0 where numbers are 1 to 255
BACKENDS = ("auto", "onnx")  # the configured backends that int8 may have
OTHERS = "set its dtype to bfloat16 or float32"
# What a linear layer's input is divided by, one number a column, by that layer.
Magnitudes = Mapping[Any, Any]
# Texts whose states show which columns are large. The proof has others.
SAMPLES = (
    "", "1999", "el perro", "What is the capital of France?", "Der Zug nach Hamburg ist verspätet.",
    "The library opens at nine and closes at six, except on Sundays.",
    "def read(path): return open(path).read()  # the whole file",
    "12 of 37 patients recovered within 48 hours (p < 0.05)",
)  # fmt: skip
SAMPLE_TOKENS = 32
SMALLEST_COLUMN = 1e-4  # a column that is always near zero stays finite


class QuantizedGraph(Graph):
    """The same layers with int8 matrices."""

    def __init__(self, magnitudes: Magnitudes, onnx: Any, size: int, heads: int) -> None:
        super().__init__(onnx, size, heads)
        self._magnitudes = magnitudes
        self._rounded: dict[str, tuple[str, str]] = {}
        self._zeros: dict[str, str] = {}

    def linear(self, x: str, weight: Any, bias: Any, rows: str, reader: Any = None) -> str:
        """Add a linear layer. See `Graph`."""
        levels = self._magnitudes.get(reader)
        values, scales = rounded(weight if levels is None else weight.detach().float() * levels)
        matrix, zeros = values.numpy().T, [self.constant(ZERO)]
        if saturates():
            matrix, zeros = (matrix.astype(np.int16) + ZERO).astype(np.uint8), 2 * zeros
        given, scale = self._rows(x, rows, levels)
        found = self.node(
            "MatMulIntegerToFloat", given, self.weight(np.ascontiguousarray(matrix)),
            self.constant(np.float32(1)), self.weight(scales.numpy().ravel()), *zeros,
            domain=RUNTIME,
        )  # fmt: skip
        found = self.node("Mul", found, scale)
        if bias is None:
            return found
        return self.node("Add", found, self.weight(bias.detach().float().numpy()))

    def _rows(self, x: str, rows: str, levels: Any) -> tuple[str, str]:
        """Add rows as uint8 around `ZERO`, once, and what each is multiplied by, (rows, 1)."""
        if x not in self._rounded:
            last, even = self.constant(np.array([-1])), x
            if levels is not None:
                even = self.node("Mul", x, self.weight((1 / levels).numpy()))
            most = self.node("ReduceMax", even, last, keepdims=0)
            least = self.node("Neg", self.node("ReduceMin", even, last, keepdims=0))
            most = self.node("Max", most, least, self.constant(np.float32(SMALLEST)))
            scale = self.node("Mul", most, self.constant(np.float32(1 / MOST)))
            given = self.node("QuantizeLinear", even, scale, self._zeros_of(rows), axis=0)
            self._rounded[x] = given, self.node("Unsqueeze", scale, last)
        return self._rounded[x]

    def _zeros_of(self, rows: str) -> str:
        """Add `ZERO` for each row of an input, once."""
        if rows not in self._zeros:
            zero = self._onnx.numpy_helper.from_array(np.array([ZERO]))
            shape = self.node("Shape", rows)
            self._zeros[rows] = self.node("ConstantOfShape", shape, value=zero)
        return self._zeros[rows]


class QuantizedLayers(OnnxLayers):
    """The layers in int8, and the table of words with them."""

    table: type[Table] = RoundedTable

    def __init__(
        self, magnitudes: Magnitudes, layers: Sequence[Any], heads: int, dtype: Any
    ) -> None:
        # The magnitudes are not kept: they hold the model's own layers.
        super().__init__(layers, heads, dtype, functools.partial(QuantizedGraph, magnitudes))


class QuantizedFirstTokens(QuantizedLayers):
    """The same, with a last layer that computes only the first token of each text."""

    firsts = True


@functools.cache
def saturates() -> bool:
    """Return whether products with int8 matrices are wrong here, and those with uint8 needed.

    Without VNNI an x86 processor adds two products of uint8 and int8 in 16 bits, which saturates
    from 32,767 on; products of uint8 and uint8 it adds in 32 bits, more slowly. Raises
    ModelUnavailable if those are wrong too.
    """
    if _sums_are_right(np.int8(0)):
        return False
    if _sums_are_right(ZERO):
        return True
    raise ModelUnavailable(f"ONNX Runtime multiplies int8 wrongly on this processor: {OTHERS}")


def _sums_are_right(zero: Any) -> bool:
    """Return whether products of the greatest 8-bit numbers are exact, for few and many rows."""
    onnx, runtime = import_package("onnx"), import_package("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto
    width = 256
    matrix = np.full((width, width), MOST, np.int16)
    matrix[:, ::2] = -MOST
    stored = (matrix + zero).astype(zero.dtype)
    weights = {"b": stored, "a_zero": np.asarray(ZERO), "b_zero": np.asarray(zero)}
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b", "a_zero", "b_zero"], ["sums"])], "product",
        [helper.make_tensor_value_info("a", kind.UINT8, ["rows", width])],
        [helper.make_tensor_value_info("sums", kind.INT32, ["rows", width])],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for rows in (1, 2, 3, 64):
        given = np.full((rows, width), 2 * MOST + 1, np.uint8)
        given[:, width // 2 :] = 1
        given[0] = 2 * MOST + 1
        (sums,) = session.run(None, {"a": given})
        exact = (given.astype(np.int64) - ZERO) @ matrix.astype(np.int64)
        if not np.array_equal(sums, exact):
            return False
    return True


def magnitudes_of(encoder: Any, tokenizer: Any, limit: int) -> Magnitudes:
    """Return the square roots of the columns' greatest magnitudes, for what reads a norm's output.

    A few columns of a norm's output are many times as large as the rest, in every text, and would
    take most of the 8 bits. Division by the root of that, as the weights are multiplied by it,
    leaves half of the difference to each (SmoothQuant, https://arxiv.org/abs/2211.10438). MiniLM:
    least cosine 0.9934 for 0.9838, of the text without a word; 0.9973 for 0.9933 in the mean.
    """
    import torch

    seen: dict[Any, Any] = {}

    def see(reader: Any, given: tuple[Any, ...]) -> None:
        most = given[0].detach().float().abs().flatten(0, -2).amax(0)
        seen[reader] = torch.maximum(most, seen.get(reader, most))

    readers = [
        reader
        for layer in encoder.encoder.layer
        for reader in (layer.attention.self.query, layer.intermediate.dense)
    ]
    hooks = [reader.register_forward_pre_hook(see) for reader in readers]
    try:
        with torch.inference_mode():
            for text in SAMPLES:
                cut = {"truncation": True, "max_length": min(limit, SAMPLE_TOKENS)}
                encoder(**tokenizer(text, return_tensors="pt", **cut))
    finally:
        for hook in hooks:
            hook.remove()
    return {reader: most.clamp_min(SMALLEST_COLUMN).sqrt() for reader, most in seen.items()}


def check(encoder: Any, limit: int, backend: str) -> None:
    """Raise ModelUnavailable for a model that cannot run in int8, with what to do.

    `encoder` is its Hugging Face network, if it has one; `limit` the most tokens of an input.
    """
    if encoder is None or not can_pack(encoder):
        raise ModelUnavailable(
            "dtype int8 is for networks of the layouts of BERT, RoBERTa, XLM-R and CamemBERT, and "
            f"this is a {type(encoder).__name__ if encoder is not None else 'table'}: {OTHERS}"
        )
    if limit > WIDEST:
        raise ModelUnavailable(
            f"dtype int8 is for inputs of up to {WIDEST} tokens, and this model reads {limit}: "
            f"set its max_seq_length to {WIDEST}, or {OTHERS}"
        )
    if backend not in BACKENDS:
        raise ModelUnavailable(
            f"dtype int8 is computed by ONNX Runtime: set its backend to onnx or auto, not "
            f"{backend}, or {OTHERS}"
        )
