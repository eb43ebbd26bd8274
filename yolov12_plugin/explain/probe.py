"""What a layer of any Ultralytics model computes of an image, as maps: activations, Grad-CAM, attention."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from ultralytics.data.augment import LetterBox, classify_transforms
from ultralytics.nn.modules.block import Attention
from ultralytics.utils.checks import check_imgsz

from yolov12_plugin.deploy.runtimes.session import as_list
from yolov12_plugin.deploy.verify import load
from yolov12_plugin.errors import CheckpointError, NotRunnable, choices, first_line
from yolov12_plugin.nets import channels, is_classifier, is_dense
from yolov12_plugin.nn.modules import AAttn
from yolov12_plugin.process import seeded

KINDS = (".pt", ".yaml", ".yml")
STAGE = 16  # stride of the third stage
CONFIDENCE, CANDIDATES = 0.25, 100
Grid = tuple[int, int]  # height and width
Extent = tuple[float, float, float, float]  # left, right, bottom and top in pixels of an image


@dataclass(frozen=True)
class Placement:
    """Where an image lies on the canvas that a network takes: its corner and size, in pixels of the canvas."""

    image: Grid
    canvas: Grid
    top: int
    left: int
    height: int
    width: int

    def cell(self, x: float, y: float, grid: Grid) -> Grid | None:
        """Row and column of the cell that has a point of the image; None where the canvas does not reach."""
        x, y = self.left + x * self.width / self.image[1], self.top + y * self.height / self.image[0]
        if not (0 <= x <= self.canvas[1] and 0 <= y <= self.canvas[0]):
            return None
        row, column = int(y * grid[0] / self.canvas[0]), int(x * grid[1] / self.canvas[1])
        return min(row, grid[0] - 1), min(column, grid[1] - 1)

    def crop(self, values: np.ndarray) -> tuple[np.ndarray, Extent]:
        """The cells of a map of the canvas that lie on the image, and where they lie on it."""
        (h, w), (rows, columns) = self.image, values.shape
        dy, dx = self.canvas[0] / rows, self.canvas[1] / columns
        first, last = max(0, math.floor(self.top / dy)), min(rows, math.ceil((self.top + self.height) / dy))
        begin, end = max(0, math.floor(self.left / dx)), min(columns, math.ceil((self.left + self.width) / dx))
        top, bottom = ((side * dy - self.top) * h / self.height for side in (first, last))
        left, right = ((side * dx - self.left) * w / self.width for side in (begin, end))
        return values[first:last, begin:end], (left, right, bottom, top)


@dataclass(frozen=True, eq=False)
class Probe:
    """A layer of a network, its stride, and the pixels of the images that the network is given."""

    name: str
    net: Any
    layer: int
    stride: int
    imgsz: int
    trained: bool

    @property
    def module(self) -> nn.Module:
        return self.net.model[self.layer]

    @property
    def head(self) -> Any:
        return self.net.model[-1]

    @property
    def title(self) -> str:
        return f"layer {self.layer} {type(self.module).__name__}"

    @property
    def has_scores(self) -> bool:
        """Whether its head gives class scores, which gradcam explains."""
        return is_classifier(self.head) or is_decoder(self.head) or is_dense(self.head)

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        about = {"model": self.name, "trained": self.trained, "layer": self.layer}
        return about | {"module": type(self.module).__name__, "stride": self.stride, "imgsz": self.imgsz}

    def prepare(self, image: np.ndarray) -> tuple[Tensor, Placement]:
        """An image (H, W, 3), BGR, as the network is given it: (1, C, H', W') of 0..1, and where it lies there."""
        x, placement = prepare(self.net, image, self.imgsz)
        return x.to(next(self.net.parameters()).device), placement


def find_probe(model: str, name: str, layer: int | None, imgsz: int | None, device: torch.device) -> Probe:
    """A layer of a model, by default the last of its backbone's third stage; the model is called `name` in errors.

    Args:
        model: a name as yolov12n, whose YAML is built with the same weights every time, .yaml, or .pt.
        layer: index, from the end where it is negative.
        imgsz: pixels; by default those of a checkpoint's training, else 640, and 224 for classifiers.

    Raises:
        NotRunnable: there is no such model, or no such layer; one line lists those that there are.
    """
    path = Path(model)
    yolo = load_model(path)
    net, head = yolo.model.to(device).float().eval().requires_grad_(False), yolo.model.model[-1]
    if channels(net) not in (1, 3):
        raise NotRunnable(f"{name} takes images of {channels(net)} channels: maps are drawn over colour or grey ones")
    if getattr(head, "one2one_cv2", None) is not None:
        head.end2end = False  # the branch whose gradients trained the backbone
    strides = find_strides(name, net)
    layer = choose_layer(name, net, layer, strides)
    pixels = imgsz or yolo.overrides.get("imgsz") or (224 if is_classifier(head) else 640)
    pixels = max(check_imgsz(pixels, stride=max(int(net.stride.max()), 32), min_dim=2))
    return Probe(name, net, layer, strides[layer], pixels, trained=path.suffix == ".pt")


def load_model(path: Path) -> Any:
    """A YOLO or RTDETR.

    Raises:
        NotRunnable: it is no model of PyTorch, or cannot be loaded.
    """
    if path.is_dir() or path.suffix not in ("", *KINDS):
        raise NotRunnable(f"{path} shows no layers: name a .pt or .yaml, or a model as yolov12n")
    try:
        with seeded():
            yolo = load(path if path.suffix else path.with_suffix(".yaml"))
    except (NotRunnable, CheckpointError):
        raise
    except Exception as e:  # of Ultralytics or PyTorch, in many classes and lines
        reason = (isinstance(e, OSError) and e.strerror) or first_line(e)
        raise NotRunnable(f"{path} cannot be loaded: {reason}") from e
    if not isinstance(getattr(yolo.model, "model", None), nn.Sequential):
        raise NotRunnable(f"{path} is no model of layers")
    return yolo


def run(name: str, net: Any, modules: Iterable[nn.Module], x: Tensor) -> list[tuple[Any, Any]]:
    """First input, and output, of modules as a network computes images (B, C, H, W).

    Raises:
        NotRunnable: it fails.
    """
    kept: dict[nn.Module, tuple[Any, Any]] = {}

    def keep(m: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        kept[m] = args[0], out

    handles = [m.register_forward_hook(keep) for m in modules]
    try:
        with torch.no_grad():
            net(x)
    except Exception as e:  # of PyTorch, in many classes and lines
        raise does_not_run(name, e) from e
    finally:
        for handle in handles:
            handle.remove()
    return [kept[m] for m in modules]


def does_not_run(name: str, e: Exception) -> NotRunnable:
    return NotRunnable(f"{name} does not run: {type(e).__name__}: {first_line(e)}")


def find_strides(name: str, net: Any) -> dict[int, int]:
    """Stride by index of the layers whose output is a map."""
    p, side = next(net.parameters()), 8 * max(int(net.stride.max()), 32)
    outputs = (out for _, out in run(name, net, net.model, p.new_zeros(1, channels(net), side, side)))
    maps = {i: out for i, out in enumerate(outputs) if isinstance(out, Tensor) and out.ndim == 4}
    return {i: round(side / out.shape[-1]) for i, out in maps.items() if out.shape[-1] > 1}


def third_stage(net: Any, strides: dict[int, int]) -> int | None:
    """The backbone's last layer at stride 16 before it changes to another."""
    backbone = [strides.get(i) for i in range(len(net.yaml.get("backbone", net.model)))]
    if STAGE not in backbone:
        return None
    first = backbone.index(STAGE)
    return first + len(list(itertools.takewhile(STAGE.__eq__, backbone[first:]))) - 1


def choose_layer(name: str, net: Any, layer: int | None, strides: dict[int, int]) -> int:
    """Raises NotRunnable where there is no such layer, or it gives no map."""
    count = len(net.model)
    chosen = third_stage(net, strides) if layer is None else layer
    if chosen is None:
        raise NotRunnable(f"the backbone of {name} has no stage of stride {STAGE}: layer={listed(net, strides, 0)}")
    chosen += count if chosen < 0 else 0
    if chosen in strides:
        return chosen
    fault = f"{name} has no layer {layer}"
    if 0 <= chosen < count:
        fault = f"layer {layer} of {name} ({type(net.model[chosen]).__name__}) gives no map"
    raise NotRunnable(f"{fault}: layer={listed(net, strides, chosen)}")


def listed(net: Any, layers: Iterable[int], near: int) -> str:
    """Layers in words, the nearest first."""
    order = sorted(layers, key=lambda i: (abs(i - near), i))
    return ", ".join(f"{i} ({type(net.model[i]).__name__})" for i in order)


def is_decoder(head: Any) -> bool:
    return type(head).__name__ == "RTDETRDecoder"


def prepare(net: Any, image: np.ndarray, imgsz: int) -> tuple[Tensor, Placement]:
    """An image (H, W, 3), BGR, as `yolo predict` gives it to a network: (1, C, H', W') of 0..1, and where it lies.

    It is padded to the next multiple of the stride; stretched to a square for RT-DETR, and cropped to one for
    classifiers.
    """
    h, w = image.shape[:2]
    if is_classifier(net.model[-1]):
        x = classify_transforms(imgsz)(Image.fromarray(image[..., ::-1]))[None]
        height, width = (int(imgsz * side / min(h, w)) for side in (h, w))
        top, left = (-round((side - imgsz) / 2) for side in (height, width))
        return x, Placement((h, w), (imgsz, imgsz), top, left, height, width)
    if channels(net) == 1:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
    stretch = is_decoder(net.model[-1])
    letterbox: Any = LetterBox((imgsz, imgsz), auto=not stretch, scale_fill=stretch, stride=int(net.stride.max()))
    canvas = letterbox(image=image)
    rows, columns = canvas.shape[:2]
    ratio = min(imgsz / h, imgsz / w)
    height, width = (rows, columns) if stretch else (max(1, round(h * ratio)), max(1, round(w * ratio)))
    top, left = round((rows - height) / 2 - 0.1), round((columns - width) / 2 - 0.1)
    x = torch.from_numpy(canvas.reshape(rows, columns, -1)).permute(2, 0, 1)[None]  # (H', W', C) -> (1, C, H', W')
    x = x.flip(1).float() / 255  # BGR to RGB
    return x, Placement((h, w), (rows, columns), top, left, height, width)


def finite(probe: Probe, values: np.ndarray) -> np.ndarray:
    """Raises NotRunnable where they are not."""
    if not np.isfinite(values).all():
        raise NotRunnable(f"{probe.title} of {probe.name} computes values that are not finite: its weights are damaged")
    return values


def activation(probe: Probe, x: Tensor) -> np.ndarray:
    """Mean of |activation| over the channels: of images (1, C, H, W), the layer's grid."""
    ((_, out),) = run(probe.name, probe.net, [probe.module], x)
    return finite(probe, out[0].abs().mean(0).cpu().numpy())


def eigencam(probe: Probe, x: Tensor) -> np.ndarray:
    """Activations on their first principal component, whose greatest magnitude is positive (EigenCAM).

    grad-cam's own makes a matrix of N x N of the N cells of the grid, and leaves the sign open.
    """
    ((_, out),) = run(probe.name, probe.net, [probe.module], x)
    finite(probe, out[0].cpu().numpy())
    cells = out[0].flatten(1).T  # (C, H, W) -> (N, C)
    u, s, _ = torch.linalg.svd(cells - cells.mean(0), full_matrices=False)
    values = u[:, 0] * s[0]
    return (values * values[values.abs().argmax()].sign()).view(out.shape[2:]).cpu().numpy()


def gradcam(probe: Probe, x: Tensor, classes: Iterable[str] = ()) -> np.ndarray:
    """Grad-CAM of the class scores of what is detected, at the size of the image: (1, C, H, W) -> (H, W).

    A detector's gradients are of places, so they weigh the activations place by place. Averaged over the map, as a
    classifier's are, they are mostly those of the background, and leave the objects cold.

    Raises:
        NotRunnable: grad-cam is not installed, the model has no such class, or it fails.
    """
    try:
        from pytorch_grad_cam import GradCAM, GradCAMElementWise
    except ImportError as e:
        raise NotRunnable(f"{e.name} is not installed: pip install grad-cam") from e

    method = GradCAM if is_classifier(probe.head) else GradCAMElementWise
    target = partial(detected, classes=find_classes(probe.net, classes))
    try:
        return finite(probe, method(Scores(probe.net), [probe.module])(x.requires_grad_(), targets=[target])[0])
    except NotRunnable:
        raise
    except Exception as e:  # of PyTorch or grad-cam, in many classes and lines
        raise does_not_run(probe.name, e) from e


class Scores(nn.Module):
    """Class scores of a network before their sigmoid or softmax, (B, A, nc): A is its anchors or queries, or 1."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out, head = self.net(x), self.net.model[-1]
        if is_classifier(head):
            return out[1][:, None]
        if is_decoder(head):
            return out[1][1][-1]  # of the last decoder layer
        return as_list(out)[0][:, 4 : 4 + head.nc].transpose(1, 2).logit(1e-7)


def detected(scores: Tensor, classes: Sequence[int] = ()) -> Tensor:
    """Sum of the best scores (A, nc) of what is detected, or of the best hundred where nothing is; of some classes."""
    best = (scores[:, list(classes)] if classes else scores).amax(1)
    sure = best[best.sigmoid() >= CONFIDENCE]
    return (sure if len(sure) else best.topk(min(CANDIDATES, len(best))).values).sum()


def find_classes(net: Any, given: Iterable[str]) -> list[int]:
    """Indices of classes that are given by index or name.

    Raises:
        NotRunnable: the model has no such class.
    """
    indices = {str(i): i for i in net.names} | {name: i for i, name in net.names.items()}
    given = list(given)
    if unknown := next((name for name in given if name not in indices), None):
        raise NotRunnable(f"the model has no class {unknown!r}: {choices(unknown, net.names.values(), 'classes')}")
    return [indices[name] for name in given]


def attentions(module: nn.Module) -> list[Any]:
    """Area attention (YOLOv12) within a layer, and Ultralytics' own, of one area (PSA and C2PSA of YOLOv10, YOLO11)."""
    return [m for m in module.modules() if isinstance(m, (AAttn, Attention))]


def areas(module: AAttn | Attention, grid: Grid) -> np.ndarray:
    """The number of the area of each cell: (H, W)."""
    return module.areas(*grid).numpy() if isinstance(module, AAttn) else np.zeros(grid, int)


def attention_map(module: AAttn | Attention, x: Tensor, row: int, column: int) -> Tensor:
    """How much a cell attends to each of the map: the module's input (B, dim, H, W) -> (B, heads, H, W)."""
    if isinstance(module, AAttn):
        return module.attention_map(x, row, column)
    b, _, h, w = x.shape
    widths = [module.key_dim, module.key_dim, module.head_dim]
    q, k, _ = module.qkv(x).view(b, module.num_heads, sum(widths), h, w).split(widths, dim=2)
    products = (q[..., row, column][..., None, None] * k).sum(2) * module.scale
    return products.flatten(2).softmax(-1).view(b, module.num_heads, h, w)
