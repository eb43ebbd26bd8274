"""ONNX Runtime."""

import importlib
import importlib.util
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolov12_plugin.deploy.runtimes.session import Options, Session, fixed


class OnnxRuntime(Session):
    def __init__(self, file: Path, options: Options) -> None:
        ort = importlib.import_module("onnxruntime")
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.log_severity_level = 3
        # Otherwise the threads of one session wait busily while the next is timed.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        onnx = importlib.import_module("onnx")
        self.precision = onnx_precision(onnx.load(str(file), load_external_data=False).graph)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            optimised = Path(folder, "optimised.onnx")
            if self.precision == "int8":  # what the graph quantises is not what the runtime computes so
                settings.optimized_model_filepath = str(optimised)
            self.session = ort.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
            if self.precision == "int8":
                self.int8_layers = int8_layers(onnx.load(str(optimised), load_external_data=False).graph)
        (image,) = self.session.get_inputs()
        self.input_name, self.half = image.name, "float16" in image.type
        self.batch, self.size = fixed(image.shape)
        self.output_names = [out.name for out in self.session.get_outputs()]
        self.metadata = self.session.get_modelmeta().custom_metadata_map

    def bind(self, images: Tensor) -> None:
        array = images.half() if self.half else images.float()
        self.feed = {self.input_name: array.contiguous().cpu().numpy()}

    def execute(self) -> None:
        self.results = self.session.run(None, self.feed)

    @property
    def outputs(self) -> list[Tensor]:
        return [torch.from_numpy(out) for out in self.results]


def onnx_precision(graph: Any) -> str:
    """The data type of most weights of an ONNX graph; int8 where it quantises."""
    onnx = importlib.import_module("onnx")
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "int8"
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    values: dict[str, int] = dict.fromkeys(names.values(), 0)
    for weight in graph.initializer:
        if weight.data_type in names:
            values[names[weight.data_type]] += math.prod(weight.dims)
    return max(values, key=lambda key: values[key])


def int8_layers(graph: Any) -> tuple[int, int]:
    """Convolutions and matrix products in INT8, and all, of a graph as ONNX Runtime has optimised it."""
    kinds = [node.op_type for node in graph.node if re.search("Conv|MatMul|Gemm", node.op_type)]
    return sum(re.search("^QLinear|Integer|^QGemm", kind) is not None for kind in kinds), len(kinds)
