"""TensorRT."""

from pathlib import Path

from torch import Tensor

from yolov12_plugin.deploy.runtimes.session import Options, Session, fixed, has_tf32
from yolov12_plugin.deploy.tensorrt import Engine


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
