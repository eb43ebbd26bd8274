"""Figures 2 and 3 as this build computes them: areas of attention, by runs of their modules, and blocks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.tasks import DetectionModel

from yolov12_plugin.nn.attention import attention_backend
from yolov12_plugin.nn.modules import AAttn
from yolov12_plugin.paper.networks import shipped
from yolov12_plugin.show import pictures

AREAS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#17a2b8", "#c9a227", "#9c755f", "#7f7f7f")
TITLE, TEXT = 10, 8.5  # points


def figure2(file: Path) -> None:
    """Draw the areas of an attention and the receptive field of a query.

    Raises:
        NotRunnable: as `pictures.write`.
    """
    pictures.write(areas, file)


def figure3(file: Path) -> None:
    """Copy the blocks that the paper compares, which were recorded once from runs of this build's modules.

    Raises:
        NotRunnable: as `pictures.copy`.
    """
    pictures.copy(Path(__file__).with_name("figure3"), file)


def areas() -> Figure:
    """Area attention of YOLOv12-N's layer 6 as it is, with other options, and on a map that has no equal parts."""
    one, four, vertical = (attention(**options) for options in ({"area": 1}, {}, {"vertical": True}))
    return area_sheet(
        {
            "area: 1, plain attention": (one, (12, 20)),
            "area: 4, as built": (four, (12, 20)),
            "area: 4, vertical: true": (vertical, (12, 20)),
            "area: 4, on a map without equal parts": (four, (9, 15)),
        },
        "The attention of yolov12n's layer 6",
    )


def attention(**options: Any) -> AAttn:
    """The first attention of the model's layer 6, with options of its `a2c2f:` section."""
    layers: Any = DetectionModel(shipped("yolov12n") | {"a2c2f": options}, verbose=False).model
    return layers[6].m[0][0].attn


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
    fig = Figure(figsize=(12, 2.95), layout=ConstrainedLayoutEngine(w_pad=0.12))
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
        color="#444444",
    )
    return fig
