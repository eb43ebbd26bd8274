"""Files that are no whole YOLOv12, or more than that: one line, exit code 2, and nothing executed or written."""

import contextlib
import copy
import fractions
import io
import json
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import yolov12
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

import yolov12_plugin as y12
from yolov12_plugin.checkpoints.convert import convert
from yolov12_plugin.checkpoints.safe_load import read
from yolov12_plugin.errors import CheckpointError


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A checkpoint as Ultralytics writes it."""
    path = tmp_path_factory.mktemp("good") / "good.pt"
    YOLO("yolov12n-turbo.yaml", verbose=False).save(path)
    return path


class Payload:
    """What a pickle calls when it is loaded by `pickle`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call

    def __call__(self):
        """`pickle` wants to see something callable where one payload gives the function of another."""


# Bytes of the file, from those of a good one.
BYTES = {
    "empty": (lambda data: b"", "is empty"),
    "cut in the middle": (lambda data: data[: len(data) // 2], "is cut short"),
    "cut at the end": (lambda data: data[:-50], "is cut short"),
    "cut after four bytes": (lambda data: data[:4], "is cut short"),
    "web page": (lambda data: b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
    "text": (lambda data: b"weights" * 1000, "is no checkpoint of PyTorch"),
    "zeros": (lambda data: bytes(len(data)), "is no checkpoint of PyTorch"),
    "pointer of Git LFS": (lambda data: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "flipped bits": (lambda data: _flip(data), "is damaged at"),
    "other zip": (lambda data: _zip({"a/b.txt": b"text"}), "no data.pkl"),
    "TorchScript": (lambda data: _zip({"a/data.pkl": b"", "a/constants.pkl": b""}), "TorchScript"),
    "no pickle": (lambda data: _zip({"a/data.pkl": b"text", "a/version": b"3"}), "cannot be read"),
    "empty pickle": (lambda data: _zip({"a/data.pkl": b"", "a/version": b"3"}), "cannot be read"),
}


def _flip(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    at = data.index(largest.filename.encode()) + 2000
    return data[:at] + bytes(255 - b for b in data[at : at + 16]) + data[at + 16 :]


def _zip(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _model(ckpt):
    return ckpt["model"]


def _attn(ckpt):
    return ckpt["model"].model[6].m[0][0].attn


def _set(tensor, index, value):
    with torch.no_grad():
        tensor[index] = value


def _rename(ckpt):
    buffers = ckpt["model"]._buffers
    buffers["a\nb"] = buffers.pop("a")


def _without(ckpt, key):
    return {k: v for k, v in ckpt.items() if k != key}


def _changed(change):
    def make(ckpt):
        change(ckpt)
        return ckpt

    return make


# Contents of the file, from those of a good one.
CONTENTS = {
    "state dict": (lambda ckpt: _model(ckpt).state_dict(), "state dict only (739 tensors)"),
    "state dict as the model": (lambda ckpt: {**ckpt, "model": _model(ckpt).state_dict()}, "state dict only"),
    "bare module": (_model, "bare module"),
    "list": (lambda ckpt: [1, 2], "holds a list"),
    "no model": (lambda ckpt: _without(ckpt, "model"), "holds no model"),
    "nothing": (lambda ckpt: {}, "holds no model (only nothing)"),
    "v8": (lambda ckpt: {**ckpt, "model": YOLO("yolov8n.yaml").model}, "is no YOLOv12 but a DetectionModel"),
    "module that is no model": (lambda ckpt: {**ckpt, "model": nn.Conv2d(3, 3, 1)}, "is no YOLOv12 but a Conv2d"),
    "no YAML": (_changed(lambda ckpt: delattr(_model(ckpt), "yaml")), "'yaml'"),
    "YAML of another model": (
        _changed(lambda ckpt: setattr(_model(ckpt), "yaml", YOLO("yolov8n.yaml").model.yaml)),
        "no A2C2f at layer 6",
    ),
    "wrong shape": (
        _changed(lambda ckpt: setattr(_attn(ckpt).v.conv, "weight", nn.Parameter(torch.zeros(64, 32, 1, 1)))),
        "do not fit together",
    ),
    "wrong shape of a normalisation": (
        _changed(lambda ckpt: setattr(_attn(ckpt).qk.bn, "running_mean", torch.zeros(3))),
        "do not fit together",
    ),
    "no projection": (_changed(lambda ckpt: delattr(_attn(ckpt), "proj")), "'proj'"),
    "no perceiver": (_changed(lambda ckpt: delattr(_attn(ckpt), "pe")), "'pe'"),
    "no weight": (_changed(lambda ckpt: delattr(_attn(ckpt).v.conv, "weight")), "'weight'"),
    "no heads": (_changed(lambda ckpt: delattr(_attn(ckpt), "num_heads")), "'num_heads'"),
    "no layers": (_changed(lambda ckpt: delattr(_model(ckpt), "model")), "is no YOLOv12"),
    "NaN": (
        _changed(lambda ckpt: _set(_attn(ckpt).v.conv.weight, 0, torch.nan)),
        "NaN or infinite values in 1 tensors, the first is model.6.m.0.0.attn.v.conv.weight",
    ),
    "classes that are none": (_changed(lambda ckpt: setattr(_model(ckpt), "names", 5)), "is incomplete"),
    "odd name": (
        _changed(lambda ckpt: _model(ckpt).register_buffer("a", torch.tensor(torch.nan)) or _rename(ckpt)),
        "_buffers of a DetectionModel",
    ),
    "odd key": (lambda ckpt: {"a\nb\x1b[31m": 1}, "holds no model (only a b?[31m)"),
    "YAML that is evaluated": (
        _changed(lambda ckpt: _model(ckpt).yaml.update(activation="__import__('os').getcwd() or nn.SiLU()")),
        "has a YAML that would call __import__",
    ),
    "rows that are none": (_changed(lambda ckpt: _model(ckpt).yaml.update(head=[5])), "cannot be read"),
    "YAML that calls": (
        _changed(lambda ckpt: _model(ckpt).yaml["backbone"].append([-1, 1, "torch_safe_load", ["a.pt"]])),
        "has a YAML that would call torch_safe_load",
    ),
    "infinite": (_changed(lambda ckpt: _set(_attn(ckpt).v.bn.running_var, 3, torch.inf)), "NaN or infinite"),
    "unknown class": (lambda ckpt: {**ckpt, "extra": fractions.Fraction(1, 2)}, "names fractions.Fraction"),
}

REBUILD = torch._tensor._rebuild_from_type_v2  # calls what it is given

# What executes `touch SENTINEL` when it is unpickled, and the word by which it is refused.
MALICIOUS = {
    "system": (lambda s: Payload(os.system, f"touch {s}"), "names posix.system"),
    "eval": (lambda s: Payload(eval, f"__import__('pathlib').Path({str(s)!r}).touch()"), "names builtins.eval"),
    "method": (lambda s: Payload(Path.touch, Path(s)), f"names {Path.__module__}.Path"),
    "attribute": (lambda s: Payload(Payload(getattr, Path(s), "touch")), "name='touch'"),
    "model from a YAML": (lambda s: Payload(DetectionModel, _yaml(s)), "calls DetectionModel"),
    "PyTorch's own function": (lambda s: Payload(REBUILD, os.system, int, (f"touch {s}",), None), REBUILD.__name__),
    "module within a model": (lambda s: Payload(nn.Sequential, Payload(os.system, f"touch {s}")), "system"),
}


def _yaml(sentinel):
    activation = f"__import__('pathlib').Path({str(sentinel)!r}).touch() or nn.SiLU()"
    return {"activation": activation, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": [], "nc": 1}


def refused(path, folder, word):
    """Both commands end with code 2 and one line; DST is as it was and nothing lies beside it."""
    dst = folder / "dst.pt"
    dst.write_bytes(b"as it was")
    before = sorted(p.name for p in folder.iterdir())
    for command in (
        ["doctor", path],
        ["doctor", path, "--json"],
        ["convert", path, dst, "--to", "stock"],
        ["convert", path, dst, "--to", "plugin", "--json"],
    ):
        done = yolov12(*command)
        lines = done.stderr.splitlines()
        assert done.exit_code == 2 and not done.stdout, (command, done.output, done.exception)
        assert len(lines) == 1 and lines[0].startswith(f"Error: {path}") and word in lines[0], lines
        assert len(lines[0]) < 500
    assert dst.read_bytes() == b"as it was"
    assert sorted(p.name for p in folder.iterdir()) == before


@pytest.mark.parametrize("case", BYTES)
def test_bytes(case, good, tmp_path):
    make, word = BYTES[case]
    path = tmp_path / "bad.pt"
    path.write_bytes(make(good.read_bytes()))
    refused(path, tmp_path, word)


@pytest.mark.slow
@pytest.mark.parametrize("case", CONTENTS)
def test_contents(case, good, tmp_path):
    make, word = CONTENTS[case]
    path = tmp_path / "bad.pt"
    torch.save(make(torch.load(good, weights_only=False)), path)
    refused(path, tmp_path, word)


def test_no_file(tmp_path):
    refused(tmp_path / "missing.pt", tmp_path, "does not exist")
    (tmp_path / "folder.pt").mkdir()
    refused(tmp_path / "folder.pt", tmp_path, "is a folder")


@pytest.mark.parametrize("case", MALICIOUS)
def test_nothing_is_executed(case, good, tmp_path):
    make, word = MALICIOUS[case]
    sentinel, path, folder = tmp_path / "executed", tmp_path / "bad.pt", tmp_path / "folder"
    folder.mkdir()
    ckpt = torch.load(good, weights_only=False)
    ckpt["model"].extra = make(sentinel)
    torch.save(ckpt, path)
    refused(path, folder, word)
    assert not sentinel.exists()
    with contextlib.suppress(CheckpointError):  # of what the payload has built
        read(path, trust=True)
    assert sentinel.exists(), "the payload is none"


# What would run when the model is used or copied, in place of its own methods.
HIDDEN = {
    "method": (lambda m: m.__dict__.update(forward=nn.Identity()), "forward of a Conv2d"),
    "method by another's": (lambda m: m.__dict__.update(forward=nn.Identity().forward), "forward of a Conv2d"),
    "special method": (lambda m: m.__dict__.update(__deepcopy__=nn.Identity()), "__deepcopy__ of a Conv2d"),
    "state": (lambda m: m.__dict__.update(__setstate__=nn.Identity()), "__setstate__ of a Conv2d"),
    "hook": (lambda m: m.register_forward_hook(nn.Identity()), "_forward_hooks of a Conv2d"),
    "hook before": (lambda m: m.register_forward_pre_hook(nn.Identity()), "_forward_pre_hooks of a Conv2d"),
    "function": (lambda m: m.__dict__.update(x=torch._utils._rebuild_tensor_v2), "as data"),
    "class": (lambda m: m.__dict__.update(x=DetectionModel), "as data"),
    "special module": (lambda m: m._modules.update(__deepcopy__=nn.Identity()), "_modules of a Conv2d"),
    "attribute of a tensor": (lambda m: setattr(m.weight, "x", 1), "_rebuild_parameter_with_state"),
    "parameter": (lambda m: m._parameters.update(bias=nn.Identity()), "_parameters of a Conv2d"),
    "module": (lambda m: m._modules.update(x=3), "_modules of a Conv2d"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HIDDEN)
def test_no_attribute_hides_a_method(case, good, tmp_path):
    hide, word = HIDDEN[case]
    ckpt = torch.load(good, weights_only=False)
    hide(ckpt["model"].model[0].conv)
    torch.save(ckpt, tmp_path / "bad.pt")
    refused(tmp_path / "bad.pt", tmp_path, word)


def test_an_archive_behind_another_pickle(good, tmp_path):
    """`torch.load` goes by the first bytes, readers of zip archives by the last."""
    import pickle

    path, sentinel = tmp_path / "bad.pt", tmp_path / "executed"
    legacy = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    parts = [pickle.dumps(part, protocol=2) for part in (*legacy, Payload(os.system, f"touch {sentinel}"), [])]
    path.write_bytes(b"".join(parts) + good.read_bytes())
    refused(path, tmp_path, "it begins with something else than the archive")
    assert not sentinel.exists()


def test_shared_tuples_are_built_once(good, tmp_path):
    """A few bytes that would take for ever."""
    shared = (1,)
    for _ in range(60):
        shared = (shared, shared)
    torch.save({**torch.load(good, weights_only=False), "shared": shared}, tmp_path / "shared.pt")
    found = read(tmp_path / "shared.pt")["shared"]
    assert found[0] is found[1]


def test_what_a_checkpoint_says_of_itself_is_no_markup(good, tmp_path):
    for version in "[/x]", torch.ones(2):
        torch.save({**torch.load(good, weights_only=False), "version": version}, tmp_path / "odd.pt")
        assert yolov12("doctor", tmp_path / "odd.pt").exit_code == 0
        assert json.loads(yolov12("doctor", tmp_path / "odd.pt", "--json").stdout)["ultralytics"] == str(version)


@pytest.mark.parametrize(
    "activation",
    [
        'nn.Identity([C3k2["touch MARK"] for C3k2.__class_getitem__ in [torch.os.system]])',  # no parenthesis within
        "nn.ReLU(*[1])",
        "nn.modules.module.torch.os.getcwd()",
        "nn.ReLU(x := 1)",
        "nn.ReLU().__class__()",
        "nn.init()",
        "nn.Parameter(1)",
        "nn.ReLU",
        "(" * 300 + "nn.ReLU()" + ")" * 300,
    ],
)
def test_activations_that_are_more_are_refused(activation, good, tmp_path):
    ckpt = torch.load(good, weights_only=False)
    ckpt["model"].yaml["activation"] = activation.replace("MARK", str(tmp_path / "mark"))
    torch.save(ckpt, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="would call"):
        read(tmp_path / "other.pt")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("activation", ["nn.ReLU()", "torch.nn.LeakyReLU(0.1)", "nn.LeakyReLU(negative_slope=0.1)"])
def test_activations_are_read(activation, good, tmp_path):
    ckpt = torch.load(good, weights_only=False)
    ckpt["model"].yaml["activation"] = activation
    torch.save(ckpt, tmp_path / "relu.pt")
    assert read(tmp_path / "relu.pt")["model"].yaml["activation"] == activation


@pytest.mark.parametrize("evil_first", [False, True])
def test_a_record_that_is_there_twice(evil_first, good, tmp_path):
    """Readers of zip archives do not agree on which of the two counts: what is checked is what is read."""
    bad, names = tmp_path / "evil.pt", (tmp_path / "bad.pt")
    sentinel = tmp_path / "executed"
    ckpt = torch.load(good, weights_only=False)
    torch.save({**ckpt, "extra": Payload(os.system, f"touch {sentinel}")}, bad)
    pickles = [zipfile.ZipFile(path).read(f"{path.stem}/data.pkl") for path in (good, bad)]
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(names, "w") as target, pytest.warns(UserWarning):
        for info in source.infolist():
            if not info.filename.endswith("data.pkl"):
                target.writestr(info, source.read(info))
        for data in reversed(pickles) if evil_first else pickles:
            target.writestr("good/data.pkl", data)
    bad.unlink()
    with contextlib.suppress(CheckpointError):
        read(names)
    assert not sentinel.exists()


COMMANDS = (
    ["coco", "BAD", "--images", ".", "--annotations", "truth.json"],
    ["bench", "BAD", "--runtime", "torch", "--smoke"],
    ["heatmap", "BAD", "image.jpg"],
    ["export-triton", "BAD", "models"],
    ["export-deepstream", "BAD", "models"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_execute_nothing_either(command, good, tmp_path, monkeypatch):
    """Neither what the pickle carries, which Ultralytics' loading would run, nor what its YAML would have run later."""
    from ultralytics.utils import ASSETS

    monkeypatch.chdir(tmp_path)
    Path("image.jpg").write_bytes((ASSETS / "bus.jpg").read_bytes())
    image = {"id": 1, "file_name": "image.jpg", "width": 810, "height": 1080}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    truth = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "person"}]}
    Path("truth.json").write_text(json.dumps(truth))
    ckpt = torch.load(good, weights_only=False)
    torch.save({**ckpt, "extra": Payload(os.system, f"touch {tmp_path / 'executed'}")}, "pickle.pt")
    ckpt["model"].yaml["activation"] = "torch.os.getcwd() and nn.SiLU()"
    torch.save(ckpt, "yaml.pt")
    for file, word in ("pickle.pt", "names posix.system"), ("yaml.pt", "would call torch.os"):
        done = yolov12(*(file if part == "BAD" else part for part in command))
        assert done.exit_code == 2 and word in done.stderr and "--trust" in done.stderr, done.output
    done = yolov12(*("https://127.0.0.1:9/x.pt" if part == "BAD" else part for part in command))
    assert done.exit_code == 2 and "would be loaded as it arrives" in done.stderr, done.output
    assert not Path("executed").exists() and not Path("models").exists()
    yolov12(*("pickle.pt" if part == "BAD" else part for part in command if command[0] == "heatmap"), "--trust")
    assert Path("executed").exists() or command[0] != "heatmap"


def test_verify_export_executes_nothing_either(good, tmp_path, monkeypatch):
    ckpt = torch.load(good, weights_only=False)
    torch.save({**ckpt, "extra": Payload(os.system, f"touch {tmp_path / 'executed'}")}, tmp_path / "bad.pt")
    monkeypatch.setattr("yolov12_plugin.deploy.verify.open_artefact", lambda *args: None)
    with pytest.raises(CheckpointError, match=r"names posix\.system"):
        y12.verify_export(tmp_path / "bad.pt", "any.onnx")
    assert not (tmp_path / "executed").exists()
    with contextlib.suppress(AttributeError):  # there is no file to be verified
        y12.verify_export(tmp_path / "bad.pt", "any.onnx", trust=True)
    assert (tmp_path / "executed").exists()


def test_names_of_earlier_releases_are_read(good, tmp_path):
    names = {
        b"ultralytics.nn.modules.conv\nConv\n": b"ultralytics.nn.modules\nConv\n",
        b"ultralytics.nn.tasks\nDetectionModel\n": b"ultralytics.nn.tasks\nYOLOv10DetectionModel\n",
    }
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "old.pt", "w") as target:
        for info in source.infolist():
            data = source.read(info)
            for new, old in names.items() if info.filename.endswith("data.pkl") else ():
                assert new in data
                data = data.replace(new, old)
            target.writestr(info.filename, data)
    assert type(read(tmp_path / "old.pt")["model"]) is DetectionModel


def _edited(good, path, edit, compression=zipfile.ZIP_STORED):
    """A copy of a checkpoint whose records were edited: name -> bytes."""
    with zipfile.ZipFile(good) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    edit(records)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return path


def _pickled(ops):
    return b"\x80\x02" + ops + b"."


# Small files that would take much time or memory: edits of the records, and the word by which they are refused.
BOMBS = {
    "compressed": (lambda r: None, "is compressed at", zipfile.ZIP_DEFLATED),
    "many values in a small record": (lambda r: r.update({"good/data/0": b"\0" * 4}), "values, which it has not"),
    "no record": (lambda r: r.pop("good/data/0"), "values, which it has not"),
    "steps": (lambda r: r.update({"good/data.pkl": _pickled(b"]" * 2_000_000)}), "more than 1000000 steps"),
    "a large pickle": (
        lambda r: r.update({"good/data.pkl": _pickled(b"X\0\0\0\x03" + b"x" * 50_331_648)}),
        "data.pkl of more",
    ),
    "depth": (lambda r: r.update({"good/data.pkl": _pickled(b"]" * 400_000 + b"a" * 399_999)}), "more than 200 levels"),
    "memo": (lambda r: r.update({"good/data.pkl": _pickled(b"]r\xff\xff\xff\xff")}), "holds a list"),
    "colliding keys": (
        lambda r: r.update({"good/data.pkl": _pickled(b"}(" + b"\x8a\x09" + b"\xff" * 7 + b"\x1f\x7f" + b"Nu")}),
        "entries in",
    ),
    "a foreign byte order": (lambda r: r.update({"good/byteorder": b"big"}), "another order of bytes"),
    "an opcode": (lambda r: r.update({"good/data.pkl": b"\x80\x04\x8c\x02os\x8c\x06system\x93."}), "protocol 4"),
    "an instance": (lambda r: r.update({"good/data.pkl": _pickled(b"(ios\nsystem\n")}), "the opcode INST"),
    "an extension": (lambda r: r.update({"good/data.pkl": _pickled(b"\x82\x01")}), "the opcode EXT1"),
    "a text to decode": (
        lambda r: r.update({"good/data.pkl": _pickled(b"c_codecs\nencode\nX\x01\0\0\0xX\x04\0\0\0idna\x86R")}),
        "it calls _codecs.encode",
    ),
    "a dtype of objects": (
        lambda r: r.update({"good/data.pkl": _pickled(b"cnumpy\ndtype\nX\x02\0\0\0O8\x89\x88\x87R")}),
        "it calls numpy.dtype",
    ),
    "attributes of a function": (
        lambda r: r.update({"good/data.pkl": _pickled(b"ctorch._utils\n_rebuild_tensor_v2\n}X\x01\0\0\0xK\x01sb")}),
        "a state of",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_small_files_cost_little(case, good, tmp_path):
    edit, word, *compression = BOMBS[case]
    path = _edited(good, tmp_path / "bad.pt", edit, *compression)
    begin = time.process_time()
    with pytest.raises(CheckpointError) as e:
        read(path)
    assert word in str(e.value) and len(str(e.value)) < 500, e.value
    assert time.process_time() - begin < 20


def test_records_that_lie_over_each_other(good, tmp_path):
    """The entries of a directory may all point to one record: many times what the file has."""
    data = bytearray(_edited(good, tmp_path / "a.pt", lambda r: r.update(x=b"", y=b"")).read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        large = max(archive.infolist(), key=lambda info: info.file_size)
    for name in b"x", b"y":
        entry = data.index(b"PK\x01\x02", 0)
        while data[entry + 46 : entry + 47] != name or data[entry + 28] != 1:
            entry = data.index(b"PK\x01\x02", entry + 4)
        for at, value in (16, large.CRC), (20, large.file_size), (24, large.file_size), (42, large.header_offset):
            data[entry + at : entry + at + 4] = value.to_bytes(4, "little")
    (tmp_path / "bad.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="larger than the file"):
        read(tmp_path / "bad.pt")


def _shared(levels):
    value = [1]
    for _ in range(levels):
        value = [value, value]
    return value


def _nested(levels):
    net = nn.Sequential(nn.Identity())
    for _ in range(levels):
        net = nn.Sequential(net, net)
    return net


def _within_itself(m):
    m.circle = m


# What a model holds, and the word by which it is refused.
GRAPHS = {
    "a tensor that is larger than its values": (
        lambda m: m.register_buffer("x", torch.zeros(1).expand(10**6, 10**6)),
        "in a record of 1",
    ),
    "tensors that share values": (
        lambda m: [m.register_buffer(f"x{i}", torch.zeros(10**6).set_(m.large)) for i in range(40)],
        "share their values",
    ),
    "a hook in a circle": (lambda m: _hook_in_a_circle(m), "_forward_hooks of a DetectionModel"),
    "a module within itself": (_within_itself, "modules within modules"),
    "modules that are shared": (lambda m: m.add_module("x", _nested(60)), "in more than 100000 ways"),
    "a padding that is all of the map": (lambda m: setattr(m.model[0].conv, "padding", (10**5, 10**5)), "far more"),
    "an upsampling": (lambda m: setattr(m.model[9], "scale_factor", 3000.0), "far more"),
    "a layer over and over": (lambda m: m.model[8].m.extend([m.model[8].m[0]] * 500), "far more"),
    "a YAML of shared lists": (lambda m: m.yaml.update(nc=_shared(60)), "cannot be read (nc is"),
}


def _hook_in_a_circle(m):
    """The hooks, which are built before the module that they are of, as that is within them, and filled after it."""
    m.__dict__["_forward_hooks"] = hooks = {}
    hooks[0] = nn.Sequential(m)
    del hooks[0]._modules["0"]
    hooks[0].__dict__["of"] = [hooks]
    m.__dict__["again"] = hooks


@pytest.mark.slow
@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_of_objects_that_do_harm(case, good, tmp_path):
    change, word = GRAPHS[case]
    ckpt = torch.load(good, weights_only=False)
    ckpt["model"].large = torch.zeros(10**6)
    change(ckpt["model"])
    torch.save(ckpt, tmp_path / "bad.pt")
    refused(tmp_path / "bad.pt", tmp_path, word)


def test_what_a_file_says_is_short_and_printable(good, tmp_path):
    for version in _shared(60), "\x1b[31m[red]\n" * 10**5, {1, 2}, float("nan"), 10**600, nn.Identity():
        torch.save({**torch.load(good, weights_only=False), "version": version}, tmp_path / "odd.pt")
        done = yolov12("doctor", tmp_path / "odd.pt", "--json")
        found = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))["ultralytics"]
        assert done.exit_code == 0 and len(found) <= 80 and found.isprintable()
        done = yolov12("doctor", tmp_path / "odd.pt")
        assert done.exit_code == 0 and "\x1b[31m" not in done.stdout


def test_trust(good, tmp_path):
    """What is harmless and unknown is converted on demand."""
    path, dst = tmp_path / "odd.pt", tmp_path / "dst.pt"
    torch.save({**torch.load(good, weights_only=False), "extra": fractions.Fraction(1, 2)}, path)
    done = yolov12("convert", path, dst, "--to", "stock", "--trust")
    assert done.exit_code == 0, done.output
    assert torch.load(dst, weights_only=False)["extra"] == fractions.Fraction(1, 2)
    assert yolov12("doctor", path, "--trust").exit_code == 0


def test_a_module_that_is_not_installed(good, tmp_path, run):
    (tmp_path / "absent.py").write_text("class Thing: pass")
    code = "import absent, sys, torch; torch.save({'model': absent.Thing()}, 'bad.pt')"
    run(code)
    (tmp_path / "absent.py").unlink()
    refused(tmp_path / "bad.pt", tmp_path, "names absent.Thing")
    with pytest.raises(CheckpointError, match="needs the module 'absent', which is not installed"):
        read(tmp_path / "bad.pt", trust=True)


def test_a_model_that_was_scripted_is_read(good, tmp_path):
    ckpt = torch.load(good, weights_only=False)
    act = ckpt["model"].model[0].act
    torch.jit.script(ckpt["model"].model[0])
    assert act.__overloads__ == {}
    torch.save(ckpt, tmp_path / "scripted.pt")
    assert not hasattr(read(tmp_path / "scripted.pt")["model"].model[0].act, "__overloads__")
    act.__overloads__ = {"forward": ["forward"]}
    torch.save(ckpt, tmp_path / "named.pt")
    refused(tmp_path / "named.pt", tmp_path, f"__overloads__ of a {type(act).__name__}")


def test_what_the_process_allows_elsewhere_is_not_allowed_here(good, tmp_path):
    path = tmp_path / "odd.pt"
    torch.save({**torch.load(good, weights_only=False), "extra": fractions.Fraction(1, 2)}, path)
    with torch.serialization.safe_globals(
        [fractions.Fraction, (DetectionModel, "ultralytics.nn.tasks.DetectionModel")]
    ):
        before = torch.serialization.get_safe_globals()
        with pytest.raises(CheckpointError, match=r"fractions\.Fraction"):
            read(path)
        assert type(read(good)["model"]) is DetectionModel
        assert torch.serialization.get_safe_globals() == before


def test_all_that_trainings_leave_in_a_checkpoint(good, tmp_path):
    """The loss, its settings, transforms of classification, numpy's numbers, paths, fused modules."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data.augment import classify_transforms

    ckpt = torch.load(good, weights_only=False)
    model = ckpt["model"].float()
    model.args = get_cfg()
    model.criterion = model.init_criterion()
    model.transforms = classify_transforms(64)
    ckpt |= {
        "ema": copy.deepcopy(model).fuse(verbose=False),
        "best_fitness": np.float64(0.5),
        "train_metrics": {"a": np.float32(1), "b": np.int64(2)},
        "train_args": {**vars(get_cfg()), "save_dir": tmp_path},
    }
    torch.save(ckpt, tmp_path / "last.pt")
    found = read(tmp_path / "last.pt")
    assert type(found["model"]) is DetectionModel
    assert {type(m) for m in found["model"].modules()} == {type(m) for m in model.modules()}
    assert type(found["model"].criterion) is type(model.criterion)
    assert found["train_args"]["save_dir"] == tmp_path and found["best_fitness"] == 0.5
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(found["ema"].eval()(x)[0], ckpt["ema"].eval()(x)[0])
    done = convert(tmp_path / "last.pt", tmp_path / "stock.pt", to="stock")
    assert done["layout"]["fused"] and done["stock"]["predicts"] and not done["stock"]["trains"]


def test_destinations(good, tmp_path):
    def error(dst, *options, src=good):
        done = yolov12("convert", src, dst, "--to", "plugin", *options)
        assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1, done.output
        return done.stderr

    assert "must end in .pt" in error(tmp_path / "dst.onnx")
    assert "make its folder" in error(tmp_path / "missing/dst.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "is a folder" in error(tmp_path / "folder.pt")
    assert "File name too long" in error(tmp_path / f"{'x' * 300}.pt")
    src, link = tmp_path / "src.pt", tmp_path / "link.pt"
    src.write_bytes(good.read_bytes())
    link.symlink_to(src)
    for dst in src, link:
        assert "is the source" in error(dst, src=src)
    assert src.read_bytes() == good.read_bytes() and link.is_symlink()
    done = yolov12("convert", src, src, "--to", "stock", "--force", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["stock"]["trains"]
    assert read(src)["model"].model[6].m[0][0].attn.qkv
    (tmp_path / "target.pt").write_bytes(b"old")
    link.unlink()
    link.symlink_to("target.pt")
    assert yolov12("convert", good, link, "--to", "plugin", "--force").exit_code == 0
    assert link.is_symlink() and read(tmp_path / "target.pt")  # a link is followed
    (tmp_path / "target.pt").unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.pt", "link.pt", "src.pt"]
    with pytest.raises(ValueError, match="to='fork' must be 'plugin' or 'stock'"):
        convert(good, tmp_path / "dst.pt", to="fork")
    assert yolov12("convert", good, "dst.pt", "--to", "fork").exit_code == 2


def test_paths_are_quoted(good, tmp_path):
    path = tmp_path / "my best é.pt"
    path.write_bytes(good.read_bytes())
    assert f"yolov12 convert '{path}' NEW.pt --to stock" in yolov12("doctor", path).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
def test_a_disk_that_is_full(good, tmp_path, fork):
    """Here a limit of the size of files, which the system reports as it reports a full disk."""
    dst = tmp_path / "dst.pt"
    dst.write_bytes(b"as it was")
    code = (
        "import resource, signal, sys\n"
        "from yolov12_plugin.cli import app\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))\n"
        "app(sys.argv[1:])"
    )
    done = fork([sys.executable, "-c", code, "convert", good, dst, "--to", "stock", "--force"], check=False)
    assert done.returncode == 2 and "cannot be written" in done.stderr and len(done.stderr.splitlines()) == 1
    assert dst.read_bytes() == b"as it was" and [p.name for p in tmp_path.iterdir()] == ["dst.pt"]


def test_the_command_itself(good, tmp_path, fork):
    command = Path(sys.executable).with_name("yolov12")
    (tmp_path / "bad.pt").write_bytes(good.read_bytes()[:-50])
    done = fork([command, "convert", "bad.pt", "dst.pt", "--to", "stock"], check=False)
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "dst.pt").exists()
    assert done.stderr == "Error: bad.pt is cut short: download or copy it again\n"
    done = fork([command, "convert", good, "dst.pt", "--to", "stock"], check=False, YOLO12_PLUGIN="off")
    assert done.returncode == 2 and "the plugin is not registered" in done.stderr
    assert json.loads(fork([command, "doctor", good, "--json"], YOLO12_PLUGIN="off").stdout)["release"] == "turbo"
