"""MNN."""

import importlib
import json
from pathlib import Path

import torch
from torch import Tensor

from yolov12_plugin.deploy.runtimes.session import Options, Session, asked_for_half, asked_for_int8
from yolov12_plugin.errors import NotRunnable


class Mnn(Session):
    """A file of Ultralytics' export, on the CPU."""

    def __init__(self, file: Path, options: Options) -> None:
        self.mnn = importlib.import_module("MNN")
        settings = {"backend": "CPU", "numThread": options.threads, "precision": "low" if options.half else "high"}
        self.manager = self.mnn.nn.create_runtime_manager((settings,))
        self.net = self.mnn.nn.load_module_from_file(str(file), [], [], runtime_manager=self.manager, rearrange=True)
        if self.net is None:
            raise NotRunnable(f"{file} is no network that this MNN reads: export the model again")
        self.metadata = json.loads(self.net.get_info()["bizCode"] or "{}")
        if not self.arguments.get("dynamic"):
            self.batch, self.size = int(self.metadata.get("batch", 1)), self.exported_size
        self.precision = "fp16" if options.half else "fp32"
        if asked_for_int8(self.arguments):
            self.stored = "int8"
        elif asked_for_half(self.arguments):
            self.stored = "fp16"

    def bind(self, images: Tensor) -> None:
        self.array = images.float().contiguous().cpu().numpy()  # MNN reads it where it lies
        self.images = self.mnn.expr.const(self.array.ctypes.data, self.array.shape)

    def execute(self) -> None:
        self.results = [out.read() for out in self.net.onForward([self.images])]  # computed when it is read

    @property
    def outputs(self) -> list[Tensor]:
        return [torch.from_numpy(out.copy()) for out in self.results]
