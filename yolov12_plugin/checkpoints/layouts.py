"""The layouts of YOLOv12's releases: read from a model's tensors, and expressed in another where that is exact."""

import logging
import math
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Conv

from yolov12_plugin.models import release_of
from yolov12_plugin.nets import attention_blocks, task_of
from yolov12_plugin.nn.modules import A2C2f, AAttn
from yolov12_plugin.nn.options import built, scale_of

LOGGER = logging.getLogger("ultralytics")

# The options of a row of A2C2f, after (c2, a2), in stock's order.
POSITIONAL = ("area", "residual", "mlp_ratio", "e", "g", "shortcut")

# Options that only the plugin's blocks have, and their values in stock's.
PLUGIN_ONLY = {"aggregation": "r-elan", "projection": "conv", "norm": "bn", "pos_embed": "none"}


def structure(block: A2C2f) -> dict[str, Any]:
    """The options of an R-ELAN block with area attention as its tensors show them; a ratio as (channels, width)."""
    first: Any = block.m[0]
    attn, mlp = first[0].attn, first[0].mlp
    up = mlp[0].linear if hasattr(mlp[0], "linear") else mlp[0].conv
    halves = 2 if block.aggregation == "elan" else 1
    return {
        "area": int(attn.area),
        "residual": block.gamma is not None,
        "mlp_ratio": tuple(up.weight.shape[1::-1]),
        "e": (block.cv2.conv.weight.shape[0], block.cv1.conv.weight.shape[0] // halves),
        **layout(attn),
        "vertical": attn.vertical,
        "aggregation": block.aggregation,
        "projection": "linear" if hasattr(mlp[0], "linear") else "conv",
        "norm": "ln" if hasattr(mlp[0], "ln") else "bn",
        "pos_embed": attn.pos_embed,
    }


def layout(attn: AAttn) -> dict[str, Any]:
    """The options of an attention that releases differ in."""
    return {
        "qkv_fused": "qkv" in attn._modules,
        "pe_kernel": attn.pe.conv.weight.shape[-1],
        # Fused, the bias is the normalisation's.
        "pe_bias": attn.pe.conv.bias is not None and (hasattr(attn.pe, "bn") or hasattr(attn.pe, "ln")),
    }


def describe_in_yaml(model: Any) -> list[str]:
    """Write in the `a2c2f:` section of a model's YAML what its tensors show and the YAML does not say; returns that.

    The authors' YAMLs do not say it, since each of their branches builds one structure: a training would build another
    one from them, which the weights do not fit.
    """
    d, blocks = getattr(model, "yaml", None), attention_blocks(model)
    if not blocks or not isinstance(d, dict):
        return []
    try:
        wrong = differences(model, d)
    except (AttributeError, LookupError, TypeError, ValueError):  # what cannot be built says so to whoever builds it
        return []
    section = {key: value for key in wrong if (value := common(key, blocks.values())) is not None}
    if section:
        model.yaml = {**d, "a2c2f": {**(d.get("a2c2f") or {}), **section}}
    return [f"{key}: {value} into the YAML" for key, value in section.items()]


def differences(model: Any, d: dict[str, Any], stock: bool = False) -> dict[str, tuple[Any, Any]]:
    """Options in which what a YAML builds, here or on stock, is not the model: option -> (in the model, built).

    Raises:
        ValueError: the YAML cannot be built here, or is of another model.
    """
    blocks = attention_blocks(model)
    changing = [i for i, m in blocks.items() if m.cv1.conv.weight.shape[1] != m.cv2.conv.weight.shape[0]]
    rows, ours = built(d, A2C2f, stock, changing), built(model.yaml, A2C2f)
    if absent := blocks.keys() - rows.keys():
        raise ValueError(f"its YAML has no A2C2f at layer {min(absent)}")
    different: dict[str, tuple[Any, Any]] = {}
    for layer, options in rows.items():
        if layer in blocks:
            found = structure(blocks[layer])
            if found["area"] == 1:
                del found["vertical"]  # one area is the same in any order of its tokens
        else:
            found = {key: ours[layer][key] for key in ("e", "g", "shortcut")}  # all that C3k blocks depend on
        for key, value in found.items():
            given = options[key] is not False if key == "residual" else options[key]  # its value is only the first
            if not (_makes(given, [value]) if isinstance(value, tuple) else given == value):
                different.setdefault(key, (value, options[key]))
    return different


def _makes(ratio: float, widths: Iterable[tuple[int, int]]) -> bool:
    return all(int(channels * ratio) == width for channels, width in widths)


def common(key: str, blocks: Iterable[A2C2f]) -> Any:
    """The value of an option that gives all the blocks, None where there is no such value."""
    found = {structure(block)[key] for block in blocks}
    if key not in ("mlp_ratio", "e"):
        return found.pop() if len(found) == 1 else None
    # The roundest number that is not below the ratio of any: widths are rounded down.
    largest = max(width / channels for channels, width in found)
    ratios = (math.ceil(largest * 10**digits) / 10**digits for digits in range(1, 10))
    return next((ratio for ratio in ratios if _makes(ratio, found)), None)


def express(attn: AAttn, qkv_fused: bool, pe_kernel: int, pe_bias: bool) -> list[str]:
    """Give an attention another layout in which it computes the same; returns what was changed.

    qk and v become qkv by reordering output channels with their normalisation, and back; a smaller perceiver is padded
    with zeros; its bias goes into the running mean, which computes the same in training too.

    Args:
        attn: the attention, which is changed in place.
        qkv_fused, pe_kernel, pe_bias: of the layout, as of `AAttn`.

    Raises:
        ValueError: there is no exact way; the module is as it was.
    """
    now = layout(attn)
    projections = [getattr(attn, name) for name in (("qkv",) if now["qkv_fused"] else ("qk", "v"))]
    if not all(isinstance(m, Conv) for m in (*projections, attn.pe)):
        raise ValueError("its attention has linear layers or layer normalisation")
    if any(type(m.conv) is not nn.Conv2d for m in (*projections, attn.pe)):
        raise ValueError("its attention is quantised")
    if len({(m.bn.eps, m.bn.momentum) for m in projections if hasattr(m, "bn")}) > 1:
        raise ValueError("qk and v are normalised differently")
    if pe_kernel < now["pe_kernel"]:
        raise ValueError(f"a perceiver of {now['pe_kernel']}x{now['pe_kernel']} is no {pe_kernel}x{pe_kernel} one")

    changes = []
    if qkv_fused != now["qkv_fused"]:
        # Channels [q, k, v], each by heads -> channels per head [q, k, v]
        order = torch.arange(3 * attn.all_head_dim).view(3, attn.num_heads, attn.head_dim).transpose(0, 1).flatten()
        if qkv_fused:
            new = {"qkv": _take(projections, order)}
        else:
            qk, v = order.argsort().split([2 * attn.all_head_dim, attn.all_head_dim])
            new = {"qk": _take(projections, qk), "v": _take(projections, v)}
        rest = {name: m for name, m in attn._modules.items() if name not in ("qkv", "qk", "v")}
        attn._modules.clear()  # the projections come first, as the constructor has them
        attn._modules.update({**new, **rest})
        changes.append("qk and v to qkv" if qkv_fused else "qkv to qk and v")
    conv = attn.pe.conv
    if more := (pe_kernel - now["pe_kernel"]) // 2:
        conv.weight = _parameter(F.pad(conv.weight, [more] * 4), conv.weight)
        conv.kernel_size, conv.padding = (pe_kernel,) * 2, (pe_kernel // 2,) * 2
        changes.append(f"pe {now['pe_kernel']}x{now['pe_kernel']} to {pe_kernel}x{pe_kernel}")
    if hasattr(attn.pe, "bn") and pe_bias != now["pe_bias"]:
        if pe_bias:
            conv.bias = _parameter(torch.zeros_like(attn.pe.bn.bias), conv.weight)
            changes.append("pe bias of zeros")
        else:
            # In single precision where the rest is in half: the difference has more digits than its terms.
            mean = attn.pe.bn.running_mean
            attn.pe.bn.running_mean = mean.to(torch.promote_types(mean.dtype, torch.float32)) - conv.bias.detach()
            conv.bias = None
            changes.append("pe bias to running mean")
    return changes


def to_stock(model: Any) -> tuple[list[str], list[str]]:
    """Give a model the layout that stock Ultralytics knows, and a YAML from which that builds it.

    Returns what changed, and the options that the rows of the YAML had to name, as stock's parser sets others.

    Raises:
        ValueError: there is no exact way.
    """
    blocks = attention_blocks(model)
    changes: list[str] = []
    for layer, block in blocks.items():
        found = structure(block)
        if other := [key for key, value in PLUGIN_ONLY.items() if found[key] != value]:
            raise ValueError(f"model.{layer} has {other[0]} {found[other[0]]}, which stock does not have")
    for name, m in model.named_modules():
        if isinstance(m, AAttn):
            if m.vertical and m.area > 1:
                raise ValueError(f"{name} has vertical areas, which stock computes as horizontal ones")
            m.vertical = False
            try:
                changes += express(m, qkv_fused=True, pe_kernel=max(7, layout(m)["pe_kernel"]), pe_bias=False)
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from e
    d = {key: value for key, value in model.yaml.items() if key != "a2c2f"}
    named = [key for key in differences(model, d, stock=True) if key in POSITIONAL]
    if named:
        d = _written_out(d, built(model.yaml, A2C2f), blocks)
        changes.append(f"{', '.join(named)} into the rows of the YAML")
    model.yaml = d
    return changes, named


def _written_out(d: dict[str, Any], rows: dict[int, dict[str, Any]], blocks: dict[int, A2C2f]) -> dict[str, Any]:
    """A model YAML whose rows give every option, at a scale of which stock's parser knows no rule of its own."""
    d, scale = deepcopy(d), scale_of(d)
    if scale in ("l", "x"):
        d["scale"] = scale.upper()
        if d.get("scales"):
            d["scales"][scale.upper()] = d["scales"][scale]
    for i, (_, _, name, args) in enumerate([*d["backbone"], *d["head"]]):
        if name == "C3k2" and scale in ("l", "x"):
            args[1:2] = [True]  # the parser's rule for M, L and X
        if name == "A2C2f":
            options = rows[i]
            if i in blocks:
                found = structure(blocks[i])
                ratios = {key: common(key, [blocks[i]]) for key in ("mlp_ratio", "e")}
                options = {**options, **found, **ratios}
            args[:] = [args[0], args[1] if len(args) > 1 else True, *(options[key] for key in POSITIONAL)]
    return d


def _take(convs: list[Conv], order: Tensor) -> Conv:
    """The convolution whose output channels are those of `convs`, one after the other, in `order`."""
    new = deepcopy(convs[0])
    for name, m in new.named_children():
        for key, t in (*m.named_parameters(), *m.named_buffers()):
            if t.ndim:  # but the count of batches
                taken = torch.cat([getattr(getattr(c, name), key).detach() for c in convs])[order.to(t.device)]
                setattr(m, key, _parameter(taken, t) if isinstance(t, nn.Parameter) else taken)
    new.conv.out_channels = len(order)
    if hasattr(new, "bn"):
        new.bn.num_features = len(order)
    return new


def _ungroup(conv: nn.Conv2d) -> None:
    """Make a convolution of several groups one of a single group, with zeros between them."""
    weight = conv.weight.new_zeros(conv.out_channels, conv.in_channels, *conv.kernel_size)
    # (out, in, k, k) -> (groups, out/groups, groups, in/groups, k, k): one block a group
    blocks = weight.unflatten(1, (conv.groups, -1)).unflatten(0, (conv.groups, -1))
    for i, group in enumerate(conv.weight.detach().chunk(conv.groups)):
        blocks[i, :, i] = group
    conv.weight, conv.groups = _parameter(weight, conv.weight), 1


def _parameter(t: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(t.detach(), requires_grad=like.requires_grad)


def transfer(source: Any, target: Any) -> tuple[Any, list[str]]:
    """`source`, or a copy of it in the layout that `target` has, and what was changed.

    Raises:
        ValueError: the other release's layout cannot express it, or no tensor fits; the message names the command that
            trains it all the same.
    """
    pairs = list(_pairs(source, target, AAttn))
    grouped = [
        (name, theirs.groups)
        for name, theirs, ours in _pairs(source, target, nn.Conv2d)
        if pairs and ours.groups == 1 < theirs.groups and _size(theirs) == _size(ours)
    ]
    changes: list[str] = []
    other_release = any(layout(a)["qkv_fused"] != layout(b)["qkv_fused"] for _, a, b in pairs)
    if grouped or any(layout(a) != layout(b) for _, a, b in pairs):
        source = deepcopy(source)
        for name, theirs, ours in _pairs(source, target, AAttn):
            try:
                changes += express(theirs, **layout(ours))
            except ValueError as e:
                if other_release:
                    raise ValueError(_refusal(source, target, f"{name}: {e}")) from e
        for name, groups in grouped:
            _ungroup(source.get_submodule(name))
            changes.append(f"{groups} groups to 1")

    misfits = _misfits(source, target)
    if {name for name, _ in target.named_parameters() if ".dfl." not in name} <= misfits.keys():  # DFL's is a constant
        raise ValueError(_refusal(source, target, "no weight has the name and the shape of one there"))
    if other_release and _same_scale(pairs) and (body := _of_body(misfits, source, target)):
        raise ValueError(_refusal(source, target, f"{body[0]} {misfits[body[0]]}"))
    return source, list(dict.fromkeys(changes))


def _same_scale(pairs: Iterable[tuple[str, AAttn, AAttn]]) -> bool:
    return all(theirs.all_head_dim == ours.all_head_dim for _, theirs, ours in pairs)


def _of_body(keys: Iterable[str], source: Any, target: Any) -> list[str]:
    """The tensors of the layers that both have before a head, which differs by task and classes."""
    layers = min(len(source.model), len(target.model)) - 1
    body = tuple(f"model.{i}." for i in range(layers))
    return [key for key in keys if key.startswith(body)]


def _pairs(source: Any, target: Any, kind: type) -> Iterator[tuple[str, Any, Any]]:
    """Modules of a kind that have the same name in both."""
    named = dict(source.named_modules())
    for name, m in target.named_modules():
        if isinstance(m, kind) and isinstance(named.get(name), kind):
            yield name, named[name], m


def _size(conv: nn.Conv2d) -> tuple[Any, ...]:
    return conv.in_channels, conv.out_channels, conv.kernel_size


def _misfits(source: Any, target: Any) -> dict[str, str]:
    """The tensors of two models that do not fit each other, and why."""
    # A quantisation-aware training measures the ranges of its own quantisers, or restores them by itself
    have, want = ({k: v for k, v in m.state_dict().items() if "_quantizer." not in k} for m in (source, target))
    misfits = {}
    for key in {**want, **have}:
        if key not in have:
            misfits[key] = "not in the checkpoint"
        elif key not in want:
            misfits[key] = "without a place in the model"
        elif have[key].shape != want[key].shape:
            misfits[key] = f"{tuple(have[key].shape)} in the checkpoint and {tuple(want[key].shape)} in the model"
    return misfits


@contextmanager
def reported(source: Any, target: Any, changes: list[str]) -> Iterator[None]:
    """Say in one line how many tensors of a checkpoint a model took over, which it did not, and why."""
    tensors = target.state_dict()
    before = {key: tensors[key].clone() for key in _misfits(source, target) if key in tensors}
    yield
    misfits, now = _misfits(source, target), target.state_dict()
    # Ultralytics copies the rows of like-named classes, and of a first convolution what it can use.
    partly = [k for k in misfits if k in before and before[k].shape == now[k].shape and not before[k].equal(now[k])]
    missed = {key: why for key, why in misfits.items() if key not in partly}
    line = f"Transferred {len(now.keys() - misfits.keys())}/{len(now)} items from pretrained weights ({_name(source)})"
    if changes:
        line += f", converted exactly ({', '.join(changes)})"
    if partly:
        line += f". In part: {_grouped(dict.fromkeys(partly, 'rows that fit'))}"
    if missed:
        line += f". Not taken over: {_grouped(missed)}"
    loss = _same_head(source, target) and _of_body(missed, source, target)
    if not any(isinstance(m, nn.BatchNorm2d) for m in source.modules()):
        line += ". The checkpoint is fused: give the one that it was fused from"
    elif loss and (pairs := list(_pairs(source, target, AAttn))) and _same_scale(pairs):
        line += f". All of it trains by: {_command(source, target)}"
    (LOGGER.warning if loss else LOGGER.info)(line)


def _grouped(misfits: dict[str, str]) -> str:
    """Tensors by the reason why they do not fit, each reason with as few and as short names as name all of them."""
    reasons: dict[str, list[str]] = {}
    for key, why in misfits.items():
        reasons.setdefault(why, []).append(key)
    shapes = [why for why in reasons if why.startswith("(")]
    if len(shapes) > 3:
        for why in shapes:
            del reasons[why]
        reasons["of another shape"] = [key for key, why in misfits.items() if why in shapes]
    parts = []
    for why, keys in reasons.items():
        for depth in range(max(key.count(".") for key in keys) + 1, 1, -1):
            names = dict.fromkeys(".".join(key.split(".")[:depth]) for key in keys)
            if len(names) <= 6:
                break
        count = f"{len(keys)} tensors, " if len(keys) > 1 else ""
        parts.append(f"{', '.join(names)} ({count}{why})")
    return "; ".join(parts)


def _refusal(source: Any, target: Any, why: str) -> str:
    way = "Train it in its own layout" if _same_head(source, target) else "Start from weights of that layout"
    return f"{_name(source)} cannot be loaded into {_yaml(target)}: {why}. {way}: {_command(source, target)}"


def _command(source: Any, target: Any) -> str:
    if _same_head(source, target):
        return f"yolo train model={shlex.quote(str(getattr(source, 'pt_path', None) or 'CHECKPOINT'))}"
    blocks = attention_blocks(target).values()
    release = release_of(task_of(target), turbo=not structure(next(iter(blocks)))["qkv_fused"])
    suffix = "" if release == "v1.0" else f"-{release}"
    return f"yolo train model={_yaml(target)} pretrained=yolov12{scale_of(target.yaml)}{suffix}.pt"


def _same_head(source: Any, target: Any) -> bool:
    return type(source.model[-1]) is type(target.model[-1])


def _yaml(target: Any) -> str:
    return shlex.quote(target.yaml.get("yaml_file") or type(target).__name__)


def _name(model: Any) -> str:
    path = getattr(model, "pt_path", None)
    return Path(path).name if path else "the given model"
