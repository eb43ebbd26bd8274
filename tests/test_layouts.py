"""The algebra of layouts, and what a model's tensors say of its YAML."""

import copy
import logging
import pickle
import sys

import pytest
import torch
from conftest import has_end2end
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.modules.conv import Conv

from yolov12_plugin.checkpoints import layouts
from yolov12_plugin.checkpoints.layouts import common, describe_in_yaml, express, layout, to_stock, transfer
from yolov12_plugin.models import MODELS
from yolov12_plugin.nn.modules import A2C2f, AAttn

NAMES = [m.name for m in MODELS.values() if m.scale in "nl" and (has_end2end() or "e2e" not in m.release)]
OPTIONS = st.fixed_dictionaries(
    {"qkv_fused": st.booleans(), "pe_kernel": st.sampled_from([3, 5, 7]), "pe_bias": st.booleans()}
)


def randomized(module):
    """Weights and statistics that are no initial values."""
    for name, t in module.state_dict().items():
        if t.is_floating_point():
            t.copy_(torch.rand_like(t) + 0.5 if name.endswith("running_var") else torch.randn_like(t))
    return module


def weights_of(module):
    return {name: t.clone() for name, t in module.state_dict().items()}


@settings(max_examples=40, deadline=None)
@given(
    heads=st.integers(1, 4),
    head_dim=st.sampled_from([8, 16, 32]),
    area=st.sampled_from([1, 2, 4]),
    before=OPTIONS,
    after=OPTIONS,
    training=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_express(heads, head_dim, area, before, after, training, seed):
    """Any layout in any other with a perceiver no smaller, in evaluation and in training, and its running statistics."""
    torch.manual_seed(seed)
    dim = heads * head_dim
    attn = randomized(AAttn(dim, heads, area, **before)).double().train(training)
    new = copy.deepcopy(attn)
    if after["pe_kernel"] < before["pe_kernel"]:
        with pytest.raises(ValueError, match="perceiver"):
            express(new, **after)
        assert layout(new) == before
        return
    changes = express(new, **after)
    assert layout(new) == after and bool(changes) == (before != after)
    assert list(new.state_dict()) == list(AAttn(dim, heads, area, **after).state_dict())
    assert {k: v.shape for k, v in new.state_dict().items()} == {
        k: v.shape for k, v in AAttn(dim, heads, area, **after).state_dict().items()
    }
    x = torch.randn(3, dim, 4, 6, dtype=torch.float64)
    for _ in range(2):  # the second time from the statistics of the first
        # the bias goes through single precision, as Ultralytics loads checkpoints
        torch.testing.assert_close(new(x), attn(x), rtol=1e-5, atol=1e-5)
    attn.eval(), new.eval()
    torch.testing.assert_close(new(x), attn(x), rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(heads=st.integers(1, 4), qkv_fused=st.booleans(), half=st.booleans())
def test_express_and_back_is_exact(heads, qkv_fused, half):
    attn = randomized(AAttn(32 * heads, heads, qkv_fused=qkv_fused))
    attn = attn.half() if half else attn
    before = weights_of(attn)
    express(attn, qkv_fused=not qkv_fused, pe_kernel=7, pe_bias=False)
    express(attn, qkv_fused=qkv_fused, pe_kernel=7, pe_bias=False)
    assert all(torch.equal(t, before[name]) for name, t in attn.state_dict().items())


@pytest.mark.parametrize("pe_bias", [False, True])
def test_express_of_folded_convolutions(pe_bias):
    """As within a checkpoint that was fused: no normalisation, biases instead, a forward method of their own."""
    attn = randomized(AAttn(64, 2, 4, qkv_fused=False, pe_kernel=5, pe_bias=pe_bias)).eval()
    from ultralytics.utils.torch_utils import fuse_conv_and_bn

    for m in attn.modules():
        if isinstance(m, Conv):
            m.conv = fuse_conv_and_bn(m.conv, m.bn)
            del m.bn
            m.forward = m.forward_fuse
    x = torch.randn(1, 64, 4, 4)
    expected = attn(x)
    express(attn, qkv_fused=True, pe_kernel=7, pe_bias=False)
    assert attn.qkv.forward.__self__ is attn.qkv
    torch.testing.assert_close(attn(x), expected, rtol=1e-5, atol=1e-5)


def test_a_bias_in_half_precision_loses_nothing():
    """A checkpoint holds halves; the mean that takes up the bias needs more digits than a half has."""
    torch.manual_seed(0)
    attn = randomized(AAttn(64, 2, pe_bias=True)).half()
    expected = copy.deepcopy(attn).double().eval()
    express(attn, qkv_fused=True, pe_kernel=7, pe_bias=False)
    assert attn.pe.bn.running_mean.dtype == torch.float32 and attn.pe.conv.weight.dtype == torch.float16
    x = torch.randn(2, 64, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(attn.double().eval()(x), expected(x), rtol=1e-5, atol=1e-5)


def test_what_has_no_exact_form():
    attn = AAttn(64, 2, qkv_fused=False)
    attn.v.bn.eps = 1e-2
    with pytest.raises(ValueError, match="normalised differently"):
        express(attn, qkv_fused=True, pe_kernel=7, pe_bias=False)
    attn = AAttn(64, 2, qkv_fused=False)
    attn.qk.conv.__class__ = type("QuantConv2d", (nn.Conv2d,), {})
    with pytest.raises(ValueError, match="quantised"):
        express(attn, qkv_fused=True, pe_kernel=7, pe_bias=False)


@settings(deadline=None)
@given(groups=st.integers(1, 4), i=st.integers(1, 3), o=st.integers(1, 3), k=st.sampled_from([1, 3]))
def test_ungroup(groups, i, o, k):
    conv = nn.Conv2d(groups * i, groups * o, k, groups=groups)
    x = torch.randn(2, groups * i, 5, 4)
    expected = conv(x)
    layouts._ungroup(conv)
    assert conv.groups == 1 and conv.weight.shape == (groups * o, groups * i, k, k)
    torch.testing.assert_close(conv(x), expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    ratio=st.sampled_from([1.0, 1.2, 1.5, 2.0, 4.0, 1 / 3, 2.7182818]), widths=st.lists(st.integers(1, 4), min_size=1)
)
def test_common_ratio(ratio, widths):
    """A ratio that is read from widths gives these widths, and is the one that was written where that is round."""
    with torch.device("meta"):
        blocks = [A2C2f(64 * w, 64 * w, 1, mlp_ratio=ratio) for w in widths]
    found = common("mlp_ratio", blocks)
    assert [int(32 * w * found) for w in widths] == [int(32 * w * ratio) for w in widths]
    if ratio in (1.0, 1.2, 1.5, 2.0, 4.0):
        assert found == ratio


def shapes(model):
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tensors_say_what_the_yaml_does_not(name):
    model = YOLO(f"{name}.yaml", verbose=False).model
    yaml = {key: value for key, value in model.yaml.items() if key != "a2c2f"}
    model.yaml = yaml
    describe_in_yaml(model)
    assert shapes(type(model)(copy.deepcopy(model.yaml), verbose=False)) == shapes(model)
    turbo = MODELS[name].release in ("turbo", "seg", "cls", "seg-e2e")
    assert ("a2c2f" in model.yaml) == turbo  # what needs no section gets none
    assert describe_in_yaml(model) == []


def with_options(name, **options):
    """A model of the authors' pickle format: its YAML says nothing of its options."""
    from ultralytics.nn.tasks import yaml_model_load

    d = yaml_model_load(f"{name}.yaml")
    kind = type(YOLO(f"{name}.yaml", verbose=False).model)
    model = kind({**d, "a2c2f": {**(d.get("a2c2f") or {}), **options}}, verbose=False)
    del model.yaml["a2c2f"]
    return model


def without_scales(name, scale):
    """A YAML of a single size, as many write it, that Ultralytics takes for a scale by its name."""
    from ultralytics.nn.tasks import yaml_model_load

    d = yaml_model_load(f"{name}.yaml")
    depth, width, _ = d.pop("scales")[scale]
    model = YOLO(f"{name}.yaml", verbose=False).model
    size = {"scale": scale, "depth_multiple": depth, "width_multiple": width}
    return type(model)({**d, **size, "a2c2f": {"mlp_ratio": 1.5}}, verbose=False)


VARIANTS = {
    "the authors' seg branch as it runs, n": ("yolov12n-seg", {"residual": True}),
    "the authors' seg branch as it runs, l": ("yolov12l-seg", {"mlp_ratio": 1.0}),
    "no residual at l": ("yolov12l", {"residual": False}),
    "ratio 1.2 at n": ("yolov12n", {"mlp_ratio": 1.2}),
    "biases": ("yolov12n", {"pe_bias": True}),
    "narrow": ("yolov12s", {"e": 0.25}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_described(variant):
    name, options = VARIANTS[variant]
    model = with_options(name, **options)
    describe_in_yaml(model)
    assert model.yaml["a2c2f"].items() >= options.items()
    assert shapes(type(model)(copy.deepcopy(model.yaml), verbose=False)) == shapes(model)


REBUILD = """
import copy, pickle, sys
from ultralytics.nn import tasks
assert tasks.A2C2f.__module__ == "ultralytics.nn.modules.block" and not hasattr(tasks.parse_model, "__wrapped__")
built = {}
for key, (kind, yaml) in pickle.load(open(sys.argv[1], "rb")).items():
    model = getattr(tasks, kind)(copy.deepcopy(yaml), verbose=False)
    built[key] = {name: tuple(t.shape) for name, t in model.state_dict().items()}, [
        [block.attn.area for pair in m.m for block in pair] for m in model.model
        if type(m).__name__ == "A2C2f" and type(m.m[0]).__name__ == "Sequential"]
pickle.dump(built, open(sys.argv[2], "wb"))
"""


@pytest.mark.process
def test_stock_builds_the_same_from_the_yaml(fork, tmp_path):
    """Of every layout and variant, C3k blocks with options of their own included."""
    models = {name: YOLO(f"{name}.yaml", verbose=False).model for name in NAMES}
    for variant, (name, options) in VARIANTS.items():
        models[variant] = with_options(name, **options)
    models["no scales"] = without_scales("yolov12l", "l")
    models["C3k"] = YOLO("yolov12l.yaml", verbose=False).model
    models["C3k"] = type(models["C3k"])({**models["C3k"].yaml, "a2c2f": {"g": 2, "shortcut": False}}, verbose=False)
    for model in models.values():
        describe_in_yaml(model)
        to_stock(model)
        assert "a2c2f" not in model.yaml
    source, target = tmp_path / "yamls", tmp_path / "built"
    source.write_bytes(pickle.dumps({key: (type(m).__name__, m.yaml) for key, m in models.items()}))
    fork([sys.executable, "-c", REBUILD, source, target], YOLO12_PLUGIN="off")
    for key, (built, areas) in pickle.loads(target.read_bytes()).items():
        assert built == shapes(models[key]), key
        assert areas == [
            [b.attn.area for pair in m.m for b in pair] for m in layouts.attention_blocks(models[key]).values()
        ]


def test_stock_cannot_compute_vertical_areas():
    model = with_options("yolov12n", vertical=True)
    with pytest.raises(ValueError, match="vertical areas"):
        to_stock(model)
    for block in layouts.attention_blocks(model).values():
        for m in block.modules():
            if isinstance(m, AAttn):
                m.area = 1
    model.yaml["backbone"][6][3][2] = 1
    to_stock(model)  # one area is the same in any order of its tokens


@pytest.fixture
def log(monkeypatch):
    """The lines that Ultralytics' logger prints."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.levelname, record.getMessage()))
    logger = logging.getLogger("ultralytics")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield lines
    logger.setLevel(level)
    logger.removeHandler(handler)


def ours(log):
    return [(level, line) for level, line in log if "Transferred" in line]


def model_of(name, **options):
    model = YOLO(f"{name}.yaml", verbose=False).model if not options else with_options(name, **options)
    if options:
        describe_in_yaml(model)
    return randomized_model(model)


def randomized_model(model):
    torch.manual_seed(0)
    for name, t in model.state_dict().items():
        if t.is_floating_point() and "dfl" not in name:
            t.mul_(1 + torch.rand_like(t) / 4)
    for m in model.modules():
        if isinstance(m, AAttn) and m.pe.conv.bias is not None:
            nn.init.normal_(m.pe.conv.bias)
    return model.eval()


def output(model):
    with torch.no_grad():
        out = model.eval()(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    while not isinstance(out, torch.Tensor):
        out = out[0]
    return out


@pytest.mark.parametrize(
    ("source", "target", "changes"),
    [
        ("yolov12n-turbo", "yolov12n", ["qk and v to qkv", "pe 5x5 to 7x7", "2 groups to 1", "4 groups to 1"]),
        ("yolov12n", "yolov12n", []),
    ],
)
def test_load_computes_the_same(source, target, changes, log):
    source, yolo = model_of(source), YOLO(f"{target}.yaml", verbose=False)
    before = weights_of(source)
    yolo.model.load(source)
    torch.testing.assert_close(output(yolo.model), output(source), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(t, before[name]) for name, t in source.state_dict().items())  # the source is as it was
    [(level, line)] = ours(log)
    assert level == "INFO" and "Transferred 691/691 items from pretrained weights (the given model)" in line
    assert all(change in line for change in changes) and ("converted exactly" in line) == bool(changes)


def test_load_of_a_bias(log):
    """Released v1.0 weights have one that a YAML-built model has not (ultralytics #21046)."""
    source, yolo = model_of("yolov12n", pe_bias=True), YOLO("yolov12n.yaml", verbose=False)
    yolo.model.load(source)
    torch.testing.assert_close(output(yolo.model), output(source), rtol=1e-4, atol=1e-4)
    assert "pe bias to running mean" in ours(log)[0][1]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("yolov12n", "yolov12n-turbo", ["7x7", "yolo train model=CHECKPOINT"]),
        ("yolov12n", "yolov12n-seg", ["7x7", "yolo train model=yolov12n-seg.yaml pretrained=yolov12n-seg.pt"]),
        ("yolov12l-turbo", "yolov12l", ["mlp.0.conv.weight (384, 256, 1, 1)", "(307, 256, 1, 1)"]),
    ],
)
def test_the_other_release_is_refused_where_it_is_not_exact(source, target, words):
    source, yolo = YOLO(f"{source}.yaml", verbose=False).model, YOLO(f"{target}.yaml", verbose=False)
    before = weights_of(yolo.model)
    with pytest.raises(ValueError, match="cannot be loaded into yolov12") as e:
        yolo.model.load(source)
    assert all(word in str(e.value) for word in words) and "\n" not in str(e.value)
    assert all(torch.equal(t, before[name]) for name, t in yolo.model.state_dict().items())


def test_other_classes_are_said(log):
    source = model_of("yolov12n")
    target = type(source)({**copy.deepcopy(source.yaml), "nc": 3}, verbose=False)
    target.load(source)
    [(level, line)] = ours(log)
    assert level == "INFO" and "Not taken over: model.21.cv3" in line


def test_a_lost_residual_is_a_warning_with_the_command(log):
    source, yolo = model_of("yolov12n-seg", residual=True), YOLO("yolov12n-seg.yaml", verbose=False)
    source.pt_path = "runs/best.pt"
    yolo.model.load(source)
    [(level, line)] = ours(log)
    assert level == "WARNING" and "model.6.gamma, model.8.gamma (2 tensors, without a place in the model)" in line
    assert line.endswith("yolo train model=runs/best.pt")


def test_a_residual_that_the_weights_have_not_is_said(log):
    """One line of YAML gives it to a model for fine-tuning."""
    source, target = model_of("yolov12n"), model_of("yolov12n", residual=0.01)
    target.load(source)
    [(level, line)] = ours(log)
    assert level == "WARNING" and "model.6.gamma, model.8.gamma (2 tensors, not in the checkpoint)" in line


def test_another_scale_is_said_in_one_line(log):
    yolo = YOLO("yolov12s.yaml", verbose=False)
    yolo.model.load(model_of("yolov12n"))
    [(level, line)] = ours(log)
    assert level == "WARNING" and "of another shape" in line and len(line) < 400


def test_nothing_fits():
    source, target = model_of("yolov12n"), YOLO("yolov12n.yaml", verbose=False).model
    for m in target.modules():
        if isinstance(m, nn.Conv2d):
            m.weight = nn.Parameter(m.weight.new_zeros(1, *m.weight.shape[1:]), m.weight.requires_grad)
            m.bias = None
        elif isinstance(m, nn.BatchNorm2d):
            m.weight = m.bias = None
    with pytest.raises(ValueError, match="no weight has the name"):
        transfer(source, target)


def test_a_fused_checkpoint_is_said(log):
    source = model_of("yolov12n").fuse(verbose=False)
    YOLO("yolov12n.yaml", verbose=False).model.load(source)
    assert "is fused" in ours(log)[0][1]


def test_models_without_area_attention_load_as_ever(log):
    source, target = (YOLO("yolo11n.yaml", verbose=False).model for _ in range(2))
    target.load(source)
    [(_, line)] = ours(log)
    assert line == "Transferred 499/499 items from pretrained weights"


def test_a_finished_training_s_checkpoint_loads_into_itself(log, tmp_path):
    """Ultralytics ends a training by freezing every parameter of its checkpoint."""
    from ultralytics.utils.torch_utils import strip_optimizer

    model = model_of("yolov12n")
    torch.save({"model": model, "ema": None, "epoch": 1, "train_args": {}}, tmp_path / "best.pt")
    strip_optimizer(tmp_path / "best.pt")
    yolo = YOLO(tmp_path / "best.pt")
    assert not any(p.requires_grad for p in yolo.model.parameters())
    yolo.load(tmp_path / "best.pt")
    assert "Transferred 691/691 items from pretrained weights (best.pt)" in ours(log)[-1][1]


def test_what_is_taken_over_in_part_is_said(log):
    source = model_of("yolov12n")
    target = type(source)(copy.deepcopy(source.yaml), ch=1, verbose=False)
    target.load(source)
    [(level, line)] = ours(log)
    assert level == "INFO" and "Transferred 690/691" in line
    assert line.endswith("In part: model.0.conv.weight (rows that fit)")


def test_the_backbone_goes_into_a_model_of_another_task(log):
    """Of the other release too, as long as the layers that both have fit."""
    source, yolo = model_of("yolov12n-cls"), YOLO("yolov12n.yaml", verbose=False)
    for layer, area in (6, 4), (8, 1):
        for m in source.model[layer].modules():
            if isinstance(m, AAttn):
                m.area = area
    yolo.model.load(source)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(yolo.model.eval().model[:9](x), source.model[:9](x), rtol=1e-4, atol=1e-4)
    [(level, line)] = ours(log)
    assert level == "INFO" and "qk and v to qkv" in line and "model.21 (" in line.replace(", model.21", " model.21")
