"""What TensorRT makes of an export, compiled ahead of time on a machine without a GPU."""

import contextlib
import importlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from yolov12_plugin.benchmark.bench import Candidate, or_reason
from yolov12_plugin.benchmark.machine import versions
from yolov12_plugin.benchmark.results import SCHEMA
from yolov12_plugin.deploy.runtimes import QUANTISERS
from yolov12_plugin.deploy.runtimes.pytorch import exportable, write_onnx
from yolov12_plugin.deploy.tensorrt import uncollected
from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.nets import channels, is_quantised, task_of
from yolov12_plugin.patching import suspended
from yolov12_plugin.process import quantiser_as_it_was, undisturbed

HINT = "TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13"
KERNEL = re.compile(
    r"^\s*Name: .*?, LayerType: (?!signal|wait)(?P<layer>\S+), (?P<inputs>.*?)(?:Constants|Outputs): "
    r".*TacticName: (?P<tactic>\S*),",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Compiled:
    """An engine's kernels in all, those that are a whole attention or an INT8 convolution, and its size in bytes."""

    kernels: int
    fused_attentions: int
    int8_convolutions: int
    engine_bytes: int


def export_fp16(model: nn.Module, imgsz: int = 640) -> bytes:
    """ONNX graph of a fused Ultralytics model in FP16, batch 1, as `format=engine` makes it before TensorRT reads it.

    The model is left as it is. TensorRT wants the precision in the graph: its newer releases take no FP16 flag.
    """
    return _graph(exportable(model, imgsz, format="engine").half(), imgsz)


def export_int8(model: nn.Module, data: str | None = None, imgsz: int = 640) -> bytes:
    """ONNX graph of a fused Ultralytics model in INT8, batch 1, as `format=engine quantize=8` makes it for TensorRT 11.

    That is by ModelOpt, which leaves the rest in FP16. The model is left as it is. One of a quantisation-aware training
    brings its ranges along; those of others are measured on the images of a dataset.

    Args:
        model: the network of a `YOLO`.
        data: YAML of a dataset, whose `val` images are taken, 512 at most.
        imgsz: pixels.

    Raises:
        ImportError: ModelOpt is not installed, or this Ultralytics makes no use of it.
        ValueError: a model needs a dataset, and there is none.
    """
    try:
        importlib.import_module("modelopt.onnx.quantization")
    except ImportError as e:
        raise ImportError(f"ModelOpt is not installed in full: {QUANTISERS}") from e
    engine = importlib.import_module("ultralytics.utils.export.engine")
    if not hasattr(engine, "modelopt_quantize_onnx"):
        raise ImportError("this Ultralytics does not quantise by ModelOpt: update it")
    quantised = is_quantised(model)
    if not (quantised or data):
        raise ValueError("INT8 needs a dataset, on whose images ranges are measured")
    net = exportable(model, imgsz, format="engine").cpu()
    shape = (1, channels(net), imgsz, imgsz)
    with tempfile.TemporaryDirectory() as folder, _unheard(), quantiser_as_it_was():
        images = None if quantised else calibration_images(net, str(data), imgsz)
        file = Path(folder) / "model.onnx"
        file.write_bytes(_graph(net, imgsz))
        return Path(engine.modelopt_quantize_onnx(str(file), 16 if quantised else 8, images, shape)).read_bytes()


def calibration_images(net: nn.Module, data: str, imgsz: int) -> Iterable[dict[str, Any]]:
    """The batches of one image on which an export of Ultralytics measures ranges."""
    from ultralytics.engine.exporter import Exporter

    task = task_of(net)
    exporter: Any = Exporter(overrides={"task": task, "data": data, "imgsz": imgsz, "batch": 1, "format": "engine"})
    exporter.model, exporter.imgsz = SimpleNamespace(task=task), [imgsz, imgsz]
    return exporter.get_int8_calibration_dataloader()


def _graph(net: nn.Module, imgsz: int) -> bytes:
    image = torch.zeros(1, channels(net), imgsz, imgsz, dtype=next(net.parameters()).dtype)
    graph: Any = io.BytesIO()
    write_onnx(net, image, graph, input_names=["images"])
    return graph.getvalue()


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Without what Ultralytics and ModelOpt tell of their progress, and of GPUs that need not be there."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


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
            self.kernels: list[re.Match[str]] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.kernels += KERNEL.finditer(message)
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
    fused = sum("_gemm_mha" in kernel["tactic"] for kernel in logger.kernels)
    int8 = sum(
        kernel["layer"] in ("correlation", "deconv") and "Datatype: Int8" in kernel["inputs"]
        for kernel in logger.kernels
    )
    return Compiled(len(logger.kernels), fused, int8, engine.nbytes)


@undisturbed()
def bench_aot(
    models: Sequence[str],
    capabilities: Sequence[str],
    imgsz: int | None = None,
    *,
    int8: str | None = None,
    report: Callable[[str], object] = lambda line: None,
    advance: Callable[[str, int], object] = lambda what, steps: None,
) -> dict[str, Any]:
    """Kernels of models compiled for GPUs that need not be there; where stock builds the same network, of both.

    The record has a row for each model, build, precision and compute capability: in FP16 and, where `int8` asks for it,
    in INT8; one of a quantisation-aware training is compiled in INT8 alone. A model that fails has the reason as
    `error`, and the others go on.

    Args:
        models: names as yolov12n, .yaml, or .pt.
        capabilities: of the GPUs: sm75 (T4), sm80, sm86, sm89, sm120.
        imgsz: pixels; by default 640, and 224 for classifiers.
        int8: YAML of a dataset, on whose images ranges are measured.
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
            rows += compiled_rows(candidate, capabilities, candidate.pixels(imgsz), int8)
        except NotRunnable as e:
            rows.append({"model": given, "error": f"{given}: {e}"})
            report(f"Error: {given}: {e}")
        advance(given, 1)
    protocol = {"imgsz": imgsz} | ({"int8": int8} if int8 else {})
    return {"schema": SCHEMA, "kind": "aot", "protocol": protocol, "versions": versions(), "rows": rows}


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


def compiled_rows(
    candidate: Candidate, capabilities: Sequence[str], imgsz: int, int8: str | None = None
) -> list[dict[str, Any]]:
    """A row of each build of a candidate, each precision and each compute capability."""
    rows = []
    for build, model in builds(candidate).items():
        exports: dict[str, Callable[[], bytes]] = {}
        if not is_quantised(model):
            exports["fp16"] = partial(export_fp16, model, imgsz)
        if int8 is not None or not exports:
            exports["int8"] = partial(export_int8, model, int8, imgsz)
        for precision, export in exports.items():
            graph = or_reason(export)
            for capability in capabilities:
                compiled = or_reason(partial(compile_onnx, graph, capability))
                about = {"model": candidate.name, "build": build, "imgsz": imgsz, "precision": precision}
                rows.append({**about, "capability": capability, "attentions": attentions(model), **asdict(compiled)})
    return rows


def attentions(model: nn.Module) -> int:
    """Number of area attentions in a network."""
    return sum(type(m).__name__ == "AAttn" for m in model.modules())
