"""What the YAML and the arguments within a checkpoint may say, which Ultralytics evaluates, builds from and fetches."""

import ast
import inspect
import math
import re
import warnings
from collections.abc import Collection
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

from torch import nn

from yolov12_plugin.errors import shown
from yolov12_plugin.nn.options import RULES

ACTIVATIONS = {
    *("CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU"),
    *("LogSigmoid", "Mish", "PReLU", "ReLU", "ReLU6", "RReLU", "SELU", "Sigmoid", "SiLU", "Softplus", "Softshrink"),
    *("Softsign", "Tanh", "Tanhshrink", "Threshold"),
}
LAYERS_OF_TORCH = ACTIVATIONS | {
    *("AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dropout"),
    *("Dropout2d", "Flatten", "GroupNorm", "Linear", "MaxPool2d", "PixelShuffle", "PixelUnshuffle", "ReflectionPad2d"),
    *("ReplicationPad2d", "Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d", "ZeroPad2d"),
}
HEADS = "ultralytics.nn.modules.head"
FETCHING = {"TorchVision", "Index"}  # one downloads a model by its name, the other takes what that gives apart
# What a text in a row may be beside a number: names that the parser resolves, and modes of layers.
WORDS = {
    *("None", "True", "False", "nc", "kpt_shape", "nearest", "nearest-exact", "linear", "bilinear", "bicubic"),
    *("trilinear", "area", "zeros", "reflect", "replicate", "circular", "r-elan", "elan", "conv", "bn", "ln", "none"),
    *("absolute", "relative"),
}
TEXT_MODELS = re.compile(r"mobileclip2?:\w{1,16}|clip:(RN\d+(x\d+)?|ViT-[BL]/\d+(@336px)?)", re.ASCII)

LARGEST = 2**20  # of the numbers in a row
ROWS, MODULES, ITEMS, DEPTH = 512, 4096, 64, 3


def checked(d: Any, registered: Collection[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """A model YAML made anew of the parts that a model YAML has, and lines on what was left out.

    Args:
        d: the YAML as a checkpoint holds it.
        registered: layers that the user has added to those of Ultralytics' parser.

    Raises:
        ValueError: it holds what would be called, or what nothing can be built from.
    """
    if type(d) is not dict:
        raise ValueError(f"cannot be read (it is {shown(d)}, not a mapping)")
    unknown = [key for key in d if key not in KEYS]
    new: dict[str, Any] = {}
    left_out = [f"without {shown(key, 40)} in the YAML" for key in unknown[:5]]
    if unknown[5:]:
        left_out.append(f"without {len(unknown) - 5} more entries of the YAML")
    for key, value in d.items():
        if key in KEYS:
            fits, must_be = KEYS[key]
            if not fits(value):
                raise ValueError(f"cannot be read ({key} is {shown(value)}, not {must_be})")
            new[key] = value
    for part in ("backbone", "head"):
        if part not in new:
            raise ValueError(f"cannot be read (it has no {part})")
    scales = new.get("scales") or {}
    if scales:
        new["scales"] = {scale: list(values) for scale, values in scales.items()}
        if new.get("scale") and new["scale"] not in scales:
            raise ValueError(f"cannot be read (scale {shown(new['scale'])} is none of {', '.join(scales)})")
    if new.get("activation"):
        new["activation"] = activation(new["activation"])
    if new.get("a2c2f"):
        left_out += [f"without {shown(option, 40)} in a2c2f" for option in new["a2c2f"] if option not in RULES][:5]
        options = ((option, value) for option, value in new["a2c2f"].items() if option in RULES)
        new["a2c2f"] = {option: _option(option, value, scales) for option, value in options}
    _check_rows(new, layers() | dict.fromkeys(registered, False))
    new["backbone"], new["head"] = ([_row(row) for row in new[part]] for part in ("backbone", "head"))
    return new, left_out


def activation(text: str) -> str:
    """An activation of torch.nn with literal arguments, made anew of these and its name.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        if not re.fullmatch(r"(torch\.)?nn\.\w{1,20}\([\w\s.,=+'\"-]{0,100}\)", text, re.ASCII):
            raise ValueError("no call of torch.nn")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, of odd literals
            call: Any = ast.parse(text, mode="eval").body
        name = call.func.attr
        if name not in ACTIVATIONS:
            raise ValueError("no activation")
        args = [_literal_of(arg) for arg in call.args]
        options = {keyword.arg: _literal_of(keyword.value) for keyword in call.keywords}
        inspect.signature(getattr(nn, name)).bind(*args, **options)
    except (AttributeError, TypeError, SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise ValueError(f"would call {shown(text)}") from e
    arguments = ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in options.items())])
    return f"{'torch.' if text.startswith('torch.') else ''}nn.{name}({arguments})"


def _literal_of(node: ast.expr) -> Any:
    value = ast.literal_eval(node)
    if not (value is None or isinstance(value, bool) or _is_number(value) or value in ("none", "tanh")):
        raise ValueError("no argument of an activation")
    return value


def layers() -> dict[str, bool]:
    """The layers of Ultralytics that its parser knows, and some of PyTorch: name -> whether it is a head."""
    kinds = {name: kind.__module__ for name, kind in _kinds().items()}
    known = {name: module == HEADS for name, module in kinds.items() if module.startswith("ultralytics.nn.modules.")}
    known |= dict.fromkeys(("A2C2f", *(f"nn.{name}" for name in LAYERS_OF_TORCH)), False)
    return {name: is_head for name, is_head in known.items() if name not in FETCHING}


def registered() -> set[str]:
    """Layers that are the user's own, where Ultralytics' parser finds them."""
    return {name for name, kind in _kinds().items() if not kind.__module__.startswith("ultralytics.")}


def _kinds() -> dict[str, type]:
    from ultralytics.nn import tasks

    return {name: kind for name, kind in vars(tasks).items() if isinstance(kind, type) and issubclass(kind, nn.Module)}


def _check_rows(d: dict[str, Any], known: dict[str, bool]) -> None:
    rows = [*d["backbone"], *d["head"]]
    if not 0 < len(rows) <= ROWS:
        raise ValueError(f"cannot be read ({len(rows)} rows, and at most {ROWS} are)")
    depth = max([d.get("depth_multiple", 1.0), *(values[0] for values in (d.get("scales") or {}).values())])
    modules = 0.0
    for i, row in enumerate(rows):
        if type(row) not in (list, tuple) or len(row) != 4:
            raise ValueError(f"cannot be read (row {i} is {shown(row)}, not [from, repeats, layer, arguments])")
        source, repeats, name, arguments = row
        if type(name) is not str or (name not in known and not _is_silence(i, name)):
            raise ValueError(f"would call {shown(name)}")
        if known.get(name) and i < len(rows) - 1:
            raise ValueError(f"cannot be read (row {i} is a head, {name}, which the last row is)")
        sources = source if type(source) in (list, tuple) else [source]
        if not 0 < len(sources) <= ITEMS or not all(_is_count(f, -max(i, 1), i - 1) for f in sources):
            raise ValueError(f"cannot be read (row {i} is from {shown(source)}, where no layer is)")
        if not _is_count(repeats, 0, 256):
            raise ValueError(f"cannot be read (row {i} has {shown(repeats)} repeats)")
        if type(arguments) not in (list, tuple) or not _is_argument(arguments):
            raise ValueError(f"cannot be read (row {i}, {name}, has the arguments {shown(arguments)})")
        modules += max(1.0, repeats * depth)
    if modules > MODULES:
        raise ValueError(f"cannot be read (its rows make {modules:.0f} modules, and at most {MODULES} are)")


def _is_silence(layer: int, name: str) -> bool:
    """Whether it is the first layer of early YOLOv9, which Ultralytics reads as an identity."""
    return (layer, name) == (0, "Silence")


def _row(row: Any) -> list[Any]:
    source, repeats, name, arguments = row
    return [_copy(source), repeats, "nn.Identity" if name == "Silence" else name, list(map(_copy, arguments))]


def _copy(value: Any) -> Any:
    return type(value)(map(_copy, value)) if type(value) in (list, tuple) else value


def _is_argument(value: Any, depth: int = 0) -> bool:
    if type(value) in (list, tuple):
        return depth < DEPTH and len(value) <= ITEMS and all(_is_argument(item, depth + 1) for item in value)
    if type(value) is str and value not in WORDS:  # the parser makes of it what it spells
        return bool(re.fullmatch(r"[\d\s.,()\[\]eE+-]{1,64}", value, re.ASCII)) and _is_argument(_spelt(value), depth)
    return value is None or type(value) in (bool, str) or _is_number(value)


def _spelt(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text.encode()  # which is no argument


def _option(option: str, value: Any, scales: dict[str, Any]) -> Any:
    by_scale = value if type(value) is dict and len(value) <= ITEMS else {"": value}
    if not all((scale == "" or scale in scales) and _is_argument(x) for scale, x in by_scale.items()):
        raise ValueError(f"cannot be read (a2c2f has {option}: {shown(value)})")
    return dict(value) if type(value) is dict else value


def _is_number(value: Any, low: float = -LARGEST, high: float = LARGEST) -> bool:
    return type(value) in (int, float) and low <= value <= high  # which NaN is not


def _is_count(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_text(value: Any, most: int) -> bool:
    return type(value) is str and len(value) <= most and value.isprintable()


def _is_scales(value: Any) -> bool:
    if type(value) is not dict:
        return value is None
    return len(value) <= ITEMS and all(_is_text(scale, 16) and _is_size(size) for scale, size in value.items())


def _is_size(value: Any) -> bool:
    """Whether it is depth, width and the most channels of a scale."""
    limits = ((0, 16), (0, 16), (1, LARGEST))
    fits = type(value) in (list, tuple) and len(value) == len(limits)
    return fits and all(_is_number(number, low, high) for number, (low, high) in zip(value, limits))


def _is_keypoints(value: Any) -> bool:
    return type(value) in (list, tuple) and len(value) == 2 and _is_count(value[0], 1, 10_000) and value[1] in (2, 3)


def _among(kind: type, low: int, high: int) -> tuple[Any, str]:
    def fits(value: Any) -> bool:
        return value is None or (_is_count if kind is int else _is_number)(value, low, high)

    return fits, f"a number of {low} to {high}"


_rows = (lambda value: type(value) in (list, tuple), "a list of rows")
_switch = (lambda value: value is None or type(value) is bool, "true or false")
_channels = (lambda value: _is_count(value, 1, 1024), "a count of channels")

KEYS: dict[str, tuple[Any, str]] = {
    "nc": _among(int, 1, 100_000),
    "scales": (_is_scales, "a mapping of scales to depth, width and most channels"),
    "scale": (lambda value: value is None or _is_text(value, 16), "the name of a scale"),
    "depth_multiple": (lambda value: _is_number(value, 0, 16), "a number of at most 16"),
    "width_multiple": (lambda value: _is_number(value, 0, 16), "a number of at most 16"),
    "backbone": _rows,
    "head": _rows,
    "a2c2f": (lambda value: value is None or (type(value) is dict and len(value) <= ITEMS), "a mapping of options"),
    "activation": (lambda value: value is None or type(value) is str, "the call of an activation"),
    "kpt_shape": (_is_keypoints, "the number and the dimensions of keypoints"),
    "end2end": _switch,
    "inplace": _switch,
    "reg_max": _among(int, 1, 1024),
    "text_model": (lambda value: type(value) is str and TEXT_MODELS.fullmatch(value), "a text model of Ultralytics"),
    "channels": _channels,
    "ch": _channels,
    "yaml_file": (lambda value: _is_text(value, 4096) and not is_fetched(value), "the path of a file"),
}


def is_fetched(text: str) -> bool:
    """Whether a text is a URL, as Ultralytics takes it too where a path has eaten one of its slashes."""
    return re.match(r"\s*[a-z][a-z0-9+.-]+:/", text, re.IGNORECASE) is not None


def checked_arguments(args: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    """Arguments of a training without what they would have fetched or run, lines on that, and the paths that they name.

    A training that goes on or starts from a checkpoint, and a validation, take arguments of it, a dataset for one.
    """
    new: dict[str, Any] = {}
    left_out: list[str] = []
    for key, value in (vars(args) if isinstance(args, SimpleNamespace) else args).items():
        if type(key) is str and key.isidentifier() and len(key) <= 64 and _is_setting(value):
            new[key] = value
        else:
            left_out.append(f"without {shown(key, 40)}={shown(value, 60)} of its training")
    paths = [f"{key}={shown(str(value), 60)}" for key, value in new.items() if _is_path(value)]
    return new, left_out[:8] + ([f"without {len(left_out) - 8} more arguments"] if left_out[8:] else []), paths


def _is_setting(value: Any, depth: int = 0) -> bool:
    if type(value) in (list, tuple):
        return depth < DEPTH and len(value) <= 4096 and all(_is_setting(item, depth + 1) for item in value)
    if isinstance(value, PurePath):
        value = str(value)
    if type(value) is str:
        return _is_text(value, 4096) and not is_fetched(value) and "download:" not in value
    return value is None or type(value) is bool or _is_number(value, -math.inf, math.inf)


def _is_path(value: Any) -> bool:
    return isinstance(value, PurePath) or (type(value) is str and bool(re.search(r"[/\\]|^~", value)))
