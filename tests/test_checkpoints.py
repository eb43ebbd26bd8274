"""Checkpoints written with the plugin are plain Ultralytics checkpoints."""

import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from conftest import SHARED
from ultralytics import YOLO

GOLDEN = sorted((SHARED / "golden").glob("*.pt"))

PREDICT = """
import sys, torch
from ultralytics import YOLO
model = YOLO(sys.argv[1]).model.eval()
image = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    out = model(image)
out = out[0] if isinstance(out, (list, tuple)) else out
torch.save(out, sys.argv[2])
print(type(model.model[6]).forward.__module__)
"""


def with_and_without(run, tmp_path, checkpoint, **env):
    """Outputs of a checkpoint in a process with the plugin and in one without."""
    outputs = []
    for switch, module in ("on", "yolov12_plugin.nn.modules"), ("off", "ultralytics.nn.modules.block"):
        out = run([sys.executable, "-c", PREDICT, checkpoint, tmp_path / switch], YOLO12_PLUGIN=switch, **env)
        assert out.stdout.splitlines()[-1] == module
        outputs.append(torch.load(tmp_path / switch))
    return outputs


def calibrated(name):
    """A model whose normalisation statistics are those of random images, so that attention matters in its output."""
    torch.manual_seed(0)
    yolo = YOLO(name)
    with torch.no_grad():
        for p in yolo.model.model[:9].parameters():
            p.mul_(1 + torch.rand_like(p))
        yolo.model.train()
        for _ in range(30):
            yolo.model(torch.rand(2, 3, 96, 64))
    yolo.model.eval()
    return yolo


@pytest.mark.parametrize("name", ["yolov12n.yaml", "yolov12l.yaml", "yolov12n-pose.yaml", "yolov12n-obb.yaml"])
@pytest.mark.parametrize("safe", ["0", "1"])
def test_runs_on_stock_with_the_plugin_absent(run, tmp_path, name, safe):
    yolo = calibrated(name)
    yolo.save(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        data = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    assert b"yolov12_plugin" not in data

    ours, stock = with_and_without(run, tmp_path, tmp_path / "model.pt", ULTRALYTICS_SAFE_LOAD=safe)
    assert stock.std() > 0
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["yolov12n.yaml", "yolov12l.yaml"])
@pytest.mark.parametrize("safe", ["0", "1"])
def test_fused_models_run_on_stock(run, tmp_path, name, safe):
    """Ultralytics may fuse a model in place when it predicts; what is saved then is in the official layout all the same."""
    yolo = calibrated(name)
    yolo.model.fuse(verbose=False)
    yolo.save(tmp_path / "model.pt")
    outputs = with_and_without(run, tmp_path, tmp_path / "model.pt", ULTRALYTICS_SAFE_LOAD=safe)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_stock_checkpoints_load(run, tmp_path):
    """And the other way round: what stock wrote is read into the plugin's classes, with the same outputs."""
    code = "from ultralytics import YOLO; YOLO('yolo12n.yaml').save('stock.pt')"
    run(code, YOLO12_PLUGIN="off")
    outputs = with_and_without(run, tmp_path, "stock.pt")
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_pickling_while_unregistered_says_so(stock):
    import yolov12_plugin as y12

    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(y12.AAttn(32, 1))


@pytest.mark.skipif(not GOLDEN, reason="the authors' reference outputs are not beside the checkout")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("fuse", [False, True])
def test_outputs_of_the_authors_code(path, fuse):
    stored = np.load(path.with_suffix(".npz"))
    model = YOLO(path).model.eval()
    if fuse:
        model.fuse(verbose=False)
    with torch.no_grad():
        out = model(torch.from_numpy(stored["image"]).float() / 255)
    while isinstance(out, (list, tuple)):
        out = out[0]
    difference = (out - torch.from_numpy(stored["output0"])).abs()
    if difference.ndim == 3:  # (B, 4 + classes (+ mask coefficients), anchors)
        assert difference[:, :4].max() <= 1e-3
        difference = difference[:, 4:]
    assert difference.max() <= 1e-5
