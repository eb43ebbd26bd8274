"""Activation checkpointing: the same gradients and statistics, and a refusal where they would be others."""

import copy
import textwrap
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import yolov12_plugin as y12
from yolov12_plugin.nets import saved_bytes


def block(**options):
    torch.manual_seed(0)
    return y12.ABlock(64, 2, 2.0, 4, **options).double().train()


def noisy(**options):
    """A block with something random in it."""
    made = block(**options)
    made.mlp[0].act = nn.Sequential(nn.SiLU(), nn.Dropout(0.5))
    return made


def frozen(**options):
    made = block(**options)
    made.mlp.requires_grad_(False)
    return made


def frozen_statistics(**options):
    made = block(**options)
    for m in made.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    return made


def compare(made, inputs, run):
    """`run` with checkpointing and without, from the same random state: gradients and buffers."""
    found = []
    for enabled in True, False:
        module, x = copy.deepcopy(made), inputs.clone().requires_grad_()
        torch.manual_seed(1)
        with y12.checkpointing(enabled):
            run(module, x)
        grads = {name: p.grad for name, p in module.named_parameters()}
        found.append((x.grad, grads, dict(module.named_buffers()), torch.get_rng_state()))
    torch.testing.assert_close(found[0][:3], found[1][:3])
    assert torch.equal(found[0][3], found[1][3])
    return found[0]


def one_backward(module, x):
    module(x).square().sum().backward()


def several_backwards(module, x):
    out = module(x)
    for i in range(3):
        out[:, i].square().sum().backward(retain_graph=True)


def two_forwards(module, x):
    (module(x) * module(x * 2)).sum().backward()


def gradient_penalty(module, x):
    (grad,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    grad.square().sum().backward()


def autocast(module, x):
    with torch.autocast("cpu", torch.bfloat16):
        out = module.float()(x.float())
    out.float().square().sum().backward()


def outside_of_the_choice(module, x):
    """The backward pass runs with another backend than the forward pass."""
    with y12.attention_backend("math"):
        out = module(x)
    out.square().sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("made", [block, noisy, frozen, frozen_statistics])
@pytest.mark.parametrize(
    "run", [one_backward, several_backwards, two_forwards, gradient_penalty, autocast, outside_of_the_choice]
)
def test_gradients_and_statistics(made, run):
    compare(made(), torch.rand(2, 64, 6, 6, dtype=torch.float64), run)


@settings(deadline=None, max_examples=20)
@given(
    b=st.integers(1, 3),
    h=st.integers(2, 7),
    w=st.integers(1, 7),
    options=st.sampled_from([dict(), dict(qkv_fused=False), dict(norm="ln"), dict(pos_embed="relative")]),
)
def test_any_size(b, h, w, options):
    compare(block(**options), torch.rand(b, 64, h, w, dtype=torch.float64), one_backward)


def test_statistics_count_once():
    made = block()
    with y12.checkpointing():
        made(torch.rand(2, 64, 4, 4).double()).sum().backward()
    assert {int(m.num_batches_tracked) for m in made.modules() if isinstance(m, nn.BatchNorm2d)} == {1}


def test_a_block_keeps_its_input():
    made, x = block(), torch.rand(1, 64, 32, 32).double()
    plain = saved_bytes(made, x)
    with y12.checkpointing():
        assert saved_bytes(made, x) < plain / 10
        with torch.no_grad():
            assert not made(x).requires_grad


def test_modes_changed_in_between():
    made = block()
    with y12.checkpointing():
        out = made(torch.rand(2, 64, 4, 4).double())
        made.eval()
        with pytest.raises(RuntimeError, match=r"eval\(\)"):
            out.sum().backward()


def test_weights_changed_in_between():
    made = block()
    with y12.checkpointing():
        out = made(torch.rand(2, 64, 4, 4).double())
        with torch.no_grad():
            made.mlp[0].conv.weight.mul_(2)
        with pytest.raises(RuntimeError, match="weights"):
            out.sum().backward()


def test_weights_that_were_handed_in():
    """The module has others by the time of the backward pass: refused, not computed with those."""
    made = block()
    given = {name: (p * 0.9).detach().requires_grad_() for name, p in made.named_parameters()}
    with y12.checkpointing():
        out = torch.func.functional_call(made, given, (torch.rand(2, 64, 4, 4).double(),))
        with pytest.raises(RuntimeError, match="weights"):
            out.sum().backward()


def test_normalisation_over_processes_is_refused():
    made = nn.SyncBatchNorm.convert_sync_batchnorm(block())
    with y12.checkpointing(), pytest.raises(RuntimeError, match="SyncBatchNorm"):
        made(torch.rand(2, 64, 4, 4).double())


def test_threads_count_statistics():
    made, x = block(), torch.rand(2, 64, 4, 4).double()

    def work():
        with y12.checkpointing():
            for _ in range(5):
                made(x).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.attn.qkv.bn.num_batches_tracked == 40


@pytest.mark.compile
def test_transforms_and_graphs_are_left_alone():
    made, x = block().eval(), torch.rand(1, 64, 4, 4).double()
    expected = made(x)
    with y12.checkpointing():
        assert torch.func.grad(lambda x: made(x).sum())(x).shape == x.shape
        torch.func.jvp(made, (x,), (x,))
        for graph in torch.fx.symbolic_trace(made), torch.jit.trace(made, x), torch.jit.script(made):
            torch.testing.assert_close(graph(x), expected)
        torch.testing.assert_close(torch.compile(made, backend="aot_eager", fullgraph=True)(x), expected)
    torch._dynamo.reset()


def is_on():
    from yolov12_plugin.nn.checkpointing import checkpointing

    return checkpointing.current()


def test_setter_and_context():
    assert is_on() is False
    try:
        y12.checkpointing()
        assert is_on() is True
        with y12.checkpointing(False):
            assert is_on() is False
        assert is_on() is True
    finally:
        y12.checkpointing(False)
    on = y12.checkpointing()
    for _ in range(2):  # one object, twice
        with on:
            assert is_on() is True
        assert is_on() is False


def test_blocks_of_two_threads_overlap():
    """What one thread enters and leaves is nothing to the other, nor to the process."""
    entered, left = threading.Event(), threading.Event()

    def first():
        with y12.attention_backend("math"):
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    with y12.attention_backend("sdpa"):
        left.set()
        thread.join()
        assert y12.attention_backend.current() == "sdpa"
    assert y12.attention_backend.current() == "auto"


@pytest.mark.parametrize("value, on", [("1", True), (" ON ", True), ("", False), ("0", False), ("False", False)])
def test_environment(value, on, run):
    code = """
    from yolov12_plugin.nn.checkpointing import checkpointing
    print(checkpointing.current())
    """
    assert run(textwrap.dedent(code), YOLO12_CHECKPOINT=value).stdout.endswith(f"{on}\n")


@pytest.mark.parametrize("value, lines", [("1", 1), ("0", 0)])
def test_the_environment_is_said_to_take_effect(value, lines, fork):
    code = """
    import torch, yolov12_plugin as y12
    from ultralytics.utils import LOGGER
    block = y12.A2C2f(64, 64, area=4).train()
    for _ in range(2):
        block(torch.rand(2, 64, 8, 8))
    """
    done = fork(textwrap.dedent(code), YOLO12_CHECKPOINT=value)
    assert (done.stdout + done.stderr).count("YOLO12_CHECKPOINT=1") == lines
