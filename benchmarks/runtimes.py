"""CPU runtimes: our export of a model and stock's of the same weights, in one interleaved run."""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime
import openvino
import torch
import ultralytics
from rich.console import Console
from rich.table import Table
from ultralytics import YOLO
from ultralytics.utils.torch_utils import get_cpu_info

import yolov12_plugin as y12
from yolov12_plugin.benchmark.timing import interleave, ratios

RESULTS = Path(__file__).resolve().parent / "results"


def torch_eager(model: YOLO, image: torch.Tensor, threads: int) -> Callable[[], object]:
    torch.set_num_threads(threads)
    return torch.inference_mode()(partial(model.model.fuse(verbose=False).eval(), image))


def onnx_runtime(model: YOLO, image: torch.Tensor, threads: int) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Otherwise the threads of one session wait busily while the next is timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    file = model.export(format="onnx", imgsz=image.shape[-1], verbose=False)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: image.numpy()})


def open_vino(model: YOLO, image: torch.Tensor, threads: int) -> Callable[[], object]:
    folder = Path(model.export(format="openvino", imgsz=image.shape[-1], verbose=False))
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(next(folder.glob("*.xml")), "CPU", options)
    return partial(compiled.create_infer_request().infer, {0: image.numpy()})


RUNTIMES = {"PyTorch": torch_eager, "ONNX Runtime": onnx_runtime, "OpenVINO": open_vino}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scales", default="nsm")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS / "runtimes.json")
    args = parser.parse_args()
    image = torch.rand(1, 3, args.imgsz, args.imgsz)
    rows = []
    for scale in args.scales:
        for runtime, prepare in RUNTIMES.items():
            runs = {}
            for name, switch in ((f"yolo12{scale}", y12.unregister), (f"yolov12{scale}", y12.register)):
                switch()
                torch.manual_seed(0)  # equal seeds give equal weights
                with tempfile.TemporaryDirectory() as folder:
                    model = YOLO(f"{name}.yaml", verbose=False)
                    model.model.pt_path = str(Path(folder) / f"{name}.pt")  # exports go beside it
                    runs[name] = prepare(model, image, args.threads)
            stock, ours = runs
            seconds = interleave(runs, args.rounds)
            row = {f"{name}_ms": round(1e3 * statistics.median(seconds[name]), 1) for name in runs}
            row = dict(zip(("stock_ms", "plugin_ms"), row.values()))
            rows.append({"scale": scale, "runtime": runtime, **row, "ratio": round(ratios(seconds, stock)[ours], 3)})
    view = Table("Scale", "Runtime", "stock (ms)", "plugin (ms)", "ratio", title=f"{args.threads} threads, batch 1")
    for row in rows:
        view.add_row(*map(str, row.values()))
    Console().print(view)
    about = {"imgsz": args.imgsz, "rounds": args.rounds, "threads": args.threads, "processor": get_cpu_info()}
    versions = {m.__name__: m.__version__ for m in (torch, ultralytics, onnxruntime, openvino)}
    args.out.write_text(json.dumps({**about, "versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
