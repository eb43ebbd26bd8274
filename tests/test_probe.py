"""A layer of a model, where an image lies on what the model is given, and the maps."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import ultralytics
from conftest import SHARED, needs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from ultralytics.nn.modules.block import Attention
from ultralytics.nn.modules.head import Classify, Detect, RTDETRDecoder

from yolov12_plugin.errors import NotRunnable, PluginError
from yolov12_plugin.explain.probe import (
    Probe,
    activation,
    areas,
    attention_map,
    attentions,
    detected,
    eigencam,
    find_probe,
    gradcam,
    prepare,
    run,
)
from yolov12_plugin.nn.modules import AAttn

CPU = torch.device("cpu")
OLD = ultralytics.__version__ < "8.4"


def probe_of(model, layer=None, imgsz=64):
    return find_probe(str(model), str(model), layer, imgsz, CPU)


@pytest.mark.parametrize(
    "model, layer, kind",
    [
        ("yolov12n", 6, "A2C2f"),
        ("yolov12n-turbo", 6, "A2C2f"),
        ("yolov12n-seg", 6, "A2C2f"),
        ("yolov12n-cls", 6, "A2C2f"),
        ("yolo12n.yaml", 6, "A2C2f"),
        ("yolo11n", 6, "C3k2"),
        ("yolov10n", 6, "C2f"),
        ("yolov8n", 6, "C2f"),
        ("yolov3-tiny", 8, "Conv"),
        pytest.param("rtdetr-l", 7, "HGBlock", marks=pytest.mark.slow),
    ],
)
def test_third_stage(model, layer, kind):
    probe = probe_of(model)
    assert (probe.layer, type(probe.module).__name__, probe.stride) == (layer, kind, 16)
    assert not probe.trained


def network(folder, strides, **settings):
    """A YAML of a classifier whose backbone has convolutions of some strides."""
    rows = "\n".join(f"  - [-1, 1, Conv, [16, 3, {stride}]]" for stride in strides)
    text = "\n".join(f"{key}: {value}" for key, value in {"nc": 3, **settings}.items())
    file = folder / "net-cls.yaml"
    file.write_text(f"{text}\nbackbone:\n{rows}\nhead:\n  - [-1, 1, Classify, [nc]]\n")
    return file


@pytest.mark.parametrize(
    "strides, layer",
    [([2, 2, 2, 2, 1, 1, 2, 1], 5), ([2, 1, 2, 1, 2, 1, 2], 6), ([4, 4], 1), ([1, 16, 2], 1)],
)
def test_third_stage_of_other_networks(tmp_path, strides, layer):
    assert probe_of(network(tmp_path, strides)).layer == layer


def test_no_third_stage(tmp_path):
    says = r"the backbone of .* has no stage of stride 16: layer=0 \(Conv\), 1 \(Conv\), 2 \(Conv\)$"
    with pytest.raises(NotRunnable, match=says):
        probe_of(network(tmp_path, [2, 2, 2]))


@pytest.mark.parametrize("layer, found", [(0, 0), (8, 8), (-2, 8), (-10, 0)])
def test_layer(layer, found):
    assert probe_of("yolov12n-cls", layer).layer == found


@pytest.mark.parametrize(
    "layer, says",
    [
        (10, r"yolov12n-cls has no layer 10: layer=8 \(A2C2f\), 7 \(Conv\), 6 \(A2C2f\), .*, 0 \(Conv\)$"),
        (-11, r"yolov12n-cls has no layer -11: layer=0 \(Conv\), 1 \(Conv\), 2 \(C3k2\), .*, 8 \(A2C2f\)$"),
        (9, r"layer 9 of yolov12n-cls \(Classify\) gives no map: layer=8 \(A2C2f\), "),
        (-1, r"layer -1 of yolov12n-cls \(Classify\) gives no map: layer=8 \(A2C2f\), "),
    ],
)
def test_layer_that_is_none(layer, says):
    with pytest.raises(NotRunnable, match=says):
        probe_of("yolov12n-cls", layer)


@pytest.mark.parametrize(
    "model, says",
    [
        ("best.onnx", "best.onnx shows no layers: name a .pt or .yaml, or a model as yolov12n$"),
        ("folder", "folder shows no layers"),
        ("none.pt", "none.pt cannot be loaded: "),
        ("torn.pt", "torn.pt is no checkpoint of PyTorch"),
        ("yolov99n", "yolov99n cannot be loaded: .*yolov99"),
        ("data.yaml", "data.yaml cannot be loaded: "),
    ],
)
def test_what_is_no_model(tmp_path, monkeypatch, model, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn.pt").write_bytes(b"torn")
    (tmp_path / "data.yaml").write_text("path: .\nnames: [a]\n")
    with pytest.raises(PluginError, match=says) as error:
        probe_of(model)
    assert "\n" not in str(error.value)


def test_five_channels(tmp_path):
    with pytest.raises(NotRunnable, match="takes images of 5 channels"):
        probe_of(network(tmp_path, [2, 2, 2, 2], channels=5))


@pytest.mark.parametrize(
    "model, asked, pixels", [("yolov12n", 100, 128), ("yolov12n", None, 640), ("yolov12n-cls", None, 224)]
)
def test_pixels(model, asked, pixels):
    assert probe_of(model, imgsz=asked).imgsz == pixels


@needs("golden")
def test_a_checkpoint_is_seen_as_it_was_trained():
    probe = probe_of(SHARED / "golden" / "v1.0-n.pt", imgsz=None)
    assert probe.imgsz == 160 and probe.trained
    assert not any(p.requires_grad for p in probe.net.parameters()) and not probe.net.training


def test_the_same_weights_every_time():
    a, b = (next(probe_of("yolov12n-cls").net.parameters()) for _ in range(2))
    assert torch.equal(a, b) and a.std() > 0


def stub(head=Detect, channels=3, stride=32):
    """As much of a network as tells how it is given an image."""
    return SimpleNamespace(
        model=[head.__new__(head)], stride=torch.tensor([8, 16, stride]), yaml={"channels": channels}
    )


sides = st.integers(3, 150)  # thinner ones than 1 : 2 imgsz fail on Ultralytics 8.3


@settings(max_examples=60, deadline=None)
@given(h=sides, w=sides, imgsz=st.sampled_from([64, 96, 160]), channels=st.sampled_from([1, 3]))
def test_letterbox(h, w, imgsz, channels):
    """White images on Ultralytics' grey: the placement is just what is white, and a crop has no grey."""
    x, placement = prepare(stub(channels=channels), np.full((h, w, 3), 255, np.uint8), imgsz)
    assert x.shape[1] == channels and x.shape[2:] == placement.canvas
    assert max(placement.canvas) == imgsz and all(side % 32 == 0 for side in placement.canvas)
    white = (x[0] == 1).all(0).numpy()
    expected = np.zeros(placement.canvas, bool)
    rows, columns = (
        slice(placement.top, placement.top + placement.height),
        slice(placement.left, placement.left + placement.width),
    )
    expected[rows, columns] = True
    assert (white == expected).all()
    cropped, extent = placement.crop(x[0, 0].numpy())
    assert cropped.shape == (placement.height, placement.width) and (cropped == 1).all()
    assert extent == pytest.approx((0, w, h, 0))


@settings(max_examples=60, deadline=None)
@given(h=sides, w=sides, rows=st.integers(1, 12), columns=st.integers(1, 12), imgsz=st.sampled_from([64, 96]))
def test_crop_of_cells(h, w, rows, columns, imgsz):
    """Every cell that the image touches and no other; the extent is theirs, so it covers the image."""
    _, placement = prepare(stub(), np.zeros((h, w, 3), np.uint8), imgsz)
    numbers = np.arange(rows * columns).reshape(rows, columns)
    cropped, (left, right, bottom, top) = placement.crop(numbers)
    assert left <= 1e-6 and top <= 1e-6 and right >= w - 1e-6 and bottom >= h - 1e-6
    dx, dy = (right - left) / cropped.shape[1], (bottom - top) / cropped.shape[0]
    assert left + dx > 0 and top + dy > 0 and right - dx < w and bottom - dy < h
    for x, y in (0, 0), (w / 2, h / 3), (w * 0.99, h * 0.99):
        cell = placement.cell(x, y, (rows, columns))
        ((row, column),) = np.argwhere(cropped == numbers[cell])
        assert left + column * dx - 1e-6 <= x <= left + (column + 1) * dx + 1e-6
        assert top + row * dy - 1e-6 <= y <= top + (row + 1) * dy + 1e-6


@settings(max_examples=40, deadline=None)
@given(
    head=st.sampled_from([Detect, RTDETRDecoder, Classify]),
    h=st.integers(40, 160),
    w=st.integers(40, 160),
    data=st.data(),
)
def test_what_is_bright_is_where_the_placement_says(head, h, w, data):
    x0, y0 = data.draw(st.integers(0, w - 8)), data.draw(st.integers(0, h - 8))
    image = np.zeros((h, w, 3), np.uint8)
    image[y0 : y0 + 8, x0 : x0 + 8] = 255
    canvas, placement = prepare(stub(head), image, 64)
    assert canvas.shape[2:] == placement.canvas
    if head is Detect:  # its padding is grey
        canvas = canvas.clone()
        canvas[canvas == 114 / 255] = 0
    bright = canvas[0].mean(0)
    at = np.array([y0 + 4, x0 + 4]) * [placement.height / h, placement.width / w] + [placement.top, placement.left]
    radius = 4 * max(placement.height / h, placement.width / w) + 1
    if not all(radius <= value <= side - radius for value, side in zip(at, placement.canvas)):
        return  # cut by a classifier's crop, or at the border
    rows, columns = np.indices(placement.canvas) + 0.5
    weight = bright.numpy() / bright.sum().item()
    assert (weight * rows).sum() == pytest.approx(at[0], abs=0.6)
    assert (weight * columns).sum() == pytest.approx(at[1], abs=0.6)


def test_a_classifier_does_not_see_the_ends():
    _, placement = prepare(stub(Classify), np.zeros((100, 200, 3), np.uint8), 64)
    assert placement.cell(10, 50, (4, 4)) is None and placement.cell(190, 50, (4, 4)) is None
    assert placement.cell(100, 50, (4, 4)) == (2, 2) and placement.cell(50, 0, (4, 4)) == (0, 0)


def test_predicted_as_ultralytics_does(tmp_path):
    """What the network is given is what `predict` gives it."""
    from ultralytics import YOLO

    image = np.random.default_rng(0).integers(0, 255, (70, 110, 3), np.uint8)
    for model in ["yolov12n.yaml"] if OLD else ["yolov12n.yaml", "yolov12n-cls.yaml"]:
        yolo = YOLO(model)
        yolo.predict(image, imgsz=96, verbose=False, device="cpu")
        assert (yolo.predictor.preprocess([image]) - prepare(yolo.model, image, 96)[0]).abs().max() < 1e-6


class Dense(Detect):
    """The mean over the channels as the logit of each cell."""

    def __init__(self):
        nn.Module.__init__(self)
        self.nc = 2

    def forward(self, x):
        logits = x.mean(1).flatten(1)[:, None]  # (B, C, H, W) -> (B, 1, N)
        boxes = torch.zeros_like(logits).expand(-1, 4, -1)
        return torch.cat([boxes, logits.sigmoid(), (-logits).sigmoid()], 1), {}


class Pooled(nn.Module):
    def forward(self, x):
        logits = x.mean((2, 3))
        return logits.softmax(1), logits


Pooled.__name__ = "Classify"


def patches(head):
    """A network that means patches of 16 x 16 pixels, and an image with one that is bright, in row 2 and column 5."""
    net = nn.Module()
    net.model = nn.Sequential(nn.Conv2d(3, 2, 16, 16, bias=False), head())
    net.forward = net.model.forward
    net.names = {0: "bright", 1: "dark"}
    for weight, value in zip(net.model[0].weight.data, (0.01, 0.02)):
        weight.fill_(value)
    x = torch.zeros(1, 3, 64, 128)
    x[:, :, 32:48, 80:96] = 1
    return Probe("patches", net.eval().requires_grad_(False), 0, 16, 128, True), x


@pytest.mark.parametrize("method", [activation, eigencam])
def test_hot_where_the_image_is_bright(method):
    values = method(*patches(Dense))
    assert values.shape == (4, 8)
    hot = values > values.max() / 2
    assert np.argwhere(hot).tolist() == [[2, 5]]


def test_activation_is_the_mean_of_magnitudes():
    probe, x = patches(Dense)
    probe.net.model[0].weight.data[0].mul_(-3)  # -0.03 beside 0.02
    assert activation(probe, x)[2, 5] == pytest.approx(16 * 16 * 3 * 0.025, rel=1e-4)


@pytest.mark.parametrize("head", [Dense, Pooled])
def test_gradcam_is_hot_where_what_is_detected_is(head):
    pytest.importorskip("pytorch_grad_cam")
    probe, x = patches(head)
    values = gradcam(probe, x.clone())
    assert values.shape == (64, 128)
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert 32 <= row < 48 and 80 <= column < 96 and values.max() > 0.9
    assert values[:16].max() < 0.1 and values[:, :60].max() < 0.1
    assert x.grad is None and not any(m._forward_hooks for m in probe.net.modules())


def test_gradcam_of_a_class():
    pytest.importorskip("pytorch_grad_cam")
    probe, x = patches(Dense)
    # The brighter, the less is it dark: nothing there speaks for it.
    assert gradcam(probe, x.clone(), ["dark"]).max() == 0 < gradcam(probe, x.clone(), ["0"]).max()
    with pytest.raises(NotRunnable, match="the model has no class 'drak': did you mean dark"):
        gradcam(probe, x, ["drak"])


def test_eigencam_is_that_of_grad_cam():
    svd = pytest.importorskip("pytorch_grad_cam.utils.svd_on_activations")
    probe = probe_of("yolov12n", 4)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ((_, out),) = run("", probe.net, [probe.module], x)
    theirs, ours = svd.get_2d_projection(out.numpy())[0], eigencam(probe, x)
    assert ours.max() == abs(ours).max() > 0  # its greatest magnitude is hot
    assert min(abs(theirs - ours).max(), abs(theirs + ours).max()) < 1e-4 * ours.max()


@pytest.mark.parametrize(
    "model",
    [
        *("yolov12n", "yolov12n-seg", "yolov12n-pose", "yolov12n-obb", "yolov12n-cls", "yolov10n"),
        pytest.param("rtdetr-l", marks=pytest.mark.slow),
    ],
)
def test_gradients_flow(model):
    """From the scores of every head, also where its convolutions and attention are fused."""
    pytest.importorskip("pytorch_grad_cam")
    if model == "yolov12n-pose" and OLD:
        pytest.skip("Ultralytics 8.3 decodes keypoints in place")
    probe = probe_of(model, imgsz=160)
    x = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    values = gradcam(probe, x.clone())
    assert values.shape == (160, 160) and values.max() > 0.99 and values.min() < 0.1
    if model == "yolov12n":
        probe.net.fuse(verbose=False)
        assert gradcam(probe, x.clone()) == pytest.approx(values, abs=0.02)


def test_without_grad_cam(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(NotRunnable, match="pytorch_grad_cam is not installed: pip install grad-cam"):
        gradcam(*patches(Dense))


def test_heads_without_scores():
    has = {model: probe_of(model).has_scores for model in ("yolov12n", "yolov12n-cls")}
    assert has == {"yolov12n": True, "yolov12n-cls": True}
    probe, _ = patches(nn.Identity)
    assert not probe.has_scores


@pytest.mark.parametrize("scores, total", [([[3.0, -3], [-2, 2], [-9, -5]], 5.0), ([[-5.0, -4], [-3, -6]], -7.0)])
def test_what_is_detected(scores, total):
    """The best scores of what has a confidence of 0.25 at least; of all where nothing has."""
    assert detected(torch.tensor(scores)) == total


def test_what_is_detected_of_a_class():
    assert detected(torch.tensor([[3.0, -3], [-2, 2]]), [1]) == 2


def test_what_is_not_finite():
    probe, x = patches(Dense)
    probe.net.model[0].weight.data[0, 0, 0, 0] = torch.nan
    for method in activation, eigencam:
        with pytest.raises(NotRunnable, match="layer 0 Conv2d of patches computes values that are not finite"):
            method(probe, x)


def test_a_network_that_fails():
    probe, _ = patches(Dense)
    with pytest.raises(NotRunnable, match=r"^patches does not run: RuntimeError: "):
        activation(probe, torch.zeros(1, 5, 64, 64))
    assert not any(m._forward_hooks for m in probe.net.modules())


grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=40, deadline=None)
@given(grid=grids, area=st.integers(1, 7), vertical=st.booleans(), data=st.data())
def test_area_attention(grid, area, vertical, data):
    """Weights sum to 1 over the area of the query and are 0 outside; areas are `tensor_split` of the tokens."""
    h, w = grid
    torch.manual_seed(0)
    attention = AAttn(32, 2, area, vertical=vertical).eval()
    row, column = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    numbers = areas(attention, grid)
    tokens = numbers.T.ravel() if vertical else numbers.ravel()
    parts = torch.arange(h * w).tensor_split(min(area, h * w))
    assert [np.flatnonzero(tokens == i).tolist() for i in range(len(parts))] == [part.tolist() for part in parts]
    with torch.no_grad():
        weights = attention_map(attention, torch.randn(1, 32, h, w), row, column)
    assert weights.shape == (1, 2, h, w)
    inside = torch.from_numpy(numbers == numbers[row, column])
    assert (weights[:, :, ~inside] == 0).all() and (weights[:, :, inside] > 0).all()
    assert weights.sum((2, 3)) == pytest.approx(torch.ones(1, 2), abs=1e-5)


def test_ultralytics_attention_is_what_its_forward_computes():
    torch.manual_seed(0)
    attention, x = Attention(64, num_heads=2).eval(), torch.randn(2, 64, 3, 5)
    seen = {}
    attention.pe.register_forward_hook(lambda m, args, out: seen.update(v=args[0], pe=out))
    attention.proj.register_forward_pre_hook(lambda m, args: seen.update(out=args[0]))
    with torch.no_grad():
        attention(x)
        for row, column in (0, 0), (1, 3), (2, 4):
            weights = attention_map(attention, x, row, column)  # (B, heads, H, W)
            v = seen["v"].unflatten(1, (2, 32))  # (B, heads, head_dim, H, W)
            mixed = (weights[:, :, None] * v).sum((3, 4)).flatten(1)
            assert mixed == pytest.approx((seen["out"] - seen["pe"])[..., row, column], abs=1e-5)
    assert (areas(attention, (3, 5)) == 0).all()


def test_attentions_of_a_layer():
    assert [type(m) for m in attentions(probe_of("yolov12n").module)] == [AAttn] * 4
    net = probe_of("yolo11n").net
    assert {i: len(attentions(m)) for i, m in enumerate(net.model) if attentions(m)} == {10: 1}


def test_the_grey_of_a_grey_network():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    x, _ = prepare(stub(channels=1), image, 64)
    assert (x[0, 0] * 255).round().numpy().astype(np.uint8).tolist() == cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).tolist()


def test_the_caller_s_random_numbers_go_on():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    probe_of("yolov12n")
    assert torch.equal(torch.rand(3), expected)
