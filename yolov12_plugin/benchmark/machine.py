"""What a measurement was made on: processor or GPU, its clocks and limits, and the versions of what ran."""

import importlib.metadata
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch

from yolov12_plugin.deploy.runtimes.session import cores

PACKAGES = (
    *("yolov12-plugin", "ultralytics", "torch", "onnx", "onnxruntime", "openvino"),
    *("tensorrt", "tensorrt-rtx-cu13", "nvidia-modelopt"),
)
READINGS: dict[str, Callable[[Any, Any], float | str]] = {  # of NVML, the module, and a handle of a GPU
    "driver": lambda nvml, gpu: nvml.nvmlSystemGetDriverVersion(),
    "power_limit_w": lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1e3,
    "temperature_c": lambda nvml, gpu: float(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
    "sm_clock_mhz": lambda nvml, gpu: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
    "memory_clock_mhz": lambda nvml, gpu: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)),
    "max_sm_clock_mhz": lambda nvml, gpu: float(nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM)),
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
    about["instructions"] = instructions()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        memory = round(properties.total_memory / 2**30, 1)
        gpu = {"name": properties.name, "compute_capability": capability, "memory_gib": memory}
        about["gpu"] = gpu | gpu_state(device)
    return about


def instructions() -> list[str]:
    """What the processor has for products of INT8, and the vectors they stand beside; empty where it does not tell."""
    known = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            line = next(line for line in file if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return []
    return [name for name in known if name in line.split()]


def gpu_state(device: torch.device, keys: Iterable[str] = READINGS) -> dict[str, Any]:
    """Driver, power limit (W), temperature (°C) and clocks (MHz) of a GPU now; None where NVML does not tell."""
    state: dict[str, Any] = dict.fromkeys(keys)
    try:
        import pynvml
    except ImportError:
        return state
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        gpu = handle(pynvml, device)
        for key in state:
            with suppress(pynvml.NVMLError):
                state[key] = READINGS[key](pynvml, gpu)
    return state


def handle(nvml: Any, device: torch.device) -> Any:
    """A GPU as NVML knows it, whose numbers are not those of CUDA_VISIBLE_DEVICES."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None) if torch.cuda.is_available() else None
    if uuid is None:
        return nvml.nvmlDeviceGetHandleByIndex(device.index or 0)
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{str(uuid).removeprefix('GPU-')}")


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
        if clock := gpu_state(self.device, ["sm_clock_mhz"])["sm_clock_mhz"]:
            self.samples.append(clock)

    def record(self) -> dict[str, Any]:
        """The samples, and whether they are all the same; None where NVML told nothing."""
        return {"sm_clocks_mhz": self.samples, "clocks_steady": len(set(self.samples)) == 1 if self.samples else None}

    def warning(self) -> str | None:
        """What is to be said unless the clock stayed the same."""
        todo = "nvidia-smi --lock-gpu-clocks=MHZ,MHZ makes results comparable"
        if not self.samples:
            return f"NVML does not tell the GPU's clock, so it may have moved: {todo}"
        low, high = min(self.samples), max(self.samples)
        return f"the GPU's clock moved between {low:g} and {high:g} MHz: {todo}" if low < high else None
