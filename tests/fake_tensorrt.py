"""A stand-in for `tensorrt` that takes exactly what a release's real bindings take, and fails as it fails.

What it takes is `tensorrt_api.json`, recorded from the bindings by `record_tensorrt_api.py`: a method, property or member
that a release lacks is not there, and another number of arguments, or a name that the bindings do not know, is refused.
What it says when it fails are messages of real TensorRT, verbatim. It "executes" the ONNX graph within its engines.
"""

import ctypes
import functools
import json
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime

API = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())
VERSIONS = sorted(API, key=lambda version: [int(part) for part in version.split(".")])
TAG = b"ftrt"
DETAILED, NAMES = b"D", b"N"
# Where it fails, and what its logger is told, as users have quoted it.
FAILURES = {
    "no GPU": (
        "Runtime",
        ["createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: 35)"],
    ),
    "another version": (
        "deserialize",
        [
            "6: The engine plan file is not compatible with this version of TensorRT, expecting library version 8.5.1.7 "
            "got 8.5.3.1, please rebuild.",
            "4: [runtime.cpp::nvinfer1::Runtime::deserializeCudaEngine::66] Error Code 4: Internal Error (Engine "
            "deserialization failed.)",
        ],
    ),
    "another version, unprintable": (
        "deserialize",
        [
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is not compatible with "
            "this version of TensorRT, expecting library version 10.14.1.48 got \n..\x10\x0e, please rebuild. In "
            "checkEngineVersionCompatible at /_src/runtime/api/engine.cpp:871)"
        ],
    ),
    "another serialization": (
        "deserialize",
        [
            "1: [stdArchiveReader.cpp::StdArchiveReader::40] Error Code 1: Serialization (Serialization assertion "
            "stdVersionRead == serializationVersion failed.Version tag does not match. Note: Current Version: 213, "
            "Serialized Engine Version: 232)"
        ],
    ),
    "another GPU": (
        "deserialize",
        [
            "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an "
            "incompatible device, expecting compute 8.9 got compute 8.6, please rebuild.)"
        ],
    ),
    "truncated": (
        "deserialize",
        [
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion plan.header.size == "
            "blobSize failed. In parsePlan at /_src/runtime/dispatch/runtime.cpp:780)"
        ],
    ),
    "out of memory": (
        "context",
        [
            "[defaultAllocator.cpp::allocate::57] Error Code 1: Cuda Runtime (In allocate at "
            "common/dispatch/defaultAllocator.cpp:57)",
            "[executionContext.cpp::initializeExecutionContext::625] Error Code 2: OutOfMemory (Requested size was "
            "20132809216 bytes.)",
        ],
    ),
}
NOT_AN_ENGINE = (
    "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion header.magicTag == "
    "kEXPECTED_MAGIC_TAG failed.Trying to load an engine created with incompatible serialization version (614 != "
    "1953657958). Check that the engine was not created using safety runtime, same OS was used and version compatibility "
    "parameters were set accordingly and that it is a TRT engine file. In throwUnlessHeaderOk at "
    "/_src/runtime/dispatch/runtime.cpp:42)"
)
# Layers of NVIDIA's trt-engine-explorer examples.
LAYER = {
    "Name": "Conv_3 + Relu_4",
    "LayerType": "CaskConvolution",
    "Outputs": [{"Name": "129", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
    "Weights": {"Type": "Half", "Count": 36864},
}
REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0",
    "LayerType": "Reformat",
    "Outputs": [{"Name": "images", "Format/Datatype": "Row major linear FP32"}],
}
KERNEL = {"Name": "__myl_Mha", "LayerType": "kgen", "Outputs": [{"Name": "y", "Format/Datatype": "Half"}]}


def engine(graph: bytes, kind: bytes = DETAILED) -> bytes:
    """A serialized engine that computes an ONNX graph."""
    return TAG + kind + graph


def parameters(signature: str) -> list[str]:
    """Names of a recorded signature's parameters, without self."""
    inside, depth, parts = signature[signature.index("(") + 1 : signature.rindex(")")], 0, [""]
    for char in inside:
        depth += (char in "[(<") - (char in "])>")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.split(":")[0].split("=")[0].strip() for part in parts if part.strip()][1:]


def as_recorded(record):
    """Class decorator: only what the bindings of a release have, called only as they are called."""

    def decorate(cls):
        for name, value in list(vars(cls).items()):
            if name.startswith("_") and name != "__init__":
                continue
            if isinstance(value, property):
                if name not in record["properties"]:
                    delattr(cls, name)
                continue
            if not callable(value):
                continue
            if name not in record["methods"]:
                if name != "__init__":
                    delattr(cls, name)
                continue
            takes = [parameters(signature) for signature in record["methods"][name]]

            @functools.wraps(value)
            def call(self, *args, _value=value, _takes=takes, _name=name, **kwargs):
                fits = any(len(args) <= len(names) and set(kwargs) <= set(names[len(args) :]) for names in _takes)
                if not fits:
                    raise TypeError(f"{_name}(): incompatible function arguments: {args} {kwargs}, takes {_takes}")
                return _value(self, *args, **kwargs)

            setattr(cls, name, call)

        def assign(self, name, value):
            if not name.startswith("_") and record["properties"].get(name) is not True:
                raise AttributeError(f"{cls.__name__}.{name} cannot be set in this release")
            object.__setattr__(self, name, value)

        cls.__setattr__ = assign
        return cls

    return decorate


def tensorrt(version: str, failure: str | None = None) -> ModuleType:
    """The module `tensorrt` of a release; `failure` is one of `FAILURES`."""
    api = API[version]
    trt = ModuleType("tensorrt")
    trt.__spec__ = ModuleSpec("tensorrt", None)
    trt.__version__ = version
    for name in ("DataType", "TensorIOMode", "LayerInformationFormat", "ProfilingVerbosity"):
        setattr(trt, name, IntEnum(name, api[name]["members"]))
    where, said = FAILURES[failure] if failure else ("", [])

    class ILogger:
        Severity = IntEnum("Severity", api["ILogger.Severity"]["members"])

        def __init__(self):
            self._made = True

    def fail(place, logger):
        if where != place:
            return False
        for message in said:
            logger.log(ILogger.Severity.ERROR, message)
        return True

    @as_recorded(api["Runtime"])
    class Runtime:
        def __init__(self, logger):
            if not getattr(logger, "_made", False):
                raise TypeError("ILogger.__init__() must be called when overriding __init__")
            if fail("Runtime", logger):
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def deserialize_cuda_engine(self, data):
            if fail("deserialize", self._logger):
                return None
            if data[:4] != TAG:
                self._logger.log(ILogger.Severity.ERROR, NOT_AN_ENGINE)
                return None
            return ICudaEngine(data, self._logger)

    @as_recorded(api["ICudaEngine"])
    class ICudaEngine:
        def __init__(self, data, logger):
            self._kind, self._graph, self._logger = data[4:5], data[5:], logger
            self._session = onnxruntime.InferenceSession(data[5:], providers=["CPUExecutionProvider"])
            self._inputs = {value.name: value for value in self._session.get_inputs()}
            outputs = {value.name: value for value in reversed(self._session.get_outputs())}  # the order is its own
            self._tensors = {**outputs, **self._inputs}

        num_io_tensors = property(lambda self: len(self._tensors))

        def get_tensor_name(self, index):
            return list(self._tensors)[index]

        def get_tensor_mode(self, name):
            return trt.TensorIOMode.INPUT if name in self._inputs else trt.TensorIOMode.OUTPUT

        def get_tensor_shape(self, name):
            return tuple(n if isinstance(n, int) else -1 for n in self._tensors[name].shape)

        def get_tensor_profile_shape(self, name, profile_index):
            return [tuple(n if n > 0 else free for n in self.get_tensor_shape(name)) for free in (1, 2, 64)]

        def get_tensor_dtype(self, name):
            return trt.DataType.HALF if "float16" in self._tensors[name].type else trt.DataType.FLOAT

        def create_execution_context(self):
            return None if fail("context", self._logger) else IExecutionContext(self)

        def create_engine_inspector(self):
            return EngineInspector(self)

    @as_recorded(api["IExecutionContext"])
    class IExecutionContext:
        def __init__(self, engine):
            self._engine, self._shape, self._address = engine, None, {}

        def set_input_shape(self, name, shape):
            self._shape = tuple(shape)
            return True

        def get_tensor_shape(self, name):
            shape = self._engine.get_tensor_shape(name)
            return tuple(self._shape[0] if i == 0 and n < 0 else n for i, n in enumerate(shape))

        def set_tensor_address(self, name, memory):
            self._address[name] = memory
            return True

        def execute_async_v3(self, stream_handle):
            assert isinstance(stream_handle, int)
            engine = self._engine
            if set(self._address) != set(engine._tensors) or self._shape is None:
                return False
            (name,) = engine._inputs
            kind = np.float16 if "float16" in engine._inputs[name].type else np.float32
            given = np.empty(self._shape, kind)
            ctypes.memmove(given.ctypes.data, self._address[name], given.nbytes)
            for value, out in zip(engine._session.get_outputs(), engine._session.run(None, {name: given})):
                ctypes.memmove(self._address[value.name], np.ascontiguousarray(out).ctypes.data, out.nbytes)
            return True

    @as_recorded(api["EngineInspector"])
    class EngineInspector:
        def __init__(self, engine):
            self._engine = engine

        def get_engine_information(self, format):
            assert format == trt.LayerInformationFormat.JSON
            layers = [REFORMAT, LAYER, KERNEL]
            (name,) = self._engine._inputs
            if -1 in self._engine.get_tensor_shape(name) and self.execution_context._shape is None:
                unknown = {"Outputs": [{"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}]}
                layers = [{"Name": "x", **unknown} for _ in layers]
            return json.dumps({"Layers": layers if self._engine._kind == DETAILED else [la["Name"] for la in layers]})

    class IBuilderConfig:
        profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY

    class Builder:
        def create_builder_config(self):
            return IBuilderConfig()

    for cls in (ILogger, Runtime, ICudaEngine, IExecutionContext, EngineInspector, Builder):
        setattr(trt, cls.__name__, cls)
    return trt
