"""What a measurement was made on: processor or GPU, its clocks and limits, and the versions of what ran."""

import importlib.metadata
import shutil
import subprocess
from typing import Any

import torch

from yolov12_plugin.benchmark.runtimes import cores

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
# Active while `nvidia-smi --lock-gpu-clocks` or `--applications-clocks` holds the clock; drivers renamed it in 2023.
LOCKED = ("clocks_event_reasons.applications_clocks_setting", "clocks_throttle_reasons.applications_clocks_setting")
UNLOCKED = (
    "the GPU's clocks are not locked, so they follow load and temperature: nvidia-smi --lock-gpu-clocks=MHZ, MHZ "
    "makes results comparable"
)


def versions() -> dict[str, str]:
    """Versions of the packages that matter to a measurement, where they are installed, and of CUDA."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
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
    """Driver, power limit (W), temperature (°C) and clocks (MHz) of a GPU now, and whether the clocks are locked.

    What nvidia-smi does not tell is None; `clocks_locked` also where neither name of its query is known.
    """
    name = smi_name(device)
    values = _query(name, ",".join(QUERIES.values())) or [""] * len(QUERIES)
    state: dict[str, Any] = {key: _number(value) for key, value in zip(QUERIES, values)}
    state["driver"] = values[0] or None
    locked = next((found[0] for field in LOCKED if (found := _query(name, field))), None)
    return state | {"clocks_locked": None if locked not in ("Active", "Not Active") else locked == "Active"}


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
