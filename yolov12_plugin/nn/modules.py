"""The blocks of YOLOv12: area attention and R-ELAN, under the parameter names of the authors' releases."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.checkpoint import checkpoint
from ultralytics.nn.modules.block import C3k
from ultralytics.nn.modules.conv import Conv

from yolov12_plugin.nn.attention import RelativeBias, area_attention, is_compiling, offsets, position_encoding
from yolov12_plugin.nn.options import check, from_yaml

HEAD_DIM = 32

# Checkpoints name the classes where Ultralytics keeps its own, so that they load with the plugin absent.
CHECKPOINT_MODULE = "ultralytics.nn.modules.block"


def layer(c1: int, c2: int, k: int = 1, g: int = 1, *, act: bool = False, projection: str, norm: str) -> Any:
    """A convolution or a linear layer and its normalisation, as Table 5a varies them; Ultralytics' Conv by default.

    The others are of PyTorch's own modules, which every Ultralytics unpickles; `project` computes them.
    """
    if projection == "conv" and norm == "bn":
        return Conv(c1, c2, k, 1, k // 2, g=g, act=act)
    steps: dict[str, nn.Module] = {}
    if projection == "linear":
        steps["linear"] = nn.Linear(c1, c2, bias=False)
    else:
        steps["conv"] = nn.Conv2d(c1, c2, k, 1, k // 2, groups=g, bias=False)
    steps[norm] = nn.LayerNorm(c2) if norm == "ln" else nn.BatchNorm2d(c2)
    if act:
        steps["act"] = Conv.default_act
    return nn.Sequential(OrderedDict(steps))


def project(m: nn.Module, x: Tensor) -> Tensor:
    """What `layer` made, on a map: (B, c1, H, W) -> (B, c2, H, W)."""
    if isinstance(m, Conv):
        return m(x)
    for step in m.children():
        on_tokens = isinstance(step, (nn.Linear, nn.LayerNorm))
        x = step(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if on_tokens else step(x)  # (B, H, W, C) and back
    return x


class AAttn(nn.Module):
    """Area attention with a position perceiver (paper 3.2, 3.4, Tables 3, 5a, 5d and 5e).

    The H·W tokens, flattened row by row, are cut into `area` equal parts that attend within themselves; parts of
    H·W that `area` does not divide are those of `torch.tensor_split` (the first ones hold one token more).

    Args:
        dim: channels in and out, a multiple of `num_heads`.
        num_heads: heads; YOLOv12 uses dim / 32.
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
    """

    __module__ = CHECKPOINT_MODULE

    packed: nn.Conv2d  # of the fused form alone
    vertical = False  # checkpoints of stock Ultralytics and of the authors do not store these
    pos_embed = "none"

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
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide dim={dim}")
        check(area=area, qkv_fused=qkv_fused, pe_kernel=pe_kernel, pe_bias=pe_bias, vertical=vertical)
        check(projection=projection, norm=norm, pos_embed=pos_embed)
        if pos_embed == "absolute" and dim % 4:
            raise ValueError(f"pos_embed={pos_embed!r} needs a multiple of 4 as dim, not {dim}")
        self.area = area
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.all_head_dim = dim  # read by stock Ultralytics
        self.vertical = vertical
        self.pos_embed = pos_embed

        # The order of creation is stock's: equal seeds give equal weights.
        kind: dict[str, Any] = dict(projection=projection, norm=norm)
        if qkv_fused:
            self.qkv = layer(dim, 3 * dim, **kind)
        else:
            self.qk = layer(dim, 2 * dim, **kind)
            self.v = layer(dim, dim, **kind)
        self.proj = layer(dim, dim, **kind)
        self.pe = layer(dim, dim, pe_kernel, dim, projection="conv", norm=norm)
        if pe_bias:
            self.pe.conv.bias = nn.Parameter(torch.zeros(dim))
        if pos_embed == "relative":
            self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, num_heads, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed == "absolute":
            x = x + position_encoding(x)
        if self.vertical:
            x = x.transpose(2, 3)  # tokens in the order of the columns
        qkv, scale = self._project(x)
        out, v = area_attention(qkv, self.num_heads, self.area, scale, self._position_bias(x))
        if self.vertical:
            out, v = out.transpose(2, 3), v.transpose(2, 3)
        return project(self.proj, out + project(self.pe, v))

    def _project(self, x: Tensor) -> tuple[Tensor, float | None]:
        """(B, dim, H, W) -> (B, 3·dim, H, W), channels [q, k, v], each by heads; and the scale left to apply."""
        if "packed" in self._modules:
            return self.packed(x).contiguous(memory_format=torch.channels_last), 1.0
        if "qkv" in self._modules:
            # Channels per head [q, k, v] -> [q, k, v], in the one copy that makes tokens of the map
            b, _, h, w = x.shape
            qkv = project(self.qkv, x).permute(0, 2, 3, 1).reshape(b, h, w, self.num_heads, 3, self.head_dim)
            return qkv.transpose(3, 4).reshape(b, h, w, 3 * self.all_head_dim).permute(0, 3, 1, 2), None
        qkv = torch.cat([project(m, x).permute(0, 2, 3, 1) for m in (self.qk, self.v)], dim=3)
        return qkv.permute(0, 3, 1, 2), None

    def _position_bias(self, x: Tensor) -> RelativeBias | None:
        if self.pos_embed != "relative":
            return None
        h, w = x.shape[2:]
        apart = offsets(h, w, like=next(self.cpb_mlp.parameters()))
        return RelativeBias(self.cpb_mlp(apart).permute(2, 0, 1))  # (2H-1, 2W-1, heads) -> (heads, 2H-1, 2W-1)

    def areas(self, h: int, w: int) -> Tensor:
        """The number of the area of each token of a map: (H, W)."""
        parts = torch.arange(h * w).tensor_split(min(self.area, h * w))
        number = torch.cat([torch.full_like(part, i) for i, part in enumerate(parts)])
        return number.view(w, h).t() if self.vertical else number.view(h, w)

    def attention_map(self, x: Tensor, row: int, column: int) -> Tensor:
        """How much one token attends to each of the map, 0 outside of its area (paper 4.5).

        Shapes: the input of the module (B, dim, H, W) -> (B, heads, H, W), which sums to 1 over the map.
        """
        if self.pos_embed == "absolute":
            x = x + position_encoding(x)
        if self.vertical:
            x, row, column = x.transpose(2, 3), column, row
        h, w = x.shape[2:]
        qkv, scale = self._project(x)
        q, k, _ = qkv.unflatten(1, (3, self.num_heads, self.head_dim)).unbind(1)  # (B, heads, head_dim, H, W)
        products = (q[..., row, column][..., None, None] * k).sum(2) * (scale or self.head_dim**-0.5)
        if bias := self._position_bias(x):
            # Rows and columns of the table by the offset of the token from each other one
            products = products + bias.table[:, row : row + h, column : column + w].flip(1, 2)
        number = self.areas(w, h).t() if self.vertical else self.areas(h, w)
        elsewhere = (number != number[row, column]).to(x.device)
        weights = products.masked_fill(elsewhere, -torch.inf).flatten(2).softmax(-1).unflatten(2, (h, w))
        return weights.transpose(2, 3) if self.vertical else weights

    def fuse(self) -> None:
        """Re-parameterise for inference: one projection to [q, k, v] with its normalisation and the scale folded in.

        The module computes the same in fewer copies, and every inference compiler can fuse its attention; Ultralytics'
        `model.fuse()`, hence val, predict and export, calls it. The projection is derived: the official ones stay what
        is counted, saved and pickled. Those that are no plain convolutions with batch normalisation (quantised ones,
        say, or Table 5a's others) are left alone.
        """
        projections = self._projections()
        if "packed" in self._modules or any(type(m) is not Conv or type(m.conv) is not nn.Conv2d for m in projections):
            return
        weight, bias = (torch.cat(parts).detach() for parts in zip(*map(_folded, projections)))
        if len(projections) == 1:
            # Channels per head [q, k, v] -> [q, k, v]
            order = torch.arange(len(bias)).view(self.num_heads, 3, self.head_dim).transpose(0, 1).flatten()
            weight, bias = weight[order], bias[order]
        scale = torch.ones_like(bias)
        scale[: self.all_head_dim] = self.head_dim**-0.5
        self.packed = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
        for name, tensor in ("weight", weight * scale.view(-1, 1, 1, 1)), ("bias", bias * scale):
            delattr(self.packed, name)
            self.packed.register_buffer(name, tensor, persistent=False)

    def _projections(self) -> list[Conv]:
        return [getattr(self, name) for name in ("qkv", "qk", "v") if name in self._modules]

    def train(self, mode: bool = True) -> "AAttn":
        if mode:
            self._modules.pop("packed", None)  # it would not follow the weights
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._modules.pop("packed", None)
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        modules = {name: m for name, m in self._modules.items() if name != "packed"}
        return {**self.__dict__, "_modules": modules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.all_head_dim = self.num_heads * self.head_dim  # the authors' turbo checkpoints do not store it
        if not any(hasattr(m, "bn") for m in self._projections()):
            self.fuse()


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
        **attn_options,
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

    def _mlp(self, x: Tensor) -> Tensor:
        up, down = self.mlp
        return project(down, project(up, x)) if isinstance(up, nn.Sequential) else self.mlp(x)

    @staticmethod
    def _init_weights(m: nn.Module) -> None:
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        if not (self.training and torch.is_grad_enabled()) or is_compiling():
            return x + self._mlp(x)

        def contexts():
            return nullcontext(), _statistics_kept(self.mlp)

        # The MLP's maps, a third of what a block keeps for its gradients, are cheap to compute again.
        return x + checkpoint(self._mlp, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


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
        if x.device.type == "cpu":
            # Convolutions are quicker on this layout there, and the tokens of what they yield need no copy.
            y[0] = y[0].contiguous(memory_format=torch.channels_last)
        if self.aggregation == "elan":
            y = list(y[0].chunk(2, 1))  # (B, 2·c2·e, H, W) -> two of (B, c2·e, H, W)
        for m in self.m:
            y.append(m(y[-1]))
        out = self.cv2(torch.cat(y, 1))  # n + 1 maps (B, c2·e, H, W), of ELAN n + 2 -> (B, c2, H, W)
        return out if self.gamma is None else x + self.gamma.view(1, -1, 1, 1) * out


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let what is computed a second time count once in the running statistics of its normalisations."""
    buffers = {m: m._buffers for m in module.modules()}
    for m, own in buffers.items():
        m._buffers = {name: None if t is None else t.clone() for name, t in own.items()}
    try:
        yield
    finally:
        for m, own in buffers.items():
            m._buffers = own


def _folded(m: Conv) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with its normalisation, where it still has one."""
    if not hasattr(m, "bn"):
        return m.conv.weight, m.conv.bias
    bn = m.bn
    return fuse_conv_bn_weights(m.conv.weight, m.conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
