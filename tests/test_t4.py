"""Table 1 on a T4: the script on a CPU and against the stand-in for TensorRT, the notebook executed, and the record."""

import importlib.util
import json
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from fake_tensorrt import VERSIONS, engine, tensorrt

from yolov12_plugin.benchmark import bench as benchmark
from yolov12_plugin.benchmark.machine import Clocks
from yolov12_plugin.benchmark.results import read_results
from yolov12_plugin.deploy import tensorrt as ours
from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.models import MODELS
from yolov12_plugin.published import T4_OF_THE_AUTHORS, T4_OF_ULTRALYTICS

TEN = next(version for version in reversed(VERSIONS) if version.startswith("10."))


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


t4, check_record = script("t4"), script("check_record")
CPU = json.loads((ROOT / "benchmarks/results/cpu.json").read_text())


def timed_row(name, ratio=1.0):
    row = next(row for row in CPU["rows"] if "latency" in row)
    return row | {"model": name, "ratio": ratio}


@pytest.fixture
def measured(monkeypatch):
    """The models of each run of `bench`, which times nothing here; those in the second list fail."""
    calls, broken = [], []

    def run(models, runtimes, protocol, *, report, advance):
        calls.append(models)
        if "interrupt" in broken and len(calls) == 2:
            raise KeyboardInterrupt
        rows = [
            {"model": name, "runtime": runtimes[0], "error": "no"} if name in broken else timed_row(name, i + 1.0)
            for i, name in enumerate(models)
        ]
        device = torch.device("cpu")
        return benchmark.record(protocol, rows, device, None, Clocks(device))

    monkeypatch.setattr(benchmark, "bench", run)
    return calls, broken


def test_a_session_that_is_taken_away_loses_one_scale(measured, tmp_path):
    calls, broken = measured
    out = tmp_path / "t4.json"
    broken.append("interrupt")
    with pytest.raises(KeyboardInterrupt):
        t4.run(out, "nsm", smoke=True)
    assert t4.timed(json.loads(out.read_text())) == calls[0]
    record = t4.run(out, "nsm", smoke=True)
    assert [models[1] for models in calls] == ["yolov12n-turbo", "yolov12s", "yolov12s", "yolov12m"]
    assert all(models[0] == "yolov12n" for models in calls)
    names = t4.timed(record)
    assert len(names) == len(set(names)) == 15 and record == json.loads(out.read_text())
    t4.run(out, "nsm", smoke=True)
    assert len(calls) == 4


def test_what_failed_is_tried_again(measured, tmp_path):
    calls, broken = measured
    broken += ["yolo26n", "yolov12n-turbo"]
    assert len(t4.timed(t4.run(tmp_path / "t4.json", "n", smoke=True))) == 3
    broken.clear()
    record = t4.run(tmp_path / "t4.json", "n", smoke=True)
    assert calls[1] == ["yolov12n", "yolov12n-turbo", "yolo26n"]
    assert len(t4.timed(record)) == len(record["rows"]) == 5


def test_no_ratio_to_another_base(measured, tmp_path):
    _, broken = measured
    t4.run(tmp_path / "t4.json", "n", smoke=True)
    broken.append("yolov12n")
    record = t4.run(tmp_path / "t4.json", "ns", smoke=True)
    ratios = {row["model"]: row["ratio"] for row in record["rows"]}
    assert ratios["yolov12n"] == 1 and ratios["yolo11n"] == 4
    assert all(ratios[family.format("s")] is None for family in t4.FAMILIES)


def test_one_record_is_of_one_machine(measured, tmp_path):
    out = tmp_path / "t4.json"
    record = t4.run(out, "n", smoke=True)
    record["machine"]["processor"], record["versions"]["torch"] = "another", "2.1"
    out.write_text(json.dumps(record))
    with pytest.raises(NotRunnable, match=r"torch 2\.1, here .*GPU another, here"):
        t4.run(out, "s", smoke=True)
    assert json.loads(out.read_text()) == record


def test_clocks_of_several_runs():
    """They are steady together, or not."""

    def run(*clocks):
        gpu = {"name": "Tesla T4", "temperature_c": 60.0 + len(clocks), "before": {"temperature_c": 40.0 + len(clocks)}}
        gpu |= {"sm_clocks_mhz": list(clocks), "clocks_steady": len(set(clocks)) == 1}
        return {"rows": [timed_row("yolov12n")], "machine": {"processor": "x", "gpu": gpu}}

    gpu = t4.merged(run(585.0), run(1590.0, 1590.0))["machine"]["gpu"]
    assert gpu["sm_clocks_mhz"] == [585.0, 1590.0, 1590.0] and gpu["clocks_steady"] is False
    assert gpu["before"] == {"temperature_c": 41.0} and gpu["temperature_c"] == 62.0


def test_published_latencies_are_of_models_that_are_timed():
    models = [family.format(scale) for scale in "nsmlx" for family in t4.FAMILIES]
    assert {*T4_OF_ULTRALYTICS, *T4_OF_THE_AUTHORS} <= set(models)
    assert all(T4_OF_THE_AUTHORS[name] < MODELS[name.removesuffix("-turbo")].latency for name in models if "-t" in name)


def problems(record, tmp_path):
    file = tmp_path / "record.json"
    file.write_text(json.dumps(record))
    return list(check_record.problems(record, read_results(file)))


def test_a_record_that_can_be_kept(tmp_path):
    assert problems(CPU, tmp_path) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: r.update(created="yesterday"), "no date"),
        (lambda r: r.update(rows=[]), "no model was timed"),
        (lambda r: r["protocol"].update(runs=3), "3 rounds"),
        (lambda r: r["versions"].pop("torch"), "has no torch"),
        (lambda r: r["rows"].append(r["rows"][0]), "2 times"),
        (lambda r: r["rows"][0].pop("verification"), "was not verified"),
        (lambda r: r["rows"][0]["verification"].update(passed=False), "was not verified"),
        (lambda r: r["rows"][0].update(device="cuda"), "machine.gpu is null"),
        (lambda r: r["rows"][0]["latency"].update(median_ms=0.0), "that no clock gives"),
        (lambda r: r["rows"][0].update(ratio=-1.0), "ratio"),
        (lambda r: r["machine"].update(processor="/home/me"), "private"),
    ],
)
def test_a_record_that_cannot(spoil, said, tmp_path):
    record = deepcopy(CPU)
    spoil(record)
    if record["rows"] and record["rows"][0]["device"] == "cuda":  # read_results asks for its name already
        record["machine"]["gpu"] = {}
        with pytest.raises(Exception, match="lacks a part"):
            problems(record, tmp_path)
        return
    (line,) = problems(record, tmp_path)
    assert said in line


def test_what_a_reader_is_told(tmp_path):
    record = deepcopy(CPU)
    record["machine"]["gpu"] = {"name": "NVIDIA A100-SXM4-40GB", "clocks_steady": False}
    record["rows"][0] |= {"runtime": "tensorrt", "device": "cuda", "precision": "fp32"}
    (tmp_path / "x.json").write_text(json.dumps(record))
    told = "\n".join(check_record.doubts(record, read_results(tmp_path / "x.json")))
    assert "no T4" in told and "clock moved" in told and "not in half precision" in told


def test_smoke_is_of_the_cpu(capsys):
    t4.check(smoke=True)
    assert "no T4" in capsys.readouterr().err


@pytest.fixture
def stand_in(monkeypatch):
    """TensorRT whose builder puts the ONNX graph in the engine, on a machine whose GPU is the CPU's memory."""
    from ultralytics.engine.exporter import Exporter

    def build(self, *args, **kwargs):
        graph = self.export_onnx()
        header = json.dumps(self.metadata, default=str).encode()
        file = self.file.with_suffix(".engine")
        file.write_bytes(len(header).to_bytes(4, "little") + header + engine(Path(graph).read_bytes()))
        return str(file)

    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(TEN))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ours, "current_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(Exporter, "export_engine", build)


@pytest.mark.export
def test_on_the_stand_in(stand_in, monkeypatch, tmp_path, capsys):
    """One model whose engine is broken does not end it."""
    monkeypatch.setattr(t4, "FAMILIES", ("yolov12{}", "yolo11{}", "yolov12{}-tubro"))
    out = tmp_path / "t4.json"
    t4.main(["check", "run", "show", "--device", "cpu", "--scales", "n", "--runs", "2", "--out", str(out)])
    results = read_results(out)
    assert [(row.model, row.runtime, row.precision, row.imgsz) for row in results.rows] == [
        ("yolov12n", "tensorrt", "fp16", 640),
        ("yolo11n", "tensorrt", "fp16", 640),
    ]
    assert [failure.model for failure in results.failures] == ["yolov12n-tubro"]
    assert results.protocol["cuda_graph"] and results.protocol["half"] and results.versions["tensorrt"] == TEN
    shown = capsys.readouterr().out
    assert "tensorrt, " in shown and "YOLO11-N" in shown and "yolov12n-tubro" in shown


@pytest.mark.export
@pytest.mark.process
def test_the_notebook(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "benchmarks/t4.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "no output is kept"
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += f'\nOUT, OPTIONS = "{tmp_path / "t4.json"}", "--smoke --runs 2"'
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "benchmarks")}}).execute()
    said = {
        cell.id: "".join(out.get("text", "") for out in cell.outputs) for cell in notebook.cells if "outputs" in cell
    }
    assert "Traceback" not in "".join(said.values())
    assert "All of it is installed" in said["install"] and "YOLOv12-X" in said["show"]
    results = read_results(tmp_path / "t4.json")
    assert [row.model for row in results.rows] == [family.format("n") for family in t4.FAMILIES]
    assert not results.failures and {row.runtime for row in results.rows} == {"onnxruntime"}
