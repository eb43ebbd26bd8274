"""Graphs for other runtimes: what they hold, and that they compute what the model computes."""

import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import has_end2end
from exported import network
from ultralytics import YOLO
from ultralytics.cfg import DEFAULT_CFG_DICT
from ultralytics.nn.modules.head import Detect

import yolov12_plugin as y12
from yolov12_plugin.benchmark.exporting import prepare_export
from yolov12_plugin.names import CFG

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

end2end = pytest.mark.skipif(not has_end2end(), reason="end2end of a YAML came with Ultralytics 8.4")
INT8 = {"quantize": 8} if "quantize" in DEFAULT_CFG_DICT else {"int8": True}
BLOCKS = {
    "v1.0": dict(area=4),
    "v1.0, L": dict(area=4, residual=True, mlp_ratio=1.2),
    "turbo": dict(area=4, qkv_fused=False, pe_kernel=5),
    "one area": dict(area=1),
    "pe bias": dict(area=2, pe_bias=True),
    "vertical": dict(area=4, vertical=True),
}


def build(format="onnx", **options):
    """A fused block whose attention matters to its output."""
    block = y12.A2C2f(64, 64, 1, True, **options).eval()
    with torch.no_grad():
        for p in block.parameters():
            p.copy_(torch.randn_like(p) * 0.2)
    for m in block.modules():
        if isinstance(m, y12.AAttn):
            m.fuse(format)
    return block


def export(model, images, dynamo, **options):
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch's dynamo exporter needs onnxscript")
        options |= dict(opset_version=18, verbose=False)
    else:
        options |= dict(opset_version=17)
    graph = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (images,), None if dynamo else graph, dynamo=dynamo, **options)
    return program.model_proto.SerializeToString() if dynamo else graph.getvalue()


def compare(graph, model, sizes):
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    channels = next(p for p in model.parameters() if p.ndim == 4).shape[1]
    for b, h, w in sizes:
        x = torch.rand(b, channels, h, w)
        with torch.no_grad():
            expected = model(x)
        while isinstance(expected, tuple):  # the head's own form comes after its predictions
            expected = expected[0]
        expected = expected.numpy()
        assert expected.std() > 0
        np.testing.assert_allclose(session.run(None, {name: x.numpy()})[0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.export
@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
def test_static_graph(options, dynamo):
    """No shape arithmetic, no softmax in pieces, the scale before the first product; tokens that no area divides too."""
    block = build(**options)
    for size in (2, 8, 8), (1, 5, 7):
        graph = export(block, torch.rand(size[0], 64, *size[1:]), dynamo)
        compare(graph, block, [size])
        nodes = onnx.load_from_string(graph).graph.node
        assert {n.op_type for n in nodes} <= {"Add", "Concat", "Constant", "Conv", "Identity", "MatMul", "Mul", "Reshape",
                                              "Sigmoid", "Softmax", "Split", "Transpose", "Unsqueeze"}  # fmt: skip
        made_by = {output: n for n in nodes for output in n.output}
        softmaxes = [n for n in nodes if n.op_type == "Softmax"]
        parts = 1 if size[1] * size[2] % options["area"] == 0 else 2
        assert len(softmaxes) == 2 * parts
        for softmax in softmaxes:
            assert made_by[softmax.input[0]].op_type == "MatMul"
            (after,) = [n for n in nodes if softmax.output[0] in n.input]
            assert after.op_type == "MatMul" and after.input[0] == softmax.output[0]


@pytest.mark.export
@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS)
def test_dynamic_graph(options, dynamo):
    """One graph for any batch, height and width."""
    block = build(**options)
    if dynamo:
        batch, *sides = (torch.export.Dim(name, max=64) for name in ("batch", "height", "width"))
        axes = dict(dynamic_shapes=({0: batch, 2: 2 * sides[0], 3: 2 * sides[1]},))
    else:
        axes = dict(input_names=["x"], dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}})
    graph = export(block, torch.rand(2, 64, 8, 12), dynamo, **axes)
    compare(graph, block, [(2, 8, 12), (1, 4, 4), (3, 14, 6), (1, 20, 20)])


@pytest.mark.export
@pytest.mark.parametrize("name", ["yolov12n.yaml", "yolov12n-turbo.yaml", "yolov12n-seg.yaml", "yolov12l.yaml"])
def test_exported_model(name, tmp_path, monkeypatch):
    """`yolo export format=onnx`: as it is, and with dynamic=True."""
    monkeypatch.chdir(tmp_path)
    model = network(name)
    heads = sum(isinstance(m, y12.ABlock) for m in model.model.modules())
    for dynamic in False, True:
        file = model.export(format="onnx", imgsz=160, dynamic=dynamic, simplify=False, verbose=False)
        nodes = onnx.load(file).graph.node
        if not dynamic:
            shapes = [
                n.name for n in nodes if n.op_type in ("Shape", "Gather", "ReduceMax", "Exp") and "attn" in n.name
            ]
            assert not shapes and sum(n.op_type == "MatMul" for n in nodes) == 2 * heads
            assert not [n.name for n in nodes if n.op_type in ("Transpose", "Conv") and "dfl" in n.name]
        sizes = [(1, 160, 160), (3, 96, 224), (2, 256, 64)] if dynamic else [(1, 160, 160)]
        compare(file, model.model.eval(), sizes)


@pytest.mark.parametrize("alias", ["engine", "trt", "TensorRT"])
def test_an_alias_of_a_format_gets_its_form(alias):
    """Older releases keep it as it was given."""
    net = YOLO("yolov12n.yaml", verbose=False).model.fuse(verbose=False)
    prepare_export(SimpleNamespace(model=net, args=SimpleNamespace(format=alias)))
    assert {m.format for m in net.modules() if isinstance(m, y12.AAttn)} == {"engine"}


@pytest.mark.export
@pytest.mark.parametrize("runtime, dynamic", [("torchscript", False), ("openvino", False), ("openvino", True)])
def test_other_runtimes(runtime, dynamic, tmp_path, monkeypatch):
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install yolov12-plugin[export]")
    monkeypatch.chdir(tmp_path)
    model = network("yolov12n.yaml")
    file = model.export(format=runtime, imgsz=160, dynamic=dynamic, verbose=False)
    x = torch.rand(2, 3, 96, 224) if dynamic else torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        expected = model.model.eval()(x)[0]
    if runtime == "torchscript":
        actual = torch.jit.load(file)(x)
    else:
        core = __import__("openvino").Core()
        exact = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would compute in bfloat16
        compiled = core.compile_model(next(tmp_path.rglob("*.xml")), "CPU", exact)
        actual = torch.from_numpy(compiled(x.numpy())[0])
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.export
@pytest.mark.parametrize("options", BLOCKS.values(), ids=BLOCKS.keys())
def test_projections_of_a_quantised_openvino_graph_leave_in_int8(options):
    """q and k are quantised once and together, where they are projected; the perceiver is given quantised values."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install yolov12-plugin[export]")
    nncf = pytest.importorskip("nncf", reason="nncf is not installed: pip install nncf")
    block = build("openvino", **options)
    images = [torch.randn(1, 64, 8, 8) for _ in range(2)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(block, images[0], strict=False, check_trace=False)
        graph = openvino.convert_model(traced, input=[1, 64, 8, 8], example_input=images[0])
    preset = nncf.QuantizationPreset.MIXED
    graph = nncf.quantize(graph, nncf.Dataset([x.numpy() for x in images]), preset=preset, subset_size=2)

    def source(op, i):
        return op.input_value(i).get_node().get_type_name()

    ops = graph.get_ops()
    attentions = [op for op in ops if op.get_type_name() == "ScaledDotProductAttention"]
    perceivers = [op for op in ops if op.get_type_name() == "GroupConvolution"]
    assert len(attentions) == len(perceivers) == 2
    assert all(source(op, 0) == "FakeQuantize" for op in perceivers)
    if not options.get("vertical"):
        assert all("FakeQuantize" not in [source(op, i) for i in range(3)] for op in attentions)


@pytest.mark.export
@pytest.mark.parametrize("kind", ["", "-obb", pytest.param("-e2e", marks=end2end)])
def test_the_decode_of_a_quantised_openvino_graph_is_float(kind, tmp_path, monkeypatch):
    """Ultralytics leaves what is named of the head or of its DFL in float; the integrals of all maps are among it."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install yolov12-plugin[export]")
    pytest.importorskip("nncf", reason="nncf is not installed: pip install nncf")
    monkeypatch.chdir(tmp_path)
    text = (CFG / f"models/yolov12{kind}.yaml").read_text(encoding="utf-8")
    (tmp_path / f"own12n{kind}.yaml").write_text(text.replace("reg_max: 1 ", "reg_max: 16 "), encoding="utf-8")
    model = YOLO(f"own12n{kind}.yaml", verbose=False)
    data = "shapes-obb.yaml" if kind == "-obb" else "shapes.yaml"
    selects = {"nms": False} if kind == "-e2e" else {}
    model.export(format="openvino", imgsz=64, data=data, fraction=0.1, verbose=False, **INT8, **selects)
    ops = openvino.Core().read_model(next(tmp_path.rglob("*.xml"))).get_ops()
    decode = [op for op in ops if ".dfl" in op.get_friendly_name()]
    softmaxes = sum(op.get_type_name() == "Softmax" for op in decode)
    assert softmaxes == (3 if hasattr(Detect, "forward_head") else 1)  # of the maps, or of all that is flattened
    assert hasattr(Detect, "forward_head") is not any(op.get_type_name() == "Convolution" for op in decode)
    inputs = [value.get_node().get_type_name() for op in decode for value in op.input_values()]
    assert inputs and "FakeQuantize" not in inputs
    assert "FakeQuantize" in [op.get_type_name() for op in ops]
