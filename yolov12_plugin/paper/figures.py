"""Figures 1, 4 and 5: the paper's numbers, and over them what was measured, each by the device it was measured on."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from yolov12_plugin.benchmark.results import Results, by_setup
from yolov12_plugin.explain.probe import STAGE, third_stage
from yolov12_plugin.paper.networks import Countable, shipped
from yolov12_plugin.published import TABLE1, TABLE3_CPU, YOLO26, Detector, Documented, detector

STYLES = {  # colour and marker of each family, in the order in which they are drawn
    "YOLOv6-3.0": ("#9c755f", "v"),
    "Gold-YOLO": ("#c9a227", "P"),
    "YOLOv8": ("#4e79a7", "s"),
    "RT-DETR": ("#7f7f7f", "D"),
    "RT-DETRv2": ("#b07aa1", "d"),
    "YOLOv9": ("#59a14f", "^"),
    "YOLOv10": ("#f28e2b", "X"),
    "YOLO11": ("#17a2b8", "p"),
    "YOLO26": ("#2c3e8f", "*"),
    "YOLOv12": ("#e3000f", "o"),
}
DASHES = [(0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (8, 3))]  # one for each setup that was measured
XS = ("yolov10x", "yolo11x", "yolov12x")  # of Figure 5
HEATMAP = f"yolov12 heatmap {' '.join(f'{name}.pt' for name in XS)}"
PAPER_T4 = "paper: T4, TensorRT FP16"
PAPER_CPU = "paper: Intel Core i7-10700K, without FlashAttention"
DOCS_T4 = "Ultralytics, of YOLO26: T4, TensorRT FP16"
DOCS_CPU = "Ultralytics, of YOLO26: ONNX Runtime on its CPU"


@dataclass
class Curve:
    """One family's points, as (x, AP, scale), published (`setup` says by whom, and on what) or measured."""

    family: str
    setup: str
    points: list[tuple[float, float, str]]
    measured: bool = False


def published(x: Callable[[Detector], float | None], setup: str) -> list[Curve]:
    curves = []
    for family in STYLES:
        rows = [(x(row), row.ap, row.scale) for row in TABLE1 if row.family == family]
        points = [(at, ap, scale) for at, ap, scale in rows if at is not None and ap is not None]
        if points:
            curves.append(Curve(family, setup, points))
    return curves


def yolo26(x: Callable[[Documented], float | None], setup: str) -> Curve:
    """As Ultralytics documents it; the paper is older."""
    return Curve("YOLO26", setup, [(at, row.ap, row.scale) for row in YOLO26 if (at := x(row)) and row.ap])


def measured(results: Sequence[Results], cpu: bool) -> list[Curve]:
    """Measured latency (ms) against the published AP, of Table 1's networks and YOLO26, on processors or on GPUs."""
    networks = {row.name: row for row in (*TABLE1, *YOLO26)}
    curves = []
    for (setup, precision), rows in by_setup(results).items():
        found = [(networks.get(name), row) for name, row in rows.items() if (row.device == "cpu") == cpu]
        for family in STYLES:
            points = [
                (row.latency.median_ms, net.ap, net.scale)
                for net, row in found
                if net and net.ap is not None and net.family == family
            ]
            if points:
                curves.append(Curve(family, f"measured: {setup}, {precision}", sorted(points), measured=True))
    return curves


def style(curve: Curve, curves: list[Curve]) -> dict[str, Any]:
    """How a curve is drawn among others: published ones solid, each setup that was measured dashed in its own way."""
    shared = "*" if curve.setup in (DOCS_T4, DOCS_CPU) else "o"
    colour, marker = STYLES.get(curve.family, ("#444444", shared))  # without a family: in the legend of setups
    setups = list(dict.fromkeys(other.setup for other in curves if other.measured))
    ours = curve.family == "YOLOv12"
    return {
        "color": colour,
        "marker": marker,
        "markersize": 9 if marker == "*" else 7 if ours else 5.5,
        "markerfacecolor": "white" if curve.measured else colour,
        "markeredgecolor": colour if curve.measured else "white",
        "markeredgewidth": 1.2 if curve.measured else 0.6,
        "linestyle": DASHES[setups.index(curve.setup) % len(DASHES)] if curve.measured else "-",
        "linewidth": 2.2 if ours else 1.2,
        "zorder": 4 if ours else 3,
    }


def letter(ax: Axes, curves: list[Curve]) -> None:
    """Write the scales beside the points, each where it covers least of markers, other letters and lines."""
    point = ax.figure.dpi / 72  # pixels
    paths = [ax.transData.transform([point[:2] for point in curve.points]) for curve in curves]
    markers = np.concatenate(paths)
    segments = [pair for path in paths for pair in itertools.pairwise(path)]
    lines = np.concatenate([np.linspace(a, b, int(np.hypot(*(b - a)) / point) + 2) for a, b in segments])
    taken = np.empty((0, 2, 2))  # letters that have a place: lower left and upper right corners

    def cost(low: np.ndarray, high: np.ndarray) -> float:
        covered = np.all((low <= taken[:, 1]) & (taken[:, 0] <= high), axis=1).sum()
        covered += np.all((low - 3 * point <= markers) & (markers <= high + 3 * point), axis=1).sum()
        outside = not np.all((ax.bbox.min <= low) & (high <= ax.bbox.max))
        crossed = np.all((low < lines) & (lines < high), axis=1).sum()  # points of length
        return 100 * (covered + outside) + crossed

    ours_first = sorted(zip(curves, paths), key=lambda pair: pair[0].family != "YOLOv12")
    angles = np.pi / 2 + np.arange(12) * np.pi / 6
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for curve, path in ours_first:
        for (x, y, scale), at in zip(curve.points, path):
            half = np.array([2.6 * len(scale) + 0.5, 4])  # half of what the letters take, in points
            offsets = np.concatenate([circle * (half + gap) for gap in (4.5, 7, 10, 14)])
            places = [(offset, at + point * np.array([offset - half, offset + half])) for offset in offsets]
            where, place = min(places, key=lambda found: cost(*found[1]) + np.hypot(*found[0]))
            taken = np.append(taken, [place], axis=0)
            ax.annotate(
                scale,
                (x, y),
                where,
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=7.5,
                fontweight="bold" if curve.family == "YOLOv12" else None,
                color=STYLES[curve.family][0],
                zorder=5,
            )


def figure(panels: dict[str, list[Curve]]) -> Figure:
    """AP against what each panel's title names, with its setups in its empty corner and the families below all."""
    fig = Figure(figsize=(6 * len(panels), 5), layout="constrained")
    axes = fig.subplots(1, len(panels), sharey=True)
    for ax, (title, curves) in zip(axes, panels.items()):
        for curve in curves:
            ax.plot(*zip(*(point[:2] for point in curve.points)), **style(curve, curves))
        ax.set(xlabel=title, xscale="log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.margins(0.07, 0.07)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        setups = {curve.setup: style(replace(curve, family=""), curves) for curve in curves if curve.setup}
        if setups:
            handles = [Line2D([], [], label=setup, **look) for setup, look in setups.items()]
            ax.legend(handles=handles, loc="lower right", fontsize=8, handlelength=3)
            ax.set_ylim(bottom=36 - len(setups))  # room for it below the points
    axes[0].set_ylabel("AP on COCO val, as published (%)")
    drawn = {curve.family for curves in panels.values() for curve in curves}
    handles = [Line2D([], [], label=family, **style(Curve(family, "", []), [])) for family in STYLES if family in drawn]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    fig.draw_without_rendering()  # places the panels
    for ax, curves in zip(axes, panels.values()):
        letter(ax, curves)
    return fig


def figure1(results: Sequence[Results] = ()) -> Figure:
    """AP against latency, with what GPUs measured, and against FLOPs."""
    return figure(
        {
            "Latency of a 640×640 image (ms)": [
                *published(lambda row: row.latency, PAPER_T4),
                yolo26(lambda row: row.latency, DOCS_T4),
                *measured(results, cpu=False),
            ],
            "FLOPs (G)": [*published(lambda row: row.gflops, ""), yolo26(lambda row: row.gflops, "")],
        }
    )


def figure4(results: Sequence[Results] = ()) -> Figure:
    """AP against parameters, and against latency on processors, of which the paper prints that of Table 3."""
    ours = [(row.with_area, detector(row.name)) for row in TABLE3_CPU]
    cpu = Curve("YOLOv12", PAPER_CPU, [(ms, row.ap, row.scale) for ms, row in ours if row and row.ap is not None])
    return figure(
        {
            "Parameters (M)": [*published(lambda row: row.parameters_m, ""), yolo26(lambda row: row.parameters_m, "")],
            "CPU latency of a 640×640 image (ms)": [
                cpu,
                yolo26(lambda row: row.latency_cpu, DOCS_CPU),
                *measured(results, cpu=True),
            ],
        }
    )


FIGURES = {"figure1": figure1, "figure4": figure4}


def figure5() -> list[dict[str, Any]]:
    """The layers whose heat maps the figure compares, as built here: of each backbone the last at stride 16."""
    table = []
    for row in TABLE1:
        if row.name in XS:
            net, x = Countable(shipped(row.name)).eval(), torch.zeros(1, 3, 64, 64, device="meta")
            shapes = []
            for m in net.model[: len(net.yaml["backbone"])]:
                x = m(x)
                shapes.append(x.shape)
            layer: Any = third_stage(net, {i: 64 // shape[-1] for i, shape in enumerate(shapes)})
            module = type(net.model[layer]).__name__
            about = {"model": row.method, "name": row.name, "layer": layer, "module": module}
            table.append(about | {"channels": shapes[layer][1], "stride": STAGE, "heatmap": f"{HEATMAP} SOURCE"})
    return table
