"""Where ONNX Runtime spends the time of a network on a CPU, by what is computed; models take turns."""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch

from yolov12_plugin.benchmark.bench import Candidate, Protocol
from yolov12_plugin.benchmark.machine import machine, versions
from yolov12_plugin.deploy.runtimes import RUNTIMES

ROOT = Path(__file__).resolve().parent.parent
MODELS = ["yolo11n", "yolo12n", "yolov12n"]
KINDS = {"Conv": "convolutions", "QuickGelu": "SiLU", "Sigmoid": "SiLU", "Softmax": "DFL and other softmax"}


def kind(event: dict[str, Any]) -> str:
    """What a node computes; all within an attention but its convolutions is the attention."""
    op = event["args"]["op_name"]
    if "/attn/" in event["name"]:
        return "convolutions of attentions" if op == "Conv" else "attention"
    return KINDS.get(op, "others")


def profiled(files: dict[str, Path], runs: int, threads: int) -> dict[str, dict[str, float]]:
    """Milliseconds of an image by kind, the median over the runs."""
    sessions = {}
    for name, file in files.items():
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.enable_profiling = True
        settings.profile_file_prefix = str(file.with_suffix(""))
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        sessions[name] = ort.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, 640, 640, generator=torch.Generator().manual_seed(0)).numpy()
    for _ in range(runs + 1):
        for session in sessions.values():
            session.run(None, {session.get_inputs()[0].name: image})
    found = {}
    for name, session in sessions.items():
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        each = len(nodes) // (runs + 1)
        if len(nodes) != each * (runs + 1):
            raise RuntimeError(f"{name} ran {len(nodes)} nodes in {runs + 1} runs, which are not alike")
        times: dict[str, list[float]] = defaultdict(list)
        for run in range(1, runs + 1):  # the first warms up
            of_run: dict[str, float] = defaultdict(float)
            for event in nodes[run * each : (run + 1) * each]:
                of_run[kind(event)] += event["dur"] / 1e3
            for what, milliseconds in of_run.items():
                times[what].append(milliseconds)
        found[name] = {what: round(statistics.median(values), 2) for what, values in sorted(times.items())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/onnx-time.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name in args.models:
            files[name] = Candidate(name).export(RUNTIMES["onnxruntime"], Protocol(imgsz=640), Path(folder))
        found = profiled(files, args.runs, args.threads)
    about = {"imgsz": 640, "runs": args.runs, "threads": args.threads}
    record = about | {"machine": machine(torch.device("cpu")), "versions": versions(), "milliseconds": found}
    args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
