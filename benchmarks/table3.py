"""Table 3, CPU column: area attention on and off, beside the paper's ratios (made without FlashAttention: by math)."""

import argparse
import json
import os
import statistics
from functools import partial
from pathlib import Path

import torch
import ultralytics
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils.torch_utils import get_cpu_info

import yolov12_plugin as y12
from yolov12_plugin.benchmark.timing import interleave, ratios
from yolov12_plugin.published import TABLE3_CPU
from yolov12_plugin.show.view import View

TITLES = {"model": "Model", "backend": "Attention", "ms_without": "without area (ms)", "ms_with": "with (ms)"}
TITLES |= {"ratio": "ratio", "ratio_paper": "paper's ratio"}
PAPER = {row.name: row for row in TABLE3_CPU}


def build(scale: str, area: bool) -> DetectionModel:
    """The fused model; without area attention every attention spans the whole map."""
    options = {} if area else {"a2c2f": {"area": 1}}
    return DetectionModel(yaml_model_load(f"yolov12{scale}.yaml") | options, verbose=False).eval().fuse(verbose=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scales", default="nsx")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results/table3.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    image = torch.rand(1, 3, args.imgsz, args.imgsz)
    rows = []
    for scale in args.scales:
        models = {"without": build(scale, area=False), "with": build(scale, area=True)}
        for backend in "math", "sdpa":
            with y12.attention_backend(backend), torch.inference_mode():
                seconds = interleave({name: partial(model, image) for name, model in models.items()}, args.rounds)
            paper = PAPER[f"yolov12{scale}"]
            rows.append(
                {
                    "model": f"yolov12{scale}",
                    "backend": backend,
                    "ms_without": round(1e3 * statistics.median(seconds["without"]), 1),
                    "ms_with": round(1e3 * statistics.median(seconds["with"]), 1),
                    "ratio": round(ratios(seconds, "without")["with"], 2),
                    "ratio_paper": round(paper.with_area / paper.without, 2),
                }
            )
    View("Table 3, CPU", TITLES, rows).print()
    about = {"imgsz": args.imgsz, "rounds": args.rounds, "threads": args.threads, "processor": get_cpu_info()}
    versions = {m.__name__: m.__version__ for m in (torch, ultralytics)}
    args.out.write_text(json.dumps({**about, "versions": versions, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
