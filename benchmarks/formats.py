"""Every format of Ultralytics' exporter: YOLOv12-N, stock's YOLO12-N and YOLO11-N exported, loaded, verified, timed.

A format takes the packages that are installed here; a run with --formats replaces the rows of these alone, so several
environments fill one record. Each has a process of its own, which may crash, and nothing is installed meanwhile.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.requirements import Requirement
from ultralytics.cfg import TASK2CALIBRATIONDATA, TASK2DATA
from ultralytics.engine.exporter import export_formats

from yolov12_plugin.benchmark.bench import Candidate, Prepared, Protocol, or_reason, prepare, time_prepared
from yolov12_plugin.benchmark.machine import machine, versions
from yolov12_plugin.deploy.runtimes import RUNTIMES, Runtime, open_artefact, others
from yolov12_plugin.deploy.runtimes.pytorch import exportable
from yolov12_plugin.deploy.runtimes.session import Options
from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.names import CFG

MODELS = ("yolov12n", "yolo12n", "yolo11n")
STEPS = "exported", "loaded", "verified"
PYTORCH = "torch"  # which has no argument of Ultralytics' exporter
TABLE = export_formats()
NAMES = {PYTORCH: "PyTorch"} | {key: name for key, name in zip(TABLE["Argument"], TABLE["Format"]) if key != "-"}
TENSORFLOW = ("tensorflow<=2.19", "tf_keras<=2.19", "onnx2tf>=1.26.3,<1.29", "sng4onnx", "ai-edge-litert")
PACKAGES: dict[str, tuple[str, ...]] = {  # that Ultralytics would install in the middle of an export
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "engine": ("tensorrt",),
    "coreml": ("coremltools>=9.0", "numpy<=2.3.5"),
    "coreai": ("coreai-torch>=0.4.3",),
    "saved_model": TENSORFLOW,
    "pb": TENSORFLOW,
    "edgetpu": TENSORFLOW,
    "litert": ("litert-torch>=0.10", "ai-edge-litert>=2.3"),
    "paddle": ("paddlepaddle>=3.0.0,<3.3.0", "x2paddle", "six"),
    "mnn": ("MNN>=2.9.6",),
    "ncnn": ("ncnn", "pnnx==20260526"),
    "imx": ("model-compression-toolkit>=2.4.1", "edge-mdt-cl>=1.1.0", "edge-mdt-tpc>=1.2.0", "imx500-converter"),
    "rknn": ("rknn-toolkit2>=2.3.2,<2.5", "onnx>=1.16.1,<1.19"),
    "executorch": ("executorch",),
    "axelera": ("axelera-devkit",),
    "deepx": ("dx-com>=2.4.1",),
    "qnn": ("onnxruntime-qnn",),
    "xilinx": ("amd-quark>=0.13,<0.14",),
}
NEEDS = {  # what no package brings
    "engine": "needs TensorRT and an NVIDIA GPU",
    "coreml": "runs on macOS alone",
    "coreai": "its runtime opens no file on Linux",
    "edgetpu": "needs Google's edgetpu_compiler, and an Edge TPU to run",
    "imx": "Ultralytics exports YOLOv8n and YOLO11n alone",
    "rknn": "runs on a Rockchip NPU alone",
    "axelera": "needs axelera-devkit of Axelera's own package index, and its NPU to run",
    "deepx": "runs on a DEEPX NPU alone",
    "qnn": "Ultralytics exports one model a process; emulated, as it runs on Qualcomm NPUs",
    "hailo": "Ultralytics exports YOLOv8, YOLO11 and YOLO26 alone, by Hailo's Dataflow Compiler",
    "ascend": "needs the compiler atc of Huawei's CANN, and an Ascend NPU to run",
    "xilinx": "runs on an AMD Versal NPU alone",
}
SAMPLES = "calibration_image_sample_data_20x128x128x3_float32.npy"  # which Ultralytics would download, for INT8 alone


def runtimes() -> dict[str, Runtime]:
    """What runs each format, by Ultralytics' argument."""
    return {r.format or PYTORCH: r for r in RUNTIMES.values()} | others()


def installed(format: str) -> dict[str, str]:
    """Versions of a format's own packages.

    Raises:
        NotRunnable: one is missing, or is another than Ultralytics asks for.
    """
    found = {}
    for line in PACKAGES.get(format, ()):
        package = Requirement(line)
        try:
            found[package.name] = importlib.metadata.version(package.name)
        except importlib.metadata.PackageNotFoundError as e:
            raise NotRunnable(f"{package.name} is not installed") from e
        if not package.specifier.contains(found[package.name], prereleases=True):
            raise NotRunnable(f"{line} is not installed")
    return found


def row_of(format: str, model: str) -> dict[str, Any]:
    """The row of a model with which nothing has been done yet."""
    about = {"format": format, "name": NAMES[format], "model": model}
    return about | ({"needs": NEEDS[format]} if format in NEEDS else {}) | dict.fromkeys(STEPS, False)


def attempt(name: str, format: str, protocol: Protocol, folder: Path) -> tuple[dict[str, Any], Prepared | None]:
    """A model's row, as far as it comes, and what of it can be timed."""
    row = row_of(format, name)
    runtime, folder = runtimes()[format], folder / "exported" / name  # by its name beside it, it would be the model
    folder.mkdir(parents=True)
    try:
        row["packages"] = installed(format)
        model = or_reason(partial(Candidate, name, imgsz=protocol.imgsz))
        if format == PYTORCH:
            ready = or_reason(partial(model.prepare, runtime, protocol, folder))
        else:
            file = or_reason(partial(model.export, runtime, protocol, folder))
            row["exported"] = True
            session = or_reason(partial(open_artefact, file, protocol.options))
            size = (model.pixels(protocol.imgsz),) * 2
            ready = or_reason(partial(prepare, exportable(model.net, size), session, size, 1, model.name))
        row |= {"loaded": True, "verified": bool(ready.verification), **ready.about}
        if ready.verification:
            return row, replace(ready, suppress=None)
        row["reason"] = f"{ready.verification}"
    except NotRunnable as e:
        row["reason"] = str(e).replace(f"{folder}{os.sep}", "")
    return row, None


def rows_of(format: str, protocol: Protocol) -> list[dict[str, Any]]:
    """The rows of a format, of the models that compute what they should timed in turns."""
    # Some formats are INT8 alone.
    TASK2CALIBRATIONDATA["detect"] = TASK2DATA["detect"] = str(CFG / "datasets/shapes.yaml")
    # Untrained weights make subnormal numbers, with which MNN took 1.6 times as long.
    torch.set_flush_denormal(True)
    rows, prepared = [], {}
    with tempfile.TemporaryDirectory(prefix="yolov12-formats-", ignore_cleanup_errors=True) as folder:
        os.chdir(folder)  # converters leave files where they run
        if PACKAGES.get(format) is TENSORFLOW:
            np.save(SAMPLES, np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32))
        for i, name in enumerate(MODELS):
            row, ready = attempt(name, format, protocol, Path(folder))
            rows.append(row)
            if ready is not None:
                prepared[i] = ready
            say(f"{format}: {name} {row.get('reason', 'verified')}")
        for i, times in time_prepared(prepared, protocol.runs, protocol.warmup).items():
            rows[i] |= {"reason" if key == "error" else key: value for key, value in times.items()}
    return rows


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def in_a_process(format: str, protocol: Protocol) -> list[dict[str, Any]]:
    """The rows of a format, also where it ends its process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(rows_of, format, protocol).result()
        except BrokenProcessPool:
            say(f"{format}: crashed")
            return [row_of(format, name) | {"reason": "its process crashed"} for name in MODELS]


def main() -> None:
    known = list(NAMES)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formats", type=lambda text: text.split(","), default=known, help="as torchscript,onnx")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=1, help="more of them wait for each other where cores are shared"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results/formats.json")
    args = parser.parse_args()
    if unknown := set(args.formats) - set(known):
        parser.error(f"{', '.join(unknown)}: formats are {', '.join(known)}")
    # Ultralytics' backends leave it to their runtimes how many threads there are.
    os.environ |= {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "OMP_NUM_THREADS": str(args.threads)}
    protocol = Protocol(imgsz=args.imgsz, runs=args.runs, warmup=args.warmup, options=Options(threads=args.threads))
    rows = json.loads(args.out.read_text(encoding="utf-8"))["rows"] if args.out.exists() else []
    for format in args.formats:
        rows = [row for row in rows if row["format"] != format] + in_a_process(format, protocol)
        record = {
            "kind": "formats",
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "protocol": protocol.record(),
            "machine": machine(torch.device("cpu")),
            "versions": versions(),
            "rows": sorted(rows, key=lambda row: known.index(row["format"])),
        }
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
