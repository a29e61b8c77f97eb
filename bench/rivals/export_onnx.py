"""Write a folder's model as ONNX, with Infinity's own environment: argument 1 is the folder."""

import sys
from pathlib import Path

import torch
from transformers import AutoModel

folder = Path(sys.argv[1])
model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()  # nosec B615
names = ["input_ids", "attention_mask", "token_type_ids"]
ones = torch.ones(2, 16, dtype=torch.int64)
(folder / "onnx").mkdir(exist_ok=True)
torch.onnx.export(
    model,
    (ones, ones, torch.zeros_like(ones)),
    str(folder / "onnx" / "model.onnx"),
    input_names=names,
    output_names=["last_hidden_state"],
    dynamic_axes={name: {0: "n", 1: "w"} for name in [*names, "last_hidden_state"]},
    opset_version=17,
    dynamo=False,
)
