"""How many trainings survive `kill -9`, at random moments and at writes of a checkpoint, with the guard and without."""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import ultralytics

ROOT = Path(__file__).resolve().parent.parent
TRAIN = """
import sys
from ultralytics import YOLO
model, stop = YOLO(sys.argv[1]), int(sys.argv[3])
model.add_callback("on_train_epoch_end", lambda trainer: setattr(trainer, "stop", trainer.epoch + 1 >= stop))
model.train(resume=sys.argv[1].endswith(".pt"), epochs=1000, patience=1000, project=sys.argv[2], name="run",
            data="shapes.yaml", fraction=0.125, imgsz=32, batch=4, optimizer="SGD", device="cpu", plots=False)
"""


def start(folder: Path, guard: bool, stop: int = 1000) -> subprocess.Popen:
    """A training of two batches an epoch in a process of its own, resumed where there is a checkpoint."""
    last = folder / "run/weights/last.pt"
    folder.mkdir(exist_ok=True)
    with open(folder / "log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(last) if last.exists() else "yolov12n.yaml", str(folder), str(stop)],
            env=os.environ | {"YOLO12_GUARD": str(int(guard))},
            stdout=log,
            stderr=log,
        )


def files(folder: Path) -> set[tuple[str, int, int]]:
    """Name, time and size of each checkpoint, whole or being written."""
    found = set()
    for path in folder.glob("run/weights/**/*.pt"):
        with suppress(FileNotFoundError):  # it was moved just now
            found.add((path.name, path.stat().st_mtime_ns, path.stat().st_size))
    return found


def written(folder: Path) -> float:
    """When last.pt was."""
    last = folder / "run/weights/last.pt"
    return last.stat().st_mtime if last.exists() else 0


def wait(child: subprocess.Popen, folder: Path, state: Callable[[Path], Any]) -> None:
    """Until a state of the training's folder is another."""
    before = state(folder)
    while state(folder) == before:
        if child.poll() is not None:
            sys.exit(f"Error: the training ended by itself\n{(folder / 'log').read_text()[-3000:]}")
        time.sleep(0.0002)


def epoch_of(last: Path) -> int | None:
    """The last epoch that a checkpoint holds, None where it does not load."""
    try:
        return torch.load(last, map_location="cpu", weights_only=False)["epoch"] + 1
    except Exception:
        return None


def kill(folder: Path, guard: bool, dice: random.Random, writing: bool) -> dict[str, Any]:
    """Start or resume the training in `folder`, kill it once it has saved an epoch, and see what is left."""
    last = folder / "run/weights/last.pt"
    child = start(folder, guard)
    wait(child, folder, written)
    time.sleep(dice.uniform(0, 1.5))
    if writing:
        wait(child, folder, files)
        time.sleep(dice.uniform(0, 0.005))  # some milliseconds are what a write takes
    child.kill()
    child.wait()
    return {"moment": "while a checkpoint was written" if writing else "random", "epoch": epoch_of(last)}


def tries(kills: int, guard: bool, dice: random.Random) -> dict[str, Any]:
    """Kill one training again and again, every second time at a write; a lost one starts anew."""
    outcomes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as root:
        folder, before = Path(root) / "0", 0
        for i in range(kills):
            outcomes.append(kill(folder, guard, dice, writing=i % 2 == 1))
            epoch = outcomes[-1]["epoch"]
            outcomes[-1]["lost"] = epoch is None or epoch < before
            before = epoch or 0
            if epoch is None:
                folder = Path(root) / str(i + 1)
            print(f"guard {'on' if guard else 'off'}, kill {i + 1}: {outcomes[-1]}", file=sys.stderr)
        child = start(folder, guard, stop=before + 3)
        if child.wait():
            sys.exit(f"Error: the training does not go on\n{(folder / 'log').read_text()[-3000:]}")
        with open(folder / "run/results.csv") as file:
            rows = [{key.strip(): float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return {
        "kills": kills,
        "lost": sum(outcome["lost"] for outcome in outcomes),
        "epochs": [int(row["epoch"]) for row in rows],  # of the last training that was not lost, to its end
        "cls_loss": [row["train/cls_loss"] for row in rows],
        "tries": outcomes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guard", choices=("on", "off", "both"), default="both")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/kills.json")
    args = parser.parse_args()
    guards = {"on": [True], "off": [False], "both": [True, False]}[args.guard]
    result = {
        "model": "yolov12n.yaml",
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        **{f"guard_{'on' if guard else 'off'}": tries(args.kills, guard, random.Random(args.seed)) for guard in guards},
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
