"""First steps of a training at each scale, with R-ELAN's residual and without: losses and gradient norms (Table 2)."""

import argparse
import itertools
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import torch
import ultralytics
from ultralytics.cfg import get_cfg
from ultralytics.data import build_dataloader, build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils.torch_utils import init_seeds

import yolov12_plugin as y12

ROOT = Path(__file__).resolve().parent.parent
RESIDUALS = {"default": None, "none": False, "0.1": 0.1, "0.01": 0.01}


def batch_of(scale: str, imgsz: int, images: int) -> tuple[dict[str, Any], int]:
    """One batch of shapes.yaml as the preset augments it, and the number of classes."""
    init_seeds(0)
    data = check_det_dataset("shapes.yaml")
    args = get_cfg(overrides=y12.preset(scale) | {"imgsz": imgsz, "cache": False})
    dataset = build_yolo_dataset(args, data["train"], images, data, mode="train")
    batch = next(iter(build_dataloader(dataset, images, workers=0, shuffle=False)))
    return batch | {"img": batch["img"].float() / 255}, data["nc"]


def run(scale: str, residual: str, dtype: str, imgsz: int, images: int, steps: int) -> dict[str, Any]:
    """Train on one batch, the learning rate and momentum of Table 7's warm-up stretched over the steps."""
    preset = y12.preset(scale)
    batch, nc = batch_of(scale, imgsz, images)
    model = yaml_model_load(f"yolov12{scale}.yaml")
    if RESIDUALS[residual] is not None:
        model["a2c2f"] = {"residual": RESIDUALS[residual]}
    torch.manual_seed(0)
    net = DetectionModel(model, nc=nc, verbose=False).train()
    net.args = get_cfg(overrides=preset)
    optimizer = torch.optim.SGD(
        net.parameters(), preset["lr0"], preset["warmup_momentum"], weight_decay=preset["weight_decay"], nesterov=True
    )
    losses, norms = [], []
    for step in range(steps):
        warm = (step + 1) / steps
        for group in optimizer.param_groups:
            group["lr"] = warm * preset["lr0"]
            group["momentum"] = preset["warmup_momentum"] + warm * (preset["momentum"] - preset["warmup_momentum"])
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = net.loss(batch)[0].sum() / images
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)))  # before clipping, as Ultralytics'
        losses.append(float(loss))
        optimizer.step()
    return {
        "scale": scale,
        "residual": residual,
        "dtype": dtype,
        "loss": [round(value, 4) for value in losses],
        "gradient_norm": [round(value, 3) for value in norms],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scales", nargs="+", default=list("nsmlx"))
    parser.add_argument("--residuals", nargs="+", choices=RESIDUALS, default=["default", "none"])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--imgsz", type=int, default=96)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/stability.json")
    args = parser.parse_args()
    rows = []
    for scale, residual, dtype in itertools.product(args.scales, args.residuals, args.dtypes):
        if residual == "none" and scale not in "lx":
            continue  # these have none anyway
        rows.append(run(scale, residual, dtype, args.imgsz, args.images, args.steps))
        losses, norms = rows[-1]["loss"], rows[-1]["gradient_norm"]
        falls = f"loss {losses[0]:.2f} to {losses[-1]:.2f}"
        print(f"{scale} {residual} {dtype}: {falls}, first gradient norm {norms[0]:.1f}", flush=True)
    assert all(math.isfinite(value) for row in rows for value in row["loss"] + row["gradient_norm"])
    result = {
        "data": "one batch of shapes.yaml",
        **{key: getattr(args, key) for key in ("imgsz", "images", "steps")},
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
