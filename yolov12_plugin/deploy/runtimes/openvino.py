"""OpenVINO."""

import importlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from yolov12_plugin.deploy.runtimes.session import Options, Session, fixed, metadata_of
from yolov12_plugin.errors import NotRunnable

LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


class OpenVino(Session):
    def __init__(self, folder: Path, options: Options) -> None:
        ov = importlib.import_module("openvino")
        core = ov.Core()
        if (graph := next(folder.glob("*.xml"), None)) is None:
            raise NotRunnable(f"{folder} holds no .xml: export the model again")
        model = core.read_model(graph)
        self.metadata = metadata_of(folder)
        # Left to itself a CPU with BF16 or AMX computes in less than FP32, and says nothing.
        wanted = ov.Type.f16 if options.half else ov.Type.f32
        settings = {"INFERENCE_NUM_THREADS": options.threads, "PERFORMANCE_HINT": "LATENCY"}
        self.compiled = core.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": wanted})
        runs_in = self.compiled.get_property("INFERENCE_PRECISION_HINT")
        quantised = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        self.precision = "int8" if quantised else runs_in.get_type_name().replace("f", "fp").replace("bfp", "bf")
        if any(op.get_type_name() == "Constant" and op.get_element_type() == ov.Type.f16 for op in model.get_ops()):
            self.stored = "fp16"
        if quantised:
            about = [op.get_rt_info() for op in self.compiled.get_runtime_model().get_ops()]
            layers = [i["runtimePrecision"] for i in about if i["layerType"] in LAYERS]
            self.int8_layers = sum(precision in ("i8", "u8") for precision in layers), len(layers)
        self.batch, self.size = fixed([d.get_length() if d.is_static else None for d in model.input().partial_shape])
        self.request = self.compiled.create_infer_request()
        # The exporter numbers outputs as Ultralytics does; OpenVINO's own names are of the graph.
        self.output_names = [f"output{i}" for i in range(len(model.outputs))]

    def bind(self, images: Tensor) -> None:
        self.array = images.float().contiguous().cpu().numpy()

    def execute(self) -> None:
        self.request.infer({0: self.array}, share_inputs=True)

    @property
    def outputs(self) -> list[Tensor]:
        count = len(self.compiled.outputs)
        return [torch.from_numpy(self.request.get_output_tensor(i).data.copy()) for i in range(count)]
