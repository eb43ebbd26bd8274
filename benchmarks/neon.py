"""What models of N's size learn from nothing on neon.yaml with one budget: AP on its val and test by pycocotools.

Goes on where it was stopped: a run of the record is done, a training whose last.pt is there is resumed. The curves are
those of the first seed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from finetune import ROOT, YOLO, about, resumed
from ultralytics.data.utils import check_det_dataset

from yolov12_plugin.errors import PluginError
from yolov12_plugin.evaluate.ground_truth import images_of
from yolov12_plugin.evaluate.score import METRICS, evaluate
from yolov12_plugin.files import write_text
from yolov12_plugin.show import convergence

DATA = ROOT / "cfg/datasets/neon.yaml"  # by its path, as the plugin is off for stock
BATCH = 8  # and an optimizer step after each: with Ultralytics' nbs of 64 an epoch of 64 tiles were a single step


class Setup(NamedTuple):
    model: str
    cfg: str | None = None
    plugin: bool = True
    nms: bool = True


SETUPS = {
    "YOLOv12-N": Setup("yolov12n.yaml"),
    "YOLOv12-N, residual": Setup("yolov12n-residual.yaml"),
    "YOLOv12-N, finetune preset": Setup("yolov12n.yaml", "yolov12n-finetune.yaml"),
    "YOLOv12-N, residual, finetune preset": Setup("yolov12n-residual.yaml", "yolov12n-finetune.yaml"),
    "YOLOv12-N turbo": Setup("yolov12n-turbo.yaml"),
    "YOLOv12-N, no NMS": Setup("yolov12n-e2e.yaml", nms=False),
    "stock YOLO12-N": Setup("yolo12n.yaml", plugin=False),
    "YOLO11-N": Setup("yolo11n.yaml", plugin=False),
    "YOLO26-N": Setup("yolo26n.yaml", plugin=False, nms=False),
}


def folder_of(runs: Path, name: str, seed: int) -> Path:
    return runs.resolve() / f"{name.replace(',', '').replace(' ', '-')}-{seed}"


def train(setup: Setup, folder: Path, seed: int, epochs: int, imgsz: int) -> None:
    """Train, or go on, by the stock command."""
    last, best = folder / "weights/last.pt", folder / "weights/best.pt"
    if best.is_file() and len(convergence.read_runs([str(folder)])[0].epochs) == epochs:
        return
    if last.is_file():
        command = [YOLO, "train", "resume=True", f"model={last}"]
    else:
        command = [YOLO, "train", f"model={setup.model}", f"data={DATA}", f"seed={seed}", f"epochs={epochs}"]
        command += [f"imgsz={imgsz}", f"batch={BATCH}", f"nbs={BATCH}", "patience=0", "device=cpu"]
        command += ["plots=False", "exist_ok=True"]
        command += [f"project={folder.parent}", f"name={folder.name}", *([f"cfg={setup.cfg}"] if setup.cfg else [])]
    subprocess.run(command, check=True, env=os.environ | ({} if setup.plugin else {"YOLO12_PLUGIN": "off"}))


def score(setup: Setup, best: Path, split: str, imgsz: int) -> dict[str, float | None]:
    images, truth = images_of(str(DATA), split)
    options = {} if setup.nms else {"nms": False}
    found = evaluate(str(best), images, truth, detections=best.with_name(f"{split}.json"), imgsz=imgsz, **options)
    return {metric: found[metric] for metric in METRICS}


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[float | None] | None]]:
    """Mean and standard deviation over the seeds of each metric; the latter is None of one seed."""
    table: dict[str, dict[str, list[float | None] | None]] = {}
    for split in "val", "test":
        for metric in METRICS:
            values = [run[split][metric] for run in runs if run[split][metric] is not None]
            deviation = round(statistics.stdev(values), 2) if len(values) > 1 else None
            table.setdefault(split, {})[metric] = [round(statistics.mean(values), 2), deviation] if values else None
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--setups", nargs="+", choices=SETUPS, default=list(SETUPS))
    parser.add_argument("--runs", type=Path, default=Path("runs/neon"), help="folder of the trainings")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/neon.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/figures/neon.png")
    args = parser.parse_args()
    check_det_dataset(str(DATA))
    budget = about(data="neon.yaml", epochs=args.epochs, imgsz=args.imgsz, batch=BATCH, nbs=BATCH)
    record = resumed(args.out, budget, parser, setups={})
    todo = [(seed, name) for seed in args.seeds for name in args.setups]  # by seeds, so that a part of them compares
    for count, (seed, name) in enumerate(todo, 1):
        setup = SETUPS[name]
        entry = record["setups"].setdefault(
            name, {"model": setup.model, "cfg": setup.cfg, "nms": setup.nms, "runs": []}
        )
        if any(run["seed"] == seed for run in entry["runs"]):
            continue
        print(f"{count} of {len(todo)}: {name}, seed {seed}", flush=True)
        folder = folder_of(args.runs, name, seed)
        try:
            train(setup, folder, seed, args.epochs, args.imgsz)
            scores = {split: score(setup, folder / "weights/best.pt", split, args.imgsz) for split in ("val", "test")}
        except (PluginError, subprocess.CalledProcessError) as e:
            sys.exit(f"{name}, seed {seed}: {e}; the same command goes on from here")
        entry["runs"].append({"seed": seed, **scores})
        entry |= summary(entry["runs"])
        write_text(args.out, json.dumps(record, indent=2) + "\n")
        print(f"AP50 {scores['val']['AP50']:.1f} on val, {scores['test']['AP50']:.1f} on test", flush=True)
    named = [f"{name}={folder_of(args.runs, name, args.seeds[0])}" for name in args.setups]
    convergence.write(convergence.read_runs(named, report=print), args.figure)


if __name__ == "__main__":
    main()
