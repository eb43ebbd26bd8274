import re

import pytest
import ultralytics
from conftest import has_end2end
from ultralytics import YOLO
from ultralytics.nn.tasks import guess_model_task

import yolov12_plugin as y12
from yolov12_plugin.models import MODELS
from yolov12_plugin.names import CFG
from yolov12_plugin.nets import gflops

NEWEST = "8.4.190"  # the release whose summary lines the YAMLs show


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_counts(model):
    """Exact parameters as built, published parameters and FLOPs as fused, and the YAML's summary line."""
    if "e2e" in model.release and not has_end2end():
        pytest.skip("end2end of a YAML came with Ultralytics 8.4")
    net = YOLO(model.yaml, verbose=False).model
    assert sum(p.numel() for p in net.parameters()) == model.parameters
    assert guess_model_task(net) == model.task

    text = (CFG / "models" / re.sub(r"12[nsmlx]", "12", model.yaml)).read_text(encoding="utf-8")
    declared = re.search(rf"^  {model.scale}: .*# summary: (.*)$", text, re.M).group(1)
    layers, parameters, gradients, printed = net.info(verbose=True)
    shown = f"{layers} layers, {parameters:,} parameters, {gradients:,} gradients, {printed:.1f} GFLOPs"
    if ultralytics.__version__ == NEWEST:
        assert shown == declared
    else:  # releases count FLOPs differently
        assert shown.rsplit(",", 1)[0] == declared.rsplit(",", 1)[0]

    net.fuse(verbose=False)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == model.parameters_m
    assert round(gflops(net, model.imgsz), 1) == model.gflops


@pytest.mark.parametrize("release, mlp", [("v1.0", 1.2), ("turbo", 1.5), ("seg", 1.5), ("cls", 1.5)])
def test_structure_of_the_releases(release, mlp):
    """What design and authors' checkpoints say of each release; shared by its scales but for residual and MLP ratio."""
    for model in MODELS.values():
        if model.release != release or model.scale not in "nl":
            continue
        net = YOLO(model.yaml, verbose=False).model
        for attn in (m for m in net.modules() if isinstance(m, y12.AAttn)):
            assert hasattr(attn, "qkv") == (release == "v1.0") and hasattr(attn, "qk") == (release != "v1.0")
            assert attn.pe.conv.kernel_size == ((7, 7) if release == "v1.0" else (5, 5)) and attn.pe.conv.bias is None
            assert attn.head_dim == 32 and not attn.vertical
        first, second = ([a.area for a in net.model[i].modules() if isinstance(a, y12.AAttn)] for i in (6, 8))
        assert set(first) == {1 if release == "cls" else 4} and set(second) == {1}
        for i in 6, 8:
            block = net.model[i]
            assert (block.gamma is not None) == (model.scale == "l")
            if block.gamma is not None:
                assert block.gamma.detach().tolist() == pytest.approx([0.01] * block.gamma.numel())
            up, _ = block.m[0][0].mlp
            ratio = mlp if model.scale == "l" else 2.0
            assert up.conv.out_channels == int(up.conv.in_channels * ratio)
        groups = [net.model[i].conv.groups for i in (0, 1, 3, 5)]
        assert groups == ([1, 1, 1, 1] if release == "v1.0" else [1, 2, 4, 1])
