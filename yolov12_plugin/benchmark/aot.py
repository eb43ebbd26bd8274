"""What TensorRT makes of an export, compiled ahead of time on a machine without a GPU."""

import io
import re
import warnings
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

HINT = "TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13"
KERNEL = re.compile(r"^\s*Name: .*?, LayerType: (?!signal|wait)\S+, .*TacticName: (\S*),", re.MULTILINE)


@dataclass(frozen=True)
class Compiled:
    """An engine's kernels in all, those of them that are a whole attention, and its size in bytes."""

    kernels: int
    fused_attentions: int
    engine_bytes: int


def export_fp16(model: nn.Module, imgsz: int = 640) -> bytes:
    """ONNX graph of a fused Ultralytics model in FP16, batch 1, as `format=engine` makes it before TensorRT reads it.

    The model is left as it is. TensorRT wants the precision in the graph: its newer releases take no FP16 flag.
    """
    net: Any = deepcopy(model).float()
    net = net.fuse(verbose=False).eval()
    for m in net.modules():
        if hasattr(m, "export"):
            m.export, m.format = True, "engine"
    image = torch.zeros(1, 3, imgsz, imgsz)
    graph: Any = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy exporter's tracer and deprecation notes
        net(image)  # the head keeps its anchors for this size
        torch.onnx.export(net.half(), (image.half(),), graph, opset_version=17, input_names=["images"], dynamo=False)
    return graph.getvalue()


def compile_onnx(graph: bytes, capability: str = "sm75") -> Compiled:
    """Compile an ONNX graph for a GPU that need not be there: sm75 (T4), sm80, sm86, sm89, sm120.

    Raises:
        ImportError: TensorRT-RTX is not installed.
        ValueError: TensorRT-RTX does not know the compute capability.
        RuntimeError: TensorRT cannot parse or compile the graph.
    """
    try:
        import tensorrt_rtx as trt
    except ImportError as e:
        raise ImportError(HINT) from e
    known = {name.lower(): value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    if capability not in known:
        raise ValueError(f"compute capability {capability!r} is unknown; TensorRT-RTX compiles for {', '.join(known)}")

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.kernels: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.kernels += KERNEL.findall(message)
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the logger is told every kernel
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[capability], 0)
    engine = builder.build_serialized_network(network, config) if parser.parse(graph) else None
    if engine is None:
        raise RuntimeError(f"TensorRT-RTX refused the graph for {capability}: {'; '.join(logger.errors)}")
    fused = sum("_gemm_mha" in tactic for tactic in logger.kernels)
    return Compiled(len(logger.kernels), fused, engine.nbytes)
