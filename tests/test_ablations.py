"""The options that the paper varies: counted, computed, exported and compiled; and the YAMLs that set them."""

import io
import re
import warnings

import numpy as np
import pytest
import torch
import ultralytics
import yaml
from conftest import SHARED, needs
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

import yolov12_plugin as y12
from yolov12_plugin.checkpoints.inspect import inspect
from yolov12_plugin.checkpoints.layouts import PLUGIN_ONLY, structure
from yolov12_plugin.models import MODELS
from yolov12_plugin.names import CFG, find
from yolov12_plugin.nets import attention_blocks, gflops
from yolov12_plugin.paper.ablations import ABLATIONS, ratios, rows
from yolov12_plugin.paper.networks import Countable, Measurement, counts, shipped

PAPER = SHARED / "paper.txt"
FOLDER = CFG / "models/ablations"
VARIANTS = {variant.model: variant for table in ABLATIONS.values() for variant in table.variants}
OPTIONS = {
    "none": {},
    "elan": dict(aggregation="elan"),
    "elan, residual": dict(aggregation="elan", residual=0.01),
    "residual": dict(residual=0.1),
    "no area": dict(area=1),
    "linear, ln": dict(projection="linear", norm="ln"),
    "linear, bn": dict(projection="linear"),
    "conv, ln": dict(norm="ln"),
    "conv, ln, qk and v": dict(norm="ln", qkv_fused=False),
    **{f"pe {k}": dict(pe_kernel=k) for k in (3, 5, 9)},
    "ape": dict(pos_embed="absolute"),
    "rpe": dict(pos_embed="relative"),
    "rpe, vertical": dict(pos_embed="relative", vertical=True),
    **{f"mlp {r}": dict(mlp_ratio=r) for r in (1.2, 4.0)},
}


def block(**options):
    """An A2C2f whose every tensor matters, as exported."""
    torch.manual_seed(0)
    made = y12.A2C2f(128, 128, 1, True, **{"area": 4, **options}).eval()
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "running_var" in name else torch.randn_like(tensor) * 0.2)
    for m in made.modules():
        if isinstance(m, y12.AAttn):
            m.fuse("onnx")
    return made


def graph(net, image, **options):
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (image,), file, opset_version=17, dynamo=False, input_names=["x"], **options)
    return file.getvalue()


@pytest.mark.export
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_export(options):
    """ONNX computes the block, also at sizes that it was not exported at and where areas cut through a row."""
    onnxruntime = pytest.importorskip("onnxruntime")
    net = block(**options)
    axes = {"dynamic_axes": {"x": {0: "batch", 2: "height", 3: "width"}}}
    sizes = [(1, 8, 6), (2, 8, 6), (1, 4, 12), (1, 2, 6)]
    session = onnxruntime.InferenceSession(graph(net, torch.rand(1, 128, 8, 6), **axes))
    for b, h, w in sizes:
        x = torch.rand(b, 128, h, w)
        with torch.no_grad():
            expected = net(x)
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.compile
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_compiles_for_a_t4(options):
    """TensorRT-RTX makes one kernel of every attention, whatever is varied."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")
    from yolov12_plugin.benchmark.aot import compile_onnx

    compiled = compile_onnx(graph(block(**options).half(), torch.rand(1, 128, 16, 16).half()), "sm75")
    assert compiled.fused_attentions == 2


@pytest.mark.compile
@pytest.mark.parametrize("name", ["plain", "no-stage1", "no-stage4", "rpe"])
def test_model_compiles_for_a_t4(name):
    """Whole models, where more than a block differs, and where compilers have to fold a position bias."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install tensorrt-rtx-cu13")
    from yolov12_plugin.benchmark.aot import compile_onnx, export_fp16

    net = YOLO(f"yolov12n-{name}.yaml", verbose=False).model
    attentions = sum(isinstance(m, y12.AAttn) for m in net.modules())
    assert attentions in (4, 8)
    assert compile_onnx(export_fp16(net, 160), "sm75").fused_attentions == attentions


@pytest.mark.parametrize("name", VARIANTS)
def test_counts(name):
    """Parameters and FLOPs, where the paper states them (Table 2), and those of YOLOv12 where it says they are kept."""
    flops, parameters = counts(name)
    variant = VARIANTS[name]
    if variant.gflops is not None:
        assert (round(flops, 1), round(parameters / 1e6, 1)) == (variant.gflops, variant.parameters_m)
    base_flops, base_parameters = counts(f"yolov12{variant.scale}")
    if re.search("plain|stage", name):
        assert flops == pytest.approx(base_flops, rel=0.01)
    if "-mlp" in name:
        assert (flops, parameters) == pytest.approx((base_flops, base_parameters), rel=0.02)
    if re.search("linear|-ln|area|ape", name):
        assert flops == base_flops


@pytest.mark.parametrize("name", ["yolov12n", "yolov12n-elan", "yolov12n-plain", "yolov12n-rpe", "yolov12n-linear-ln"])
def test_what_is_counted_is_what_is_built(name):
    net = YOLO(f"{name}.yaml", verbose=False).model.fuse(verbose=False)
    assert counts(name) == (gflops(net), sum(p.numel() for p in net.parameters()))
    assert all(p.is_meta for p in Countable(shipped(name)).parameters())


@pytest.mark.parametrize("name", [name for name in VARIANTS if name[7] == "n" or "-mlp" in name])
def test_model_trains(name):
    """Forward and backward through the loss: all that learns gets a gradient."""
    net = YOLO(f"{name}.yaml", verbose=False).model.train()
    net.args = ultralytics.cfg.get_cfg()
    boxes = {"cls": torch.tensor([[3.0]]), "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]), "batch_idx": torch.zeros(1)}
    loss, _ = net({"img": torch.rand(2, 3, 64, 64), **boxes})
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    without = [k for k, p in net.named_parameters() if p.requires_grad and ".dfl." not in k and p.grad is None]
    assert not without
    assert net.eval()(torch.rand(1, 3, 96, 64))[0].shape[:2] == (1, 84)


def test_every_yaml_is_in_a_table():
    used = {re.sub(r"^yolov12.", "yolov12", name) for name in VARIANTS}
    assert {file.stem for file in FOLDER.iterdir()} <= used
    assert all((FOLDER / f"{name}.yaml").is_file() or (CFG / f"models/{name}.yaml").is_file() for name in used)
    assert all(find(f"{name}.yaml") is None for name in VARIANTS)  # Ultralytics leaves the scale out before it asks
    assert all(find(f"{name}.yaml") for name in used)


@pytest.mark.parametrize("file", sorted(FOLDER.iterdir()), ids=lambda file: file.stem)
def test_yaml_is_the_model_and_a_section(file):
    """One line or two of options; Tables 5b and 5g change rows, or there would be nothing to compare at equal size."""
    base = yaml.safe_load((CFG / "models/yolov12.yaml").read_text())
    varied = yaml.safe_load(file.read_text())
    changed = {key for key in {*base, *varied} if base.get(key) != varied.get(key)}
    if re.search("plain|stage", file.stem):
        assert changed == {"backbone", "head"}
    elif "-mlp" in file.stem:
        assert changed == {"scales", "backbone"} and list(varied["scales"]) == ["l"]
        rows_of = [(a[:3], b[:3]) for a, b in zip(base["backbone"], varied["backbone"]) if a != b]
        assert len(rows_of) == 2 and all(a == b for a, b in rows_of)
    else:
        assert changed == {"a2c2f"} and 1 <= len(varied["a2c2f"]) <= 2
    assert len({i for i, row in enumerate(varied["backbone"] + varied["head"]) if row[2] == "A2C2f"}) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("scale", "smx")
@pytest.mark.parametrize("stem", ["elan-residual", "linear-ln", "plain", "no-stage1", "no-stage4", "rpe", "no-area"])
def test_other_scales_build(scale, stem):
    assert counts(f"yolov12{scale}-{stem}")[0] > counts(f"yolov12n-{stem}")[0]


@pytest.mark.parametrize("table", ABLATIONS.values(), ids=list(ABLATIONS))
def test_rows(table):
    found = rows(table.name)
    assert [row["variant"] for row in found] == [v.label for v in table.variants]
    assert len({v.slug for v in table.variants}) == len(table.variants)
    for row, variant in zip(found, table.variants):
        assert row["ratio"] is None and row["gflops"] == round(counts(variant.model)[0], 1)
        base = table.base(variant)
        assert base.model == f"yolov12{variant.scale}" and MODELS[base.model].gflops == round(counts(base.model)[0], 1)
        if variant.latency:
            assert row["ratio_paper"] == round(variant.latency / base.latency, 2)
        assert (" epochs=" in row["train"]) == (variant.epochs != 600)
        assert f"model={variant.model}.yaml" in row["train"] and f"cfg=yolov12{variant.scale}-coco.yaml" in row["train"]


def cells(table, after=""):
    text = PAPER.read_text(encoding="utf-8").split(f"\nTable {table}. ", 1)[1]
    return [line.split("\t") for line in text.split("\n\n")[1].splitlines() if "\t" in line]


@needs("paper.txt")
def test_table_2_is_the_papers():
    _, *printed = cells(2)
    scale = ""
    for cell, variant in zip(printed, ABLATIONS["table2"].variants, strict=True):
        first, vanilla, aggregated, residual, scaling, converges, flops, parameters, ap = cell
        scale = first[-1:].lower() or scale
        section = shipped(variant.model).get("a2c2f", {})
        default = {"n": False}.get(scale, 0.01)
        ours = section.get("residual", default)
        assert variant.scale == scale and (ours is not False) == (residual == "✓")
        assert residual != "✓" or float(scaling) == ours
        elan = section.get("aggregation") == "elan"
        # Rows with neither mark: the aggregation is told by the FLOPs.
        assert elan == (vanilla == "✓" or (aggregated == "✗" and scale != "n"))
        assert variant.converges == (converges == "✓")
        figures = [None if value == "–" else float(value) for value in (flops, parameters, ap)]
        assert figures == [variant.gflops, variant.parameters_m, variant.ap]


@needs("paper.txt")
def test_table_5_is_the_papers():
    """Every AP and latency of a subtable is printed, in its order, in the paper's Table 5."""
    text = PAPER.read_text(encoding="utf-8").split("\nTable 5. ", 1)[1].split("Figure 4.", 1)[0]
    lines = [[cell.strip() for cell in line.split("\t")] for line in text.splitlines() if "\t" in line]
    four, ape, ratio = lines[1:5], [x for x in lines if x[0] in ("RPE", "APE", "N/A")], lines[-3:]
    printed = {
        "table5a": [(row[1], row[2]) for row in four],
        "table5b": [(row[4], row[5]) for row in four],
        "table5c": [(row[7], None) for row in four] + [(row[8], None) for row in four],
        "table5d": [(row[10], row[11]) for row in four],
        "table5e": [(row[1], row[2]) for row in ape],
        "table5f": [(row[4], row[5]) for row in ape[:2]],
        "table5g": [(row[1], row[2]) for row in ratio],
    }
    for name, figures in printed.items():
        ours = [(v.ap, v.latency) for v in ABLATIONS[name].variants]
        assert ours == [tuple(None if value is None else float(value) for value in pair) for pair in figures], name
    flash = {v.label: v.latency for v in ABLATIONS["table5h"].variants}
    assert [float(x) for row in ratio[:2] for x in row[4:6]] == [
        flash[f"{scale}, {label}"] for label in ("no FlashAttention", "FlashAttention") for scale in "NS"
    ]


def test_measured_ratios():
    """Each variant over YOLOv12 of its scale, which is 1; networks that are the same have none."""
    found = ratios(ABLATIONS["table5h"], Measurement.of(64, rounds=2))
    assert [v.label for v in found] == [v.label for v in ABLATIONS["table5h"].variants]
    assert all(ratio == 1 for v, ratio in found.items() if v.backend == "auto") and all(r > 0 for r in found.values())
    assert not ratios(ABLATIONS["table5c"], Measurement.of(64, rounds=1))
    assert rows("5f", Measurement.of(64, rounds=1))[1]["ratio"] == 1


CHECKPOINTS = {
    "yolov12n-elan": dict(aggregation="elan"),
    "yolov12n-linear-ln": dict(projection="linear", norm="ln"),
    "yolov12n-conv-ln": dict(norm="ln"),
    "yolov12n-rpe": dict(pos_embed="relative"),
    "yolov12n-ape": dict(pos_embed="absolute"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoint(name, tmp_path):
    """Saved and read, also as data alone, an ablation keeps its structure, which is told; stock cannot have it."""
    model = YOLO(f"{name}.yaml", verbose=False)
    file = tmp_path / "best.pt"
    model.save(file)
    assert b"yolov12_plugin" not in file.read_bytes()
    again = YOLO(file)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(again.model.eval()(x)[0], model.model.eval()(x)[0], atol=1e-3, rtol=1e-4)
    rebuilt = DetectionModel(again.model.yaml, nc=3, verbose=False)
    for net in again.model, rebuilt:
        for found in map(structure, attention_blocks(net).values()):
            assert {key: found[key] for key in PLUGIN_ONLY} == PLUGIN_ONLY | CHECKPOINTS[name]
    if ultralytics.__version__ >= "8.4.1":
        from ultralytics.nn.tasks import torch_safe_load

        assert torch_safe_load(file, safe_only=True)[0]["model"] is not None
    if int(torch.__version__.split(".")[0]) > 2 or int(torch.__version__.split(".")[1]) >= 6:
        told = inspect(file)
        assert {key: told["layout"][key] for key in PLUGIN_ONLY} == PLUGIN_ONLY | CHECKPOINTS[name]
        assert told["stock"]["predicts"] is False and next(iter(CHECKPOINTS[name])) in " ".join(told["stock"]["why"])
        with pytest.raises(ValueError, match=f"has {next(iter(CHECKPOINTS[name]))} .*, which stock does not have"):
            y12.convert(file, tmp_path / "stock.pt", to="stock")
        assert y12.convert(file, tmp_path / "plugin.pt", to="plugin")["difference"] == 0


def test_yaml_of_a_checkpoint_that_does_not_say_it(tmp_path):
    """As with the authors' checkpoints, the tensors decide."""
    model = YOLO("yolov12n-elan.yaml", verbose=False)
    del model.model.yaml["a2c2f"]
    model.save(tmp_path / "best.pt")
    assert YOLO(tmp_path / "best.pt").model.yaml["a2c2f"]["aggregation"] == "elan"


def test_weights_of_another_implementation(caplog):
    """What has no place is said; the rest is taken over."""
    source, target = (YOLO(f"{name}.yaml", verbose=False).model for name in ("yolov12n", "yolov12n-linear-ln"))
    with caplog.at_level("INFO", logger="ultralytics"):
        target.load(source)
    assert torch.equal(target.state_dict()["model.6.cv1.conv.weight"], source.state_dict()["model.6.cv1.conv.weight"])
    assert "Not taken over" in caplog.text and "model.6" in caplog.text
    assert not torch.equal(
        target.model[8].m[0][0].attn.pe.conv.weight, source.model[8].m[0][0].attn.pe.conv.weight
    ) or ("pe.conv" not in caplog.text)
