"""Area attention on channel-first tokens (paper 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention.

    Shapes: q, k, v and the result (B, heads, N, head_dim), contiguous in head_dim: PyTorch's fused kernels refuse
    anything else and fall back to the N x N map without a word.
    """
    if torch.onnx.is_in_onnx_export():
        # Inference compilers recognise attention as MatMul, Softmax, MatMul with the scale applied before the first.
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


def area_attention(q: Tensor, k: Tensor, v: Tensor, area: int = 1) -> Tensor:
    """Attention within each of `area` equal parts of the tokens (paper 3.2).

    Shapes: q, k, v and the result (B, heads, head_dim, N), as a 1x1 convolution leaves them. Where N is not a multiple
    of `area` the parts are those of `torch.tensor_split`: the first N % area of them hold one token more than the
    others; where N < area each token is a part of its own.
    """
    b, heads, _, n = v.shape
    area = min(area, n)
    if longer := n % area:
        split = longer * (n // area + 1)
        (q1, q2), (k1, k2), (v1, v2) = (t.split([split, n - split], dim=-1) for t in (q, k, v))
        return torch.cat((area_attention(q1, k1, v1, longer), area_attention(q2, k2, v2, area - longer)), dim=-1)

    def tokens(t: Tensor) -> Tensor:  # (B, heads, head_dim, N) -> (B·area, heads, N/area, head_dim)
        t = t.reshape(b, heads, -1, area, n // area).permute(0, 3, 1, 4, 2)
        return t.reshape(b * area, heads, n // area, -1).contiguous()

    out = attention(tokens(q), tokens(k), tokens(v))
    # (B·area, heads, N/area, head_dim) -> (B, heads, head_dim, N)
    return out.reshape(b, area, heads, n // area, -1).permute(0, 2, 4, 1, 3).reshape(b, heads, -1, n)
