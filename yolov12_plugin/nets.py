"""FLOPs as the paper and the authors' releases count them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from yolov12_plugin.nn.modules import A2C2f


@torch.no_grad()
def gflops(model: nn.Module, imgsz: int = 640, counted_at: int = 32) -> float:
    """GFLOPs of a model at a square image of `imgsz` pixels, as in Tables 1, 2 and 4.

    Two operations for each multiply-add of the convolutions and linear layers and for each upsampled value, counted on
    one stride of `counted_at` pixels and scaled to the image. So the products of the attention are left out, a
    transposed convolution counts at its output's resolution, and a classifier's linear layer counts once a stride.
    Ultralytics prints more today: its counter has since learned to include the attention and other operations.

    Args:
        model: the network of a `YOLO`.
        imgsz: pixels of the square image.
        counted_at: pixels of the image that it is run on, or the model's stride where that is more.
    """
    counted_at = max(counted_at, int(torch.as_tensor(getattr(model, "stride", 1)).max()))
    counted: list[int] = []

    def count(m: nn.Module, _: tuple[Tensor], out: Tensor) -> None:
        taps = 1  # multiply-adds for one value of the output
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            taps = m.weight[:, 0].numel() if isinstance(m, nn.ConvTranspose2d) else m.weight[0].numel()
        counted.append(2 * out.numel() * taps)

    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Upsample)
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    training = model.training
    try:
        model.eval()(next(model.parameters()).new_zeros(1, first.in_channels, counted_at, counted_at))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return sum(counted) * (imgsz / counted_at) ** 2 / 1e9


def channels(net: Any) -> int:
    return int(net.yaml.get("channels", 3))


def is_classifier(head: Any) -> bool:
    return type(head).__name__ == "Classify"


def is_detector(head: Any) -> bool:
    from ultralytics.nn.modules.head import Detect, RTDETRDecoder

    return isinstance(head, (Detect, RTDETRDecoder))


def is_dense(head: Any) -> bool:
    """Whether a head returns a value of each anchor (B, 4 + nc + extra, A), not (B, K, 6 + extra) that it selects."""
    from ultralytics.nn.modules.head import Detect

    return isinstance(head, Detect) and not getattr(head, "end2end", False)


def is_rotated(head: Any) -> bool:
    return type(head).__name__.startswith("OBB")


def attention_blocks(model: Any) -> dict[int, A2C2f]:
    """The R-ELAN blocks with area attention of an Ultralytics model, by layer."""
    layers = model.model if isinstance(getattr(model, "model", None), nn.Sequential) else ()
    return {i: m for i, m in enumerate(layers) if isinstance(m, A2C2f) and isinstance(m.m[0], nn.Sequential)}


def task_of(model: Any) -> str:
    """Ultralytics' task of a model, by its head."""
    head = type(model.model[-1]).__name__
    return {"Segment": "segment", "Classify": "classify", "Pose": "pose", "OBB": "obb"}.get(head, "detect")


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes of the distinct storages, other than the model's own, that a forward pass keeps for gradients."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is given twice
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        result = model(images)
    del result
    return sum(storage.nbytes() for storage in kept.values())


def is_quantised(net: nn.Module) -> bool:
    """Whether a network is one of Ultralytics' quantisation-aware training; ModelOpt need not be there."""
    return any(type(m).__name__ == "TensorQuantizer" for m in net.modules())
