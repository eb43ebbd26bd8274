import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov12_plugin.nn.attention import area_attention


def reference(q, k, v, area):
    """Area attention part by part, in the textbook's formula."""
    parts = []
    for qi, ki, vi in zip(*(t.transpose(1, 2).tensor_split(area, dim=2) for t in (q, k, v))):
        weights = torch.softmax(qi @ ki.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)
        parts.append(weights @ vi)
    return torch.cat(parts, dim=2).transpose(1, 2)


@settings(deadline=None, max_examples=60)
@given(b=st.integers(1, 3), heads=st.integers(1, 3), d=st.sampled_from([1, 8, 32]), n=st.integers(1, 60),
       area=st.integers(1, 9))  # fmt: skip
def test_equals_attention_within_each_part(b, heads, d, n, area):
    q, k, v = (torch.randn(b, n, heads, d, dtype=torch.float64) for _ in range(3))
    torch.testing.assert_close(area_attention(q, k, v, area), reference(q, k, v, area))
    torch.testing.assert_close(area_attention(q * d**-0.5, k, v, area, scale=1.0), reference(q, k, v, area))


@settings(deadline=None, max_examples=20)
@given(n=st.integers(2, 24), area=st.integers(1, 5))
def test_gradients(n, area):
    q, k, v = (torch.randn(1, n, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    ours = torch.autograd.grad(area_attention(q, k, v, area).square().sum(), (q, k, v))
    theirs = torch.autograd.grad(reference(q, k, v, area).square().sum(), (q, k, v))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_dtype(dtype):
    q = torch.randn(1, 16, 2, 32, dtype=dtype)
    assert area_attention(q, q, q, 4).dtype is dtype


def test_takes_a_fused_kernel():
    """PyTorch falls back to the N x N map unannounced where the last dimension is not contiguous."""
    q = torch.randn(1, 16, 2, 32)
    with torch.profiler.profile() as profile:
        area_attention(q, q, q, 4)
    assert any("flash_attention" in event.name for event in profile.events())
