"""The class behind which all of TensorRT is: on a stand-in with the real bindings' interface, and on TensorRT-RTX."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import yolov12
from fake_tensorrt import API, DETAILED, FAILURES, NAMES, VERSIONS, engine, parameters, tensorrt
from ultralytics import YOLO

from yolov12_plugin.benchmark.bench import needed_to_export
from yolov12_plugin.benchmark.hook import ExportDiffers, TensorRTBenchmark
from yolov12_plugin.deploy import tensorrt as ours
from yolov12_plugin.deploy.runtimes import RUNTIMES
from yolov12_plugin.deploy.tensorrt import Engine, detailed_layers, layer_precisions, split_metadata
from yolov12_plugin.errors import NotRunnable

pytestmark = pytest.mark.export  # the networks that its engines hold


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A checkpoint of a small trained-looking model, and its ONNX graphs of one size and of many."""
    from yolov12_plugin.deploy.verify import enliven, read_images

    folder = tmp_path_factory.mktemp("engine")
    model = YOLO("yolov12n.yaml", verbose=False)
    enliven(model.model, read_images((64, 64)))
    model.save(folder / "small.pt")
    files = {}
    for name, options in (("fixed", {}), ("dynamic", {"dynamic": True, "batch": 4})):
        model = YOLO(folder / "small.pt")
        model.model.pt_path = str(folder / f"{name}.pt")
        files[name] = model.export(format="onnx", imgsz=64, verbose=False, **options)
    return folder, {name: open(file, "rb").read() for name, file in files.items()}


@pytest.fixture
def gpu(monkeypatch):
    """A machine with the stand-in, whose device is the CPU's memory."""

    def install(version=VERSIONS[-2], failure=None):
        monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(version, failure))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(ours, "current_gpu", lambda: torch.device("cpu"))

    return install


def write(folder, graph, kind=DETAILED, name="small.engine", metadata=True):
    header = json.dumps({"task": "detect", "imgsz": [64, 64], "batch": 1}).encode()
    file = folder / name
    file.write_bytes((len(header).to_bytes(4, "little") + header if metadata else b"") + engine(graph, kind))
    return file


def test_signatures_are_read():
    assert parameters("f(self: A, x: dict[str, int] = {1: (2, 3)}, y: int)") == ["x", "y"]
    assert VERSIONS[0].startswith("8.6") and VERSIONS[-1].startswith("11.")
    assert "device_memory_size" not in API[VERSIONS[-1]]["ICudaEngine"]["properties"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("metadata", [True, False])
def test_executes(version, metadata, exported, gpu, tmp_path):
    gpu(version)
    file = write(tmp_path, exported[1]["fixed"], metadata=metadata)
    loaded = Engine(file)
    images = torch.rand(1, 3, 64, 64)
    loaded.bind(images)
    loaded.execute()
    session = onnxruntime.InferenceSession(exported[1]["fixed"], providers=["CPUExecutionProvider"])
    assert np.array_equal(loaded.outputs[0].numpy(), session.run(None, {"images": images.numpy()})[0])
    assert loaded.inputs == ["images"] and loaded.output_names == ["output0"]
    assert loaded.metadata.get("imgsz") == ([64, 64] if metadata else None)
    assert loaded.precision == "fp16" and loaded.layers() == {"fp16": 2, "fp32": 1}


@pytest.mark.parametrize("version", VERSIONS)
def test_shapes_that_it_takes(version, exported, gpu, tmp_path):
    gpu(version)
    loaded = Engine(write(tmp_path, exported[1]["dynamic"]))
    assert loaded.shapes("images") == ((1, 3, 1, 1), (64, 3, 64, 64))
    assert loaded.precision == "fp16"  # which only an engine with shapes tells
    with pytest.raises(NotRunnable, match=r"takes images of \(1, 3, 1, 1\) to .*, not \(1, 3, 96, 64\): set imgsz"):
        loaded.bind(torch.rand(1, 3, 96, 64))
    loaded = Engine(write(tmp_path, exported[1]["fixed"]))
    with pytest.raises(NotRunnable, match=r"takes images of \(1, 3, 64, 64\), not \(2, 3, 64, 64\)"):
        loaded.bind(torch.rand(2, 3, 64, 64))


REASONS = {
    "no GPU": "needs an NVIDIA GPU and its driver: check nvidia-smi",
    "another version": "was built by TensorRT 8.5.3.1, this is 8.5.1.7: export it again",
    "another version, unprintable": "was built by another version of TensorRT, this is 10.14.1.48: export it again",
    "another serialization": "was built by another version of TensorRT: export it again",
    "another GPU": "was built for sm 8.6, this GPU has 8.9: export it again",
    "truncated": "is corrupt: export it again",
    "out of memory": "does not fit into the memory of the GPU",
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("version", VERSIONS)
def test_failures_are_one_line(version, failure, exported, gpu, tmp_path):
    gpu(version, failure)
    with pytest.raises(NotRunnable) as e:
        Engine(write(tmp_path, exported[1]["fixed"]))
    assert f"small.engine {REASONS[failure]}" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"", b"no engine", b"\x02\x00\x00\x00{}", b"\xff" * 64])
def test_what_is_no_engine(content, gpu, tmp_path):
    gpu()
    file = tmp_path / "x.engine"
    file.write_bytes(content)
    with pytest.raises(NotRunnable, match=r"x\.engine is no TensorRT engine, a corrupt one"):
        Engine(file)


def test_unknown_failure_shows_the_first_message(exported, gpu, monkeypatch, tmp_path):
    gpu()
    monkeypatch.setitem(FAILURES, "odd", ("deserialize", ["something\nnew", "what follows"]))
    gpu(failure="odd")
    with pytest.raises(NotRunnable, match=r"was refused by TensorRT [\d.]+: something$"):
        Engine(write(tmp_path, exported[1]["fixed"]))


def test_older_release(gpu, monkeypatch, tmp_path):
    gpu()
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", "8.5.3.1")
    with pytest.raises(NotRunnable, match=r"TensorRT 8\.5\.3\.1 is older than 8\.6"):
        Engine(tmp_path / "x.engine")


def test_bindings_without_their_libraries(monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotRunnable, match=r"cannot be loaded \(libnvinfer.so.10: .*\): pip install tensorrt"):
        Engine(tmp_path / "x.engine")


def test_outputs_in_the_order_of_the_exporter(gpu, tmp_path):
    """TensorRT has an order of its own."""
    model = YOLO("yolov12n-seg.yaml", verbose=False)
    model.model.pt_path = str(tmp_path / "seg.pt")
    graph = Path(model.export(format="onnx", imgsz=64, verbose=False)).read_bytes()
    gpu()
    loaded = Engine(write(tmp_path, graph))
    loaded.bind(torch.rand(1, 3, 64, 64))
    loaded.execute()
    assert [out.ndim for out in loaded.outputs] == [3, 4] and loaded.output_names == ["output0", "output1"]


def test_inspector_that_writes_no_json(exported, gpu, monkeypatch, tmp_path):
    gpu()
    loaded = Engine(write(tmp_path, exported[1]["fixed"]))
    monkeypatch.setattr(
        sys.modules["tensorrt"].EngineInspector, "get_engine_information", lambda self, format: '{"Layers": [,]}'
    )
    assert loaded.layers() == {} and loaded.precision == "unknown"


def test_builder_without_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with detailed_layers():
        pass


def test_layers_by_name_only(exported, gpu, tmp_path):
    gpu()
    loaded = Engine(write(tmp_path, exported[1]["fixed"], NAMES))
    assert loaded.layers() == {} and loaded.precision == "unknown"


def test_data_types_as_releases_write_them():
    def layer(**out):
        return {"Name": "x", "Outputs": [out]}

    layers = [
        layer(**{"Format/Datatype": "Two wide channel vectorized row major FP16 format"}),
        layer(**{"Format/Datatype": "Row major linear FP32"}),
        layer(**{"Format/Datatype": "BFloat16"}),
        layer(**{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}),
        layer(Format="Row major linear", DataType="Half"),  # 11
        layer(**{"Format/Datatype": "N/A due to dynamic shapes"}),
        layer(**{"Format/Datatype": "N/A due to dynamic shapes"}) | {"Weights": {"Type": "Half", "Count": 9}},
        layer(**{"Format/Datatype": "Int32"}),
        "a name",
    ]
    assert layer_precisions(layers) == {"fp16": 3, "fp32": 1, "bf16": 1, "int8": 1}


def test_builds_keep_their_layers(gpu):
    gpu()
    trt = sys.modules["tensorrt"]
    with detailed_layers():
        assert trt.Builder().create_builder_config().profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert trt.Builder().create_builder_config().profiling_verbosity == trt.ProfilingVerbosity.LAYER_NAMES_ONLY


@pytest.mark.parametrize("data", [b"", b"\x05\x00\x00\x00{", b"\x02\x00\x00\x00{}abc", b"\xff\xff\xff\xff{}", b"ftrt{"])
def test_metadata_is_split_off(data, tmp_path):
    file = tmp_path / "x.engine"
    file.write_bytes(data)
    metadata, rest = split_metadata(file)
    assert metadata == {} and rest == (b"abc" if data.endswith(b"abc") else data)


def test_command_verifies_and_times_an_engine(exported, gpu, tmp_path):
    gpu()
    folder, graphs = exported
    file = write(folder, graphs["fixed"])
    done = yolov12("bench", file, "--device", "cpu", "--runs", 2, "--warmup", 1, "--out", tmp_path / "out.json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert (row["runtime"], row["precision"], row["imgsz"], row["batch"]) == ("tensorrt", "fp16", 64, 1)
    assert row["layers"] == {"fp16": 2, "fp32": 1} and row["verification"]["passed"]
    assert row["latency"]["samples"] + row["latency"]["clipped"] == 2 and row["latency_nms"]["median_ms"] > 0


@pytest.mark.parametrize("failure", FAILURES)
def test_command_says_why_an_engine_does_not_run(failure, exported, gpu, tmp_path):
    gpu(failure=failure)
    file = write(exported[0], exported[1]["fixed"])
    files = (file, exported[0] / "fixed.onnx", "--reference", exported[0] / "small.pt")
    done = yolov12("bench", *files, "--device", "cpu", "--runs", 1)
    assert done.exit_code == 2 and "fixed.onnx" in done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ") and REASONS[failure] in line


@pytest.mark.parametrize("options", [("--imgsz", 96), ("--batch", 2)])
def test_command_says_what_an_engine_takes(options, exported, gpu):
    gpu()
    done = yolov12("bench", write(exported[0], exported[1]["fixed"]), "--device", "cpu", *options)
    assert done.exit_code == 2
    assert "takes images of 1 x (64, 64), not --batch " in done.stderr and " of --imgsz " in done.stderr


def test_unknown_precision_is_said(exported, gpu):
    gpu()
    done = yolov12("bench", write(exported[0], exported[1]["fixed"], NAMES), "--device", "cpu", "--runs", 1)
    assert done.exit_code == 0 and "does not tell its precision: export it with YOLO12_BENCH=1" in done.stderr


class Exporter:
    """What a callback sees of Ultralytics' exporter."""

    def __init__(self, model, file, **args):
        from types import SimpleNamespace

        self.args = SimpleNamespace(format="engine", batch=1, half=True, conf=None, **args)
        self.model, self.file, self.imgsz, self.device = model, file.with_suffix(".pt"), [64, 64], torch.device("cpu")


def test_hook_times_an_engine(exported, gpu):
    from yolov12_plugin.deploy.runtimes.pytorch import exportable

    gpu()
    folder, graphs = exported
    file = write(folder, graphs["fixed"])
    hook = TensorRTBenchmark(runs=2, warmup=1)
    exporter = Exporter(exportable(YOLO(folder / "small.pt").model, 64), file)
    trt = sys.modules["tensorrt"]
    hook.on_export_start(exporter)
    assert trt.Builder().create_builder_config().profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    hook(exporter)
    assert trt.Builder().create_builder_config().profiling_verbosity == trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    record = json.loads((folder / "small.engine.json").read_text())
    assert record == json.loads(json.dumps(hook.result)) and record["rows"][0]["latency"]["median_ms"] > 0


def test_hook_gives_no_latency_to_another_model(exported, gpu):
    from yolov12_plugin.deploy.runtimes.pytorch import exportable

    gpu()
    torch.manual_seed(1)
    other = YOLO("yolov12n.yaml", verbose=False)
    from yolov12_plugin.deploy.verify import enliven, read_images

    enliven(other.model, read_images((64, 64)))
    file = write(exported[0], exported[1]["fixed"], name="other.engine")
    with pytest.raises(ExportDiffers, match=r"other.engine does not compute the model, output0 \(boxes\) differs"):
        TensorRTBenchmark(runs=1)(Exporter(exportable(other.model, 64), file))
    (row,) = json.loads((exported[0] / "other.engine.json").read_text())["rows"]
    assert "latency" not in row and not row["verification"]["passed"]


HINT = "TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13"


@pytest.fixture
def rtx(monkeypatch):
    """NVIDIA's own library on a machine without a GPU."""
    module = pytest.importorskip("tensorrt_rtx", reason=HINT)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(module, "__version__", "10.0")  # it counts its own
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ours, "current_gpu", lambda: torch.device("cpu"))
    return module


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "is corrupt"), (b"no engine" * 99, "is no TensorRT engine"), (b"x", "is corrupt")],
)
def test_real_library_refuses_what_is_no_engine(content, why, rtx, tmp_path):
    if torch.cuda.device_count():
        pytest.skip("says what it says without a GPU")
    (tmp_path / "x.engine").write_bytes(content)
    with pytest.raises(NotRunnable) as e:
        Engine(tmp_path / "x.engine")
    # It blames the missing driver too, which no other engine would run without.
    assert "\n" not in str(e.value) and (why in str(e.value) or "needs an NVIDIA GPU" in str(e.value))


COLLECTED = """
import faulthandler, gc, sys
faulthandler.dump_traceback_later(60, exit=True)
import tensorrt_rtx as trt, torch
sys.modules["tensorrt"], trt.__version__ = trt, "10.0"
torch.cuda.is_available = lambda: True
from yolov12_plugin.deploy import tensorrt as ours
ours.current_gpu = lambda: torch.device("cpu")

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        pass

def runtime_in_a_cycle():
    cycle = [trt.Runtime(logger := Logger()), logger]
    cycle.append(cycle)

def before(self, function, *args):
    gc.disable()
    gc.collect(0)
    runtime_in_a_cycle()
    gc.set_threshold(allocations)
    gc.enable()
    return call(self, function, *args)

call, ours.Engine._call = ours.Engine._call, before
open("x.engine", "wb").write(b"x")
for allocations in range(1, 60):
    try:
        ours.Engine("x.engine")
    except ours.NotRunnable:
        assert gc.isenabled()
"""


@pytest.mark.process
def test_a_runtime_is_not_freed_while_another_is_made(rtx, fork):
    """TensorRT waits for itself where a collection within its logger frees one, whenever that comes."""
    fork(COLLECTED)


def test_real_library_builds_in_detail(rtx):
    class Logger(rtx.ILogger):
        def log(self, severity, message):
            pass

    logger = Logger()
    builder = rtx.Builder(logger)
    with detailed_layers():
        assert builder.create_builder_config().profiling_verbosity == rtx.ProfilingVerbosity.DETAILED
    assert builder.create_builder_config().profiling_verbosity != rtx.ProfilingVerbosity.DETAILED


@pytest.mark.parametrize(("version", "half", "wanted"), [("10.16.1.11", True, ""), ("11.4.0.106", True, "modelopt")])
def test_what_an_export_needs(version, half, wanted, gpu, monkeypatch):
    """TensorRT 11 takes FP16 from the graph, which ModelOpt writes."""
    import importlib.util

    gpu(version)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "modelopt" else real(name, *a))
    needs = needed_to_export(RUNTIMES["tensorrt"], half)
    assert needed_to_export(RUNTIMES["tensorrt"], False) == ("onnx",)
    if not wanted:
        RUNTIMES["tensorrt"].require(needs)
        return
    with pytest.raises(
        NotRunnable, match=r'modelopt is not installed: pip install "yolov12-plugin\[int8\]", or "tensorrt<11"'
    ):
        RUNTIMES["tensorrt"].require(needs)
