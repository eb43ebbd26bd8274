"""What YOLOv12-N learns of shapes.yaml on the CPU: mAP after a short training by the stock command."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from yolov12_plugin.show.convergence import read_runs

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/shapes.json")
    args = parser.parse_args()
    runs = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                *("yolo", "train", "model=yolov12n.yaml", "data=shapes.yaml", f"imgsz={args.imgsz}"),
                *(f"epochs={args.epochs}", f"seed={seed}", "device=cpu", "plots=False"),
                *(f"project={folder}", "name=train"),
            ]
            start = time.perf_counter()
            subprocess.run(command, check=True)
            best = read_runs([f"{folder}/train"])[0].summary()["best"]
            runs.append(
                {
                    "seed": seed,
                    "minutes": round((time.perf_counter() - start) / 60, 1),
                    "epoch": best["epoch"],
                    "mAP50": round(best["metrics/mAP50(B)"], 3),
                    "mAP50-95": round(best["metrics/mAP50-95(B)"], 3),
                }
            )
    import torch
    import ultralytics

    result = {
        "model": "yolov12n.yaml",
        "data": "shapes.yaml",
        "epochs": args.epochs,
        "imgsz": args.imgsz,
        "runs": runs,
        "cpus": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "ultralytics": ultralytics.__version__,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
