"""Hyperparameters as Ultralytics train arguments: those of the paper (Table 7), and for small datasets."""

import functools
import importlib.util
import logging
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import yaml

from yolov12_plugin.names import CFG, find

LOGGER = logging.getLogger("yolov12_plugin")
FOLDER = CFG / "presets"
SCALES = "nsmlx"
KINDS = ("coco", "finetune")


def preset(scale: str, kind: str = "coco") -> dict[str, Any]:
    """Train arguments of a scale, for `YOLO("yolov12n.yaml").train(**preset("n"), data="coco.yaml")`.

    Arguments that this Ultralytics does not have are left out with a notice.

    Args:
        scale: n, s, m, l or x.
        kind: coco, the paper's Table 7, which pins all that Ultralytics would take from its own defaults; or finetune,
            for small datasets.

    Raises:
        ValueError: no such scale or kind.

    Examples:
        >>> import yolov12_plugin as y12
        >>> y12.preset("n")["epochs"]
        600
        >>> y12.preset("n", "finetune")["optimizer"]
        'AdamW'
    """
    if scale not in tuple(SCALES):
        raise ValueError(f"no preset for scale {scale!r}; scales are {', '.join(SCALES)}")
    if kind not in KINDS:
        raise ValueError(f"no preset {kind!r}; presets are {', '.join(KINDS)}")
    from ultralytics.cfg import DEFAULT_CFG_DICT

    path = FOLDER / f"yolov12{scale}-{kind}.yaml"
    announce(path)
    arguments = read(path)
    arguments.pop("model", None)  # the caller has one
    leave_out(arguments, DEFAULT_CFG_DICT)
    return arguments


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def leave_out(arguments: dict[str, Any], known: Container[str]) -> None:
    """Remove from `arguments` what came from a preset and is not among the `known`, with one notice."""
    unknown = [key for key in arguments if key not in known]
    if not unknown:
        return
    presets = [read(path) for path in FOLDER.glob("*.yaml")]
    ours = [k for k in unknown if any(k in p and p[k] == arguments[k] for p in presets)]
    for key in ours:
        del arguments[key]
    if ours:
        _notice_left_out(tuple(sorted(ours)))


def announce(path: Path) -> None:
    """Say what a training by the preset at `path` would lack."""
    if path.parent == FOLDER and importlib.util.find_spec("albumentations") is None:
        _notice_albumentations()


@functools.cache
def _notice_left_out(keys: tuple[str, ...]) -> None:
    from ultralytics import __version__

    LOGGER.warning(
        "yolov12-plugin: Ultralytics %s has no argument %s; left out of the preset.", __version__, ", ".join(keys)
    )


@functools.cache
def _notice_albumentations() -> None:
    LOGGER.warning(
        "yolov12-plugin: albumentations is not installed. The authors trained with it (blur, grey and contrast, each "
        "on 1% of the images): pip install albumentations"
    )


def find_plugin_yaml(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Resolve names of the plugin's YAML files before Ultralytics searches its own folders."""

    @functools.wraps(stock)
    def check_yolov5u_filename(file: Any, *args: Any, **kwargs: Any) -> Any:
        path = find(file)
        if path is None:
            return stock(file, *args, **kwargs)
        announce(path)
        return str(path)

    return check_yolov5u_filename


def leave_out_of_presets(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Let a preset name arguments that this Ultralytics does not have."""

    @functools.wraps(stock)
    def check_dict_alignment(base: Any, custom: Any, *args: Any, **kwargs: Any) -> Any:
        leave_out(custom, base)
        return stock(base, custom, *args, **kwargs)

    return check_dict_alignment
