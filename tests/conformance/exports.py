"""Formats that Ultralytics exports to: written, loaded by their own runtime, compared with PyTorch."""

from pathlib import Path

import torch
from ultralytics import YOLO

from conformance.capabilities import group
from conformance.networks import OPTIONS, boxes, picture, yolo
from conformance.support import equal, images

capability = group("Exported models")


def exported(form: str, tolerance: float = 1e-3, height: int = 64, width: int = 64, batch: int = 1, **options) -> Path:
    """A model exported and loaded again; its outputs on images are those of PyTorch."""
    from ultralytics.nn.autobackend import AutoBackend

    model = yolo()
    options = dict(imgsz=64, batch=batch) | options
    file = model.export(format=form, device="cpu", **options)
    x = images(batch, height, width)
    with torch.no_grad():
        right = model.model.float().eval()(x)[0]
        out = AutoBackend(file, device=torch.device("cpu"))(x)
    out = out[0] if isinstance(out, (list, tuple)) else out
    equal(torch.as_tensor(out), right, tolerance)
    return Path(file)


@capability
def torchscript():
    """format=torchscript"""
    exported("torchscript")


@capability
def torchscript_of_two_images():
    """format=torchscript, batch=2, of wide images"""
    exported("torchscript", batch=2, imgsz=(64, 96), width=96)


@capability
def onnx():
    """format=onnx, by ONNX Runtime"""
    exported("onnx")


@capability
def onnx_of_any_size():
    """format=onnx, dynamic=True, at another size and number of images"""
    exported("onnx", dynamic=True, height=64, width=128, batch=3)


@capability
def onnx_not_simplified():
    """format=onnx, simplify=False, opset 13"""
    exported("onnx", simplify=False, opset=13)


@capability
def onnx_with_nms():
    """format=onnx, nms=True: the file's boxes are those that PyTorch predicts"""
    model = yolo()
    file = model.export(format="onnx", nms=True, imgsz=64, device="cpu", conf=OPTIONS["conf"])
    found = boxes(YOLO(file, task="detect").predict(picture(), **OPTIONS))[0]
    right = boxes(model.predict(picture(), **OPTIONS))[0]
    assert len(found) and len(right)
    equal(found[:1], right[:1], 0.01)


@capability
def openvino():
    """format=openvino, by OpenVINO"""
    import openvino

    model, x = yolo(), images(1)
    (file,) = Path(model.export(format="openvino", imgsz=64, device="cpu")).glob("*.xml")
    # By default it rounds to bfloat16 on processors that have it.
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        equal(torch.from_numpy(compiled(x.numpy())[0]), model.model.float().eval()(x)[0], 1e-3)


@capability
def predicted_from_a_file():
    """`YOLO("model.onnx")` and `YOLO("model.torchscript")` predict PyTorch's boxes"""
    model = yolo()
    right = boxes(model.predict(picture(), **OPTIONS))
    for form in "onnx", "torchscript":
        file = model.export(format=form, imgsz=64, device="cpu")
        found = boxes(YOLO(file, task="detect").predict(picture(), **OPTIONS))
        assert len(found[0]) == len(right[0])
        equal(found[0][:, :5], right[0][:, :5], 0.01)


@capability
def exported_after_prediction():
    """Export of a model that has predicted (and is fused), and prediction after an export"""
    model = yolo()
    right = boxes(model.predict(picture(), **OPTIONS))
    file = model.export(format="torchscript", imgsz=64, device="cpu")
    equal(boxes(model.predict(picture(), **OPTIONS)), right)
    equal(boxes(YOLO(file, task="detect").predict(picture(), **OPTIONS)), right, 0.01)


@capability(needs=["ncnn", "pnnx"], seconds=300)
def ncnn():
    """format=ncnn, by NCNN"""
    exported("ncnn", 0.01)


@capability(needs=["executorch"], seconds=400)
def executorch_of_a_stage():
    """A2C2f lowered by ExecuTorch to XNNPACK, run by its runtime"""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    from conformance.support import a2c2f, maps

    block, x = a2c2f().eval(), maps(1)
    program = torch.export.export(block, (x,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    method = Runtime.get().load_program(lowered.buffer).load_method("forward")
    equal(method.execute([x])[0], block(x), 1e-3)
