"""Whether an exported file computes the model: what has to hold before a latency means anything."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn

from yolov12_plugin.checkpoints.trust import check, trusting
from yolov12_plugin.checkpoints.weights import find
from yolov12_plugin.deploy.accuracy import Accuracy, compare_accuracy, images_of
from yolov12_plugin.deploy.runtimes import open_artefact
from yolov12_plugin.deploy.runtimes.pytorch import exportable
from yolov12_plugin.deploy.runtimes.session import Options, Session, as_list, literal
from yolov12_plugin.nets import channels, is_classifier, is_dense, is_detector, is_rotated
from yolov12_plugin.process import same_activation, undisturbed

CONFIDENCE, NMS_IOU, MATCH_IOU, CANDIDATES = 0.25, 0.7, 0.95, 100
SUPPRESSION = {"conf_thres": CONFIDENCE, "iou_thres": NMS_IOU, "agnostic": False, "max_det": 300}  # as exports have it
FEW = 10  # images from which no interval can be told
FOUND = 0.01  # accuracy below which a model has learned nothing
SLACK = 0.25  # of a score that no limit holds, before what is above the cut counts as invented
# A network that answers every image alike differs between images by less than its own rounding.
LIVE = 1e-5
FAINT = 5.0  # log-odds that all scores of a scene together have above those of none, in which there is hardly anything
ROWS = "x1 y1 x2 y2 score class"  # what a file holds whose metadata name this layout: corners in pixels, the best class
EXTRA = (("Segment", "nm", "mask coefficients"), ("Pose", "nk", "keypoints"), ("OBB", "ne", "angles"))


@dataclass(frozen=True)
class Limits:
    """What a precision may change: boxes (pixels), scores, an output's error beside its variation from image to image,
    the share of PyTorch's detections that must be found again at an IoU, and the accuracy lost on a dataset.

    INT8's largest errors are those of a few anchors and differ from photo to photo, so that None limits them; what is
    limited instead is the error of all scores' log-odds, beside what they have above those of `rounding`.

    Scores within `rounding` count as equal: those of an untrained model are all about 1e-5, where ONNX Runtime's
    sigmoid is off by 1e-7 and half precision rounds most of their variation away.
    """

    box_px: float | None
    score: float | None
    rounding: float
    relative: float
    matched: float
    loss: float
    iou: float = MATCH_IOU
    log_odds: float | None = None


LIMITS = {
    "fp32": Limits(box_px=0.1, score=1e-3, rounding=5e-7, relative=5e-3, matched=0.99, loss=0.002),
    "tf32": Limits(box_px=1.0, score=5e-3, rounding=1e-5, relative=0.04, matched=0.97, loss=0.003),
    "fp16": Limits(box_px=4.0, score=0.02, rounding=1e-4, relative=0.15, matched=0.9, loss=0.005),
    "bf16": Limits(box_px=24.0, score=0.1, rounding=1e-3, relative=0.5, matched=0.5, loss=0.02),
    "int8": Limits(None, None, rounding=5e-3, relative=0.75, matched=0.7, loss=0.03, iou=0.75, log_odds=0.5),
}


@dataclass
class Verification:
    """What was compared: errors are the largest found; `diverging` names the first output that is not the model's.

    `images` counts the crops with which INT8 is compared too. `box_px` is of the detections (pixels of the input),
    `score` of all scores, `relative` of each output the root mean square of the error over that of its variation from
    image to image. `matched` of `detections` were found again, of the same class, at the limits' IoU. `accuracy` is
    that on a dataset, where one was given. Where the model answers every image alike, or a few images show little of
    INT8, `note` says so.
    """

    precision: str
    limits: Limits
    images: int
    box_px: float = 0.0
    score: float = 0.0
    relative: dict[str, float] = field(default_factory=dict)
    detections: int = 0
    matched: int = 0
    diverging: str | None = None
    note: str | None = None
    accuracy: Accuracy | None = None

    @property
    def passed(self) -> bool:
        return self.diverging is None

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        found = f"boxes within {self.box_px:.2g} px, scores within {self.score:.2g}"
        found += f", {self.matched} of {self.detections} detections matched at IoU {self.limits.iou}"
        found += f"; {self.accuracy}" if self.accuracy else ""
        verdict = "computes the model" if self.passed else f"does not compute the model, {self.diverging}"
        return f"{verdict} ({self.precision}: {found}{f'; {self.note}' if self.note else ''})"

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        rounded = {key: float(f"{value:.3g}") for key, value in self.relative.items()}
        values = {"box_px": float(f"{self.box_px:.3g}"), "score": float(f"{self.score:.3g}"), "relative": rounded}
        return {"passed": self.passed, **asdict(self), **values}


@undisturbed()
def verify_export(
    model: Any,
    artefact: str | Path,
    *,
    source: Sequence[str | Path] | None = None,
    imgsz: int | None = None,
    device: str | torch.device = "cpu",
    precision: str | None = None,
    confidence: float = CONFIDENCE,
    iou: float = NMS_IOU,
    data: str | Path | None = None,
    trust: bool = False,
) -> Verification:
    """Compare an exported file with the PyTorch model that it was exported from, on real images.

    A few photos do not show what INT8 costs. With `data`, both are validated on it, and the loss of mAP is judged, with
    its 95 % interval. Without it, a file in INT8 passes if it finds most of the model's detections again, in `source`
    and in crops of the two sample images, so that the verdict does not hang on one photo.

    Args:
        model: a `YOLO`, its network, or a checkpoint or YAML that `YOLO` loads.
        artefact: what `export` returned, of any of Ultralytics' formats.
        source: image files; Ultralytics' two sample images where there are none.
        imgsz: pixels, for a file that takes more than one size; the metadata's, or 640.
        device: where the file runs if its runtime can choose; an engine runs on the GPU.
        precision: whose limits to apply (fp32, tf32, fp16, bf16, int8); those of what the file runs in, or keeps its
            weights in.
        confidence, iou: of detections; `conf` and `iou` of the export, where non-maximum suppression is in the file.
        data: a dataset's YAML, or a classifier's folder, whose `val` images are what is validated on; some of them are
            compared one by one too, where no `source` is given.
        trust: execute what a checkpoint carries.

    Raises:
        CheckpointError: `model` is a checkpoint that holds what would be executed.
        FileNotFoundError: no such file or image.
        NotRunnable: the runtime of the file is missing, or refuses it here; `data` cannot be validated on.
        ValueError: a precision without limits.

    Examples:
        >>> from ultralytics import YOLO
        >>> import yolov12_plugin as y12
        >>> model = YOLO("yolov12n.yaml", verbose=False)
        >>> file = model.export(format="torchscript", imgsz=64, verbose=False)
        >>> y12.verify_export(model, file).passed
        True
    """
    session = open_artefact(Path(artefact), Options(device=torch.device(device)))
    if isinstance(model, (str, Path)):
        with trusting(trust):
            model = load(Path(model))
    net: Any = model.model if hasattr(model, "task_map") else model  # of a `YOLO`, or itself
    size = session.size or ((imgsz, imgsz) if imgsz else session.exported_size) or (640, 640)
    images = read_images(size, source or (None if data is None else images_of(data, net)), channels(net))
    end2end = selects(session, images, net.model[-1])
    suppression = SUPPRESSION | {"conf_thres": confidence, "iou_thres": iou}
    result = verify(exportable(net, size, end2end=end2end), session, images, precision, suppression, crops=data is None)
    if data is not None:
        judge_accuracy(result, compare_accuracy(net, Path(artefact), data, size, str(device)))
    return result


def judge_accuracy(result: Verification, accuracy: Accuracy) -> None:
    """Hold the accuracy that a file loses on a dataset against the limit of its precision.

    It decides about INT8 alone where it shows that the loss is small: what differs then, costs nothing.
    """
    result.accuracy, result.note, limit = accuracy, None, result.limits.loss
    if accuracy.model < FOUND:
        result.note = f"the model itself has {accuracy.metric} {accuracy.model:.3f}, so the loss shows nothing"
    elif accuracy.loss > limit:
        _diverges(result, f"{accuracy}, {result.precision} allows {100 * limit:g}")
    elif accuracy.high > limit or accuracy.images < FEW:
        result.note = f"{accuracy.images} images do not show that it loses less than {100 * limit:g} points: give more"
    elif result.precision == "int8":
        result.diverging = None


@same_activation()
def load(source: Path) -> Any:
    """A `YOLO` of a file, or an `RTDETR` of a YAML, which `YOLO` does not build.

    Raises:
        CheckpointError: a checkpoint holds what would be executed.
        OSError: it is not there, or is a folder that is no exported model.
    """
    from ultralytics import RTDETR, YOLO
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    source = Path(find(source))
    if source.is_dir():
        raise IsADirectoryError(f"{source} is a folder, and not of an exported model: those end as in best_ncnn_model")
    downloaded = source.name in GITHUB_ASSETS_NAMES or ":" in str(source)
    if source.suffix == ".pt" and not source.exists() and not downloaded:
        raise FileNotFoundError(f"{source} does not exist: check the path")
    check(source)
    kind = RTDETR if "rtdetr" in source.stem.lower() and source.suffix != ".pt" else YOLO
    return kind(str(source))


def selects(session: Session, images: Tensor, head: Any) -> bool:
    """Whether a file has a head's branch that needs no non-maximum suppression, which gives (B, K, 6 + extra)."""
    if getattr(head, "one2one_cv2", None) is None or session.arguments.get("nms"):
        return False
    if (told := literal(session.metadata.get("end2end"))) is not None:
        return bool(told)
    out = session(images)[0]
    return out.ndim == 3 and out.shape[-1] == 6 + extra(head)[0]


def extra(head: Any) -> tuple[int, str]:
    """Number and name of a detection's values beside box, score and class."""
    for kind, count, what in EXTRA:
        if type(head).__name__.startswith(kind):
            return getattr(head, count), what
    return 0, "other values"


def read_images(size: tuple[int, int], source: Sequence[str | Path] | None = None, channels: int = 3) -> Tensor:
    """Images (B, channels, H, W) of values 0..1, stretched to a size: a padded border would be the same in all.

    Args:
        size: height and width, in pixels.
        source: image files; Ultralytics' two sample images where there are none.
        channels: of the network; those of RGB, repeated.

    Raises:
        FileNotFoundError: a file is no image.
    """
    return _batch(_read(source), size, channels)


def read_crops(size: tuple[int, int], channels: int = 3) -> Tensor:
    """Eight crops of each sample image, as `read_images` has them: half as high and wide, all around its middle."""
    crops = []
    for image in _read():
        h, w = image.shape[0] // 4, image.shape[1] // 4
        crops += [image[y * h :, x * w :][: 2 * h, : 2 * w] for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return _batch(crops, size, channels)


def _read(source: Sequence[str | Path] | None = None) -> list[Any]:
    """Images (H, W, BGR) of files, or Ultralytics' two samples."""
    from ultralytics.utils import ASSETS

    images = []
    for file in source or (ASSETS / "bus.jpg", ASSETS / "zidane.jpg"):
        image = cv2.imread(str(file))
        if image is None:
            raise FileNotFoundError(f"{file} is no image that OpenCV reads: name JPEG or PNG files")
        images.append(image)
    return images


def _batch(images: list[Any], size: tuple[int, int], channels: int) -> Tensor:
    """Images of OpenCV (H, W, BGR) as a network takes them, (B, channels, H, W)."""
    resized = [cv2.resize(image, size[::-1])[..., ::-1].copy() for image in images]  # BGR to RGB
    batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in resized])  # (H, W, C) -> (C, H, W)
    return (batch.float() / 255).repeat(1, -(-channels // 3), 1, 1)[:, :channels]


@torch.no_grad()
def responds(model: nn.Module, images: Tensor) -> bool:
    """Whether a network's outputs depend on the image."""
    out = as_list(exportable(model, tuple(images.shape[-2:]))(images))[0].float()  # type: ignore[arg-type]
    return bool((out - out.mean(0)).square().mean() > (LIVE**2) * out.square().mean())


@torch.no_grad()
def enliven(model: nn.Module, images: Tensor) -> None:
    """Scale the normalisations of an untrained network so that its outputs depend on the image.

    As initialised, each layer halves what is left of the image, and after some forty of them any export would pass.
    Every batch normalisation is given the root mean square of what comes in; means, and so rounding, stay as they are.
    """

    def scale(m: Any, args: tuple[Tensor]) -> None:
        m.running_mean.zero_()
        m.running_var.fill_(args[0].square().mean())

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [m.register_forward_pre_hook(scale) for m in norms]
    training = model.training
    try:
        model.eval()(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


def verify(
    net: nn.Module,
    session: Session,
    images: Tensor,
    precision: str | None = None,
    suppression: Mapping[str, Any] = SUPPRESSION,
    crops: bool = True,
) -> Verification:
    """Compare a session with the network that it was exported from.

    Args:
        net: what `exportable` made of it.
        session: the exported file, loaded.
        images: (B, C, H, W) of 0..1.
        precision: as of `verify_export`.
        suppression: thresholds of non-maximum suppression, as `SUPPRESSION`.
        crops: compare INT8 in crops of the sample images too, so that it does not hang on a few images.
    """
    if precision is None:
        runs_in = {"unknown": "fp16", "fp8": "int8"}.get(session.precision, session.precision)
        precision = max(runs_in, session.stored or runs_in, key=list(LIMITS).index)
    if precision not in LIMITS:
        raise ValueError(f"precision {precision!r} has no limits; there are {', '.join(LIMITS)}")
    head: Any = net.model[-1]  # type: ignore[index]
    own = len(images)
    if crops and precision == "int8" and is_detector(head):
        images = torch.cat((images, read_crops(images.shape[-2:], images.shape[1])))  # type: ignore[arg-type]
    result = Verification(precision, LIMITS[precision], len(images))
    device = next(net.parameters()).device
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False), _selecting(head) as offered:
        outputs = [torch.cat(part) for part in zip(*(as_list(net(some.to(device))) for some in images.split(own)))]
    wanted, maps = [out.float().cpu() for out in outputs], [not out.is_floating_point() for out in outputs]
    found = session(images)
    names = session.output_names or [f"output{i}" for i in range(len(found))]
    in_rows = session.metadata.get("layout") == ROWS
    if not wanted or len(found) < len(wanted):
        result.diverging = f"{len(found)} outputs ({', '.join(names)}) instead of {len(wanted)}"
        return result
    for i, (name, a, b) in enumerate(zip(names, wanted, found)):
        if in_rows and is_dense(head):
            b = _from_rows(head, a, b)
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            _diverges(result, f"{name} holds NaN or infinity")
        elif is_classifier(head):
            _compare_classes(result, name, a, b)
        elif maps[i]:
            _compare_map(result, name, a, b)
        elif i > 0 or not is_detector(head):  # prototypes of masks, maps of other tasks
            _near(result, name, a, b)
        elif is_dense(head) and a.shape == b.shape:
            _compare_dense(result, name, head, a, b, own)
        else:
            choice = torch.cat(offered) if offered else None
            _compare_selected(result, name, head, a, b, images.shape[-2:], suppression, choice, in_rows)
    if not result.detections and not any(name.startswith(names[0]) for name in result.relative):
        _diverges(
            result, "nothing was detected by either, so nothing is shown: choose other images, or a trained model"
        )
    if precision == "int8" and result.detections:
        share = 100 * _at_least(result.matched, result.detections)
        result.note = result.note or f"that is {share:.0f} % or more with 95 % confidence, data=... judges by mAP"
    return result


def _at_least(hits: int, count: int, z: float = 1.645) -> float:
    """Lower bound of a share by Wilson's interval, one-sided at 95 %."""
    share = hits / count
    middle = share + z**2 / (2 * count)
    width = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return (middle - width) / (1 + z**2 / count)


def _diverges(result: Verification, what: str) -> None:
    result.diverging = result.diverging or what


def _same_shape(result: Verification, name: str, a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        _diverges(result, f"{name} has shape {tuple(b.shape)}, the model's {tuple(a.shape)}")
    return a.shape == b.shape


def _check(result: Verification, name: str, error: float, limit: float | None, unit: str = "") -> None:
    if limit is not None and not error <= limit:
        _diverges(result, f"{name} by {error:.3g}{unit}, {result.precision} allows {limit:g}{unit}")


def _larger(error: float, other: float) -> float:
    """The larger of two errors; NaN, which `max` would drop, is the largest."""
    return max(error, other, key=lambda e: (math.isnan(e), e))


def _near(result: Verification, name: str, a: Tensor, b: Tensor, rounding: float = 0.0, limited: bool = True) -> None:
    """Hold the error of an output against its variation from image to image, or but note it."""
    if not _same_shape(result, name, a, b):
        return None
    if len(a) < 2:
        result.note = result.note or "one image does not show whether outputs depend on it: give two"
        return None
    variation = (a - a.mean(0)).square().mean().sqrt().item()
    if variation <= LIVE * a.square().mean().sqrt().item():
        result.note = result.note or f"{name} hardly depends on the image, so this shows little: is the model trained?"
        variation = a.square().mean().sqrt().item() or 1.0
    result.relative[name] = (a - b).square().mean().sqrt().item() / variation
    if not limited or (a - b).abs().max().item() <= rounding:
        return None
    return _check(result, f"{name} differs", result.relative[name], result.limits.relative, " of its variation")


def _compare_classes(result: Verification, name: str, a: Tensor, b: Tensor) -> None:
    if not _same_shape(result, name, a, b):
        return None
    result.score = (a - b).abs().max().item()
    result.detections, result.matched = len(a), int((a.argmax(1) == b.argmax(1)).sum())
    _check(result, f"{name} (probabilities) differs", result.score, result.limits.score)
    _check_matched(result, name)
    return _near(result, name, a, b, result.limits.rounding)


def _compare_map(result: Verification, name: str, a: Tensor, b: Tensor) -> None:
    """Pixel by pixel, of a map of classes: a number of a class is no measure of an error."""
    if not _same_shape(result, name, a, b):
        return None
    if (a == a.flatten()[0]).all():
        result.note = result.note or f"{name} has one class everywhere, so this shows little: is the model trained?"
    result.relative[name] = (a != b).float().mean().item()
    return _check(result, f"{name} differs", result.relative[name], 1 - result.limits.matched, " of its pixels")


def _compare_dense(result: Verification, name: str, head: Any, a: Tensor, b: Tensor, own: int) -> None:
    """Anchor by anchor: all scores, and the boxes of what non-maximum suppression keeps of the model's.

    From the image at `own` on they are crops.
    """
    from ultralytics.utils.metrics import probiou

    rotated = is_rotated(head)
    boxes, scores, rest = (slice(0, 4), slice(4, 4 + head.nc), slice(4 + head.nc, None))
    for (x, y), index in zip(zip(a, b), _kept(a, head)):
        angle = slice(-1, None) if rotated else slice(0, 0)
        p, q = (torch.cat((t[boxes], t[angle]))[:, index].T for t in (x, y))  # (N, 4 or 5)
        best = x[scores, index].argmax(0, keepdim=True)  # (1, N)
        score, other = (t[scores, index].gather(0, best)[0] for t in (x, y))
        same = other >= y[scores, index].amax(0) - result.limits.rounding
        if result.limits.score is None:  # or scores that are all zero would be those of any class
            same &= score - other <= torch.clamp(score / 2, min=result.limits.rounding)
        iou = probiou(p, q).flatten() if rotated else _iou(_xyxy(p), _xyxy(q)).diagonal()
        result.detections += len(index)
        result.matched += int((same & (iou >= result.limits.iou)).sum())
        if len(index):
            result.box_px = _larger(result.box_px, (p - q)[:, :4].abs().max().item())
    result.score = (a[:, scores] - b[:, scores]).abs().max().item()
    _check(result, f"{name} (boxes) differs", result.box_px, result.limits.box_px, " px")
    _check(result, f"{name} (scores) differs", result.score, result.limits.score)
    _check_matched(result, name)
    limits = result.limits
    values = a[:, rest], b[:, rest]
    if limits.score is None:
        values = _weighed(*values, a[:, scores].amax(1, keepdim=True))
    # Where no limit holds boxes or scores, those of the background vary more than what is detected.
    for part, x, y, rounding, limited in (
        ("boxes", a[:, boxes], b[:, boxes], (limits.box_px or 0.0) / 10, limits.box_px is not None),
        ("scores", a[:, scores], b[:, scores], limits.rounding, limits.score is not None),
        (extra(head)[1], *values, 0.0, True),
    ):
        if x.numel():
            _near(result, f"{name} ({part})", x, y, rounding, limited)
    if limits.log_odds is not None:
        starts = {0, own} if own < len(a) else {0}  # of all images, and of the crops
        error = max(_log_odds_error(a[i:, scores], b[i:, scores], limits.rounding) for i in starts)
        result.relative[f"{name} (log-odds)"] = error
        _check(result, f"{name} (log-odds of scores) differs", error, limits.log_odds, " of its own")


def _weighed(a: Tensor, b: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B, C, A) about their mean by weights (B, 1, A), so that those of what is not detected count little."""
    mean = (a * weight).sum((0, 2), keepdim=True) / weight.sum().clamp(min=1e-12)
    return (a - mean) * weight.sqrt(), (b - mean) * weight.sqrt()


def _log_odds_error(a: Tensor, b: Tensor, none: float) -> float:
    """The error of scores (B, C, A) over what they have above those of `none`, as the roots of the sums of squares."""
    x, y, floor = (t.clamp(none, 1 - none).logit() for t in (a, b, a.new_tensor(none)))
    return float((x - y).norm() / (x - floor).norm().clamp(min=FAINT))


def _from_rows(head: Any, a: Tensor, b: Tensor) -> Tensor:
    """Rows (B, A, 6) of all anchors as the head's own output (B, 4 + nc, A).

    The scores that they lack are those of `a`, but none above that which they give as the best.
    """
    from ultralytics.utils.ops import xyxy2xywh

    if b.shape != (*a[:, 0].shape, 6) or not ((b[..., 5] >= 0) & (b[..., 5] < head.nc)).all():
        return b
    best = b[..., 4:5].mT  # (B, 1, A)
    scores = a[:, 4 : 4 + head.nc].minimum(best).scatter(1, b[..., 5:].mT.long(), best)
    return torch.cat((xyxy2xywh(b[..., :4]).mT, scores), 1)


def _check_matched(result: Verification, name: str) -> None:
    needed = max(1, math.floor(result.limits.matched * result.detections)) if result.detections else 0
    if result.matched < needed:
        found = f"{result.matched} of {result.detections} detections matched at IoU {result.limits.iou}"
        _diverges(result, f"{name} (detections): {found}, {result.precision} needs {needed}")


def _kept(out: Tensor, head: Any, suppression: Mapping[str, Any] = SUPPRESSION) -> list[Tensor]:
    """Indices of the anchors (B times N) that non-maximum suppression keeps of an output (B, 4 + nc + extra, A).

    Where the model is confident of nothing, as an untrained one, those of its best hundred.
    """
    from ultralytics.utils.nms import non_max_suppression

    kept = []
    for image in out:
        best = image[4 : 4 + head.nc].amax(0)
        threshold = suppression["conf_thres"]
        if best.max() <= threshold:
            threshold = best.topk(min(CANDIDATES, len(best))).values[-1].item()
        options = {**suppression, "conf_thres": threshold, "nc": head.nc, "rotated": is_rotated(head)}
        _, index = non_max_suppression(image[None].clone(), **options, return_idxs=True, max_time_img=10)
        kept.append(index[0].flatten().long())
    return kept


def _compare_selected(
    result: Verification,
    name: str,
    head: Any,
    a: Tensor,
    b: Tensor,
    size: Sequence[int],
    suppression: Mapping[str, Any],
    offered: Tensor | None = None,
    in_rows: bool = False,
) -> None:
    """Detections that the network, or the file, selects: in any order, and only those clear of the cut.

    Where none is clear of it, since all scores are alike, any that was offered to the network's selection will do.
    """
    ours, theirs, cut = _selected(head, a, size), list(b) if in_rows else _selected(head, b, size), 0.0
    if ours is None:  # non-maximum suppression is in the file, not in the model
        ours = [_detections(x, head, index) for x, index in zip(a, _kept(a, head, suppression))]
        width = 6 + a.shape[1] - 4 - head.nc
        theirs = [_rows(head, rows[rows[:, 4] > 0]) for rows in b] if b.ndim == 3 and b.shape[-1] == width else None
        cut = suppression["conf_thres"]
    if theirs is None or len(theirs) != len(ours):
        return _diverges(result, f"{name} has shape {tuple(b.shape)}, the model's {tuple(a.shape)}")
    others: list[tuple[Tensor, Tensor]] = []
    for i, (p, q) in enumerate(zip(ours, theirs)):
        p, q = (t[t[:, 4].argsort(descending=True, stable=True)] for t in (p, q))
        p = p[p[:, 4] >= cut]
        floor = cut or p[-1, 4].item()
        where, found = _match(p, q, result.limits.iou)
        error = (p[found, 4] - q[where[found], 4]).abs().max().item() if found.any() else 0.0
        result.score = _larger(result.score, error)
        margin = 2 * max(error, result.limits.rounding)
        clear = p[:, 4] > floor + margin
        p_clear, where, found = p[clear], where[clear], found[clear]
        slack = SLACK if result.limits.score is None else result.limits.score
        stray = q[q[:, 4] > floor + margin + slack]
        if offered is not None and not (len(p_clear) or len(stray)):
            result.note = (
                result.note or f"the scores of {name} are all alike, so this shows little: is the model trained?"
            )
            result.detections += len(q)
            result.matched += int(_is_of(q, _boxed(head, offered[i], size), slack).sum())
        result.detections += len(p_clear) + int((~_match(stray, p, result.limits.iou)[1]).sum())
        result.matched += int(found.sum())
        if found.any():
            pair = p_clear[found], q[where[found]]
            result.box_px = _larger(result.box_px, (pair[0] - pair[1])[:, :4].abs().max().item())
            others.append((pair[0][:, 6:], pair[1][:, 6:]))
    _check(result, f"{name} (scores) differs", result.score, result.limits.score)
    _check_matched(result, name)
    _check(result, f"{name} (boxes) differs", result.box_px, result.limits.box_px, " px")
    if others and others[0][0].numel():
        x, y = (torch.cat(parts) for parts in zip(*others))
        if len(x) > 1:
            _near(result, f"{name} ({extra(head)[1]})", x, y)
    return None


def _match(a: Tensor, b: Tensor, iou_limit: float = MATCH_IOU) -> tuple[Tensor, Tensor]:
    """For each detection in `a` (N, 6): the index of its nearest in `b` (M, 6), and whether the two match."""
    if not len(a) or not len(b):
        return torch.zeros(len(a), dtype=torch.long), torch.zeros(len(a), dtype=torch.bool)
    iou = _iou(a, b)  # (N, M)
    iou[a[:, None, 5] != b[None, :, 5]] = 0
    best, where = iou.max(1)
    return where, best >= iou_limit


def _is_of(q: Tensor, offered: Tensor, tolerance: float) -> Tensor:
    """Whether each detection of `q` (N, 6) is one of those offered (A, 4 + nc + extra): the same box, and its score."""
    scores = offered[:, 4:].T[q[:, 5].long()]  # (N, A)
    return ((_iou(q, offered) >= MATCH_IOU) & ((scores - q[:, 4, None]).abs() <= tolerance)).any(1)


@contextmanager
def _selecting(head: Any) -> Iterator[list[Tensor]]:
    """What a head selects its detections from, (B, A, 4 + nc + extra), where it does so in Ultralytics' postprocess."""
    offered: list[Tensor] = []
    select = getattr(head, "postprocess", None)

    def postprocess(*args: Any) -> Any:
        tensors = [arg.float().cpu() for arg in args if isinstance(arg, Tensor)]  # older ones get numbers too
        offered.append(torch.cat(tensors, -1))
        return select(*args)  # type: ignore[misc]

    if select is None:
        yield offered
        return
    head.postprocess = postprocess
    try:
        yield offered
    finally:
        del head.postprocess


def _boxed(head: Any, rows: Tensor, size: Sequence[int]) -> Tensor:
    """Rows of a head's selection with their boxes as corners, in pixels."""
    if type(head).__name__ == "RTDETRDecoder":
        return torch.cat((_xyxy(rows[:, :4]) * rows.new_tensor([*size[::-1]] * 2), rows[:, 4:]), 1)
    return _rows(head, rows)


def _selected(head: Any, out: Tensor, size: Sequence[int]) -> list[Tensor] | None:
    """Detections (N, 6 + extra: x1 y1 x2 y2 score class) of each image of a head that selects them, else None."""
    if type(head).__name__ == "RTDETRDecoder":
        if not hasattr(head, "postprocess"):  # which selects them since Ultralytics 8.4
            score, kind = out[..., 4:].max(-1, keepdim=True)
            out = torch.cat((out[..., :4], score, kind.float()), -1)
        return [_boxed(head, rows, size) for rows in out]
    if getattr(head, "end2end", False) and out.ndim == 3 and out.shape[-1] >= 6:
        return [_boxed(head, rows, size) for rows in out]
    return None


def _rows(head: Any, rows: Tensor) -> Tensor:
    """Selected detections with corners, which rotated ones have not: their turn is compared among the other values."""
    return torch.cat((_xyxy(rows[:, :4]), rows[:, 4:]), 1) if is_rotated(head) else rows


def _detections(out: Tensor, head: Any, index: Tensor) -> Tensor:
    """Detections (N, 6 + extra: x1 y1 x2 y2 score class) of some anchors of one image's output (4 + nc + extra, A)."""
    score, kind = out[4 : 4 + head.nc, index].max(0)
    return torch.cat((_xyxy(out[:4, index].T), score[:, None], kind[:, None].float(), out[4 + head.nc :, index].T), 1)


def _xyxy(boxes: Tensor) -> Tensor:
    from ultralytics.utils.ops import xywh2xyxy

    return xywh2xyxy(boxes[..., :4])


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each pair of boxes (x1 y1 x2 y2) as their corners span them: untrained heads give some inside out."""
    from torchvision.ops import box_iou

    a, b = (torch.cat((torch.minimum(t[:, :2], t[:, 2:4]), torch.maximum(t[:, :2], t[:, 2:4])), 1) for t in (a, b))
    return box_iou(a, b)
