"""Models of other heads than the releases': without non-maximum suppression, and with a finer or a coarser level."""

import json
import logging

import numpy as np
import pytest
import torch
from conftest import has_end2end, yolov12
from ultralytics import YOLO
from ultralytics.nn.tasks import parse_model, yaml_model_load

import yolov12_plugin as y12
from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.nn import modules

new = pytest.mark.skipif(not has_end2end(), reason="end2end of a YAML came with Ultralytics 8.4")
KINDS = [pytest.param("e2e", marks=new), pytest.param("seg-e2e", marks=new), "p2", "p6"]
STRIDES = {"p2": [4, 8, 16, 32], "p6": [8, 16, 32, 64]}


@pytest.mark.parametrize("scale", "nsmlx")
@pytest.mark.parametrize("kind", KINDS)
def test_every_scale_runs(kind, scale):
    """At sizes that no stride but the greatest divides, too; and every attention head has 32 channels."""
    net = YOLO(f"yolov12{scale}-{kind}.yaml", verbose=False).model
    assert net.stride.tolist() == STRIDES.get(kind, [8, 16, 32])
    assert all(m.head_dim == 32 for m in net.modules() if isinstance(m, y12.AAttn))
    side = int(net.stride.max())
    with torch.inference_mode():
        out = net.eval()(torch.rand(1, 3, side, 3 * side))[0]
    out = out[0] if isinstance(out, tuple) else out
    assert out.isfinite().all()


@new
@pytest.mark.parametrize("kind", ["e2e", "seg-e2e"])
def test_both_branches(kind):
    """The head is the one of YOLO26's YAML: equal outputs, one a value of each anchor and one its selection."""
    net = YOLO(f"yolov12n-{kind}.yaml", verbose=False).model
    extra = 32 * ("seg" in kind)
    head = net.model[-1]
    assert head.reg_max == 1 and head.one2one_cv2 is not None
    images = torch.rand(2, 3, 160, 160)
    for end2end, shape in (True, (2, 300, 6 + extra)), (False, (2, 84 + extra, 525)):
        head.end2end = end2end
        with torch.inference_mode():
            out = net.eval()(images)[0]
        assert (out[0] if isinstance(out, tuple) else out).shape == shape


def load(target, source, tmp_path, caplog):
    """A model that took what it could of another's checkpoint, and the line that says so."""
    YOLO(source, verbose=False).save(tmp_path / "source.pt")
    logging.getLogger("yolov12_plugin").addHandler(caplog.handler)
    model = YOLO(target, verbose=False)
    with caplog.at_level(logging.INFO):
        model.load(tmp_path / "source.pt")
    logging.getLogger("yolov12_plugin").removeHandler(caplog.handler)
    (line,) = {r.getMessage() for r in caplog.records if "Transferred" in r.getMessage()}
    return model.model, line


@new
@pytest.mark.parametrize("kind, source", [("e2e", "yolov12n.yaml"), ("seg-e2e", "yolov12n-seg.yaml")])
def test_weights_of_the_nms_form(kind, source, tmp_path, caplog):
    """Backbone, neck and classes come over; boxes, which were distributions, and the second head do not, and it says so."""
    net, line = load(f"yolov12n-{kind}.yaml", source, tmp_path, caplog)
    taken = YOLO(tmp_path / "source.pt").model.state_dict()
    boxes = ("model.21.cv2.", "model.21.one2one_")
    for key, value in net.state_dict().items():
        assert key.startswith(boxes) or value.equal(taken[key].float()), key
    assert "one2one_cv2" in line and "not in the checkpoint" in line
    assert ("model.21.cv2" in line and "of another shape" in line) or "in the checkpoint and" in line
    assert "model.21.dfl" in line and "without a place in the model" in line


@pytest.mark.parametrize("kind, shared", [("p2", 15), ("p6", 7)])
def test_weights_of_other_levels(kind, shared, tmp_path, caplog):
    """All up to where the levels part; the line names what is left."""
    net, line = load(f"yolov12n-{kind}.yaml", "yolov12n.yaml", tmp_path, caplog)
    taken = YOLO(tmp_path / "source.pt").model.state_dict()
    first = {key: value for key, value in net.state_dict().items() if int(key.split(".")[1]) < shared}
    assert first and all(value.equal(taken[key].float()) for key, value in first.items())
    assert "Not taken over:" in line


@pytest.mark.parametrize("kind", KINDS)
def test_doctor_reads_their_checkpoints(kind, tmp_path):
    YOLO(f"yolov12n-{kind}.yaml", verbose=False).save(tmp_path / "best.pt")
    done = yolov12("doctor", tmp_path / "best.pt", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scale"] == "n"


def test_an_ultralytics_without_end2end_refuses(monkeypatch):
    """It would build a model that needs suppression, and say nothing; other YAMLs and stock's are none of its business."""
    monkeypatch.setattr(modules, "Detect", type("Detect", (), {"__init__": lambda self, nc=80, ch=(): None}))
    with pytest.raises(
        NotRunnable, match=r"^yolov12n-e2e.yaml says end2end: True, which needs Ultralytics 8.4 or newer:.*$"
    ):
        YOLO("yolov12n-e2e.yaml", verbose=False)
    YOLO("yolov12n.yaml", verbose=False)
    parse_model(yaml_model_load("yolo11n.yaml") | {"end2end": True}, ch=3, verbose=False)


@pytest.mark.train
@pytest.mark.export
@pytest.mark.parametrize("kind", KINDS)
def test_trains_predicts_and_exports(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "shapes-seg.yaml" if "seg" in kind else "shapes.yaml"
    how = dict(imgsz=128, device="cpu", project=str(tmp_path), verbose=False)
    selects = dict(nms=False) if "e2e" in kind else {}
    model = YOLO(f"yolov12n-{kind}.yaml")
    model.train(data=name, epochs=1, batch=16, fraction=0.5, workers=0, plots=False, **how)
    best = YOLO(model.trainer.best)
    assert all(
        np.isfinite(value)
        for value in best.val(data=name, workers=0, plots=False, **how, **selects).results_dict.values()
    )
    assert len(best.predict(np.zeros((160, 160, 3), np.uint8), conf=0.0, **how, **selects)[0].boxes) > 0
    file = best.export(format="onnx", imgsz=128, device="cpu", **selects)
    session = pytest.importorskip("onnxruntime").InferenceSession(file)
    shape = session.get_outputs()[0].shape
    anchors = sum((128 // int(stride)) ** 2 for stride in best.model.stride)
    expected = {"e2e": [1, 300, 6], "seg-e2e": [1, 300, 38]}.get(kind, [1, 8, anchors])
    assert shape == expected
    verdict = y12.verify_export(best, file)
    assert verdict.passed, verdict
