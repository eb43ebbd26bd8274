"""What the YAML and the arguments within a checkpoint may say: all that models are built from, and nothing that runs."""

import copy
import math
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from conftest import yolov12
from torch import nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import IterableSimpleNamespace

from yolov12_plugin.checkpoints.complete import complete
from yolov12_plugin.checkpoints.convert import convert
from yolov12_plugin.checkpoints.grammar import activation, checked, checked_arguments, layers
from yolov12_plugin.checkpoints.safe_load import read
from yolov12_plugin.errors import CheckpointError, shown
from yolov12_plugin.names import CFG

FOLDERS = (CFG / "models", Path(ultralytics.__file__).parent / "cfg/models")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.pt"
    YOLO("yolov12n.yaml", verbose=False).save(path)
    return path


def small():
    return {
        "nc": 2,
        "scales": {"n": [0.5, 0.25, 1024]},
        "scale": "n",
        "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]]],
        "head": [[[-1, 0], 1, "Concat", [1]], [[1, 2], 1, "Detect", ["nc"]]],
    }


@pytest.mark.parametrize(
    "file", [f for folder in FOLDERS for f in sorted(folder.rglob("*.yaml"))], ids=lambda f: f.name
)
def test_every_yaml_of_the_plugin_and_of_ultralytics_is_kept(file):
    d = yaml.safe_load(file.read_text(encoding="utf-8"))
    if any(row[2] == "TorchVision" for row in d["backbone"]):  # downloads a model when it is built
        with pytest.raises(ValueError, match="would call TorchVision"):
            checked(d)
    else:
        assert checked(d) == (d, [])


def test_the_result_shares_nothing_with_what_was_read():
    d = small()
    new, _ = checked(d)
    for row in (*d["backbone"], *d["head"]):
        row[3].append("torch_safe_load")
    d["scales"]["n"][0] = "evil"
    assert new == small()


@pytest.mark.parametrize(
    "text, rebuilt",
    [
        ("nn.SiLU()", "nn.SiLU()"),
        ("torch.nn.ReLU(inplace=True)", "torch.nn.ReLU(inplace=True)"),
        ("nn.LeakyReLU( 0.10 )", "nn.LeakyReLU(0.1)"),
        ("nn.Hardtanh(-1, max_val=+2.5)", "nn.Hardtanh(-1, max_val=2.5)"),
        ("nn.GELU('tanh')", "nn.GELU('tanh')"),
        ('nn.GELU(approximate="none",)', "nn.GELU(approximate='none')"),
        ("nn.ReLU(\ninplace=False)", "nn.ReLU(inplace=False)"),
    ],
)
def test_activations_are_made_anew(text, rebuilt):
    assert activation(text) == rebuilt
    assert type(eval(rebuilt, {"nn": nn, "torch": torch})) is type(eval(text, {"nn": nn, "torch": torch}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SiLU()",
        "nn.SiLU",
        "nn.SiLU().forward",
        "nn.SiLU()()",
        "nn.silu()",
        "nn.Module()",
        "nn.Linear(3, 3)",
        "nn.functional.silu()",
        "nn.SiLU(*[1])",
        "nn.SiLU(**{})",
        "nn.SiLU(unknown=1)",
        "nn.SiLU(True, True)",
        "nn.LeakyReLU(9**9**9)",
        "nn.LeakyReLU(1e999)",
        "nn.LeakyReLU(9999999999)",
        "nn.LeakyReLU(1j)",
        "nn.LeakyReLU([0.1])",
        "nn.LeakyReLU('0.1')",
        "nn.LeakyReLU(x := 1)",
        "nn.LeakyReLU(0.1 if 1 else 2)",
        "nn.LeakyReLU(lambda: 1)",
        "nn.LeakyReLU(f'{1}')",
        "nn.LeakyReLU(negative_slope=__import__)",
        "nn.ReLU(1) + nn.ReLU(1)",
        "nn.ReLU(1), torch.os.system",
        "nn.ReLU(1is 1)",
        "torch.nn.nn.ReLU()",
        "torch.os.ReLU()",
        "x.nn.ReLU()",
        "ｎｎ.ReLU()",
        "nn.ReLU() # \n",
        "nn.ReLU()\0",
        "nn.PReLU(" + "1" * 200 + ")",
        'nn.Identity([C3k2["touch x"] for C3k2.__class_getitem__ in [torch.os.system]])',
        "nn.Identity(" * 50 + ")" * 50,
    ],
)
def test_other_activations_are_refused(text, recwarn):
    with pytest.raises(ValueError, match="would call"):
        activation(text)
    assert not recwarn.list


NAMES = [
    *("DetectionModel", "BaseModel", "Ensemble", "WorldModel", "YOLOEModel", "TorchVision", "Index", "AutoBackend"),
    *(
        "SemanticSegmentationLoss",
        "torch_safe_load",
        "load_checkpoint",
        "check_requirements",
        "temporary_modules",
        "eval",
    ),
    *(
        "nn",
        "torch",
        "Path",
        "nn.Module",
        "nn.Sequential",
        "nn.ModuleList",
        "nn.Parameter",
        "nn.init",
        "nn.utils",
        "xnn.ReLU",
    ),
    *(
        "nn.modules.Conv2d",
        "nn.functional.relu",
        "torch.nn.ReLU",
        "nn.",
        "torchvision.ops.misc",
        "torchvision.ops.Permute",
    ),
    *("torchvision.ops.DropBlock2d", "__builtins__", "__import__", "", "Conv ", "conv", 5, None, ["Conv"], b"Conv"),
]


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_what_is_no_layer_is_refused(name):
    d = small()
    d["backbone"][1][2] = name
    with pytest.raises(ValueError, match="would call"):
        checked(d)


class Mine(nn.Identity):
    """A layer of a user's own."""


def test_a_layer_that_the_user_registered_is_none_of_a_file_but_completes(monkeypatch, caplog):
    monkeypatch.setattr(tasks, "Mine", Mine, raising=False)
    assert "Mine" not in layers()
    model = YOLO("yolov12n-turbo.yaml", verbose=False).model
    model.yaml["backbone"].append([-1, 1, "Mine", []])
    with pytest.raises(ValueError, match="would call Mine"):
        checked(model.yaml)
    del model.yaml["a2c2f"]
    complete({"model": model})
    assert model.yaml["a2c2f"]["qkv_fused"] is False and "left as it is" not in caplog.text


DEEP = [[[[[1]]]]]
WRONG = {
    "rows that are none": lambda d: d.update(head=[5]),
    "a row that is short": lambda d: d["head"][0].pop(),
    "rows in a mapping": lambda d: d.update(head={"a": d["head"]}),
    "no rows": lambda d: d.update(head=[], backbone=[]),
    "no head": lambda d: d.pop("head"),
    "many rows": lambda d: d.update(backbone=d["backbone"] * 1000),
    "a head in the middle": lambda d: d["backbone"].append([-1, 1, "Classify", ["nc"]]),
    "from a layer after it": lambda d: d["head"][0].__setitem__(0, [-1, 3]),
    "from no layer": lambda d: d["head"][0].__setitem__(0, []),
    "from before the first": lambda d: d["backbone"][1].__setitem__(0, -2),
    "from a text": lambda d: d["backbone"][1].__setitem__(0, "-1"),
    "from a switch": lambda d: d["backbone"][1].__setitem__(0, False),
    "repeats": lambda d: d["backbone"][0].__setitem__(1, 10**6),
    "repeats below 0": lambda d: d["backbone"][0].__setitem__(1, -1),
    "repeats in a text": lambda d: d["backbone"][0].__setitem__(1, "3"),
    "repeats times depth": lambda d: (
        d["scales"].update(n=[16, 1, 64]) or [r.__setitem__(1, 250) for r in d["backbone"]]
    ),
    "a mapping within arguments": lambda d: d["backbone"][0][3].append({"a": 1}),
    "a mapping as arguments": lambda d: d["backbone"][0].__setitem__(3, {"c2": 64}),
    "a local name": lambda d: d["backbone"][0][3].append("d"),
    "a module's name": lambda d: d["backbone"][0][3].append("ast"),
    "another text": lambda d: d["backbone"][0][3].append("resnet18"),
    "a text of a call": lambda d: d["backbone"][0][3].append("print(1)"),
    "a text that spells a large number": lambda d: d["backbone"][0][3].append("1e9"),
    "a text of brackets": lambda d: d["backbone"][0][3].append("(" * 60),
    "a large number": lambda d: d["backbone"][0][3].append(10**9),
    "NaN": lambda d: d["backbone"][0][3].append(math.nan),
    "infinity": lambda d: d["backbone"][0][3].append(-math.inf),
    "bytes": lambda d: d["backbone"][0][3].append(b"nc"),
    "a tensor": lambda d: d["backbone"][0][3].append(torch.ones(2)),
    "a set": lambda d: d["backbone"][0][3].append({1}),
    "depth of arguments": lambda d: d["backbone"][0][3].append(DEEP),
    "many arguments": lambda d: d["backbone"][0][3].extend([1] * 100),
    "nc": lambda d: d.update(nc=10**9),
    "nc in a text": lambda d: d.update(nc="80"),
    "nc nested": lambda d: d.update(nc=DEEP),
    "scales": lambda d: d.update(scales=[1, 1, 1]),
    "a scale of two": lambda d: d["scales"].update(n=[1, 1]),
    "a scale of texts": lambda d: d["scales"].update(n=["1", 1, 1]),
    "a scale's width": lambda d: d["scales"].update(n=[1, 1e9, 1024]),
    "a scale that is none": lambda d: d.update(scale="q"),
    "a scale that is a list": lambda d: d.update(scale=["n"]),
    "depth_multiple": lambda d: d.update(depth_multiple=math.inf),
    "width_multiple": lambda d: d.update(width_multiple="1"),
    "kpt_shape": lambda d: d.update(kpt_shape=[17, 3, 1]),
    "kpt_shape in a text": lambda d: d.update(kpt_shape="17"),
    "end2end": lambda d: d.update(end2end="True"),
    "reg_max": lambda d: d.update(reg_max=10**6),
    "channels": lambda d: d.update(channels=10**6),
    "ch": lambda d: d.update(ch=[3]),
    "text_model": lambda d: d.update(text_model="clip:/tmp/evil.pt"),
    "another text_model": lambda d: d.update(text_model="https://evil/x.pt"),
    "yaml_file": lambda d: d.update(yaml_file="https://evil/x.yaml"),
    "yaml_file in colour": lambda d: d.update(yaml_file="\x1b[31m.yaml"),
    "activation": lambda d: d.update(activation=5),
    "a2c2f": lambda d: d.update(a2c2f=[1]),
    "an option": lambda d: d.update(a2c2f={"area": "print"}),
    "an option of a scale": lambda d: d.update(a2c2f={"area": {"n": {"n": 1}}}),
    "an option of a scale that is none": lambda d: d.update(a2c2f={"area": {"q": 1}}),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_no_model_is_built_from_is_refused(case):
    d = small()
    WRONG[case](d)
    with pytest.raises(ValueError, match="cannot be read") as e:
        checked(d)
    assert len(str(e.value)) < 250 and str(e.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"kpt_shape": (17, 3), "end2end": False, "reg_max": 1, "inplace": True, "channels": 1, "ch": 10},
        {"text_model": "mobileclip:blt"},
        {"text_model": "clip:ViT-B/32"},
        {"scales": None, "scale": "", "depth_multiple": 0.33, "width_multiple": 1},
        {"yaml_file": "/home/é è/yolov12n.yaml", "activation": None, "a2c2f": None},
        {"a2c2f": {"area": {"n": 4}, "residual": "False", "mlp_ratio": 1.2, "projection": "linear"}},
        {
            "backbone": [
                [-1, 1, "Conv", [64, "(3, 3)", [2, 2], "None", "nc", "-1.5e1"]],
                [0, 3, "C3k2", [128, False, 0.25]],
            ]
        },
    ],
)
def test_what_users_write_is_kept(change):
    d = small() | change
    assert checked(d) == (d, [])


def test_what_nobody_reads_is_left_out_with_a_line():
    d = (
        small()
        | {"download": "rm -rf", "x\x1b[31m" * 100: 1, "a2c2f": {"area": 4, "evil": 1}}
        | {i: i for i in range(50)}
    )
    new, left_out = checked(d)
    assert new == small() | {"a2c2f": {"area": 4}}
    assert left_out[0] == "without download in the YAML" and "without evil in a2c2f" in left_out
    assert len(left_out) < 9 and all(line.isprintable() and len(line) < 100 for line in left_out)


def test_early_yolov9_begins_with_an_identity():
    d = small()
    d["backbone"][0][2] = "Silence"
    assert checked(d)[0]["backbone"][0][2] == "nn.Identity"
    d["backbone"][1][2] = "Silence"
    with pytest.raises(ValueError, match="would call Silence"):
        checked(d)


def test_arguments_keep_nothing_that_is_fetched_or_run():
    args = {
        "data": "https://evil/x.yaml",
        "model": "yolov12n.yaml",
        "pretrained": "HTTPS:/evil/x.pt",
        "project": "ul://a/b",
        "save_dir": Path("/root/runs"),
        "name": "C:\\runs",
        "cfg": {"download": "import os"},
        "tracker": "a.yaml\ndownload: rm",
        "classes": [0, 1],
        "lr0": 0.01,
        "time": None,
        "augmentations": [object()],
        "not a name": 1,
        "text": "download: x",
    }
    new, left_out, paths = checked_arguments(args)
    assert new == {key: args[key] for key in ("model", "save_dir", "name", "classes", "lr0", "time")}
    assert left_out[0] == "without data=https://evil/x.yaml of its training" and len(left_out) == 8
    assert paths == ["save_dir=/root/runs", "name=C:\\runs"]
    assert checked_arguments(IterableSimpleNamespace(**args)) == (new, left_out, paths)


def changed(good, path, change, **more):
    ckpt = torch.load(good, weights_only=False)
    change(ckpt["model"])
    torch.save(ckpt | more, path)
    return path


def test_convert_says_what_it_leaves_out(good, tmp_path):
    args = {"data": "https://evil/x.yaml", "imgsz": 64, "save_dir": "/elsewhere/runs", "cfg": {"download": "x"}}
    src = changed(good, tmp_path / "a.pt", lambda m: m.yaml.update(download="https://evil"), train_args=args)
    done = convert(src, tmp_path / "b.pt", to="stock")
    assert "without data=https://evil/x.yaml of its training" in done["changes"]
    assert "without download in the YAML" in done["changes"] and "save_dir=/elsewhere/runs" in done["note"]
    ckpt = torch.load(tmp_path / "b.pt", weights_only=False)
    assert ckpt["train_args"] == {"imgsz": 64, "save_dir": "/elsewhere/runs"} and "download" not in ckpt["model"].yaml
    said = yolov12("doctor", src).stdout
    assert "download in the YAML" in " ".join(said.split())


def test_a_converted_yaml_is_the_rebuilt_one(good, tmp_path):
    src = changed(good, tmp_path / "a.pt", lambda m: m.yaml.update(activation="torch.nn.ReLU(  )"))
    convert(src, tmp_path / "b.pt", to="plugin")
    assert read(tmp_path / "b.pt")["model"].yaml["activation"] == "torch.nn.ReLU()"


@pytest.mark.parametrize("key", ["model", "ema"])
def test_both_models_of_a_checkpoint_are_checked(key, good, tmp_path):
    ckpt = torch.load(good, weights_only=False)
    ckpt["ema"] = copy.deepcopy(ckpt["model"])
    ckpt[key].yaml["activation"] = "print(1)"
    torch.save(ckpt, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="would call print"):
        read(tmp_path / "a.pt")


def test_complete_leaves_a_yaml_that_is_more_as_it_is(caplog):
    model = YOLO("yolov12n-turbo.yaml", verbose=False).model
    model.yaml["activation"] = "print('\x1b[31m')"
    del model.yaml["a2c2f"]
    before = copy.deepcopy(model.yaml)
    complete({"model": model})
    assert model.yaml == before


def test_values_are_shown_in_one_short_line():
    shared = [1]
    for _ in range(80):
        shared = [shared, shared]
    cycle = []
    cycle.append(cycle)
    for value in (
        shared,
        cycle,
        "x" * 10**7,
        "\x1b[31m\n" * 50,
        10**100_000,
        dict.fromkeys(range(10**5), shared),
        nn.Conv2d,
    ):
        text = shown(value)
        assert len(text) <= 80 and text.isprintable()
    assert shown(torch.ones(2)) == "tensor([1., 1.])" and shown("8.3.63") == "8.3.63"
