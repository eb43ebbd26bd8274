"""Layers: those that Table 5a varies, a convolution or a linear layer and its normalisation, and an export's DFL."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.modules.conv import Conv

from yolov12_plugin.nn.attention import is_channels_last


def layer(c1: int, c2: int, k: int = 1, g: int = 1, *, act: bool = False, projection: str, norm: str) -> Any:
    """A convolution or a linear layer and its normalisation, on maps (B, c1, H, W) -> (B, c2, H, W).

    Ultralytics' Conv for "conv" and "bn"; the others of Table 5a are sequences of PyTorch's modules, pickled as these.

    Args:
        c1, c2: channels in and out.
        k, g: kernel size, odd, and groups of a convolution.
        act: end with SiLU.
        projection: "conv" or "linear".
        norm: "bn" or "ln".
    """
    if projection == "conv" and norm == "bn":
        return Conv(c1, c2, k, 1, k // 2, g=g, act=act)
    steps: OrderedDict[str, nn.Module] = OrderedDict()
    if projection == "linear":
        steps["linear"] = Linear(c1, c2, bias=False)
    else:
        steps["conv"] = nn.Conv2d(c1, c2, k, 1, k // 2, groups=g, bias=False)
    steps[norm] = LayerNorm(c2) if norm == "ln" else nn.BatchNorm2d(c2)
    if act:
        steps["act"] = Conv.default_act
    return nn.Sequential(steps)


def on_maps(modules: Mapping[str, nn.Module | None]) -> None:
    """Let the linear layers and layer normalisations in sequences of a pickled block take maps again."""
    for m in modules.values():
        if type(m) is nn.Sequential:
            on_maps(m._modules)
            for kind in ON_MAPS:
                step: Any = m._modules.get(kind.name)
                if type(step) is kind.plain:
                    step.__class__ = kind


def plain(modules: Mapping[str, nn.Module | None]) -> dict[str, nn.Module | None]:
    """The same modules for a pickle, which names PyTorch's classes alone: every Ultralytics loads these."""
    return {name: _plain(m) for name, m in modules.items()}


def _plain(m: nn.Module | None) -> nn.Module | None:
    if type(m) is nn.Sequential and any(isinstance(step, ON_MAPS) for step in m.modules()):
        return _alike(nn.Sequential, {**m.__dict__, "_modules": plain(m._modules)})
    return _alike(m.plain, m.__dict__) if isinstance(m, ON_MAPS) else m


def _alike(kind: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    new = kind.__new__(kind)
    new.__dict__.update(state)
    return new


def in_format_of(x: Tensor, out: Tensor) -> Tensor:
    """A map that is channels-last in the memory format of another."""
    return out if is_channels_last(x) else out.contiguous()


torch.fx.wrap("in_format_of")  # it decides by the format: one node of a graph


class Linear(nn.Linear):
    """A linear layer on the tokens of a map: (B, in, H, W) -> (B, out, H, W)."""

    name, plain = "linear", nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias)  # (B, H, W, C)
        return in_format_of(x, out.permute(0, 3, 1, 2))


class LayerNorm(nn.LayerNorm):
    """Layer normalisation of each token of a map: (B, C, H, W)."""

    name, plain = "ln", nn.LayerNorm

    def forward(self, x: Tensor) -> Tensor:
        out = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return in_format_of(x, out.permute(0, 3, 1, 2))


ON_MAPS = (Linear, LayerNorm)


class Integral(nn.Module):
    """The expectation of a head's distributions as Ultralytics' DFL, by a weighted sum in place of a convolution.

    The bins stay where they are: compilers make two kernels less of it, and ONNX Runtime transposes nothing.

    Args:
        dfl: Ultralytics' module, whose bins are taken.

    Shapes: (B, 4·bins, A) -> (B, 4, A).
    """

    def __init__(self, dfl: DFL) -> None:
        super().__init__()
        self.c1 = dfl.c1
        self.bins = nn.Parameter(dfl.conv.weight.detach().view(-1, 1), requires_grad=False)  # counted as stock's is

    def forward(self, x: Tensor) -> Tensor:
        b, _, a = x.shape
        # The softmax shifts by the maximum, so that no exponential overflows in half precision.
        return (x.view(b, 4, self.c1, a).softmax(2) * self.bins).sum(2)


class IntegralOfMaps(Integral):
    """The same of the maps that a head's branches end with, whose channels OpenVINO has side by side.

    The head then flattens 4 channels instead of 4·bins. After the branches' convolutions there is none, as there is in
    DFL: where OpenVINO computes in bfloat16, what follows the last convolution stays in single precision.

    Args:
        dfl: Ultralytics' module, whose bins are taken.

    Shapes: (B, 4·bins, H, W) -> (B, 4, H, W); its result as (B, 4, A), which the head hands to its `dfl`, is returned.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return x
        b, _, h, w = x.shape
        sides = x.permute(0, 2, 3, 1).reshape(b, h, 4 * w, self.c1)  # the bins of a side in a row
        return (sides.softmax(3) * self.bins.view(-1)).sum(3).reshape(b, h, w, 4).permute(0, 3, 1, 2)
