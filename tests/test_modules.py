import copy
import math
import pickle
import sys
import textwrap

import pytest
import torch
import ultralytics
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parametrizations, prune
from ultralytics import YOLO
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.modules.head import Detect
from ultralytics.utils.torch_utils import fuse_conv_and_bn

import yolov12_plugin as y12
from yolov12_plugin.nn.layers import Integral, IntegralOfMaps
from yolov12_plugin.nn.modules import fuse_blocks

LAYOUTS = [dict(), dict(qkv_fused=False, pe_kernel=5), dict(pe_bias=True), dict(vertical=True)]
POSITIONS = [
    dict(pos_embed="absolute"),
    dict(pos_embed="relative"),
    dict(pos_embed="absolute", vertical=True),
    dict(pos_embed="relative", vertical=True, qkv_fused=False),
]
IMPLEMENTATIONS = [  # Table 5a's others
    dict(projection="linear"),
    dict(norm="ln", pe_bias=True),
    dict(projection="linear", norm="ln", qkv_fused=False, vertical=True),
]


def randomise(module):
    """Weights and normalisation statistics away from their initial values, so that every tensor matters."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "running_var" in name else torch.randn_like(tensor) * 0.3)
    return module


def written_out(m, x):
    """A layer of the attention, whatever it is made of."""
    x = m.conv(x) if hasattr(m, "conv") else torch.einsum("oc,bchw->bohw", m.linear.weight, x)
    if hasattr(m, "bn"):
        return m.bn(x)
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + m.ln.eps).sqrt()
    return x * m.ln.weight.view(-1, 1, 1) + m.ln.bias.view(-1, 1, 1)


def encoding(dim, h, w):
    """Sines and cosines of a map's rows and columns, value by value."""
    rates = [1e4 ** -(4 * i / dim) for i in range(dim // 4)]
    table = torch.empty(dim, h, w, dtype=torch.float64)
    for row in range(h):
        for column in range(w):
            values = [f(at * rate) for at in (row, column) for f in (math.sin, math.cos) for rate in rates]
            table[:, row, column] = torch.tensor(values, dtype=torch.float64)
    return table


def position_bias(attn, h, w):
    """(heads, H·W, H·W), from the distance of each pair of tokens."""
    tokens = [(row, column) for row in range(h) for column in range(w)]
    apart = torch.tensor([[(a - c, b - d) for c, d in tokens] for a, b in tokens], dtype=torch.float64)
    return attn.cpb_mlp(apart.sign() * (1 + apart.abs()).log2() / 3).permute(2, 0, 1)


def reference(attn, x):
    """AAttn written out: one head and one area at a time, from the layers of `attn`."""
    b, c, h, w = x.shape
    d = c // attn.num_heads
    if attn.pos_embed == "absolute":
        x = x + encoding(c, h, w).to(x.dtype)
    if hasattr(attn, "qkv"):
        heads = written_out(attn.qkv, x).split(3 * d, dim=1)
        qkv = [t.split(d, dim=1) for t in heads]
    else:
        q, k = (t.split(d, dim=1) for t in written_out(attn.qk, x).split(c, dim=1))
        qkv = list(zip(q, k, written_out(attn.v, x).split(d, dim=1)))
    shape = (w, h) if attn.vertical else (h, w)
    bias = position_bias(attn, *shape) if attn.pos_embed == "relative" else torch.zeros(len(qkv), h * w, h * w)
    out = []
    for (q, k, v), added in zip(qkv, bias.to(x.dtype)):
        turn = (lambda t: t.transpose(2, 3)) if attn.vertical else (lambda t: t)
        q, k, v = (turn(t).flatten(2).transpose(1, 2).tensor_split(attn.area, dim=1) for t in (q, k, v))
        parts = [added[i][:, i] for i in torch.arange(h * w).tensor_split(attn.area)]
        mixed = [torch.softmax(qi @ ki.transpose(1, 2) * d**-0.5 + p, -1) @ vi for qi, ki, vi, p in zip(q, k, v, parts)]
        mixed = torch.cat(mixed, 1).transpose(1, 2)
        out.append(turn(mixed.reshape(b, d, *shape)))
    v = torch.cat([v for _, _, v in qkv], 1)
    return written_out(attn.proj, torch.cat(out, 1) + written_out(attn.pe, v))


@settings(deadline=None, max_examples=100)
@given(layout=st.sampled_from(LAYOUTS + POSITIONS + IMPLEMENTATIONS), b=st.integers(1, 2), h=st.integers(1, 9),
       w=st.integers(1, 9), heads=st.integers(1, 3), area=st.integers(1, 6), training=st.booleans(),
       backend=st.sampled_from(["auto", "sdpa", "math"]))  # fmt: skip
def test_aattn(layout, b, h, w, heads, area, training, backend):
    if training and b * h * w == 1:
        b = 2  # batch norm needs more than one value
    attn = randomise(y12.AAttn(32 * heads, heads, area, **layout)).double().train(training)
    again = copy.deepcopy(attn)
    x = torch.randn(b, 32 * heads, h, w, dtype=torch.float64, requires_grad=True)
    with y12.attention_backend(backend):
        out = attn(x)
    expected = reference(again, x)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    ours = torch.autograd.grad((out * weight).sum(), [x, *attn.parameters()])
    theirs = torch.autograd.grad((expected * weight).sum(), [x, *again.parameters()])
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS + POSITIONS + IMPLEMENTATIONS)
def test_batch_and_size_change_between_calls(layout):
    attn = randomise(y12.AAttn(64, 2, 4, **layout)).eval()
    for b, h, w in (2, 8, 8), (1, 4, 12), (3, 5, 7), (2, 8, 8):
        x = torch.randn(b, 64, h, w, requires_grad=True)
        attn(x).sum().backward()
        assert x.grad.abs().sum() > 0
        torch.testing.assert_close(attn(x)[:1], attn(x[:1]), atol=1e-5, rtol=1e-5)  # images do not mix


@pytest.mark.parametrize(
    "module",
    [
        y12.AAttn(64, 2, 4),
        y12.ABlock(64, 2, 1.2, 4),
        y12.A2C2f(64, 64, 1, True, 4, True),
        y12.A2C2f(64, 64, 1, True, 4, True, aggregation="elan", pos_embed="relative"),
        *(y12.A2C2f(64, 64, 1, True, 4, **kind) for kind in IMPLEMENTATIONS),
    ],
)
def test_every_parameter_gets_a_gradient(module):
    randomise(module)(torch.randn(2, 64, 6, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_official_parameter_names():
    names = {name for name, _ in y12.A2C2f(64, 64, 1, True, 4, True).named_parameters()}
    attn = "m.0.1.attn"
    conv = ("conv.weight", "bn.weight", "bn.bias")
    assert {f"{attn}.{part}.{p}" for part in ("qkv", "proj", "pe") for p in conv} <= names
    assert {f"m.0.0.mlp.{i}.{p}" for i in (0, 1) for p in conv} <= names
    assert {f"{cv}.{p}" for cv in ("cv1", "cv2") for p in conv} | {"gamma"} <= names
    split = {name for name, _ in y12.AAttn(64, 2, qkv_fused=False, pe_bias=True).named_parameters()}
    assert {"qk.conv.weight", "v.conv.weight", "pe.conv.bias"} <= split and "qkv.conv.weight" not in split


@pytest.mark.parametrize("residual, gamma", [(False, None), (True, 0.01), (0.01, 0.01), (0.1, 0.1), (0, 0.0), (1, 1.0)])
def test_residual(residual, gamma):
    block = y12.A2C2f(64, 64, 1, True, 4, residual)
    if gamma is None:
        assert block.gamma is None
    else:
        assert block.gamma.shape == (64,) and block.gamma.requires_grad
        torch.testing.assert_close(block.gamma.detach(), torch.full((64,), gamma))


def test_block_without_attention_ignores_its_options():
    block = y12.A2C2f(96, 64, 2, False, -1, True, 1.2)
    assert block.gamma is None and not any(isinstance(m, y12.AAttn) for m in block.modules())
    assert block(torch.randn(1, 96, 5, 5)).shape == (1, 64, 5, 5)


def test_initialisation():
    block = y12.ABlock(256, 8, 2.0, 4)
    for m in block.modules():
        if isinstance(m, torch.nn.Conv2d):
            assert m.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp[0].conv.out_channels == 512


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: y12.AAttn(64, 2, 0), "area=0"),
        (lambda: y12.AAttn(64, 2, 1.5), "area=1.5"),
        (lambda: y12.AAttn(64, 2, True), "area=True"),
        (lambda: y12.AAttn(64, 0), "num_heads=0"),
        (lambda: y12.AAttn(64, 65), "num_heads=65"),
        (lambda: y12.AAttn(64, 2, pe_kernel=4), "pe_kernel=4"),
        (lambda: y12.AAttn(64, 2, pe_kernel=-1), "pe_kernel=-1"),
        (lambda: y12.ABlock(64, 2, 0), "mlp_ratio=0"),
        (lambda: y12.ABlock(64, 2, "2"), "mlp_ratio='2'"),
        (lambda: y12.A2C2f(64, 96), "hidden width"),
        (lambda: y12.A2C2f(64, 16), "hidden width"),
        (lambda: y12.A2C2f(64, 64, residual="big"), "residual='big'"),
        (lambda: y12.A2C2f(32, 64, residual=True), "residual=True and aggregation='r-elan' .* c1=32 and c2=64"),
        (
            lambda: y12.A2C2f(32, 64, residual=0.1, aggregation="elan"),
            "residual=0.1 and aggregation='elan' do not go together .* c1=32 and c2=64: set residual=False",
        ),
        (lambda: y12.A2C2f(64, 64, a2=False, aggregation="vanilla"), "aggregation='vanilla' must be r-elan or elan"),
        (lambda: y12.AAttn(64, 2, norm="LN"), "norm='LN' must be bn or ln"),
        (lambda: y12.AAttn(64, 2, projection=None), "projection=None must be conv or linear"),
        (lambda: y12.ABlock(64, 2, pos_embed="rpe"), "pos_embed='rpe' must be none or absolute or relative"),
        (lambda: y12.AAttn(66, 2, pos_embed="absolute"), "multiple of 4 as dim, not 66"),
    ],
)
def test_impossible_values(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("args", [(2, True, 4), (1, True, 1, True, 1.2), (2, False, -1)])
def test_equal_seeds_give_stock_weights_and_outputs(args, stock):
    from ultralytics.nn.modules import block

    theirs = block.A2C2f
    assert theirs is not y12.A2C2f
    torch.manual_seed(0)
    a = theirs(64, 64, *args)
    torch.manual_seed(0)
    b = y12.A2C2f(64, 64, *args)
    assert list(a.state_dict()) == list(b.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    x = torch.randn(2, 64, 8, 8)
    torch.testing.assert_close(a(x), b(x), atol=1e-5, rtol=1e-5)


def test_pickles_name_ultralytics():
    block = y12.A2C2f(64, 64, 1, True, 4)
    data = pickle.dumps(block)
    assert b"yolov12_plugin" not in data and b"ultralytics.nn.modules.block" in data
    x = torch.randn(1, 64, 8, 8)
    torch.testing.assert_close(pickle.loads(data).eval()(x), block.eval()(x))


@settings(deadline=None, max_examples=40)
@given(layout=st.sampled_from(LAYOUTS + POSITIONS), b=st.integers(1, 2), h=st.integers(1, 9), w=st.integers(1, 9),
       heads=st.integers(1, 3), area=st.integers(1, 6), format=st.sampled_from(["onnx", "torchscript", "executorch", "paddle", "ncnn", "openvino"]))  # fmt: skip
def test_fused_form(layout, b, h, w, heads, area, format):
    """What an export's copy computes: one projection instead of the official ones, or OpenVINO's two; the same."""
    attn = randomise(y12.AAttn(32 * heads, heads, area, **layout)).double().eval()
    x = torch.randn(b, 32 * heads, h, w, dtype=torch.float64)
    expected = attn(x)
    copied = copy.deepcopy(attn)
    copied.fuse(format)
    copied.fuse(format)
    projections = {name for name, _ in copied.named_children()} & {"qkv", "qk", "v", "packed", "values"}
    assert projections == ({"packed", "values"} if format == "openvino" else {"packed"})
    torch.testing.assert_close(copied(x), expected)
    torch.testing.assert_close(attn(x), expected)


def prune_projection(attn):
    prune.l1_unstructured(attn.qkv.conv, "weight", 0.5)


def hook_projection(attn):
    attn.qkv.register_forward_hook(lambda module, inputs, out: out * 2)


def widen_projection(attn):
    attn.qkv = torch.nn.Conv2d(64, 192, 3, 1, 1)


def weigh_projection(attn):
    parametrizations.weight_norm(attn.qkv.conv)


@pytest.mark.parametrize("change", [prune_projection, hook_projection, widen_projection, weigh_projection])
def test_projection_that_is_no_plain_one_is_exported_as_it_is(change):
    attn = randomise(y12.AAttn(64, 2, 4)).eval()
    change(attn)
    x = torch.randn(1, 64, 4, 6)
    expected = attn(x)
    attn.fuse("onnx")
    torch.testing.assert_close(attn(x), expected)
    assert not hasattr(attn, "packed")


@settings(deadline=None, max_examples=40)
@given(layout=st.sampled_from(LAYOUTS + POSITIONS + IMPLEMENTATIONS), h=st.integers(1, 7), w=st.integers(1, 7),
       heads=st.integers(1, 2), area=st.integers(1, 5), fused=st.sampled_from([None, "onnx", "openvino"]),
       data=st.data())  # fmt: skip
def test_attention_map(layout, h, w, heads, area, fused, data):
    """A token's weights are those that its output is made with, and lie in its area."""
    attn = randomise(y12.AAttn(32 * heads, heads, area, **layout)).double().eval()
    if fused:
        attn.fuse(fused)
    x = torch.randn(2, 32 * heads, h, w, dtype=torch.float64)
    row, column = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    weights = attn.attention_map(x, row, column)  # (B, heads, H, W)
    torch.testing.assert_close(weights.sum((2, 3)), torch.ones(2, heads, dtype=torch.float64))
    areas = attn.areas(h, w)
    assert torch.equal(weights.amax((0, 1)) > 0, areas == areas[row, column])
    flat = (areas.t() if attn.vertical else areas).flatten()
    assert [int((flat == i).sum()) for i in range(area)] == [len(p) for p in torch.arange(h * w).tensor_split(area)]

    attn.pe, attn.proj = torch.nn.Identity(), torch.nn.Identity()  # what is left is attention and v
    seen = []
    attn.pe.register_forward_hook(lambda module, inputs, out: seen.append(out))
    attn(x)
    v = seen[0]
    mixed = (weights[:, :, None] * v.unflatten(1, (heads, 32))).sum((3, 4)).flatten(1)
    torch.testing.assert_close((attn(x) - v)[:, :, row, column], mixed)


def test_table_5a_is_not_fused():
    """Layer normalisation cannot be folded, and a linear layer is to stay one."""
    for kind in IMPLEMENTATIONS:
        attn = randomise(y12.AAttn(64, 2, 4, **kind)).eval()
        x = torch.randn(1, 64, 4, 6)
        expected = attn(x)
        data = pickle.dumps(attn)
        assert b"yolov12_plugin" not in data and b"torch.nn.modules" in data
        attn.fuse("onnx")
        assert not hasattr(attn, "packed")
        for again in attn, copy.deepcopy(attn), pickle.loads(pickle.dumps(attn)):
            torch.testing.assert_close(again(x), expected)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_aggregation_of_elan(n):
    """Figure 3b: the transition's output in halves, one through the blocks, and all of them concatenated."""
    block = randomise(y12.A2C2f(64, 128, n, True, 2, aggregation="elan")).eval()
    x = torch.randn(1, 64, 4, 6)
    first, second = block.cv1(x).split(64, dim=1)
    outs = [second]
    for pair in block.m:
        outs.append(pair(outs[-1]))
    torch.testing.assert_close(block(x), block.cv2(torch.cat([first, *outs], 1)), atol=1e-4, rtol=1e-4)
    ours = y12.A2C2f(64, 128, n, True, 2)
    more = sum(p.numel() for p in block.parameters()) - sum(p.numel() for p in ours.parameters())
    assert more == 64 * (64 + 128) + 2 * 64  # channels of cv1 and inputs of cv2, and a normalisation


@pytest.mark.parametrize("n, c1, c2", [(1, 64, 64), (2, 96, 64)])
def test_aggregation_of_elan_is_that_of_c2f(n, c1, c2):
    """Ultralytics' C2f aggregates as ELAN does."""
    from ultralytics.nn.modules import C2f

    ours, theirs = y12.A2C2f(c1, c2, n, a2=False, aggregation="elan"), C2f(c1, c2, n)
    theirs.m = ours.m
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, c1, 5, 7)
    torch.testing.assert_close(ours(x), theirs(x))


def test_fused_model_gives_its_weights():
    """A fused checkpoint transfers to a new model what it transfers with stock: all but the folded normalisation."""
    source = randomise(YOLO("yolov12n.yaml", verbose=False).model).fuse(verbose=False)
    target = YOLO("yolov12n.yaml", verbose=False).model
    target.load(source, verbose=False)
    name = "model.6.m.0.0.attn.qkv.conv.weight"
    assert torch.equal(target.state_dict()[name], source.state_dict()[name])


@pytest.mark.parametrize("format", [None, "torchscript", "openvino", "paddle", "executorch"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_script(layout, format):
    """torch.jit.script compiles what it is given as text, also where a format is fused for."""
    module = y12.AAttn(32, 1, 4, **layout).eval()
    randomise(module)
    if format:
        module.fuse(format)
    x = torch.randn(2, 32, 6, 5)
    torch.testing.assert_close(torch.jit.script(module)(x), module(x), rtol=1e-4, atol=1e-4)


def test_empty_batch():
    for attn in y12.AAttn(64, 2, 4).eval(), y12.AAttn(64, 2, 4, qkv_fused=False, vertical=True).eval():
        assert attn(torch.zeros(0, 64, 4, 6)).shape == (0, 64, 4, 6)
        attn.fuse("onnx")
        assert attn(torch.zeros(0, 64, 4, 6)).shape == (0, 64, 4, 6)


@pytest.mark.skipif(ultralytics.__version__ < "8.4.1", reason="this release fuses in single precision only")
@pytest.mark.parametrize(
    "name",
    [
        "yolov12n.yaml",
        "yolov12l.yaml",
        "yolov12l-turbo.yaml",
        "yolov12n-seg.yaml",
        "yolov12n-pose.yaml",
        "yolov12n-obb.yaml",
    ],
)
@pytest.mark.parametrize("format", ["onnx", "engine", "openvino"])
def test_fused_for_an_export_a_model_computes_the_same(name, format):
    net = randomise(YOLO(name, verbose=False).model).double().eval()
    x = torch.rand(1, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = net(x)[0]
        assert net.fuse(verbose=False) is net
        torch.testing.assert_close(net(x)[0], expected)
        fuse_blocks(net, format)
        fused = [m for m in net.modules() if isinstance(m, y12.AAttn)]
        assert fused and all(hasattr(m, "packed") for m in fused)
        hidden = {m.mlp[0].conv.out_channels for m in net.modules() if isinstance(m, y12.ABlock)}
        assert all(n % 8 == 0 for n in hidden) is (format == "engine" or name != "yolov12l.yaml")
        torch.testing.assert_close(net(x)[0], expected)


@pytest.mark.skipif(ultralytics.__version__ < "8.4.1", reason="this release fuses in single precision only")
@settings(deadline=None)
@given(dim=st.integers(2, 40), ratio=st.floats(0.5, 3))
def test_hidden_channels_by_eights(dim, ratio):
    block = randomise(y12.ABlock(dim, 1, ratio).double().eval())
    x = torch.rand(2, dim, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = block(x)
        for m in block.mlp:
            m.conv = fuse_conv_and_bn(m.conv, m.bn)
            del m.bn
            m.forward = m.forward_fuse
        block.fuse("engine")
        hidden = block.mlp[0].conv.out_channels
        assert hidden % 8 == 0 and 0 <= hidden - int(dim * ratio) < 8
        assert block.mlp[0].conv.weight.shape[0] == block.mlp[1].conv.weight.shape[1] == hidden
        torch.testing.assert_close(block(x), expected)


def test_an_mlp_that_is_not_plain_keeps_its_channels():
    for change in (
        lambda b: b.mlp.append(torch.nn.Identity()),
        lambda b: setattr(b.mlp[0], "act", torch.nn.Sigmoid()),
        lambda b: b.mlp[1].register_forward_hook(lambda *_: None),
        lambda b: setattr(b.mlp[0], "conv", torch.nn.Conv2d(64, 76, 3, padding=1)),
    ):
        block = y12.ABlock(64, 2)
        change(block)
        block.fuse("engine")
        assert block.mlp[0].conv.out_channels == 76


@settings(deadline=None)
@given(
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    bins=st.integers(2, 24),
    batch=st.integers(1, 3),
    anchors=st.integers(1, 40),
    largest=st.sampled_from([1.0, 11.5, 60.0, 1e4]),
    seed=st.integers(0, 2**16),
)
def test_the_integral_of_an_export_is_that_of_dfl(dtype, bins, batch, anchors, largest, seed):
    """Logits of any size, in half precision too, and bins that are not 0, 1, 2, ..."""
    generator = torch.Generator().manual_seed(seed)
    dfl = DFL(bins)
    dfl.conv.weight.data.copy_(torch.rand(1, bins, 1, 1, generator=generator) * bins)
    x = ((torch.rand(batch, 4 * bins, anchors, generator=generator) * 2 - 1) * largest).to(dtype)
    on_maps = IntegralOfMaps(dfl).to(dtype)
    maps = on_maps(x[:, :, None])
    assert maps.shape == (batch, 4, 1, anchors)
    found = [Integral(dfl).to(dtype)(x), maps[:, :, 0]]
    assert on_maps(found[0]) is found[0]
    expected = dfl.double()(x.double())
    rounding = {torch.float16: 8e-3, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for distances in found:
        assert distances.dtype == dtype and distances.isfinite().all()
        torch.testing.assert_close(distances.double(), expected, rtol=rounding, atol=rounding * bins)


ON_MAPS = IntegralOfMaps if hasattr(Detect, "forward_head") else DFL  # before 8.4, a head joins boxes and scores


@pytest.mark.parametrize(
    "format, kind",
    {"onnx": Integral, "engine": Integral, "openvino": ON_MAPS, "ncnn": DFL, "torchscript": DFL}.items(),
)
def test_the_head_of_yolov12_alone_is_rewritten(format, kind):
    def build(name):
        net = YOLO(name, verbose=False).model
        return net, net.model[-1]

    for name in "yolov12n.yaml", "yolov12n-seg.yaml", "yolov12n-pose.yaml", "yolov12n-obb.yaml", "yolo12n.yaml":
        net, head = build(name)
        for _ in range(2):
            fuse_blocks(net, format)
            assert type(head.dfl) is kind
            assert sum(m is head.dfl for m in net.modules()) == 1
    for name in "yolo11n.yaml", "yolov8n.yaml":
        net, head = build(name)
        fuse_blocks(net, format)
        assert type(head.dfl) is DFL

    class Own(DFL):
        pass

    class OwnHead(Detect):
        pass

    for change in (
        lambda head: setattr(head, "dfl", Own(16)),
        lambda head: head.dfl.conv.register_forward_hook(lambda *_: None),
        *((lambda head: setattr(head, "__class__", OwnHead),) if format == "openvino" else ()),
        *((lambda head: head.cv2[0].register_forward_hook(lambda *_: None),) if format == "openvino" else ()),
    ):
        net, head = build("yolov12n.yaml")
        change(head)
        fuse_blocks(net, format)
        assert isinstance(head.dfl, DFL)


def test_unfused_pickle_is_untouched():
    attn = y12.AAttn(64, 2)
    assert list(pickle.loads(pickle.dumps(attn)).state_dict()) == list(attn.state_dict())


@pytest.mark.process
@pytest.mark.parametrize("checkpointing", ["0", "1"])
def test_two_processes_share_their_gradients(checkpointing, fork, tmp_path):
    """Ultralytics' DDP settings: the mean of what each process computes of its half of the batch."""
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent(
            """
            import copy, os, torch
            import torch.distributed as dist
            import yolov12_plugin as y12

            dist.init_process_group("gloo")
            torch.manual_seed(0)
            block = y12.A2C2f(64, 64, 1, True, 4, True)
            halves = torch.rand(2, 2, 64, 8, 8)
            singles = [copy.deepcopy(block) for _ in halves]
            for single, half in zip(singles, halves):
                single(half).square().mean().backward()
            shared = torch.nn.parallel.DistributedDataParallel(block, find_unused_parameters=True)
            shared(halves[dist.get_rank()]).square().mean().backward()
            for p, a, b in zip(block.parameters(), *(single.parameters() for single in singles)):
                torch.testing.assert_close(p.grad, (a.grad + b.grad) / 2, atol=1e-6, rtol=1e-4)
            os.write(1, f"rank {dist.get_rank()} done\\n".encode())
            """
        )
    )
    out = fork(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29766", script],
        YOLO12_CHECKPOINT=checkpointing,
    )
    assert "rank 0 done" in out.stdout and "rank 1 done" in out.stdout


FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("layout", LAYOUTS + POSITIONS + IMPLEMENTATIONS + [dict(aggregation="elan")])
def test_memory_format_is_that_of_the_input(layout, format):
    """Of every block, in training and evaluation, whatever the tokens need; results are the same."""
    block = randomise(y12.A2C2f(64, 64, 1, True, 4, True, **layout)).double()
    there = copy.deepcopy(block).to(memory_format=format)
    x = torch.rand(2, 64, 6, 10, dtype=torch.float64)
    for training in True, False:
        expected = block.train(training)(x)
        out = there.train(training)(x.to(memory_format=format))
        torch.testing.assert_close(out, expected)
        assert out.is_contiguous(memory_format=format)
        for part in there.m[0][0], there.m[0][0].attn:
            given = x[:, :32].contiguous(memory_format=format)
            assert copy.deepcopy(part)(given).is_contiguous(memory_format=format)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("layout", [dict(), dict(qkv_fused=False), dict(vertical=True)])
def test_submodules_get_maps_in_the_format_of_the_input(layout, format, heads):
    attn, seen = y12.AAttn(64, heads, 4, **layout).to(memory_format=format), []
    for name in "pe", "proj":
        attn.get_submodule(name).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    attn(torch.rand(2, 64, 6, 10).contiguous(memory_format=format))
    assert len(seen) == 2 and all(x.is_contiguous(memory_format=format) for x in seen)


@pytest.mark.parametrize("dim, heads, area", [(100, 3, 1), (100, 3, 4), (70, 2, 2), (33, 32, 1)])
def test_heads_that_do_not_divide(dim, heads, area, stock):
    """As stock computes them: heads of dim // num_heads channels."""
    from ultralytics.nn.modules import block

    if ultralytics.__version__ < "8.4" and dim % heads:
        pytest.skip("this release builds none")
    torch.manual_seed(0)
    theirs = block.AAttn(dim, heads, area)
    torch.manual_seed(0)
    ours = y12.AAttn(dim, heads, area)
    x = torch.randn(2, dim, 4, 6)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    ours.eval().fuse("onnx")
    torch.testing.assert_close(ours(x), theirs.eval()(x), atol=1e-5, rtol=1e-5)
