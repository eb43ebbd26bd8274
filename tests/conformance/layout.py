"""What maps a block takes, and what it hands on."""

import torch
from torch import nn

from conformance.capabilities import group
from conformance.support import (
    a2c2f,
    aattn,
    ablock,
    attention,
    equal,
    fused,
    gradients,
    images,
    maps,
    network,
    stages,
    three,
    total,
    twin,
)

capability = group("Layout")
LAST = torch.channels_last


@capability
def contiguous_in_contiguous_out():
    """A2C2f hands on a contiguous map: training, evaluation, fused"""
    for stage, block, x in stages():
        assert block(x).is_contiguous(), stage


@capability
def contiguous_out_of_every_block():
    """AAttn and ABlock hand on contiguous maps"""
    for name, block in three().items():
        for training in True, False:
            assert block.train(training)(maps(2)).is_contiguous(), (name, training)
    block = fused().model[6].m[0][0]
    assert block(maps()).is_contiguous() and block.attn(maps()).is_contiguous()


@capability
def channels_last_in_channels_last_out():
    """A2C2f hands on a channels-last map where it gets one"""
    for stage, block, x in stages():
        assert block(x.to(memory_format=LAST)).is_contiguous(memory_format=LAST), stage


@capability
def view_behind_a_block():
    """`.view` of a distillation loss or of a group attention behind A2C2f"""
    for _, block, x in stages():
        y = block(x)
        b, c, h, w = y.shape
        y.view(b, c, -1)
        y.view(-1, h * w)
        y.view(b * 8, -1, h, w)


@capability
def layout_of_every_layer():
    """Every layer of the network hands on contiguous maps, in training and in evaluation"""
    for training in True, False:
        net, found = network().train(training), {}
        for i, layer in enumerate(net.model[:-1]):
            layer.register_forward_hook(lambda m, args, out, i=i, f=found: f.update({i: out.is_contiguous()}))
        net(images())
        assert all(found.values()) and len(found) == len(net.model) - 1, found


@capability
def layout_of_what_submodules_get():
    """proj, pe, mlp, cv1 and cv2 are handed contiguous maps"""
    block, found = a2c2f().eval(), {}
    for name, m in block.named_modules():
        if name.rpartition(".")[2] in ("qkv", "proj", "pe", "mlp", "cv1", "cv2"):
            m.register_forward_pre_hook(lambda m, args, name=name: found.update({name: args[0].is_contiguous()}))
    block(maps(2))
    assert len(found) == 10 and all(found.values()), found


class Viewed(torch.autograd.Function):
    """As extensions in C++ are: they take gradients by their memory."""

    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        return grad.view(-1).mul(2).view(grad.shape)


@capability
def layout_of_gradients():
    """The gradient that leaves a block is contiguous where its input is"""
    for block in a2c2f(), ablock(), aattn():
        x = maps(2).requires_grad_()
        block.train()(Viewed.apply(x)).pow(2).mean().backward()
        y = maps(2).requires_grad_()
        block(y).pow(2).mean().backward()
        equal(x.grad, 2 * y.grad)


@capability
def channels_last_network():
    """`model.to(memory_format=torch.channels_last)`: outputs and gradients as before"""
    net = network()
    last = twin(net).to(memory_format=LAST)
    x = images()
    for training in False, True:
        a, b = net.train(training)(x), last.train(training)(x.to(memory_format=LAST))
        equal(b, a, 1e-3)
    total(a).backward()
    total(b).backward()
    for name, grad in gradients(net).items():
        assert (gradients(last)[name] - grad).norm() <= 1e-2 * grad.norm() + 1e-6, name


@capability
def input_of_any_stride():
    """Transposed, cut and expanded inputs give what their copies give"""
    base = maps(2, 128, 16, 16)
    inputs = (
        base[:, ::2, ::2, 1::2],
        base[:, :64, 4:12, 4:12].transpose(2, 3),
        base[:1, :64, :8, :8].expand(3, -1, -1, -1),
    )
    for _, block, _ in list(stages())[:2]:
        for x in inputs:
            equal(block(x), block(x.contiguous()))


@capability
def input_is_left_as_it_is():
    """A block changes nothing of its input"""
    for _, block, x in stages():
        before, version = x.clone(), x._version
        block(x)
        assert torch.equal(x, before) and x._version == version


@capability
def in_place_behind_a_block():
    """An in-place activation behind a block in training; gradients as out of place"""
    for make in a2c2f, ablock, aattn:
        found = []
        for inplace in True, False:
            block = nn.Sequential(make(), nn.ReLU(inplace=inplace)).train()
            block(maps(2)).pow(2).mean().backward()
            found.append(gradients(block))
        assert found[0].keys() == found[1].keys()
        equal(list(found[0].values()), list(found[1].values()))


@capability
def in_place_before_a_block():
    """An in-place activation between the layers that a block reads from"""
    x = maps(2).requires_grad_()
    y = nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU(inplace=True), a2c2f(), nn.Hardswish(inplace=True))(x)
    y.mean().backward()
    assert x.grad.isfinite().all()


@capability
def outputs_may_be_written():
    """What a block returns is its own: writing into it changes no later result"""
    for _, block, x in list(stages())[1:]:
        with torch.no_grad():
            first = block(x)
            kept = first.clone()
            first.zero_()
            equal(block(x), kept)


@capability
def sizes_of_images():
    """Square, wide and high images, one and several; the same numbers as stock's"""
    net = network().eval()
    with torch.no_grad():
        return [net(images(b, h, w))[0] for b, h, w in [(1, 64, 64), (3, 64, 128), (2, 128, 64), (1, 96, 128)]]


@capability
def empty_batch():
    """A batch of no images"""
    y = a2c2f().eval()(maps(1)[:0])
    assert y.shape == (0, 64, 8, 8)


@capability
def uneven_heads():
    """AAttn(100, 3, area): heads that do not divide the channels"""
    found = []
    for area in 1, 4:
        a = aattn(100, 3, area)
        x = maps(2, 100).requires_grad_()
        y = a.train()(x)
        y.pow(3).mean().backward()  # that of squares is none behind a normalisation
        assert y.shape == x.shape and a.all_head_dim == 99 and x.grad.isfinite().all()
        found += [y, x.grad, a.eval()(x)]
    return found


@capability
def other_widths():
    """AAttn of other widths and numbers of heads"""
    return [aattn(dim, heads, 1).eval()(maps(1, dim)) for dim, heads in [(32, 4), (48, 1), (64, 16), (96, 6)]]


@capability
def precisions():
    """Blocks in double, bfloat16 and half precision on a CPU"""
    exact = a2c2f().double().eval()(maps(2).double())
    for dtype, limit in (torch.bfloat16, 0.1), (torch.float16, 0.02):
        y = a2c2f().to(dtype).eval()(maps(2).to(dtype))
        assert y.dtype is dtype
        equal(y, exact, limit)
    return exact


@capability
def options_at_run_time():
    """`area` and `num_heads` of a built attention may be set"""
    a, x = aattn().eval(), maps(2)
    found = [a(x)]
    a.area = 1
    found.append(a(x))
    a.num_heads, a.head_dim = 4, 16
    found.append(a(x))
    return found


@capability
def attributes():
    """What user code reads of a block: area, heads, widths, gamma"""
    a, block = attention(network()), a2c2f(residual=True)
    names = "area", "num_heads", "head_dim", "all_head_dim"
    return [*(getattr(a, name) for name in names), block.gamma, network().model[6].gamma]
