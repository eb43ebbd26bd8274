"""Packages around PyTorch and Ultralytics; each is tried where it is installed."""

import cv2
import torch
from torch import nn
from ultralytics import YOLO

from conformance.capabilities import group
from conformance.networks import OPTIONS, boxes, picture, yolo
from conformance.support import (
    a2c2f,
    attention,
    dataset,
    differ,
    equal,
    gradients,
    images,
    maps,
    network,
    still,
    total,
    twin,
)

capability = group("Other packages")


def saved() -> str:
    """A checkpoint of the lively network in single precision, with a low threshold's worth of boxes."""
    model = yolo()
    model.save("lively.pt")
    return "lively.pt"


def photo(size: int = 128) -> str:
    cv2.imwrite("photo.png", cv2.resize(picture(), (size, size), interpolation=cv2.INTER_NEAREST))
    return "photo.png"


@capability(needs=["peft"])
def lora():
    """peft: LoRA on attention's and mlp's convolutions; adapters alone train, merge and unload"""
    from peft import LoraConfig, get_peft_model

    net = still(network().train())  # dropout draws in the order of memory, which statistics would show
    before = twin(net).eval()(images())[0]
    config = LoraConfig(
        r=4, target_modules=r".*\.(attn\.(qkv|proj)|mlp\.[01])\.conv", lora_dropout=0.1, init_lora_weights=False
    )
    torch.manual_seed(1)
    tuned = get_peft_model(net, config)
    total(tuned(images())).backward()
    grads = gradients(tuned)
    assert grads and all("lora_" in name and g.any() for name, g in grads.items())
    after = tuned.eval()(images())[0]
    differ(after, before)
    merged = tuned.merge_and_unload().eval()
    equal(merged(images())[0], after, 1e-3)
    return [len(grads), after]


@capability(needs=["peft"])
def lora_of_a_fused_network():
    """peft: adapters on a fused network change its predictions"""
    from peft import LoraConfig, get_peft_model

    net = network().eval().fuse(verbose=False)
    before = net(images())[0]
    torch.manual_seed(1)
    tuned = get_peft_model(net, LoraConfig(r=4, target_modules=r".*\.attn\.qkv\.conv", init_lora_weights=False)).eval()
    after = tuned(images())[0]
    differ(after, before)
    return after


@capability(needs=["lap"])
def tracked():
    """`track` over frames, ByteTrack and BoT-SORT: ids are stock's"""
    model = yolo()
    frames = [picture()] * 3
    found = []
    for tracker in "bytetrack.yaml", "botsort.yaml":
        results = [model.track(f, persist=i > 0, tracker=tracker, **OPTIONS)[0] for i, f in enumerate(frames)]
        found.append([len(r.boxes) for r in results])
    return found


@capability(needs=["sahi"], tolerance=1e-2)
def sliced():
    """SAHI: sliced prediction of a checkpoint"""
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        "ultralytics", model_path=saved(), confidence_threshold=0.0005, device="cpu", image_size=64
    )
    result = get_sliced_prediction(photo(), model, slice_height=64, slice_width=64, verbose=0)
    assert result.object_prediction_list
    return len(result.object_prediction_list)


@capability(needs=["supervision"], tolerance=1e-2)
def annotated():
    """supervision: detections of results, annotated"""
    import supervision

    model = YOLO(saved())
    image = picture()
    detections = supervision.Detections.from_ultralytics(model.predict(image, **OPTIONS)[0])
    assert len(detections)
    annotated = supervision.BoxAnnotator().annotate(image.copy(), detections)
    assert (annotated != image).any()
    return detections.xyxy.tolist()


@capability(needs=["fiftyone"], seconds=300, alone=True, tolerance=1e-2)
def in_fiftyone():
    """FiftyOne: a checkpoint as its model, as `apply_model` runs it"""
    import fiftyone.utils.ultralytics as fou

    yolo = YOLO(saved())
    yolo.overrides |= {
        key: OPTIONS[key] for key in ("imgsz", "conf", "max_det")
    }  # at 640 pixels these weights make pixels of single precision's rounding
    labels = fou.convert_ultralytics_model(yolo).predict(picture())
    assert type(labels).__name__ == "Detections" and labels.detections
    return [d.bounding_box for d in labels.detections]


@capability(needs=["fiftyone"], seconds=300, alone=True)
def converted_for_fiftyone():
    """FiftyOne: results converted to its labels, without its database"""
    import fiftyone.utils.ultralytics as fou

    results = YOLO(saved()).predict(photo(), **OPTIONS)
    labels = fou.to_detections(results[0])
    assert labels.detections
    return len(labels.detections)


@capability(needs=["safetensors"])
def safe_tensors():
    """safetensors: weights of the network and of a fused one saved and loaded"""
    from safetensors.torch import load_file, load_model, save_file, save_model

    net = network().eval()
    save_file(net.state_dict(), "net.safetensors")
    other = network().eval()
    with torch.no_grad():
        attention(other).qkv.conv.weight.zero_()
    other.load_state_dict(load_file("net.safetensors"))
    equal(other(images())[0], net(images())[0])
    fused = twin(net).fuse(verbose=False)
    save_model(fused, "fused.safetensors")
    again = network().eval().fuse(verbose=False)
    load_model(again, "fused.safetensors")
    equal(again(images())[0], fused(images())[0])
    return sorted(load_file("net.safetensors"))


@capability(needs=["torchinfo"])
def summarised():
    """torchinfo: the summary of the network counts its parameters and operations"""
    from torchinfo import summary

    found = summary(network(), input_data=images(1), verbose=0)
    return [found.total_params, found.trainable_params, found.total_mult_adds]


@capability(needs=["torchao"])
def quantised_by_torchao():
    """torchao: a block of linear projections beside the convolutions, quantised for inference"""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    class Linear1x1(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.linear = nn.Linear(conv.in_channels, conv.out_channels, bias=conv.bias is not None)
            self.linear.weight = nn.Parameter(conv.weight.detach().flatten(1))

        def forward(self, x):
            return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    block = a2c2f().eval()
    right = block(maps(2))
    for b in block.m[0]:
        for m in b.attn.qkv, b.attn.proj, b.mlp[0], b.mlp[1]:
            m.conv = Linear1x1(m.conv)
    equal(block(maps(2)), right, 1e-3)
    quantize_(block, Int8WeightOnlyConfig())
    y = block(maps(2))
    differ(y, right, 1e-6)
    assert (y - right).norm() < 0.05 * right.norm()


@capability(needs=["pytorch_grad_cam"])
def class_activation_maps():
    """pytorch-grad-cam: GradCAM and EigenCAM of a stage of attention"""
    from pytorch_grad_cam import EigenCAM, GradCAM

    class Scores(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)[0][:, 4:].amax(2)

    net = Scores(network().eval())
    found = []
    for method in GradCAM, EigenCAM:
        with method(model=net, target_layers=[net.net.model[6]]) as cam:
            found.append(cam(input_tensor=images(1), targets=None if method is EigenCAM else [lambda out: out.max()]))
    assert found[0].shape == (1, 64, 64)
    return [torch.from_numpy(found[0])]


@capability(needs=["cloudpickle"])
def pickled_by_value():
    """cloudpickle of a network, and of a class in it that was defined here"""
    import cloudpickle

    class Twice(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    net = network().eval()
    net.model[6].m[0][0].mlp = Twice(net.model[6].m[0][0].mlp)
    before = net(images())[0]
    equal(cloudpickle.loads(cloudpickle.dumps(net))(images())[0], before)
    return before


@capability(needs=["lap"])
def counted_by_a_solution():
    """Ultralytics' solutions (object counter) over frames"""
    from ultralytics import solutions

    counter = solutions.ObjectCounter(
        model=saved(), region=[(0, 32), (64, 32)], show=False, verbose=False, conf=0.0001, device="cpu", imgsz=64
    )
    for _ in range(2):
        result = counter(picture())
    assert result.total_tracks >= 0
    return [len(boxes(YOLO(dataset() and "lively.pt").predict(picture(), **OPTIONS)))]
