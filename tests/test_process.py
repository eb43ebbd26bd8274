"""What is a process's own stays the caller's, whatever the plugin runs in it."""

import json
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from ultralytics import YOLO
from ultralytics.utils import ASSETS

import yolov12_plugin as y12
from yolov12_plugin.benchmark.bench import Protocol, bench
from yolov12_plugin.deploy.deepstream import export_deepstream
from yolov12_plugin.deploy.runtimes.pytorch import Torch
from yolov12_plugin.deploy.runtimes.session import Options
from yolov12_plugin.deploy.triton import export_triton
from yolov12_plugin.errors import PluginError
from yolov12_plugin.evaluate.score import evaluate
from yolov12_plugin.explain.heatmap import Request, heatmaps
from yolov12_plugin.explain.probe import load_model
from yolov12_plugin.process import undisturbed

IMAGE = str(ASSETS / "bus.jpg")


def state():
    """All of it, so that it can be compared."""
    cudnn = torch.backends.cudnn
    return {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "cv2 threads": cv2.getNumThreads(),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.allow_tf32),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }


@pytest.fixture
def unusual():
    """A caller whose choices are none that Ultralytics or the plugin makes."""
    with undisturbed():
        torch.set_num_threads(3)
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.deterministic = True
        os.environ["OMP_DYNAMIC"] = "false"
        yield
    assert torch.get_num_threads() == 1 and "OMP_DYNAMIC" not in os.environ


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    model = YOLO("yolov12n.yaml")
    model.model.pt_path = str(folder / "small.pt")
    model.save(folder / "small.pt")
    return model, {format: model.export(format=format, imgsz=64, verbose=False) for format in ("torchscript", "onnx")}


def fails(call):
    def failing():
        with pytest.raises((PluginError, OSError, ValueError)):
            call()

    return failing


@pytest.mark.export
@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_verify_export(unusual, exported, format, tmp_path):
    model, files = exported
    before = state()
    y12.verify_export(model, files[format], imgsz=64)
    y12.verify_export("yolov12n.yaml", files[format], imgsz=64)
    assert state() == before
    broken = tmp_path / "broken.torchscript"
    broken.write_bytes(b"PK")
    for call in (
        lambda: y12.verify_export(model, broken),
        lambda: y12.verify_export(model, files[format], source=["none.jpg"]),
        lambda: y12.verify_export(model, files[format], precision="fp7"),
    ):
        fails(call)()
        assert state() == before


def test_where_the_caller_names_the_precision_of_convolutions(monkeypatch):
    """PyTorch's new switch, beside which the old one cannot be read."""
    conv = getattr(torch.backends.cudnn, "conv", None)
    if conv is None:
        pytest.skip("this PyTorch has the old switch alone")
    before = conv.fp32_precision
    try:
        conv.fp32_precision = "ieee"
        with undisturbed():
            pass
        assert conv.fp32_precision == "ieee"
    finally:
        conv.fp32_precision = before


@pytest.mark.parametrize("method", ["activation", "attention"])
def test_heat_maps(unusual, tmp_path, method):
    before = state()
    heatmaps(["yolov12n.yaml"], IMAGE, Request(method), imgsz=64, device="cpu", layers=[6], out=tmp_path / "a.png")
    assert state() == before
    fails(lambda: heatmaps(["yolov12n.yaml"], IMAGE, Request(method), layers=[99], out=tmp_path / "b.png"))()
    fails(lambda: heatmaps(["yolov12q.yaml"], IMAGE, Request(method), out=tmp_path / "b.png"))()
    assert state() == before


def test_a_network_with_the_same_weights_every_time(unusual):
    YOLO("yolov12n.yaml")  # as any YOLO does, it sets CUBLAS_WORKSPACE_CONFIG
    before = state()
    first, again = (load_model(Path("yolov12n.yaml")).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert state() == before


@pytest.mark.export
def test_bench(unusual):
    before = state()
    protocol = Protocol(imgsz=64, runs=1, warmup=1, options=Options(threads=2))
    bench(["yolov12n", "none.pt"], ["torch", "onnxruntime"], protocol)
    assert state() == before


@pytest.mark.export
def test_evaluation_and_folders_for_servers_and_pipelines(unusual, exported, tmp_path):
    before = state()
    fails(lambda: evaluate("yolov12n.yaml", [], tmp_path / "none.json"))()
    truth = {
        "images": [{"id": 1, "file_name": "bus.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 99, 99]}],
        "categories": [{"id": 1, "name": "0"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    found = {"imgsz": 64, "device": "cpu", "conf": 0.9, "detections": tmp_path / "found.json"}
    evaluate(exported[0].model.pt_path, [Path(IMAGE)], tmp_path / "truth.json", report=str, **found)
    assert state() == before
    export_triton(exported[0].model.pt_path, tmp_path / "server", imgsz=64)
    assert state() == before
    export_deepstream(exported[0].model.pt_path, tmp_path / "pipeline", imgsz=64)
    assert state() == before


@pytest.mark.compile
def test_the_limit_of_compilations(monkeypatch):
    """More models than PyTorch compiles of one forward, each compiled; and then it is what it was."""
    config: Any = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    before, compiled = getattr(config, limit), []

    def backend(graph, inputs):
        compiled.append(getattr(config, limit))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, dynamic=False))
    torch._dynamo.reset()
    for channels in range(1, before + 5):
        session = Torch(torch.nn.Conv2d(3, channels, 1), Options(compile=True))
        (out,) = session(torch.rand(2, 3, 8, 8))
        assert out.shape == (2, channels, 8, 8) and getattr(config, limit) == before
    assert len(compiled) >= before + 4 and min(compiled) > before
