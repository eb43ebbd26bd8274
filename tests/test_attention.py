import logging
import pickle
import textwrap
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import yolov12_plugin as y12
from yolov12_plugin.nn import attention as module
from yolov12_plugin.nn.attention import Case, area_attention, attention, choose, find_flash

FLASH_ATTN = """
from torch.nn.functional import scaled_dot_product_attention

def flash_attn_func(q, k, v, softmax_scale=None, causal=False, deterministic=False):
    flash_attn_func.calls.append(deterministic)
    out = scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), scale=softmax_scale)
    return out.transpose(1, 2)

flash_attn_func.calls = []
"""
GPU = Case(torch.device("cpu"), torch.bfloat16, 32, (8, 0))  # what flash-attn is asked for there, computed here


@pytest.fixture
def clean():
    """No choice made so far is remembered, nor afterwards."""

    def clear():
        for function in choose, find_flash, module._is_installed, module.say_once:
            function.cache_clear()

    clear()
    yield
    clear()


@pytest.fixture
def install(tmp_path, monkeypatch, clean):
    """Install a package of the given name and code, and take this machine for one with an Ampere GPU."""

    def install(code=FLASH_ATTN, name="flash_attn"):
        package = tmp_path.joinpath(*name.split("."))
        package.mkdir(parents=True)
        for folder in [package, *package.parents][: name.count(".") + 1]:
            folder.joinpath("__init__.py").touch()
        package.joinpath("__init__.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(
            Case,
            "of",
            lambda q: GPU._replace(dtype=q.dtype, head_dim=q.shape[-1], recorded=module.is_recorded()),
        )

    yield install
    for name in [name for name in __import__("sys").modules if name.split(".")[0].startswith("flash_attn")]:
        __import__("sys").modules.pop(name)


def reference(qkv, heads, area):
    """Area attention part by part, in the textbook's formula."""
    b, c, h, w = qkv.shape
    q, k, v = qkv.flatten(2).reshape(b, 3, heads, -1, h * w).transpose(3, 4).unbind(1)  # (B, heads, N, head_dim)
    parts = []
    for qi, ki, vi in zip(*(t.tensor_split(area, dim=2) for t in (q, k, v))):
        weights = torch.softmax(qi @ ki.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)
        parts.append(weights @ vi)
    return torch.cat(parts, dim=2).transpose(2, 3).reshape(b, c // 3, h, w)


def tolerance(dtype):
    return dict(atol=16 * torch.finfo(dtype).eps, rtol=16 * torch.finfo(dtype).eps)


@settings(deadline=None, max_examples=120)
@given(b=st.integers(1, 3), heads=st.integers(1, 3), d=st.sampled_from([1, 8, 32]), h=st.integers(1, 8),
       w=st.integers(1, 8), area=st.integers(1, 9), layout=st.sampled_from([torch.channels_last, torch.contiguous_format]),
       backend=st.sampled_from(["auto", "sdpa", "math"]),
       dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))  # fmt: skip
def test_equals_attention_within_each_part(b, heads, d, h, w, area, layout, backend, dtype):
    qkv = torch.randn(b, 3 * heads * d, h, w, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    exact = qkv.detach().double().requires_grad_()
    with y12.attention_backend(backend):
        out, v = area_attention(qkv, heads, area)
        scaled, _ = area_attention(torch.cat((qkv[:, : heads * d] * d**-0.5, qkv[:, heads * d :]), 1), heads, area, 1.0)
    expected = reference(exact, heads, area)
    assert out.dtype is v.dtype is dtype
    assert torch.equal(v, qkv[:, -heads * d :])
    torch.testing.assert_close(out.double(), expected, **tolerance(dtype))
    torch.testing.assert_close(scaled.double(), expected, **tolerance(dtype))
    (ours,) = torch.autograd.grad(out.sum() + (out * out).sum(), qkv)
    (theirs,) = torch.autograd.grad(expected.sum() + (expected * expected).sum(), exact)
    scale = max(1, theirs.abs().max().item())
    torch.testing.assert_close(ours.double() / scale, theirs / scale, **tolerance(dtype))


@pytest.mark.parametrize("area", [1, 4])
def test_takes_a_fused_kernel_without_a_copy(area):
    """PyTorch falls back to the N x N map unannounced where the last dimension is not contiguous."""
    qkv = torch.randn(1, 192, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.profiler.profile() as profile:
        area_attention(qkv, 2, area)
    names = {event.name for event in profile.events()}
    assert any("flash_attention" in name for name in names) and "aten::copy_" not in names


@pytest.mark.parametrize("options", [dict(), dict(qkv_fused=False, pe_kernel=5), dict(vertical=True)])
def test_training_takes_a_fused_kernel(options):
    attn = y12.AAttn(64, 2, 4, **options)
    with torch.profiler.profile() as profile:
        attn(torch.randn(2, 64, 8, 8)).sum().backward()
    names = {event.name for event in profile.events()}
    assert any("flash_attention" in name and "backward" in name for name in names)
    assert not any("attention_math" in name for name in names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["flash", "sdpa", "math"])
def test_backends_agree_in_every_layout(backend, dtype, install):
    if backend == "flash":
        if dtype is torch.float32:
            pytest.skip("flash-attn computes half precision only")
        install()
    x = torch.randn(2, 64, 6, 6, dtype=dtype)
    for area in 1, 3, 5:
        for options in dict(), dict(qkv_fused=False, pe_kernel=5), dict(vertical=True):
            attn = y12.AAttn(64, 2, area, **options).to(dtype)
            outputs = []
            for name in "auto", backend:
                attn.zero_grad()
                with y12.attention_backend(name):
                    out = attn(x)
                out.float().square().mean().backward()
                outputs.append([out, *(p.grad for p in attn.parameters())])
            for a, b in zip(*outputs):
                assert a.dtype is b.dtype is dtype
                torch.testing.assert_close(a, b, atol=64 * torch.finfo(dtype).eps, rtol=64 * torch.finfo(dtype).eps)


CPU = Case(torch.device("cpu"), torch.float32, 32)


@pytest.mark.parametrize(
    "case, backend, why",
    [
        (GPU, "flash", "FlashAttention-2"),
        (GPU._replace(dtype=torch.float16), "flash", "FlashAttention-2"),
        (GPU._replace(deterministic=True), "flash", "FlashAttention-2"),
        (GPU._replace(head_dim=8), "flash", "FlashAttention-2"),
        (CPU, "sdpa", "needs an NVIDIA GPU, not cpu"),
        (CPU._replace(device=torch.device("mps")), "sdpa", "needs an NVIDIA GPU, not mps"),
        (GPU._replace(dtype=torch.float32), "sdpa", "not float32"),
        (GPU._replace(dtype=torch.float64), "sdpa", "not float64"),
        (GPU._replace(head_dim=12), "sdpa", "head_dim, not 12"),
        (GPU._replace(head_dim=512), "sdpa", "head_dim, not 512"),
        (GPU._replace(capability=(7, 5)), "sdpa", "not made for compute capability 7.5"),
        (GPU._replace(recorded=True), "sdpa", "graph that is exported or compiled"),
    ],
)
def test_automatic_choice(case, backend, why, install):
    install()
    assert choose("auto", case) == backend
    assert why in find_flash(case)[1]


@pytest.mark.parametrize(
    "capability, name", [((8, 6), "FlashAttention-2"), ((9, 0), "FlashAttention-3"), ((10, 0), "FlashAttention-4")]
)
def test_flash_attention_made_for_the_gpu(capability, name, install, tmp_path):
    install()
    install(
        name="flash_attn.cute",
        code=FLASH_ATTN.replace("return out.transpose(1, 2)", "return out.transpose(1, 2), None"),
    )
    tmp_path.joinpath("flash_attn", "__init__.py").write_text(FLASH_ATTN)
    install(name="flash_attn_interface")
    function, chosen = find_flash(GPU._replace(capability=capability))
    assert chosen == name and function is not None


def test_deterministic_training_asks_flash_attention_for_it(install):
    install()
    assert choose("auto", GPU._replace(deterministic=True)) == "flash"
    from flash_attn import flash_attn_func

    assert set(flash_attn_func.calls) == {True}


def test_flash_attention_without_what_it_builds_on(install, caplog):
    """FlashAttention-2 carries a part of 4 that works with packages of its own only: no fault, but no use either."""
    install("import cutlass" + FLASH_ATTN, name="flash_attn.cute")
    assert choose("auto", GPU._replace(capability=(10, 0))) == "sdpa"
    why = find_flash(GPU._replace(capability=(10, 0)))[1]
    assert why == "FlashAttention-4 lacks cutlass; FlashAttention-2 lacks flash_attn_func"
    assert all(r.levelno < logging.WARNING for r in caplog.records)


BROKEN = {
    "wrong values": ("return out.transpose(1, 2)", "return out.transpose(1, 2) * 1.1"),
    "wrong gradients": ("return out.transpose(1, 2)", "return (out * 2 - out.detach()).transpose(1, 2)"),
    "no gradient": ("return out.transpose(1, 2)", "return out.transpose(1, 2).detach()"),
    "not a number": ("return out.transpose(1, 2)", "return out.transpose(1, 2) * float('nan')"),
    "zeros": ("return out.transpose(1, 2)", "return out.transpose(1, 2) * 0"),
    "no kernel": ("return out", "raise RuntimeError('CUDA error: no kernel image is available'); return out"),
    "undefined symbol": (
        "def flash",
        "raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN3c10'); def flash",
    ),
    "other arguments": ("softmax_scale=None", "scale=None"),
    "exit": ("def flash", "raise AssertionError\ndef flash"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_flash_attention_is_left_aside(fault, install, caplog):
    install(FLASH_ATTN.replace(*BROKEN[fault]))
    q = torch.randn(1, 2, 16, 32, dtype=torch.bfloat16, requires_grad=True)
    with caplog.at_level(logging.WARNING, "ultralytics"):
        logging.getLogger("ultralytics").addHandler(caplog.handler)
        try:
            for _ in range(2):
                out = attention(q, q, q)
        finally:
            logging.getLogger("ultralytics").removeHandler(caplog.handler)
    torch.testing.assert_close(out, attention(q, q, q, backend="sdpa"))
    assert out.requires_grad
    warnings = {r.getMessage() for r in caplog.records if r.levelno == logging.WARNING}
    assert len(warnings) == 1 and "left aside" in warnings.pop()
    with pytest.raises(RuntimeError, match=r"'flash' cannot run here: FlashAttention-2 .*; available here: auto, sdpa"):
        attention(q, q, q, backend="flash")


def test_flash_attention_without_deterministic_gradients(install):
    install(FLASH_ATTN.replace(", deterministic=False", "").replace("append(deterministic)", "append(None)"))
    assert choose("auto", GPU) == "flash"
    assert choose("auto", GPU._replace(deterministic=True)) == "sdpa"


def test_comparison_leaves_the_random_state_and_the_modes(install):
    install()
    before = torch.get_rng_state()
    with torch.inference_mode():
        q = torch.randn(1, 2, 16, 32, dtype=torch.bfloat16)
        assert attention(q, q, q).is_inference()
    torch.set_rng_state(before)
    torch.randn(1, 2, 16, 32, dtype=torch.bfloat16)
    after = torch.get_rng_state()
    choose.cache_clear(), find_flash.cache_clear()
    torch.set_rng_state(before)
    torch.randn(1, 2, 16, 32, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert choose("auto", GPU) == "flash"
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("name", ["flsh", "", None, "SDPA", 1])
def test_unknown_backend(name):
    with pytest.raises(ValueError, match=rf"{name!r} is unknown; available: auto, sdpa, math"):
        y12.attention_backend(name)
    assert y12.attention_backend.current() == "auto"


def test_backend_that_is_not_installed(clean):
    with pytest.raises(
        ImportError, match=r"'flash' is not installed: pip install flash-attn; available: auto, sdpa, math"
    ):
        y12.attention_backend("flash")
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(ImportError, match="not installed"):
        attention(q, q, q, backend="flash")


@pytest.mark.parametrize(
    "dtype, d, why", [(torch.float32, 32, "float16 and bfloat16, not float32"), (torch.bfloat16, 20, "not 20")]
)
def test_backend_that_cannot_run(dtype, d, why, install):
    install()
    q = torch.randn(1, 1, 4, d, dtype=dtype)
    with (
        y12.attention_backend("flash"),
        pytest.raises(RuntimeError, match=rf"cannot run here: .*{why}; available here: "),
    ):
        attention(q, q, q)
    attention(q, q, q)  # auto goes on


def test_backend_as_setter_and_as_context():
    try:
        y12.attention_backend("math")
        assert y12.attention_backend.current() == "math"
        with pytest.raises(KeyError), y12.attention_backend("sdpa"):
            with y12.attention_backend("auto"):
                assert y12.attention_backend.current() == "auto"
            assert y12.attention_backend.current() == "sdpa"
            raise KeyError
        assert y12.attention_backend.current() == "math"
    finally:
        y12.attention_backend("auto")


def test_math_keeps_the_map_and_sdpa_does_not():
    """What the choice decides: bytes kept for the backward pass."""
    q = torch.randn(1, 1, 100, 8, requires_grad=True)
    largest = {}
    for backend in "sdpa", "math":
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):  # noqa: B023
            attention(q, q, q, backend=backend)
        largest[backend] = max(sizes)
    assert largest == {"sdpa": 800, "math": 10_000}


def test_graphs_hold_no_flash_attention(install):
    install()
    attn = y12.AAttn(64, 2).eval().bfloat16()
    x = torch.randn(1, 64, 4, 4, dtype=torch.bfloat16)
    traced = torch.jit.trace(attn, x)
    assert "scaled_dot_product_attention" in str(traced.inlined_graph)
    with y12.attention_backend("flash"), pytest.raises(RuntimeError, match="graph that is exported or compiled"):
        torch.jit.trace(attn, x)


def test_checkpoints_keep_nothing_of_the_choice():
    with y12.attention_backend("math"):
        attn = y12.AAttn(64, 2)
        attn(torch.randn(2, 64, 4, 4))
        data = pickle.dumps(attn)
    assert b"math" not in data and b"backend" not in data and b"yolov12_plugin" not in data


def test_backend_from_the_environment(fork):
    code = """
    import torch, yolov12_plugin as y12
    with torch.profiler.profile() as profile:
        y12.AAttn(64, 2)(torch.randn(1, 64, 8, 8))
    print("flash_attention" in str({e.name for e in profile.events()}))
    """
    code = textwrap.dedent(code)
    assert fork(code).stdout.endswith("True\n")
    assert fork(code, YOLO12_ATTENTION="math").stdout.endswith("False\n")
    failed = fork(code, YOLO12_ATTENTION="flsh", check=False)
    assert "attention backend 'flsh' is unknown; available: auto, sdpa, math" in failed.stderr


def test_how_the_environment_is_read(fork):
    """Empty is unset, case and blanks are ignored."""
    code = """
    import importlib, os
    from yolov12_plugin.nn import attention
    for value in "", "  ", " math", "MATH", "Sdpa ", "AUTO":
        os.environ["YOLO12_ATTENTION"] = value
        print(importlib.reload(attention).attention_backend.current())
    """
    assert fork(textwrap.dedent(code)).stdout.split()[-6:] == ["auto", "auto", "math", "math", "sdpa", "auto"]


@pytest.mark.parametrize(
    "switch, values", [(y12.attention_backend, ("math", "sdpa")), (y12.checkpointing, (True, False))]
)
def test_one_object_in_many_blocks(switch, values):
    """One after the other, within itself, in two threads that overlap, and in a generator that is left last."""
    default, (one, other) = switch.current(), values
    same = switch(one)
    seen = []
    for _ in range(2):
        with same:
            seen.append(switch.current())
            with switch(other), same:
                seen.append(switch.current())
            seen.append(switch.current())
    assert seen == [one] * 6 and switch.current() == default

    barrier = threading.Barrier(2)

    def enter(seconds):
        barrier.wait(10)
        for _ in range(50):
            with same:
                time.sleep(seconds)
                seen.append(switch.current())
            seen.append(switch.current() == default)

    seen.clear()
    threads = [threading.Thread(target=enter, args=(seconds,)) for seconds in (0.001, 0.0007)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, seen)) == sorted([str(one)] * 100 + ["True"] * 100) and switch.current() == default

    def inside():
        with switch(one):
            yield switch.current()

    generator = inside()
    assert next(generator) == one
    with switch(other):
        generator.close()
        assert switch.current() == other
    assert switch.current() == default


def test_choice_is_said_once(fork):
    out = fork(
        "from ultralytics import YOLO; m = YOLO('yolov12n.yaml'); m.predict(imgsz=64, source='none.jpg')", check=False
    )
    assert out.stdout.count("attention: sdpa on cpu, float32\n") == 1


@pytest.mark.process
@pytest.mark.parametrize(
    "value, said",
    [("math", "attention: math (YOLO12_ATTENTION=math)"), (" SDPA ", "attention: sdpa (YOLO12_ATTENTION=sdpa)")],
)
def test_what_the_environment_selects_is_said_once(fork, value, said):
    code = "from ultralytics import YOLO; m = YOLO('yolov12n.yaml'); m.predict(imgsz=64, source='none.jpg')"
    out = fork(code, check=False, YOLO12_ATTENTION=value)
    assert [line for line in out.stdout.splitlines() if line.startswith("attention: ")] == [said]


@pytest.mark.compile
@pytest.mark.parametrize("options", [dict(), dict(qkv_fused=False)])
def test_compiles_to_one_graph(options):
    attn = y12.ABlock(64, 2, 2.0, 4, **options)
    x = torch.randn(2, 64, 8, 8)
    for mode in True, False:
        attn.train(mode)
        compiled = torch.compile(attn, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), attn(x))
        if not mode:
            attn.attn.fuse()
            torch.testing.assert_close(torch.compile(attn, backend="aot_eager", fullgraph=True)(x), attn(x))
    torch._dynamo.reset()


def test_flash_takes_no_position_bias(install):
    """auto computes it by sdpa, and flash says why it cannot."""
    install()
    attn = y12.AAttn(64, 2, 4, pos_embed="relative").eval().bfloat16()
    x = torch.randn(1, 64, 8, 8, dtype=torch.bfloat16)
    with y12.attention_backend("math"):
        expected = attn(x)
    with y12.attention_backend("auto"):
        torch.testing.assert_close(attn(x), expected, atol=0.1, rtol=0.1)
    assert not __import__("flash_attn").flash_attn_func.calls
    with y12.attention_backend("flash"), pytest.raises(RuntimeError, match=r"no relative .*\(pos_embed='relative'\)"):
        attn(x)
