"""Hyperparameters of the paper as Ultralytics train arguments (Table 7)."""

from typing import Any

import yaml

from yolov12_plugin.names import CFG


def preset(scale: str) -> dict[str, Any]:
    """Train arguments of a scale on COCO (paper, Table 7), for `YOLO(...).train(**preset("n"), data=...)`.

    Raises:
        ValueError: no such scale.
    """
    path = CFG / "presets" / f"yolov12{scale}-coco.yaml"
    if not path.is_file():
        scales = sorted(p.name[len("yolov12")] for p in path.parent.glob("yolov12?-coco.yaml"))
        raise ValueError(f"no preset for scale {scale!r}; scales are {', '.join(scales)}")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
