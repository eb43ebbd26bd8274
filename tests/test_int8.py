"""What INT8 costs is judged on a dataset; a file that is ruined passes on no images."""

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import yolov12
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from ultralytics import YOLO
from ultralytics.cfg import CFG_INT_KEYS, DEFAULT_CFG_DICT
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import ASSETS

import yolov12_plugin as y12
from yolov12_plugin.benchmark.bench import Protocol, against_fp32
from yolov12_plugin.deploy.accuracy import Accuracy, _score, compare_accuracy
from yolov12_plugin.deploy.verify import FAINT, LIMITS, Verification, _at_least, _log_odds_error, judge_accuracy
from yolov12_plugin.errors import NotRunnable

IMGSZ = 96
quantises = pytest.mark.skipif(
    "quantize" not in {*DEFAULT_CFG_DICT, *CFG_INT_KEYS}, reason="this release of Ultralytics quantises no ONNX graph"
)


def train(name, dataset, folder, epochs=45):
    """A folder with a model that has learned something of the shapes, as best.pt, and a YAML of what it was shown."""
    model = YOLO(name, verbose=False)
    fixed = dict(mosaic=0, optimizer="AdamW", lr0=2e-3, warmup_epochs=1, seed=0, device="cpu", workers=0)
    options = dict(imgsz=IMGSZ, epochs=epochs, batch=8, val=False, plots=False, verbose=False, project=str(folder))
    model.train(data=dataset, **fixed, **options)
    Path(model.trainer.last).rename(folder / "best.pt")
    shown = check_det_dataset(dataset)
    data = {key: shown[key] for key in ("names", "kpt_shape") if key in shown}
    data |= {"path": str(shown["path"]), "train": "images/train", "val": "images/train"}
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("yolov12n.yaml", "shapes.yaml", tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="module")
def quantised(trained):
    """The model's ONNX graph, and that in INT8."""
    return [
        YOLO(trained / "best.pt").export(format="onnx", imgsz=IMGSZ, verbose=False, **options)
        for options in ({"quantize": 8, "data": str(trained / "data.yaml")}, {})
    ][::-1]


def photos(trained):
    """Images on which a verdict must be the same: two that the model has never seen the like of, eight, and one."""
    shown = sorted(Path(yaml.safe_load((trained / "data.yaml").read_text())["path"], "images/train").glob("*.png"))
    return [[ASSETS / "bus.jpg", ASSETS / "zidane.jpg"], shown[:8], *([file] for file in shown[8:12])]


@quantises
@pytest.mark.train
@pytest.mark.export
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_is_judged_on_a_dataset(format, trained, quantised):
    file = quantised[1]
    if format == "openvino":
        pytest.importorskip("nncf")
        options = dict(imgsz=IMGSZ, quantize=8, data=str(trained / "data.yaml"), verbose=False)
        file = YOLO(trained / "best.pt").export(format=format, **options)
    for source in photos(trained) if format == "onnx" else ():  # in crops of photos, OpenVINO's may be too far off
        checked = y12.verify_export(trained / "best.pt", file, source=source)
        assert checked and "95 % confidence" in checked.note, (source, checked)
    with pytest.raises(NotRunnable, match="data='' names no dataset"):
        y12.verify_export(trained / "best.pt", file, data="")
    checked = y12.verify_export(trained / "best.pt", file, data=trained / "data.yaml")
    assert checked and checked.precision == "int8" and checked.accuracy.images == 64, checked
    assert checked.accuracy.model > 0.2, checked
    assert checked.accuracy.low <= checked.accuracy.loss <= checked.accuracy.high
    assert json.loads(json.dumps(checked.record(), allow_nan=False))["accuracy"]["metric"] == "mAP50-95"


@quantises
@pytest.mark.train
@pytest.mark.export
@pytest.mark.parametrize("ruin", ["everything quantised", "loud noise as calibration", "no softmax"])
def test_a_ruined_file_passes_on_no_images(ruin, trained, quantised, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, largest):
            random = np.random.default_rng(0)
            self.images = iter([largest * random.random((1, 3, IMGSZ, IMGSZ), dtype="float32") for _ in range(4)])

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else {"images": image}

    fp32, int8 = quantised
    file = tmp_path / "ruined.onnx"
    graph = onnx.load(int8 if ruin == "no softmax" else fp32)
    if ruin == "no softmax":
        for node in graph.graph.node:
            if node.op_type == "Softmax" and "attn" in node.name:
                node.CopyFrom(helper.make_node("Identity", node.input, node.output))
        onnx.save(graph, file)
    elif ruin == "everything quantised":
        quantize_static(fp32, str(file), Reader(1))
    else:
        kept = [node.name for node in graph.graph.node if node.op_type not in ("Conv", "MatMul")]
        quantize_static(fp32, str(file), Reader(255), nodes_to_exclude=kept)
    for source in photos(trained):
        checked = y12.verify_export(trained / "best.pt", file, precision="int8", source=source)
        assert not checked and "data=..." in checked.note, (source, checked)
    assert not y12.verify_export(trained / "best.pt", file, precision="int8", data=trained / "data.yaml")


@pytest.mark.train
@pytest.mark.export
@pytest.mark.parametrize(
    "task, metric, of", [("seg", "mask mAP50-95", "model.21.proto.cv3."), ("pose", "pose mAP50-95", "model.21.cv4.")]
)
def test_masks_and_keypoints_are_judged_and_not_their_boxes_alone(task, metric, of, tmp_path):
    train(f"yolov12n-{task}.yaml", f"shapes-{task}.yaml", tmp_path, epochs=25)
    file = YOLO(tmp_path / "best.pt").export(format="onnx", imgsz=IMGSZ, verbose=False)
    kept = y12.verify_export(tmp_path / "best.pt", file, precision="int8", data=tmp_path / "data.yaml")
    assert kept and kept.accuracy.metric == metric and kept.accuracy.model > 0.05, kept
    graph = onnx.load(file)
    for weights in graph.graph.initializer:
        if weights.name.startswith(of):
            weights.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weights), weights.name))
    onnx.save(graph, file)
    assert not y12.verify_export(tmp_path / "best.pt", file, precision="int8", data=tmp_path / "data.yaml")


@quantises
@pytest.mark.train
@pytest.mark.export
def test_stock_is_calibrated_on_a_dataset_of_the_plugin(trained, tmp_path):
    """Ultralytics exports it as without the plugin, where shapes.yaml is the name of nothing."""
    y12.convert(trained / "best.pt", tmp_path / "yolo12n.pt", to="stock")
    done = yolov12(
        "bench",
        tmp_path / "yolo12n.pt",
        "--int8",
        "shapes.yaml",
        "--smoke",
        "--imgsz",
        IMGSZ,
        "--json",
        "--runtime",
        "onnxruntime",
    )
    assert done.exit_code == 0, done.stderr
    assert [row["precision"] for row in json.loads(done.stdout)["rows"]] == ["fp32", "fp16", "int8"]


@quantises
@pytest.mark.train
@pytest.mark.export
def test_bench_side_by_side(trained):
    done = yolov12(
        "bench", trained / "best.pt", "--int8", trained / "data.yaml", "--smoke", "--imgsz", IMGSZ, "--json",
        "--runtime", "onnxruntime",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert [row["precision"] for row in record["rows"]] == ["fp32", "fp16", "int8"]
    assert [row["verification"]["accuracy"] is not None for row in record["rows"]] == [False, False, True]
    in_int8, layers = record["rows"][2]["int8_layers"]
    assert 0 < in_int8 <= layers == 135 and "int8_layers" not in record["rows"][0]
    slower = record["rows"][2]["against_fp32"] > 1
    assert ("INT8 takes" in done.stderr) is slower
    assert record["protocol"]["int8"] == str(trained / "data.yaml")


@quantises
@pytest.mark.train
@pytest.mark.export
def test_images_of_another_kind(trained, tmp_path):
    """A model that finds nothing in them is neither judged nor timed in INT8."""
    shown = Path(yaml.safe_load((trained / "data.yaml").read_text())["path"])
    random = np.random.default_rng(0)
    for part in "images", "labels":
        (tmp_path / part).mkdir()
    for label in sorted((shown / "labels/train").glob("*.txt"))[:12]:
        (tmp_path / "labels" / label.name).write_bytes(label.read_bytes())
        noise = random.integers(0, 256, (IMGSZ, IMGSZ, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{label.stem}.png"), noise)
    about = yaml.safe_load((trained / "data.yaml").read_text()) | dict.fromkeys(("train", "val"), "images")
    (tmp_path / "noise.yaml").write_text(yaml.safe_dump(about | {"path": str(tmp_path)}))
    options = ("--smoke", "--imgsz", IMGSZ, "--json", "--runtime", "onnxruntime")
    done = yolov12("bench", trained / "best.pt", "--int8", tmp_path / "noise.yaml", *options)
    assert done.exit_code == 2, done.stderr
    fp32, fp16, int8 = json.loads(done.stdout)["rows"]
    assert "latency" in fp32 and "latency" in fp16 and "latency" not in int8
    assert "finds nothing in the images" in int8["error"] and int8["error"] in done.stderr.replace("\n", "")


@pytest.mark.parametrize(
    "data, reason",
    [
        ("nothing.yaml", "is no dataset that can be read"),
        ("coco8.yaml", "is no dataset that can be read"),  # not here, and there is no network
        ("", "data='' names no dataset"),
        ("empty.yaml", "data=empty.yaml: there are no images in {tmp_path}/none"),
        ("other.yaml", "has 2 classes and the model 80"),
        ("grey.yaml", "has images of 1 channels and the model takes 3"),
        ("lone.yaml", "has one val image"),
        ("listed.yaml", "has one val image"),
    ],
)
def test_data_that_cannot_calibrate_is_one_line(data, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("./one/bus.jpg\n")
    for name in "none", "one":
        (tmp_path / name).mkdir()
    (tmp_path / "one/bus.jpg").write_bytes((ASSETS / "bus.jpg").read_bytes())
    coco = list(map(str, range(80)))
    datasets = {
        "empty": {"val": "none", "names": coco},
        "other": {"val": "one", "names": ["a", "b"]},
        "grey": {"val": "one", "names": coco, "channels": 1},
        "lone": {"val": "one", "names": coco},
        "listed": {"val": "one.txt", "names": coco},
    }
    for name, about in datasets.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"path": str(tmp_path), "train": about["val"], **about}))
    done = yolov12("bench", "yolov12n", "--int8", data, "--smoke", "--runtime", "onnxruntime", "--imgsz", 32)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: yolov12n on onnxruntime: data=")][
        -1:
    ]
    assert done.exit_code == 2 and reason.format(tmp_path=tmp_path) in line, done.stderr
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".onnx"]


def test_a_quantiser_that_is_not_installed(monkeypatch):
    from yolov12_plugin.deploy import runtimes

    find = runtimes.importlib.util.find_spec
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name))
    with pytest.raises(NotRunnable, match=r"openvino: nncf is not installed: pip install .*int8"):
        runtimes.RUNTIMES["openvino"].require(also=("nncf",))


def test_two_precisions_at_once_are_refused():
    done = yolov12("bench", "yolov12n", "--int8", "shapes.yaml", "--half")
    assert done.exit_code == 2 and "--half and --int8 DATA do not go together" in done.stderr, done.stderr


def test_precisions_of_a_protocol():
    assert Protocol().precisions == [Protocol()]
    found = [(p.half, p.quantised) for p in Protocol(int8="shapes.yaml").precisions]
    assert found == [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize(
    "loss, high, images, passes, noted",
    [(0.0, 0.01, 80, True, False), (0.02, 0.04, 80, True, True), (0.04, 0.05, 80, False, False), (0, 0, 1, True, True)],
)
def test_the_verdict_on_a_loss(loss, high, images, passes, noted):
    result = Verification("int8", LIMITS["int8"], 8)
    judge_accuracy(result, Accuracy("mAP50-95", images, 0.8, 0.8 - loss, loss - 0.01, high))
    assert bool(result) is passes and (result.note is not None) is noted, result
    nothing = Verification("int8", LIMITS["int8"], 8, diverging="boxes")
    judge_accuracy(nothing, Accuracy("mAP50-95", images, 0.0, 0.0, 0.0, 0.0))
    assert "shows nothing" in nothing.note and not nothing


@pytest.mark.parametrize(
    "precision, images, high", [("int8", 64, 0.02), ("int8", 5, 0.02), ("int8", 64, 0.04), ("fp16", 64, 0.0)]
)
def test_accuracy_has_the_last_word_on_int8_where_the_images_suffice(precision, images, high):
    result = Verification(precision, LIMITS[precision], 8, diverging="boxes")
    judge_accuracy(result, Accuracy("mAP50-95", images, 0.8, 0.8, -0.01, high))
    assert bool(result) == (precision == "int8" and images == 64 and high < 0.03), result


@given(st.lists(st.floats(0.1, 1), min_size=4), st.lists(st.floats(0, 0.004)))
def test_log_odds_of_what_is_not_detected_do_not_count(seen, background):
    """A file that scores nothing is off by all of it, one that scores the background otherwise by nothing."""
    a = torch.tensor(seen + background).view(1, 1, -1)
    other = torch.tensor(seen + [0.0] * len(background)).view(1, 1, -1)
    assert _log_odds_error(a, other, none := LIMITS["int8"].rounding) == 0
    assert _log_odds_error(a, torch.zeros_like(a), none) == pytest.approx(1)
    few = torch.full((1, 1, 9), 0.006)
    assert _log_odds_error(few, torch.zeros_like(few), none) < 0.6 / FAINT  # in a scene of nothing


def test_time_against_fp32_and_a_word_where_int8_is_the_slower():
    rows = [
        {"model": name, "runtime": "onnxruntime", "precision": precision, "ratio": ratio}
        for name, *ratios in (("a", 1.0, 1.1, 0.5), ("b", 2.0, 2.0, 3.0))
        for precision, ratio in zip(("fp32", "fp16", "int8"), ratios)
    ]
    said = []
    against_fp32(rows, said.append)
    assert [row["against_fp32"] for row in rows] == [1, 1.1, 0.5, 1, 1, 1.5]
    (line,) = said
    assert line.startswith("Warning: b on onnxruntime: INT8 takes 1.50 times as long as FP32")


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_bound_of_a_share(hits_of):
    hits, count = hits_of
    assert -1e-9 <= _at_least(hits, count) <= hits / count + 1e-9
    assert _at_least(hits, count) <= _at_least(2 * hits, 2 * count) + 1e-9


def test_top_1_of_a_classifier():
    assert _score([True, False, True, True], np.arange(4)) == 0.75


def test_a_task_without_a_measure_is_refused():
    with pytest.raises(NotRunnable, match="a model of the task semantic is not judged on a dataset: leave out data=x"):
        compare_accuracy(SimpleNamespace(task="semantic"), Path("x.onnx"), "x.yaml", 64)
