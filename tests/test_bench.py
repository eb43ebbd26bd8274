"""`yolov12 bench` and the hook, on the runtimes that need no GPU."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SHARED, needs, yolov12
from test_verify import initializer, lose_attention, tampered
from ultralytics import YOLO

import yolov12_plugin as y12
from yolov12_plugin.benchmark import machine
from yolov12_plugin.benchmark.bench import Candidate, Protocol, bench, pick_options, pick_runtimes, time_prepared
from yolov12_plugin.benchmark.hook import ExportDiffers
from yolov12_plugin.benchmark.results import read_results
from yolov12_plugin.deploy.runtimes import RUNTIMES
from yolov12_plugin.deploy.runtimes.pytorch import Torch
from yolov12_plugin.deploy.runtimes.session import Options
from yolov12_plugin.deploy.verify import enliven, read_images
from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.patching import suspended

YOLOV12 = Path(sys.executable).with_name("yolov12")
YOLO_COMMAND = Path(sys.executable).with_name("yolo")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with small.pt, whose outputs depend on the image, and its ONNX graph of 64 pixels."""
    folder = tmp_path_factory.mktemp("bench")
    torch.manual_seed(0)
    model = YOLO("yolov12n.yaml")
    enliven(model.model, read_images((64, 64)))
    model.save(folder / "small.pt")
    YOLO(folder / "small.pt").export(format="onnx", imgsz=64, verbose=False)
    return folder


def fast(*more):
    return ("--imgsz", 64, "--runs", 2, "--warmup", 1, *more)


@pytest.mark.export
def test_all_runtimes_in_one_record(tmp_path):
    out = tmp_path / "out.json"
    names = "onnxruntime,openvino,torch,torchscript"
    done = yolov12("bench", "yolov12n", "yolo12n", "--runtime", names, *fast("--out", out))
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_text())
    rows = record["rows"]
    assert [(r["runtime"], r["model"]) for r in rows] == [
        (runtime, model) for runtime in names.split(",") for model in ("yolov12n", "yolo12n")
    ]
    for row in rows:
        assert row["precision"] == "fp32" and row["device"] == "cpu" and row["verification"]["passed"]
        assert row["latency"]["samples"] + row["latency"]["clipped"] == 2
        assert row["latency_nms"] is not None and row["paper_ms"] == 1.64
        assert row["ratio"] == 1 or row["model"] != "yolov12n"
    assert {r["parameters"] for r in rows} == {2590824}
    assert record["versions"]["ultralytics"] and record["machine"]["processor"] and record["machine"]["gpu"] is None
    assert len(read_results(out).rows) == len(rows)
    for text in ("yolo12n", "onnxruntime fp32", "2 threads" if os.cpu_count() == 2 else "threads", "1 x 64"):
        assert text in done.stdout
    assert "T4" not in done.stdout.splitlines()[0]


@pytest.mark.export
@pytest.mark.parametrize("name", ["yolov6n", "yolov8n-p6", "yolov12n-turbo"])
def test_any_model(name):
    done = yolov12("bench", name, "--runtime", "onnxruntime", *fast())
    assert done.exit_code == 0 and name in done.stdout, done.output


@pytest.mark.parametrize("name", ["x_ncnn_model", "x.mnn", "x_paddle_model", "x_saved_model", "x_edgetpu.tflite"])
def test_an_exported_file_of_any_format_is_taken_for_one(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(NotRunnable, match=rf"{name} cannot be verified without its model: put x\.pt beside it"):
        Candidate(str(tmp_path / name))


def test_an_engine_leaves_the_quantiser_as_it_was(tmp_path, monkeypatch):
    """What ModelOpt takes away while Ultralytics builds one, ONNX Runtime has again for the next format."""
    kinds = pytest.importorskip("onnxruntime.quantization.registry").QDQRegistry
    usual = dict(kinds)

    def export(self, **options):
        kinds.clear()
        return tmp_path / "x.engine"

    monkeypatch.setattr(YOLO, "export", export)
    runtime = SimpleNamespace(format="engine", on_gpu=True, require=lambda also: None)
    try:
        assert Candidate("yolov12n").export(runtime, Protocol(), tmp_path) == tmp_path / "x.engine"
        assert usual and kinds == usual
    finally:
        kinds.update(usual)


@pytest.mark.export
@pytest.mark.process
def test_smoke_in_a_fresh_process(run, tmp_path):
    done = run([YOLOV12, "bench", "yolov12n", "yolov12n-cls", "yolov10n", "--smoke", "--json"])
    rows = json.loads(done.stdout)["rows"]
    assert [row["latency"]["samples"] for row in rows] == [3, 3, 3] and rows[2]["latency_nms"] is None
    assert list(tmp_path.iterdir()) == []  # exports are made and left elsewhere


@pytest.mark.export
def test_a_failing_model_is_reported_and_the_others_go_on(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    models = ("nosuch", "yolov12n", tmp_path / "broken.pt", tmp_path / "no.onnx", "yolov99n.yaml")
    out = tmp_path / "out.json"
    done = yolov12("bench", *models, "--runtime", "onnxruntime,torch", *fast("--out", out))
    assert done.exit_code == 2 and "yolov12n" in done.stdout
    lines = done.stderr.strip().splitlines()
    assert len([line for line in lines if line.startswith("Error: ")]) == len(lines) == 4, done.stderr
    for name in ("nosuch", "broken.pt", "no.onnx", "yolov99n.yaml"):
        assert sum(name in line for line in lines) == 1
    rows = json.loads(out.read_text())["rows"]
    assert sum("error" in row for row in rows) == 8 - 1 and len(rows) == 9  # no.onnx has one runtime


@pytest.mark.export
def test_wrong_export_gets_no_latency(trained, tmp_path):
    shutil.copy(trained / "small.pt", tmp_path)
    tampered(shutil.copy(trained / "small.onnx", tmp_path), lose_attention)
    done = yolov12("bench", tmp_path / "small.onnx", "yolov12n", *fast("--json"))
    assert done.exit_code == 1
    assert "Error: small.onnx on onnxruntime does not compute the model, output0" in done.stderr
    wrong, right = json.loads(done.stdout)["rows"]
    assert "latency" not in wrong and right["latency"]["median_ms"] > 0
    done = yolov12("bench", tmp_path / "small.onnx", *fast())
    assert done.exit_code == 1 and done.stdout == ""


@pytest.mark.export
def test_exported_file_needs_its_model(trained, tmp_path):
    file = shutil.copy(trained / "small.onnx", tmp_path)
    done = yolov12("bench", file, *fast())
    assert done.exit_code == 2 and "cannot be verified without its model: put small.pt beside it" in done.stderr
    assert yolov12("bench", file, "--reference", trained / "small.pt", *fast()).exit_code == 0
    done = yolov12("bench", file, "--reference", tmp_path / "no.pt", *fast())
    assert done.exit_code == 2 and "no.pt" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    done = yolov12("bench", trained / "small.onnx", "--runtime", "openvino", *fast())
    assert done.exit_code == 2 and "small.onnx on openvino: runs on onnxruntime, not on openvino" in done.stderr


@pytest.mark.export
@pytest.mark.parametrize("options", [("--imgsz", 96), ("--batch", 2)])
def test_size_that_a_file_does_not_take(options, trained):
    done = yolov12("bench", trained / "small.onnx", "--runs", 1, *options)
    assert done.exit_code == 2 and "takes images of 1 x (64, 64), not" in done.stderr


@pytest.mark.export
def test_smoke_takes_a_file_as_it_is(trained):
    done = yolov12("bench", trained / "small.onnx", "yolov12n", "--smoke", "--json")
    assert done.exit_code == 0 and [row["imgsz"] for row in json.loads(done.stdout)["rows"]] == [64, 160]


@pytest.mark.slow
def test_size_that_the_stride_does_not_divide(trained):
    done = yolov12("bench", trained / "small.pt", "--runtime", "torch", "--imgsz", 70, "--runs", 1, "--json")
    assert json.loads(done.stdout)["rows"][0]["imgsz"] == 96
    assert "Warning: small on torch runs at 96 pixels: its stride does not divide 70" in done.stderr


@pytest.mark.export
def test_batch(trained):
    done = yolov12("bench", trained / "small.pt", "--runtime", "onnxruntime,torch", *fast("--batch", 3, "--json"))
    assert done.exit_code == 0, done.output
    assert [row["batch"] for row in json.loads(done.stdout)["rows"]] == [3, 3]


@pytest.mark.export
def test_precision_that_is_run_is_said(trained):
    done = yolov12("bench", trained / "small.pt", "--half", "--runtime", "openvino,torch", *fast("--json"))
    found = {row["runtime"]: row["precision"] for row in json.loads(done.stdout)["rows"]}
    assert found["torch"] == "fp16"
    if found["openvino"] != "fp16":
        assert f"was asked for fp16 and runs in {found['openvino']}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--runtime", "tensorrtt"), "runtime 'tensorrtt' is unknown: tensorrt, onnxruntime"),
        (("--device", "7"), "device '7' is not there, CUDA sees 0: take --device cpu"),
        (("--device", "gpu"), "'gpu' is no device: cpu, 0 or cuda:0"),
        (("--out", "/no/such/folder/x.json"), "/no/such/folder/x.json"),
        (("--aot", ","), "no compute capability is named"),
        (("--aot", "sm75,sm1"), "sm1"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said):
    if "--aot" in arguments:
        pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")
    done = yolov12("bench", "yolov12n", *arguments)
    assert done.exit_code == 2 and said in done.stderr and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


HINTS = {
    "tensorrt": "TensorRT is not installed: pip install tensorrt",
    "onnxruntime": 'onnxruntime is not installed: pip install "yolov12-plugin[export]"',
    "openvino": 'openvino is not installed: pip install "yolov12-plugin[export]"',
}


def test_runtimes_that_are_not_installed(fork):
    code = f"""
import sys
from importlib.abc import MetaPathFinder
missing = {list(HINTS)}
class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in missing: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
real = __import__('importlib.util').util.find_spec
__import__('importlib.util').util.find_spec = lambda name, *a: None if name in missing else real(name, *a)
sys.meta_path.insert(0, Missing())
from yolov12_plugin.cli import app
app(['bench', 'yolov12n', 'yolo11n', '--runtime', '{",".join(HINTS)},torch', '--imgsz', '64', '--runs', '1'])
"""
    done = fork(code, check=False)
    assert done.returncode == 2 and all(done.stderr.count(hint) == 1 for hint in HINTS.values()), done.stderr
    assert "yolov12n" in done.stdout and "yolo11n" in done.stdout  # torch goes on


@pytest.mark.slow
def test_stock_is_built_and_exported_without_the_plugin():
    stock, ours = Candidate("yolo12n"), Candidate("yolov12n")
    assert y12.is_registered()
    kinds = [{type(m) for m in c.net.modules() if type(m).__name__ == "A2C2f"} for c in (stock, ours)]
    assert kinds[1] == {y12.A2C2f} and y12.A2C2f not in kinds[0] and len(kinds[0]) == 1
    assert all(torch.equal(a, b) for a, b in zip(stock.net.parameters(), ours.net.parameters()))


def test_suspended_leaves_things_as_they_were(stock):
    with suspended():
        assert not y12.is_registered()
    assert not y12.is_registered()


def test_runtimes_by_default():
    assert pick_runtimes(["yolov12n", "x.torchscript"], None, Options()) == ["onnxruntime", "torchscript"]
    for folder, name in {"x_openvino_model/": "openvino", "x_ncnn_model": "ncnn", "x_paddle_model": "paddle"}.items():
        assert pick_runtimes([folder], None, Options()) == [name]
    assert pick_runtimes(["yolov12n"], None, Options(torch.device("cuda", 0))) == ["tensorrt"]
    assert pick_runtimes(["yolov12n"], ["torch, openvino", "torch"], Options()) == ["torch", "openvino"]
    with pytest.raises(NotRunnable, match="device 'cuda' is not there"):
        pick_options("cuda", None, False, False)
    assert pick_options(None, 3, False, True) == Options(torch.device("cpu"), threads=3, compile=True)
    assert list(RUNTIMES) == ["tensorrt", "onnxruntime", "openvino", "ncnn", "mnn", "torch", "torchscript"]


@pytest.mark.slow
def test_a_session_that_breaks_while_it_is_timed(monkeypatch):
    """It alone has no latency, and the ratios are to the first that has one."""
    execute = Torch.execute
    left = [12]

    def breaks(self):
        if self.model.yaml["yaml_file"] == "yolov12n.yaml":
            left[0] -= 1
            if not left[0]:
                raise RuntimeError("out of memory\nand more")
        execute(self)

    monkeypatch.setattr(Torch, "execute", breaks)
    said = []
    models = ["yolov12n", "yolo11n", "yolov8n"]
    record = bench(models, ["torch"], Protocol(imgsz=64, runs=5, warmup=3), report=said.append)
    broken, first, second = record["rows"]
    assert broken["error"] == "yolov12n on torch: RuntimeError: out of memory" and "latency" not in broken
    assert first["ratio"] == 1 and second["latency"]["median_ms"] > 0 and len(said) == 1


@pytest.mark.export
def test_an_end_in_the_middle_keeps_the_runtimes_before(trained, tmp_path, monkeypatch):
    timed, out = [], tmp_path / "out.json"

    def end(*args):
        timed.append(args)
        if len(timed) == 2:
            raise KeyboardInterrupt
        return time_prepared(*args)

    monkeypatch.setattr("yolov12_plugin.benchmark.bench.time_prepared", end)
    command = "bench", trained / "small.onnx", trained / "small.pt", "--runtime", "onnxruntime,torch"
    done = yolov12(*command, *fast("--out", out))
    assert done.exit_code == 130 and done.stderr.splitlines()[-1].startswith("Interrupted: ")
    record = json.loads(out.read_text())
    assert record["interrupted"] and [row["runtime"] for row in record["rows"]] == ["onnxruntime"] * len(record["rows"])
    assert record["rows"] and all("latency" in row for row in record["rows"])


@pytest.mark.slow
def test_models_of_two_sizes_have_no_ratio():
    rows = bench(["yolov12n", "yolov12n-cls"], ["torch"], Protocol(runs=1, warmup=0))["rows"]
    assert [row["imgsz"] for row in rows] == [640, 224] and [row["ratio"] for row in rows] == [1, None]


@pytest.mark.export
@needs("golden")
def test_comparison_that_shows_little(tmp_path):
    """The checkpoint answers every image alike; of a .pt a livelier copy is exported, of an exported file it is said."""
    shutil.copy(SHARED / "golden/v1.0-n.pt", tmp_path / "g.pt")
    YOLO(tmp_path / "g.pt").export(format="onnx", imgsz=64, verbose=False)
    done = yolov12("bench", tmp_path / "g.onnx", tmp_path / "g.pt", *fast("--json"))
    file, model = json.loads(done.stdout)["rows"]
    assert "Warning: g.onnx on onnxruntime: output0 (boxes) hardly depends on the image" in done.stderr
    assert file["verification"]["note"] and model["verification"]["note"] is None and done.exit_code == 0
    tampered(tmp_path / "g.onnx", lambda g: initializer(g, "model.21.cv3.0.2.weight", lambda w: w[::-1]))
    assert yolov12("bench", tmp_path / "g.onnx", *fast()).exit_code == 1


def test_title_names_the_devices_of_its_rows():
    from yolov12_plugin.show.tables import heading

    row = {"batch": 1, "imgsz": 640, "device": "cuda"}
    record = {
        "protocol": {"threads": 2, "cuda_graph": True, "compile": False},
        "machine": {"processor": "AMD EPYC", "gpu": {"name": "Tesla T4"}},
        "rows": [row],
    }
    assert heading(record) == "Tesla T4, cuda graph, 1 x 640 pixels"
    record["rows"] = [row | {"device": "cpu"}]
    assert heading(record).startswith("AMD EPYC, 2 threads")


def test_record_that_cannot_be_written_is_said_first(tmp_path):
    done = yolov12("bench", "nosuch", "--out", tmp_path)
    assert done.exit_code == 2 and "nosuch" not in done.stderr and str(tmp_path) in done.stderr


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_hook_by_environment(format, fork, trained, tmp_path):
    shutil.copy(trained / "small.pt", tmp_path)
    done = fork([YOLO_COMMAND, "export", "model=small.pt", f"format={format}", "imgsz=64"], YOLO12_BENCH="1")
    file = {"onnx": "small.onnx", "openvino": "small_openvino_model"}[format]
    (row,) = json.loads((tmp_path / f"{file}.json").read_text())["rows"]
    assert row["model"] == "small" and row["verification"]["passed"] and row["latency"]["median_ms"] > 0
    assert "computes the model" in done.stdout + done.stderr


@pytest.mark.parametrize("value", ["", "0", "off"])
def test_hook_is_off(value, fork, trained, tmp_path):
    shutil.copy(trained / "small.pt", tmp_path)
    fork([YOLO_COMMAND, "export", "model=small.pt", "format=torchscript", "imgsz=64"], YOLO12_BENCH=value)
    assert (tmp_path / "small.torchscript").exists() and not list(tmp_path.glob("*.json"))


def test_hook_ends_the_command_where_the_export_is_wrong(fork, trained, tmp_path):
    """As a broken exporter would leave it: the graph is changed before the callbacks run."""
    shutil.copy(trained / "small.pt", tmp_path)
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_verify import initializer, lose_attention, tampered
from ultralytics.engine.exporter import Exporter
run = Exporter.run_callbacks
def run_callbacks(self, event):
    if event == 'on_export_end': tampered('small.onnx', lose_attention)
    run(self, event)
Exporter.run_callbacks = run_callbacks
from ultralytics.cfg import entrypoint
entrypoint('yolo export model=small.pt format=onnx imgsz=64')
"""
    done = fork(code, check=False, YOLO12_BENCH="1")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("Error: small.onnx does not compute the model, output0")
    (row,) = json.loads((tmp_path / "small.onnx.json").read_text())["rows"]
    assert "latency" not in row and "error" in row


@pytest.mark.export
def test_hook_by_environment_measures_once(trained, tmp_path, monkeypatch):
    """A model keeps the callbacks of its exports."""
    monkeypatch.setenv("YOLO12_BENCH", "1")
    measured = []
    monkeypatch.setattr(y12.TensorRTBenchmark, "_measure", lambda self, *args: measured.append(args[1].name))
    model = YOLO(shutil.copy(trained / "small.pt", tmp_path))
    for _ in range(2):
        model.export(format="torchscript", imgsz=64, verbose=False)
    assert measured == ["small.torchscript"] * 2


@pytest.mark.export
@pytest.mark.parametrize("confident", [True, False])
def test_hook_with_suppression_within(confident, trained, tmp_path):
    """An exporter leaves such a network as it was traced; what detects nothing shows nothing."""
    model = YOLO(trained / "small.pt")
    for conv in model.model.model[-1].cv3:
        conv[-1].bias.data += 9 * confident
    model.model.pt_path = str(tmp_path / "nms.pt")
    hook = y12.TensorRTBenchmark(runs=1, warmup=0)
    model.add_callback("on_export_end", hook)
    if not confident:
        with pytest.raises(ExportDiffers, match="nothing was detected by either, so nothing is shown"):
            model.export(format="onnx", imgsz=64, nms=True, verbose=False)
        return
    model.export(format="onnx", imgsz=64, nms=True, verbose=False)
    (row,) = hook.result["rows"]
    assert row["verification"]["matched"] == row["verification"]["detections"] > 5
    assert row["latency"]["median_ms"] > 0 and row["latency_nms"] is None


@pytest.mark.export
def test_hook_attached_to_a_model(trained, tmp_path):
    shutil.copy(trained / "small.pt", tmp_path)
    model = YOLO(tmp_path / "small.pt")
    hook = y12.TensorRTBenchmark(runs=2, warmup=0)
    hook.attach(model)
    model.export(format="onnx", imgsz=64, verbose=False)
    assert hook.result["rows"][0]["latency"]["samples"] + hook.result["rows"][0]["latency"]["clipped"] == 2
    model = YOLO(tmp_path / "small.pt")
    model.add_callback("on_export_end", y12.TensorRTBenchmark(runs=1))
    model.export(format="torchscript", imgsz=64, verbose=False)
    assert (tmp_path / "small.torchscript.json").exists()


GPU = torch.device("cuda", 0)


class Refused(Exception):
    pass


class Nvml:
    """NVML whose SM clock is one after the other of those given, and then unknown."""

    NVMLError, NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = Refused, 0, 1, 2

    def __init__(self, *clocks, watts=70, starts=True):
        self.clocks, self.watts, self.starts, self.asked = [*clocks], watts, starts, []

    def nvmlInit(self):
        if not self.starts:
            raise Refused("NVML Shared Library Not Found")

    def nvmlDeviceGetHandleByIndex(self, index):
        self.asked.append(index)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.asked.append(uuid)

    def nvmlSystemGetDriverVersion(self):
        return "535.161.08"

    def nvmlDeviceGetPowerManagementLimit(self, gpu):
        if self.watts is None:
            raise Refused("Not Supported")
        return 1000 * self.watts

    def nvmlDeviceGetTemperature(self, gpu, sensor):
        return 41

    def nvmlDeviceGetClockInfo(self, gpu, kind):
        if kind == self.NVML_CLOCK_SM and not self.clocks:
            raise Refused("Not Supported")
        return self.clocks.pop(0) if kind == self.NVML_CLOCK_SM else 5000

    def nvmlDeviceGetMaxClockInfo(self, gpu, kind):
        return 1590


def test_the_stand_in_has_the_names_of_nvml():
    import pynvml

    assert {name for name in dir(Nvml) if name.lower().startswith("nvml")} <= set(dir(pynvml))


@pytest.fixture
def nvml(monkeypatch):
    def install(*clocks, **options):
        monkeypatch.setitem(sys.modules, "pynvml", found := Nvml(*clocks, **options))
        return found

    return install


@pytest.mark.parametrize(
    ("clocks", "steady", "said"),
    [
        ((585, 585, 585), True, None),
        ((585, 1590, 1590), False, "moved between 585 and 1590 MHz: nvidia-smi --lock-gpu-clocks"),
        ((), None, "NVML does not tell the GPU's clock"),
    ],
)
def test_clocks_that_move_are_said(clocks, steady, said, nvml):
    nvml(*clocks)
    meter = machine.Clocks(GPU, every=2)
    for _ in range(7):
        meter.tick()
    assert meter.record()["clocks_steady"] is steady
    assert (meter.warning() is None) if said is None else (said in meter.warning())


def test_no_clock_is_read_on_a_cpu(nvml):
    nvml(585)
    meter = machine.Clocks(torch.device("cpu"))
    meter.tick()
    assert meter.record() == {"sm_clocks_mhz": [], "clocks_steady": None}


@pytest.mark.parametrize("watts", [70, None])
def test_state_of_a_gpu(watts, nvml):
    nvml(1590, watts=watts)
    assert machine.gpu_state(GPU) == {
        "driver": "535.161.08",
        "power_limit_w": watts,
        "temperature_c": 41.0,
        "sm_clock_mhz": 1590.0,
        "memory_clock_mhz": 5000.0,
        "max_sm_clock_mhz": 1590.0,
    }


def test_a_gpu_is_found_by_its_uuid(monkeypatch, nvml):
    """NVML counts also those that CUDA_VISIBLE_DEVICES hides."""
    asked = nvml(585).asked
    machine.gpu_state(GPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="4c7b-21"))
    machine.gpu_state(GPU)
    assert asked == [0, "GPU-4c7b-21"]


@pytest.mark.parametrize("installed", [True, False])
def test_state_without_a_driver(monkeypatch, nvml, installed):
    nvml(585, starts=False)
    if not installed:
        monkeypatch.setitem(sys.modules, "pynvml", None)
    assert set(machine.gpu_state(GPU).values()) == {None}
