"""Accuracy on a dataset: of a model and of what was exported from it, on the same images, by Ultralytics."""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from yolov12_plugin.errors import NotRunnable, PluginError, first_line
from yolov12_plugin.images import images_in
from yolov12_plugin.nets import channels, is_classifier

RESAMPLES = 200
# What counts as found in Ultralytics' statistics, and its name: a box is no measure of its mask or keypoints.
JUDGED = {
    "detect": ("tp", "mAP50-95"),
    "obb": ("tp", "mAP50-95"),
    "segment": ("tp_m", "mask mAP50-95"),
    "pose": ("tp_p", "pose mAP50-95"),
    "classify": ("", "top-1"),
}


@dataclass(frozen=True)
class Accuracy:
    """Accuracy (0..1) of the model and of the file, and the 95 % interval of what the file loses.

    The interval is that of 200 resamplings of the images, each scored for both.
    """

    metric: str  # mAP50-95 of boxes, masks or poses, or top-1
    images: int
    model: float
    file: float
    low: float
    high: float

    @property
    def loss(self) -> float:
        return self.model - self.file

    @property
    def kept(self) -> str:
        return f"{self.file:.3f} of {self.model:.3f}"

    @property
    def interval(self) -> str:
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"

    @property
    def lost(self) -> str:
        """Points, and their interval."""
        return f"{round(100 * self.loss, 1) + 0:.1f} ({self.interval})"

    def __str__(self) -> str:
        lost = f"{100 * self.loss:.1f} points lost (95 %: {self.interval})"
        return f"{self.metric} {self.kept} on {self.images} images, {lost}"


def images_of(data: str | Path, net: Any, most: int = 8) -> list[Path]:
    """Some of the `val` images of a dataset for a network.

    Raises:
        NotRunnable: there is no such dataset, it has none, or it has not the network's channels and classes.
    """
    from ultralytics.data.utils import check_cls_dataset, check_det_dataset

    if not str(data).strip():
        raise NotRunnable(f"data={str(data)!r} names no dataset: give the YAML that the model was trained on")
    try:
        found = check_cls_dataset(str(data)) if net.task == "classify" else check_det_dataset(str(data))
        val = found.get("val") or found.get("test") or []
        files = sorted(images_in([Path(place) for place in (val if isinstance(val, list) else [val])])) if val else []
    except PluginError as e:
        raise NotRunnable(f"data={data}: {e}") from e
    except Exception as e:  # whatever Ultralytics, or a dataset's own script, finds wrong
        raise NotRunnable(f"data={data} is no dataset that can be read: {type(e).__name__}: {first_line(e)}") from e
    if not files:
        raise NotRunnable(f"data={data} has no val images: name some in its YAML")
    if (own := found.get("channels", 3)) != channels(net):
        raise NotRunnable(f"data={data} has images of {own} channels and the model takes {channels(net)}")
    if found["nc"] != (count := len(net.names)):
        raise NotRunnable(f"data={data} has {found['nc']} classes and the model {count}: name what it was trained on")
    return files[:: max(1, len(files) // most)][:most]


def compare_accuracy(
    net: nn.Module,
    artefact: Path,
    data: str | Path,
    imgsz: int | tuple[int, int],
    device: str = "cpu",
    validate: Callable[..., list[Any]] | None = None,
) -> Accuracy:
    """Validate a network and the file that was exported from it on the `val` images of a dataset.

    Args:
        net: the network of a `YOLO`, which stays as it is.
        artefact: the file.
        data: a dataset's YAML, or a classifier's folder, as of `yolo val`.
        imgsz: pixels, or height and width, that the file takes.
        device: of both.
        validate: `by_image` of the network, where it need not be done again for each file.

    Raises:
        NotRunnable: the dataset is not there or has no labels, the task has no measure here, or the runtime fails.
    """
    size = imgsz if isinstance(imgsz, int) else max(imgsz)
    if net.task not in JUDGED:
        raise NotRunnable(f"a model of the task {net.task} is not judged on a dataset: leave out data={data}")
    try:
        ours = (validate or partial(by_image, net))(str(data), size, device)
        theirs = by_image(net, str(data), size, device, artefact)
    except Exception as e:  # Ultralytics, a dataset's own script, or a runtime
        raise NotRunnable(f"data={data} cannot be validated on: {type(e).__name__}: {first_line(e)}") from e
    count = len(ours)
    if not count or count != len(theirs):
        raise NotRunnable(f"data={data} has {count} images for the model and {len(theirs)} for the file: check its val")
    every = np.arange(count)
    random = np.random.default_rng(0)
    # Of many images the interval is narrow, and a resampling takes long.
    draws = [random.integers(count, size=count) for _ in range(max(20, min(RESAMPLES, 100_000 // count)))]
    lost = [_score(ours, draw) - _score(theirs, draw) for draw in draws]
    low, high = np.percentile(lost, (2.5, 97.5))
    metric = JUDGED[str(net.task)][1]
    return Accuracy(metric, count, _score(ours, every), _score(theirs, every), float(low), float(high))


def by_image(net: Any, data: str, imgsz: int, device: str, artefact: Path | None = None) -> list[Any]:
    """What a validation of a network, or its file, counts in each image: a classifier's hits, or what AP is made of."""
    from ultralytics import RTDETR, YOLO

    head, task = net.model[-1], net.task
    kind: Any = RTDETR if type(head).__name__ == "RTDETRDecoder" else YOLO
    kept: list[Any] = []

    class Validator(kind.__new__(kind).task_map[task]["validator"]):  # type: ignore[misc]  # no file is loaded for it
        def get_stats(self) -> Any:
            if is_classifier(head):
                for found, wanted in zip(self.pred, self.targets):
                    kept.extend((found[:, 0] == wanted.flatten()).tolist())
            else:
                stats = self.metrics.stats
                kept.extend(zip(stats[JUDGED[task][0]], stats["conf"], stats["pred_cls"], stats["target_cls"]))
            return super().get_stats()

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        args = dict(task=task, mode="val", data=data, imgsz=imgsz, device=device, batch=1, rect=False, workers=0)
        quiet = dict(plots=False, verbose=False, save_json=False, project=folder, name="val")
        Validator(args={**args, **quiet})(model=str(artefact) if artefact else deepcopy(net))
    return kept


def _score(rows: list[Any], index: np.ndarray) -> float:
    """Accuracy over some of the images."""
    from ultralytics.utils.metrics import ap_per_class

    chosen = [rows[i] for i in index]
    if not isinstance(chosen[0], tuple):
        return float(np.mean(chosen))
    tp, conf, found, wanted = (np.concatenate(part) for part in zip(*chosen))
    if not len(wanted):
        return 0.0
    ap = ap_per_class(tp, conf, found, wanted)[5]  # (classes, 10)
    return float(ap.mean()) if ap.size else 0.0
