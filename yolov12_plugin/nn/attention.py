"""Area attention on tokens (paper 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Scaled dot-product attention.

    Shapes: q, k, v and the result (B, heads, N, head_dim), contiguous in head_dim: PyTorch's fused kernels refuse
    anything else and fall back to the N x N map without a word. `scale` defaults to head_dim ** -0.5.
    """
    if torch.onnx.is_in_onnx_export():
        # Inference compilers recognise attention as MatMul, Softmax, MatMul with the scale applied before the first.
        if scale != 1:
            q = q * (scale or q.shape[-1] ** -0.5)
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def area_attention(q: Tensor, k: Tensor, v: Tensor, area: int = 1, scale: float | None = None) -> Tensor:
    """Attention within each of `area` equal parts of the tokens (paper 3.2).

    Shapes: q, k, v and the result (B, N, heads, head_dim). Where N is not a multiple of `area` the parts are those of
    `torch.tensor_split`: the first N % area of them hold one token more than the others; where N < area each token is a
    part of its own. `scale` defaults to head_dim ** -0.5.
    """
    b, n, heads, d = v.shape
    area = min(area, n)
    if longer := n % area:
        split = longer * (n // area + 1)
        (q1, q2), (k1, k2), (v1, v2) = (t.split([split, n - split], dim=1) for t in (q, k, v))
        first = area_attention(q1, k1, v1, longer, scale)
        return torch.cat((first, area_attention(q2, k2, v2, area - longer, scale)), dim=1)

    # (B, N, heads, head_dim) -> (B·area, heads, N/area, head_dim)
    q, k, v = (t.reshape(b * area, n // area, heads, d).transpose(1, 2) for t in (q, k, v))
    return attention(q, k, v, scale).transpose(1, 2).reshape(b, n, heads, d)
