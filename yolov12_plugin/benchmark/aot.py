"""What TensorRT makes of an export, compiled ahead of time on a machine without a GPU."""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from yolov12_plugin.benchmark.bench import Candidate, or_reason
from yolov12_plugin.benchmark.machine import versions
from yolov12_plugin.benchmark.results import SCHEMA
from yolov12_plugin.deploy.runtimes.pytorch import exportable
from yolov12_plugin.deploy.tensorrt import uncollected
from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.nets import channels
from yolov12_plugin.patching import suspended
from yolov12_plugin.process import undisturbed

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
    net = exportable(model, imgsz, format="engine")
    image = torch.zeros(1, channels(net), imgsz, imgsz)
    graph: Any = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy exporter's tracer and deprecation notes
        torch.onnx.export(net.half(), (image.half(),), graph, opset_version=17, input_names=["images"], dynamo=False)
    return graph.getvalue()


def compute_capabilities() -> dict[str, Any]:
    """Those that TensorRT-RTX compiles for, by name: sm75 and so on."""
    try:
        import tensorrt_rtx as trt
    except ImportError as e:
        raise ImportError(HINT) from e
    return {name.lower(): value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}


def compile_onnx(graph: bytes, capability: str = "sm75") -> Compiled:
    """Compile an ONNX graph for a GPU that need not be there: sm75 (T4), sm80, sm86, sm89, sm120.

    Raises:
        ImportError: TensorRT-RTX is not installed.
        ValueError: TensorRT-RTX does not know the compute capability.
        RuntimeError: TensorRT cannot parse or compile the graph.
    """
    known = compute_capabilities()
    import tensorrt_rtx as trt

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
    with uncollected():
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


@undisturbed()
def bench_aot(
    models: Sequence[str],
    capabilities: Sequence[str],
    imgsz: int | None = None,
    *,
    report: Callable[[str], object] = lambda line: None,
    advance: Callable[[str, int], object] = lambda what, steps: None,
) -> dict[str, Any]:
    """Kernels of models compiled for GPUs that need not be there; where stock builds the same network, of both.

    The record has a row for each model, build and compute capability; a model that fails has the reason as `error`, and
    the others go on.

    Args:
        models: names as yolov12n, .yaml, or .pt.
        capabilities: of the GPUs: sm75 (T4), sm80, sm86, sm89, sm120.
        imgsz: pixels; by default 640, and 224 for classifiers.
        report: takes each line on a failure.
        advance: takes what is done now, and 1 after each model.

    Raises:
        NotRunnable: TensorRT-RTX is not installed, or there is no such compute capability.
    """
    try:
        known = compute_capabilities()
    except ImportError as e:
        raise NotRunnable(str(e)) from e
    if not capabilities:
        raise NotRunnable(f"no compute capability is named: {', '.join(known)}")
    for capability in capabilities:
        if capability not in known:
            raise NotRunnable(f"compute capability {capability!r} is unknown: {', '.join(known)}")
    rows: list[dict[str, Any]] = []
    for given in models:
        advance(given, 0)
        try:
            candidate = or_reason(partial(Candidate, given))
            if candidate.artefact is not None:
                raise NotRunnable("is exported already, and is exported anew for each capability: give the .pt")
            rows += compiled_rows(candidate, capabilities, candidate.pixels(imgsz))
        except NotRunnable as e:
            rows.append({"model": given, "error": f"{given}: {e}"})
            report(f"Error: {given}: {e}")
        advance(given, 1)
    return {"schema": SCHEMA, "kind": "aot", "protocol": {"imgsz": imgsz}, "versions": versions(), "rows": rows}


def builds(candidate: Candidate) -> dict[str, nn.Module]:
    """A candidate's network by who built it, stock's first where stock builds one with the same parameters."""
    net = candidate.net
    if candidate.stock:
        return {"stock": net}
    if not attentions(net):
        return {"Ultralytics": net}
    with suspended():
        stock = type(net)({k: deepcopy(v) for k, v in net.yaml.items() if k != "a2c2f"}, verbose=False)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (stock, net)]
    return {"stock": stock, "plugin": net} if shapes[0] == shapes[1] else {"plugin": net}


def compiled_rows(candidate: Candidate, capabilities: Sequence[str], imgsz: int) -> list[dict[str, Any]]:
    """A row of each build of a candidate and each compute capability."""
    rows = []
    for build, model in builds(candidate).items():
        graph = or_reason(partial(export_fp16, model, imgsz))
        for capability in capabilities:
            compiled = or_reason(partial(compile_onnx, graph, capability))
            about = {"model": candidate.name, "build": build, "imgsz": imgsz, "capability": capability}
            rows.append({**about, "attentions": attentions(model), **asdict(compiled)})
    return rows


def attentions(model: nn.Module) -> int:
    """Number of area attentions in a network."""
    return sum(type(m).__name__ == "AAttn" for m in model.modules())
