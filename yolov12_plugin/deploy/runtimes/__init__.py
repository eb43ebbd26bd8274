"""The runtimes of exported files by name, and the session of a file."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from yolov12_plugin.deploy.runtimes.autobackend import Backend
from yolov12_plugin.deploy.runtimes.engine import TensorRT
from yolov12_plugin.deploy.runtimes.mnn import Mnn
from yolov12_plugin.deploy.runtimes.ncnn import Ncnn
from yolov12_plugin.deploy.runtimes.onnx import OnnxRuntime
from yolov12_plugin.deploy.runtimes.openvino import OpenVino
from yolov12_plugin.deploy.runtimes.pytorch import TorchScript
from yolov12_plugin.deploy.runtimes.session import Options, Session
from yolov12_plugin.deploy.tensorrt import load
from yolov12_plugin.errors import NotRunnable, first_line


@dataclass(frozen=True)
class Runtime:
    """A runtime of the command: what Ultralytics exports for it, what it needs, and how it is got."""

    name: str
    format: str | None
    suffix: str
    session: Callable[[Path, Options], Session] | None
    needs: tuple[str, ...] = ()
    hint: str = ""
    on_gpu: bool = False

    def require(self, also: tuple[str, ...] = ()) -> None:
        """Raise `NotRunnable` where the runtime, or what else it takes to export for it, is not here."""
        for module in self.needs + also:
            if importlib.util.find_spec(module) is None:
                hint = {"modelopt": f"{QUANTISERS}, or {OLDER}", "nncf": QUANTISERS}.get(module, self.hint)
                raise NotRunnable(f"{self.name}: {module} is not installed: {hint}")
        if self.format == "engine":
            load()


OLDER = '"tensorrt<11", which takes FP16 by a flag'
QUANTISERS = 'pip install "yolov12-plugin[int8]"'
EXPORT = 'pip install "yolov12-plugin[export]"'


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("tensorrt", "engine", ".engine", TensorRT, (), EXPORT, on_gpu=True),
        Runtime("onnxruntime", "onnx", ".onnx", OnnxRuntime, ("onnxruntime", "onnx"), EXPORT),
        Runtime("openvino", "openvino", "_openvino_model", OpenVino, ("openvino",), EXPORT),
        Runtime("ncnn", "ncnn", "_ncnn_model", Ncnn, ("ncnn",), "pip install --no-deps ncnn pnnx==20260526"),
        Runtime("mnn", "mnn", ".mnn", Mnn, ("MNN",), 'pip install --no-deps "MNN>=2.9.6"'),
        Runtime("torch", None, ".pt", None, on_gpu=True),
        Runtime("torchscript", "torchscript", ".torchscript", TorchScript, on_gpu=True),
    )
}


@cache
def others() -> dict[str, Runtime]:
    """The other formats of this Ultralytics by name, which its own backend runs."""
    from ultralytics.engine.exporter import export_formats

    table = export_formats()
    rows = zip(table["Argument"], table["Suffix"])
    known = {r.suffix for r in RUNTIMES.values()}
    return {name: Runtime(name, name, suffix, Backend) for name, suffix in rows if suffix and suffix not in known}


def runtime_of(artefact: Path) -> Runtime | None:
    """The runtime that an exported file or folder is for, by its suffix; None for what is no exported one."""
    name = artefact.name.lower()
    found = [r for r in (*RUNTIMES.values(), *others().values()) if r.session is not None and name.endswith(r.suffix)]
    return max(found, key=lambda r: len(r.suffix), default=None)  # .tflite is also how an Edge TPU's file ends


def runtime_named(name: str) -> Runtime:
    return RUNTIMES.get(name) or others()[name]


def open_artefact(artefact: Path, options: Options) -> Session:
    """A session of an exported file or folder of any format of Ultralytics.

    Raises:
        FileNotFoundError: there is no such file.
        NotRunnable: its runtime is not installed, or cannot run or read it here.
    """
    if not artefact.exists():
        raise FileNotFoundError(f"{artefact} does not exist: export the model first, or mind the folder")
    runtime = runtime_of(artefact)
    if runtime is not None:
        runtime.require()
    make = runtime.session if runtime is not None and runtime.session is not None else Backend
    try:
        return make(artefact, options)
    except NotRunnable:
        raise
    except Exception as e:  # each runtime has its own kinds
        raise NotRunnable(f"{artefact} cannot be read, export it again: {type(e).__name__}: {first_line(e)}") from e
