"""Table 1: the paper's figures of YOLOv12 beside those of the models that this build makes."""

from typing import Any

import yaml

from yolov12_plugin.models import MODELS
from yolov12_plugin.names import CFG
from yolov12_plugin.paper.flops import gflops


def rows() -> list[dict[str, Any]]:
    """One row a scale: FLOPs (G) and parameters (M) as published and as built here; AP (%) and latency (ms, T4)."""
    from ultralytics.nn.tasks import DetectionModel

    # The plugin's own file, whatever is in the working directory.
    paper = yaml.safe_load((CFG / "models/yolov12.yaml").read_text(encoding="utf-8"))
    table = []
    for model in MODELS.values():
        if model.release != "v1.0":
            continue
        net = DetectionModel(paper | {"scale": model.scale}, verbose=False).fuse(verbose=False)
        table.append(
            {
                "model": f"YOLOv12-{model.scale.upper()}",
                "gflops_paper": model.gflops,
                "gflops": round(gflops(net, model.imgsz), 1),
                "params_m_paper": model.parameters_m,
                "params_m": round(sum(p.numel() for p in net.parameters()) / 1e6, 1),
                "ap_paper": model.ap,
                "ap50_paper": model.ap50,
                "ap75_paper": model.ap75,
                "latency_ms_paper": model.latency,
            }
        )
    return table
