"""Write a folder's model as ONNX by a plain `torch.onnx.export`: argument 1 is the folder.

With `int8` as argument 2 its matrices are quantized, as ONNX Runtime's own guide does it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel

NAMES = ["input_ids", "attention_mask", "token_type_ids"]


class States(torch.nn.Module):
    """The model, with its arguments in order: it takes them by name only while it is traced."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model = AutoModel.from_pretrained(folder, attn_implementation="eager")  # nosec B615

    def forward(self, *given: torch.Tensor) -> Any:
        """Return the last layer's states."""
        return self.model(**dict(zip(NAMES, given, strict=True))).last_hidden_state


def main(folder: Path, dtype: str = "float32") -> None:
    """Write `onnx/model.onnx`."""
    file = folder / "onnx" / "model.onnx"
    file.parent.mkdir(exist_ok=True)
    ones = torch.ones(2, 16, dtype=torch.int64)
    torch.onnx.export(
        States(folder).eval(),
        (ones, ones, torch.zeros_like(ones)),
        str(file),
        input_names=NAMES,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "n", 1: "w"} for name in [*NAMES, "last_hidden_state"]},
        opset_version=17,
        dynamo=False,
    )
    if dtype == "int8":
        quantize_dynamic(file, file, per_channel=True, weight_type=QuantType.QInt8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
