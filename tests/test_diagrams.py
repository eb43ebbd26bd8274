"""Figures 2 and 3, drawn from runs of the modules."""

import functools
import itertools
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.transforms import Bbox
from torch import nn
from ultralytics.nn.modules.block import C3, C2f, C3k2

from yolov12_plugin import A2C2f, AAttn, ABlock
from yolov12_plugin.paper import diagrams
from yolov12_plugin.paper.diagrams import AREAS, COLOURS, area_sheet, block_sheet, products, receptive_field
from yolov12_plugin.paper.graph import record
from yolov12_plugin.show.pictures import write


@functools.cache
def attention(area, vertical=False, **options):
    return AAttn(32, 1, area, vertical=vertical, pe_kernel=3, **options).eval()


def parts(h, w, area, vertical):
    """The areas as the paper and `torch.tensor_split` define them: lists of tokens, numbered row by row."""
    tokens = torch.arange(h * w).view(h, w)
    tokens = (tokens.T if vertical else tokens).flatten()
    return torch.tensor_split(tokens, min(area, h * w))


def field_of(groups, n):
    field = torch.zeros(n, n, dtype=torch.bool)
    for group in groups:
        field[group[:, None], group] = True
    return field


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 7), st.booleans())
@example(12, 20, 4, False)
@example(12, 20, 4, True)
@example(9, 15, 4, False)
@example(1, 3, 7, True)
def test_receptive_field_and_products(h, w, area, vertical):
    attn, groups = attention(area, vertical), parts(h, w, area, vertical)
    assert torch.equal(receptive_field(attn, h, w), field_of(groups, h * w))
    assert products(attn, h, w) == 2 * 32 * sum(len(group) ** 2 for group in groups)


@pytest.mark.parametrize("options", [{"qkv_fused": False}, {"norm": "ln"}, {"pos_embed": "relative"}])
def test_receptive_field_of_other_builds(options):
    assert torch.equal(receptive_field(attention(3, **options), 4, 5), field_of(parts(4, 5, 3, False), 20))


def test_receptive_field_of_a_fused_attention():
    attn = AAttn(64, 2, 3).eval()
    attn.fuse("onnx")
    assert torch.equal(receptive_field(attn, 4, 5), field_of(parts(4, 5, 3, False), 20))


class Interleaved(AAttn):
    """Attends within the even and within the odd columns."""

    def forward(self, x):
        out = torch.empty_like(x)
        for i in 0, 1:
            out[..., i::2] = super().forward(x[..., i::2])
        return out


def test_another_attention_has_another_receptive_field():
    column = torch.arange(24) % 6
    attn = Interleaved(32, 1, 1)
    assert torch.equal(receptive_field(attn, 4, 6), column[:, None] % 2 == column % 2)
    assert products(attn, 4, 6) == 2 * 32 * 2 * 12**2


def test_an_attention_is_measured_as_it_is_left():
    attn = AAttn(32, 1, 4).train()
    state = {key: value.clone() for key, value in attn.state_dict().items()}
    x = torch.rand(2, 32, 4, 4)
    with torch.no_grad():
        field = receptive_field(attn, 4, 4)  # where no gradients are asked for
    assert attn.training and field.sum() == 4 * 4**2
    assert all(torch.equal(value, state[key]) for key, value in attn.state_dict().items())
    assert all(p.grad is None for p in attn.parameters())
    moved = attn.eval()(x)
    moved.sum().backward()
    assert attn.pe.conv.weight.grad.abs().sum() > 0  # the perceiver is back


def texts(fig):
    return [text for text in fig.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text().strip()]


def said(fig):
    return "\n".join(text.get_text() for text in texts(fig))


def test_areas_are_coloured_as_measured():
    fig = area_sheet({"a": (attention(4), (9, 15)), "b": (attention(1), (2, 4))}, "Of a test")
    for ax, (h, w, area) in zip(fig.axes, [(9, 15, 4), (2, 4, 1)]):
        (mesh,) = ax.findobj(QuadMesh)
        colours = torch.as_tensor(mesh.get_array()).view(-1, 3)
        (query,) = ax.lines
        at = int(query.get_ydata()[0]) * w + int(query.get_xdata()[0])
        groups = parts(h, w, area, False)
        for i, group in enumerate(groups):
            full = torch.tensor(to_rgb(AREAS[i]))
            assert torch.allclose(colours[group], full if at in group else 1 - 0.3 * (1 - full), atol=1e-6)
    assert "9×15 tokens, 4 areas of 34, 34, 34, 33\nreceptive field: 34 of 135 tokens\n" in said(fig)
    assert "2×4 tokens, 1 area of 8\nreceptive field: 8 of 8 tokens\nproducts: 0.00 M, 100 % of 2n²hd" in said(fig)
    assert "Of a test. ● is a query" in said(fig)


class Ladder(nn.Module):
    """Skips that cross, an unequal split, a shared module, and results side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 1) for _ in range(3))

    def forward(self, x):
        a = self.a(x)
        b = self.b(a)
        first, rest = (b * 0.5).split([2, 6], 1)
        c = self.c(torch.cat([rest, first], 1) + x)
        return self.a(c + a), torch.cat([c, b, first, x], 1)


BLOCKS = {
    "R-ELAN": lambda: A2C2f(64, 64, 2, True, 4),
    "R-ELAN, residual\nof a test": lambda: A2C2f(64, 64, 4, True, 4, True),
    "ELAN": lambda: A2C2f(96, 64, 3, aggregation="elan"),
    "C3k": lambda: A2C2f(64, 64, 1, False),
    "C2f": lambda: C2f(64, 32, 3),
    "C3": lambda: C3(64, 64, 1),
    "C3k2": lambda: C3k2(64, 64, 2, True),
    "ABlock": lambda: ABlock(64, 2, area=4),
    "AAttn": lambda: AAttn(64, 2, 4),
    "AAttn, unequal": lambda: AAttn(64, 2, 7, qkv_fused=False),
    "AAttn of linear layers": lambda: AAttn(64, 2, 4, projection="linear", norm="ln", pos_embed="relative"),
    "Ladder": Ladder,
}


@pytest.fixture(scope="module")
def sheet():
    fig = block_sheet({title: make() for title, make in BLOCKS.items()})
    fig.draw_without_rendering()
    return fig


def test_no_text_is_in_the_way(sheet):
    """Texts are on the sheet, and apart from one another, from lines, and from boxes that are not theirs."""
    shown = [(text.get_text(), text.get_window_extent()) for text in texts(sheet)]
    assert {"concat", "split", "+", "× gamma = 0.01", "m.3: 2 × ABlock", "attention (cpb_mlp)"} <= {t for t, _ in shown}
    for (one, extent), (other, beside) in itertools.combinations(shown, 2):
        assert not extent.overlaps(beside), (one, other)
    boxes = [patch.get_window_extent() for patch in sheet.findobj(FancyBboxPatch)]
    for text, extent in shown:
        assert sheet.bbox.contains(*extent.min) and sheet.bbox.contains(*extent.max), text
        for box in boxes:
            assert not box.overlaps(extent) or (box.contains(*extent.min) and box.contains(*extent.max)), text
    inches = sheet.axes[0].transData
    arrows = sheet.findobj(FancyArrowPatch)
    assert len(arrows) > 100
    for arrow in arrows:
        line = arrow.get_path().to_polygons(closed_only=False)[0]
        for a, b in itertools.pairwise(inches.transform(line)):
            stretch = Bbox([np.minimum(a, b) - 0.5, np.maximum(a, b) + 0.5])
            assert not any(stretch.overlaps(extent) for _, extent in shown)


def test_a_block_is_drawn_as_recorded():
    block = A2C2f(64, 64, 2, True, 4, True)
    graph = record(block, torch.zeros(1, 64, 4, 8))
    fig = block_sheet({"Of a test\nin two lines": block})
    assert len(fig.findobj(FancyArrowPatch)) == len(graph.edges)
    colours = Counter(to_hex(patch.get_facecolor()) for patch in fig.findobj(FancyBboxPatch))
    assert colours == {COLOURS["convolution"][0]: 2, COLOURS["attention"][0]: 2, COLOURS["function"][0]: 2}
    parameters = f"{sum(p.numel() for p in block.parameters()):,} parameters"
    assert Counter(text.get_text() for text in texts(fig)) == {
        **dict.fromkeys(("Of a test", "in two lines", "64 → 64 channels", parameters), 1),
        **dict.fromkeys(("input", "cv1: Conv 1×1", "m.0: 2 × ABlock", "m.1: 2 × ABlock", "concat"), 1),
        **dict.fromkeys(("cv2: Conv 1×1", "× gamma = 0.01", "+", "output"), 1),
        "32": 3,
        "96": 1,
        "64": 4,
    }


def test_more_blocks_than_fit_abreast_take_another_row():
    blocks = {f"{i}": C3(64, 64, 1) for i in range(7)}
    one, seven = block_sheet({"0": blocks["0"]}), block_sheet(blocks)
    assert seven.get_figwidth() <= diagrams.WIDTH
    assert seven.get_figheight() == pytest.approx(2 * one.get_figheight())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: block_sheet({title: BLOCKS[title]() for title in ("AAttn", "R-ELAN, residual\nof a test")}),
        lambda: area_sheet({"a": (attention(4), (4, 8)), "b": (attention(4, True), (3, 3))}),
    ],
)
def test_svg_is_the_same_every_time(tmp_path, draw):
    for i, name in enumerate(("one.svg", "two.svg")):
        torch.manual_seed(i)  # weights are no part of it
        write(draw, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    words = {"".join(e.itertext()) for e in ElementTree.parse(tmp_path / "one.svg").iter() if e.tag.endswith("}text")}
    assert {"attention", "m.3: 2 × ABlock"} <= words or "4×8 tokens, 4 areas of 8" in words


def test_the_architecture_is_that_of_the_layers():
    """As Ultralytics keeps it: for each layer the ones that it takes, and its channels."""
    model = diagrams.build("n")
    graph = record(model, torch.zeros(1, 3, 64, 96))
    layers = [node.module for node in graph.nodes[1:-1]]
    assert layers == list(model.model)
    for i, m in enumerate(layers):
        taken = [j + i if j < 0 else j for j in ([m.f] if isinstance(m.f, int) else m.f)]
        assert [edge.source - 1 for edge in graph.into(i + 1)] == taken
    fig = diagrams.architecture()
    words = said(fig).split("\n")
    assert len(fig.findobj(FancyArrowPatch)) == len(graph.edges) - len(graph.into(len(layers) + 1)) + 1
    assert {"yolov12n", "2,602,288 parameters", "model.0: Conv 3×3, stride 2", "model.6: A2C2f, n = 2"} <= {*words}
    assert {"16 /2", "256 /32", "model.21: Detect", "1×84×126"} <= {*words}


def test_figure_2():
    words = said(diagrams.figure2())
    for title in "area: 1, plain attention", "area: 4, as built", "area: 4, vertical: true":
        assert title in words
    assert words.count("12×20 tokens, 4 areas of 60\nreceptive field: 60 of 240 tokens\nproducts: 1.84 M, 25 % of") == 2
    assert "12×20 tokens, 1 area of 240\nreceptive field: 240 of 240 tokens\nproducts: 7.37 M, 100 % of" in words


def test_ablock():
    count = Counter(said(diagrams.ablock()).split("\n"))
    assert {"ABlock", "attn: AAttn", "mlp: 2 × Conv 1×1", "qkv: Conv 1×1", "proj: Conv 1×1"} <= {*count}
    assert (count["192"], count["4×2×60×32"], count["64"]) == (1, 3, 5 + 6)  # the values are a map for the perceiver


def test_figure_3():
    words = said(diagrams.figure3()).split("\n")
    count = Counter(words)
    assert [count[f"m.{i}: 2 × ABlock"] for i in range(5)] == [3, 3, 1, 1, 0]
    assert (count["concat"], count["split"], count["+"], count["× gamma = 0.01"]) == (5, 2, 1, 1)
    assert {"A2C2f of yolov12n, layer 6", "128 → 128 channels", "768 → 768 channels"} <= {*words}
