"""Quantisation-aware training by Ultralytics (`quantize=8`): as on stock, and its exports have the plugin's form."""

from copy import deepcopy

import pytest
import torch
from conftest import yolov12
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import torch_utils

import yolov12_plugin as y12
from yolov12_plugin.checkpoints.inspect import inspect
from yolov12_plugin.deploy.verify import enliven, read_images
from yolov12_plugin.errors import CheckpointError
from yolov12_plugin.nn.modules import fuse_blocks

pytest.importorskip("modelopt.torch", reason="ModelOpt is not installed: pip install nvidia-modelopt")
if not hasattr(torch_utils, "prepare_qat"):
    pytest.skip("this Ultralytics has no quantisation-aware training", allow_module_level=True)

RELEASES = ["yolov12n", "yolov12n-turbo", "yolov12n-residual", "yolov12n-seg"]


def quantised(name, imgsz=64):
    """A model as it is in a quantisation-aware training, and images."""
    torch.manual_seed(0)
    model, images = YOLO(f"{name}.yaml", verbose=False), read_images((imgsz, imgsz))
    enliven(model.model, images)
    torch_utils.prepare_qat(model.model, [images], lambda batch: batch, 1).eval()
    return model, images


def attentions(net):
    return [m for m in net.modules() if isinstance(m, y12.AAttn)]


def boxes_and_scores(net, images):
    with torch.no_grad():
        out = net(images)[0]
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", RELEASES)
def test_fused_copy_computes_the_quantised_model(name):
    model, images = quantised(name)
    fused = deepcopy(model.model).fuse(verbose=False).eval()
    packed = deepcopy(fused)
    fuse_blocks(packed, "engine")
    for was, now in zip(attentions(fused), attentions(packed)):
        assert type(now.packed).__name__ == "QuantConv2d" and not {"qkv", "qk", "v"} & set(now._modules)
        x = torch.randn(2, now.packed.in_channels, 8, 8)
        q, k, v = now.packed(x).unflatten(1, (3, now.num_heads, now.head_dim)).unbind(1)
        projected = was._project(x)
        if hasattr(was, "qkv"):
            expected = projected[0].unflatten(1, (now.num_heads, 3, now.head_dim)).unbind(2)
        else:
            qk = projected[0].unflatten(1, (2, now.num_heads, now.head_dim))
            expected = *qk.unbind(1), projected[1].unflatten(1, (now.num_heads, now.head_dim))
        scales = now.head_dim**-0.5, 1, 1
        for is_now, should, scale in zip((q, k, v), expected, scales):
            torch.testing.assert_close(is_now, should * scale, rtol=1e-5, atol=1e-5)
    expected = boxes_and_scores(fused, images)
    off = (boxes_and_scores(packed, images) - expected).abs().mean()
    assert off < 0.01 * expected.std()  # a rounding may tip a code here and there


def test_block_that_is_not_fused_yet():
    model, _ = quantised("yolov12n-turbo")
    was = attentions(model.model)[0]
    with torch.no_grad():
        was.qk.bn.running_var.uniform_(0.5, 2)
        was.qk.bn.weight.uniform_(-2, 2)
    now, x = deepcopy(was), torch.randn(2, was.qk.conv.in_channels, 8, 8)
    now.fuse("onnx")
    with torch.no_grad():
        expected = torch.cat(was._project(x), 1)
        expected[:, : was.all_head_dim] *= was.head_dim**-0.5
        torch.testing.assert_close(now.packed(x), expected, rtol=1e-3, atol=1e-3)


def test_projections_with_different_ranges_are_left_alone():
    model, _ = quantised("yolov12n-turbo")
    attn = attentions(model.model)[0]
    attn.v.conv.input_quantizer.amax *= 1.5
    attn.fuse("engine")
    assert hasattr(attn, "qk") and not hasattr(attn, "packed")


@pytest.mark.parametrize("part", ["input_quantizer", "weight_quantizer", "output_quantizer"])
def test_other_quantisations_are_left_alone(part):
    model, _ = quantised("yolov12n")
    attn = attentions(model.model)[0]
    quantizer = getattr(attn.qkv.conv, part)
    (quantizer.enable if part == "output_quantizer" else quantizer.disable)()
    attn.fuse("engine")
    assert hasattr(attn, "qkv") and not hasattr(attn, "packed")


def test_gradients_with_checkpointing():
    model, images = quantised("yolov12n")
    net = model.model.train()

    def gradients():
        net.zero_grad()
        sum(out.square().mean() for out in net.model[:10](images) if out.is_floating_point()).backward()
        return [p.grad.clone() for p in net.parameters() if p.grad is not None]

    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = 0
    expected = gradients()
    with y12.checkpointing():
        again = gradients()
    assert len(expected) == len(again) > 100 and all(map(torch.equal, expected, again))


def test_saved_and_loaded(tmp_path):
    model, images = quantised("yolov12n")
    model.save(tmp_path / "qat.pt")
    again = YOLO(tmp_path / "qat.pt")
    assert torch_utils.is_qat(again.model) and inspect(tmp_path / "qat.pt")["quantised"]
    for key, value in model.model.state_dict().items():  # weights are saved in half precision, ranges are not
        if value.is_floating_point() and "quantizer" not in key:
            value.copy_(value.half())
    torch.testing.assert_close(boxes_and_scores(again.model, images), boxes_and_scores(model.model, images))
    assert "quantised" in yolov12("doctor", tmp_path / "qat.pt").output
    y12.convert(tmp_path / "qat.pt", tmp_path / "stock.pt", to="stock")
    assert torch_utils.is_qat(YOLO(tmp_path / "stock.pt").model)


def test_ranges_have_no_form_in_another_layout(tmp_path):
    model, _ = quantised("yolov12n-turbo")
    model.save(tmp_path / "qat.pt")
    with pytest.raises(CheckpointError, match="trained with quantize=8"):
        y12.convert(tmp_path / "qat.pt", tmp_path / "stock.pt", to="stock")
    y12.convert(tmp_path / "qat.pt", tmp_path / "plugin.pt", to="plugin")
    assert torch_utils.is_qat(YOLO(tmp_path / "plugin.pt").model)


@pytest.mark.export
@pytest.mark.parametrize("name", RELEASES)
def test_export_computes_the_model(name, tmp_path):
    pytest.importorskip("onnxruntime")
    model, _ = quantised(name)
    model.save(tmp_path / "qat.pt")
    model = YOLO(tmp_path / "qat.pt")
    file = model.export(format="onnx", imgsz=64, device="cpu", verbose=False)
    done = y12.verify_export(model, file)
    assert done and done.precision == "int8" and done.matched == done.detections, done


@pytest.mark.train
@pytest.mark.parametrize("name", ["yolov12n", "yolov12n-turbo"])
def test_training_that_is_interrupted_resumes(name, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("YOLO12_GUARD", "1")
    how = {"data": "shapes.yaml", "imgsz": 32, "epochs": 2, "batch": 8, "fraction": 0.1, "workers": 0, "device": "cpu"}
    how |= {"optimizer": "SGD", "lr0": 1e-4, "warmup_epochs": 0, "plots": False, "verbose": False, "amp": False}
    model = YOLO(f"{name}.yaml", verbose=False)
    # Of as many classes: Ultralytics cannot resume where it took the branch of another number of them
    model.model = DetectionModel(f"{name}.yaml", nc=4, verbose=False)
    enliven(model.model, read_images((64, 64)))
    model.save(tmp_path / "float.pt")

    def stop(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    first = YOLO(tmp_path / "float.pt")
    first.add_callback("on_train_epoch_start", stop)
    with pytest.raises(KeyboardInterrupt):
        first.train(**how, quantize=8, project=str(tmp_path), name="run")
    last = tmp_path / "run/weights/last.pt"
    before = torch.load(last, weights_only=False)
    caplog.clear()
    YOLO(last).train(resume=True)
    assert "Not taken over" not in caplog.text
    after = torch.load(last, weights_only=False)
    ranges = [ckpt["modelopt"]["ranges"] for ckpt in (before, after)]
    assert before["epoch"] == 0 and ranges[0] and all(torch.equal(v, ranges[1][k]) for k, v in ranges[0].items())
    assert len((tmp_path / "run/results.csv").read_text().splitlines()) == 3
    trained = YOLO(tmp_path / "run/weights/best.pt")
    assert torch_utils.is_qat(trained.model) and trained.val(imgsz=32, plots=False, verbose=False, workers=0).box
