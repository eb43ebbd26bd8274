"""The formats of Ultralytics' exporter: what was exported loads in the format's own runtime and answers as PyTorch does.

`pip install` lines of what a format needs are in FORMATS; a test whose packages are missing says its line and is skipped.
"""

import json
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ultralytics.engine.exporter import export_formats

SCRIPT = Path(__file__).with_name("exported.py")
NAMES = "yolov12n.yaml", "yolov12n-turbo.yaml", "yolov12n-seg.yaml"
FORMATS = {  # the modules that a format needs, and what pip installs for them
    "torchscript": ((), ""),
    "onnx": (("onnx", "onnxruntime", "onnxslim"), "yolov12-plugin[export]"),
    "openvino": (("openvino",), "yolov12-plugin[export]"),
    "ncnn": (("ncnn", "pnnx"), "--no-deps ncnn pnnx==20260526"),
    "mnn": (("MNN", "onnx"), '"MNN>=2.9.6"'),
    "paddle": (("paddle", "x2paddle", "six"), '"paddlepaddle>=3.0.0,<3.3.0" x2paddle six'),
    "litert": (("litert_torch", "ai_edge_litert"), '"litert-torch>=0.10.0" "ai-edge-litert>=2.3.0"'),
    "executorch": (("executorch",), "executorch"),
    "coreml": (("coremltools",), '"coremltools>=9.0" "numpy<=2.3.5"'),
}
RUINED = "result", "products", "areas"

pytestmark = [pytest.mark.export, pytest.mark.process]


def needs(format):
    modules, packages = FORMATS[format]
    missing = [m for m in modules if find_spec(m) is None]
    if format not in export_formats()["Argument"]:
        pytest.skip(f"this Ultralytics does not export {format}")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install {packages}")


def answers(file):
    """The outputs of each network in a file."""
    arrays, found = np.load(file), {}
    for key in arrays.files:
        found.setdefault(key.partition("-")[0], []).append(arrays[key])
    return found


def agree(actual, expected):
    """Boxes within half a pixel; scores, coefficients and prototypes of masks within a thousandth."""
    if [a.shape for a in actual] != [e.shape for e in expected]:
        return False
    (error, *others) = [np.abs(a - e) for a, e in zip(actual, expected)]
    return bool(error[:, :4].max() <= 0.5 and error[:, 4:].max() <= 1e-3 and all(o.max() <= 1e-3 for o in others))


def exported(run, fork, folder, format, name, which="intact"):
    """What the format's own runtime answers, where no PyTorch is loaded, and what PyTorch does, intact and ruined."""
    needs(format)
    fork([sys.executable, SCRIPT, "export", name, format, which])
    run([sys.executable, SCRIPT, "run", format])
    return answers(folder / "runtime.npz")[format], answers(folder / "torch.npz")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", [f for f in FORMATS if f != "coreml"])
def test_its_own_runtime_answers_as_pytorch(format, name, run, fork, tmp_path):
    actual, expected = exported(run, fork, tmp_path, format, name)
    assert agree(actual, expected["intact"])
    for what in RUINED:
        assert not agree(actual, expected[what]), what


@pytest.mark.parametrize("what", RUINED)
@pytest.mark.parametrize("format", ["onnx", "ncnn"])
def test_a_ruined_attention_is_seen(format, what, run, fork, tmp_path):
    """The comparison above fails where one attention of eight was exported with something else in it."""
    actual, expected = exported(run, fork, tmp_path, format, "yolov12n.yaml", what)
    assert agree(actual, expected[what])
    assert not agree(actual, expected["intact"])


@pytest.mark.parametrize("name", NAMES)
def test_core_ml_program(name, fork, tmp_path):
    """Core ML runs on macOS alone: converted, read back, and its operations counted."""
    needs("coreml")
    fork([sys.executable, SCRIPT, "export", name, "coreml", "intact"])
    import coremltools

    model = coremltools.models.MLModel((tmp_path / "file.txt").read_text(), skip_model_load=True).get_spec()
    shapes = [tuple(out.type.multiArrayType.shape) for out in model.description.output]
    assert shapes == [a.shape for a in answers(tmp_path / "torch.npz")["intact"]]
    (main,) = model.mlProgram.functions.values()
    (block,) = main.block_specializations.values()
    operations = Counter(operation.type for operation in block.operations)
    attentions = 8
    assert operations["matmul"] == 2 * attentions
    assert operations["softmax"] == attentions + 1  # and that of the boxes' distributions


def test_the_benchmark_of_formats(run, tmp_path):
    """Each model is exported, opened, verified and timed, and what other runs found of other formats is kept."""
    script = SCRIPT.parent.parent / "benchmarks/formats.py"
    fast = "--imgsz", "64", "--runs", "1", "--warmup", "0", "--out", tmp_path / "formats.json"
    for format in "torchscript", "torch":
        run([sys.executable, script, "--formats", format, *fast])
    rows = json.loads((tmp_path / "formats.json").read_text())["rows"]
    assert [(row["format"], row["model"]) for row in rows] == [
        (format, model) for format in ("torch", "torchscript") for model in ("yolov12n", "yolo12n", "yolo11n")
    ]
    assert all(row["verified"] and row["latency"]["median_ms"] > 0 for row in rows), rows
    assert [row["exported"] for row in rows] == [False] * 3 + [True] * 3
