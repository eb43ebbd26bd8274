"""A checkpoint that Ultralytics has just read, made one from which it trains on."""

import logging
from typing import Any

from ultralytics.nn.modules.conv import Conv

from yolov12_plugin.checkpoints.grammar import checked, registered
from yolov12_plugin.checkpoints.layouts import describe_in_yaml
from yolov12_plugin.checkpoints.safe_load import models_of
from yolov12_plugin.nets import attention_blocks

LOGGER = logging.getLogger("ultralytics")


OLD_GROUPS = ["bias", "weight", "bn"]  # of the optimizers of Ultralytics up to 8.3


def complete(ckpt: dict[str, Any]) -> None:
    """Make a checkpoint that was just read one from which Ultralytics trains on, whoever wrote it.

    The YAML of its model comes to say what the tensors show. The optimizer's groups come into the order of this
    Ultralytics, where an earlier one, such as that of the authors, had another.
    """
    models = [m for m in models_of(ckpt) if attention_blocks(m)]
    for model in models:
        try:
            checked(getattr(model, "yaml", None), registered())
        except ValueError as e:
            LOGGER.warning(f"yolov12-plugin: the checkpoint's YAML {e}: it is left as it is")
        else:
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
