"""Heat maps of a layer of several models side by side, and attention maps of a point (paper 4.5, Figure 5)."""

import contextlib
import glob
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from torch import Tensor
from ultralytics.data.loaders import LoadImagesAndVideos
from ultralytics.data.utils import IMG_FORMATS, VID_FORMATS
from ultralytics.utils.torch_utils import select_device

from yolov12_plugin.errors import NotRunnable, first_line
from yolov12_plugin.explain.probe import (
    KINDS,
    Extent,
    Grid,
    Placement,
    Probe,
    activation,
    areas,
    attention_map,
    attentions,
    eigencam,
    find_classes,
    find_probe,
    finite,
    gradcam,
    listed,
    run,
)
from yolov12_plugin.files import check_place
from yolov12_plugin.process import undisturbed
from yolov12_plugin.show import pictures
from yolov12_plugin.show.convergence import label

METHODS = {  # what the colours of a map are
    "activation": "mean of |activation| over the channels",
    "eigencam": "first principal component of the activations (EigenCAM)",
    "gradcam": "evidence for what is detected (Grad-CAM)",
    "attention": "attention of the marked point",
}
ROWS = 8  # images on a sheet
WIDTH, PIXELS = 4.2, 640  # of a panel, in inches; of an image in it, at most


@dataclass(frozen=True)
class Request:
    """What is drawn: a method of `METHODS`, and its options.

    Args:
        query: the point whose attention is shown, x and y; fractions of the image if neither is above 1, else pixels.
        head, block: of the attention and of the layer's attentions; None for the mean of all heads, and for all.
        classes: names or indices that gradcam explains; none for all.
    """

    method: str = "activation"
    query: tuple[float, float] = (0.5, 0.5)
    head: int | None = None
    block: int | None = None
    classes: tuple[str, ...] = ()

    def point(self, size: Grid) -> tuple[float, float] | None:
        """The query in pixels of an image, None outside of it."""
        (x, y), (h, w) = self.query, size
        if max(x, y) <= 1:
            return x * w, y * h
        return (x, y) if x < w and y < h else None


@dataclass(frozen=True, eq=False)
class Shot:
    """An image (H, W, 3), BGR, and the file that it is of; `frame` counts from 1 in a video."""

    file: Path
    frame: int | None
    image: np.ndarray

    def __str__(self) -> str:
        return str(self.file) if self.frame is None else f"{self.file}, frame {self.frame}"


@dataclass(frozen=True, eq=False)
class Panel:
    """A map over an image: its cells (H, W), coloured from `low` to `high`, and where they lie.

    `parts` numbers the cells; where the number changes there is a border.
    """

    title: str
    values: np.ndarray
    extent: Extent
    low: float
    high: float
    parts: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """What a sheet shows of an image of `size`: a small copy, RGB, and lines of panels that each begin with it."""

    file: Path
    frame: int | None
    size: Grid
    image: np.ndarray
    point: tuple[float, float] | None
    lines: list[list[Panel]]
    maps: list[dict[str, Any]]

    @property
    def title(self) -> str:
        name = self.file.name if len(self.file.name) <= 50 else f"...{self.file.name[-47:]}"
        return name if self.frame is None else f"{name}, frame {self.frame}"


class Sources(LoadImagesAndVideos):
    """Ultralytics' loader of images and videos, which goes on where a video cannot be opened."""

    files: Any
    cap: Any
    frames: int = 0

    def _new_video(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            super()._new_video(path)


@undisturbed()
def heatmaps(
    models: Sequence[str],
    source: str,
    request: Request | None = None,
    *,
    layers: Sequence[int] = (),
    imgsz: int | None = None,
    device: str | None = None,
    stride: int = 1,
    frames: int = 50,
    out: Path = Path("heatmap.png"),
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Draw maps of a layer of each model over images, the models side by side.

    Args:
        models: names as yolov12n, .yaml, .pt; images and videos among them belong to the source.
        source: an image, a video, a folder, a glob, or a .txt that lists them.
        layers: one index for all models, or one for each; by default the last layer of the backbone's third stage
            (stride 16), as in the paper.
        imgsz: pixels; by default those of a checkpoint's training, else 640, and 224 for classifiers.
        stride, frames: every how many frames of a video are drawn, and how many of them at most.
        out: a .png, numbered where there is more than one sheet; or a folder, with a sheet for each image. A sheet
            holds up to `ROWS` images, and of videos one frame.
        report: takes what a reader of the maps must know, line by line.

    Returns:
        What was drawn, as JSON has it.

    Raises:
        NotRunnable: a model, a layer, the source or the place does not serve; one line says which.
    """
    request = request or Request()
    if request.method == "gradcam" and find_spec("pytorch_grad_cam") is None:
        raise NotRunnable("grad-cam is not installed: pip install grad-cam")
    # Shells put the files of a glob among the models.
    files = [given for given in models if Path(given).suffix[1:].lower() in {*IMG_FORMATS, *VID_FORMATS}]
    models = [given for given in models if given not in files]
    if not models:
        raise NotRunnable("no model is named: MODEL... SOURCE, as in yolov12n yolo11n photo.jpg")
    check_out(out)
    sources = find_sources([*files, source], stride)
    check_overwriting(sources.files, out)
    probes = find_probes(models, layers, imgsz, device)
    for probe in probes:
        check_method(probe, request)

    left_out: list[str] = []
    rows = (row for shot in read(sources, frames, report, left_out) if (row := look(probes, shot, request, left_out)))
    sheets = gather(rows, alone=is_folder(out))
    first = list(itertools.islice(sheets, 2))
    if not first:
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        raise NotRunnable(f"nothing is drawn: {left_out[0]}{more}")
    for probe in probes:
        if not probe.trained:
            report(f"{probe.name} is built from its YAML, with random weights: its map shows no training")
    drawn: list[str] = []
    images: list[dict[str, Any]] = []
    try:
        for number, sheet in enumerate(itertools.chain(first, sheets), 1):
            picture = out
            if is_folder(out):
                out.mkdir(exist_ok=True)
                picture = free_name(out, sheet[0], drawn)
            elif len(first) > 1:
                picture = out.with_name(f"{out.stem}-{number:04}{out.suffix}")
            pictures.write(partial(draw, sheet, request), picture)
            drawn.append(str(picture))
            for row in sheet:
                about = {"source": str(row.file), "frame": row.frame, "size": list(row.size), "picture": str(picture)}
                images.append(about | {"maps": row.maps})
    except KeyboardInterrupt as e:
        raise type(e)(f"{len(drawn)} pictures are drawn{(drawn and f', the last is {drawn[-1]}') or ''}") from e
    for line in left_out:
        report(f"left out: {line}")
    done: dict[str, Any] = {"method": request.method, "models": [probe.record() for probe in probes], "pictures": drawn}
    return done | {"images": images, "left_out": left_out}


def is_folder(out: Path) -> bool:
    return out.is_dir() or not out.suffix


def check_out(out: Path) -> None:
    """Raises NotRunnable where no PNG can be written."""
    if out.is_dir():
        check_place(out / "heatmap.png")
    elif out.suffix.lower() == ".png" or not (out.suffix or out.exists()):
        check_place(out)
    else:
        raise NotRunnable(f"{out} is no PNG: name a file ending in .png, or a folder")


def find_sources(given: Sequence[str], stride: int) -> Sources:
    """Raises NotRunnable where there is no image and no video."""
    found: list[str] = []
    for place in given:
        stream = "://" in place or place.isnumeric() or place.lower().endswith(".streams") or place.lower() == "screen"
        if stream and not Path(place).exists():
            raise NotRunnable(f"{place} is a stream: save what is to be seen, maps are drawn of image and video files")
        is_glob = glob.has_magic(place) and not Path(place).exists()  # to Ultralytics only with a *
        found += sorted(glob.glob(place, recursive=True)) if is_glob else [place]
    if not found:
        raise NotRunnable(f"nothing is drawn: no file is named as {given[0]}")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what cannot be read is said here
    try:
        return Sources(found if len(found) > 1 else found[0], vid_stride=stride)
    except (OSError, UnicodeDecodeError) as e:
        raise NotRunnable(f"nothing is drawn: {first_line(e).partition('. Supported')[0]}") from e


def check_overwriting(files: Iterable[str], out: Path) -> None:
    """Raises NotRunnable where a sheet could take the place of a source."""
    folder = (out if is_folder(out) else out.parent).resolve()
    names = re.compile(r".*\.png" if is_folder(out) else rf"{re.escape(out.stem)}(-\d+)?\.png", re.IGNORECASE)
    for file in map(Path, files):
        here = any(p.parent.resolve() == folder and names.fullmatch(p.name) for p in (file, file.resolve()))
        if here or file.resolve() == out.resolve():
            raise NotRunnable(f"{file} is a source, and could be overwritten: name another file or folder")


def find_probes(models: Sequence[str], layers: Sequence[int], imgsz: int | None, device: str | None) -> list[Probe]:
    """A layer of each model, on a device.

    Raises:
        NotRunnable: there is no such device, model or layer.
    """
    if len(layers) > 1 and len(layers) != len(models):
        named = ", ".join(map(str, layers))
        raise NotRunnable(f"layers {named} do not go with {len(models)} models: name one, or one for each")
    try:
        where = select_device(device or "", verbose=False)
    except Exception as e:  # ValueError or AssertionError, of many lines
        raise NotRunnable(f"device {device!r} is not there: cpu, 0 or cuda:1") from e
    paths = [Path(model) for model in models]
    places = [path.with_suffix("") if path.suffix in KINDS else path for path in paths]
    each = zip(models, places, layers if len(layers) > 1 else [*layers, None][:1] * len(models))
    return [find_probe(model, label(place, places), index, imgsz, where) for model, place, index in each]


def check_method(probe: Probe, request: Request) -> None:
    """Raises NotRunnable where a method does not serve a model and its layer."""
    name, net, found = probe.name, probe.net, attentions(probe.module)
    where = f"layer {probe.layer} of {name} ({type(probe.module).__name__})"
    if request.method == "gradcam":
        if not probe.has_scores:
            head = type(probe.head).__name__
            raise NotRunnable(f"{name} ends in {head}, of which gradcam knows no scores: method=activation")
        find_classes(net, request.classes)
    elif request.method == "attention" and not found:
        others = [i for i, m in enumerate(net.model) if attentions(m)]
        known = f": layer={listed(net, others, probe.layer)}" if others else ", nor has another: method=activation"
        raise NotRunnable(f"{where} has no attention that is known{known}")
    elif request.method == "attention":
        if request.block is not None and request.block >= len(found):
            raise NotRunnable(f"{where} has {len(found)} attentions: block=0 to {len(found) - 1}")
        heads = found[request.block or 0].num_heads
        if request.head is not None and request.head >= heads:
            raise NotRunnable(f"{where} has {heads} heads: head=0 to {heads - 1}")


def read(sources: Sources, frames: int, report: Callable[[str], None], left_out: list[str]) -> Iterator[Shot]:
    """Images and frames, one at a time; files that cannot be read are left out, as `left_out` then says."""
    seen = set()
    for file, image in ((file, image) for files, images, _ in sources for file, image in zip(files, images)):
        seen.add(file)
        is_video = sources.mode == "video"
        yield Shot(Path(file), sources.frame * sources.vid_stride if is_video else None, image)
        if is_video and sources.frame >= frames and sources.cap.isOpened():
            report(f"{file}: frames={frames} of {sources.frames}, with stride={sources.vid_stride}")
            sources.cap.release()
            sources.count += 1
    left_out += [f"{file} cannot be read" for file in dict.fromkeys(sources.files) if file not in seen]


def look(probes: Sequence[Probe], shot: Shot, request: Request, left_out: list[str]) -> Row | None:
    """Maps of an image by all models; None, and why in `left_out`, where one of them is not given it, or the query."""
    h, w = size = shot.image.shape[0], shot.image.shape[1]
    point = request.point(size) if request.method == "attention" else None
    outside = "query={:g},{:g} is outside of".format(*request.query)
    if request.method == "attention" and point is None:
        left_out.append(f"{shot} has {w}x{h} pixels, {outside} it")
        return None
    try:
        canvases = [probe.prepare(shot.image) for probe in probes]
    except cv2.error:  # of an older Ultralytics
        left_out.append(f"{shot} of {w}x{h} pixels is too thin")
        return None
    lines: list[list[Panel]] = []
    maps: list[dict[str, Any]] = []
    for probe, (x, placement) in zip(probes, canvases):
        found = attend(probe, x, placement, point, request) if point else [heat(probe, x, placement, request)]
        if not found:
            left_out.append(f"{shot}: {probe.name} is given its middle, {outside} that")
            return None
        lines.append([panel for panel, _ in found])
        maps += [record for _, record in found]
    if all(len(panels) == 1 for panels in lines):
        lines = [[panel for (panel,) in lines]]
    scale = min(1.0, PIXELS / max(size))
    small = cv2.resize(shot.image, (max(1, round(w * scale)), max(1, round(h * scale))), interpolation=cv2.INTER_AREA)
    return Row(shot.file, shot.frame, size, small[..., ::-1], point, lines, maps)


def heat(probe: Probe, x: Tensor, placement: Placement, request: Request) -> tuple[Panel, dict[str, Any]]:
    """A map of a whole layer, from its least to its greatest value in the image, and its record."""
    if request.method == "gradcam":
        found = gradcam(probe, x, request.classes)
    else:
        found = {"activation": activation, "eigencam": eigencam}[request.method](probe, x)
    values, extent = placement.crop(found)
    rows, columns = placement.canvas
    title = f"{probe.name}\n{probe.title}, stride {probe.stride}, {columns}x{rows} px"
    if values.min() == values.max():
        title += ", the same everywhere"
    about = {"model": probe.name, "canvas": [rows, columns], "grid": [rows // probe.stride, columns // probe.stride]}
    return Panel(title, values, extent, float(values.min()), float(values.max())), about


def attend(
    probe: Probe, x: Tensor, placement: Placement, point: tuple[float, float], request: Request
) -> list[tuple[Panel, dict[str, Any]]]:
    """A map of each attention of a layer, from 0 to its greatest weight, and its record; none without the point."""
    modules = dict(enumerate(attentions(probe.module)))
    if request.block is not None:
        modules = {request.block: modules[request.block]}
    found = []
    for (block, module), (given, _) in zip(modules.items(), run(probe.name, probe.net, modules.values(), x)):
        grid = given.shape[2], given.shape[3]
        cell = placement.cell(*point, grid)
        if cell is None:
            return []
        with torch.no_grad():
            weights = attention_map(module, given, *cell)[0]  # (heads, H, W)
        weights = weights.mean(0) if request.head is None else weights[request.head]
        values, extent = placement.crop(finite(probe, weights.cpu().numpy()))
        numbers = areas(module, grid)
        sizes = np.bincount(numbers.ravel()).tolist()
        parts = numbers.copy()
        parts[cell] = len(sizes)  # the point's own cell has borders too
        plural = "s" if len(sizes) > 1 else ""
        cells = f"{grid[1]}x{grid[0]} cells in {len(sizes)} area{plural}"
        title = f"{probe.name}, {probe.title}\nattention {block}, {cells}, up to {values.max():.2g}"
        panel = Panel(title, values, extent, 0.0, float(values.max()), placement.crop(parts)[0])
        query = {"x": round(point[0], 2), "y": round(point[1], 2), "row": cell[0], "column": cell[1]}
        about = {"model": probe.name, "canvas": list(placement.canvas), "grid": list(grid), "block": block}
        about |= {"heads": module.num_heads, "head": request.head, "query": query}
        found.append((panel, about | {"areas": sizes, "area": int(numbers[cell])}))
    return found


def gather(rows: Iterable[Row], alone: bool) -> Iterator[list[Row]]:
    """The rows of each sheet; one where each stands alone, as the frames of a video do."""
    sheet: list[Row] = []
    for row in rows:
        if sheet and (alone or len(sheet) == ROWS or row.frame is not None):
            yield sheet
            sheet = []
        sheet.append(row)
    if sheet:
        yield sheet


def free_name(folder: Path, row: Row, taken: Sequence[str]) -> Path:
    """A file named as the image, and by its frame; numbered where two images have one name."""
    stem = row.file.stem if row.frame is None else f"{row.file.stem}-{row.frame:06}"
    names = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
    return next(file for name in names if str(file := folder / f"{name}.png") not in taken)


def draw(rows: Sequence[Row], request: Request) -> Figure:
    """A sheet: each line an image and its maps."""
    lines = [(row, panels) for row in rows for panels in row.lines]
    columns = 1 + max(len(panels) for _, panels in lines)
    heights = [WIDTH * min(max(row.size[0] / row.size[1], 0.3), 1.5) for row, _ in lines]
    fig = Figure(figsize=(WIDTH * columns, sum(heights) + 0.45 * len(lines) + 0.6), layout="compressed")
    grid = fig.subplots(len(lines), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    colours = matplotlib.colormaps["turbo"]
    for axes, (row, panels) in zip(grid, lines):
        for ax in axes:
            ax.axis("off")
        draw_image(axes[0], row, f"{row.title}\n{row.size[1]}x{row.size[0]} px")
        for ax, panel in zip(axes[1:], panels):
            draw_image(ax, row, panel.title)
            draw_map(ax, panel, colours, smooth=row.point is None)
    text, ends = METHODS[request.method], ["least", "greatest"]
    if request.method == "attention":
        text += ", mean of its heads" if request.head is None else f", head {request.head}"
        ends = ["0", "greatest weight"]
    bar = fig.colorbar(ScalarMappable(cmap=colours), ax=grid, location="bottom", shrink=0.5, aspect=60, pad=0.02)
    bar.set_ticks([0, 1], labels=ends)
    bar.set_label(f"{text}; each map by its own range in the image")
    return fig


def draw_image(ax: Axes, row: Row, title: str) -> None:
    height, width = row.size
    ax.imshow(row.image, extent=(0, width, height, 0))
    ax.set_title(title, parse_math=False)
    if row.point is not None:
        ax.plot(*row.point, marker="*", markersize=12, color="white", markeredgecolor="black", clip_on=False, zorder=5)
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)


def draw_map(ax: Axes, panel: Panel, colours: Any, smooth: bool) -> None:
    """Lay a map over the image of an axis, whose units are pixels of the image."""
    limits = ax.get_xlim(), ax.get_ylim()
    how: dict[str, Any] = {"vmin": panel.low, "vmax": panel.high, "interpolation": "bilinear" if smooth else "nearest"}
    alpha: Any = 0.55
    if not smooth:  # most cells of an attention are near 0, whose dark colour would hide the image
        share = (panel.values - panel.low) / max(panel.high - panel.low, np.finfo(float).tiny)
        alpha = 0.2 + 0.5 * np.clip(share, 0, 1)
    ax.imshow(panel.values, cmap=colours, alpha=alpha, extent=panel.extent, **how)
    if panel.parts is not None:
        lines = LineCollection(list(borders(panel.parts, panel.extent)), colors="white", linewidths=1.2)
        lines.set_path_effects([Stroke(linewidth=2.4, foreground="black"), Normal()])
        ax.add_collection(lines, autolim=False)
    ax.set(xlim=limits[0], ylim=limits[1])  # cells at the edge may lie over it


def borders(parts: np.ndarray, extent: Extent) -> np.ndarray:
    """Sides of the cells (H, W) with another part beyond them: (N, 2, 2), both ends as x and y."""
    left, right, bottom, top = extent
    below, beside = np.argwhere(np.diff(parts, axis=0)), np.argwhere(np.diff(parts, axis=1))
    # Each has two ends, as steps of row and column from the corner of its cell
    flat, upright = below[:, None] + np.array([[1, 0], [1, 1]]), beside[:, None] + np.array([[0, 1], [1, 1]])
    ends = np.concatenate([flat, upright])[..., ::-1]  # row and column -> x and y
    return ends * [(right - left) / parts.shape[1], (bottom - top) / parts.shape[0]] + [left, top]
