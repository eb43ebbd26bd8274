"""What the capabilities share: the networks of a side, weights with which every branch counts, comparisons."""

import copy
import functools
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import block as blocks
from ultralytics.nn.tasks import DetectionModel

STOCK = os.environ.get("YOLO12_PLUGIN") == "off"
YAML = "yolo12{}.yaml" if STOCK else "yolov12{}.yaml"


def network() -> DetectionModel:
    """The network of this side, anew; its weights are equal on both sides."""
    torch.manual_seed(0)
    return copy.deepcopy(built())


@functools.cache
def built() -> DetectionModel:
    return lively(DetectionModel(YAML.format("n"), verbose=False))


def fused() -> DetectionModel:
    return network().eval().fuse(verbose=False)


class First(nn.Module):
    """A network's first output alone, the boxes and scores: what tracers and exporters are given."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[0]


def attention(net: nn.Module) -> nn.Module:
    """The first attention of a network: 64 channels, 2 heads, 4 areas."""
    return net.model[6].m[0][0].attn


def aattn(dim: int = 64, heads: int = 2, area: int = 4) -> nn.Module:
    return lively(blocks.AAttn(dim, heads, area))


def ablock(area: int = 1) -> nn.Module:
    return lively(blocks.ABlock(64, 2, 2.0, area))


def a2c2f(area: int = 4, residual: bool = False) -> nn.Module:
    return lively(blocks.A2C2f(64, 64, 1, True, area, residual))


def three() -> dict[str, nn.Module]:
    return {"AAttn": aattn(), "ABlock": ablock(), "A2C2f": a2c2f()}


def stages() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """A2C2f in training, in evaluation and fused, each with a map for it."""
    yield "training", a2c2f().train(), maps(2)
    yield "evaluation", a2c2f().eval(), maps(2)
    yield "fused", fused().model[6], maps(2, 128)


def in_threads(work: Callable[[], object], count: int) -> None:
    """Run something in some threads at once, and raise what the first of them that fails raises."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def maps(batch: int = 1, channels: int = 64, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def images(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


def lively(module: nn.Module) -> nn.Module:
    """Weights and statistics by the names of the parameters, large enough for every branch to count.

    As initialised, attention is close to a mean over the tokens, and what is lost in it would not show.
    """
    for name, m in module.named_modules():
        if "dfl" in name:
            continue
        random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        with torch.no_grad():
            if isinstance(m, nn.Conv2d) and m.bias is None:
                spread = m.weight[0].numel() ** -0.5
                m.weight.copy_(spread * torch.randn(m.weight.shape, generator=random))
            elif isinstance(m, nn.BatchNorm2d):
                for tensor, low in (m.weight, 0.5), (m.running_var, 0.5), (m.bias, -0.5), (m.running_mean, -0.5):
                    tensor.copy_(low + torch.rand(tensor.shape, generator=random))
    return module


def still(module: nn.Module) -> nn.Module:
    """Normalisations by their running statistics: images of a batch then have nothing to do with each other."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    return module


def without_statistics(module: nn.Module) -> nn.Module:
    """Normalisations that write no buffer, which `torch.func` does not allow."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.track_running_stats, m.running_mean, m.running_var, m.num_batches_tracked = False, None, None, None
    return module


def flat(out: Any) -> list[Tensor]:
    """The tensors of floats in what a network returned."""
    if isinstance(out, Tensor):
        return [out] if out.is_floating_point() else []
    values = out.values() if isinstance(out, dict) else out if isinstance(out, (list, tuple)) else ()
    return [t for value in values for t in flat(value)]


def total(out: Any) -> Tensor:
    """A loss that every output of a network takes part in, in its own way."""
    return sum((t * torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).view(t.shape)).pow(2).mean() for t in flat(out))


def equal(a: Any, b: Any, tolerance: float = 1e-4) -> None:
    """Tensors, or nests of them, agree, relative to the largest of each of the second.

    What is zero but for rounding (the gradient of a bias before a normalisation) is held to the largest of all.
    """
    a, b = flat(a), flat(b)
    assert len(a) == len(b) > 0, f"{len(a)} tensors instead of {len(b)}"
    largest = max(t.detach().abs().max().item() for t in b)
    for ours, right in zip(a, b):
        assert ours.shape == right.shape, f"shape {tuple(ours.shape)} instead of {tuple(right.shape)}"
        error = (ours.detach().double() - right.detach().double()).abs().max().item()
        scale = right.detach().double().abs().max().item()
        assert error <= tolerance * max(scale, 1e-6 * largest, 1e-12), f"differs by {error:.3g} of {scale:.3g}"


def differ(a: Any, b: Any, least: float = 1e-3) -> None:
    """What was changed must count: some output moved by more than rounding."""
    pairs = list(zip(flat(a), flat(b)))
    moved = max((x.detach() - y.detach()).abs().max().item() / (y.detach().abs().max().item() + 1e-9) for x, y in pairs)
    assert moved > least, f"the change does not count: outputs moved by {moved:.2g}"


def quotient(loss: Callable[[], Tensor], tensor: Tensor, index: tuple[int, ...], step: float = 1e-5) -> float:
    """The derivative of a loss by one element of a tensor, as a central difference quotient."""
    values = []
    for move in (step, -2 * step):
        with torch.no_grad():
            tensor[index] += move
            values.append(loss().item())
    with torch.no_grad():
        tensor[index] += step
    return (values[0] - values[1]) / (2 * step)


def close(a: float, b: float, tolerance: float = 1e-4) -> None:
    assert abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-9), f"{a:.6g} instead of {b:.6g}"


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def twin(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module)


def calls(module: nn.Module) -> dict[str, int]:
    """How often the forward hook of each submodule is called from here on, by name; shared modules are left out."""
    names: dict[nn.Module, list[str]] = {}
    for name, m in module.named_modules(remove_duplicate=False):
        names.setdefault(m, []).append(name)
    counts = {}
    for m, own in names.items():
        if len(own) == 1 and type(m) is not nn.ModuleList:
            counts[own[0]] = 0

            def count(*_, name=own[0]):
                counts[name] += 1

            m.register_forward_hook(count)
    return counts


def dataset(folder: Path = Path("data"), size: int = 64, count: int = 4) -> str:
    """A data YAML of a few drawn images with one or two boxes each."""
    import cv2
    import numpy as np

    random = np.random.default_rng(0)
    for kind in "images", "labels":
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = random.integers(0, 90, (size, size, 3), dtype=np.uint8)
        lines = []
        for label in range(1 + i % 2):
            x, y = (int(v) for v in random.integers(2, size // 2 - 2, 2))
            side = size // 2 - 4
            image[y : y + side, x : x + side] = (250, 60, 60) if label else (60, 250, 60)
            box = ((x + side / 2) / size, (y + side / 2) / size, side / size, side / size)
            lines.append(f"{label} " + " ".join(f"{v:.4f}" for v in box))
        cv2.imwrite(str(folder / f"images/{i}.png"), image)
        (folder / f"labels/{i}.txt").write_text("\n".join(lines) + "\n")
    yaml = folder / "tiny.yaml"
    yaml.write_text(f"path: {folder.resolve()}\ntrain: images\nval: images\nnames: [green, blue]\n")
    return str(yaml.resolve())
