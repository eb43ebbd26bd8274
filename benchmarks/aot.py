"""Kernels and fused attentions of each model's export, stock beside ours, by TensorRT's compiler without a GPU."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import tensorrt_rtx
import torch
import ultralytics
from rich.console import Console
from rich.table import Table
from ultralytics.nn.tasks import DetectionModel

import yolov12_plugin as y12
from yolov12_plugin.benchmark.aot import compile_onnx, export_fp16

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scales", default="nsmlx")
    parser.add_argument("--capabilities", nargs="+", default=["sm75", "sm86", "sm89"])
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--out", type=Path, default=RESULTS / "aot.json")
    args = parser.parse_args()
    rows = []
    for scale in args.scales:
        for name, switch in ((f"yolo12{scale}", y12.unregister), (f"yolov12{scale}", y12.register)):
            switch()
            try:
                graph = export_fp16(DetectionModel(f"{name}.yaml", verbose=False), args.imgsz)
                for capability in args.capabilities:
                    rows.append({"model": name, "capability": capability, **asdict(compile_onnx(graph, capability))})
            except RuntimeError as e:
                rows.append({"model": name, "error": str(e)})
    view = Table(
        "Model", "Compiled for", "Kernels", "Fused attentions", "Engine (MB)", title="stock and yolov12-plugin"
    )
    for row in rows:
        if "error" in row:
            view.add_row(row["model"], row["error"])
            continue
        size = f"{row['engine_bytes'] / 1e6:.0f}"
        view.add_row(row["model"], row["capability"], str(row["kernels"]), str(row["fused_attentions"]), size)
    Console().print(view)
    versions = {m.__name__: m.__version__ for m in (tensorrt_rtx, torch, ultralytics)}
    args.out.write_text(json.dumps({"imgsz": args.imgsz, "versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
