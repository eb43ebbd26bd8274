"""Exports compiled by a real TensorRT compiler: every attention becomes one kernel."""

import pytest
from conftest import yolov12
from ultralytics import YOLO

import yolov12_plugin as y12
from yolov12_plugin.benchmark.aot import compile_onnx, export_fp16

MODELS = {
    "yolov12n": 8,
    "yolov12s": 8,
    "yolov12m": 8,
    "yolov12l": 16,
    "yolov12x": 16,
    "yolov12n-turbo": 8,
    "yolov12n-seg": 8,
}


KERNELS = {"yolov12n": 175, "yolov12l": 300, "yolov12x": 300}  # the most for SM75


@pytest.mark.compile
@pytest.mark.export
@pytest.mark.parametrize("name", MODELS)
def test_every_attention_is_one_kernel(name):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")
    model = YOLO(f"{name}.yaml", verbose=False).model
    assert sum(isinstance(m, y12.ABlock) for m in model.modules()) == MODELS[name]
    graph = export_fp16(model)
    for capability in ("sm75", "sm86", "sm89") if name == "yolov12n" else ("sm75",):
        compiled = compile_onnx(graph, capability)
        print(name, capability, compiled)
        assert compiled.fused_attentions == MODELS[name]
        if capability == "sm75" and name in KERNELS:
            assert compiled.kernels <= KERNELS[name]


def test_export_leaves_the_model():
    model = YOLO("yolov12n.yaml", verbose=False).model
    names = list(model.state_dict())
    assert export_fp16(model, 64)
    assert list(model.state_dict()) == names and not model.is_fused()


@pytest.mark.export
def test_exported_file_is_not_what_is_compiled(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")
    model = YOLO("yolov12n.yaml", verbose=False)
    model.save(tmp_path / "x.pt")
    YOLO(tmp_path / "x.pt").export(format="torchscript", imgsz=64, verbose=False)
    done = yolov12("bench", tmp_path / "x.torchscript", "--aot", "sm75")
    assert done.exit_code == 2 and "x.torchscript: is exported already" in done.stderr


def test_unknown_capability():
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")
    with pytest.raises(ValueError, match=r"'sm42' is unknown; TensorRT-RTX compiles for .*sm75"):
        compile_onnx(b"", "sm42")


def test_graph_that_is_none():
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")
    with pytest.raises(RuntimeError, match="refused the graph for sm75"):
        compile_onnx(b"not a graph")


def test_compiler_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(ImportError, match="pip install tensorrt-rtx-cu13"):
        compile_onnx(b"")
