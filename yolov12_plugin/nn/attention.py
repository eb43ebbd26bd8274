"""Attention within the areas of a map (paper 3.2), and the backends that compute it."""

import functools
import importlib
import inspect
import logging
import os
from collections.abc import Callable, Iterable
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOGGER = logging.getLogger("ultralytics")  # says its lines where and when Ultralytics says its own

BACKENDS = ("auto", "flash", "sdpa", "math")

selected = os.environ.get("YOLO12_ATTENTION", "auto")  # `attention_backend` changes it

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
        return cls(q.device, q.dtype, q.shape[-1], capability, deterministic, _is_recorded())


class attention_backend:
    """Select the backend of every attention in this process, from here on or within a `with` block.

    auto: math in an ONNX export, whose compilers recognise it; flash where it is installed, made for the GPU and in
    agreement with PyTorch; else sdpa. flash: FlashAttention 2, 3 or 4, in half precision. sdpa: PyTorch's
    `scaled_dot_product_attention`. math: the N x N map, in plain operations. YOLO12_ATTENTION in the environment sets
    what a process starts with, hence the workers of a training on several GPUs too. Checkpoints keep nothing of it.

    Raises:
        ValueError: no such backend.
        ImportError: the backend is not installed.
    """

    def __init__(self, name: str):
        global selected
        _check(name)
        self.previous, selected = selected, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        global selected
        selected = self.previous


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    backend: str | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention, in the dtype of its inputs (paper 3.1).

    Shapes: q, k, v and the result (B, heads, N, head_dim), contiguous in head_dim: fused kernels refuse anything else,
    and PyTorch then falls back to the N x N map without a word. `scale` defaults to head_dim ** -0.5, `backend` to what
    `attention_backend` selected. `bias` (B or 1, heads, N, N) is added to the scaled products; flash-attn takes none.

    Raises:
        ValueError: no such backend.
        ImportError: the backend is not installed.
        RuntimeError: the backend cannot compute this device, dtype or head_dim; never with auto.
    """
    name = backend or selected
    if name == "auto" and torch.onnx.is_in_onnx_export():
        name = "math"
    elif name == "auto" and _is_recorded():
        name = "sdpa"
    elif name not in ("sdpa", "math"):
        case = Case.of(q)._replace(biased=bias is not None)
        name = choose(name, case)
        if name == "flash":
            return find_flash(case)[0](q, k, v, scale)
    if name == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
    # Compilers recognise attention as MatMul, Softmax, MatMul with the scale applied before the first.
    if scale != 1:
        q = q * (scale or q.shape[-1] ** -0.5)
    products = q @ k.transpose(-2, -1)
    return (products if bias is None else products + bias).softmax(-1) @ v


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
    _say(f"attention: {name} on {case.device}, {_name(case.dtype)}" + (f" ({why})" if case.capability else ""))
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


def _is_recorded() -> bool:
    return torch.onnx.is_in_onnx_export() or torch.jit.is_tracing() or is_compiling()


def _check(name: Any) -> None:
    installed = any(map(_is_installed, FLASH))
    available = ", ".join(b for b in BACKENDS if installed or b != "flash")
    if name not in BACKENDS:
        raise ValueError(f"attention backend {name!r} is unknown; available: {available}")
    if name == "flash" and not installed:
        raise ImportError(f"attention backend 'flash' is not installed: pip install flash-attn; available: {available}")


@functools.cache
def _is_installed(flash: Flash) -> bool:
    package, _, submodule = flash.module.partition(".")
    spec = find_spec(package)
    if spec and submodule:  # looked up without importing the package
        spec = PathFinder.find_spec(flash.module, spec.submodule_search_locations)
    return spec is not None


@functools.cache
def _say(message: str) -> None:
    LOGGER.info(message)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def position_encoding(x: Tensor) -> Tensor:
    """Sines and cosines of the rows and of the columns of a map (B, dim, H, W): (1, dim, H, W), Table 5e's APE.

    Frequencies fall from 1 to 1/10000, as in DETR's and Ultralytics' encoders; dim is a multiple of 4.
    """
    dim, h, w = x.shape[1:]
    like: dict[str, Any] = dict(device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))  # of sines
    frequency = 1e4 ** -(torch.arange(dim // 4, **like) / (dim // 4)).view(-1, 1, 1)
    row = frequency * torch.arange(h, **like).view(1, -1, 1)
    column = frequency * torch.arange(w, **like)
    waves = [wave.expand(-1, h, w) for angle in (row, column) for wave in (angle.sin(), angle.cos())]
    return torch.cat(waves)[None].to(x.dtype)


def offsets(h: int, w: int, like: Tensor) -> Tensor:
    """How far two tokens of a map can be apart, in rows and in columns and on a scale of logarithms, as Swin v2 has it.

    Shapes: (2H-1, 2W-1, 2), for offsets of -(H-1), ..., H-1 and -(W-1), ..., W-1; the dtype and device are `like`'s.
    """
    steps = (torch.arange(1 - n, n, device=like.device) for n in (h, w))
    apart = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1).to(like.dtype)
    return apart.sign() * torch.log2(1 + apart.abs()) / 3


class RelativeBias(NamedTuple):
    """What is added to the product of two tokens of a map by how far they are apart (Table 5e's RPE).

    `table` (heads, 2H-1, 2W-1) holds it by offset in rows and columns; the tokens asked for are those from `start` on.
    """

    table: Tensor
    start: int = 0

    def of(self, areas: int, n: int) -> Tensor:
        """(areas, heads, n, n), or (1, heads, n, n) where the areas are whole rows, and so alike."""
        h, w = ((size + 1) // 2 for size in self.table.shape[1:])
        token = torch.arange(areas * n, device=self.table.device).view(areas, n) + self.start
        if n % w == 0 and not torch.onnx.is_in_onnx_export():  # a graph may run at other sizes
            token = token[:1]
        row, column = token // w, token % w
        bias = self.table[:, row[:, :, None] - row[:, None] + h - 1, column[:, :, None] - column[:, None] + w - 1]
        return bias.transpose(0, 1)


def area_attention(
    qkv: Tensor, heads: int, area: int = 1, scale: float | None = None, bias: RelativeBias | None = None
) -> tuple[Tensor, Tensor]:
    """Attention within each of `area` equal parts of a map's H·W tokens (paper 3.2), and the values themselves.

    Shapes: qkv (B, 3·dim, H, W), channels [q, k, v], each by heads; the result and v (B, dim, H, W). Nothing of a
    channels-last map is copied. Where H·W is not a multiple of `area` the parts are those of `torch.tensor_split`: the
    first H·W % area of them hold one token more than the others; where H·W < area each token is a part of its own.
    `scale` defaults to head_dim ** -0.5.
    """
    b, c, h, w = qkv.shape
    area = min(area, h * w)
    if longer := int(h * w % area):
        tokens = int(h * w)  # a traced graph is of this number
        split = longer * (tokens // area + 1)
        first, rest = qkv.reshape(b, c, tokens, 1).split([split, tokens - split], dim=2)
        after = bias and bias._replace(start=bias.start + split)
        parts = (
            area_attention(first, heads, longer, scale, bias),
            area_attention(rest, heads, area - longer, scale, after),
        )
        out, v = (torch.cat(t, dim=2).reshape(b, c // 3, h, w) for t in zip(*parts))
        return out, v
    q, k, v = _split_areas(qkv, heads, area)
    added = None
    if bias is not None:
        added = bias.of(area, h * w // area).to(q.dtype)
        if len(added) > 1:
            added = added.repeat(b, 1, 1, 1)  # (area, heads, n, n) -> (B·area, heads, n, n)
    return _join_areas(attention(q, k, v, scale, bias=added), b, h, w), _join_areas(v, b, h, w)


def _split_areas(qkv: Tensor, heads: int, area: int) -> Iterable[Tensor]:
    # (B, 3·dim, H, W) -> q, k, v (B·area, heads, n, head_dim)
    b, c, h, w = qkv.shape
    n, d = h * w // area, c // 3 // heads
    if torch.onnx.is_in_onnx_export():
        # ONNX Runtime is quicker when areas are parted before tokens are transposed; TensorRT makes the same of both.
        if area > 1:
            qkv = qkv.reshape(b, c, area, n).transpose(1, 2)
        return (t.transpose(2, 3) for t in qkv.reshape(b * area, 3 * heads, d, n).split(heads, dim=1))
    return qkv.permute(0, 2, 3, 1).reshape(b * area, n, 3, heads, d).permute(2, 0, 3, 1, 4).unbind()


def _join_areas(x: Tensor, b: int, h: int, w: int) -> Tensor:
    # (B·area, heads, n, head_dim) -> (B, dim, H, W)
    parts, heads, n, d = x.shape
    if torch.onnx.is_in_onnx_export():
        x = x.transpose(2, 3)
        if parts > b:
            x = x.reshape(b, parts // b, heads * d, n).transpose(1, 2)
        return x.reshape(b, heads * d, h, w)
    return x.transpose(1, 2).reshape(b, h, w, heads * d).permute(0, 3, 1, 2)
