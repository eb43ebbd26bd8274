"""What YOLOv12-N learns from nothing on a small dataset by the stock command: mAP of the best epoch, and on the way."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics

from yolov12_plugin.files import write_text
from yolov12_plugin.show.convergence import Run, read_runs

ROOT = Path(__file__).resolve().parent.parent
YOLO = str(Path(sys.executable).with_name("yolo"))
SETUPS = {
    "defaults": (None, "yolov12n.yaml"),
    "Table 7, batch 16": ("yolov12n-coco.yaml", "yolov12n.yaml"),
    "finetune preset": ("yolov12n-finetune.yaml", "yolov12n.yaml"),
    "finetune preset, its own model": ("yolov12n-finetune.yaml", "yolov12n-residual.yaml"),
}


def train(**arguments: Any) -> tuple[Run, float]:
    """What a training by the stock command wrote, and the minutes that it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [YOLO, "train", *(f"{key}={value}" for key, value in arguments.items() if value is not None)]
        command += ["device=cpu", "plots=False", f"project={folder}", "name=run"]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        return read_runs([f"{folder}/run"])[0], round((time.perf_counter() - start) / 60, 1)


def about(**arguments: Any) -> dict[str, Any]:
    """What a record says of its trainings and of the machine."""
    return arguments | {
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
    }


def resumed(out: Path, budget: dict[str, Any], parser: argparse.ArgumentParser, **empty: Any) -> dict[str, Any]:
    """The record so far, or a new one; one of another budget or machine is refused."""
    if not out.is_file():
        return budget | empty
    record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if other := [
        f"{key}={record.get(key)} and not {value}" for key, value in budget.items() if record.get(key) != value
    ]:
        parser.error(f"{out} is of another budget or machine ({', '.join(other)}): name another --out and --runs")
    return record


def losses_finite(run: Run) -> bool:
    return all(bool(np.isfinite(column).all()) for key, column in run.columns.items() if "loss" in key)


def row(run: Run, minutes: float, seed: int) -> dict[str, Any]:
    """mAP of the best epoch, and mAP50 after each tenth of the training."""
    best, tenth = run.summary()["best"], max(len(run.epochs) // 10, 1)
    scores = {key: round(best[f"metrics/{key}(B)"], 3) for key in ("mAP50", "mAP50-95")}
    rising = run.columns["metrics/mAP50(B)"][tenth - 1 :: tenth].round(3).tolist()
    about = {"seed": seed, "minutes": minutes, "epoch": best["epoch"], **scores}
    return about | {"mAP50 by tenths": rising, "losses_finite": losses_finite(run)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="shapes.yaml")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--setups", nargs="+", choices=SETUPS, default=[name for name in SETUPS if SETUPS[name][0]])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/finetune.json")
    args = parser.parse_args()
    budget = {"data": args.data, "epochs": args.epochs, "imgsz": args.imgsz}
    setups: dict[str, Any] = {name: dict(zip(("cfg", "model"), SETUPS[name]), runs=[]) for name in args.setups}
    for seed in args.seeds:
        for setup in setups.values():
            run, minutes = train(cfg=setup["cfg"], model=setup["model"], seed=seed, batch=16, **budget)
            setup["runs"].append(row(run, minutes, seed))
    write_text(args.out, json.dumps(about(**budget, setups=setups), indent=2) + "\n")


if __name__ == "__main__":
    main()
