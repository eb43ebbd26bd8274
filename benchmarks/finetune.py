"""What YOLOv12-N learns from nothing on a small dataset, shapes.yaml, by the stock command: mAP of the best epoch."""

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

import torch
import ultralytics

from yolov12_plugin.show.convergence import read_runs

ROOT = Path(__file__).resolve().parent.parent
YOLO = str(Path(sys.executable).with_name("yolo"))
SETUPS = {
    "defaults": (None, "yolov12n.yaml"),
    "Table 7, batch 16": ("yolov12n-coco.yaml", "yolov12n.yaml"),
    "finetune preset": ("yolov12n-finetune.yaml", "yolov12n.yaml"),
    "finetune preset, its own model": ("yolov12n-finetune.yaml", "yolov12n-residual.yaml"),
}


def train(cfg: str | None, model: str, seed: int, epochs: int, imgsz: int) -> dict[str, Any]:
    """The best epoch of a training by the stock command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [YOLO, "train", f"model={model}", f"seed={seed}", f"epochs={epochs}", "batch=16"]
        command += [f"cfg={cfg}"] if cfg else []
        command += ["data=shapes.yaml", f"imgsz={imgsz}", "device=cpu", "plots=False", f"project={folder}", "name=run"]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        minutes = round((time.perf_counter() - start) / 60, 1)
        best = read_runs([f"{folder}/run"])[0].summary()["best"]
    scores = {key: round(best[f"metrics/{key}(B)"], 3) for key in ("mAP50", "mAP50-95")}
    return {"seed": seed, "minutes": minutes, "epoch": best["epoch"], **scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--setups", nargs="+", choices=SETUPS, default=[name for name in SETUPS if SETUPS[name][0]])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/finetune.json")
    args = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in args.setups}
    for seed in args.seeds:
        for name in args.setups:
            rows[name].append(train(*SETUPS[name], seed, args.epochs, args.imgsz))
    result = {
        "data": "shapes.yaml",
        "epochs": args.epochs,
        "imgsz": args.imgsz,
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "setups": {name: dict(zip(("cfg", "model"), SETUPS[name]), runs=rows[name]) for name in args.setups},
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
