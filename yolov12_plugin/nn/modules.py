"""The blocks of YOLOv12: area attention and R-ELAN, under the parameter names of the authors' releases."""

import functools
import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import ultralytics
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_weights
from ultralytics.nn.modules.block import DFL, C3k
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.modules.head import OBB, Detect, Pose, Segment

from yolov12_plugin.errors import NotRunnable
from yolov12_plugin.nn.attention import area_attention, offsets, position_encoding
from yolov12_plugin.nn.checkpointing import checkpointed
from yolov12_plugin.nn.layers import Integral, IntegralOfMaps, layer, on_maps, plain
from yolov12_plugin.nn.options import all_taken, check, from_yaml, read_section, warn_of_misspelt_sections

HEAD_DIM = 32

# Checkpoints name the classes where Ultralytics keeps its own, so that they load with the plugin absent.
CHECKPOINT_MODULE = "ultralytics.nn.modules.block"

# They decide by shapes, memory formats and devices: each is one node of a graph by torch.fx.
torch.fx.wrap("area_attention")
torch.fx.wrap("offsets")
torch.fx.wrap("position_encoding")


class AAttn(nn.Module):
    """Area attention with a position perceiver (paper 3.2, 3.4, Tables 3, 5a, 5d and 5e).

    The H·W tokens, flattened row by row, are cut into `area` equal parts that attend within themselves; parts of
    H·W that `area` does not divide are those of `torch.tensor_split` (the first ones hold one token more).

    Args:
        dim: channels in and out.
        num_heads: heads of dim // num_heads channels; YOLOv12 uses dim / 32.
        area: number of areas, at least 1; 1 is plain attention.
        qkv_fused: one 1x1 convolution `qkv` with output channels per head [q, k, v] (v1.0), or `qk` (all q, then
            all k) and `v` (turbo, seg, cls).
        pe_kernel: odd kernel size of the position perceiver, a depthwise convolution on v (v1.0: 7, turbo: 5).
        pe_bias: give the perceiver's convolution a bias, as the released v1.0 weights have.
        vertical: flatten column by column, so that areas are (H, W/area) instead of (H/area, W).
        projection: "conv" for 1x1 convolutions, "linear" for linear layers on tokens.
        norm: "bn" or "ln", the normalisation after each of them and after the perceiver.
        pos_embed: "none", "absolute" for sines and cosines added to the input, or "relative" for a bias of each head
            by the tokens' offset, from an MLP as Swin v2 has it; both fit any size of map.

    Shapes: (B, dim, H, W) -> (B, dim, H, W), any H and W.

    Raises:
        ValueError: an argument is out of the range above.

    Examples:
        >>> import torch, yolov12_plugin as y12
        >>> y12.AAttn(64, num_heads=2, area=4)(torch.rand(1, 64, 6, 10)).shape
        torch.Size([1, 64, 6, 10])
    """

    __module__ = CHECKPOINT_MODULE

    format: str | None  # of the export that a fused copy is made for

    def __init__(
        self,
        dim: int,
        num_heads: int,
        area: int = 1,
        *,
        qkv_fused: bool = True,
        pe_kernel: int = 7,
        pe_bias: bool = False,
        vertical: bool = False,
        projection: str = "conv",
        norm: str = "bn",
        pos_embed: str = "none",
    ):
        super().__init__()
        if not 1 <= num_heads <= dim:
            raise ValueError(f"num_heads={num_heads} must be 1 to dim={dim}")
        check(area=area, qkv_fused=qkv_fused, pe_kernel=pe_kernel, pe_bias=pe_bias, vertical=vertical)
        check(projection=projection, norm=norm, pos_embed=pos_embed)
        if pos_embed == "absolute" and dim % 4:
            raise ValueError(f"pos_embed={pos_embed!r} needs a multiple of 4 as dim, not {dim}")
        self.area = area
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.all_head_dim = width = self.head_dim * num_heads
        self.vertical = vertical
        self.pos_embed = pos_embed
        self.format = None

        # The order of creation is stock's: equal seeds give equal weights.
        kind: dict[str, Any] = dict(projection=projection, norm=norm)
        if qkv_fused:
            self.qkv = layer(dim, 3 * width, **kind)
        else:
            self.qk = layer(dim, 2 * width, **kind)
            self.v = layer(dim, width, **kind)
        self.proj = layer(width, dim, **kind)
        self.pe = layer(width, width, pe_kernel, width, projection="conv", norm=norm)
        if pe_bias:
            self.pe.conv.bias = nn.Parameter(torch.zeros(width))
        if pos_embed == "relative":
            self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, num_heads, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed == "absolute":
            x = x + position_encoding(x)
        qkv, v = self._project(x)
        out, v = area_attention(
            qkv,
            self.num_heads,
            self.area,
            scale=1.0 if hasattr(self, "packed") else None,
            v=v,
            by_head=hasattr(self, "qkv"),
            vertical=self.vertical,
            table=self._bias_table(x),
            format=self.format,
        )
        return self.proj(self.pe(v) + out)  # in this order the sum has the memory format of the map

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, dim, H, W) -> [q, k, v] (B, 3·dim, H, W) and None, or [q, k] (B, 2·dim, H, W) and v (B, dim, H, W)."""
        if hasattr(self, "values"):
            return self.packed(x), self.values(x)
        if hasattr(self, "packed"):
            return self.packed(x), None
        if hasattr(self, "qkv"):
            return self.qkv(x), None
        return self.qk(x), self.v(x)

    def _bias_table(self, x: Tensor) -> Tensor | None:
        if not hasattr(self, "cpb_mlp"):
            return None
        h, w = (x.shape[3], x.shape[2]) if self.vertical else (x.shape[2], x.shape[3])
        apart = offsets(h, w, like=self.cpb_mlp[0].weight)  # type: ignore[arg-type]
        return self.cpb_mlp(apart).permute(2, 0, 1)  # (2H-1, 2W-1, heads) -> (heads, 2H-1, 2W-1)

    def areas(self, h: int, w: int) -> Tensor:
        """The number of the area of each token of a map: (H, W).

        Args:
            h, w: size of the map.
        """
        parts = torch.arange(h * w).tensor_split(min(self.area, h * w))
        number = torch.cat([torch.full_like(part, i) for i, part in enumerate(parts)])
        return number.view(w, h).t() if self.vertical else number.view(h, w)

    def attention_map(self, x: Tensor, row: int, column: int) -> Tensor:
        """How much one token attends to each of the map, 0 outside of its area (paper 4.5).

        Args:
            x: the input of the module, (B, dim, H, W).
            row, column: of the token.

        Returns:
            (B, heads, H, W), which sums to 1 over the map.
        """
        if self.pos_embed == "absolute":
            x = x + position_encoding(x)
        h, w = x.shape[2:]
        qkv, _ = self._project(x)
        if hasattr(self, "qkv"):
            q, k, _ = qkv.unflatten(1, (self.num_heads, 3, self.head_dim)).unbind(2)  # (B, heads, head_dim, H, W)
        else:
            q, k = qkv[:, : 2 * self.all_head_dim].unflatten(1, (2, self.num_heads, self.head_dim)).unbind(1)
        scale = 1.0 if hasattr(self, "packed") else self.head_dim**-0.5
        products = (q[..., row, column][..., None, None] * k).sum(2) * scale
        table = self._bias_table(x)
        if table is not None:
            # Rows and columns of the table by the offset of the token from each other one
            if self.vertical:
                products = products + table[:, column : column + w, row : row + h].flip(1, 2).transpose(1, 2)
            else:
                products = products + table[:, row : row + h, column : column + w].flip(1, 2)
        number = self.areas(h, w)
        elsewhere = (number != number[row, column]).to(x.device)
        return products.masked_fill(elsewhere, -torch.inf).flatten(2).softmax(-1).unflatten(2, (h, w))

    def fuse(self, format: str | None = None) -> None:
        """Re-parameterise a fused copy for an export: one projection to [q, k, v] with the scale folded in.

        Compilers then make one kernel of each attention, and fewer around it. OpenVINO gets two projections, to [q, k]
        and to v. The module is for making that graph, no longer for training or saving. Convolutions that ModelOpt
        quantised stay so: the range of each channel of a weight moves and scales with it, so that its INT8 codes are
        the same. Projections that are no plain convolutions (pruned or hooked ones, say, or Table 5a's others) are left
        alone, and so are `qk` and `v` whose inputs have different ranges.

        Args:
            format: that of Ultralytics' exporter, which calls this.
        """
        self.format = format
        projections = [getattr(self, name) for name in ("qkv", "qk", "v") if hasattr(self, name)]
        if not projections or not all(map(_is_plain, projections)):
            return
        if len({_input_range(m.conv) for m in projections}) > 1:
            return
        folded = [torch.cat(parts).detach() for parts in zip(*map(_folded, projections))]
        if hasattr(self, "qkv"):
            # Channels per head [q, k, v] -> [q, k, v]
            order = torch.arange(len(folded[0])).view(self.num_heads, 3, self.head_dim).transpose(0, 1).flatten()
            folded = [part[order] for part in folded]
        # nncf gives q and k one range, and v one for each channel: of one convolution they would leave in FP32. With
        # half of the scale on each of q and k, one range suits both.
        conv, dim, apart = projections[0].conv, self.all_head_dim, format == "openvino"
        for part in folded:
            part[: 2 * dim if apart else dim] *= self.head_dim ** (-0.25 if apart else -0.5)
        if apart:
            self.values = _with_weights(conv, *(part[2 * dim :] for part in folded))
            folded = [part[: 2 * dim] for part in folded]
        self.packed = _with_weights(conv, *folded)
        for name in "qkv", "qk", "v":
            self._modules.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_modules": plain(self._modules)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Checkpoints of stock Ultralytics and of the authors do not store these, some of the authors' not even the last
        super().__setstate__({"vertical": False, "pos_embed": "none", "format": None} | state)
        self.all_head_dim = self.num_heads * self.head_dim
        on_maps(self._modules)


class ABlock(nn.Module):
    """Residual area attention and residual MLP of 1x1 convolutions (paper 3.4, Tables 5a and 5g).

    Args:
        dim: channels in and out.
        num_heads: heads of the attention.
        mlp_ratio: hidden channels of the MLP over `dim`, rounded down.
        area: number of areas.
        projection, norm: as of `AAttn`, of the MLP too.
        attn_options: the other keyword options of `AAttn`.

    Shapes: (B, dim, H, W) -> (B, dim, H, W).

    Raises:
        ValueError: `mlp_ratio` leaves no hidden channel, or an option that `AAttn` refuses.

    Examples:
        >>> import torch, yolov12_plugin as y12
        >>> y12.ABlock(64, num_heads=2, mlp_ratio=2.0, area=4)(torch.rand(1, 64, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    __module__ = CHECKPOINT_MODULE

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 1.2,
        area: int = 1,
        *,
        projection: str = "conv",
        norm: str = "bn",
        **attn_options: Any,
    ):
        super().__init__()
        check(mlp_ratio=mlp_ratio)
        hidden = int(dim * mlp_ratio)
        if hidden < 1:
            raise ValueError(f"mlp_ratio={mlp_ratio} leaves no hidden channel of dim={dim}")
        kind: dict[str, Any] = dict(projection=projection, norm=norm)
        self.attn = AAttn(dim, num_heads, area, **kind, **attn_options)
        self.mlp = nn.Sequential(layer(dim, hidden, act=True, **kind), layer(hidden, dim, **kind))
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(m: nn.Module) -> None:
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._forward(x)
        else:
            return checkpointed(self, self._forward, x)

    def _forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)

    def fuse(self, format: str | None = None) -> None:
        """Round the hidden channels of a fused copy's MLP up to a multiple of 8 for TensorRT, which else pads its maps.

        Those of L and X are int(1.2·dim). What is added is zero before and after the SiLU, so the outputs are the same.
        An MLP that is no pair of plain convolutions is left alone.

        Args:
            format: that of Ultralytics' exporter, which calls this.
        """
        if format != "engine" or type(self.mlp) is not nn.Sequential or len(self.mlp) != 2:
            return
        first: Any = self.mlp[0]
        second: Any = self.mlp[1]
        if not (_is_pointwise(first) and type(first.act) is nn.SiLU and _is_plain(second)):
            return
        more = -first.conv.out_channels % 8
        if hasattr(first, "bn") or hasattr(second, "bn") or not more:
            return
        if _is_quantised(first.conv) or _is_quantised(second.conv):
            return  # in INT8 the kernel between them pads as it writes
        with torch.no_grad():
            first.conv.weight = nn.Parameter(pad(first.conv.weight, (0, 0, 0, 0, 0, 0, 0, more)), requires_grad=False)
            first.conv.bias = nn.Parameter(pad(first.conv.bias, (0, more)), requires_grad=False)
            second.conv.weight = nn.Parameter(pad(second.conv.weight, (0, 0, 0, 0, 0, more)), requires_grad=False)
        first.conv.out_channels += more
        second.conv.in_channels += more

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_modules": plain(self._modules)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        on_maps(self._modules)


class A2C2f(nn.Module):
    """R-ELAN, the residual efficient layer aggregation network (paper 3.3, Figure 3d, Table 2).

    A 1x1 transition to c2·e channels, `n` pairs of `ABlock` (or `n` C3k blocks) in a row, and a 1x1 convolution over
    the concatenation of all of them; with `residual` the result is scaled per channel and added to the input. With the
    aggregation of ELAN (Figure 3b, Table 2's vanilla) the transition has twice the channels and is split: one half
    passes through the blocks, and both are concatenated.

    Args:
        c1: channels in.
        c2: channels out.
        n: number of stacked pairs of `ABlock`, or of C3k blocks.
        a2: area attention; False builds C3k blocks, and `area`, `residual`, `mlp_ratio` and the options of
            `AAttn` have no effect; `aggregation` has.
        area: number of areas of each attention.
        residual: initial value of the learned scaling of the block's output, True for the paper's 0.01, False for no
            residual; needs c1 = c2.
        mlp_ratio: hidden channels of each MLP over c2·e.
        e: hidden over output channels; c2·e must be a multiple of 32, the width of a head.
        g: groups of the C3k blocks.
        shortcut: shortcuts within the C3k blocks.
        aggregation: "r-elan", or "elan" for the original one.
        qkv_fused, pe_kernel, pe_bias, vertical, projection, norm, pos_embed: as of `AAttn`.

    Shapes: (B, c1, H, W) -> (B, c2, H, W).

    Raises:
        ValueError: an argument is out of range; within a model, the message names the YAML and the layer.

    Examples:
        >>> import torch, yolov12_plugin as y12
        >>> y12.A2C2f(64, 128, n=2, area=4)(torch.rand(1, 64, 8, 8)).shape
        torch.Size([1, 128, 8, 8])
    """

    __module__ = CHECKPOINT_MODULE

    aggregation = "r-elan"  # checkpoints of stock Ultralytics and of the authors do not store it

    @from_yaml
    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        a2: bool = True,
        area: int = 1,
        residual: bool | float = False,
        mlp_ratio: float = 2.0,
        e: float = 0.5,
        g: int = 1,
        shortcut: bool = True,
        *,
        qkv_fused: bool = True,
        pe_kernel: int = 7,
        pe_bias: bool = False,
        vertical: bool = False,
        aggregation: str = "r-elan",
        projection: str = "conv",
        norm: str = "bn",
        pos_embed: str = "none",
    ):
        super().__init__()
        check(e=e, g=g, shortcut=shortcut, aggregation=aggregation)
        hidden = int(c2 * e)
        if a2:
            check(residual=residual)
            if hidden < 1 or hidden % HEAD_DIM:
                raise ValueError(f"hidden width c2*e={hidden} (c2={c2}, e={e}) must be a multiple of {HEAD_DIM}")
            if residual is not False and c1 != c2:
                raise ValueError(
                    f"residual={residual} and aggregation={aggregation!r} do not go together where the channels in and "
                    f"out differ, c1={c1} and c2={c2}: set residual=False, or give the layer {c1} channels"
                )
        attn_options: dict[str, Any] = dict(
            qkv_fused=qkv_fused,
            pe_kernel=pe_kernel,
            pe_bias=pe_bias,
            vertical=vertical,
            projection=projection,
            norm=norm,
            pos_embed=pos_embed,
        )

        self.aggregation = aggregation
        halves = 2 if aggregation == "elan" else 1
        self.cv1 = Conv(c1, halves * hidden, 1)
        self.cv2 = Conv((halves + n) * hidden, c2, 1)
        self.gamma = None
        if a2 and residual is not False:
            self.gamma = nn.Parameter(torch.full((c2,), 0.01 if residual is True else float(residual)))
        self.m = nn.ModuleList(
            nn.Sequential(*(ABlock(hidden, hidden // HEAD_DIM, mlp_ratio, area, **attn_options) for _ in range(2)))
            if a2
            else C3k(hidden, hidden, 2, shortcut, g)
            for _ in range(n)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        if self.aggregation == "elan":
            y = list(y[0].chunk(2, 1))  # (B, 2·c2·e, H, W) -> two of (B, c2·e, H, W)
        for m in self.m:
            y.append(m(y[-1]))
        out = self.cv2(torch.cat(y, 1))  # n + 1 maps (B, c2·e, H, W), of ELAN n + 2 -> (B, c2, H, W)
        return out if self.gamma is None else x + self.gamma.view(1, -1, 1, 1) * out


def fuse_blocks(model: nn.Module, format: str) -> None:
    """Re-parameterise a fused copy of a YOLOv12 for an export: its blocks as their `fuse`, and its head's DFL."""
    modules: list[Any] = list(model.modules())
    if not any(isinstance(m, AAttn) for m in modules):
        return
    for m in modules:
        if isinstance(m, (AAttn, ABlock)):
            m.fuse(format)
        elif type(getattr(m, "dfl", None)) is DFL:
            if format in ("engine", "onnx") and not _is_hooked(m.dfl):
                m.dfl = Integral(m.dfl)
            elif format == "openvino" and _flattens_boxes(m) and not _is_hooked(m):
                _integrate_maps(m)


def _flattens_boxes(head: nn.Module) -> bool:
    """Whether it is a head of Ultralytics 8.4 or newer, which has boxes apart from scores; older ones join the maps."""
    return type(head) in (Detect, Segment, Pose, OBB) and hasattr(Detect, "forward_head")


def _integrate_maps(head: Any) -> None:
    """Have a head take the expectations of its distributions before it flattens the maps."""
    integral = IntegralOfMaps(head.dfl)
    for name in "cv2", "one2one_cv2":
        branches = getattr(head, name, None)
        if branches is not None:  # fusion leaves one of the two
            setattr(head, name, nn.ModuleList(nn.Sequential(branch, integral) for branch in branches))
    head.reg_max, head.no = 1, head.nc + 4
    del head.dfl
    head.dfl = integral  # the last to hold it names it in the graph, where Ultralytics leaves `dfl` in float


def _is_plain(m: nn.Module) -> bool:
    """Whether a projection is a 1x1 convolution, and nothing else happens when it is called."""
    return _is_pointwise(m) and type(m.act) is nn.Identity


def _is_pointwise(m: nn.Module) -> bool:
    """Likewise, but for its activation."""
    if type(m) is not Conv or not (type(m.conv) is nn.Conv2d or _is_quantised(m.conv)):
        return False
    conv = m.conv
    if (conv.kernel_size, conv.stride, conv.padding, conv.groups) != ((1, 1), (1, 1), (0, 0), 1):
        return False
    return not _is_hooked(m)


def _is_hooked(m: nn.Module) -> bool:
    return any(part._forward_hooks or part._forward_pre_hooks for part in m.modules())


def _is_quantised(conv: Any) -> bool:
    """Whether a convolution is ModelOpt's of Ultralytics' quantisation-aware training, by names: it need not be there.

    Its input then has one fixed range, its weight one for each output channel, and its output none.
    """
    if type(conv).__name__ != "QuantConv2d":
        return False
    quantizers = {conv.input_quantizer: 1, conv.weight_quantizer: conv.out_channels}
    fixed = all(
        type(q).__name__ == "TensorQuantizer" and q.is_enabled and q.amax is not None and q.amax.numel() == ranges
        for q, ranges in quantizers.items()
    )
    return fixed and not conv.output_quantizer.is_enabled


def _input_range(conv: Any) -> float | None:
    """What a quantised convolution clips its input to."""
    return conv.input_quantizer.amax.item() if _is_quantised(conv) else None


def _folded(m: Conv) -> list[Tensor]:
    """Weight and bias of a convolution with its normalisation, where it still has one, and the ranges of its weight."""
    conv, ranges = m.conv, [m.conv.weight_quantizer.amax] if _is_quantised(m.conv) else []
    if not hasattr(m, "bn"):
        return [conv.weight, conv.bias, *ranges]
    bn = m.bn
    scale = (bn.weight * (bn.running_var + bn.eps).rsqrt()).abs()
    folded = fuse_conv_bn_weights(conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    return [*folded, *(r * scale.view_as(r) for r in ranges)]


def _with_weights(conv: Any, weight: Tensor, bias: Tensor, ranges: Tensor | None = None) -> Any:
    """A convolution as another one is, with these weights."""
    new = deepcopy(conv)
    new.out_channels = len(weight)
    new.weight = nn.Parameter(weight, requires_grad=False)
    new.bias = nn.Parameter(bias, requires_grad=False)
    if ranges is not None:
        new.weight_quantizer.reset_amax()
        new.weight_quantizer.amax = ranges
    return new


def read_a2c2f_section(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Hand the options of a YAML's `a2c2f:` section to the blocks that the parser builds."""

    @functools.wraps(stock)
    def parse_model(d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        _check_end2end(d)
        warn_of_misspelt_sections(d, A2C2f)
        d = read_section(d, A2C2f)
        with all_taken(d):
            return stock(d, *args, **kwargs)

    return parse_model


def _check_end2end(d: dict[str, Any]) -> None:
    """Refuse what an older Ultralytics would build, without a word, as a model that needs non-maximum suppression."""
    if not d.get("end2end") or "end2end" in inspect.signature(Detect).parameters:
        return
    if any(row[2] == A2C2f.__name__ for row in (*d["backbone"], *d["head"])):
        raise NotRunnable(
            f"{d.get('yaml_file') or 'the YAML'} says end2end: True, which needs Ultralytics 8.4 or newer: update "
            f"Ultralytics, {ultralytics.__version__} here, or take a model without end2end"
        )
