"""Figures 2 and 3 as this build computes them: areas of attention, and blocks, drawn from runs of their modules."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import DetectionModel

from yolov12_plugin.nn.attention import attention_backend
from yolov12_plugin.nn.modules import AAttn
from yolov12_plugin.paper.graph import ARITHMETIC, INPUT, OUTPUT, Edge, Node, record
from yolov12_plugin.paper.networks import shipped
from yolov12_plugin.paper.placement import place

AREAS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#17a2b8", "#c9a227", "#9c755f", "#7f7f7f")
COLOURS = {  # of boxes and of their edges
    "convolution": ("#dbe6f1", "#4e79a7"),
    "attention": ("#fbd5d8", "#e3000f"),
    "block": ("#fde9d0", "#f28e2b"),
    "function": ("#eeeeee", "#7f7f7f"),
}
INK = "#444444"
TITLE, TEXT, SMALL = 10, 8.5, 7.5  # points
WIDTH = 12.0  # inches of a sheet, which are some 900 pixels in the README
MARGIN, LINE = 0.1, 0.17  # inches around a panel, and from line to line of its title


def figure2() -> Figure:
    """Area attention of YOLOv12-N's layer 6 as it is, with other options, and on a map that has no equal parts."""
    one, four, vertical = (layers("n", **options)[6].m[0][0].attn for options in ({"area": 1}, {}, {"vertical": True}))
    return area_sheet(
        {
            "area: 1, plain attention": (one, (12, 20)),
            "area: 4, as built": (four, (12, 20)),
            "area: 4, vertical: true": (vertical, (12, 20)),
            "area: 4, on a map without equal parts": (four, (9, 15)),
        },
        "The attention of yolov12n's layer 6",
    )


def figure3() -> Figure:
    """The blocks of the paper's Figure 3, as this build has them."""
    n, elan, x = layers("n"), layers("n", aggregation="elan"), layers("x")
    return block_sheet(
        {
            "(a) CSP\nC3k of yolov12n, layer 11": n[11].m[0],
            "(b) ELAN\nA2C2f of yolov12n, layer 6,\naggregation: elan": elan[6],
            "(c) C3k2\nC3k2 of yolov12n, layer 20": n[20],
            "(d) R-ELAN\nA2C2f of yolov12n, layer 6": n[6],
            "(d) R-ELAN, residual\nA2C2f of yolov12x, layer 6": x[6],
        }
    )


def ablock() -> Figure:
    """The block within R-ELAN, and its attention (paper 3.2, 3.4)."""
    inner = layers("n")[6].m[0][0]
    return block_sheet({"ABlock\nof yolov12n, layer 6": inner, "AAttn\nof yolov12n, layer 6": inner.attn})


def architecture(scale: str = "n") -> Figure:
    """The whole model of a scale, layer by layer, in evaluation."""
    model = build(scale)
    next(m for m in model.modules() if isinstance(m, Detect)).export = True  # its detections alone
    return block_sheet({f"yolov12{scale}": model}, (64, 96))


def layers(scale: str, **options: Any) -> Any:
    """The layers of the paper's model, with options of its `a2c2f:` section."""
    return build(scale, **options).model


def build(scale: str, **options: Any) -> DetectionModel:
    return DetectionModel(shipped(f"yolov12{scale}") | {"a2c2f": options}, verbose=False)


@torch.enable_grad()
def receptive_field(attn: AAttn, h: int, w: int) -> Tensor:
    """Which tokens of a map (h, w) change the attention's result at which others: (N, N), a row for each query.

    By the gradients of each query's result, with the weights of the position perceiver at 0: as a convolution it sees
    across areas.
    """
    n = h * w
    x = next(attn.parameters()).new_zeros(n, attn.all_head_dim, h, w).requires_grad_()  # a map for each query
    perceiver = {f"pe.{name}": torch.zeros_like(p) for name, p in attn.pe.named_parameters()}
    training = attn.training
    try:
        out = functional_call(attn.eval(), perceiver, x).flatten(2)
    finally:
        attn.train(training)
    queries = out.diagonal(dim1=0, dim2=2)  # (N, dim, N) -> (dim, N)
    weights = torch.linspace(1, 2, len(queries)).to(queries)  # the sum of a normalised result would have no gradient
    (grad,) = torch.autograd.grad((weights @ queries).sum(), x)
    return (grad != 0).any(1).flatten(1)


@torch.no_grad()
def products(attn: AAttn, h: int, w: int) -> int:
    """Multiply-adds of the attention's two matrix products on a map (h, w): 2n²hd with one area (paper 3.2)."""
    x = next(attn.parameters()).new_zeros(1, attn.all_head_dim, h, w)
    with attention_backend("math"), FlopCounterMode(display=False) as counter:
        attn(x)
    return counter.get_flop_counts()["Global"][torch.ops.aten.bmm] // 2


def area_sheet(maps: Mapping[str, tuple[AAttn, tuple[int, int]]], what: str = "Attentions") -> Figure:
    """Areas of attentions on maps (height, width), and the receptive field of a query in each (paper Figure 2)."""
    fig = Figure(figsize=(WIDTH, 2.95), layout=ConstrainedLayoutEngine(w_pad=0.12))
    axes = fig.subplots(1, len(maps), squeeze=False)[0]
    for ax, (title, (attn, (h, w))) in zip(axes, maps.items()):
        field = receptive_field(attn, h, w)
        numbers: dict[tuple[bool, ...], int] = {}  # of areas, as the tokens come
        area = torch.tensor([numbers.setdefault(tuple(row), len(numbers)) for row in field.tolist()])
        colours = torch.tensor([to_rgb(colour) for colour in AREAS])[area % len(AREAS)]
        y, x = h * 3 // 8, w * 3 // 8
        seen = field[y * w + x]
        colours[~seen] = 1 - 0.3 * (1 - colours[~seen])
        ax.pcolormesh(colours.view(h, w, 3).numpy(), edgecolors="white", linewidth=0.8)
        ax.plot(x + 0.5, y + 0.5, "o", color="black", markeredgecolor="white", markersize=7)
        ax.set_title(title, fontsize=TITLE)
        ax.set(aspect="equal", anchor="N", xticks=[], yticks=[], ylim=(h, 0))
        ax.grid(False)
        ax.spines[:].set_visible(False)
        sizes = area.bincount().tolist()
        each = str(sizes[0]) if len({*sizes}) == 1 else ", ".join(map(str, sizes))
        count, plain = products(attn, h, w), 2 * (h * w) ** 2 * attn.all_head_dim
        ax.set_xlabel(
            f"{h}×{w} tokens, {len(sizes)} area{'s' * (len(sizes) > 1)} of {each}\n"
            f"receptive field: {seen.sum()} of {h * w} tokens\n"
            f"products: {count / 1e6:.2f} M, {100 * count / plain:.3g} % of 2n²hd",
            fontsize=TEXT,
        )
    fig.supxlabel(
        f"{what}. ● is a query; in full colour the tokens that change its result, by gradients, and pale the others.\n"
        "The position perceiver, a convolution that sees across areas, is at 0. Products: multiply-adds of a run.",
        fontsize=TEXT,
        color=INK,
    )
    return fig


def block_sheet(blocks: Mapping[str, nn.Module], size: tuple[int, int] = (12, 20)) -> Figure:
    """What blocks compute, by title and side by side (paper Figure 3): recorded in a run on a map (height, width).

    A title may have several lines. The map has the channels that a block's first convolution takes.
    """
    rows: list[list[Panel]] = [[]]
    for title, block in blocks.items():
        panel = Panel(title, block, size)
        if rows[-1] and sum(other.width for other in rows[-1]) + panel.width > WIDTH:
            rows.append([])
        rows[-1].append(panel)
    across = max(sum(panel.width for panel in row) for row in rows)
    heads = [max(panel.head for panel in row) for row in rows]
    heights = [head - min(panel.at.bottom for panel in row) + MARGIN for row, head in zip(rows, heads)]
    fig = Figure(figsize=(across, sum(heights)))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, across), ylim=(-sum(heights), 0))  # in inches
    ax.set_axis_off()
    top = 0.0
    for row, head, height in zip(rows, heads, heights):
        free = (across - sum(panel.width for panel in row)) / len(row)
        left = free / 2
        for panel in row:
            panel.draw(ax, left, top, head)
            left += panel.width + free
        top -= height
    return fig


class Panel:
    """A block: what is said of it, and the graph of its run with the places of its parts; in inches."""

    def __init__(self, title: str, block: nn.Module, size: tuple[int, int]):
        first = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
        self.graph = record(block, first.weight.new_zeros(1, first.in_channels, *size))
        self.texts = [describe(node) for node in self.graph.nodes]
        self.said = [describe_tensor(edge, size) for edge in self.graph.edges]
        width = max(text_width(text, TEXT) for text in self.texts) + 0.13
        self.at = place(self.graph, width, [(text, text_width(text, SMALL)) for text in self.said])
        parameters = f"{sum(p.numel() for p in block.parameters()):,} parameters"
        self.heading = [(line, TEXT, "bold" if i == 0 else "normal") for i, line in enumerate(title.split("\n"))]
        if self.said[-1].isdigit():
            self.heading.append((f"{self.said[0]} → {self.said[-1]} channels", SMALL, "normal"))
        self.heading.append((parameters, SMALL, "normal"))
        widest = max(text_width(words, size) for words, size, _ in self.heading)
        self.width = max(self.at.right - self.at.left, widest) + 2 * MARGIN
        self.head = LINE * len(self.heading) + MARGIN

    def draw(self, ax: Axes, left: float, top: float, head: float) -> None:
        middle = left + self.width / 2
        for i, (words, size, weight) in enumerate(self.heading):
            ax.text(middle, top - MARGIN - LINE * i, words, ha="center", va="top", fontsize=size, fontweight=weight)
        x = middle - (self.at.left + self.at.right) / 2
        y = top - head

        for line in self.at.lines:
            path = Path([(x + a, y + b) for a, b in line])
            ax.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=7, color=INK))
        for a, b in self.at.forks:
            ax.add_patch(Circle((x + a, y + b), 0.025, color=INK, linewidth=0))
        for i, (a, b) in self.at.labels.items():
            ax.text(x + a + 0.05, y + b, self.said[i], va="center", fontsize=SMALL, color=INK)
        for node, text, box in zip(self.graph.nodes, self.texts, self.at.boxes):
            fill, edge = COLOURS[kind(node.module, node.op)]
            centre = x + box.centre[0], y + box.centre[1]
            corner, width, height = (x + box.left, y + box.bottom), box.right - box.left, box.top - box.bottom
            if box.is_round:
                ax.add_patch(Circle(centre, width / 2, facecolor=fill, edgecolor=edge))
            elif node.op not in (INPUT, OUTPUT):
                style = "round,pad=0,rounding_size=0.05"
                ax.add_patch(FancyBboxPatch(corner, width, height, style, facecolor=fill, edgecolor=edge))
            ax.text(*centre, text, ha="center", va="center_baseline", fontsize=TEXT)


def kind(m: nn.Module | None, op: str = "") -> str:
    """Which of `COLOURS` a submodule or, without one, a function has."""
    if m is None:
        return op if op in COLOURS else "function"
    if any(isinstance(part, AAttn) for part in m.modules()):
        return "attention"
    if not any(True for _ in m.parameters()):
        return "function"
    parts = {kind(part) for part in m} if isinstance(m, nn.Sequential) else set()
    return parts.pop() if len(parts) == 1 else "convolution" if convolution(m) else "block"


def convolution(m: nn.Module) -> nn.Conv2d | None:
    """The convolution that a module is, or has as Ultralytics' Conv does."""
    conv = getattr(m, "conv", m)
    return conv if isinstance(conv, nn.Conv2d) else None


def describe(node: Node) -> str:
    """Name and kind of a submodule; a function with its constants."""
    if node.module is not None:
        return f"{node.name}: {describe_module(node.module)}"
    constants = ", ".join(node.constants)
    if node.op in ARITHMETIC.values():
        return f"{node.op} {constants}".strip()
    return f"{node.op} ({constants})" if constants else node.op


def describe_module(m: nn.Module) -> str:
    if isinstance(m, nn.Sequential):
        runs = [(name, len(list(run))) for name, run in groupby(map(describe_module, m))]
        return ", ".join(name if n == 1 else f"{n} × {name}" for name, n in runs)
    if conv := convolution(m):
        name = "depthwise" if conv.groups == conv.in_channels > 1 else type(m).__name__
        groups = f", groups {conv.groups}" if 1 < conv.groups < conv.in_channels else ""
        stride = f", stride {conv.stride[0]}" if conv.stride[0] > 1 else ""
        return f"{name} {'×'.join(map(str, conv.kernel_size))}{stride}{groups}"
    blocks = getattr(m, "m", None)
    repeats = f", n = {len(blocks)}" if isinstance(blocks, (nn.ModuleList, nn.Sequential)) else ""
    return type(m).__name__ + repeats


def describe_tensor(edge: Edge, size: tuple[int, int]) -> str:
    """Channels of a map, and its stride if it has one; the shape of what is no map of one image."""
    for shape in edge.taken, edge.made:
        if len(shape) == 4 and shape[0] == 1:
            strides = {whole // part if whole % part == 0 else 0 for whole, part in zip(size, shape[2:])}
            if len(strides) == 1 and (stride := strides.pop()):
                return f"{shape[1]}" + (f" /{stride}" if stride > 1 else "")
    return "×".join(map(str, edge.taken))


def text_width(text: str, size: float) -> float:
    return TextPath((0, 0), text, size=size).get_extents().width / 72
