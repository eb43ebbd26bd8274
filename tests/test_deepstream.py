"""Folders for NVIDIA DeepStream: what its nvinfer reads of them, and what the graph answers to images."""

import configparser
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from conftest import yolov12
from torch.testing import assert_close
from ultralytics import RTDETR, YOLO
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils.ops import xywh2xyxy

import yolov12_plugin as y12
from yolov12_plugin import names
from yolov12_plugin.deploy import deepstream
from yolov12_plugin.deploy.deepstream import _Rows, export_deepstream
from yolov12_plugin.deploy.runtimes.pytorch import exportable
from yolov12_plugin.deploy.runtimes.session import Session
from yolov12_plugin.deploy.verify import LIMITS, ROWS, Verification, enliven, load, read_images, verify
from yolov12_plugin.errors import ExportError, NotRunnable
from yolov12_plugin.nets import is_dense

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZE = 96, 160  # not square: sides that are mistaken for each other show
NAMES = {0: "a;b", 1: "two\nlines", 2: "", 3: " 猫 é "}


def live(name):
    """An untrained detector that tells images and classes apart, whose names are hard to write."""
    torch.manual_seed(0)
    model = load(Path(name))
    head = model.model.model[-1]
    with torch.no_grad():
        for branch in (*head.cv3, *(getattr(head, "one2one_cv3", None) or ())):
            for p in branch[-1].parameters():
                p.copy_(torch.randn_like(p) * 0.3)
    enliven(model.model, read_images(SIZE))
    model.model.names = {i: NAMES.get(i, f"class {i}") for i in range(80)}
    return model


@pytest.fixture(scope="module")
def model():
    return live("yolov12n.yaml")


@pytest.fixture(scope="module")
def state(model):
    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    return weights, [m.training for m in model.model.modules()]


@pytest.fixture(scope="module")
def exported(model, state, tmp_path_factory):
    return export_deepstream(model, tmp_path_factory.mktemp("deepstream") / "new" / "best", imgsz=SIZE, batch=3)


@pytest.fixture
def ungraphed(monkeypatch):
    """Exports without the seconds of a graph."""
    monkeypatch.setattr(deepstream, "_write_graph", lambda net, file, *args: file.write_bytes(b"graph"))
    monkeypatch.setattr(deepstream, "verify_export", lambda *args: Verification("fp32", LIMITS["fp32"], 2))


def read(file):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(file, encoding="utf-8")
    return parser


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run_graph(config, images):
    """What the one graph beside a configuration answers."""
    session = onnxruntime.InferenceSession(config.with_name(read(config)["property"]["onnx-file"]))
    (tensor,), (out,) = session.get_inputs(), session.get_outputs()
    assert (tensor.name, out.name, tensor.type, out.type) == ("input", "output", "tensor(float)", "tensor(float)")
    return torch.from_numpy(session.run(None, {"input": images.numpy()})[0])


@pytest.mark.export
def test_configuration(exported):
    folder = exported.parent
    assert sorted(content(folder)) == ["README.md", "config_infer_primary_yolov12n.txt", "labels.txt", "yolov12n.onnx"]
    config = read(exported)
    assert config.sections() == ["property", "class-attrs-all"]
    assert dict(config["property"]) == {
        "gpu-id": "0",
        "net-scale-factor": "0.0039215697906911373",
        "model-color-format": "0",
        "onnx-file": "yolov12n.onnx",
        "model-engine-file": "model_b3_gpu0_fp32.engine",
        "labelfile-path": "labels.txt",
        "batch-size": "3",
        "network-mode": "0",
        "num-detected-classes": "80",
        "interval": "0",
        "gie-unique-id": "1",
        "process-mode": "1",
        "network-type": "0",
        "cluster-mode": "2",
        "maintain-aspect-ratio": "1",
        "symmetric-padding": "1",
        "workspace-size": "2000",
        "parse-bbox-func-name": "NvDsInferParseYolo",
        "custom-lib-path": "nvdsinfer_custom_impl_Yolo/libnvdsinfer_custom_impl_Yolo.so",
        "engine-create-func-name": "NvDsInferYoloCudaEngineGet",
    }
    assert dict(config["class-attrs-all"]) == {
        "nms-iou-threshold": "0.7",
        "pre-cluster-threshold": "0.25",
        "topk": "300",
    }
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) == 3 and exported.name in readme and "deepstream-app -c " in readme


@pytest.mark.export
def test_labels(exported):
    """A line each: nvinfer skips empty ones, and takes a semicolon for the end of a name."""
    lines = (exported.parent / "labels.txt").read_bytes().decode().split("\n")
    assert lines == ["a,b", "two lines", "2", "猫 é", *(f"class {i}" for i in range(4, 80)), ""]


@pytest.mark.export
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_rows(model, exported, batch):
    """Corners in pixels, the best score and its class, of every anchor."""
    images = read_images(SIZE).repeat(2, 1, 1, 1)[:batch]
    with torch.no_grad():
        out = deepcopy(model.model).eval()(images)[0].mT  # (B, A, 4 + nc)
    score, kind = out[..., 4:].max(-1)
    rows = run_graph(exported, images)
    assert rows.shape == (batch, sum(SIZE[0] * SIZE[1] // s**2 for s in (8, 16, 32)), 6)
    assert_close(rows[..., :4], xywh2xyxy(out[..., :4]), atol=0.01, rtol=0)
    assert_close(rows[..., 4], score, atol=1e-5, rtol=1e-4)
    assert (rows[..., 5] == kind).float().mean() > 0.999  # but for ties
    assert len(rows[..., 5].unique()) > 5 and rows[..., 2].max() > SIZE[0]


@pytest.mark.export
def test_verify_export_reads_the_graph(model, exported):
    graph = exported.with_name("yolov12n.onnx")
    checked = y12.verify_export(model, graph)
    assert checked and checked.note is None and checked.matched == checked.detections > 20
    assert checked.relative["output (boxes)"] < 1e-3
    assert not y12.verify_export("yolov12n.yaml", graph)


def spoiled(what, rows):
    boxes, score, kind = rows.split((4, 1, 1), -1)
    if what == "centres":
        boxes = torch.cat(((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]), -1)
    elif what == "sides":
        boxes = boxes[..., [1, 0, 3, 2]]
    elif what == "shares of the image":
        boxes = boxes / boxes.new_tensor((SIZE[1], SIZE[0]) * 2)
    elif what == "scores":
        score = score.flip(1)
    elif what == "classes":
        kind = (kind + 1) % 80
    elif what == "no class":
        kind = kind + 80
    elif what == "order":
        score, kind = kind, score
    elif what == "anchors":
        return rows[:, 1:]
    return torch.cat((boxes, score, kind), -1)


WRONG = ["centres", "sides", "shares of the image", "scores", "classes", "no class", "order", "anchors"]


@pytest.mark.parametrize("name", ["yolov12n.yaml", "yolov10n.yaml"])
def test_only_the_model_s_rows_are_taken(name):
    net = live(name).model
    images = read_images(SIZE)
    with torch.no_grad():
        rows = _Rows(exportable(net, SIZE, len(images), format="engine"), SIZE)(images)

    class Answers(Session):
        def __init__(self, rows):
            self.rows, self.metadata, self.output_names = rows, {"layout": ROWS}, ["output"]

        def __call__(self, images):
            return [self.rows]

    reference = exportable(net, SIZE)
    if is_dense(reference.model[-1]):  # a class and its own score, but not the best
        with torch.no_grad():
            first = reference(images).mT[..., 4:5]
        assert not verify(reference, Answers(torch.cat((rows[..., :4], first, torch.zeros_like(first)), -1)), images)
    assert verify(reference, Answers(rows), images)
    # of what a head selects, the order says nothing
    for what in WRONG if name == "yolov12n.yaml" else ("centres", "sides", "shares of the image", "classes", "order"):
        assert not verify(reference, Answers(spoiled(what, rows)), images), what


@pytest.mark.export
@pytest.mark.parametrize("name", ["yolov10n.yaml", "yolo26n.yaml", "rtdetr-l.yaml"])
def test_heads_that_select(name, tmp_path):
    """Nothing is suppressed of what such a head selects; RT-DETR's images are stretched."""
    try:
        values = yaml_model_load(name)
    except FileNotFoundError:
        pytest.skip(f"this Ultralytics has no {name}")
    if "rtdetr" in name:
        name = tmp_path / name
        values["scales"] = {"l": [0.1, 0.25, 1024]}
        values["head"][-1][3] += [64, 300, 4, 4, 1]  # a decoder of one layer
        name.write_text(yaml.safe_dump(values), encoding="utf-8")
    model = load(Path(name))
    images = read_images(SIZE)
    enliven(model.model, images)
    config = export_deepstream(model, tmp_path / "out", imgsz=SIZE)
    rows = run_graph(config, images[:1])
    assert rows.shape == (1, 300, 6)
    assert (rows[..., 5] == rows[..., 5].round()).all() and rows[..., 2].max() > 2
    letterbox = "0" if isinstance(model, RTDETR) else "1"
    options = read(config)["property"]
    assert options["cluster-mode"] == "4"
    assert (options["maintain-aspect-ratio"], options["symmetric-padding"]) == (letterbox, letterbox)
    assert "nms-iou-threshold" not in read(config)["class-attrs-all"]


@pytest.mark.export
def test_fixed_batch_and_another_export_in_the_folder(tmp_path):
    """What is there stays, but an engine that nvinfer would take for the new graph's."""
    for name in "mine.txt", "labels.txt", "model_b2_gpu0_fp16.engine", "model_b2_gpu0_fp32.engine":
        (tmp_path / name).write_text("old")
    done = yolov12(
        *("export-deepstream", "yolov12n.yaml", tmp_path, "--name", "cars", "--imgsz", 50, "--force"),
        *("--batch", 2, "--static", "--half"),
    )
    assert done.exit_code == 0, done.output
    config = tmp_path / "config_infer_primary_cars.txt"
    assert str(config) in done.stdout
    options = read(config)["property"]
    assert (options["batch-size"], options["network-mode"]) == ("2", "2")
    assert options["model-engine-file"] == "model_b2_gpu0_fp16.engine" and options["onnx-file"] == "cars.onnx"
    assert run_graph(config, torch.zeros(2, 3, 64, 64)).shape == (2, 84, 6)  # the size is rounded up
    with pytest.raises(Exception, match=r"(?i)dimension"):
        run_graph(config, torch.zeros(1, 3, 64, 64))
    kept = {name: value for name, value in content(tmp_path).items() if value == b"old"}
    assert kept.keys() == {"mine.txt", "model_b2_gpu0_fp32.engine"}


def test_classes_of_the_model(ungraphed, tmp_path):
    file = tmp_path / "yolov12n-mine.yaml"
    values = yaml.safe_load(names.find("yolov12.yaml").read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(values | {"nc": 3}), encoding="utf-8")
    config = export_deepstream(file, tmp_path / "out")
    assert config.name == "config_infer_primary_yolov12n-mine.txt"
    assert read(config)["property"]["num-detected-classes"] == "3"
    assert (tmp_path / "out/labels.txt").read_text(encoding="utf-8") == "0\n1\n2\n"


@pytest.mark.parametrize(("channels", "color"), [(1, "2"), (4, None)])
def test_channels_of_the_model(ungraphed, channels, color, tmp_path):
    model = YOLO("yolov12n.yaml")
    model.model = DetectionModel("yolov12n.yaml", ch=channels, verbose=False)
    model.model.args = {"imgsz": 64}
    if color is None:
        with pytest.raises(ExportError, match="takes 4"):
            export_deepstream(model, tmp_path / "out")
    else:
        config = export_deepstream(model, tmp_path / "out")
        assert read(config)["property"]["model-color-format"] == color


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


def breaks(*args, **kwargs):
    raise RuntimeError("no such operator")


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


CAUSES = {
    "the graph": ("_write_graph", breaks, ExportError),
    "the disk, by the graph": ("_write_graph", full, OSError),
    "another graph": (
        "verify_export",
        lambda *a: Verification("fp32", LIMITS["fp32"], 2, diverging="boxes"),
        ExportError,
    ),
    "the user": ("verify_export", interrupted, KeyboardInterrupt),
    "the disk, by the copy": ("shutil.copyfile", full, OSError),
    "the disk, by the labels": ("Path.write_text", full, OSError),
}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("cause", CAUSES)
def test_what_fails_leaves_nothing(ungraphed, cause, there, tmp_path, monkeypatch, model):
    where, failing, error = CAUSES[cause]
    if there:
        (tmp_path / "out").mkdir()
        for name in "labels.txt", "model_b1_gpu0_fp32.engine":
            (tmp_path / "out" / name).write_text("old")
    before = content(tmp_path)
    monkeypatch.setattr(f"yolov12_plugin.deploy.deepstream.{where}", failing)
    with pytest.raises(error):
        export_deepstream(model, tmp_path / "out", force=there)
    assert content(tmp_path) == before and [p.name for p in tmp_path.iterdir()] == (["out"] if there else [])


def test_without_onnx(tmp_path, monkeypatch, model):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(NotRunnable, match=r"yolov12-plugin\[export\]"):
        export_deepstream(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["yolov12n-seg.yaml", "out"], "segment"),
        (["yolov12n-cls.yaml", "out"], "classify"),
        (["yolo11n-pose.yaml", "out"], "pose"),
        (["yolo11n-obb.yaml", "out"], "obb"),
        (["best.onnx", "out"], "exported already"),
        (["best_ncnn_model", "out"], "exported already"),
        (["none.onnx", "out"], "none.onnx does not exist"),
        (["none.pt", "out"], "Error: "),  # older Ultralytics looks for it on the network, and says that alone
        (["yolov12q.yaml", "out"], "yolov12q.yaml"),
        (["damaged.pt", "out"], "damaged.pt is no checkpoint of PyTorch"),
        (["yolov12n.yaml", "there"], "--force"),
        (["yolov12n.yaml", "best.onnx"], "--force"),
        (["yolov12n.yaml", "best.onnx", "--force"], "not a folder"),
        (["yolov12n.yaml", "best.onnx/out"], "not a folder"),
        (["yolov12n.yaml", "out", "--name", "a b"], "--name"),
        (["yolov12n.yaml", "out", "--batch", "0"], "--batch"),
        (["yolov12n.yaml", "out", "--imgsz", "1"], "--imgsz"),
    ],
)
def test_refusals(ungraphed, command, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in "there", "best_ncnn_model":
        (tmp_path / folder).mkdir()
    for file in "best.onnx", "damaged.pt":
        (tmp_path / file).write_bytes(b"not a model")
    before = sorted(tmp_path.rglob("*"))
    done = yolov12("export-deepstream", *command)
    assert done.exit_code == 2 and done.stdout == ""
    assert "Traceback" not in done.stderr and said in done.stderr.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_batch_must_be_positive(model, tmp_path):
    with pytest.raises(ExportError, match="batch=0"):
        export_deepstream(model, tmp_path / "out", batch=0)


@pytest.mark.export
def test_a_model_is_left_as_it_was(model, state, exported):
    weights, training = state
    assert all(value.equal(weights[key]) for key, value in model.model.state_dict().items())
    assert [m.training for m in model.model.modules()] == training and not model.model.model[-1].xyxy
