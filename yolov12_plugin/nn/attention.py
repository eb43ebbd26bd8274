"""Attention within the areas of a map (paper 3.2), and the backends that compute it."""

import functools
import importlib
import inspect
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from yolov12_plugin.autoload import setting
from yolov12_plugin.errors import SettingError
from yolov12_plugin.switches import LOGGER, Switch, say_once

BACKENDS = ("auto", "flash", "sdpa", "math")

is_exporting = getattr(torch.compiler, "is_exporting", bool)  # public from PyTorch 2.7 on
is_compiling = getattr(torch.compiler, "is_compiling", torch._utils.is_compiling)  # public from PyTorch 2.3 on


class Flash(NamedTuple):
    """A FlashAttention, and the GPUs (major compute capabilities) and head dimensions that it is made for."""

    name: str
    module: str
    capabilities: range
    head_dim: int


FLASH = (  # the preferred first
    Flash("FlashAttention-3", "flash_attn_interface", range(9, 10), 256),
    Flash("FlashAttention-4", "flash_attn.cute", range(9, 13), 128),
    Flash("FlashAttention-2", "flash_attn", range(8, 13), 256),
)


class Case(NamedTuple):
    """All that decides which backend computes attention."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    capability: tuple[int, int] | None = None  # of an NVIDIA GPU
    deterministic: bool = False
    recorded: bool = False  # a graph of it is exported or compiled
    biased: bool = False  # by a relative position embedding

    @classmethod
    def of(cls, q: Tensor) -> "Case":
        capability = torch.cuda.get_device_capability(q.device) if q.is_cuda else None
        deterministic = torch.are_deterministic_algorithms_enabled()
        return cls(q.device, q.dtype, q.shape[-1], capability, deterministic, is_recorded())


def _of_environment() -> str:
    """The backend that YOLO12_ATTENTION names; what is none is refused as it is written, by the first attention."""
    given = setting("YOLO12_ATTENTION")
    name = given.lower() or "auto"
    return name if name in BACKENDS else given


class attention_backend(Switch):
    """Select the backend of every attention in this process, from here on or within a `with` block.

    - auto: math in an ONNX export, because compilers recognise it; flash if it is installed, made for the GPU and
      agrees with PyTorch; otherwise sdpa.
    - flash: FlashAttention 2, 3 or 4, in half precision.
    - sdpa: PyTorch's `scaled_dot_product_attention`.
    - math: the N x N map, in plain operations.

    YOLO12_ATTENTION in the environment sets what a process starts with, also in the workers of a training on several
    GPUs. Checkpoints keep nothing of the choice. A `with` block applies to its own thread; other threads, and those
    that it starts, keep the choice of the process.

    Args:
        name: auto, flash, sdpa or math.

    Raises:
        ValueError: no such backend.
        ImportError: the backend is not installed.

    Examples:
        >>> import torch, yolov12_plugin as y12
        >>> with y12.attention_backend("math"):
        ...     y12.AAttn(64, num_heads=2)(torch.rand(1, 64, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
    """

    default = _of_environment()

    def __init__(self, name: str):
        _check(name)
        super().__init__(name)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    backend: str | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention, in the dtype of its inputs (paper 3.1).

    It is differentiable as often as the plain formula is, by whatever backend it was computed.

    Args:
        q, k, v: (B, heads, N, head_dim), contiguous in head_dim: fused kernels refuse anything else, and PyTorch then
            falls back to the N x N map without a word.
        scale: of the products; head_dim ** -0.5 by default.
        backend: what computes it; by default what `attention_backend` selected.
        bias: (B or 1, heads, N, N), added to the scaled products; flash-attn takes none.

    Shapes: (B, heads, N, head_dim), as q.

    Raises:
        ValueError: no such backend.
        ImportError: the backend is not installed.
        RuntimeError: the backend cannot compute this device, dtype or head_dim; never with auto.
    """
    if torch.jit.is_scripting():
        return F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
    else:  # not compiled by torch.jit.script
        return _by_backend(q, k, v, scale, backend or attention_backend.current(), bias)


def _by_backend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, name: str, bias: Tensor | None) -> Tensor:
    recorded = is_recorded()
    flash = None
    if name == "auto" and torch.onnx.is_in_onnx_export():
        name = "math"
    elif name == "auto" and recorded:
        name = "sdpa"
    elif name in ("sdpa", "math"):
        if name == attention_backend.default and not recorded:
            say_once(f"attention: {name} (YOLO12_ATTENTION={name})")
    else:
        case = Case.of(q)._replace(biased=bias is not None)
        name = choose(name, case)
        flash = find_flash(case)[0]
    if name == "math" or (not recorded and is_transformed(q, k, v)):
        return _formula(q, k, v, scale, bias)
    out = flash(q, k, v, scale) if flash else F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
    if out.requires_grad and not recorded:
        out = _TwiceDifferentiable.apply(out, q, k, v, scale, bias)
    return out


def _formula(q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None) -> Tensor:
    # Compilers recognise attention as MatMul, Softmax, MatMul with the scale applied before the first.
    if scale != 1:
        q = q * (scale or q.shape[-1] ** -0.5)
    products = q @ k.transpose(-2, -1)
    return (products if bias is None else products + bias).softmax(-1) @ v


def is_transformed(*tensors: Tensor) -> bool:
    """Whether a transform of `torch.func` or forward-mode differentiation is at work, which fused kernels know not."""
    if torch._C._are_functorch_transforms_active():
        return True
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


class _TwiceDifferentiable(torch.autograd.Function):
    """The result of a fused kernel, with gradients of the plain formula where a graph of them is built.

    Fused kernels have no second derivative. What is kept for it, q, k and v, the kernel keeps already.
    """

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float | None, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale = scale
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return grad, None, None, None, None, None
        q, k, v, bias = ctx.saved_tensors
        wanted = [t for t in (q, k, v, bias) if t is not None and t.requires_grad]
        found = torch.autograd.grad(_formula(q, k, v, ctx.scale, bias), wanted, grad, create_graph=True)
        grads = iter(found)
        dq, dk, dv, dbias = (next(grads) if t is not None and t.requires_grad else None for t in (q, k, v, bias))
        return None, dq, dk, dv, None, dbias


@functools.cache
def choose(backend: str, case: Case) -> str:
    """The backend, flash or sdpa, that computes `case` where auto or flash is asked for; said once.

    Raises:
        ValueError, ImportError, RuntimeError: as `attention`.
    """
    _check(backend)
    function, why = find_flash(case)
    if function is None and backend == "flash":
        raise RuntimeError(f"attention backend 'flash' cannot run here: {why}; available here: auto, sdpa, math")
    name = "flash" if function else "sdpa"
    say_once(f"attention: {name} on {case.device}, {_name(case.dtype)}" + (f" ({why})" if case.capability else ""))
    return name


@functools.cache
def find_flash(case: Case) -> tuple[Any, str]:
    """The function of the first FlashAttention that computes `case` and its name, or None and why none does."""
    if case.recorded:
        return None, "flash-attn cannot be part of a graph that is exported or compiled"
    if case.biased:
        return None, "flash-attn takes no relative position embedding (pos_embed='relative')"
    if case.capability is None:
        return None, f"flash-attn needs an NVIDIA GPU, not {case.device.type}"
    if case.dtype not in (torch.float16, torch.bfloat16):
        return None, f"flash-attn computes float16 and bfloat16, not {_name(case.dtype)}"
    reasons = []
    for flash in filter(_is_installed, FLASH):
        if case.capability[0] not in flash.capabilities:
            reasons.append(f"{flash.name} is not made for compute capability {'.'.join(map(str, case.capability))}")
        elif case.head_dim % 8 or case.head_dim > flash.head_dim:
            reasons.append(f"{flash.name} takes multiples of 8 up to {flash.head_dim} as head_dim, not {case.head_dim}")
        else:
            function, why = _try(flash, case)
            if function:
                return function, flash.name
            reasons.append(why)
    return None, "; ".join(reasons) or "flash-attn is not installed"


def _try(flash: Flash, case: Case) -> tuple[Callable[..., Tensor] | None, str]:
    """The function of a FlashAttention that agrees with PyTorch: wheels that did not have ruined trainings."""
    try:
        function = getattr(importlib.import_module(flash.module), "flash_attn_func", None)
        if function is None:  # the package holds another FlashAttention
            return None, f"{flash.name} lacks flash_attn_func"
        options = {"deterministic": True} if case.deterministic else {}
        inspect.signature(function).bind(0, 0, 0, softmax_scale=None, **options)

        def run(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
            # (B, heads, N, head_dim) -> (B, N, heads, head_dim)
            out = function(*(t.transpose(1, 2) for t in (q, k, v)), softmax_scale=scale, **options)
            return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

        error, limit = _error(run, case), 0.03  # some five times the rounding of bfloat16
        if error <= limit:
            return run, flash.name
        why = f"{flash.name} differs from PyTorch's attention by {error:.0%}, more than {limit:.0%}"
    except ModuleNotFoundError as e:
        return None, f"{flash.name} lacks {e.name}"
    except Exception as e:  # whatever is wrong with an optional package, there is attention without it
        why = f"{flash.name} fails: {type(e).__name__}: {next(iter(str(e).splitlines()), '')}"
    LOGGER.warning(f"attention: {why}. It is left aside; reinstall or uninstall {flash.module.split('.')[0]}.")
    return None, why


def _error(function: Callable[..., Tensor], case: Case) -> float:
    """Largest relative error of the result and of each gradient against SDPA in single precision."""
    errors = []
    generator = torch.Generator(case.device).manual_seed(0)  # the training's own is left as it is
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(case.device.type, enabled=False):
        for n in 400, 77:  # tokens of an area at 640 pixels, and no multiple of any tile
            shape = (2, n, 4, 2, case.head_dim)
            qkvg = torch.randn(shape, generator=generator, device=case.device, dtype=case.dtype)
            ours, exact = _results(function, qkvg), _results(F.scaled_dot_product_attention, qkvg.float())
            errors += [(a.float() - b).norm() / b.norm() for a, b in zip(ours, exact)]
    return torch.stack(errors).max().item()  # NaN where one is


def _results(function: Callable[..., Tensor], qkvg: Tensor) -> list[Tensor]:
    q, k, v, grad = (t.transpose(1, 2) for t in qkvg.unbind(2))  # (B, heads, N, head_dim)
    inputs = [t.requires_grad_() for t in (q, k, v)]
    out = function(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def is_recorded() -> bool:
    """Whether a graph is made of what runs, to be exported or compiled."""
    return torch.onnx.is_in_onnx_export() or torch.jit.is_tracing() or is_compiling()


def _check(name: Any) -> None:
    installed = any(map(_is_installed, FLASH))
    available = ", ".join(b for b in BACKENDS if installed or b != "flash")
    if name not in BACKENDS:
        raise SettingError(f"attention backend {name!r} is unknown; available: {available}")
    if name == "flash" and not installed:
        raise ImportError(f"attention backend 'flash' is not installed: pip install flash-attn; available: {available}")


@functools.cache
def _is_installed(flash: Flash) -> bool:
    package, _, submodule = flash.module.partition(".")
    spec = find_spec(package)
    if spec and submodule:  # looked up without importing the package
        spec = PathFinder.find_spec(flash.module, spec.submodule_search_locations)
    return spec is not None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def position_encoding(x: Tensor) -> Tensor:
    """Sines and cosines of the rows and of the columns of a map (B, dim, H, W): (1, dim, H, W), Table 5e's APE.

    Frequencies fall from 1 to 1/10000, as in DETR's and Ultralytics' encoders; dim is a multiple of 4.
    """
    _, dim, h, w = x.shape
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32  # of sines
    frequency = 1e4 ** -(torch.arange(dim // 4, device=x.device, dtype=dtype) / (dim // 4)).view(-1, 1, 1)
    row = frequency * torch.arange(h, device=x.device, dtype=dtype).view(1, -1, 1)
    column = frequency * torch.arange(w, device=x.device, dtype=dtype)
    waves = [wave.expand(-1, h, w) for wave in (row.sin(), row.cos(), column.sin(), column.cos())]
    return torch.cat(waves)[None].to(x.dtype)


def offsets(h: int, w: int, like: Tensor) -> Tensor:
    """How far two tokens of a map can be apart, in rows and in columns and on a scale of logarithms, as Swin v2 has it.

    Shapes: (2H-1, 2W-1, 2), for offsets of -(H-1), ..., H-1 and -(W-1), ..., W-1; the dtype and device are `like`'s.
    """
    rows, columns = torch.arange(1 - h, h, device=like.device), torch.arange(1 - w, w, device=like.device)
    apart = torch.stack(torch.meshgrid([rows, columns], indexing="ij"), dim=-1).to(like.dtype)
    return apart.sign() * torch.log2(1 + apart.abs()) / 3


def relative_bias(table: Tensor, areas: int, n: int, start: int = 0) -> Tensor:
    """What is added to the product of two tokens of a map by how far they are apart (Table 5e's RPE).

    `table` (heads, 2H-1, 2W-1) holds it by offset in rows and columns; the tokens are those from `start` on.

    Shapes: (areas, heads, n, n), or (1, heads, n, n) where the areas are whole rows, and so alike.
    """
    h, w = (table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2
    token = torch.arange(areas * n, device=table.device).view(areas, n) + start
    if n % w == 0 and not _takes_maps(None):  # a graph may run at other sizes
        token = token[:1]
    row, column = token // w, token % w
    bias = table[:, row[:, :, None] - row[:, None] + h - 1, column[:, :, None] - column[:, None] + w - 1]
    return bias.transpose(0, 1)


def area_attention(
    qkv: Tensor,
    heads: int,
    area: int = 1,
    scale: float | None = None,
    v: Tensor | None = None,
    by_head: bool = False,
    vertical: bool = False,
    table: Tensor | None = None,
    format: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention within each of `area` equal parts of a map's H·W tokens (paper 3.2), and the values as a map.

    Where H·W is not a multiple of `area` the parts are those of `torch.tensor_split`: the first H·W % area of them hold
    one token more than the others; where H·W < area each token is a part of its own.

    Args:
        qkv: [q, k, v] (B, 3·dim, H, W), each by heads; [q, k] (B, 2·dim, H, W) where `v` is given.
        heads: number of heads, of dim / heads channels.
        area: number of parts.
        scale: of the products; head_dim ** -0.5 by default.
        v: values (B, dim, H, W).
        by_head: the channels of `qkv` are per head [q, k, v].
        vertical: tokens are those of the columns, one after the other, in place of the rows.
        table: of `relative_bias`.
        format: of Ultralytics' exporter, that a graph is made for.

    Shapes: (B, dim, H, W), the result and the values.
    """
    b, _, h, w = qkv.shape
    n = h * w
    products = _takes_products(format)
    if products and v is None and table is None and not by_head and not vertical and n % area == 0:
        return _products(qkv, heads, area, scale, format)
    apart = format is not None and format == "openvino"  # the first tells torch.jit.script that it is a text
    if apart and v is not None and table is None and not vertical and n % area == 0:
        return _apart(qkv, v, heads, area, scale), v
    maps = _takes_maps(format)
    tokens = _as_maps(qkv, v, vertical) if maps else _as_tokens(qkv, v, vertical)
    dim = 2 if maps else 1  # that of the tokens
    pieces, areas, starts = [tokens], [area], [0]
    if n % area != 0:
        n = int(n)  # a traced graph is of this number
        area = min(area, n)
        longer = n % area
        split = longer * (n // area + 1)
        pieces, areas, starts = list(tokens.split([split, n - split], dim=dim)), [longer, area - longer], [0, split]
    # Compilers find more to fuse where the values are those attended to; copied from the map they keep its format.
    joined = v is None and (maps or not by_head)
    outs: list[Tensor] = []
    values: list[Tensor] = []
    for piece, parts, start in zip(pieces, areas, starts):
        if parts > 0:
            qp, kp, vp = _split_areas(piece, heads, parts, by_head, maps)
            bias: Tensor | None = None
            if table is not None:
                bias = relative_bias(table, parts, qp.shape[2], start).to(qp.dtype)
                if bias.shape[0] > 1:
                    bias = bias.repeat(b, 1, 1, 1)  # (area, heads, n, n) -> (B·area, heads, n, n)
            out = attention(qp, kp, vp, scale, "math" if products else None, bias)
            outs.append(_join_areas(out, b, parts, maps))
            if joined:
                values.append(_join_areas(vp, b, parts, maps))
    if v is None:
        v = _as_map(_cat(values, dim), h, w, maps, vertical) if joined else _values(qkv, heads)
    return _as_map(_cat(outs, dim), h, w, maps, vertical), v


def _products(qkv: Tensor, heads: int, area: int, scale: float | None, format: str | None) -> tuple[Tensor, Tensor]:
    """Area attention as batched products of matrices.

    XNNPACK takes slices and bmm into its subgraph, and neither splits nor products of four dimensions. NCNN and Paddle
    take several times as long for bmm as for matmul. Of four dimensions, Paddle's matmul computes something else, and
    NCNN's is the quicker one.
    """
    xnnpack = format is not None and format == "executorch"  # the first tells torch.jit.script that it is a text
    flat = format is None or format != "ncnn"
    b, c, h, w = qkv.shape
    dim, n, d = c // 3, h * w // area, c // 3 // heads
    q, k, v = [qkv[:, i * dim : (i + 1) * dim] for i in range(3)] if xnnpack else qkv.split(dim, dim=1)
    parts = (b * heads, d, area, n)
    if scale is None:
        q = q * d**-0.5
    elif scale != 1:
        q = q * scale
    # (B, dim, H, W) -> (B·heads, area, n, head_dim), keys (B·heads, area, head_dim, n)
    queries, values = [t.reshape(parts).permute(0, 2, 3, 1) for t in (q, v)]
    keys = k.reshape(parts).permute(0, 2, 1, 3)
    if flat:
        m = b * heads * area
        queries, keys, values = queries.reshape(m, n, d), keys.reshape(m, d, n), values.reshape(m, n, d)
    weights = (torch.bmm(queries, keys) if xnnpack else queries @ keys).softmax(-1)
    out = torch.bmm(weights, values) if xnnpack else weights @ values
    if flat:
        out = out.reshape(b * heads, area, n, d)
    return out.permute(0, 3, 1, 2).reshape(b, dim, h, w), v


def _apart(qk: Tensor, v: Tensor, heads: int, area: int, scale: float | None) -> Tensor:
    """Area attention whose values stay a map of their own: OpenVINO lays out each projection within the attention."""
    b, dim, h, w = v.shape
    n, d = h * w // area, dim // heads
    q, k = qk.permute(0, 2, 3, 1).reshape(b * area, n, 2 * heads, d).transpose(1, 2).split(heads, dim=1)
    values = v.permute(0, 2, 3, 1).reshape(b * area, n, heads, d).transpose(1, 2)
    out = attention(q, k, values, scale)
    return _as_map(_join_areas(out, b, area, False), h, w, False, False)


def _cat(pieces: list[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)


def _takes_products(format: str | None) -> bool:
    """Whether a graph is made for a compiler of phones, or for Paddle: they know few operations, of few dimensions."""
    if torch.jit.is_scripting():
        return False
    else:  # not compiled by torch.jit.script
        return format in ("ncnn", "paddle", "executorch")


def _takes_maps(format: str | None) -> bool:
    """Whether a graph is made whose compiler wants maps of tokens, (B, channels, H·W), of at most four dimensions."""
    if torch.jit.is_scripting():
        return False
    else:
        return _takes_products(format) or torch.onnx.is_in_onnx_export()


def is_channels_last(x: Tensor) -> bool:
    """Whether a map (B, C, H, W) has the channels of a token side by side; asked so that torch.func and exports can."""
    return not x.is_contiguous() and x.stride(1) == 1


def _as_maps(qkv: Tensor, v: Tensor | None, vertical: bool) -> Tensor:
    # (B, 3·dim, H, W) -> (B, 3·dim, H·W)
    if v is not None:
        qkv = torch.cat([qkv, v], dim=1)
    b, c, h, w = qkv.shape
    return (qkv.transpose(2, 3) if vertical else qkv).reshape(b, c, h * w)


def _as_tokens(qkv: Tensor, v: Tensor | None, vertical: bool) -> Tensor:
    # (B, 3·dim, H, W) -> (B, H·W, 3·dim), contiguous as fused kernels want it: of a channels-last map no copy
    b, c, h, w = qkv.shape
    order = (0, 3, 2, 1) if vertical else (0, 2, 3, 1)
    if v is None:
        return qkv.permute(order).reshape(b, h * w, c).contiguous()
    return torch.cat([qkv.permute(order), v.permute(order)], dim=3).reshape(b, h * w, c + v.shape[1])


def _as_map(x: Tensor, h: int, w: int, maps: bool, vertical: bool) -> Tensor:
    # (B, H·W, dim), of maps (B, dim, H·W) -> (B, dim, H, W)
    if maps:
        b, dim, _ = x.shape
        return x.reshape(b, dim, w, h).transpose(2, 3) if vertical else x.reshape(b, dim, h, w)
    b, _, dim = x.shape
    return x.reshape(b, w, h, dim).permute(0, 3, 2, 1) if vertical else x.reshape(b, h, w, dim).permute(0, 3, 1, 2)


def _values(qkv: Tensor, heads: int) -> Tensor:
    # (B, heads·[q, k, v], H, W) -> (B, dim, H, W), in the memory format of the map
    b, c, h, w = qkv.shape
    dim, d = c // 3, c // 3 // heads
    if is_channels_last(qkv):
        v = qkv.permute(0, 2, 3, 1).reshape(b, h * w, heads, 3 * d).split([2 * d, d], dim=3)[1]
        return v.reshape(b, h, w, dim).contiguous().permute(0, 3, 1, 2)
    return qkv.reshape(b, heads, 3 * d, h * w).split([2 * d, d], dim=2)[1].reshape(b, dim, h, w).contiguous()


def _split_areas(tokens: Tensor, heads: int, area: int, by_head: bool, maps: bool) -> tuple[Tensor, Tensor, Tensor]:
    # (B, area·n, 3·dim), of maps (B, 3·dim, area·n) -> q, k, v (B·area, heads, n, head_dim)
    if maps:
        b, c, n = tokens.shape
        if area > 1:
            # Areas parted before tokens are transposed: ONNX Runtime is quicker so, TensorRT makes the same of both.
            tokens = tokens.reshape(b, c, area, n // area).transpose(1, 2)
        n, d = n // area, c // 3 // heads
        if by_head:
            q, k, v = tokens.reshape(b * area, heads, 3 * d, n).transpose(2, 3).split(d, dim=3)
        else:
            q, k, v = [t.transpose(2, 3) for t in tokens.reshape(b * area, 3 * heads, d, n).split(heads, dim=1)]
        return q, k, v
    b, n, c = tokens.shape
    n, d = n // area, c // 3 // heads
    if by_head:
        q, k, v = tokens.reshape(b * area, n, heads, 3 * d).transpose(1, 2).split(d, dim=3)
    else:
        q, k, v = tokens.reshape(b * area, n, 3 * heads, d).transpose(1, 2).split(heads, dim=1)
    return q, k, v


def _laid_out(x: Tensor) -> Tensor:
    if torch.jit.is_scripting():
        return x
    else:  # what computes an exported graph may lay out the result of a kernel otherwise than this PyTorch does
        return x.clone(memory_format=torch.contiguous_format) if is_exporting() else x


def _join_areas(x: Tensor, b: int, area: int, maps: bool) -> Tensor:
    # (B·area, heads, n, head_dim) -> (B, area·n, dim), of maps (B, dim, area·n)
    _, heads, n, d = x.shape
    if not maps:
        return _laid_out(x.transpose(1, 2)).reshape(b, area * n, heads * d)
    x = x.transpose(2, 3)
    if area > 1:
        x = x.reshape(b, area, heads * d, n).transpose(1, 2)
    return x.reshape(b, heads * d, area * n)
