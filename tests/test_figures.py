"""The paper's tables and figures beside what was measured."""

import json
from xml.etree import ElementTree

import pytest
from conftest import yolov12

from yolov12_plugin.benchmark.results import read_results
from yolov12_plugin.errors import ResultsError
from yolov12_plugin.published import TABLE1, TABLE4, YOLO26

CPU = {"processor": "AMD EPYC 7B13", "cores": 2, "gpu": None}
H100 = {"processor": "Intel Xeon", "cores": 16, "gpu": {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}}
T4 = H100 | {"gpu": {"name": "Tesla T4", "compute_capability": "7.5"}}


def measured(model, ms, device="cpu", precision="fp32", **changes):
    times = {"median_ms": ms, "p10_ms": ms, "p90_ms": ms, "mean_ms": ms, "std_ms": 0.1, "samples": 40, "clipped": 0}
    row = {
        "model": model,
        "runtime": "onnxruntime" if device == "cpu" else "tensorrt",
        "device": device,
        "precision": precision,
        "imgsz": 640,
        "batch": 1,
        "parameters": 2_590_824,
        "gflops": 6.5,
        "latency": times,
        "latency_nms": None,
        "ratio": 1.0,
        "paper_ms": None,
        "verification": {},
    }
    return row | changes


@pytest.fixture
def results(tmp_path):
    def write(name, machine, rows, **changes):
        path = tmp_path / name
        data = {
            "schema": 1,
            "kind": "latency",
            "created": "2026-11-24T12:00:00+00:00",
            "protocol": {"imgsz": 640, "batch": 1, "threads": 2, "cuda_graph": False, "compile": False},
            "machine": machine,
            "versions": {"torch": "2.9.0"},
            "rows": rows,
        }
        path.write_text(json.dumps(data | changes))
        return path

    return write


@pytest.fixture
def cpu(results):
    rows = [
        measured("yolov12n", 50.14),
        measured("yolov12s", 130.0),
        measured("yolo11n", 45.0),
        measured("yolo12n", 51),
    ]
    failed = {"model": "yolov9c", "runtime": "onnxruntime", "error": "out of memory"}
    return results("cpu.json", CPU, [*rows, measured("yolov8n", 9.0, imgsz=320), failed])


@pytest.fixture
def gpu(results):
    def of(machine):
        rows = [measured(f"yolov12{s}", ms, "cuda:0", p) for s in "ns" for p, ms in (("fp32", 2.5), ("fp16", 1.25))]
        return results("gpu.json", machine, rows)

    return of


def paper(*command):
    done = yolov12("paper", *command)
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(*command):
    return json.loads(paper(*command, "--json"))


def setups(svg):
    """What its legend says of where the numbers come from."""
    words = ("".join(e.itertext()) for e in ElementTree.parse(svg).iter() if e.tag.endswith("}text"))
    return [text for text in words if text.startswith(("paper:", "Ultralytics,", "measured:"))]


def test_figures(tmp_path, cpu, gpu):
    """Files that are the same in every run; each measurement in the panel of its kind, by its hardware's name."""
    path = gpu(H100)
    for name in "figure1", "figure4":
        for file in "a.svg", "b.svg":
            paper(name, "--out", tmp_path / f"{name}-{file}", "--results", cpu, path)
        text = (tmp_path / f"{name}-a.svg").read_text(encoding="utf-8")
        assert text == (tmp_path / f"{name}-b.svg").read_text(encoding="utf-8")
        assert all(f">{row.family}<" in text for row in (*TABLE1, *YOLO26))
    assert setups(tmp_path / "figure1-a.svg") == [
        "paper: T4, TensorRT FP16",
        "Ultralytics, of YOLO26: T4, TensorRT FP16",
        "measured: tensorrt, NVIDIA H100 80GB HBM3, fp32",
        "measured: tensorrt, NVIDIA H100 80GB HBM3, fp16",
    ]
    assert setups(tmp_path / "figure4-a.svg") == [
        "paper: Intel Core i7-10700K, without FlashAttention",
        "Ultralytics, of YOLO26: ONNX Runtime on its CPU",
        "measured: onnxruntime, AMD EPYC 7B13 (2 threads), fp32",
    ]


@pytest.mark.parametrize("machine, said", [(T4, True), (H100, False)])
def test_measured_on_a_t4_only_where_a_t4_measured(tmp_path, gpu, machine, said):
    path = gpu(machine)
    paper("figure1", "--out", tmp_path / "a.svg", "--results", path)
    shown = [text for text in setups(tmp_path / "a.svg") if text.startswith("measured")]
    for name in "table1", "table4":
        shown += {setup for row in rows(name, "--results", path) for setup in row["latency_ms"]}
    assert len(shown) == 5 and all(("T4" in text) == said for text in shown)


def test_table_1(cpu):
    table = rows("table1", "--all", "--results", cpu)
    setup = "onnxruntime, AMD EPYC 7B13 (2 threads), fp32 (ms)"
    assert [row["model"] for row in table] == [*(row.method for row in TABLE1), "yolo12n"]
    ours = next(row for row in table if row["name"] == "yolov12n")
    assert {key: ours[key] for key in ours if key not in ("train", "evaluate", "bench")} == {
        "model": "YOLOv12-N",
        "name": "yolov12n",
        "gflops_paper": 6.5,
        "gflops": 6.5,
        "params_m_paper": 2.6,
        "params_m": 2.6,
        "ap_paper": 40.6,
        "ap50_paper": 56.7,
        "ap75_paper": 43.8,
        "latency_ms_paper": 1.64,
        "ratio_paper": 1.0,
        "ratio": None,
        "latency_ms": {setup: 50.14},
        "latency_ratio": {setup.removesuffix(" (ms)"): 1.0},
    }
    assert next(row for row in table if row["name"] == "yolov8n")["latency_ms"] == {}  # measured at another size
    other = table[-1]  # not in the paper: as measured
    assert (other["gflops_paper"], other["gflops"], other["params_m"], other["bench"]) == (None, 6.5, 2.6, None)
    assert "yolov9c, onnxruntime: out of memory" in paper("table1", "--results", cpu)


@pytest.mark.parametrize(
    "name, said",
    [
        ("table1", ["left out, as they are not of one image of 640 pixels, as all in the paper: yolov8n (onnxruntime, fp32, 1 x 320)"]),
        ("figure4", ["yolov8n (onnxruntime, fp32, 1 x 320)", "measured on a GPU, and this is of CPUs: yolov12n (tensorrt, fp32, 1 x 640)"]),
        ("figure1", ["yolov8n (onnxruntime, fp32, 1 x 320)", "measured on a CPU, and this is of GPUs: yolov12n (onnxruntime, fp32, 1 x 640)"]),
        ("table4", ["measured on a CPU, and this is of GPUs: ", "the table is of FP32 and FP16: yolov12n (tensorrt, int8, 1 x 640)"]),
    ],
)  # fmt: skip
def test_what_of_the_results_is_not_shown_is_said(name, said, cpu, results, tmp_path):
    rows_of_gpu = [measured("yolov12n", 1, "cuda:0", precision) for precision in ("fp32", "int8")]
    picture = ["--out", tmp_path / "a.png"] if name.startswith("figure") else []
    shown = " ".join(paper(name, "--results", cpu, results("gpu.json", T4, rows_of_gpu), *picture).split())
    assert all(part in shown for part in said)
    assert "left out" not in paper("table1")


def test_table_4_has_tf32_as_fp32(results):
    """Of a GPU that rounds products to it; the ratio says which it was."""
    found = [measured(f"yolov12{s}", ms, "cuda:0", "tf32") for s, ms in (("n", 2.0), ("s", 3.0))]
    found[1]["ratio"] = 1.5
    s = rows("table4", "--results", results("tf32.json", H100, found))[1]
    assert s["latency_ms"] == {"tensorrt, NVIDIA H100 80GB HBM3 (ms)": {"fp32": 3.0, "fp16": None}}
    assert s["latency_ratio"] == {"tensorrt, NVIDIA H100 80GB HBM3, tf32": 1.5}


def test_table_4_pairs_precisions_of_gpus(cpu, gpu):
    table = rows("table4", "--all", "--results", cpu, gpu(H100))
    assert [row["model"] for row in table] == [row.method for row in TABLE4]
    ours = next(row for row in table if row["name"] == "yolov12n")
    assert ours["latency_ms"] == {"tensorrt, NVIDIA H100 80GB HBM3 (ms)": {"fp32": 2.5, "fp16": 1.25}}
    assert ours["rtx3080_ms_paper"] == {"fp32": 1.7, "fp16": 1.1}


@pytest.mark.parametrize(
    "machine, row",
    [
        (CPU, measured("yolov12n", 2.0, "cuda:0")),  # on a GPU without a name
        (CPU, {"model": "yolov12n", "runtime": "onnxruntime"}),
        (CPU, measured("yolov12n", 2.0, latency={})),
    ],
)
def test_what_lacks_a_part_is_refused(results, machine, row):
    path = results("bad.json", machine, [row])
    with pytest.raises(ResultsError, match=r"bad\.json lacks a part of schema 1: "):
        read_results(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_what_is_no_results_file_is_refused(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"bad\.json (is no JSON|has schema None)"):
        read_results(path)
