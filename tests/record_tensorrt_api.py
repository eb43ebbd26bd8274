"""Record what TensorRT's Python bindings accept: python tests/record_tensorrt_api.py [VERSION...]

TensorRT's libraries need gigabytes and a GPU; its bindings are a small wheel. Tests run against a stand-in that takes
no more than tensorrt_api.json says, and this writes that file: it links each release's bindings to an empty library,
imports them in a process of their own, calls nothing and reads the docstrings. Needs Linux with gcc and binutils, and
Python 3.11, the last one that TensorRT 8.6.1 has bindings for.
"""

import ctypes
import importlib
import inspect
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

VERSIONS = "8.6.1", "10.0.1", "10.16.1.11", "11.4.0.106"
CLASSES = """
    Builder BuilderFlag DataType Dims EngineInspector ErrorCode ExecutionContextAllocationStrategy
    HardwareCompatibilityLevel IBuilderConfig ICudaEngine IErrorRecorder IExecutionContext IHostMemory ILogger
    ILogger.Severity INetworkDefinition IOptimizationProfile IProfiler LayerInformationFormat Logger Logger.Severity
    MemoryPoolType NetworkDefinitionCreationFlag OnnxParser Profiler ProfilingVerbosity Runtime TensorFormat
    TensorIOMode TensorLocation
""".split()  # noqa: SIM905
OUTPUT = Path(__file__).with_name("tensorrt_api.json")


def output(*command: str | Path) -> list[str]:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def unpack(version: str, folder: Path) -> None:
    """Unpack the bindings, and put an empty library in the place of each one they are linked to."""
    name = "tensorrt-bindings" if version.startswith("8.") else "tensorrt-cu12-bindings"
    output(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, f"{name}=={version}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    module = folder / "tensorrt_bindings" / "tensorrt.so"
    process = ctypes.CDLL(None)
    undefined = [line.split()[-1] for line in output("nm", "-D", "--undefined-only", module) if " U " in line]
    missing = [symbol for symbol in undefined if "@" not in symbol and not hasattr(process, symbol)]
    source = module.with_name("empty.c")
    source.write_text("".join(f"void *{symbol}() {{ return 0; }}\n" for symbol in missing))
    library = source.with_suffix(".so")
    output("gcc", "-shared", "-fPIC", "-o", library, source)
    for needed in re.findall(r"\[(libnv\S+)]", "\n".join(output("readelf", "-d", module))):
        module.with_name(needed).symlink_to(library)  # the bindings look in their own folder first


def signatures(function: Any, name: str) -> list[str]:
    """Every overload's signature; none where neither pybind11 nor Python wrote one."""
    if inspect.isfunction(function):
        return [f"{name}{inspect.signature(function)}"]
    lines = (getattr(function, "__doc__", None) or "").replace("tensorrt_bindings.tensorrt.", "").splitlines()
    overloads = [line.split(" ", 1)[1] for line in lines if re.match(rf"\d+\. {name}\(", line)]
    return overloads or [line for line in lines[:1] if line.startswith(f"{name}(")]


def attributes(owner: Any) -> dict[str, Any]:
    """What the bindings gave a class or the module; nothing of Python's or pybind11's own base classes."""
    parts = [c for c in owner.__mro__ if "tensorrt" in c.__module__] if isinstance(owner, type) else [owner]
    return {name: value for part in reversed(parts) for name, value in vars(part).items()}


def describe(owner: type | ModuleType) -> dict[str, dict[str, Any]]:
    methods: dict[str, list[str]] = {}
    properties: dict[str, bool] = {}
    members: dict[str, int] = {}
    for name, value in attributes(owner).items():
        if isinstance(value, property):
            properties[name] = value.fset is not None
        elif hasattr(type(value), "__members__"):
            members[name] = int(value)
        elif found := signatures(value, name):
            methods[name] = found
    return {"methods": methods, "properties": properties, "members": members}


def record(folder: str) -> dict[str, dict[str, Any]]:
    sys.path.insert(0, folder)
    module = importlib.import_module("tensorrt_bindings")
    api = {"": describe(module)}
    for name in CLASSES:
        owner: Any = module
        for part in name.split("."):
            owner = getattr(owner, part, None)
        if owner is not None:
            api[name] = describe(owner)
    return api


def main(versions: list[str]) -> None:
    api = {}
    for version in versions:
        with tempfile.TemporaryDirectory() as folder:
            unpack(version, Path(folder))
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as child:
                api[version] = child.submit(record, folder).result()
    OUTPUT.write_text(json.dumps(api, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(VERSIONS))
