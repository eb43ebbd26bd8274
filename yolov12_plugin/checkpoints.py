"""Checkpoints of YOLOv12: completed when Ultralytics loads them, inspected, and converted."""

import logging
import os
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import yaml
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv

from yolov12_plugin.layouts import (
    PLUGIN_ONLY,
    attention_blocks,
    common,
    describe_in_yaml,
    differences,
    structure,
    task_of,
    to_stock,
)
from yolov12_plugin.models import release_of
from yolov12_plugin.names import CFG
from yolov12_plugin.nn.modules import CHECKPOINT_MODULE, A2C2f, AAttn
from yolov12_plugin.nn.options import scale_of
from yolov12_plugin.safe_load import CheckpointError, models_of, read
from yolov12_plugin.weights import find

LOGGER = logging.getLogger("ultralytics")

OLD_GROUPS = ["bias", "weight", "bn"]  # of the optimizers of Ultralytics up to 8.3


def complete(ckpt: dict[str, Any]) -> None:
    """Make a checkpoint that was just read one from which Ultralytics trains on, whoever wrote it.

    The YAML of its model comes to say what the tensors show. The optimizer's groups come into the order of this
    Ultralytics, where an earlier one, such as that of the authors, had another.
    """
    models = [m for m in models_of(ckpt) if attention_blocks(m)]
    for model in models:
        describe_in_yaml(model)
    if models and ckpt.get("optimizer"):
        _order_groups(ckpt)


def _order_groups(ckpt: dict[str, Any]) -> None:
    groups = ckpt["optimizer"]["param_groups"]
    saved = [group.get("param_group", name) for group, name in zip(groups, OLD_GROUPS)]
    order = _order_of_groups()
    if len(groups) != len(order) or sorted(saved) != sorted(order):
        return
    named = {name: {**group, "param_group": name} for name, group in zip(saved, groups)}
    ckpt["optimizer"] = {**ckpt["optimizer"], "param_groups": [named[name] for name in order]}
    args = ckpt.get("train_args") or {}
    if args.get("optimizer") == "auto":  # this Ultralytics may choose another than the one that was chosen then
        name, lr = "AdamW" if "betas" in groups[0] else "SGD", groups[0].get("initial_lr", groups[0]["lr"])
        ckpt["train_args"] = {**args, "optimizer": name, "lr0": float(lr), "warmup_bias_lr": 0.0}


def _order_of_groups() -> list[str]:
    """The order in which this Ultralytics' trainer makes the groups of an optimizer, as it makes them."""
    from ultralytics.engine.trainer import BaseTrainer

    trainer: Any = BaseTrainer
    conv = Conv(1, 1)
    names = {id(conv.conv.weight): "weight", id(conv.bn.weight): "bn", id(conv.bn.bias): "bias"}
    disabled, LOGGER.disabled = LOGGER.disabled, True  # it prints what it makes
    try:
        groups = trainer.build_optimizer(None, conv, "SGD").param_groups
        order, why = [names[id(group["params"][0])] for group in groups], ""
    except Exception as e:  # a trainer that is made otherwise gets what was saved
        order, why = [], f"{type(e).__name__}: {e}"
    finally:
        LOGGER.disabled = disabled
    if why:
        LOGGER.warning(f"yolov12-plugin: this Ultralytics' parameter groups are of unknown order ({why})")
    return order


def inspect(path: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """What a checkpoint holds, read from its tensors, and what stock Ultralytics makes of it.

    Nothing that the file carries is executed unless `trust`. A name of the authors' releases is downloaded.

    Raises:
        CheckpointError: the file is damaged or no YOLOv12.
        FileNotFoundError: as `weights.find`.
    """
    path = Path(find(path))
    ckpt = read(path, trust)
    model = models_of(ckpt)[0]
    _outputs(model, path)
    with _whole(path):
        return {"file": str(path), **_describe(model, ckpt)}


def _describe(model: Any, ckpt: dict[str, Any]) -> dict[str, Any]:
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
        "ultralytics": str(ckpt.get("version")),
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


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    to: str,
    *,
    force: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Write a checkpoint in the layout that stock Ultralytics knows, or as this plugin rebuilds it.

    stock: one qkv convolution, a 7x7 perceiver without a bias, and a YAML from which Ultralytics' own parser builds the
    same structure, so that it predicts and trains where the plugin is absent. plugin: the tensors as they are, and a
    YAML that describes them. Both compute what the source does, which is shown on an image before anything is written.
    What else a checkpoint holds stays, but for the optimizer where tensors were changed. `src` may be a name of the
    authors' releases. Nothing that it carries is executed unless `trust`; `dst` may be the same file only with `force`.

    Returns what `inspect` says of the result, with what was changed, the largest difference of an output, and a note
    where stock trains it by its own YAML only.

    Raises:
        CheckpointError: the source is damaged, no YOLOv12, or has no exact form there; `dst` is as it was.
        FileNotFoundError: as `weights.find`.
        ValueError: `to` is something else.
    """
    if to not in ("plugin", "stock"):
        raise ValueError(f"to={to!r} must be 'plugin' or 'stock'")
    src, dst = Path(find(src)), Path(dst)
    if dst.suffix != ".pt":
        raise CheckpointError(f"{dst} must end in .pt, the only name that Ultralytics loads")
    if dst.is_dir() or not dst.parent.is_dir():
        raise CheckpointError(f"{dst} cannot be written: " + ("it is a folder" if dst.is_dir() else "make its folder"))
    if not force and dst.exists() and src.exists() and dst.samefile(src):
        raise CheckpointError(f"{dst} is the source: give another name, or --force (force=True) to replace it")
    if pkgutil.resolve_name(f"{CHECKPOINT_MODULE}:AAttn") is not AAttn:  # nothing of ours could be pickled
        raise CheckpointError("the plugin is not registered: unset YOLO12_PLUGIN, or call yolov12_plugin.register()")

    ckpt = read(src, trust)
    models: list[Any] = models_of(ckpt)
    before = [(_outputs(model, src), _parameters(model)) for model in models]
    changes: list[str] = []
    named: list[str] = []
    for model in models:
        if to == "plugin":
            changes += describe_in_yaml(model)
        else:
            try:
                more, named = to_stock(model)
            except (LookupError, TypeError, ValueError) as e:
                raise CheckpointError(f"{src} has no exact form on stock Ultralytics: {e}") from e
            changes += more
        if getattr(model, "criterion", None) is not None:
            model.criterion = None  # it refers to the model as it was; Ultralytics makes one when it needs it
    if ckpt.get("optimizer") and any(_parameters(model) != names for model, (_, names) in zip(models, before)):
        ckpt["epoch"] = -1
        ckpt.update((key, None) for key in ("optimizer", "scaler", "updates", "stopper") if key in ckpt)
        changes.append("without the optimizer")
    difference = 0.0
    for model, (expected, _) in zip(models, before):
        for is_now, was in zip(_outputs(model, src), expected):
            off = (is_now - was).abs().max().item()
            if off > 1e-4 * was.abs().max().item():
                raise CheckpointError(f"{src} is not converted: an output would differ by {off:.1e}; please report it")
        difference = max(difference, off)
    with _whole(src):
        done = {"file": str(dst), **_describe(models[0], ckpt), "changes": list(dict.fromkeys(changes))}
    _write(ckpt, dst)
    note = (
        f"Stock's parser sets {', '.join(named)} otherwise, so the YAML within {dst} names it. Train there by "
        f"model={dst}; a YAML of stock with pretrained={dst} would lose it."
    )
    return {**done, "difference": difference, "note": note if named and done["stock"]["trains"] else ""}


def _parameters(model: Any) -> list[tuple[str, torch.Size]]:
    return [(name, p.shape) for name, p in model.named_parameters()]


def _outputs(model: Any, path: Path) -> list[Tensor]:
    """What a model, last, and each of its blocks with area attention give for an image: it is shown to be whole.

    Raises:
        CheckpointError: it is not, or is no YOLOv12.
    """
    out: list[Any] = []
    with _whole(path):
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
        image = torch.rand(1, _first_conv(net).in_channels, 64, 96, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            out.append(net(image))
        while not isinstance(out[-1], Tensor):
            out[-1] = out[-1][0]
    return out


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say of whatever a damaged model leads to that the file is damaged."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as e:
        why = " ".join(str(e).split()) or type(e).__name__
        raise CheckpointError(f"{path} is incomplete, or its tensors do not fit together ({why}): take another") from e


def _write(ckpt: dict[str, Any], path: Path) -> None:
    """Save a checkpoint whole, or leave what was there."""
    path = path.resolve()  # a link is followed
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            torch.save(ckpt, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except Exception as e:  # of the disk, as RuntimeError from PyTorch's writer, or of what cannot be pickled
        raise CheckpointError(f"{path} cannot be written ({' '.join(str(e).split())}); it is as it was") from e
    finally:
        part.unlink(missing_ok=True)
