"""Figure 2, drawn from runs of the modules, and Figure 3, which is kept."""

import functools
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from PIL import Image

from yolov12_plugin import AAttn
from yolov12_plugin.paper import diagrams
from yolov12_plugin.paper.diagrams import AREAS, area_sheet, products, receptive_field
from yolov12_plugin.paper.networks import Countable, shipped
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


def test_svg_is_the_same_every_time(tmp_path):
    for i, name in enumerate(("one.svg", "two.svg")):
        torch.manual_seed(i)  # weights are no part of it
        write(lambda: area_sheet({"a": (attention(4), (4, 8)), "b": (attention(4, True), (3, 3))}), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert any(line.startswith("4×8 tokens, 4 areas of 8") for line in words(tmp_path / "one.svg"))


def words(svg):
    return ["".join(e.itertext()) for e in ElementTree.parse(svg).iter() if e.tag.endswith("}text")]


def test_figure_2():
    shown = said(diagrams.areas())
    for title in "area: 1, plain attention", "area: 4, as built", "area: 4, vertical: true":
        assert title in shown
    assert shown.count("12×20 tokens, 4 areas of 60\nreceptive field: 60 of 240 tokens\nproducts: 1.84 M, 25 % of") == 2
    assert "12×20 tokens, 1 area of 240\nreceptive field: 240 of 240 tokens\nproducts: 7.37 M, 100 % of" in shown


def test_figure_3_shows_the_blocks_that_are_built(tmp_path):
    """Their channels, parameters and parts, in the order of the drawing."""
    diagrams.figure3(tmp_path / "a.svg")
    shown = words(tmp_path / "a.svg")
    n, elan, x = (Countable(shipped(f"yolov12{name}")).model for name in ("n", "n-elan", "x"))
    blocks = n[11].m[0], elan[6], n[20], n[6], x[6]
    assert [text for text in shown if text.endswith(" parameters")] == [
        f"{sum(p.numel() for p in block.parameters()):,} parameters" for block in blocks
    ]
    ends = [(block.cv1.conv.in_channels, getattr(block, "cv3", block.cv2).conv.out_channels) for block in blocks]
    assert [text for text in shown if text.endswith(" channels")] == [f"{a} → {b} channels" for a, b in ends]
    assert shown.count("concat") == len(blocks) and shown.count("split") == 2
    for part in range(5):
        having = [block for block in (elan[6], n[6], x[6]) if part < len(block.m)]
        assert shown.count(f"m.{part}: 2 × ABlock") == len(having)
    assert [hasattr(block, "gamma") and block.gamma is not None for block in blocks] == [False] * 4 + [True]
    assert "× gamma = 0.01" in shown


@pytest.mark.parametrize("kind", ["PNG", "jpg", "pdf"])
def test_figure_3_of_other_kinds(tmp_path, kind):
    diagrams.figure3(tmp_path / f"a.{kind}")
    if kind == "pdf":
        assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    else:
        assert Image.open(tmp_path / f"a.{kind}").size == (1792, 1192)
