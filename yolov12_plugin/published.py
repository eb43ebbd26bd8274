"""What the paper prints of YOLOv12 and of the detectors beside it, Tables 1, 3, 4, 6 and 7; what others print.

The numbers are the paper's, also where they look like misprints: Table 4 gives YOLOv12-M 1.5 ms at FP16 on an RTX 3080,
as much as YOLOv12-S (on A5000 and A6000: 2.4 and 2.2). In section 4.2, 33.9% AP of YOLOv12-L must be 53.9%.
"""

import re
from dataclasses import dataclass
from typing import Any

from yolov12_plugin.models import MODELS


@dataclass(frozen=True)
class Detector:
    """A row of Table 1: FLOPs (G), parameters (M), AP (%) on COCO val at 640 pixels, latency (ms, T4, TensorRT FP16).

    `name` is the model of Ultralytics, or of this plugin, that is this very network; None where there is none.
    """

    method: str
    name: str | None
    gflops: float
    parameters_m: float
    ap: float | None
    ap50: float | None
    ap75: float | None
    latency: float | None

    @property
    def family(self) -> str:
        return self.method.rpartition("-")[0]

    @property
    def scale(self) -> str:
        return self.method.rpartition("-")[2]


def ours(scale: str) -> Detector:
    m = MODELS[f"yolov12{scale}"]
    return Detector(f"YOLOv12-{scale.upper()}", m.name, m.gflops, m.parameters_m, m.ap, m.ap50, m.ap75, m.latency)


# Ultralytics also has a `yolov6`, a `rtdetr-resnet50` and a `rtdetr-resnet101`, but these are other networks: plain
# convolutions (N: 13.0 G, M: 52.0 M parameters); a ResNet that is no ResNet-D (126 G); and with that an encoder of
# width 256 for 384 (61 M parameters). Its YOLOv9 does not group the box convolutions, which adds 0.5 G at every scale,
# but is the one whose speed the authors measured (section 4.4), and its AP is the same.
# fmt: off
TABLE1 = (
    Detector("YOLOv6-3.0-N", None, 11.4, 4.7, 37.0, 52.7, None, 2.69),
    Detector("Gold-YOLO-N", None, 12.1, 5.6, 39.6, 55.7, None, 2.92),
    Detector("YOLOv8-N", "yolov8n", 8.7, 3.2, 37.4, 52.6, 40.5, 1.77),
    Detector("YOLOv10-N", "yolov10n", 6.7, 2.3, 38.5, 53.8, 41.7, 1.84),
    Detector("YOLO11-N", "yolo11n", 6.5, 2.6, 39.4, 55.3, 42.8, 1.5),
    ours("n"),
    Detector("YOLOv6-3.0-S", None, 45.3, 18.5, 44.3, 61.2, None, 3.42),
    Detector("Gold-YOLO-S", None, 46.0, 21.5, 45.4, 62.5, None, 3.82),
    Detector("YOLOv8-S", "yolov8s", 28.6, 11.2, 45.0, 61.8, 48.7, 2.33),
    Detector("RT-DETR-R18", None, 60.0, 20.0, 46.5, 63.8, None, 4.58),
    Detector("RT-DETRv2-R18", None, 60.0, 20.0, 47.9, 64.9, None, 4.58),
    Detector("YOLOv9-S", "yolov9s", 26.4, 7.1, 46.8, 63.4, 50.7, None),
    Detector("YOLOv10-S", "yolov10s", 21.6, 7.2, 46.3, 63.0, 50.4, 2.49),
    Detector("YOLO11-S", "yolo11s", 21.5, 9.4, 46.9, 63.9, 50.6, 2.5),
    ours("s"),
    Detector("YOLOv6-3.0-M", None, 85.8, 34.9, 49.1, 66.1, None, 5.63),
    Detector("Gold-YOLO-M", None, 87.5, 41.3, 49.8, 67.0, None, 6.38),
    Detector("YOLOv8-M", "yolov8m", 78.9, 25.9, 50.3, 67.2, 54.7, 5.09),
    Detector("RT-DETR-R34", None, 100.0, 36.0, 48.9, 66.8, None, 6.32),
    Detector("RT-DETRv2-R34", None, 100.0, 36.0, 49.9, 67.5, None, 6.32),
    Detector("YOLOv9-M", "yolov9m", 76.3, 20.0, 51.4, 68.1, 56.1, None),
    Detector("YOLOv10-M", "yolov10m", 59.1, 15.4, 51.1, 68.1, 55.8, 4.74),
    Detector("YOLO11-M", "yolo11m", 68.0, 20.1, 51.5, 68.5, 55.7, 4.7),
    ours("m"),
    Detector("YOLOv6-3.0-L", None, 150.7, 59.6, 51.8, 69.2, None, 9.02),
    Detector("Gold-YOLO-L", None, 151.7, 75.1, 51.8, 68.9, None, 10.65),
    Detector("YOLOv8-L", "yolov8l", 165.2, 43.7, 53.0, 69.8, 57.7, 8.06),
    Detector("RT-DETR-R50", None, 136.0, 42.0, 53.1, 71.3, None, 6.90),
    Detector("RT-DETRv2-R50", None, 136.0, 42.0, 53.4, 71.6, None, 6.90),
    Detector("YOLOv9-C", "yolov9c", 102.1, 25.3, 53.0, 70.2, 57.8, None),
    Detector("YOLOv10-B", "yolov10b", 92.0, 19.1, 52.5, 69.6, 57.2, 5.74),
    Detector("YOLOv10-L", "yolov10l", 120.3, 24.4, 53.2, 70.1, 58.1, 7.28),
    Detector("YOLO11-L", "yolo11l", 86.9, 25.3, 53.3, 70.1, 58.2, 6.2),
    ours("l"),
    Detector("YOLOv8-X", "yolov8x", 257.8, 68.2, 54.0, 71.0, 58.8, 12.83),
    Detector("RT-DETR-R101", None, 259.0, 76.0, 54.3, 72.7, None, 13.5),
    Detector("RT-DETRv2-R101", None, 259.0, 76.0, 54.3, 72.8, None, 13.5),
    Detector("YOLOv10-X", "yolov10x", 160.4, 29.5, 54.4, 71.3, 59.3, 10.70),
    Detector("YOLO11-X", "yolo11x", 194.9, 56.9, 54.6, 71.6, 59.5, 11.3),
    ours("x"),
)
# fmt: on


@dataclass(frozen=True)
class Documented(Detector):
    """A row of Ultralytics' documentation; `ap` is of the end-to-end head, whose latency it gives.

    `ap_nms` (%) is of its other head with non-maximum suppression, `latency_cpu` (ms) of ONNX Runtime.
    """

    ap_nms: float
    latency_cpu: float


# docs.ultralytics.com/models/yolo26, whose table is docs/macros/yolo-det-perf.md of Ultralytics 8.4
YOLO26 = (
    Documented("YOLO26-N", "yolo26n", 5.4, 2.4, 40.1, None, None, 1.7, 40.9, 38.9),
    Documented("YOLO26-S", "yolo26s", 20.7, 9.5, 47.8, None, None, 2.5, 48.6, 87.2),
    Documented("YOLO26-M", "yolo26m", 68.2, 20.4, 52.5, None, None, 4.7, 53.1, 220.0),
    Documented("YOLO26-L", "yolo26l", 86.4, 24.8, 54.4, None, None, 6.2, 55.0, 286.2),
    Documented("YOLO26-X", "yolo26x", 193.9, 55.7, 56.9, None, None, 11.8, 57.5, 525.8),
)

# Latency (ms) on a T4 by TensorRT 10 at 640 pixels, by who says it. Ultralytics: docs.ultralytics.com, which takes
# YOLO12's from the paper; turbo as measured in github.com/ultralytics/ultralytics/pull/19728, slower than the authors.
T4_OF_ULTRALYTICS: dict[str | None, float | None] = {
    **{row.name: row.latency for row in TABLE1 if row.family == "YOLO11"},
    **{f"yolo12{scale}": ours(scale).latency for scale in "nsmlx"},
    **{row.name: row.latency for row in YOLO26},
    **{"yolov12n-turbo": 2.3, "yolov12s-turbo": 4.1, "yolov12m-turbo": 7.5},
}
T4_OF_THE_AUTHORS = {model.name: model.latency for model in MODELS.values() if model.task == "detect" and model.latency}


@dataclass(frozen=True)
class AreaOnCpu:
    """Table 3's CPU column: ms without and with area attention, without FlashAttention, by an Intel Core i7-10700K."""

    name: str
    without: float
    with_area: float


TABLE3_CPU = (
    AreaOnCpu("yolov12n", 62.9, 31.4),
    AreaOnCpu("yolov12s", 130.0, 78.4),
    AreaOnCpu("yolov12x", 804.2, 512.5),
)


@dataclass(frozen=True)
class AreaOnCuda:
    """Table 3's CUDA columns: ms at FP32 and FP16 on (RTX 3080, A5000), with or without area attention."""

    name: str
    area: bool
    fp32: tuple[float, float]
    fp16: tuple[float, float]


TABLE3_CUDA = (
    AreaOnCuda("yolov12n", False, (2.7, 2.5), (1.5, 1.5)),
    AreaOnCuda("yolov12n", True, (2.0, 2.0), (1.3, 1.3)),
    AreaOnCuda("yolov12s", False, (5.1, 4.4), (2.5, 2.2)),
    AreaOnCuda("yolov12s", True, (3.5, 3.1), (1.7, 1.7)),
    AreaOnCuda("yolov12x", False, (26.4, 21.9), (11.1, 10.4)),
    AreaOnCuda("yolov12x", True, (18.2, 14.3), (7.1, 6.7)),
)


@dataclass(frozen=True)
class Speed:
    """A row of Table 4: FLOPs (G) and latency (ms) as (FP32, FP16) on an RTX 3080, an RTX A5000 and an RTX A6000."""

    method: str
    name: str
    gflops: float
    rtx3080: tuple[float, float]
    a5000: tuple[float, float]
    a6000: tuple[float, float]


# fmt: off
TABLE4 = (
    Speed("YOLOv9-T", "yolov9t", 8.2, (2.4, 1.5), (2.4, 1.6), (2.3, 1.7)),
    Speed("YOLOv9-S", "yolov9s", 26.4, (3.7, 1.9), (3.4, 2.0), (3.5, 1.9)),
    Speed("YOLOv9-M", "yolov9m", 76.3, (6.5, 2.8), (5.5, 2.6), (5.2, 2.6)),
    Speed("YOLOv9-C", "yolov9c", 102.1, (8.0, 2.9), (6.4, 2.7), (6.0, 2.7)),
    Speed("YOLOv9-E", "yolov9e", 189.0, (17.2, 6.7), (14.2, 6.3), (13.1, 5.9)),
    Speed("YOLOv10-N", "yolov10n", 6.7, (1.6, 1.0), (1.6, 1.0), (1.6, 1.0)),
    Speed("YOLOv10-S", "yolov10s", 21.6, (2.8, 1.4), (2.4, 1.4), (2.4, 1.3)),
    Speed("YOLOv10-M", "yolov10m", 59.1, (5.7, 2.5), (4.5, 2.4), (4.2, 2.2)),
    Speed("YOLOv10-B", "yolov10b", 92.0, (6.8, 2.9), (5.5, 2.6), (5.2, 2.8)),
    Speed("YOLOv11-N", "yolo11n", 6.5, (1.6, 1.0), (1.6, 1.0), (1.5, 0.9)),
    Speed("YOLOv11-S", "yolo11s", 21.5, (2.8, 1.3), (2.4, 1.4), (2.4, 1.3)),
    Speed("YOLOv11-M", "yolo11m", 68.0, (5.6, 2.3), (4.5, 2.2), (4.4, 2.1)),
    Speed("YOLOv11-L", "yolo11l", 86.9, (7.4, 3.0), (5.9, 2.7), (5.8, 2.7)),
    Speed("YOLOv11-X", "yolo11x", 194.9, (15.2, 5.3), (10.7, 4.7), (9.1, 4.0)),
    Speed("YOLOv12-N", "yolov12n", MODELS["yolov12n"].gflops, (1.7, 1.1), (1.7, 1.0), (1.7, 1.1)),
    Speed("YOLOv12-S", "yolov12s", MODELS["yolov12s"].gflops, (2.9, 1.5), (2.5, 1.5), (2.5, 1.4)),
    Speed("YOLOv12-M", "yolov12m", MODELS["yolov12m"].gflops, (5.8, 1.5), (4.6, 2.4), (4.4, 2.2)),
    Speed("YOLOv12-L", "yolov12l", MODELS["yolov12l"].gflops, (7.9, 3.3), (6.2, 3.1), (6.0, 3.0)),
    Speed("YOLOv12-X", "yolov12x", MODELS["yolov12x"].gflops, (15.6, 5.6), (11.0, 5.2), (9.5, 4.4)),
)
# fmt: on


# Table 6: AP, AP50 and AP75 are those of Table 1; AP (%) of small, medium and large objects by scale.
TABLE6_SIZES = {
    "n": (20.2, 45.2, 58.4),
    "s": (29.8, 53.2, 65.6),
    "m": (35.7, 58.2, 68.8),
    "l": (36.9, 59.5, 69.9),
    "x": (39.6, 60.7, 70.9),
}


def table6(scale: str) -> tuple[float | None, ...]:
    """AP, AP50, AP75 and AP of small, medium and large objects (%) of a scale on COCO val."""
    row = ours(scale)
    return (row.ap, row.ap50, row.ap75, *TABLE6_SIZES[scale])


@dataclass(frozen=True)
class Hyperparameter:
    """A row of Table 7: what it says of N, S, M, L and X, and the train argument of Ultralytics that it sets."""

    name: str
    argument: str
    values: tuple[float | str, ...]


def everywhere(value: float | str) -> tuple[float | str, ...]:
    return (value,) * 5


TABLE7 = (
    Hyperparameter("Epochs", "epochs", everywhere(600)),
    Hyperparameter("Optimizer", "optimizer", everywhere("SGD")),
    Hyperparameter("Momentum", "momentum", everywhere(0.937)),
    Hyperparameter("Batch size", "batch", everywhere(32 * 8)),
    Hyperparameter("Weight decay", "weight_decay", everywhere(5e-4)),
    Hyperparameter("Warm-up epochs", "warmup_epochs", everywhere(3)),
    Hyperparameter("Warm-up momentum", "warmup_momentum", everywhere(0.8)),
    Hyperparameter("Warm-up bias learning rate", "warmup_bias_lr", everywhere(0.0)),
    Hyperparameter("Initial learning rate", "lr0", everywhere(1e-2)),
    Hyperparameter("Final learning rate", "lrf", everywhere(1e-4)),
    Hyperparameter("Learning rate schedule", "cos_lr", everywhere("Linear decay")),
    Hyperparameter("Box loss gain", "box", everywhere(7.5)),
    Hyperparameter("Class loss gain", "cls", everywhere(0.5)),
    Hyperparameter("DFL loss gain", "dfl", everywhere(1.5)),
    Hyperparameter("HSV saturation augmentation", "hsv_s", everywhere(0.7)),
    Hyperparameter("HSV value augmentation", "hsv_v", everywhere(0.4)),
    Hyperparameter("HSV hue augmentation", "hsv_h", everywhere(0.015)),
    Hyperparameter("Translation augmentation", "translate", everywhere(0.1)),
    Hyperparameter("Scale augmentation", "scale", (0.5, 0.9, 0.9, 0.9, 0.9)),
    Hyperparameter("Mosaic augmentation", "mosaic", everywhere(1.0)),
    Hyperparameter("Mixup augmentation", "mixup", (0.0, 0.05, 0.15, 0.15, 0.2)),
    Hyperparameter("Copy-paste augmentation", "copy_paste", (0.1, 0.15, 0.4, 0.5, 0.6)),
    Hyperparameter("Close mosaic epochs", "close_mosaic", everywhere(10)),
)


def table7(scale: str) -> dict[str, Any]:
    """Train arguments of Ultralytics that Table 7 sets: `lrf` is a share of `lr0` there, linear decay no cosine."""
    arguments = {row.argument: row.values["nsmlx".index(scale)] for row in TABLE7}
    share = float(arguments["lrf"]) / float(arguments["lr0"])
    return arguments | {"lrf": share, "cos_lr": arguments["cos_lr"] != "Linear decay"}


def detector(name: str) -> Detector | None:
    """The row of Table 1 of an Ultralytics model name; `yolo12n` is stock's name for YOLOv12-N's network."""
    name = re.sub(r"^yolo12(?=[nsmlx]$)", "yolov12", name)
    return next((row for row in TABLE1 if row.name == name), None)


def latency(name: str) -> float | None:
    """The paper's T4 latency (ms, TensorRT FP16) of an Ultralytics model name; None where Table 1 has none."""
    row = detector(name)
    return row.latency if row else None
