"""How often a training of YOLOv12-N from nothing collapses, by task, with R-ELAN's residual and without, over seeds.

Goes on where it was stopped. Ultralytics' defaults, on the shapes that draw themselves.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from finetune import ROOT, about, losses_finite, resumed, train
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import YAML

from yolov12_plugin.files import write_text
from yolov12_plugin.show.convergence import Run

TASKS = {  # model, data, and the metric that its table shows
    "detect": ("yolov12n", "shapes.yaml", "metrics/mAP50-95(B)"),
    "segment": ("yolov12n-seg", "shapes-seg.yaml", "metrics/mAP50-95(M)"),
    "classify": ("yolov12n-cls", "shapes-cls", "metrics/accuracy_top1"),
    "pose": ("yolov12n-pose", "shapes-pose.yaml", "metrics/mAP50-95(P)"),
    "obb": ("yolov12n-obb", "shapes-obb.yaml", "metrics/mAP50-95(B)"),
}
RESIDUALS = {"none": False, "0.01": 0.01}
BATCH = 8  # and an optimizer step after each: with Ultralytics' nbs of 64 an epoch of 64 images were a single step


def with_residual(model: str, residual: str, folder: Path) -> Path:
    """The YAML of a model whose blocks have this residual."""
    d = yaml_model_load(f"{model}.yaml")
    for key in "scale", "yaml_file":  # which Ultralytics reads from the file's name
        d.pop(key)
    file = folder / f"{model}-residual-{residual}.yaml"
    YAML.save(file, d | {"a2c2f": d.get("a2c2f", {}) | {"residual": RESIDUALS[residual]}})
    return file


def row(run: Run, minutes: float, seed: int, metric: str) -> dict[str, Any]:
    """The metric at the best and at the last epoch; collapsed: at the last less than half of the best, or not finite.

    A training has learned if it ever reached 0.05, or twice what guessing one of four classes gives.
    """
    values = run.columns[metric]
    best, last, finite = float(np.nanmax(values)), float(values[-1]), losses_finite(run)
    learned = best >= (0.5 if "accuracy" in metric else 0.05)
    return {
        "seed": seed,
        "minutes": minutes,
        "best": round(best, 3),
        "last": round(last, 3),
        "losses_finite": finite,
        "learned": learned,
        "collapsed": not finite or (learned and not last >= best / 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/tasks"), help="folder of the models' YAMLs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/tasks.json")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    budget = {"epochs": args.epochs, "imgsz": args.imgsz, "batch": BATCH, "nbs": BATCH}
    record = resumed(args.out, about(**budget), parser, tasks={})
    for seed, task, residual in itertools.product(args.seeds, args.tasks, RESIDUALS):
        model, data, metric = TASKS[task]
        entry = record["tasks"].setdefault(task, {"model": model, "data": data, "metric": metric, "residuals": {}})
        rows = entry["residuals"].setdefault(residual, [])
        if any(done["seed"] == seed for done in rows):
            continue
        run, minutes = train(
            model=with_residual(model, residual, args.runs), data=data, seed=seed, patience=0, **budget
        )
        rows.append(row(run, minutes, seed, metric))
        write_text(args.out, json.dumps(record, indent=2) + "\n")
        print(f"{task}, residual {residual}, seed {seed}: {rows[-1]['best']} best, {rows[-1]['last']} last", flush=True)


if __name__ == "__main__":
    main()
