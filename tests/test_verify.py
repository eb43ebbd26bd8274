"""A file passes when it computes the model, and only then."""

import json
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
import torch
import ultralytics
import yaml
from conftest import SHARED, needs
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from ultralytics import RTDETR, YOLO
from ultralytics.utils import ROOT as ultralytics_root

import yolov12_plugin as y12
from yolov12_plugin import names
from yolov12_plugin.deploy.runtimes import open_artefact
from yolov12_plugin.deploy.runtimes import session as sessions
from yolov12_plugin.deploy.runtimes.pytorch import Torch, exportable
from yolov12_plugin.deploy.runtimes.session import Options
from yolov12_plugin.deploy.verify import (
    LIMITS,
    Verification,
    _check,
    _check_matched,
    _larger,
    _match,
    enliven,
    load,
    read_images,
    verify,
)
from yolov12_plugin.errors import NotRunnable

IMGSZ = 160
FORMATS = {"onnx": "onnxruntime", "openvino": "openvino", "torchscript": "torch", "ncnn": "ncnn", "mnn": "MNN"}


def live(name, seed=0):
    """An untrained model whose outputs depend on the image."""
    torch.manual_seed(seed)
    model = (RTDETR if "rtdetr" in name else YOLO)(f"{name}.yaml")
    enliven(model.model, read_images((IMGSZ, IMGSZ)))
    return model


@pytest.fixture(scope="module")
def models():
    made = {}
    return lambda name, seed=0: deepcopy(made.setdefault((name, seed), live(name, seed)))


@pytest.fixture
def export(models, tmp_path):
    def export(name, seed=0, **options):
        model = models(name, seed)
        model.model.pt_path = str(tmp_path / f"{name}-{seed}.pt")
        options = {"format": "onnx", "imgsz": IMGSZ, "verbose": False} | options
        return model.export(**({"simplify": False} if options["format"] == "onnx" else {}) | options)

    return export


@pytest.mark.export
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["yolov12n", "yolov12n-seg"])
def test_export_passes(name, format, models, export):
    pytest.importorskip(FORMATS[format])
    checked = y12.verify_export(models(name), export(name, format=format))
    assert checked and checked.passed and checked.note is None, checked
    assert checked.precision == "fp32" and checked.matched == checked.detections > 20
    assert checked.relative["output0 (boxes)"] < 1e-3 and checked.box_px < 0.01
    json.dumps(checked.record(), allow_nan=False)


@pytest.mark.export
@pytest.mark.parametrize(
    "name", ["yolov12n-cls", "yolov12n-pose", "yolov12n-obb", "yolov12n-turbo", "yolov8n", "yolov10n", "yolo11n-seg"]
)
def test_every_head_passes_and_differs_from_another(name, models, export):
    file = export(name)
    assert (checked := y12.verify_export(models(name), file)), checked
    other = y12.verify_export(models(name, 1), file)
    assert not other and other.diverging.startswith("output0"), other


@pytest.mark.export
@pytest.mark.parametrize("name", ["yolo26n-sem", "yolo26n-depth"])
def test_maps_of_classes_and_of_depth(name, models, export):
    if not list((ultralytics_root / "cfg/models").rglob(f"{name.replace('26n', '26')}.yaml")):
        pytest.skip("this Ultralytics has no such model")
    file = export(name)
    assert (checked := y12.verify_export(models(name), file)), checked
    other = y12.verify_export(models(name, 1), file)
    assert not other and other.diverging.startswith("output0 differs by"), other


@pytest.mark.parametrize("name", ["rtdetr-resnet50.yaml", "yolov8n-rtdetr.yaml"])
def test_models_with_a_decoder_are_built(name):
    assert type(load(Path(name))) is RTDETR


@pytest.mark.export
def test_decoder_s_detections_are_compared_in_any_order(models, export):
    file = export("rtdetr-l")
    checked = y12.verify_export(models("rtdetr-l"), file)
    assert checked and checked.matched == checked.detections > 100
    assert not y12.verify_export(models("rtdetr-l", 1), file)


@pytest.mark.export
@pytest.mark.parametrize("options", [{"dynamic": True}, {"batch": 3}, {"imgsz": (96, 160)}, {"simplify": True}])
def test_sizes_and_batches(options, models, export):
    checked = y12.verify_export(models("yolov12n"), export("yolov12n", **options), imgsz=IMGSZ)
    assert checked and checked.detections, checked


@pytest.mark.export
def test_selecting_head_exported_either_way(models, export):
    for nms in (False, None):
        try:
            file = export("yolov10n", nms=nms)
        except (TypeError, ValueError, SyntaxError):
            pytest.skip("this Ultralytics has one way only")
        assert (checked := y12.verify_export(models("yolov10n"), file)), checked


@pytest.mark.export
@pytest.mark.parametrize("name", ["yolov12n-seg", "yolov12n-obb"])
def test_suppression_within_the_file(name, models, tmp_path):
    model, other = models(name), models(name, 1)
    for each in (model, other):
        for conv in each.model.model[-1].cv3:
            conv[-1].bias.data += 9  # detections of an untrained model
    model.model.pt_path = str(tmp_path / "nms.pt")
    options = dict(format="onnx", imgsz=IMGSZ, nms=True, simplify=False, verbose=False)
    file = model.export(**options)
    checked = y12.verify_export(model, file)
    assert checked and checked.matched == checked.detections > 5, checked
    assert not y12.verify_export(other, file)
    for conv in model.model.model[-1].cv3:
        conv[-1].bias.data -= 9  # now it detects nothing, the file does
    checked = y12.verify_export(model, file)
    assert not checked and checked.detections > 5, checked
    for conv in other.model.model[-1].cv3:
        conv[-1].bias.data -= 9
    other.model.pt_path = str(tmp_path / "none.pt")
    checked = y12.verify_export(other, other.export(**options))
    assert not checked and checked.diverging.startswith("nothing was detected by either"), checked


def test_one_detection_that_is_not_found_again():
    """A share of one is none, and none is not enough."""
    result = Verification("int8", LIMITS["int8"], 2, detections=1)
    _check_matched(result, "output0")
    assert result.diverging == "output0 (detections): 0 of 1 detections matched at IoU 0.75, int8 needs 1"


@given(st.lists(st.floats(min_value=0) | st.just(float("nan")), min_size=1))
def test_no_error_that_is_not_within_the_limit_passes(errors):
    """NaN is the largest of all, wherever it stands."""
    result, largest = Verification("fp32", LIMITS["fp32"], 2), 0.0
    for error in errors:
        largest = _larger(largest, error)
    _check(result, "output0", largest, 1.0)
    assert result.passed == all(error <= 1 for error in errors)


@pytest.mark.export
def test_another_classifier_at_a_coarse_precision(models, export):
    file = export("yolov12n-cls")
    assert y12.verify_export(models("yolov12n-cls"), file, precision="int8")
    assert not y12.verify_export(models("yolov12n-cls", 1), file, precision="int8")


@pytest.mark.export
def test_suppression_at_another_confidence(models, tmp_path):
    model = models("yolov12n")
    for conv in model.model.model[-1].cv3:
        conv[-1].bias.data += 9
    model.model.pt_path = str(tmp_path / "nms.pt")
    file = model.export(format="onnx", imgsz=IMGSZ, nms=True, conf=0.6, iou=0.3, verbose=False)
    assert y12.verify_export(model, file, confidence=0.6, iou=0.3) and not y12.verify_export(model, file)

    def lose_all_but_three(graph):
        graph.output[0].name, name = "kept", graph.output[0].name
        ends = [helper.make_tensor(key, onnx.TensorProto.INT64, [1], [value]) for key, value in (("a", 0), ("b", 3))]
        graph.initializer.extend([*ends, helper.make_tensor("axis", onnx.TensorProto.INT64, [1], [1])])
        graph.node.append(helper.make_node("Slice", [name, "a", "b", "axis"], ["kept"]))
        del graph.output[0].type.tensor_type.shape.dim[1:]

    checked = y12.verify_export(model, tampered(file, lose_all_but_three), confidence=0.6, iou=0.3)
    assert not checked and checked.matched <= 6 < checked.detections, checked


@pytest.mark.export
def test_openvino_with_half_its_weights(models, export):
    """The weights are FP16, whatever a processor computes in."""
    pytest.importorskip("openvino")
    file = export("yolov12n", format="openvino", half=True)
    checked = y12.verify_export(models("yolov12n"), file)
    assert checked and checked.precision == "fp16", checked


@pytest.mark.export
@pytest.mark.parametrize("name", ["yolo26n", "yolo26n-pose"])
def test_heads_with_both_branches(name, models, export):
    if tuple(int(n) for n in ultralytics.__version__.split(".")[:2]) < (8, 4):
        pytest.skip("this Ultralytics has no YOLO26")
    for nms in (False, None):
        file = export(name, nms=nms)
        assert (checked := y12.verify_export(models(name), file)) and checked.matched, checked
        assert not y12.verify_export(models(name, 1), file)


@pytest.mark.export
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["yolo26n", "yolov10n"])
def test_selection_among_equal_scores(name, format, tmp_path):
    """As initialised all anchors score alike, and runtimes choose others of them; those too are the model's."""
    pytest.importorskip(FORMATS[format])
    if name == "yolo26n" and tuple(int(n) for n in ultralytics.__version__.split(".")[:2]) < (8, 4):
        pytest.skip("this Ultralytics has no YOLO26")
    model = YOLO(f"{name}.yaml", verbose=False)
    model.model.pt_path = str(tmp_path / f"{name}.pt")
    file = model.export(format=format, imgsz=160, nms=False, verbose=False)
    checked = y12.verify_export(model, file)
    assert checked and checked.matched == checked.detections > 5 and "all alike" in checked.note, checked
    ends = [branch[-1] for branch in model.model.model[-1].one2one_cv2]
    for conv in ends:
        conv.bias.data += torch.linspace(0, 3, len(conv.bias))
    assert not y12.verify_export(model, file)


@settings(deadline=None)  # the first one imports torchvision
@given(st.lists(st.tuples(*[st.integers(-50, 50)] * 4).filter(lambda b: b[0] != b[2] and b[1] != b[3]), min_size=1))
def test_boxes_inside_out_match_themselves(corners):
    """As heads without DFL give them before they are trained."""
    rows = torch.tensor([[*map(float, box), 0.5, 0.0] for box in corners])
    assert _match(rows, rows)[1].all()
    moved = rows + torch.tensor([200.0] * 4 + [0.0] * 2)
    assert not _match(rows, moved)[1].any()


def tampered(file, change):
    graph = onnx.load(file)
    change(graph.graph)
    onnx.save(graph, file)
    return file


def initializer(graph, ending, change):
    (found,) = [w for w in graph.initializer if w.name.endswith(ending)]
    found.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(found).copy()), found.name))


def lose_attention(graph):
    for node in graph.node:
        if node.op_type == "Softmax":
            node.op_type = "Identity"
            del node.attribute[:]


DAMAGE = {
    "softmax lost": lose_attention,
    "projection zeroed": lambda g: initializer(g, "model.6.m.0.0.attn.proj.conv.weight", lambda w: 0 * w),
    "boxes scaled": lambda g: initializer(g, "model.21.dfl.bins", lambda w: 1.02 * w),
    "classes swapped": lambda g: initializer(g, "model.21.cv3.0.2.weight", lambda w: w[::-1]),
    "weights at 4 bits": lambda g: initializer(
        g, "model.4.cv1.conv.weight", lambda w: (w / abs(w).max() * 7).round() * abs(w).max() / 7
    ),
    "NaN": lambda g: initializer(g, "model.21.cv2.0.2.weight", lambda w: w * float("nan")),
}


@pytest.mark.export
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(damage, models, export):
    checked = y12.verify_export(models("yolov12n"), tampered(export("yolov12n"), DAMAGE[damage]))
    assert not checked and checked.diverging.startswith("output0"), checked
    assert "does not compute the model, output0" in str(checked)
    json.dumps(checked.record(), allow_nan=False)


@pytest.mark.export
def test_second_output_is_named(models, export):
    def other_prototypes(graph):
        initializer(graph, "model.21.proto.cv3.conv.weight", lambda w: w[::-1])

    checked = y12.verify_export(models("yolov12n-seg"), tampered(export("yolov12n-seg"), other_prototypes))
    assert checked.diverging.startswith("output1 differs by")


@pytest.mark.export
def test_other_classes_and_outputs(models, export, tmp_path):
    """Another number of classes, and another task, are not the model's outputs."""
    data = yaml.safe_load((names.CFG / "models/yolov12.yaml").read_text()) | {"nc": 3}
    (tmp_path / "yolov12n.yaml").write_text(yaml.safe_dump(data))
    few = YOLO(tmp_path / "yolov12n.yaml")
    few.model.pt_path = str(tmp_path / "few.pt")
    checked = y12.verify_export(models("yolov12n"), few.export(format="onnx", imgsz=IMGSZ, verbose=False))
    assert "output0 has shape (2, 7, 525), the model's (2, 84, 525)" in checked.diverging
    checked = y12.verify_export(models("yolov12n-seg"), export("yolov12n"))
    assert "1 outputs (output0) instead of 2" in checked.diverging


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["yolov12n", "yolo11n"])
def test_limits_of_precisions_hold_and_do_not_pass_lost_attention(precision, name, models):
    net = exportable(models(name).model, IMGSZ)
    images = read_images((IMGSZ, IMGSZ))
    half = Torch(deepcopy(net), Options())
    half.model.to(torch.float16 if precision == "fp16" else torch.bfloat16)
    assert (checked := verify(net, half, images, precision)), checked
    if name.startswith("yolov12"):
        for m in half.model.modules():
            if isinstance(m, y12.AAttn):
                m.forward = torch.zeros_like
        assert not verify(net, half, images, precision)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    noise=st.floats(0, 1e-5),
    large=st.floats(2e-3, 1),
    where=st.sampled_from(["boxes", "scores"]),
    seed=st.integers(0, 9),
)
def test_noise_passes_and_error_does_not(noise, large, where, seed):
    net = NET.setdefault("net", exportable(live("yolov12n").model, 64))
    images = read_images((64, 64))

    class Noisy(Torch):
        def __init__(self, amount):
            super().__init__(net, Options(threads=1))
            self.amount = amount

        @property
        def outputs(self):
            out = self.results.clone()
            torch.manual_seed(seed)
            part = out[:, :4] if where == "boxes" else out[:, 4:]
            part += (
                torch.randn_like(part) * self.amount * (100 if where == "boxes" else 0.01 if self.amount < 1e-3 else 1)
            )
            return [out]

    assert verify(net, Noisy(noise), images)
    assert not verify(net, Noisy(large), images)


NET = {}


@pytest.mark.export
def test_model_that_answers_every_image_alike(tmp_path):
    model = YOLO("yolov12n.yaml")
    model.model.pt_path = str(tmp_path / "x.pt")
    checked = y12.verify_export(model, model.export(format="onnx", imgsz=64, verbose=False))
    assert checked and "hardly depends on the image" in checked.note and "is the model trained?" in str(checked)


@pytest.mark.export
@needs("golden")
def test_golden_checkpoints_are_told_apart(tmp_path):
    files = {}
    for name in ("v1.0-n", "turbo-n"):
        model = YOLO(SHARED / f"golden/{name}.pt")
        model.model.pt_path = str(tmp_path / f"{name}.pt")
        files[name] = model.export(format="onnx", imgsz=IMGSZ, verbose=False)
    for name in files:
        for other, file in files.items():
            assert y12.verify_export(SHARED / f"golden/{name}.pt", file).passed == (name == other)


def test_what_is_not_there(models, tmp_path):
    model = models("yolov12n")
    with pytest.raises(FileNotFoundError, match="does not exist: export the model first"):
        y12.verify_export(model, tmp_path / "x.onnx")
    for name in ("x.onnx", "x.torchscript"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(NotRunnable, match=r"cannot be read, export it again: \w+"):
            y12.verify_export(model, tmp_path / name)
    (tmp_path / "x_openvino_model").mkdir()
    with pytest.raises(NotRunnable, match=r"x_openvino_model holds no \.xml: export the model again"):
        y12.verify_export(model, tmp_path / "x_openvino_model")


@pytest.mark.export
def test_images_and_precisions_that_are_not_there(models, export, tmp_path):
    file = export("yolov12n")
    with pytest.raises(FileNotFoundError, match=r"no\.jpg is no image"):
        y12.verify_export(models("yolov12n"), file, source=[tmp_path / "no.jpg"])
    with pytest.raises(ValueError, match="precision 'fp12' has no limits; there are fp32, tf32"):
        y12.verify_export(models("yolov12n"), file, precision="fp12")


@pytest.mark.export
def test_session_pads_the_last_batch(export):
    session = open_artefact(Path(export("yolov12n", batch=4)), Options())
    images = read_images((IMGSZ, IMGSZ))
    (out,) = session(images)
    assert out.shape[0] == 2
    (again,) = session(torch.cat((images, images, images)))
    assert torch.equal(again[:2], out) and torch.equal(again[4:], out)


def test_limits_grow_with_coarseness():
    values = list(LIMITS.values())
    for a, b in pairwise(values):
        assert (a.box_px or 0) <= (b.box_px or 1e9) and (a.score or 0) <= (b.score or 1)
        assert a.relative <= b.relative and a.loss <= b.loss and (a.matched >= b.matched or a.iou > b.iou)


def test_a_runtime_that_fails_is_one_line():
    class Broken(Torch):
        def execute(self):
            raise MemoryError("first line\nsecond")

    session = Broken(torch.nn.Conv2d(3, 3, 1), Options())
    with pytest.raises(NotRunnable, match=r"^Broken does not run this here: MemoryError: first line; export it again$"):
        session(torch.rand(1, 3, 32, 32))


@pytest.mark.export
@pytest.mark.parametrize("damage", ["another layer", "no layers", "no weights", "half the weights"])
def test_an_ncnn_network_that_does_not_load(damage, export, models):
    pytest.importorskip("ncnn")
    folder = Path(export("yolov12n", format="ncnn"))
    graph, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    if damage == "another layer":  # what a converter leaves of an operator that it does not know
        graph.write_text(graph.read_text().replace("Convolution ", "torch.unbind ", 1))
    elif damage == "no layers":
        graph.write_text("")
    else:
        weights.write_bytes(b"" if damage == "no weights" else weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(
        NotRunnable, match=r"model\.ncnn\.\w+ is no network that this NCNN reads: export the model again"
    ):
        y12.verify_export(models("yolov12n"), folder)


@pytest.mark.export
def test_threads_of_the_caller_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = YOLO("yolov12n.yaml", verbose=False)
    file = model.export(format="torchscript", imgsz=64, verbose=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        y12.verify_export(model, file)
        assert torch.get_num_threads() == 3
        with pytest.raises(ValueError):
            y12.verify_export(model, file, precision="fp12")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "given, newest, oldest",
    [
        ({"half": True}, {"quantize": 16}, {"half": True}),
        ({"int8": True, "data": "a.yaml"}, {"quantize": 8, "data": "a.yaml"}, {"int8": True, "data": "a.yaml"}),
        ({"quantize": 16, "imgsz": 64}, {"quantize": 16, "imgsz": 64}, {"half": True, "imgsz": 64}),
        ({"quantize": "int8"}, {"quantize": "int8"}, {"int8": True}),
        ({"quantize": 32}, {"quantize": 32}, {}),
        ({"half": False, "int8": False}, {}, {}),
    ],
)
def test_precision_in_the_words_of_each_ultralytics(given, newest, oldest, monkeypatch):
    monkeypatch.setattr(sessions, "DEFAULT_CFG_DICT", {"quantize": None})
    assert sessions.in_its_words(given) == newest
    monkeypatch.setattr(sessions, "DEFAULT_CFG_DICT", {"half": False, "int8": False})
    assert sessions.in_its_words(given) == oldest
