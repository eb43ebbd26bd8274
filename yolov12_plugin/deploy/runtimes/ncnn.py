"""NCNN."""

import importlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yolov12_plugin.deploy.runtimes.session import Options, Session, asked_for_half, metadata_of
from yolov12_plugin.errors import NotRunnable


class Ncnn(Session):
    """A folder of Ultralytics' export, on the CPU: a network of fixed size that takes one image at a time."""

    batch = 1

    def __init__(self, folder: Path, options: Options) -> None:
        self.ncnn = importlib.import_module("ncnn")
        self.metadata = metadata_of(folder)
        self.size = self.exported_size
        half = asked_for_half(self.arguments)
        self.precision = "fp16" if half else "fp32"
        self.net = self.ncnn.Net()
        settings = self.net.opt
        settings.num_threads = options.threads
        # Left to itself it keeps and computes in FP16 where the processor can, also what was exported in FP32.
        settings.use_fp16_packed = settings.use_fp16_storage = settings.use_fp16_arithmetic = half
        settings.use_bf16_storage = settings.use_vulkan_compute = False
        self.net.opt = settings
        for load, name in ((self.net.load_param, "model.ncnn.param"), (self.net.load_model, "model.ncnn.bin")):
            if load(str(folder / name)) != 0:  # it says why on stderr
                raise NotRunnable(f"{folder / name} is no network that this NCNN reads: export the model again")
        (self.input_name,) = self.net.input_names()
        self.names = sorted(self.net.output_names())  # out0, out1
        self.output_names = [f"output{i}" for i in range(len(self.names))]

    def bind(self, images: Tensor) -> None:
        self.image = self.ncnn.Mat(images[0].float().contiguous().cpu().numpy()).clone()

    def execute(self) -> None:
        with self.net.create_extractor() as extractor:
            extractor.input(self.input_name, self.image)
            found = [extractor.extract(name) for name in self.names]
        if failed := [name for name, (code, _) in zip(self.names, found) if code != 0]:
            raise NotRunnable(f"NCNN computes no {', '.join(failed)}: export the model again")
        self.results = [out for _, out in found]

    @property
    def outputs(self) -> list[Tensor]:
        return [torch.from_numpy(np.array(out))[None] for out in self.results]
