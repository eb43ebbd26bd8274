"""Checkpoints in and out: the authors' and stock's are used whole, ours are plain ones of Ultralytics."""

import json
import math
import os
import pickle
import shutil
import sys
import zipfile

import cv2
import numpy as np
import pytest
import torch
from conftest import SHARED, needs, yolov12
from ultralytics import YOLO
from ultralytics.data.augment import classify_transforms

import yolov12_plugin as y12
from yolov12_plugin.checkpoints import convert as checkpoints
from yolov12_plugin.checkpoints.complete import OLD_GROUPS
from yolov12_plugin.checkpoints.convert import convert
from yolov12_plugin.checkpoints.inspect import inspect
from yolov12_plugin.checkpoints.layouts import describe_in_yaml
from yolov12_plugin.checkpoints.safe_load import read
from yolov12_plugin.errors import CheckpointError
from yolov12_plugin.names import CFG

RELEASES = (
    "cls-n",
    "seg-l-quarter",
    "seg-n",
    "turbo-n",
    "turbo-x-quarter",
    "v1.0-l-quarter",
    "v1.0-n",
    "v1.0-pe-bias-n",
)
GOLDEN = [SHARED / f"golden/{name}.pt" for name in RELEASES]  # with the outputs of the authors' code beside them

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


def with_and_without(fork, tmp_path, checkpoint, **env):
    """Outputs of a checkpoint in a process with the plugin and in one without."""
    outputs = []
    for switch, module in ("on", "yolov12_plugin.nn.modules"), ("off", "ultralytics.nn.modules.block"):
        out = fork([sys.executable, "-c", PREDICT, checkpoint, tmp_path / switch], YOLO12_PLUGIN=switch, **env)
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
def test_runs_on_stock_with_the_plugin_absent(fork, tmp_path, name, safe):
    yolo = calibrated(name)
    yolo.save(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        data = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    assert b"yolov12_plugin" not in data

    ours, stock = with_and_without(fork, tmp_path, tmp_path / "model.pt", ULTRALYTICS_SAFE_LOAD=safe)
    assert stock.std() > 0
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["yolov12n.yaml", "yolov12l.yaml"])
@pytest.mark.parametrize("safe", ["0", "1"])
def test_fused_models_run_on_stock(fork, tmp_path, name, safe):
    """Ultralytics may fuse a model in place when it predicts; what is saved then is in the official layout all the same."""
    yolo = calibrated(name)
    yolo.model.fuse(verbose=False)
    yolo.save(tmp_path / "model.pt")
    outputs = with_and_without(fork, tmp_path, tmp_path / "model.pt", ULTRALYTICS_SAFE_LOAD=safe)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_stock_checkpoints_load(fork, tmp_path):
    """And the other way round: what stock wrote is read into the plugin's classes, with the same outputs."""
    code = "from ultralytics import YOLO; YOLO('yolo12n.yaml').save('stock.pt')"
    fork(code, YOLO12_PLUGIN="off")
    outputs = with_and_without(fork, tmp_path, "stock.pt")
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_pickling_while_unregistered_says_so(stock):
    import yolov12_plugin as y12

    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(y12.AAttn(32, 1))


@needs("golden")
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


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The golden checkpoints in stock's layout, with what `convert` says of each."""
    folder = tmp_path_factory.mktemp("converted")
    return folder, {path.stem: convert(path, folder / path.name, to="stock") for path in GOLDEN}


GOLDEN_ON_STOCK = """
import json, sys
from pathlib import Path
import numpy as np, torch
from ultralytics import YOLO
from ultralytics.nn import tasks
assert tasks.A2C2f.__module__ == "ultralytics.nn.modules.block" and not hasattr(tasks.parse_model, "__wrapped__")
torch.set_num_threads(1)
differences = {}
for path in map(Path, sys.argv[2:]):
    stored = np.load(path.with_suffix(".npz"))
    model = YOLO(Path(sys.argv[1]) / path.name).model.eval()
    for fused in False, True:
        if fused:
            model.fuse(verbose=False)
        with torch.no_grad():
            out = model(torch.from_numpy(stored["image"]).float() / 255)
        while isinstance(out, (list, tuple)):
            out = out[0]
        off = (out - torch.from_numpy(stored["output0"])).abs()
        boxes, scores = (off[:, :4], off[:, 4:]) if off.ndim == 3 else (torch.zeros(1), off)
        differences[f"{path.stem} {fused}"] = boxes.max().item(), scores.max().item()
print(json.dumps(differences))
"""


@needs("golden")
def test_converted_runs_on_stock(fork, converted):
    folder, _ = converted
    out = fork([sys.executable, "-c", GOLDEN_ON_STOCK, folder, *GOLDEN], YOLO12_PLUGIN="off")
    differences = json.loads(out.stdout.splitlines()[-1])
    assert len(differences) == 2 * len(GOLDEN)
    for key, (boxes, scores) in differences.items():
        assert boxes <= 1e-3 and scores <= 1e-5, key  # boxes in pixels, of some 100


@needs("golden")
def test_what_convert_says(converted):
    _, said = converted
    for name, done in said.items():
        v1 = name.startswith("v1.0")
        assert done["stock"] == {"predicts": True, "trains": True, "why": []}
        assert done["difference"] <= 1e-4
        assert ("qk and v to qkv" in done["changes"]) != v1
        assert ("pe bias to running mean" in done["changes"]) == ("bias" in name)
        assert bool(done["note"]) == (name in ("cls-n", "seg-n", "seg-l-quarter", "turbo-x-quarter"))
    assert said["v1.0-n"]["changes"] == said["v1.0-l-quarter"]["changes"] == []
    assert "sets residual otherwise" in said["seg-n"]["note"] and "mlp_ratio" in said["seg-l-quarter"]["note"]


DESCRIBED = {  # release, task, scale, width, nc, parameters, residual, MLP ratio, areas, stock predicts, stock trains
    "cls-n": ("cls", "classify", "n", 0.25, 10, 1_683_306, True, 2.0, [1, 1], False, False),
    "seg-l-quarter": ("seg", "segment", "l", 0.25, 80, 2_130_944, True, 1.0, [4, 1], False, False),
    "seg-n": ("seg", "segment", "n", 0.25, 80, 2_807_056, True, 2.0, [4, 1], False, False),
    "turbo-n": ("turbo", "detect", "n", 0.25, 80, 2_553_904, False, 2.0, [4, 1], False, False),
    "turbo-x-quarter": ("turbo", "detect", "x", 0.25, 80, 1_981_600, True, 1.5, [4, 1], False, False),
    "v1.0-l-quarter": ("v1.0", "detect", "l", 0.25, 80, 1_994_528, True, 1.2, [4, 1], True, True),
    "v1.0-n": ("v1.0", "detect", "n", 0.25, 80, 2_602_288, False, 2.0, [4, 1], True, True),
    "v1.0-pe-bias-n": ("v1.0", "detect", "n", 0.25, 80, 2_603_056, False, 2.0, [4, 1], True, False),
}


@pytest.mark.slow
@needs("golden")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_doctor_says(path, monkeypatch):
    done = yolov12("doctor", path, "--json")
    found = json.loads(done.stdout)
    keys = ("release", "task", "scale", "width", "nc", "parameters")
    options = [found["layout"][key] for key in ("residual", "mlp_ratio", "areas")]
    assert (
        *(found[key] for key in keys),
        *options,
        found["stock"]["predicts"],
        found["stock"]["trains"],
    ) == DESCRIBED[path.stem]
    assert found["layout"]["projections"] == ("qkv" if path.stem.startswith("v1.0") else "qk, v")
    monkeypatch.setenv("COLUMNS", "200")
    table = yolov12("doctor", path).stdout
    assert f"{found['parameters']:,}" in table
    if not found["stock"]["predicts"]:
        assert "'AAttn' object has no attribute 'qkv'" in table and "--to stock" in table


def test_the_scale_is_read_from_the_tensors(tmp_path):
    model = YOLO("yolov12n.yaml")
    model.model.yaml |= {"scale": "x", "scales": {"x": model.model.yaml["scales"]["n"]}, "yaml_file": "yolov12x.yaml"}
    model.save(tmp_path / "yolov12x.pt")
    assert inspect(tmp_path / "yolov12x.pt")["scale"] == "n"


def state(ckpt):
    return {
        f"{key}.{name}": t
        for key in ("ema", "model")
        if ckpt.get(key) is not None
        for name, t in ckpt[key].state_dict().items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) and t.dtype == b[k].dtype for k, t in a.items())


@pytest.mark.slow
@needs("golden")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_round_trip_is_exact_and_metadata_survive(path, tmp_path):
    for to, source, target in ("stock", path, "a.pt"), ("plugin", "a.pt", "b.pt"), ("stock", "b.pt", "c.pt"):
        convert(tmp_path / source, tmp_path / target, to=to)
    original, stock, again = read(path), read(tmp_path / "a.pt"), read(tmp_path / "c.pt")
    assert same(state(stock), state(again)) and stock["model"].yaml == again["model"].yaml
    assert {k: v for k, v in original.items() if k != "model"} == {k: v for k, v in again.items() if k != "model"}
    for key in ("names", "nc", "task", "stride", "args", "save"):
        assert str(getattr(again["model"], key)) == str(getattr(original["model"], key)), key
    assert again["model"].yaml["nc"] == original["model"].yaml["nc"]
    assert again["model"].model[6].m[0][0].attn.qkv.conv.weight.dtype == torch.float16
    describe_in_yaml(original["model"])
    convert(path, tmp_path / "d.pt", to="plugin")
    plugin = read(tmp_path / "d.pt")
    assert same(state(original), state(plugin)) and plugin["model"].yaml == original["model"].yaml


def test_stock_s_own_checkpoint_is_changed_by_nothing(fork, tmp_path):
    fork("from ultralytics import YOLO; YOLO('yolo12n.yaml').save('source.pt')", YOLO12_PLUGIN="off")
    for to in "plugin", "stock":
        assert convert(tmp_path / "source.pt", tmp_path / f"{to}.pt", to=to)["changes"] == []
        a, b = read(tmp_path / "source.pt"), read(tmp_path / f"{to}.pt")
        assert same(state(a), state(b)) and a["model"].yaml == b["model"].yaml


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two tiny datasets with the classes of the golden checkpoints: outlines for detection and segmentation, folders."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in "train", "val":
        for i in range(10):
            image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            image[16:48, 16:48] = 255
            for path in (folder / f"images/{split}/{i}.png", folder / f"classes/{split}/c{i}/{i}.png"):
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), image)
            label = folder / f"labels/{split}/{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{i} 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    names = "".join(f"  {i}: c{i}\n" for i in range(80))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return folder


# Trains each checkpoint; prints how many of its tensors the trainer started with, and how the loss was.
TRAIN = """
import json, sys
import torch
from ultralytics import YOLO
torch.set_num_threads(1)
lost = {}
for path in sys.argv[3:]:
    yolo = YOLO(path)
    before = {name: t.clone() for name, t in yolo.model.state_dict().items()}
    def compare(trainer):
        now = trainer.model.state_dict()
        lost[path] = sorted({**before, **now}.keys() - {
            name for name in before.keys() & now.keys() if torch.equal(before[name].float(), now[name].float())})
    yolo.add_callback("on_pretrain_routine_end", compare)
    data = f"{sys.argv[1]}/classes" if yolo.task == "classify" else f"{sys.argv[1]}/data.yaml"
    name = path.replace("/", "-")
    yolo.train(data=data, epochs=1, name=name, imgsz=64, batch=4, workers=0, device="cpu", plots=False, project=sys.argv[2],
               optimizer="SGD")
    assert all(torch.isfinite(p).all() for p in yolo.trainer.ema.ema.parameters())
print(json.dumps(lost))
"""


@pytest.mark.train
@pytest.mark.process
@needs("golden")
@pytest.mark.parametrize("where", ["plugin", "stock"])
def test_fine_tuning_starts_with_every_tensor(fork, tmp_path, data, converted, where):
    """From the authors' files here, from the converted ones on stock."""
    paths = GOLDEN if where == "plugin" else [converted[0] / path.name for path in GOLDEN]
    command = [sys.executable, "-c", TRAIN, data, tmp_path, *paths]
    out = fork(command, YOLO12_PLUGIN={"plugin": "on", "stock": "off"}[where])
    assert json.loads(out.stdout.splitlines()[-1]) == {str(path): [] for path in paths}


@pytest.mark.export
@pytest.mark.process
@needs("golden")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_validates_and_exports(path, tmp_path, data, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    shutil.copy(path, tmp_path / "model.pt")
    stored = np.load(path.with_suffix(".npz"))
    size = stored["image"].shape[-1]
    model = YOLO("model.pt")
    val = data / "classes" if model.task == "classify" else data / "data.yaml"
    metrics = model.val(data=str(val), imgsz=64, device="cpu", workers=0, plots=False, project=str(tmp_path))
    assert metrics.results_dict
    if model.task == "classify":  # as a training stores them; Ultralytics 8.3 needs them
        model.model.transforms = classify_transforms(64)
    assert len(model.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, device="cpu")) == 1
    exported = YOLO("model.pt").export(format="onnx", imgsz=size, batch=len(stored["image"]), simplify=False)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    out = session.run(None, {"images": stored["image"].astype(np.float32) / 255})[0]
    assert np.abs(out - stored["output0"]).max() <= 1e-3


INTERRUPTED = """
import os, sys
from ultralytics import YOLO
yolo = YOLO(sys.argv[1])
def stop(trainer):
    if trainer.epoch == 0:
        os._exit(7)
yolo.add_callback("on_model_save", stop)
yolo.train(data=sys.argv[2], epochs=2, imgsz=64, batch=4, workers=0, device="cpu", plots=False, project=sys.argv[3],
           name="run", optimizer=sys.argv[4])
"""

RESUME = """
import sys, torch
from ultralytics import YOLO
yolo = YOLO(sys.argv[1])
def save(trainer):
    state = trainer.optimizer.state
    named = dict(trainer.model.named_parameters())
    torch.save({"optimizer": type(trainer.optimizer).__name__, "epoch": trainer.start_epoch,
                "first": {name: state[p][sys.argv[2]] for name, p in named.items() if p in state},
                "decay": {name: group["weight_decay"] for name, p in named.items()
                          for group in trainer.optimizer.param_groups if any(p is q for q in group["params"])}},
               "resumed.pt")
yolo.add_callback("on_pretrain_routine_end", save)
yolo.train(resume=True)
assert yolo.trainer.epoch == 1
"""


def parameters_by_group(model):
    """As Ultralytics' trainers part them."""
    groups = {"weight": [], "bn": [], "bias": []}
    for prefix, m in model.named_modules():
        for name, _ in m.named_parameters(recurse=False):
            full = f"{prefix}.{name}"
            groups["bias" if "bias" in full else "bn" if isinstance(m, torch.nn.BatchNorm2d) else "weight"].append(full)
    return groups


@pytest.mark.train
@pytest.mark.process
@needs("golden")
@pytest.mark.parametrize(
    ("source", "optimizer", "order"),
    [
        ("turbo-x-quarter", "SGD", None),
        ("v1.0-pe-bias-n", "AdamW", ["bias", "weight", "bn"]),
        ("turbo-n", "SGD", ["weight", "bn", "bias"]),
        ("yolo12n.yaml", "SGD", None),
    ],
)
def test_an_interrupted_training_resumes(fork, tmp_path, data, source, optimizer, order):
    """Also one whose optimizer's groups are in the order of another Ultralytics, as those of the authors' trainings."""
    stock = source == "yolo12n.yaml"
    start = source if stock else SHARED / f"golden/{source}.pt"
    command = [sys.executable, "-c", INTERRUPTED, start, data / "data.yaml", tmp_path, optimizer]
    assert fork(command, check=False, YOLO12_PLUGIN="off" if stock else "on").returncode == 7
    last = tmp_path / "run/weights/last.pt"
    ckpt = torch.load(last, weights_only=False)
    key = "exp_avg" if optimizer == "AdamW" else "momentum_buffer"
    groups, names = ckpt["optimizer"]["param_groups"], parameters_by_group(ckpt["ema"])
    now = [group.get("param_group", old) for group, old in zip(groups, OLD_GROUPS)]
    order = order or now
    ckpt["optimizer"]["param_groups"] = [groups[now.index(name)] for name in order]
    for name, group in zip(order, ckpt["optimizer"]["param_groups"]):
        group["param_group"] = name
        if order == OLD_GROUPS:
            del group["param_group"]
            ckpt["train_args"]["optimizer"] = "auto"
    saved = {
        name: ckpt["optimizer"]["state"][i][key].float()
        for role, group in zip(order, ckpt["optimizer"]["param_groups"])
        for i, name in zip(group["params"], names[role])
        if i in ckpt["optimizer"]["state"]
    }
    torch.save(ckpt, last)
    fork([sys.executable, "-c", RESUME, last, key])
    resumed = torch.load(tmp_path / "resumed.pt")
    assert (resumed["optimizer"], resumed["epoch"]) == (optimizer, 1)
    assert len(saved) > 200 and same(saved, resumed["first"])
    assert all((decay > 0) == (name in names["weight"]) for name, decay in resumed["decay"].items())


@needs("golden")
def test_an_optimizer_ends_with_its_layout(fork, tmp_path, data):
    """A conversion that changes no tensor keeps it."""
    yolo = YOLO(SHARED / "golden/turbo-n.pt")
    ckpt = {**read(SHARED / "golden/turbo-n.pt"), "ema": None, "epoch": 3, "updates": 7}
    ckpt["optimizer"] = torch.optim.SGD(yolo.model.parameters(), 0.1).state_dict()
    torch.save(ckpt, tmp_path / "last.pt")
    kept = convert(tmp_path / "last.pt", tmp_path / "plugin.pt", to="plugin")
    assert kept["resumable"] and read(tmp_path / "plugin.pt")["epoch"] == 3
    ended = convert(tmp_path / "last.pt", tmp_path / "stock.pt", to="stock")
    assert not ended["resumable"] and "without the optimizer" in ended["changes"]
    stock = read(tmp_path / "stock.pt")
    assert (stock["epoch"], stock["optimizer"], stock["updates"]) == (-1, None, None)


def with_attention_in_the_head(scale, path):
    """A checkpoint whose first row of the head attends; its channels in and out differ."""
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    d = yaml_model_load(f"yolov12{scale}.yaml")
    d["scales"][scale][1] = 0.25  # as narrow as N
    d["head"][2] = [-1, 2, "A2C2f", [512, True, 4]]
    yolo = YOLO("yolov12n.yaml")
    torch.manual_seed(0)
    yolo.model = DetectionModel(d, verbose=False)
    yolo.model.args, yolo.model.task = {"task": "detect"}, "detect"
    yolo.save(path)


@pytest.mark.slow
@pytest.mark.parametrize("scale", "nlx")
def test_a_row_without_the_residual_of_its_scale(tmp_path, scale):
    """At L and X stock's parser would append one, to a row that cannot have it; the files say how it is."""
    with_attention_in_the_head(scale, tmp_path / "model.pt")
    found = json.loads(yolov12("doctor", tmp_path / "model.pt", "--json").stdout)
    large = scale in "lx"
    assert (found["scale"], found["layout"]["residual"], found["stock"]["trains"]) == (scale, large, not large)
    assert found["stock"]["predicts"] and found["stock"]["why"] == large * ["it builds residual True, not False"]
    again = YOLO(tmp_path / "model.pt").model
    assert "a2c2f" not in again.yaml and again.model[11].gamma is None
    rebuilt = type(again)(again.yaml, nc=80, verbose=False)  # as a trainer does
    rebuilt.load(again)
    assert same(dict(rebuilt.state_dict()), dict(again.state_dict()))

    kept = convert(tmp_path / "model.pt", tmp_path / "plugin.pt", to="plugin")
    stock = convert(tmp_path / "model.pt", tmp_path / "stock.pt", to="stock")
    assert kept["changes"] == [] and stock["stock"]["trains"] and bool(stock["note"]) == large
    back = YOLO(tmp_path / "stock.pt").model
    rebuilt = type(back)(back.yaml, nc=80, verbose=False)
    assert [rebuilt.model[i].gamma is None for i in (6, 8, 11)] == [not large, not large, True]


@pytest.mark.train
@pytest.mark.process
@pytest.mark.parametrize("where", ["plugin", "stock"])
def test_a_row_without_the_residual_of_its_scale_trains_and_resumes(fork, tmp_path, data, where):
    with_attention_in_the_head("l", tmp_path / "model.pt")
    path = tmp_path / "model.pt"
    if where == "stock":
        path = tmp_path / "stock.pt"
        convert(tmp_path / "model.pt", path, to="stock")
    env = dict(YOLO12_PLUGIN={"plugin": "on", "stock": "off"}[where])
    out = fork([sys.executable, "-c", TRAIN, data, tmp_path, path], **env)
    assert json.loads(out.stdout.splitlines()[-1]) == {str(path): []}
    command = [sys.executable, "-c", INTERRUPTED, path, data / "data.yaml", tmp_path, "SGD"]
    assert fork(command, check=False, **env).returncode == 7
    fork([sys.executable, "-c", RESUME, tmp_path / "run/weights/last.pt", "momentum_buffer"], **env)


def test_vertical_areas_are_refused(tmp_path):
    path = tmp_path / "vertical.yaml"
    path.write_text(
        (CFG / "models/yolov12.yaml").read_text().replace("backbone:", "a2c2f: {vertical: True}\nbackbone:")
    )
    YOLO(path).save(tmp_path / "vertical.pt")
    with pytest.raises(
        CheckpointError, match=r"has no exact form on stock Ultralytics: model\.6\.m\.0\.0\.attn has ver"
    ):
        convert(tmp_path / "vertical.pt", tmp_path / "stock.pt", to="stock")
    assert not (tmp_path / "stock.pt").exists()
    found = inspect(tmp_path / "vertical.pt")["stock"]
    assert not found["predicts"] and "vertical" in found["why"][0]


def test_a_large_perceiver_predicts_on_stock_and_does_not_train(fork, tmp_path):
    path = tmp_path / "nine.yaml"
    path.write_text((CFG / "models/yolov12.yaml").read_text().replace("backbone:", "a2c2f: {pe_kernel: 9}\nbackbone:"))
    YOLO(path).save(tmp_path / "nine.pt")
    done = convert(tmp_path / "nine.pt", tmp_path / "stock.pt", to="stock")
    assert done["stock"] == {"predicts": True, "trains": False, "why": ["it builds pe_kernel 7, not 9"]}
    torch.testing.assert_close(*with_and_without(fork, tmp_path, tmp_path / "stock.pt"), rtol=1e-4, atol=1e-4)


def test_nothing_is_written_where_an_output_would_differ(tmp_path, monkeypatch):
    def wrong(model):
        model.model[6].cv1.conv.weight.data.zero_()
        return [], []

    monkeypatch.setattr(checkpoints, "to_stock", wrong)
    calibrated("yolov12n.yaml").save(tmp_path / "src.pt")
    with pytest.raises(CheckpointError, match="an output would differ by"):
        convert(tmp_path / "src.pt", tmp_path / "dst.pt", to="stock")
    assert not (tmp_path / "dst.pt").exists()


@pytest.mark.parametrize("was, now", [(math.inf, 1.0), (1.0, math.inf), (math.inf, math.inf), (math.nan, math.nan)])
def test_outputs_that_are_not_finite_are_not_the_same(tmp_path, monkeypatch, was, now):
    given = iter([[torch.tensor([1.0, was])], [torch.tensor([1.0, now])]])
    monkeypatch.setattr(checkpoints, "outputs", lambda model, path: next(given))
    calibrated("yolov12n.yaml").save(tmp_path / "src.pt")
    with pytest.raises(CheckpointError, match="an output would differ by"):
        convert(tmp_path / "src.pt", tmp_path / "dst.pt", to="plugin")
    assert not (tmp_path / "dst.pt").exists()


def test_the_largest_difference_is_of_all_outputs(tmp_path, monkeypatch):
    given = iter([[torch.tensor([1e4]), torch.tensor([1e4])], [torch.tensor([1e4 + 0.5]), torch.tensor([1e4])]])
    monkeypatch.setattr(checkpoints, "outputs", lambda model, path: next(given))
    calibrated("yolov12n.yaml").save(tmp_path / "src.pt")
    assert convert(tmp_path / "src.pt", tmp_path / "dst.pt", to="plugin")["difference"] == 0.5


def test_public_name():
    import yolov12_plugin as y12

    assert y12.convert is convert


ODD = {
    "no yaml": lambda ckpt: delattr(ckpt["model"], "yaml"),
    "yaml is text": lambda ckpt: setattr(ckpt["model"], "yaml", "yolov12n.yaml"),
    "rows that are none": lambda ckpt: ckpt["model"].yaml.update(head=[None, 3, "row"]),
    "groups that are none": lambda ckpt: ckpt.update(optimizer={"state": {}}),
    "a list of groups": lambda ckpt: ckpt.update(optimizer=[1, 2, 3]),
    "groups of numbers": lambda ckpt: ckpt.update(optimizer={"param_groups": [1, 2, 3]}),
    "arguments that are none": lambda ckpt: ckpt.update(optimizer={"param_groups": [{}] * 3}, train_args=[1]),
    "no block": lambda ckpt: ckpt["model"].model[6].m.__delitem__(0),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_stock_loads_is_loaded(odd, tmp_path, stock):
    """Whatever a checkpoint says of itself, completing it is no reason to fail."""
    from ultralytics.nn import tasks

    ckpt = {"model": YOLO("yolo12n.yaml").model, "train_args": {}, "epoch": -1}
    ODD[odd](ckpt)
    torch.save(ckpt, tmp_path / "odd.pt")
    theirs, _ = tasks.torch_safe_load(tmp_path / "odd.pt")
    assert y12.register()
    ours, _ = tasks.torch_safe_load(tmp_path / "odd.pt")
    assert ours.keys() == theirs.keys() and type(ours["model"]).__name__ == type(theirs["model"]).__name__


def test_a_difference_that_is_no_number_is_one(tmp_path, monkeypatch):
    YOLO("yolov12n-turbo.yaml").save(tmp_path / "a.pt")
    real, calls = checkpoints.outputs, []

    def outputs(model, path):
        calls.append(path)
        found = real(model, path)
        return [t * float("nan") for t in found] if len(calls) == 2 else found

    monkeypatch.setattr(checkpoints, "outputs", outputs)
    with pytest.raises(CheckpointError, match="an output would differ by nan"):
        y12.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="stock")
    assert not (tmp_path / "b.pt").exists()


def test_another_checkpoint_is_replaced_by_force_alone(tmp_path):
    YOLO("yolov12n-turbo.yaml").save(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"another")
    done = yolov12("convert", tmp_path / "a.pt", tmp_path / "b.pt", "--to", "stock")
    assert done.exit_code == 2 and "b.pt is there already: give another name, or --force" in done.stderr
    (tmp_path / "link.pt").symlink_to("b.pt")
    with pytest.raises(CheckpointError, match=r"link\.pt is there already"):
        y12.convert(tmp_path / "a.pt", tmp_path / "link.pt", to="stock")
    assert (tmp_path / "b.pt").read_bytes() == b"another"
    assert yolov12("convert", tmp_path / "a.pt", tmp_path / "b.pt", "--to", "stock", "--force").exit_code == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_named_and_not_a_position_in_the_file(tmp_path):
    YOLO("yolov12n-turbo.yaml").save(tmp_path / "a.pt")
    (tmp_path / "b.pt").symlink_to("/dev/full")
    done = yolov12("convert", tmp_path / "a.pt", tmp_path / "b.pt", "--to", "stock", "--force")
    assert done.exit_code == 2 and "b.pt cannot be written (No space left on device)" in done.stderr


@pytest.mark.parametrize("there", [True, False])
def test_what_cannot_be_written_is_said_of_what_is_there(tmp_path, monkeypatch, there):
    def full(*_):
        raise OSError(28, "No space left on device")

    YOLO("yolov12n-turbo.yaml").save(tmp_path / "a.pt")
    if there:
        (tmp_path / "b.pt").write_bytes(b"another")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError) as e:
        y12.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="stock", force=True)
    assert str(e.value).endswith("it is as it was") == there
    monkeypatch.setattr("os.access", lambda place, mode: False)
    with pytest.raises(CheckpointError, match=r"b\.pt cannot be written: its folder is read-only: name another place"):
        y12.convert(tmp_path / "a.pt", tmp_path / "b.pt", to="stock", force=True)
