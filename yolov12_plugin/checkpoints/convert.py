"""A checkpoint written in the layout of stock Ultralytics, or as the plugin rebuilds it: exactly, or not at all."""

import math
import os
import pkgutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from yolov12_plugin.checkpoints.grammar import checked_arguments
from yolov12_plugin.checkpoints.inspect import describe, outputs, whole
from yolov12_plugin.checkpoints.layouts import describe_in_yaml, to_stock
from yolov12_plugin.checkpoints.safe_load import models_of, read
from yolov12_plugin.checkpoints.weights import find
from yolov12_plugin.errors import CheckpointError, first_line
from yolov12_plugin.files import write_checkpoint
from yolov12_plugin.nn.modules import CHECKPOINT_MODULE, AAttn


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    to: str,
    *,
    force: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Write a checkpoint in the layout that stock Ultralytics knows, or as this plugin rebuilds it.

    The result computes what the source computes; both are compared on an image before anything is written. Everything
    else in the checkpoint stays, except that the optimizer's state is dropped if tensors were changed.

    Args:
        src: a .pt, or a name of the authors' releases.
        dst: a .pt to write.
        to: "stock" for one qkv convolution, a 7x7 perceiver without a bias, and a YAML from which Ultralytics' own
            parser builds the same structure, so that it predicts and trains where the plugin is absent; "plugin" for
            the tensors as they are, and a YAML that describes them.
        force: replace `dst` where it is there.
        trust: execute what `src` carries.

    Returns:
        What `inspect` says of the result, with what was changed, the largest difference of an output, and a note
        where stock trains it by its own YAML only.

    Raises:
        CheckpointError: the source is damaged, no YOLOv12, or has no exact form there; `dst` is as it was.
        FileNotFoundError: as `weights.find`.
        ValueError: `to` is something else.

    Examples:
        >>> from ultralytics import YOLO
        >>> import yolov12_plugin as y12
        >>> YOLO("yolov12n-turbo.yaml", verbose=False).save("turbo.pt")
        >>> done = y12.convert("turbo.pt", "stock.pt", to="stock")
        >>> done["file"], done["stock"]["trains"]
        ('stock.pt', True)
    """
    if to not in ("plugin", "stock"):
        raise ValueError(f"to={to!r} must be 'plugin' or 'stock'")
    src, dst = Path(find(src)), Path(dst)
    if dst.suffix != ".pt":
        raise CheckpointError(f"{dst} must end in .pt, the only name that Ultralytics loads")
    if dst.is_dir() or not dst.parent.is_dir():
        raise CheckpointError(f"{dst} cannot be written: " + ("it is a folder" if dst.is_dir() else "make its folder"))
    if not os.access(dst.parent, os.W_OK):
        raise CheckpointError(f"{dst} cannot be written: its folder is read-only: name another place")
    if not force and dst.exists() and src.exists() and dst.samefile(src):
        raise CheckpointError(f"{dst} is the source: give another name, or force=True to replace it")
    if pkgutil.resolve_name(f"{CHECKPOINT_MODULE}:AAttn") is not AAttn:  # nothing of ours could be pickled
        raise CheckpointError("the plugin is not registered: unset YOLO12_PLUGIN, or call yolov12_plugin.register()")

    changes: list[str] = []
    named: list[str] = []
    ckpt = read(src, trust, changes.append)
    models: list[Any] = models_of(ckpt)
    with whole(src):
        before = [(outputs(model, src), _parameters(model)) for model in models]
        left_out, paths = _settle_arguments(ckpt, models)
        changes += left_out
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
        changed = any(_parameters(model) != names for model, (_, names) in zip(models, before))
        if changed and ckpt.get("modelopt"):
            raise CheckpointError(
                f"{src} has no exact form on stock Ultralytics: it was trained with quantize=8, and its ranges are "
                "those of its own projections; convert what it was trained from"
            )
        if changed and ckpt.get("optimizer"):
            ckpt["epoch"] = -1
            ckpt.update((key, None) for key in ("optimizer", "scaler", "updates", "stopper") if key in ckpt)
            changes.append("without the optimizer")
        difference = 0.0
        for model, (expected, _) in zip(models, before):
            for is_now, was in zip(outputs(model, src), expected):
                off = (is_now - was).abs().max().item()
                limit = 1e-4 * was.abs().max().item()
                if not (
                    math.isfinite(limit) and off <= limit
                ):  # NaN is within no limit, infinity within one of its own
                    raise CheckpointError(
                        f"{src} is not converted: an output would differ by {off:.1e}; please report it"
                    )
                difference = max(difference, off)
        done = {"file": str(dst), **describe(models[0], ckpt), "changes": list(dict.fromkeys(changes))}
    if not force and dst.exists():
        raise CheckpointError(f"{dst} is there already: give another name, or force=True to replace it")
    left = "; it is as it was" if dst.exists() else ""
    try:
        write_checkpoint(dst, ckpt)
    except Exception as e:  # of the disk, or of what cannot be pickled
        raise CheckpointError(f"{dst} cannot be written ({first_line(e)}){left}") from e
    notes = []
    if named and done["stock"]["trains"]:
        notes.append(
            f"Stock's parser sets {', '.join(named)} otherwise, so the YAML within {dst} names it. Train there by "
            f"model={dst}; a YAML of stock with pretrained={dst} would lose it."
        )
    if paths:
        notes.append(
            f"It was trained with {', '.join(paths)}; what goes on from {dst} takes these unless others are given."
        )
    return {**done, "difference": difference, "note": " ".join(notes)}


def _settle_arguments(ckpt: dict[str, Any], models: list[Any]) -> tuple[list[str], list[str]]:
    """Leave out of the arguments of a training what they would have fetched; lines on that, and the paths they name."""
    left_out: list[str] = []
    paths: list[str] = []
    for owner, key in ((ckpt, "train_args"), *((vars(model), "args") for model in models)):
        args = owner.get(key)
        if isinstance(args, (dict, SimpleNamespace)):
            new, lines, named = checked_arguments(args)
            owner[key] = new if isinstance(args, dict) else type(args)(**new)
            left_out += lines
            paths += named
    return list(dict.fromkeys(left_out)), list(dict.fromkeys(paths))


def _parameters(model: Any) -> list[tuple[str, torch.Size]]:
    return [(name, p.shape) for name, p in model.named_parameters()]
