"""Whatever else Ultralytics exports."""

from pathlib import Path

import torch
from torch import Tensor

from yolov12_plugin.deploy.runtimes.session import Options, Session, as_list, asked_for_half, asked_for_int8


class Backend(Session):
    """Any other exported format, by Ultralytics' own backend, whose conversions count as the runtime's."""

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
