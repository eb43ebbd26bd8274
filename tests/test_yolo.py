"""The stock command, from an empty folder, with no word of the plugin."""

import csv
import sys
from pathlib import Path

import pytest
from conftest import SHARED, needs

YOLO = Path(sys.executable).with_name("yolo")
COCO_TINY = SHARED / "data/coco-tiny/coco-tiny.yaml"


@pytest.mark.train
@pytest.mark.export
@pytest.mark.process
def test_four_verbs(run, tmp_path):
    quick = ["imgsz=64", "workers=0", "device=cpu", f"project={tmp_path}"]
    run([YOLO, "train", "model=yolov12n.yaml", "data=shapes.yaml", "epochs=1", "plots=False", "name=train", *quick])
    best = tmp_path / "train/weights/best.pt"
    assert b"yolov12_plugin" not in best.read_bytes()
    run([YOLO, "val", f"model={best}", "data=shapes.yaml", "name=val", "plots=False", *quick])
    from ultralytics.utils import ASSETS

    run([YOLO, "predict", f"model={best}", f"source={ASSETS / 'bus.jpg'}", "name=predict", "conf=0.01", *quick])
    assert (tmp_path / "predict/bus.jpg").is_file()
    pytest.importorskip("onnx")
    run([YOLO, "export", f"model={best}", "format=onnx", "imgsz=64", "simplify=False"])
    exported = best.with_suffix(".onnx")
    assert exported.is_file()
    out = run([sys.executable, "-c", SAME_AS_EXPORT, best, exported])
    assert float(out.stdout.splitlines()[-1]) < 1e-3
    # The checkpoint goes on without the plugin.
    stock = run([YOLO, "predict", f"model={best}", f"source={ASSETS / 'bus.jpg'}", "name=stock", *quick],
                YOLO12_PLUGIN="off", ULTRALYTICS_SAFE_LOAD="1")  # fmt: skip
    assert "YOLOv12n" in stock.stdout


SAME_AS_EXPORT = """
import sys, numpy, onnxruntime, torch
from ultralytics import YOLO
image = torch.rand(1, 3, 64, 64)
model = YOLO(sys.argv[1]).model.eval()
with torch.no_grad():
    eager = model(image)[0].numpy()
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
print(numpy.abs(eager - session.run(None, {"images": image.numpy()})[0]).max())
"""


@pytest.mark.train
@pytest.mark.process
@needs("data/coco-tiny")
def test_a_few_epochs_of_coco(fork, tmp_path):
    """The loss falls on real images."""
    import shutil

    shutil.copytree(COCO_TINY.parent, tmp_path / "coco-tiny")  # Ultralytics writes label caches beside the images
    data = tmp_path / "coco-tiny/coco-tiny.yaml"
    fork([YOLO, "train", "model=yolov12n.yaml", f"data={data}", "epochs=3", "imgsz=64", "batch=16", "workers=0", "device=cpu",
         "plots=False", "val=False", "optimizer=AdamW", "lr0=0.002", "warmup_epochs=0", "mosaic=0", f"project={tmp_path}",
         "name=coco"])  # fmt: skip
    with open(tmp_path / "coco/results.csv") as file:
        rows = [{key.strip(): float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    losses = [row["train/cls_loss"] for row in rows]
    assert len(losses) == 3 and losses[2] < losses[0]


@pytest.mark.train
@pytest.mark.process
@pytest.mark.parametrize("task", ["-turbo", "-seg", "-pose", "-obb"])
def test_other_tasks_train_a_step(fork, task):
    """Forward, loss and backward of every head in training mode."""
    fork(
        "import torch\n"
        "from ultralytics import YOLO\n"
        "from ultralytics.cfg import get_cfg\n"
        f"net = YOLO('yolov12n{task}.yaml', verbose=False).model.train()\n"
        "net.args = get_cfg()\n"
        "n, out = 4, net(torch.rand(2, 3, 64, 64))\n"
        "box = torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(n, 1)\n"
        "batch = dict(img=torch.rand(2, 3, 64, 64), batch_idx=torch.tensor([0., 0, 1, 1]), cls=torch.zeros(n, 1),\n"
        "             bboxes=torch.cat([box, torch.full((n, 1), 0.1)], 1) if net.task == 'obb' else box,\n"
        "             masks=torch.ones(2, 16, 16), keypoints=torch.rand(n, 17, 3))\n"
        "loss, _ = net.loss(batch)\n"
        "loss.sum().backward()\n"
        "assert torch.isfinite(loss).all()\n"
        "assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)"
    )
