"""PyTorch: the model itself, and TorchScript."""

import importlib
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.torch_utils import TORCH_2_4

from yolov12_plugin.deploy.runtimes.session import PRECISION_OF, Options, Session, as_list, has_tf32
from yolov12_plugin.nn.modules import fuse_blocks


def exportable(
    model: nn.Module, imgsz: int | tuple[int, int], batch: int = 1, format: str = "onnx", end2end: bool = True
) -> nn.Module:
    """A fused FP32 copy of an Ultralytics model whose head returns what an exported file returns.

    Args:
        model: the network of a `YOLO`, which stays as it is.
        imgsz: pixels, or height and width.
        batch: images of the export.
        format: of Ultralytics' exporter, whose attention the copy gets.
        end2end: take the branch that needs no non-maximum suppression of a head that has both.
    """
    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    net: Any = deepcopy(model).float()
    if getattr(net.model[-1], "one2one_cv2", None) is not None:
        net.model[-1].end2end = end2end
    net = net.fuse(verbose=False).eval()
    fuse_blocks(net, format)
    for m in net.modules():
        if hasattr(m, "export"):
            m.export, m.format = True, format
    p = next(net.parameters())
    with torch.no_grad():
        net(p.new_zeros(batch, net.yaml.get("channels", 3), *size))  # the head keeps its anchors for this size
    return net.requires_grad_(False)


def write_onnx(net: nn.Module, images: Tensor, file: Any, **options: Any) -> None:
    """Write the ONNX graph of a network that `exportable` made, by the tracing exporter that Ultralytics uses too.

    Args:
        net: the network.
        images: an input of the graph's size and data type.
        file: a path, or a binary stream.
        options: of `torch.onnx.export`, as names of tensors.
    """
    tracing: dict[str, Any] = {"dynamo": False} if TORCH_2_4 else {}  # older releases have no other exporter
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's tracer and deprecation notes
        torch.onnx.export(net, (images,), file, opset_version=17, **tracing, **options)


@contextmanager
def many_compiled() -> Iterator[None]:
    """Compile whatever runs here: models share one forward, and past the limit of 8 the next is silently eager."""
    config: Any = importlib.import_module("torch._dynamo").config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    with config.patch({limit: max(getattr(config, limit), 1024)}):
        yield


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
            self.forward = torch.compile(self.model)
        self.cuda_graph = options.cuda_graph and self.device.type == "cuda"
        if self.device.type == "cpu":
            torch.set_num_threads(options.threads)

    def bind(self, images: Tensor) -> None:
        self.images = images.to(self.device, next(self.model.parameters()).dtype)
        self.graph: Any = None
        if self.forward is not self.model:
            with many_compiled(), torch.inference_mode():
                self.forward(self.images)
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
