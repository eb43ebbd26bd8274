"""What `benchmarks/gpu.sh` does on a CUDA machine, as far as a CPU can tell."""

import importlib.util
import json
import sys
import zipfile

import pytest
import torch
from conftest import ROOT


@pytest.fixture(scope="module")
def gpu():
    """The script, which imports another beside it."""
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks/gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        sys.modules.pop("attention", None)


def test_backends_agree_with_math_in_double(gpu):
    rows = list(gpu.backends([(2, 2, 77, 32)], torch.device("cpu")))
    found = {(row["backend"], row["precision"]): row for row in rows}
    assert len(rows) == len(found) == 12
    assert all(found[backend, p]["passed"] for backend in ("auto", "sdpa", "math") for p in gpu.DTYPES)
    assert all(found["flash", p]["passed"] is None and found["flash", p]["error"] for p in gpu.DTYPES)
    assert found["sdpa", "fp32"]["dq"] < found["sdpa", "fp16"]["dq"] < found["sdpa", "bf16"]["dq"]


def test_a_wrong_gradient_is_seen(gpu, monkeypatch):
    """Of one that computes the right values."""
    attend = gpu.attend

    def wrong(q, k, v, backend):
        out = attend(q, k, v, backend=backend)
        return out + 0.1 * (k.sum() - k.sum().detach()) if backend == "sdpa" else out

    monkeypatch.setattr(gpu, "attend", wrong)
    rows = [row for row in gpu.backends([(1, 2, 77, 32)], torch.device("cpu")) if row["precision"] == "fp32"]
    assert {row["backend"]: row["passed"] for row in rows} == {"auto": True, "flash": None, "sdpa": False, "math": True}


def test_what_does_not_fit_costs_no_other(gpu, monkeypatch):
    """Stock, whose memory is the larger, fails first; ratios are to it, so there are none then."""
    build = gpu.attention.build

    def too_large(yaml):
        model = build(yaml)
        if yaml.startswith("yolo12"):
            monkeypatch.setattr(model, "forward", lambda *args: out_of_memory())
        return model

    def out_of_memory():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(gpu.attention, "build", too_large)
    rows = gpu.attention.training("n", 64, 1, torch.device("cpu"), 1, backends=["auto"], against=[])
    (failed,) = (row for row in rows if "error" in row)
    assert failed["model"] == "yolo12n, stock" and failed["error"] == "CUDA out of memory"
    assert [row["model"] for row in rows if row is not failed] == ["yolov12n, auto", "yolov12n, checkpointing"]
    assert all(row["ratio"] is None for row in rows if row is not failed)


@pytest.mark.slow
def test_all_of_it(gpu, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    command = ["--device", "cpu", "--imgsz", "64", "--batch", "1", "--rounds", "1", "--models", "yolov12n"]
    with pytest.raises(SystemExit) as end:
        gpu.main([*command, "--timed", "yolov12n", "yolo12n", "--against", "yolo11", "--out", str(out)])
    record = json.loads(out.read_text())
    assert end.value.code == 0 and record["kind"] == "gpu"
    assert [(row["precision"], row["passed"]) for row in record["outputs"]] == [(p, True) for p in gpu.DTYPES]
    assert record["outputs"][0]["box_px"] < record["outputs"][2]["box_px"]
    rows = record["latency, eager"]["rows"]
    assert [row["model"] for row in rows] == ["yolov12n", "yolo12n"] and all(row["latency"] for row in rows)
    trained = {row["model"] for row in record["training, 64"]}
    assert trained == {"yolo12n, stock", "yolov12n, auto", "yolov12n, checkpointing", "yolo11n"}
    assert "latency, compiled" not in record and "none of the outputs" in capsys.readouterr().out


def test_a_broken_part_is_kept_and_costs_no_other(gpu, monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    for name in "outputs", "bench":
        monkeypatch.setattr(gpu, name, broken)
    monkeypatch.setattr(gpu.attention, "training", lambda *args, **names: [{"model": "x", "ms": 1.0}])
    monkeypatch.setattr(gpu, "SHAPES", ((1, 2, 77, 32),))
    with pytest.raises(SystemExit) as end:
        gpu.main(["--device", "cpu", "--imgsz", "64", "--out", str(tmp_path / "gpu.json")])
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert end.value.code == 1
    assert record["outputs"] == record["latency, eager"]
    assert record["outputs"][0]["error"] == "RuntimeError: CUDA error: an illegal memory access"
    assert record["training, 64"] == [{"model": "x", "ms": 1.0}] and record["backends"][0]["passed"]


@pytest.mark.skipif(sys.platform != "linux", reason="a machine with CUDA that runs bash")
def test_the_command_takes_wheels_and_leaves_nothing(run, tmp_path):
    """PyTorch is the machine's own, also where its wheel lies there."""
    wheels, temporary = tmp_path / "wheels", tmp_path / "tmp"
    wheels.mkdir(), temporary.mkdir()
    with zipfile.ZipFile(wheels / "probe-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sitecustomize.py", "print('from the wheel')")
        wheel.writestr("probe-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: probe\nVersion: 1\n")
        wheel.writestr("probe-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("probe-1.dist-info/RECORD", "")
    (wheels / "torch-99-py3-none-any.whl").write_text("no wheel")
    command = ["bash", ROOT / "benchmarks/gpu.sh", wheels, "--device", "cuda:7"]
    done = run(command, check=False, TMPDIR=str(temporary))
    assert done.returncode == 1 and "from the wheel" in done.stdout, done.stdout + done.stderr
    assert "Error: device 'cuda:7' is not there" in done.stderr
    assert not list(temporary.iterdir())
