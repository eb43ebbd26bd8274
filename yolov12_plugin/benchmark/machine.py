"""What a measurement was made on: processor or GPU, its clocks and limits, and the versions of what ran."""

import importlib.metadata
import shutil
import subprocess
import sys
from typing import Any

import torch

from yolov12_plugin.deploy.runtimes.session import cores

PACKAGES = (
    *("yolov12-plugin", "ultralytics", "torch", "onnx", "onnxruntime", "openvino"),
    *("tensorrt", "tensorrt-rtx-cu13", "nvidia-modelopt"),
)
QUERIES = {
    "driver": "driver_version",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
    "sm_clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "max_sm_clock_mhz": "clocks.max.sm",
}


def versions() -> dict[str, str]:
    """Versions of the packages that matter to a measurement, where they are installed, and of CUDA."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if (trt := sys.modules.get("tensorrt")) is not None:  # installed as tensorrt-cu12, tensorrt-cu13 or by NVIDIA's own
        found["tensorrt"] = trt.__version__
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def machine(device: torch.device) -> dict[str, Any]:
    """Processor and cores, and for a CUDA device the GPU with what `gpu_state` tells."""
    from ultralytics.utils.torch_utils import get_cpu_info

    about: dict[str, Any] = {"processor": get_cpu_info(), "cores": cores(), "gpu": None}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        memory = round(properties.total_memory / 2**30, 1)
        gpu = {"name": properties.name, "compute_capability": capability, "memory_gib": memory}
        about["gpu"] = gpu | gpu_state(device)
    return about


def gpu_state(device: torch.device) -> dict[str, Any]:
    """Driver, power limit (W), temperature (°C) and clocks (MHz) of a GPU now; None where nvidia-smi does not tell."""
    values = _query(smi_name(device), ",".join(QUERIES.values())) or [""] * len(QUERIES)
    state: dict[str, Any] = {key: _number(value) for key, value in zip(QUERIES, values)}
    return state | {"driver": values[0] or None}


class Clocks:
    """The SM clock (MHz) of a GPU while something runs: a lock cannot be asked for, but a clock that moves is none.

    `tick` ends a round, and reads the clock in each `every` of them on a GPU.
    """

    def __init__(self, device: torch.device, every: int = 1) -> None:
        self.device, self.every, self.rounds = device, every, 0
        self.samples: list[float] = []

    def tick(self) -> None:
        self.rounds += 1
        if self.device.type != "cuda" or self.rounds % self.every:
            return
        if (found := _query(smi_name(self.device), QUERIES["sm_clock_mhz"])) and (clock := _number(found[0])):
            self.samples.append(clock)

    def record(self) -> dict[str, Any]:
        """The samples, and whether they are all the same; None where nvidia-smi told nothing."""
        return {"sm_clocks_mhz": self.samples, "clocks_steady": len(set(self.samples)) == 1 if self.samples else None}

    def warning(self) -> str | None:
        """What is to be said unless the clock stayed the same."""
        todo = "nvidia-smi --lock-gpu-clocks=MHZ,MHZ makes results comparable"
        if not self.samples:
            return f"nvidia-smi does not tell the GPU's clock, so it may have moved: {todo}"
        low, high = min(self.samples), max(self.samples)
        return f"the GPU's clock moved between {low:g} and {high:g} MHz: {todo}" if low < high else None


def smi_name(device: torch.device) -> str:
    """A GPU as nvidia-smi knows it, whose numbers are not those of CUDA_VISIBLE_DEVICES."""
    index = device.index or 0
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None) if torch.cuda.is_available() else None
    return str(index) if uuid is None else f"GPU-{str(uuid).removeprefix('GPU-')}"


def _query(gpu: str, fields: str) -> list[str] | None:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return None
    command = [smi, f"--id={gpu}", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [part.strip() for part in done.stdout.strip().split(",")] if done.returncode == 0 else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]", "[Not Supported]"
        return None
