"""Whether an export of every model that Ultralytics ships a YAML for computes the model, by `yolov12 bench`.

The smallest scale of each, as initialised. Goes on where it was stopped: a model of the record is done.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import ultralytics
from ultralytics.utils import ROOT, YAML

from yolov12_plugin.files import write_text

OUT = Path(__file__).resolve().parent / "results/every-model.json"
RUNTIMES = "onnxruntime", "openvino"


def names() -> list[str]:
    """Of all YAMLs, each with the letter of its first scale where it has several: yolo11-seg is yolo11n-seg."""
    found = []
    for file in sorted((ROOT / "cfg/models").rglob("*.yaml")):
        scales = list(YAML.load(file).get("scales", ()))
        scale = scales[0] if len(scales) > 1 else ""
        found.append(re.sub(r"^(yolo(?:e-)?v?\d+)", rf"\g<1>{scale}", file.stem))
    return found


def tried(name: str, imgsz: int) -> dict[str, Any]:
    """What the verification on each runtime found, or why it did not come to that."""
    row: dict[str, Any] = {"model": name}
    for runtime in RUNTIMES:
        with tempfile.TemporaryDirectory() as folder:
            command = ["-m", "yolov12_plugin", "bench", f"{name}.yaml", "--runtime", runtime, "--imgsz", str(imgsz)]
            command += ["--runs", "1", "--warmup", "0", "--device", "cpu", "--out", f"{folder}/bench.json"]
            env = os.environ | {"YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
            done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=1800)
            record = Path(folder, "bench.json")
            rows = json.loads(record.read_text(encoding="utf-8"))["rows"] if record.is_file() else []
        if rows and (found := rows[0].get("verification")):
            keys = "passed", "box_px", "score", "relative", "detections", "matched", "note"
            row[runtime] = {key: found[key] for key in keys}
        else:
            said = [r["error"] for r in rows] or done.stderr.strip().splitlines() or ["nothing was said"]
            row[runtime] = {"passed": None, "note": said[-1]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--models", nargs="+", help="Names; all.")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    about = {"ultralytics": ultralytics.__version__, "torch": torch.__version__, "imgsz": args.imgsz}
    record = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {"rows": []}
    for name in args.models or names():
        if args.models is None and any(row["model"] == name for row in record["rows"]):
            continue
        row = tried(name, args.imgsz)
        record["rows"] = [r for r in record["rows"] if r["model"] != name] + [row]
        write_text(args.out, json.dumps(about | record, indent=2) + "\n")
        print({runtime: row[runtime]["passed"] for runtime in RUNTIMES}, name, flush=True)


if __name__ == "__main__":
    main()
