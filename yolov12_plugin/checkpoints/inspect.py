"""What a checkpoint holds, read from its tensors, and what stock Ultralytics makes of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from ultralytics.nn.modules.conv import Conv

from yolov12_plugin.checkpoints.layouts import PLUGIN_ONLY, common, differences, structure
from yolov12_plugin.checkpoints.safe_load import models_of, read
from yolov12_plugin.checkpoints.weights import find
from yolov12_plugin.errors import CheckpointError, shown
from yolov12_plugin.models import release_of
from yolov12_plugin.names import CFG
from yolov12_plugin.nets import attention_blocks, task_of
from yolov12_plugin.nn.modules import A2C2f
from yolov12_plugin.nn.options import scale_of


def inspect(path: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """What a checkpoint holds, read from its tensors, and what stock Ultralytics makes of it.

    Args:
        path: a .pt, or a name of the authors' releases, which is downloaded.
        trust: execute what the file carries.

    Raises:
        CheckpointError: the file is damaged or no YOLOv12.
        FileNotFoundError: as `weights.find`.
    """
    path = Path(find(path))
    left_out: list[str] = []
    ckpt = read(path, trust, left_out.append)
    model = models_of(ckpt)[0]
    outputs(model, path)
    with whole(path):
        return {"file": str(path), **describe(model, ckpt), "left_out": left_out}


def describe(model: Any, ckpt: dict[str, Any]) -> dict[str, Any]:
    blocks = attention_blocks(model)
    found = [structure(block) for block in blocks.values()]
    first, width, depth = found[0], *_size(model, blocks)
    task = task_of(model)
    with (CFG / "models/yolov12.yaml").open(encoding="utf-8") as file:
        scales = yaml.safe_load(file)["scales"]
    standard = [scale for scale, (d, w, _) in scales.items() if (d, w) == (depth, width)]
    turbo = not first["qkv_fused"] or any(m.conv.groups > 1 for m in model.model[:5] if isinstance(m, Conv))
    return {
        "release": release_of(task, turbo),
        "task": task,
        "scale": standard[0] if standard else scale_of(model.yaml).lower(),
        "width": width,
        "depth": depth,
        "nc": len(getattr(model, "names", ())) or model.yaml.get("nc"),
        "parameters": sum(p.numel() for p in model.parameters()),
        "layout": {
            "projections": "qkv" if first["qkv_fused"] else "qk, v",
            "pe_kernel": first["pe_kernel"],
            "pe_bias": first["pe_bias"],
            "residual": first["residual"],
            "mlp_ratio": common("mlp_ratio", blocks.values()),
            "areas": [options["area"] for options in found],
            **{key: first[key] for key in PLUGIN_ONLY},
            "fused": _is_fused(model),
        },
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "quantised": bool(ckpt.get("modelopt")),
        "ultralytics": shown(ckpt.get("version")),
        "resumable": bool(ckpt.get("optimizer")),
        "stock": on_stock(model),
    }


def _size(model: Any, blocks: dict[int, A2C2f]) -> tuple[float, float]:
    """Width and depth of a model over those of its YAML's rows."""
    rows = [*model.yaml["backbone"], *model.yaml["head"]]
    layer, block = next(iter(blocks.items()))
    return block.cv2.conv.out_channels / rows[layer][3][0], len(block.m) / rows[layer][1]


def _first_conv(model: Any) -> nn.Conv2d:
    return next(m for m in model.modules() if isinstance(m, nn.Conv2d))


def _is_fused(model: Any) -> bool:
    return not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def on_stock(model: Any) -> dict[str, Any]:
    """Whether stock Ultralytics, with the plugin absent, predicts with a model and trains it as it is, and why not."""
    different = differences(model, model.yaml, stock=True)
    why = [f"it builds {key} {theirs}, not {_value(ours)}" for key, (ours, theirs) in different.items()]
    if "qkv_fused" in different:
        why = ["'AAttn' object has no attribute 'qkv'"]
    if _is_fused(model):
        why.append("the checkpoint is fused, its normalisations are gone")
    computed_otherwise = {"qkv_fused", "vertical", *PLUGIN_ONLY}
    return {"predicts": not different.keys() & computed_otherwise, "trains": not why, "why": why}


def _value(found: Any) -> Any:
    return round(found[1] / found[0], 2) if isinstance(found, tuple) else found


class Bounded(TorchDispatchMode):
    """Refuses an operation before it runs where a small image would take what no network takes, as by a huge padding.

    YOLOv12x gives 48 MB in 1,400 operations, and multiplies 1.5e9 times.
    """

    BYTES, MULTIPLICATIONS, OPERATIONS = 2**32, 1e12, 10_000

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.multiplications, self.operations = 0, 0.0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        try:
            sizes = tree_map(lambda x: x.to("meta") if isinstance(x, Tensor) else x, (args, kwargs or {}))
            found = func(
                *sizes[0], **{**sizes[1], **({"device": torch.device("meta")} if "device" in sizes[1] else {})}
            )
        except (
            NotImplementedError,
            RuntimeError,
        ):  # of what has no sizes before it has values, or is wrong and says so
            found = None
        for t in tree_flatten(found)[0]:
            if isinstance(t, Tensor):
                self.bytes += t.numel() * t.element_size()
                if func.overloadpacket is torch.ops.aten.convolution:
                    self.multiplications += t.numel() * args[1].shape[1:].numel()
        if self.bytes > self.BYTES or self.multiplications > self.MULTIPLICATIONS or self.operations > self.OPERATIONS:
            raise ValueError("it computes far more of a small image than any YOLOv12")
        return func(*args, **(kwargs or {}))


def outputs(model: Any, path: Path) -> list[Tensor]:
    """What a model, last, and each of its blocks with area attention give for an image: it is shown to be whole.

    Raises:
        CheckpointError: it is not, or is no YOLOv12.
    """
    out: list[Any] = []
    with whole(path):
        blocks = attention_blocks(model)
        if not blocks:
            raise CheckpointError(
                f"{path} is no YOLOv12 but a {type(model).__name__} without area attention: Ultralytics runs it as is"
            )
        differences(model, model.yaml)  # raises where the YAML is that of another model
        bad = [name for name, t in model.state_dict().items() if t.is_floating_point() and not t.isfinite().all()]
        if bad:
            raise CheckpointError(
                f"{path} holds NaN or infinite values in {len(bad)} tensors, the first is {bad[0]}: take an earlier "
                "checkpoint of the training"
            )
        net = deepcopy(model).float().eval()
        for layer in blocks:
            net.model[layer].register_forward_hook(lambda *args: out.append(args[-1]))
        stride = int(torch.as_tensor(getattr(net, "stride", 32)).max())
        stride = min(max(stride, 32), 256)  # a file may say anything
        size = _first_conv(net).in_channels, 2 * stride, 3 * stride
        image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), Bounded():
            out.append(net(image))
        while not isinstance(out[-1], Tensor):
            out[-1] = out[-1][0]
    return out


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Say of whatever a damaged model leads to that the file is damaged."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as e:
        why = " ".join(str(e).split()) or type(e).__name__
        raise CheckpointError(f"{path} is incomplete, or its tensors do not fit together ({why}): take another") from e
