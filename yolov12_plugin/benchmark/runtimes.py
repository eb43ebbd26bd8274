"""What computes a model: PyTorch and the runtimes of exported files, each as a session."""

import ast
import importlib
import importlib.util
import json
import math
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from yolov12_plugin.benchmark.machine import cores
from yolov12_plugin.benchmark.tensorrt import Engine, load
from yolov12_plugin.benchmark.timing import wall
from yolov12_plugin.errors import NotRunnable, first_line
from yolov12_plugin.nn.modules import fuse_attention

PRECISION_OF = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int8: "int8"}


@dataclass(frozen=True)
class Options:
    """How sessions run: `threads` those of a CPU, `compile` PyTorch, `cuda_graph` PyTorch and TensorRT on a GPU."""

    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    half: bool = False
    threads: int = field(default_factory=cores)
    compile: bool = False
    cuda_graph: bool = False


def exportable(
    model: nn.Module, imgsz: int | tuple[int, int], batch: int = 1, format: str = "onnx", end2end: bool = True
) -> nn.Module:
    """A fused FP32 copy of an Ultralytics model whose head returns what an exported file returns.

    `end2end` selects the branch that needs no non-maximum suppression of a head that has both.
    """
    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    net: Any = deepcopy(model).float()
    if getattr(net.model[-1], "one2one_cv2", None) is not None:
        net.model[-1].end2end = end2end
    net = net.fuse(verbose=False).eval()
    fuse_attention(net, format)
    for m in net.modules():
        if hasattr(m, "export"):
            m.export, m.format = True, format
    p = next(net.parameters())
    with torch.no_grad():
        net(p.new_zeros(batch, net.yaml.get("channels", 3), *size))  # the head keeps its anchors for this size
    return net.requires_grad_(False)


def as_list(outputs: Any) -> list[Tensor]:
    """Outputs of a network in order; a head's auxiliary dicts are left out."""
    flat = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    tensors: list[Tensor] = []
    for out in flat:
        if isinstance(out, (list, tuple)):
            tensors += as_list(out)
        elif not isinstance(out, dict):
            tensors.append(torch.as_tensor(out))
    return tensors


class Session:
    """One network, loaded.

    `bind` puts images where the runtime reads them, `execute` runs it once and `outputs` are then in the order of the
    exported file. A runtime on a GPU enqueues on `stream`.
    """

    device = torch.device("cpu")
    stream: Any = None
    precision = "fp32"
    size: tuple[int, int] | None = None  # height and width, where the file has but one
    batch: int | None = None  # likewise
    output_names: list[str] | None = None
    stored: str | None = None  # what the weights are kept in, where that is less than they are computed in
    metadata: Mapping[str, Any] = MappingProxyType({})  # Ultralytics' own, as in the file

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the export."""
        found = literal(self.metadata.get("args"))
        return found if isinstance(found, dict) else {}

    @property
    def exported_size(self) -> tuple[int, int] | None:
        """Height and width that the file was exported for, also where it takes others."""
        found = literal(self.metadata.get("imgsz"))
        return tuple(found) if isinstance(found, (list, tuple)) and len(found) == 2 else None  # type: ignore[return-value]

    def bind(self, images: Tensor) -> None:
        raise NotImplementedError

    def execute(self) -> None:
        raise NotImplementedError

    @property
    def outputs(self) -> list[Tensor]:
        raise NotImplementedError

    def __call__(self, images: Tensor) -> list[Tensor]:
        """FP32 copies of the outputs for images (B, C, H, W), executed in the batches that the file takes."""
        batch = self.batch or len(images)
        rows: list[list[Tensor]] = []
        for i in range(0, len(images), batch):
            part = images[i : i + batch]
            missing = batch - len(part)
            self.bind(torch.cat((part, part[-1:].expand(missing, -1, -1, -1))) if missing else part)
            self.execute()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            rows.append([out[: len(part)].detach().float().cpu().clone() for out in self.outputs])
        return [torch.cat(column) for column in zip(*rows)]

    def measure(self, then: Callable[[list[Tensor]], object] | None = None) -> Callable[[], float]:
        """A call that executes once, with `then` on the outputs, and returns its seconds.

        On a GPU these are between two CUDA events around it, on a CPU by the clock. An execution goes ahead of the
        first event, or the GPU would stamp it at once, and wait within what is timed for the CPU to enqueue the next.
        """

        def once() -> None:
            self.execute()
            if then is not None:
                then(self.outputs)

        if self.device.type != "cuda":
            return partial(wall, once)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = self.stream or torch.cuda.current_stream(self.device)

        def between_events() -> float:
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                self.execute()
                start.record()
                once()
                end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3

        return between_events


class Torch(Session):
    """The model itself, eager, compiled, or replayed as a CUDA graph."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.device = options.device
        self.model = model.half().to(options.device) if options.half else model.to(options.device)
        self.precision = PRECISION_OF[next(self.model.parameters()).dtype]
        if self.precision == "fp32" and has_tf32(self.device) and torch.backends.cudnn.allow_tf32:
            self.precision = "tf32"
        self.forward: Callable[[Tensor], Any] = self.model
        if options.compile:
            config = importlib.import_module("torch._dynamo").config
            limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
            # All models share one forward, and at the limit of 8 the next would be eager without a word.
            setattr(config, limit, max(getattr(config, limit), 1024))
            self.forward = torch.compile(self.model)
        self.cuda_graph = options.cuda_graph and self.device.type == "cuda"
        if self.device.type == "cpu":
            torch.set_num_threads(options.threads)

    def bind(self, images: Tensor) -> None:
        self.images = images.to(self.device, next(self.model.parameters()).dtype)
        self.graph: Any = None
        if self.cuda_graph:
            torch.cuda.synchronize(self.device)
            with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream(self.device)):
                for _ in range(3):  # kernels are chosen and compiled before they are recorded
                    self.forward(self.images)
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            with torch.inference_mode(), torch.cuda.graph(graph):
                self.results = self.forward(self.images)
            self.graph = graph

    def execute(self) -> None:
        if self.graph is not None:
            self.graph.replay()
            return
        with torch.inference_mode():
            self.results = self.forward(self.images)

    @property
    def outputs(self) -> list[Tensor]:
        return as_list(self.results)


class TorchScript(Torch):
    def __init__(self, file: Path, options: Options) -> None:
        extra = {"config.txt": ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and Ultralytics' format
            model = torch.jit.load(str(file), options.device, extra)
        super().__init__(model, replace(options, compile=False))
        self.metadata = json.loads(extra["config.txt"] or "{}")
        if not self.arguments.get("dynamic") and self.exported_size:  # the trace keeps its anchors
            self.batch, self.size = self.metadata["batch"], self.exported_size


class OnnxRuntime(Session):
    def __init__(self, file: Path, options: Options) -> None:
        ort = importlib.import_module("onnxruntime")
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.log_severity_level = 3
        # Otherwise the threads of one session wait busily while the next is timed.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = ort.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
        (image,) = self.session.get_inputs()
        self.input_name, self.half = image.name, "float16" in image.type
        self.batch, self.size = fixed(image.shape)
        self.output_names = [out.name for out in self.session.get_outputs()]
        self.precision = onnx_precision(file)
        self.metadata = self.session.get_modelmeta().custom_metadata_map

    def bind(self, images: Tensor) -> None:
        array = images.half() if self.half else images.float()
        self.feed = {self.input_name: array.contiguous().cpu().numpy()}

    def execute(self) -> None:
        self.results = self.session.run(None, self.feed)

    @property
    def outputs(self) -> list[Tensor]:
        return [torch.from_numpy(out) for out in self.results]


class OpenVino(Session):
    def __init__(self, folder: Path, options: Options) -> None:
        ov = importlib.import_module("openvino")
        core = ov.Core()
        if (graph := next(folder.glob("*.xml"), None)) is None:
            raise NotRunnable(f"{folder} holds no .xml: export the model again")
        model = core.read_model(graph)
        about = folder / "metadata.yaml"
        self.metadata = yaml.safe_load(about.read_text(encoding="utf-8")) if about.exists() else {}
        # Left to itself a CPU with BF16 or AMX computes in less than FP32, and says nothing.
        wanted = ov.Type.f16 if options.half else ov.Type.f32
        settings = {"INFERENCE_NUM_THREADS": options.threads, "PERFORMANCE_HINT": "LATENCY"}
        self.compiled = core.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": wanted})
        runs_in = self.compiled.get_property("INFERENCE_PRECISION_HINT")
        quantised = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        self.precision = "int8" if quantised else runs_in.get_type_name().replace("f", "fp").replace("bfp", "bf")
        if any(op.get_type_name() == "Constant" and op.get_element_type() == ov.Type.f16 for op in model.get_ops()):
            self.stored = "fp16"
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


class TensorRT(Session):
    def __init__(self, file: Path, options: Options) -> None:
        self.engine = Engine(file, options.device if options.device.type == "cuda" else None)
        self.device, self.stream = self.engine.device, self.engine.stream
        self.metadata, self.output_names = self.engine.metadata, self.engine.output_names
        self.precision = self.engine.precision
        if self.precision == "fp32" and has_tf32(self.device):
            self.precision = "tf32"  # which TensorRT's builder uses unless it is told not to
        low, high = self.engine.shapes(self.engine.inputs[0])
        self.batch, self.size = fixed([a if a == b else None for a, b in zip(low, high)])
        self.cuda_graph = options.cuda_graph and self.device.type == "cuda"

    def bind(self, images: Tensor) -> None:
        self.engine.bind(images)
        if self.cuda_graph:
            self.engine.capture()

    def execute(self) -> None:
        self.engine.execute()

    @property
    def outputs(self) -> list[Tensor]:
        return self.engine.outputs


class Backend(Session):
    """Any other exported format, by Ultralytics' own backend: verified, not timed."""

    def __init__(self, file: Path, options: Options) -> None:
        from ultralytics.nn.autobackend import AutoBackend

        self.device = options.device
        self.model = AutoBackend(str(file), device=self.device, fp16=False)
        self.metadata = getattr(self.model, "metadata", None) or {}
        if not self.arguments.get("dynamic"):
            self.batch, self.size = int(self.metadata.get("batch", 1)), self.exported_size
        half, int8 = asked_for_half(self.arguments), asked_for_int8(self.arguments)
        self.precision = "int8" if int8 else "fp16" if half else "fp32"

    def bind(self, images: Tensor) -> None:
        self.images = images.to(self.device)

    def execute(self) -> None:
        with torch.inference_mode():
            self.results = self.model(self.images)

    @property
    def outputs(self) -> list[Tensor]:
        return as_list(self.results)


def literal(value: Any) -> Any:
    """A value of Ultralytics' metadata, which ONNX keeps as text."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, ValueError):
        return value


def asked_for_half(arguments: Mapping[str, Any]) -> bool:
    """Whether an export was asked for FP16, which Ultralytics 8.4 calls quantize=16."""
    return arguments.get("half") is True or arguments.get("quantize") == 16


def asked_for_int8(arguments: Mapping[str, Any]) -> bool:
    """Likewise for INT8, quantize=8."""
    return arguments.get("int8") is True or str(arguments.get("quantize")) in ("8", "int8", "w8a8")


def has_tf32(device: torch.device) -> bool:
    """Whether a GPU multiplies FP32 with ten bits of mantissa, as NVIDIA's do since Ampere."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def fixed(shape: list[Any]) -> tuple[int | None, tuple[int, int] | None]:
    """Batch, and height and width, of an input's shape (B, C, H, W); None for what is free."""
    batch, _, *size = (n if isinstance(n, int) and n > 0 else None for n in shape)
    return batch, None if None in size else (size[0], size[1])  # type: ignore[return-value]


def onnx_precision(file: Path) -> str:
    """The data type of most weights of an ONNX graph; int8 where it quantises."""
    onnx = importlib.import_module("onnx")
    graph = onnx.load(str(file), load_external_data=False).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        return "int8"
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    values: dict[str, int] = dict.fromkeys(names.values(), 0)
    for weight in graph.initializer:
        if weight.data_type in names:
            values[names[weight.data_type]] += math.prod(weight.dims)
    return max(values, key=lambda key: values[key])


@dataclass(frozen=True)
class Runtime:
    """A runtime of the command: what Ultralytics exports for it, what it needs, and how it is got."""

    name: str
    format: str | None
    suffix: str
    session: Callable[[Path, Options], Session] | None
    needs: tuple[str, ...] = ()
    hint: str = ""
    on_gpu: bool = False

    def require(self, also: tuple[str, ...] = ()) -> None:
        """Raise `NotRunnable` where the runtime, or what else it takes to export for it, is not here."""
        for module in self.needs + also:
            if importlib.util.find_spec(module) is None:
                hint = MODELOPT if module == "modelopt" else self.hint
                raise NotRunnable(f"{self.name}: {module} is not installed: {hint}")
        if self.format == "engine":
            load()


MODELOPT = 'pip install "nvidia-modelopt[onnx]", or "tensorrt<11", which takes FP16 by a flag'
EXPORT = 'pip install "yolov12-plugin[export]"'
RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("tensorrt", "engine", ".engine", TensorRT, (), EXPORT, on_gpu=True),
        Runtime("onnxruntime", "onnx", ".onnx", OnnxRuntime, ("onnxruntime", "onnx"), EXPORT),
        Runtime("openvino", "openvino", "_openvino_model", OpenVino, ("openvino",), EXPORT),
        Runtime("torch", None, ".pt", None, on_gpu=True),
        Runtime("torchscript", "torchscript", ".torchscript", TorchScript, on_gpu=True),
    )
}


def runtime_of(artefact: Path) -> Runtime | None:
    """The runtime that an exported file or folder is for, by its suffix; None for one that only Ultralytics runs."""
    name = artefact.name.lower()
    return next((r for r in RUNTIMES.values() if r.session is not None and name.endswith(r.suffix)), None)


def open_artefact(artefact: Path, options: Options) -> Session:
    """A session of an exported file or folder of any format of Ultralytics.

    Raises:
        FileNotFoundError: there is no such file.
        NotRunnable: its runtime is not installed, or cannot run or read it here.
    """
    if not artefact.exists():
        raise FileNotFoundError(f"{artefact} does not exist: export the model first, or mind the folder")
    runtime = runtime_of(artefact)
    if runtime is not None:
        runtime.require()
    make = runtime.session if runtime is not None and runtime.session is not None else Backend
    try:
        return make(artefact, options)
    except NotRunnable:
        raise
    except Exception as e:  # each runtime has its own kinds
        raise NotRunnable(f"{artefact} cannot be read, export it again: {type(e).__name__}: {first_line(e)}") from e
