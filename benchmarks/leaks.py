"""Whether memory grows as things are done again and again in one process, with the plugin and on stock."""

import argparse
import copy
import gc
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
TIMES = {"predictions": 200, "copies": 50, "exports": 20}
SIDES = {"stock": "yolo12n.yaml", "plugin": "yolov12n.yaml"}


def works(yaml: str) -> dict[str, Callable[[], object]]:
    import numpy as np
    from ultralytics import YOLO

    model: Any = YOLO(yaml, verbose=False)
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)

    def copies() -> None:
        net = copy.deepcopy(YOLO(yaml, verbose=False).model).eval()
        pickle.loads(pickle.dumps(net.fuse(verbose=False)))

    def export() -> None:
        YOLO(yaml, verbose=False).export(format="torchscript", imgsz=32, device="cpu", verbose=False)

    return {
        "predictions": lambda: model.predict(image, imgsz=64, device="cpu", verbose=False),
        "copies": copies,
        "exports": export,
    }


def curve(work: Callable[[], object], times: int) -> list[float]:
    """MB of memory that is this process's alone, at the start, after a tenth and so on to the end."""
    process, found = psutil.Process(), []
    for i in range(times + 1):
        if i % max(1, times // 10) == 0:
            gc.collect()
            found.append(round(process.memory_full_info().uss / 2**20, 1))
        if i < times:
            work()
    return found


def measured(side: str, what: str, times: int) -> list[float]:
    """The curve of a side, in a process of its own."""
    env = os.environ | {"YOLO_VERBOSE": "false", "YOLO_AUTOINSTALL": "false", "OMP_NUM_THREADS": "1"}
    env |= {"YOLO12_PLUGIN": "off"} if side == "stock" else {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--side", side, "--what", what, "--times", str(times)]
        done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, help="One side in this process, whose curve is printed.")
    parser.add_argument("--what", choices=TIMES, action="append")
    parser.add_argument("--times", type=int)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/leaks.json")
    args = parser.parse_args()
    if args.side:
        [what] = args.what
        print(json.dumps(curve(works(SIDES[args.side])[what], args.times)))
        return
    import torch
    import ultralytics

    record = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {"rows": []}
    record |= {"ultralytics": ultralytics.__version__, "torch": torch.__version__}
    for what in args.what or TIMES:
        times = args.times or TIMES[what]
        row = {"what": what, "times": times, **{side: measured(side, what, times) for side in SIDES}}
        record["rows"] = [r for r in record["rows"] if r["what"] != what] + [row]
        print(row, file=sys.stderr, flush=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
