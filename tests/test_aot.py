"""Exports compiled by a real TensorRT compiler: every attention becomes one kernel."""

import sys

import pytest
import torch
from conftest import yolov12
from ultralytics import YOLO
from ultralytics.utils import torch_utils

import yolov12_plugin as y12
from yolov12_plugin.benchmark.aot import bench_aot, compile_onnx, export_fp16, export_int8
from yolov12_plugin.deploy.verify import enliven, read_images
from yolov12_plugin.show.tables import kernels

MODELS = {
    "yolov12n": 8,
    "yolov12s": 8,
    "yolov12m": 8,
    "yolov12l": 16,
    "yolov12x": 16,
    "yolov12n-turbo": 8,
    "yolov12n-seg": 8,
}


KERNELS = {"yolov12n": 171, "yolov12l": 295, "yolov12x": 295}  # the most for SM75


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
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(ImportError, match="pip install tensorrt-rtx-cu13"):
        compile_onnx(b"")


INT8 = {"yolov12n": 113, "yolov12n-turbo": 113}  # convolutions but those that Ultralytics leaves, the head's last


def skip_without_int8():
    pytest.importorskip("modelopt.onnx.quantization", reason="ModelOpt is not installed in full", exc_type=ImportError)
    if not hasattr(torch_utils, "prepare_qat"):
        pytest.skip("this Ultralytics does not quantise by ModelOpt")


@pytest.mark.compile
@pytest.mark.export
@pytest.mark.parametrize("trained", [False, True], ids=["calibrated", "trained"])
@pytest.mark.parametrize("name", INT8)
def test_every_attention_is_one_kernel_in_int8(name, trained):
    """Besides those, two kernels of each INT8 convolution and one of each other: what is between costs none."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")
    skip_without_int8()
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    net = YOLO(f"{name}.yaml", verbose=False).model
    if trained:
        images = read_images((64, 64))
        enliven(net, images)  # the ranges of a network that answers nothing are zero in half precision
        torch_utils.prepare_qat(net, [images], lambda batch: batch, 1)
    usual = calibrate.create_calibrator
    graph = export_int8(net, None if trained else "shapes.yaml")
    assert calibrate.create_calibrator is usual  # which ModelOpt replaces, and exports to ONNX in INT8 fail then
    for capability in "sm75", "sm80", "sm86", "sm89":
        compiled = compile_onnx(graph, capability)
        print(name, capability, compiled)
        assert compiled.fused_attentions == 8
        assert compiled.int8_convolutions == (0 if capability == "sm75" else INT8[name])  # TensorRT-RTX has none there
        if capability != "sm75":
            assert compiled.kernels <= 8 + 2 * INT8[name] + 7


@pytest.mark.export
def test_exports_in_int8_are_the_same_afterwards():
    """ModelOpt takes operations out of ONNX Runtime's registries, and all later graphs in INT8 would lack them."""
    skip_without_int8()
    registry = pytest.importorskip("onnxruntime.quantization.registry")
    usual = {name: dict(kinds) for name, kinds in vars(registry).items() if name.endswith("Registry")}
    assert usual["QDQRegistry"] and usual["QLinearOpsRegistry"]
    export_int8(YOLO("yolov12n.yaml", verbose=False).model, "shapes.yaml", 64)
    assert {name: vars(registry)[name] for name in usual} == usual


def test_int8_needs_a_dataset():
    skip_without_int8()
    with pytest.raises(ValueError, match="needs a dataset"):
        export_int8(YOLO("yolov12n.yaml", verbose=False).model)


def test_int8_without_modelopt(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt.onnx.quantization", None)
    with pytest.raises(ImportError, match="pip install"):
        export_int8(torch.nn.Identity(), "shapes.yaml")


@pytest.mark.compile
@pytest.mark.export
def test_int8_beside_fp16(monkeypatch, capsys):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")
    skip_without_int8()
    result = bench_aot(["yolo11n"], ["sm86"], 160, int8="shapes.yaml")
    assert capsys.readouterr().out == ""
    assert [row["precision"] for row in result["rows"]] == ["fp16", "int8"] and result["protocol"]["int8"]
    fp16, int8 = result["rows"]
    assert fp16["int8_convolutions"] == 0 < int8["int8_convolutions"] and fp16["kernels"] < int8["kernels"]
    assert "INT8 convolutions" in kernels(result).markdown()
