"""What users do with a whole network and with Ultralytics' API, without training it."""

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from ultralytics import YOLO
from ultralytics.nn import tasks

from conformance.capabilities import group
from conformance.support import (
    YAML,
    a2c2f,
    attention,
    dataset,
    differ,
    equal,
    gradients,
    images,
    in_threads,
    maps,
    network,
    total,
    twin,
)

capability = group("Networks and Ultralytics' API")

OPTIONS = dict(imgsz=64, conf=0.0001, verbose=False, device="cpu", max_det=20)


def yolo() -> YOLO:
    """A model of the API with the lively weights, as if it were loaded."""
    model = YOLO(YAML.format("n"))
    model.model.load_state_dict(network().state_dict())
    return model


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def boxes(results) -> list[torch.Tensor]:
    return [r.boxes.data for r in results]


@capability(tolerance=1e-3)
def predict():
    """`predict` of an array, a list and a file; boxes are stock's"""
    import cv2

    cv2.imwrite("picture.png", picture())
    model = yolo()
    found = boxes(model.predict(picture(), **OPTIONS))
    found += boxes(model.predict([picture(1), picture(2)], **OPTIONS))
    found += boxes(model("picture.png", **OPTIONS))
    equal(found[3], found[0])
    assert all(len(b) for b in found)
    return found


@capability
def predict_twice():
    """The second prediction of an image is the first; a stream, another size and rect in between"""
    model = yolo()
    first = boxes(model.predict(picture(), **OPTIONS))
    list(model.predict([picture(1)] * 3, stream=True, **OPTIONS))
    model.predict(picture(), **(OPTIONS | {"imgsz": (64, 96)}))
    equal(boxes(model.predict(picture(), **OPTIONS)), first)


@capability(tolerance=1e-3)
def augmented():
    """`predict(augment=True)`"""
    return boxes(yolo().predict(picture(), augment=True, **OPTIONS))


@capability(tolerance=1e-3)
def embedded():
    """`embed`, of the last layer and of attention's"""
    model = yolo()
    found = [
        model.embed(picture(), imgsz=64, verbose=False)[0],
        model.embed(picture(), embed=[6, 8], imgsz=64, verbose=False)[0],
    ]
    assert found[1].shape == (128 + 256,)
    return found


@capability(tolerance=0.02)
def visualised():
    """`predict(visualize=True)`: maps of what the predictions rest on, by gradients (Ultralytics 8.4)"""
    import cv2

    yolo().predict(picture(), visualize=True, project=str(Path("seen").resolve()), name="p", **OPTIONS)
    (file,) = Path("seen").rglob("*_cam.jpg")
    return float(cv2.imread(str(file)).mean())


@capability(tolerance=1e-3)
def half_asked_for():
    """`predict(half=True)` on a CPU"""
    return boxes(yolo().predict(picture(), half=True, **OPTIONS))


@capability(tolerance=0.05)
def half_precision():
    """`model.half()` and bfloat16 of the network on a CPU, and deepcopies of them"""
    net = network().eval()
    found = []
    for dtype in torch.half, torch.bfloat16:
        other = copy.deepcopy(twin(net).to(dtype))
        out = other(images().to(dtype))[0]
        assert out.dtype is dtype and out.isfinite().all()
        found.append(other.float()(images())[0])
    equal(found, [net(images())[0]] * 2, 0.1)
    return found


@capability
def saved_whole():
    """torch.save of the whole model, torch.load, outputs; the pickle names Ultralytics' classes alone"""
    import pickletools

    net = network().eval()
    before = net(images())[0]
    torch.save(net, "net.pt")
    equal(torch.load("net.pt", weights_only=False)(images())[0], before)
    file = io.BytesIO()
    pickle.dump(net, file, protocol=2)  # classes by name in one opcode
    named = {arg for op, arg, _ in pickletools.genops(file.getvalue()) if op.name == "GLOBAL"}
    assert not [name for name in named if "yolov12" in name]
    return sorted(named)


@capability
def saved_by_ultralytics():
    """`YOLO.save`, then `YOLO(file)`: names, parameters and outputs"""
    model = yolo()
    model.save("saved.pt")
    other = YOLO("saved.pt")
    # What is saved by default is in half precision.
    equal(other.model.eval()(images())[0], model.model.eval()(images())[0], 0.02)
    return [sum(p.numel() for p in other.model.parameters()), list(other.names.items())[:3]]


@capability
def weights_only():
    """Weights alone: state dict saved, read with weights_only=True, loaded strictly"""
    net = network()
    torch.save(net.state_dict(), "weights.pt")
    other = tasks.DetectionModel(YAML.format("n"), verbose=False)
    assert str(other.load_state_dict(torch.load("weights.pt", weights_only=True))) == "<All keys matched successfully>"
    equal(other.eval()(images())[0], net.eval()(images())[0])


@capability
def state_dict_travels():
    """Names, shapes, types and sums of the state dict: it fits the other side"""
    return [[name, list(t.shape), str(t.dtype), t.double().sum()] for name, t in network().state_dict().items()]


@capability
def transferred():
    """`load` into a network of other classes takes what fits"""
    net = tasks.DetectionModel(YAML.format("n"), nc=3, verbose=False)
    net.load(network(), verbose=False)
    equal(list(attention(net).state_dict().values()), list(attention(network()).state_dict().values()))
    return net.eval()(images())[0].shape


@capability
def other_inputs():
    """Networks of one and four channels, of three classes"""
    found = []
    for channels, nc in (1, 80), (4, 3):
        net = tasks.DetectionModel(YAML.format("n"), ch=channels, nc=nc, verbose=False).eval()
        found.append(net(torch.rand(1, channels, 64, 64))[0].shape)
    return found


@capability
def attention_in_the_head_at_l():
    """A YAML with attention where the channels in and out differ, at scale l"""
    import yaml
    from ultralytics.utils import ROOT

    d = yaml.safe_load((ROOT / "cfg/models/12/yolo12.yaml").read_text())
    d["head"][2] = [-1, 2, "A2C2f", [512, True, 4]]
    d["scale"] = "l"
    d["scales"]["l"] = [0.5, 0.25, 1024]  # l's parser, n's size
    assert tasks.DetectionModel(d, verbose=False).eval()(images())[0].isfinite().all()


@capability
def deeper_copies():
    """copy.deepcopy, pickle and cloudpickle of a network in training, after a step"""
    net = network().train()
    total(net(images())).backward()
    other = copy.deepcopy(net)
    a, b = net.eval()(images())[0], other.eval()(images())[0]
    equal(b, a)
    equal(pickle.loads(pickle.dumps(net)).eval()(images())[0], a)
    with torch.no_grad():
        attention(other).qkv.conv.weight.mul_(2)
    equal(net(images())[0], a)


@capability
def moving_average():
    """Ultralytics' ModelEMA over three steps"""
    from ultralytics.utils.torch_utils import ModelEMA

    net = network().double()
    ema, optimizer = ModelEMA(net), torch.optim.SGD(net.parameters(), lr=1e-6)
    for _ in range(3):
        total(net.train()(images().double())).backward()
        optimizer.step(), optimizer.zero_grad()
        ema.update(net)
    return ema.ema(images().double())[0]


@capability
def weights_averaged():
    """torch.optim.swa_utils: AveragedModel and update_bn"""
    from torch.optim.swa_utils import AveragedModel, update_bn

    net = network()
    averaged = AveragedModel(net)
    averaged.update_parameters(net)
    with torch.no_grad():
        attention(net).qkv.conv.weight.mul_(1.5)
    averaged.update_parameters(net)
    update_bn([images(4), images(4).flip(0)], averaged)
    return averaged.eval()(images())[0]


@capability
def pruned_and_trained():
    """torch.nn.utils.prune, structured and not, on every convolution; trained on, then made permanent"""
    net, found = network().double().train(), []
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad]
    for i, conv in enumerate(convs):
        prune.ln_structured(conv, "weight", 0.2, n=2, dim=0) if i % 2 else prune.l1_unstructured(conv, "weight", 0.3)
    total(net(images().double())).backward()
    torch.optim.SGD(net.parameters(), lr=1e-9).step()
    found.append(attention(net).qkv.conv.weight_orig.grad)
    for conv in convs:
        mask = conv.weight_mask.clone()
        prune.remove(conv, "weight")
        assert not conv.weight[mask == 0].any()
    return [*found, net.eval()(images().double())[0]]


@capability
def slimmed():
    """Channels of the mlp and of the projection cut out of the modules, as slimming tools do"""
    block = a2c2f().eval()
    for b in block.m[0]:
        up, down = b.mlp
        keep = up.conv.weight.flatten(1).norm(dim=1).topk(20).indices.sort().values
        new = nn.Conv2d(32, 20, 1, bias=False)
        new.weight = nn.Parameter(up.conv.weight[keep].detach())
        norm = nn.BatchNorm2d(20).eval()
        norm.load_state_dict({k: t[keep] if t.dim() else t for k, t in up.bn.state_dict().items()})
        up.conv, up.bn = new, norm
        new = nn.Conv2d(20, 32, 1, bias=False)
        new.weight = nn.Parameter(down.conv.weight[:, keep].detach())
        down.conv = new
    return block(maps(2))


@capability
def parametrised():
    """weight_norm, spectral_norm and orthogonal parametrisations of attention's and mlp's convolutions"""
    from torch.nn.utils.parametrizations import spectral_norm, weight_norm

    found = []
    for norm in weight_norm, spectral_norm:
        torch.manual_seed(1)
        block = a2c2f().double().train()
        for m in block.modules():
            if isinstance(m, nn.Conv2d):
                norm(m)
        y = block(maps(2).double())
        y.pow(2).mean().backward()
        assert all(p.grad is not None for p in block.parameters())
        found += [y, block.m[0][0].attn.qkv.conv.parametrizations.weight[0].state_dict().get("_u", torch.zeros(1))]
        for m in block.modules():
            if isinstance(m, nn.Conv2d):
                parametrize.remove_parametrizations(m, "weight")
        found.append(block.eval()(maps(2).double()))
    return found


@capability
def old_weight_norm():
    """torch.nn.utils.weight_norm (by hooks) and spectral_norm of the old kind"""
    import warnings

    found = []
    for norm in torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm:
        torch.manual_seed(1)
        block = a2c2f().train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for conv in [m for m in block.modules() if isinstance(m, nn.Conv2d)]:
                norm(conv)
        y = block(maps(2))
        y.pow(2).mean().backward()
        found.append(y)
    return found


@capability
def fused_by_ultralytics_alone():
    """`model.fuse()` twice, `is_fused`, and `YOLO.fuse`"""
    model = yolo()
    model.model.eval()
    before = model.model(images())[0]
    model.fuse()
    model.fuse()
    assert model.model.is_fused()
    equal(model.model(images())[0], before, 1e-3)


@capability
def described():
    """`model.info(detailed=True)`, str(model) and the summary line"""
    model = yolo()
    return [model.info(verbose=True)[:3], len(str(model.model).splitlines()), model.info(detailed=True)]


@capability
def optimizer_groups():
    """The parameter groups that Ultralytics' trainer makes"""
    from types import SimpleNamespace

    from ultralytics.engine.trainer import BaseTrainer

    maker = SimpleNamespace(
        args=SimpleNamespace(warmup_bias_lr=0.1, lr0=0.01, momentum=0.9, optimizer="AdamW"), data={"nc": 80}
    )
    optimizer = BaseTrainer.build_optimizer(maker, network(), name="AdamW", lr=0.01, momentum=0.9, decay=1e-3)
    return sorted(
        [len(g["params"]), sum(p.numel() for p in g["params"]), g["weight_decay"]] for g in optimizer.param_groups
    )


@capability(tolerance=1e-3)
def loss_of_ultralytics():
    """Ultralytics' detection loss of a batch, and its gradients, are stock's"""
    from ultralytics.cfg import get_cfg

    net = network().train()
    net.args = get_cfg()
    batch = dict(img=images(), batch_idx=torch.tensor([0.0, 1.0]), cls=torch.tensor([[1.0], [2.0]]))
    batch["bboxes"] = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.3, 0.5]])
    loss, _ = net(batch)
    loss.sum().backward()
    return [loss, attention(net).proj.conv.weight.grad]


@capability
def predicted_in_threads():
    """Threads with a model each, and threads that share a network, predict what one does"""
    right = boxes(yolo().predict(picture(), **OPTIONS))
    net, found = network().eval(), []
    expected = net(images())[0]

    def work():
        found.append(boxes(yolo().predict(picture(), **OPTIONS)))
        with torch.no_grad():
            for _ in range(3):
                equal(net(images())[0], expected)

    in_threads(work, 4)
    for b in found:
        equal(b, right)


@capability(tolerance=1e-3)
def validated():
    """`val` of a model: metrics and speed keys are stock's, rect, plots=False"""
    model = yolo()
    data = dataset()
    model.model.names = {i: str(i) for i in range(80)}
    metrics = model.val(data=data, imgsz=64, batch=2, workers=0, plots=False, verbose=False, device="cpu", conf=0.001)
    return [metrics.results_dict, sorted(metrics.speed)]


@capability
def callbacks_of_prediction():
    """Callbacks of a prediction run once an image"""
    model, seen = yolo(), []
    for event in "on_predict_start", "on_predict_batch_end", "on_predict_end":
        model.add_callback(event, lambda p, event=event: seen.append(event))
    model.predict([picture(), picture(1)], **OPTIONS)
    return seen


@capability
def layers_replaced():
    """Layers of the network cut off, inserted and wrapped; features of layers by index"""
    net = network().eval()
    features = net.predict(images(), embed=None)[0]
    backbone = nn.Sequential(*net.model[:9])
    y = backbone(images())
    old = net.model[8]

    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.i, self.f, self.type, self.np = inner.i, inner.f, inner.type, inner.np

        def forward(self, x):
            return self.inner(x) * 2

    net.model[8] = Wrapped(old)
    differ(net(images())[0], features)
    return [y, net(images())[0]]


@capability
def segments_of_a_network():
    """`torch.nn.utils.parameters_to_vector`, `clip_grad_norm_` and `vector_to_parameters`"""
    from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

    net = network().double().train()
    total(net(images().double())).backward()
    norm = clip_grad_norm_(net.parameters(), 1.0)
    vector = parameters_to_vector(net.parameters()).detach()
    vector_to_parameters(vector * 0.99, net.parameters())
    assert len(gradients(net)) > 200
    return [norm, net.eval()(images().double())[0]]
