"""FLOPs as the paper and the authors' releases count them."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def gflops(model: nn.Module, imgsz: int = 640, counted_at: int = 32) -> float:
    """GFLOPs of a model at a square image of `imgsz` pixels, as in Tables 1, 2 and 4.

    Two operations for each multiply-add of the convolutions and linear layers and for each upsampled value, counted on
    one stride of `counted_at` pixels and scaled to the image. So the products of the attention are left out, a
    transposed convolution counts at its output's resolution, and a classifier's linear layer counts once a stride.
    Ultralytics prints more today: its counter has since learned to include the attention and other operations.
    """
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
