"""Trainings with the presets: they fall, at every scale, in float32 and bfloat16; and what bad data does to them."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import yolov12_plugin as y12

YOLO = Path(sys.executable).with_name("yolo")


def results(folder):
    with open(folder / "results.csv") as file:
        return [{key.strip(): float(value) for key, value in row.items()} for row in csv.DictReader(file)]


# Ultralytics itself computes in bfloat16 on GPUs alone.
BFLOAT16 = (
    "import sys, torch, ultralytics.engine.trainer as t\n"
    "t.autocast = lambda *args, **kwargs: torch.autocast('cpu', torch.bfloat16)\n"
    "from ultralytics.cfg import entrypoint; entrypoint()"
)


@pytest.mark.train
@pytest.mark.process
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_n_by_the_stock_command(fork, tmp_path, dtype):
    """A short run with all of the preset but its length and sizes: a step after every batch makes it short."""
    yolo = [YOLO] if dtype == "float32" else [sys.executable, "-c", BFLOAT16]
    fork([*yolo, "train", "cfg=yolov12n-coco.yaml", "model=yolov12n.yaml", "data=shapes.yaml", "epochs=6", "batch=8", "nbs=8",
         "imgsz=128", "close_mosaic=1", "warmup_epochs=2", "device=cpu", "workers=0", "plots=False", "val=False",
         f"project={tmp_path}", "name=run"])  # fmt: skip
    rows = results(tmp_path / "run")
    losses = np.array([[row[f"train/{name}_loss"] for name in ("box", "cls", "dfl")] for row in rows])
    assert losses.shape == (6, 3) and np.isfinite(losses).all()
    assert losses[-1].sum() < 0.97 * losses[0].sum()


@pytest.mark.train
@pytest.mark.process
@pytest.mark.parametrize(
    "scale, dtypes", [*((scale, ["float32", "bfloat16"]) for scale in "sm"), ("l", ["float32"]), ("x", ["bfloat16"])]
)
def test_every_scale_falls(fork, tmp_path, scale, dtypes):
    """The first steps on one batch; L and X beside themselves without R-ELAN's residual (Table 2)."""
    script = ROOT / "benchmarks/stability.py"
    command = [sys.executable, script, "--scales", scale, "--dtypes", *dtypes, "--images", "2", "--steps", "12"]
    fork([*command, "--out", "out.json"])
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    with_it = {row["dtype"]: row for row in rows if row["residual"] == "default"}
    assert set(with_it) == set(dtypes)
    for row in with_it.values():
        assert np.isfinite(row["loss"]).all() and np.isfinite(row["gradient_norm"]).all()
        assert min(row["loss"][-4:]) < 0.97 * row["loss"][0]
    without = {row["dtype"]: row for row in rows if row["residual"] == "none"}
    assert set(without) == (set(dtypes) if scale in "lx" else set())
    for dtype, row in without.items():
        assert row["gradient_norm"][0] > 2 * with_it[dtype]["gradient_norm"][0]


@pytest.mark.train
@pytest.mark.process
def test_images_and_labels_that_are_bad(fork, tmp_path):
    """Ultralytics names what it leaves out of a training, and trains on the rest."""
    from ultralytics.data.utils import check_det_dataset

    data = tmp_path / "data"
    shutil.copytree(check_det_dataset("shapes.yaml")["path"], data, ignore=shutil.ignore_patterns("*.cache"))
    (data / "images/train/000.png").write_bytes(b"")
    (data / "labels/train/001.txt").write_text("9 0.5 0.5 0.2 0.2\n")
    (data / "labels/train/002.txt").write_text("0 1.5 0.5 0.2 0.2\n")
    names = {0: "circle", 1: "square", 2: "triangle", 3: "cross"}
    (data / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    done = fork([YOLO, "train", "cfg=yolov12n-finetune.yaml", f"data={data / 'data.yaml'}", "epochs=1", "imgsz=32", "device=cpu",
                "workers=0", "plots=False", f"project={tmp_path}", "name=run"])  # fmt: skip
    text = done.stdout + done.stderr
    assert all(f"{name}: ignoring corrupt image/label" in text for name in ("000.png", "001.png", "002.png"))
    assert "exceeds dataset class count 4" in text and (tmp_path / "run/weights/best.pt").is_file()


@pytest.mark.train
@pytest.mark.process
def test_plots_of_a_run(fork, tmp_path):
    """Ultralytics' own pictures of a training with a preset are there and can be opened."""
    import cv2

    fork([YOLO, "train", "cfg=yolov12n-finetune.yaml", "data=shapes.yaml", "epochs=1", "imgsz=64", "batch=8", "device=cpu",
         "workers=0", f"project={tmp_path}", "name=run"])  # fmt: skip
    for name in ("results.png", "labels.jpg", "train_batch0.jpg", "val_batch0_pred.jpg", "confusion_matrix.png"):
        assert cv2.imread(str(tmp_path / "run" / name)) is not None, name
    args = (tmp_path / "run/args.yaml").read_text()
    assert "yolov12n-residual.yaml" in args and f"lr0: {y12.preset('n', 'finetune')['lr0']}" in args
