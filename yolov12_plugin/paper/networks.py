"""The networks of the paper's tables: their YAML as shipped, how large they are, and how long they take."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import yaml
from ultralytics.nn import tasks
from ultralytics.nn.tasks import BaseModel, DetectionModel
from ultralytics.utils import ROOT

from yolov12_plugin.benchmark.bench import pick_options
from yolov12_plugin.benchmark.timing import interleave, ratios
from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.names import CFG
from yolov12_plugin.nets import gflops
from yolov12_plugin.nn.attention import attention_backend
from yolov12_plugin.process import same_activation

K = TypeVar("K")


def shipped(name: str) -> dict[str, Any]:
    """The YAML of a detector of the plugin or of Ultralytics, as yolov12n-elan, whatever the working directory has."""
    folder = (CFG if name.startswith("yolov12") else ROOT / "cfg") / "models"
    scale = re.sub(r"^\D+\d+([a-z]).*", r"\1", name)
    stems = name, re.sub(r"^(\D+\d+)[a-z]", r"\1", name)  # YOLOv9 and YOLOv10 have a YAML for each scale
    file = next(file for stem in stems for file in folder.rglob(f"{stem}.yaml"))
    return yaml.safe_load(file.read_text(encoding="utf-8")) | {"scale": scale, "yaml_file": str(file)}


class Countable(BaseModel):
    """The layers of a detector without their values: to be counted, which then takes no time, not to detect."""

    @same_activation()
    def __init__(self, d: dict[str, Any]):
        super().__init__()
        self.yaml = d
        with torch.device("meta"):
            self.model, self.save = tasks.parse_model(d, ch=3, verbose=False)
        head = self.model[-1]
        head.stride = torch.ones(head.nl)  # what makes boxes needs values


@same_activation()
def build(name: str) -> Any:
    """A fused detector of the plugin or of Ultralytics, by its name."""
    return DetectionModel(shipped(name), verbose=False).eval().fuse(verbose=False)


@functools.cache
def counts(name: str) -> tuple[float, int]:
    """GFLOPs at 640 pixels and parameters of a fused detector of the plugin or of Ultralytics, by its name."""
    net = Countable(shipped(name)).eval()
    with torch.device("meta"):  # YOLOv9 makes new convolutions
        net.fuse(verbose=False)
    return gflops(net), sum(p.numel() for p in net.parameters())


@dataclass(frozen=True)
class Measurement:
    """How latencies are compared here: by PyTorch, FP32, one image of `imgsz` pixels, in rounds of all networks."""

    imgsz: int
    rounds: int
    device: str

    @classmethod
    def of(cls, imgsz: int = 640, rounds: int = 15, device: str | None = None) -> "Measurement":
        """What a command asks for; without a device on the first GPU, if there is one.

        Raises:
            NotRunnable: the device is not there, or the networks do not take such an image.
        """
        if imgsz % 32:
            raise NotRunnable(f"imgsz={imgsz} is no multiple of 32, the networks' stride: {imgsz // 32 * 32 + 32}")
        return cls(imgsz, rounds, str(pick_options(device, None, cuda_graph=False, compile=False).device))

    def __str__(self) -> str:
        return f"PyTorch on {self.device}, FP32, one image of {self.imgsz} pixels, {self.rounds} interleaved rounds"

    def ratios(self, runs: Mapping[K, tuple[str, str]], base: K) -> dict[K, float]:
        """Time of a forward pass of each run over that of `base`: the median over the rounds.

        A run is a network and the backend of its attention, by their names.
        """
        where = torch.device(self.device)
        image = torch.rand(1, 3, self.imgsz, self.imgsz, device=where)
        nets = {name: build(name).to(where) for name in dict.fromkeys(name for name, _ in runs.values())}

        def forward(name: str, backend: str) -> None:
            with attention_backend(backend), torch.inference_mode():
                nets[name](image)
                if where.type == "cuda":
                    torch.cuda.synchronize(where)

        seconds = interleave({key: functools.partial(forward, *run) for key, run in runs.items()}, self.rounds)
        return {key: round(ratio, 2) for key, ratio in ratios(seconds, base).items()}
