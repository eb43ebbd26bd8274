"""Everything that this project asks of TensorRT (8.6, 10 and 11): an engine loaded, described and executed."""

import gc
import importlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from yolov12_plugin.errors import NotRunnable

HINT = 'pip install tensorrt, or "tensorrt<11" for a T4'

# What TensorRT tells its logger, what that means, and what a user can do about it. In newer releases the version that
# an engine was built by is often no digits but raw characters.
AGAIN = "export it again on this machine"
SMALLER = "export it for a smaller batch or image, or free the GPU"
NUMBER = r"(?P<{}>\d[\d.]*\d)"
HERE, BUILT = NUMBER.format("here"), NUMBER.format("built")
REASONS = (
    (r"CUDA initialization failure|cudaError (35|100)\b", "needs an NVIDIA GPU and its driver", "check nvidia-smi"),
    (rf"expecting library version {HERE} got {BUILT}", "was built by TensorRT {built}, this is {here}", AGAIN),
    (rf"expecting library version {HERE}", "was built by another version of TensorRT, this is {here}", AGAIN),
    (r"stdVersionRead|Version tag does not match", "was built by another version of TensorRT", AGAIN),
    (rf"expecting compute {HERE} got compute {BUILT}", "was built for sm {built}, this GPU has {here}", AGAIN),
    (r"incompatible device", "was built for another GPU", AGAIN),
    (r"[Oo]ut ?[Oo]f ?[Mm]emory|could not be allocated", "does not fit into the memory of the GPU", SMALLER),
    (r"[Mm]agic|MAGIC", "is no TensorRT engine, a corrupt one, or one of a much older version", AGAIN),
    (r"Serializ|deserialize|buffer", "is corrupt", AGAIN),
)
DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}
# Data types as the engine inspector writes them: "Half", "Channel major FP16 format where channel % 8 == 0".
PRECISIONS = {
    "bf16": "BF16|BFloat16",
    "fp16": "FP16|Half",
    "fp8": "FP8",
    "int8": "INT8|Int8",
    "fp32": "FP32|Float",
}


def load() -> ModuleType:
    """The `tensorrt` module.

    Raises:
        NotRunnable: TensorRT is not installed, or there is no CUDA device.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as e:  # OSError: the bindings without their libraries
        missing = isinstance(e, ModuleNotFoundError) and e.name == "tensorrt"
        why = "is not installed" if missing else f"cannot be loaded ({str(e).splitlines()[0]})"
        raise NotRunnable(f"TensorRT {why}: {HINT}") from e
    if tuple(int(part) for part in trt.__version__.split(".")[:2]) < (8, 6):
        raise NotRunnable(f"TensorRT {trt.__version__} is older than 8.6: {HINT}")
    if not torch.cuda.is_available():
        raise NotRunnable("no CUDA device is visible: TensorRT engines run on NVIDIA GPUs only")
    return trt


def current_gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@contextmanager
def detailed_layers() -> Iterator[None]:
    """Engines built meanwhile, by whomever, keep what each layer runs in, so that `Engine.layers` can read it back."""
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError):  # the builder says so, or has it installed
        yield
        return
    create = trt.Builder.create_builder_config

    def create_builder_config(builder: Any) -> Any:
        config = create(builder)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        return config

    trt.Builder.create_builder_config = create_builder_config
    try:
        yield
    finally:
        trt.Builder.create_builder_config = create


def split_metadata(file: Path) -> tuple[dict[str, Any], bytes]:
    """Ultralytics' metadata ({} where there is none) and the serialized engine behind it."""
    data = file.read_bytes()
    length = int.from_bytes(data[:4], "little")
    if data[4:5] == b"{" and 0 < length <= len(data) - 4:
        try:
            return json.loads(data[4 : 4 + length]), data[4 + length :]
        except ValueError:
            pass
    return {}, data


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection: TensorRT asks its logger under a lock, for which the end of another runtime waits."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Engine:
    """A TensorRT engine with its inputs and outputs resident on the device.

    `execute` enqueues one inference on `stream`: the outputs are in `outputs` when the stream has got there.

    Raises:
        NotRunnable: no TensorRT, no GPU, another GPU's or version's engine, a corrupt one, not enough memory, or a
            shape that the engine does not take.
    """

    def __init__(self, file: str | Path, device: torch.device | None = None) -> None:
        self.file = Path(file)
        trt = self._trt = load()
        self.device = device or current_gpu()
        errors: list[str] = []
        self._errors = errors

        class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.Severity.ERROR:
                    errors.append(message)

        self.metadata, serialized = split_metadata(self.file)
        self._logger = Logger()
        with self._on_device():  # which TensorRT binds an engine to
            self._runtime = self._call(trt.Runtime, self._logger)
            self._engine = self._call(self._runtime.deserialize_cuda_engine, serialized)
            self._context = self._call(self._engine.create_execution_context)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        self.inputs = [name for name in names if is_input[name]]
        self.output_names = sorted(name for name in names if not is_input[name])  # their order is TensorRT's own
        self.buffers: dict[str, Tensor] = {}
        self._graph: torch.cuda.CUDAGraph | None = None

    def _on_device(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _call(self, function: Any, *args: Any) -> Any:
        """What TensorRT answers; it returns None or raises where it fails, and says why to the logger alone."""
        self._errors.clear()
        try:
            with uncollected():
                answer = function(*args)
        except (RuntimeError, TypeError, MemoryError) as e:
            self._errors.append(str(e))
            answer = None
        if answer is None:
            raise NotRunnable(self._reason())
        return answer

    def _reason(self) -> str:
        said = "; ".join(self._errors)
        for pattern, why, todo in REASONS:
            if found := re.search(pattern, said):
                return f"{self.file.name} {why.format(**found.groupdict())}: {todo}"
        first = self._errors[0].splitlines()[0] if self._errors else "it gave no reason"  # the others follow from it
        return f"{self.file.name} was refused by TensorRT {self._trt.__version__}: {first}"

    def shapes(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Smallest and largest shape that an input takes."""
        shape = tuple(self._engine.get_tensor_shape(name))
        if -1 not in shape:
            return shape, shape
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        return tuple(low), tuple(high)

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._engine.get_tensor_dtype(name).name]

    def bind(self, images: Tensor) -> None:
        """Put images (B, C, H, W) on the device as the input, and make room for the outputs of that size."""
        (name,) = self.inputs
        low, high = self.shapes(name)
        shape = tuple(images.shape)
        if len(shape) != len(low) or any(not a <= n <= b for a, n, b in zip(low, shape, high)):
            takes = f"{low}" if low == high else f"{low} to {high}"
            raise NotRunnable(f"{self.file.name} takes images of {takes}, not {shape}: set imgsz and batch to that")
        self._graph = None
        self._context.set_input_shape(name, shape)
        self.buffers = {name: images.to(self.device, self.dtype(name)).contiguous()}
        for output in self.output_names:
            size = tuple(self._context.get_tensor_shape(output))
            self.buffers[output] = torch.empty(size, dtype=self.dtype(output), device=self.device)
        for tensor, buffer in self.buffers.items():
            self._context.set_tensor_address(tensor, buffer.data_ptr())
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))  # which copies the images

    def execute(self) -> None:
        """Enqueue one inference."""
        if self._graph is not None:
            self._graph.replay()
            return
        self._errors.clear()
        with self._on_device():
            if not self._context.execute_async_v3(self.stream.cuda_stream if self.stream else 0):
                raise NotRunnable(self._reason())

    def capture(self) -> None:
        """Record one inference as a CUDA graph, which `execute` replays from now on."""
        self.execute()  # TensorRT allocates on the first inference after a change of shape, which no graph may do
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.execute()
        self._graph = graph

    @property
    def outputs(self) -> list[Tensor]:
        return [self.buffers[name] for name in self.output_names]

    def layers(self) -> dict[str, int]:
        """Number of layers by the data type of what they write, as the built engine has them.

        Empty where the engine was built without `detailed_layers`: it keeps nothing but names then.
        """
        for name in self.inputs:
            if -1 in tuple(self._engine.get_tensor_shape(name)) and not self.buffers:
                self._context.set_input_shape(name, tuple(self._engine.get_tensor_profile_shape(name, 0)[1]))
        inspector = self._call(self._engine.create_engine_inspector)
        inspector.execution_context = self._context  # without shapes it has no data types either
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        try:
            return layer_precisions(json.loads(text).get("Layers", []))
        except ValueError:  # some releases write what is no JSON
            return {}

    @property
    def precision(self) -> str:
        """The data type that most of the layers write: fp32, fp16, bf16, fp8, int8, or unknown."""
        found = self.layers()
        return max(found, key=lambda key: found[key]) if found else "unknown"


def layer_precisions(layers: list[Any]) -> dict[str, int]:
    """Number of layers by data type, from an engine inspector's list: dicts where it was built in detail, or names."""
    found: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer, dict):
            continue
        # TensorRT 11 splits the first field into the others.
        fields = ("Format/Datatype", "Format", "DataType", "Datatype")
        written = " ".join(str(out[field]) for out in layer.get("Outputs", []) for field in fields if field in out)
        weights = str((layer.get("Weights") or {}).get("Type", ""))  # where free dimensions leave no other
        kinds = (
            name for text in (written, weights) for name, pattern in PRECISIONS.items() if re.search(pattern, text)
        )
        found.update([name] if (name := next(kinds, None)) else [])
    return dict(found.most_common())
