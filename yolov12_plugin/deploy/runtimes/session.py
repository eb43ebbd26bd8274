"""A network as one runtime has loaded it: bound, executed, and measured."""

import ast
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import yaml
from torch import Tensor
from ultralytics.cfg import DEFAULT_CFG_DICT

from yolov12_plugin.errors import NotRunnable, first_line

PRECISION_OF = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int8: "int8"}


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wall(run: Callable[[], object]) -> float:
    """Seconds by the clock on the wall."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Options:
    """How sessions run: `threads` those of a CPU, `compile` PyTorch, `cuda_graph` PyTorch and TensorRT on a GPU."""

    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    half: bool = False
    threads: int = field(default_factory=cores)
    compile: bool = False
    cuda_graph: bool = False


def as_list(outputs: Any) -> list[Tensor]:
    """Outputs of a network in order; a head's auxiliary dicts are left out."""
    flat = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    tensors: list[Tensor] = []
    for out in flat:
        if isinstance(out, (list, tuple)):
            tensors += as_list(out)
        elif not isinstance(out, dict):
            tensors.append(torch.as_tensor(out))
    return tensors


class Session:
    """One network, loaded.

    `bind` puts images where the runtime reads them, `execute` runs it once and `outputs` are then in the order of the
    exported file. A runtime on a GPU enqueues on `stream`.
    """

    device = torch.device("cpu")
    stream: Any = None
    precision = "fp32"
    size: tuple[int, int] | None = None  # height and width, where the file has but one
    batch: int | None = None  # likewise
    output_names: list[str] | None = None
    stored: str | None = None  # what the weights are kept in, where that is less than they are computed in
    int8_layers: tuple[int, int] | None = None  # convolutions and matrix products in INT8, and all, where that is known
    metadata: Mapping[str, Any] = MappingProxyType({})  # Ultralytics' own, as in the file

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the export."""
        found = literal(self.metadata.get("args"))
        return found if isinstance(found, dict) else {}

    @property
    def exported_size(self) -> tuple[int, int] | None:
        """Height and width that the file was exported for, also where it takes others."""
        found = literal(self.metadata.get("imgsz"))
        return tuple(found) if isinstance(found, (list, tuple)) and len(found) == 2 else None  # type: ignore[return-value]

    def bind(self, images: Tensor) -> None:
        raise NotImplementedError

    def execute(self) -> None:
        raise NotImplementedError

    @property
    def outputs(self) -> list[Tensor]:
        raise NotImplementedError

    def __call__(self, images: Tensor) -> list[Tensor]:
        """FP32 copies of the outputs for images (B, C, H, W), executed in the batches that the file takes.

        Raises:
            NotRunnable: the runtime fails, by whatever exception of its own.
        """
        try:
            return self._run(images)
        except NotRunnable:
            raise
        except Exception as e:
            why = f"{type(e).__name__}: {first_line(e)}"
            raise NotRunnable(f"{type(self).__name__} does not run this here: {why}; export it again") from e

    def _run(self, images: Tensor) -> list[Tensor]:
        batch = self.batch or len(images)
        rows: list[list[Tensor]] = []
        for i in range(0, len(images), batch):
            part = images[i : i + batch]
            missing = batch - len(part)
            self.bind(torch.cat((part, part[-1:].expand(missing, -1, -1, -1))) if missing else part)
            self.execute()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            rows.append([out[: len(part)].detach().float().cpu().clone() for out in self.outputs])
        return [torch.cat(column) for column in zip(*rows)]

    def measure(self, then: Callable[[list[Tensor]], object] | None = None) -> Callable[[], float]:
        """A call that executes once, with `then` on the outputs, and returns its seconds.

        On a GPU these are between two CUDA events around it, on a CPU by the clock. An execution goes ahead of the
        first event, or the GPU would stamp it at once, and wait within what is timed for the CPU to enqueue the next.
        """

        def once() -> None:
            self.execute()
            if then is not None:
                then(self.outputs)

        if self.device.type != "cuda":
            return partial(wall, once)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = self.stream or torch.cuda.current_stream(self.device)

        def between_events() -> float:
            with torch.cuda.device(self.device), torch.cuda.stream(stream):
                self.execute()
                start.record()
                once()
                end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3

        return between_events


def metadata_of(folder: Path) -> dict[str, Any]:
    """Ultralytics' metadata in an exported folder, {} where there is none."""
    about = folder / "metadata.yaml"
    return yaml.safe_load(about.read_text(encoding="utf-8")) if about.exists() else {}


def literal(value: Any) -> Any:
    """A value of Ultralytics' metadata, which ONNX keeps as text."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, ValueError):
        return value


def export_format(exporter: Any) -> str:
    """Ultralytics' name of a format, of which some releases keep an alias as it was given."""
    name = exporter.args.format.lower()
    return "engine" if name in ("tensorrt", "trt") else name


def in_its_words(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with the precision as this Ultralytics names it: quantize=16 or 8, before 8.4 half or int8."""
    given = {key: value for key, value in arguments.items() if key not in ("half", "int8", "quantize")}
    quantize = arguments.get("quantize") or (8 if arguments.get("int8") else 16 if arguments.get("half") else None)
    if quantize is None:
        return given
    if "quantize" in DEFAULT_CFG_DICT:
        return given | {"quantize": quantize}
    older = {"int8": asked_for_int8, "half": asked_for_half}
    return given | {name: True for name, asked in older.items() if asked({"quantize": quantize})}


def asked_for_half(arguments: Mapping[str, Any]) -> bool:
    """Whether an export was asked for FP16, which Ultralytics 8.4 calls quantize=16."""
    return arguments.get("half") is True or str(arguments.get("quantize")) in ("16", "fp16", "w16a16")


def asked_for_int8(arguments: Mapping[str, Any]) -> bool:
    """Likewise for INT8, quantize=8, or of the weights alone."""
    return arguments.get("int8") is True or str(arguments.get("quantize")) in ("8", "int8", "w8a8", "w8a16")


def has_tf32(device: torch.device) -> bool:
    """Whether a GPU multiplies FP32 with ten bits of mantissa, as NVIDIA's do since Ampere."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def fixed(shape: list[Any]) -> tuple[int | None, tuple[int, int] | None]:
    """Batch, and height and width, of an input's shape (B, C, H, W); None for what is free."""
    batch, _, *size = (n if isinstance(n, int) and n > 0 else None for n in shape)
    return batch, None if None in size else (size[0], size[1])  # type: ignore[return-value]
