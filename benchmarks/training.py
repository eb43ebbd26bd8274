"""This plugin's YOLOv12-N beside stock's YOLO12-N: the same training of both on the CPU by the stock command.

Training amplifies rounding. How much, a third run shows: stock again, with convolutions by other instructions.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import NUM_THREADS

from yolov12_plugin.benchmark.machine import machine, versions
from yolov12_plugin.show.convergence import Run, read_runs, write
from yolov12_plugin.training.presets import FOLDER

HERE = Path(__file__).resolve().parent
YOLO = str(Path(sys.executable).with_name("yolo"))
PRESET = FOLDER / "yolov12n-coco.yaml"  # without the plugin, it is not found by its name
RUNS = {
    "plugin": ("yolov12n.yaml", {"YOLO12_PLUGIN": "on"}),
    "stock": ("yolo12n.yaml", {"YOLO12_PLUGIN": "off"}),
    "stock-sse41": ("yolo12n.yaml", {"YOLO12_PLUGIN": "off", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
}
MAP = ("mAP50", "mAP50-95")


def train(name: str, data: dict[str, Any], folder: Path, overrides: dict[str, Any]) -> Path:
    """Train in a process of its own on a copy of the data, beside whose images Ultralytics writes; its results.csv."""
    copy = folder / f"data-{name}"
    shutil.copytree(data["path"], copy, ignore=shutil.ignore_patterns("*.cache"))
    places = {split: str(Path(data[split]).relative_to(data["path"])) for split in ("train", "val")}
    (copy / "data.yaml").write_text(yaml.safe_dump({**places, "names": data["names"]}))
    model, environment = RUNS[name]
    command = [
        str(Path(sys.executable).with_name("yolo")),
        "train",
        f"cfg={PRESET}",
        f"model={model}",
        f"data={copy / 'data.yaml'}",
    ]
    command += [*(f"{key}={value}" for key, value in overrides.items()), f"project={folder}", f"name={name}"]
    subprocess.run(command, check=True, env=os.environ | environment | {"OMP_NUM_THREADS": "1"})
    return folder / name / "results.csv"


def losses(run: Run) -> dict[str, np.ndarray]:
    return {key: values for key, values in run.columns.items() if key.endswith("_loss")}


def difference(run: Run, stock: Run) -> dict[str, dict[str, float | list[float]]]:
    """Largest relative difference of a loss, of those of training and those of validation."""
    found = {}
    for kind in "train", "val":
        pairs = [(losses(run)[key], values) for key, values in losses(stock).items() if key.startswith(kind)]
        by_epoch = np.max([np.abs(ours - theirs) / theirs for ours, theirs in pairs], axis=0)
        rounded = [float(f"{value:.2g}") for value in by_epoch]
        found[kind] = {"first_epoch": rounded[0], "overall": max(rounded), "by_epoch": rounded}
    return found


def record(runs: list[Run], data: str, overrides: dict[str, Any], minutes: dict[str, float]) -> dict[str, Any]:
    """What is kept beside the results.csv of the three runs."""
    ours, stock, control = runs
    return {
        "runs": {name: {"model": model, "environment": environment} for name, (model, environment) in RUNS.items()},
        "preset": PRESET.name,
        "data": data,
        "arguments": overrides,
        "minutes": minutes,
        "difference": difference(ours, stock),
        "difference_by_rounding": difference(control, stock),
        "final": {run.name: {key: run.columns[f"metrics/{key}(B)"][-1] for key in MAP} for run in runs},
        "best": {run.name: {key: run.columns[f"metrics/{key}(B)"].max() for key in MAP} for run in runs},
        "losses": {run.name: {key: values.tolist() for key, values in losses(run).items()} for run in runs},
        "threads": NUM_THREADS,
        "machine": machine(torch.device("cpu")),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="YAML", help="a dataset in one folder")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--name", default="training", help="of the files in results/ and docs/figures/")
    args = parser.parse_args()
    overrides = {"batch": 16, "imgsz": 160, "epochs": args.epochs, "device": "cpu", "workers": 0, "plots": False}
    data = check_det_dataset(args.data)
    kept, minutes = HERE / "results" / args.name, {}
    kept.mkdir(parents=True, exist_ok=True)
    for name in RUNS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(train(name, data, Path(folder), overrides), kept / f"{name}.csv")
        minutes[name] = round((time.perf_counter() - start) / 60, 1)
    runs = read_runs([f"{name}={kept / name}.csv" for name in RUNS])
    for suffix in "png", "svg":
        write(runs, HERE.parent / f"docs/figures/{args.name}.{suffix}")
    result = record(runs, Path(args.data).name, overrides, minutes)
    kept.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    shown = ("difference", "difference_by_rounding", "final", "best")
    json.dump({key: result[key] for key in shown}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
