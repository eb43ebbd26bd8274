"""What is installed here, and which attention it gives."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from ultralytics.utils.torch_utils import get_cpu_info

import yolov12_plugin
from yolov12_plugin.nn import attention
from yolov12_plugin.nn.modules import HEAD_DIM

OPTIONAL = (
    "flash-attn",
    "flash-attn-4",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "pycocotools",
)


def report() -> dict[str, Any]:
    """Versions (None: not installed), whether the plugin is registered, and the attention of each device and dtype."""
    devices = {torch.device("cpu"): get_cpu_info()}
    devices |= {torch.device("cuda", i): torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        devices[torch.device("mps")] = get_cpu_info()
    return {
        "versions": {
            "yolov12-plugin": yolov12_plugin.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in ("ultralytics", "torch", *OPTIONAL)},
            "cuda": torch.version.cuda,
        },
        "registered": yolov12_plugin.is_registered(),
        "attention": [
            {"device": str(device), "name": name, **_attention(device, dtype)}
            for device, name in devices.items()
            for dtype in (torch.float32, torch.float16, torch.bfloat16)
        ],
    }


def _attention(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    case = attention.Case.of(torch.empty(1, 1, 1, HEAD_DIM, device=device, dtype=dtype))
    row = {"dtype": str(dtype).removeprefix("torch."), "selected": attention.selected}
    if attention.selected in ("sdpa", "math"):
        return {**row, "backend": attention.selected, "why": "selected"}
    try:
        backend = attention.choose(attention.selected, case)
    except (ImportError, RuntimeError, ValueError) as e:
        return {**row, "backend": "none", "why": str(e)}
    return {**row, "backend": backend, "why": attention.find_flash(case)[1]}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
