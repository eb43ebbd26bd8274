"""Parts of a block may be replaced, hooked and patched: their modules are called."""

import torch
from torch import nn
from ultralytics.nn.modules import block as blocks
from ultralytics.nn.modules.conv import Conv, GhostConv

from conformance.capabilities import group
from conformance.support import (
    YAML,
    a2c2f,
    aattn,
    ablock,
    calls,
    close,
    differ,
    lively,
    maps,
    network,
    quotient,
    still,
    three,
)

capability = group("Submodules")

PARTS = {"proj": (64, 64), "pe": (64, 64), "qkv": (64, 192)}  # of AAttn, and their channels


class Two(nn.Module):
    """A convolution of two branches: its children are not a sequence."""

    def __init__(self, c1: int = 64, c2: int = 64):
        super().__init__()
        self.a, self.b = nn.Conv2d(c1, c2, 3, 1, 1, bias=False), nn.Conv2d(c1, c2, 1, bias=False)

    def forward(self, x):
        return self.a(x) + 0.5 * self.b(x)


class LoRA(nn.Module):
    """A module and a trainable product of low rank beside it."""

    def __init__(self, base: nn.Module, c1: int, c2: int):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Conv2d(c1, 4, 1, bias=False), nn.Conv2d(4, c2, 1, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def called_once(block: nn.Module, part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output of a block, in which one part was called once."""
    counts = []
    handle = part.register_forward_hook(lambda *_: counts.append(1))
    y = block(x)
    handle.remove()
    assert len(counts) == 1, f"called {len(counts)} times"
    return y


def put(block: nn.Module, part: str, new: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output of a block with a part replaced; the part is called once and counts."""
    before = block(x)
    owner, _, name = part.rpartition(".")
    setattr(block.get_submodule(owner), name, lively(new))
    after = called_once(block, new, x)
    differ(after, before)
    return after


@capability
def zero_projection():
    """A projection of zeros as `proj` of AAttn makes its output zero"""
    a = aattn().eval()
    a.proj = nn.Conv2d(64, 64, 1)
    nn.init.zeros_(a.proj.weight), nn.init.zeros_(a.proj.bias)
    assert not a(maps()).any()


@capability
def two_branches_in_an_attention():
    """A convolution of two branches as proj, pe or qkv"""
    return [put(aattn().eval(), part, Two(*sizes), maps(2)) for part, sizes in PARTS.items()]


@capability
def identity_in_an_attention():
    """Identity as proj or pe"""
    return [put(aattn().eval(), part, nn.Identity(), maps(2)) for part in ("proj", "pe")]


@capability
def ghost_convolution():
    """Ultralytics' GhostConv as proj, pe, qkv, cv1 or cv2"""
    found = [put(aattn().eval(), part, GhostConv(*sizes), maps(2)) for part, sizes in PARTS.items()]
    found += [put(a2c2f().eval(), "cv1", GhostConv(64, 32), maps(2))]
    found += [put(a2c2f().eval(), "cv2", GhostConv(64, 64), maps(2))]
    return found


@capability
def plain_convolution():
    """A bare nn.Conv2d, or one within nn.Sequential, as qkv or pe"""
    found = [put(aattn().eval(), "qkv", nn.Conv2d(64, 192, 1, bias=False), maps(2))]
    found += [
        put(aattn().eval(), "qkv", nn.Sequential(nn.Conv2d(64, 192, 1, bias=False), nn.BatchNorm2d(192)), maps(2))
    ]
    found += [put(aattn().eval(), "pe", nn.Conv2d(64, 64, 5, 1, 2, groups=64, bias=False), maps(2))]
    return found


@capability
def low_rank_by_hand():
    """LoRA written by hand around qkv, proj and mlp: output, and gradients of the adapters alone"""
    block = ablock().train()
    for owner, name, sizes in (block.attn, "qkv", (64, 192)), (block.attn, "proj", (64, 64)), (block, "mlp", (64, 64)):
        setattr(owner, name, LoRA(getattr(owner, name), *sizes))
    block.requires_grad_(False)
    adapters = {n: p.requires_grad_() for n, p in block.named_parameters() if ".down." in n or ".up." in n}
    lively(block)
    y = block(maps(2))
    y.pow(2).mean().backward()
    with_gradients = {n for n, p in block.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradients == adapters.keys() and len(adapters) == 6
    return [y, *(p.grad for p in adapters.values())]


@capability
def one_module_as_mlp():
    """A single module as mlp: a convolution, two branches, Identity, in training and evaluation"""
    found = []
    for training in True, False:
        for new in nn.Sequential(Conv(64, 64, 3)), Two(), Conv(64, 64, 1), nn.Identity():
            found.append(put(ablock().train(training), "mlp", new, maps(2)))
    return found


@capability
def three_modules_as_mlp():
    """An mlp of three modules, in training and evaluation"""
    found = []
    for training in True, False:
        block = ablock().train(training)
        found.append(
            put(block, "mlp", nn.Sequential(Conv(64, 128, 1), Conv(128, 128, 3, g=128), Conv(128, 64, 1)), maps(2))
        )
        found[-1].pow(2).mean().backward()
        assert all(p.grad.any() for p in block.mlp.parameters())
    return found


@capability
def dropout_between_the_layers_of_the_mlp():
    """Dropout inserted into mlp: the gradient is that of the difference quotient"""
    block = still(ablock().double().train())
    block.mlp = nn.Sequential(block.mlp[0], nn.Dropout(0.5), block.mlp[1])
    compare_with_a_quotient(block, block.mlp[0].conv.weight, (5, 6, 0, 0))


@capability
def two_branches_of_a_stage():
    """A convolution of two branches as cv1 or cv2 of A2C2f"""
    found = [put(a2c2f().eval(), "cv1", Two(64, 32), maps(2)), put(a2c2f().eval(), "cv2", Two(64, 64), maps(2))]
    return found


@capability
def blocks_of_a_stage():
    """Items of A2C2f.m replaced, appended to and wrapped"""
    found = [put(a2c2f().eval(), "m.0.1", nn.Identity(), maps(2))]
    block = a2c2f().eval()
    found.append(put(block, "m.0", nn.Sequential(*block.m[0], blocks.ABlock(32, 1, 2.0, 1)).eval(), maps(2)))
    found.append(put(a2c2f().eval(), "m.0", Two(32, 32), maps(2)))
    return found


class SelfAttention(nn.Module):
    """Another attention under the same interface."""

    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.inner(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)


@capability
def another_attention():
    """`attn` of ABlock replaced by nn.MultiheadAttention or by a convolution"""
    torch.manual_seed(3)
    return [put(ablock().eval(), "attn", SelfAttention(), maps(2)), put(ablock().eval(), "attn", Two(), maps(2))]


@capability
def other_activations():
    """Activations of a block replaced: nn.GELU, nn.SiLU(inplace=True)"""
    found = []
    for act in nn.GELU(), nn.SiLU(inplace=True), nn.Sequential(nn.SiLU(), nn.Hardtanh(-0.2, 0.2)):
        block = ablock().train()
        block.mlp[0].act = act
        y = block(maps(2))
        y.pow(2).mean().backward()
        found += [y, block.mlp[0].conv.weight.grad]
    return found


def compare_with_a_quotient(block, weight, index):
    x = maps(2).double()

    def loss():
        torch.manual_seed(1)
        return block(x).pow(2).sum()

    weight.grad = None
    loss().backward()
    close(weight.grad[index].item(), quotient(loss, weight, index))


@capability
def random_mlp():
    """Dropout, RReLU or added noise in mlp: the gradient is that of the difference quotient"""

    class Noise(nn.Module):
        def forward(self, x):
            return x * torch.rand_like(x)

    for act in nn.Sequential(nn.SiLU(), nn.Dropout(0.5)), nn.RReLU(), nn.Sequential(nn.SiLU(), Noise()):
        block = still(ablock().double().train())
        block.mlp[0].act = act
        compare_with_a_quotient(block, block.mlp[1].conv.weight, (10, 60, 0, 0))
        compare_with_a_quotient(block, block.mlp[0].conv.weight, (3, 4, 0, 0))
        compare_with_a_quotient(block, block.attn.qkv.conv.weight, (3, 4, 0, 0))


@capability
def random_state():
    """A training step draws as many random numbers as stock's"""
    block = ablock().train()
    block.mlp[0].act = nn.Sequential(nn.SiLU(), nn.Dropout(0.5))
    torch.manual_seed(7)
    block(maps(2)).mean().backward()
    return torch.rand(4)


@capability
def forward_hooks():
    """The forward hook of every submodule is called once, in training and in evaluation"""
    for training in True, False:
        block = a2c2f().train(training)
        counts = calls(block)
        y = block(maps(2))
        if training:
            y.mean().backward()
        assert set(counts.values()) == {1} and len(counts) > 30, {k: v for k, v in counts.items() if v != 1}


@capability
def hooks_that_change_something():
    """Hooks of qkv, proj, pe, mlp and cv1 that replace inputs and outputs"""
    found, x = [], maps(2)
    for part in "m.0.0.attn.qkv", "m.0.0.attn.proj", "m.0.0.attn.pe", "m.0.0.mlp", "m.0.0.mlp.1", "cv1", "m.0.0.attn":
        block = a2c2f().eval()
        before = block(x)
        m = block.get_submodule(part)
        handle = m.register_forward_pre_hook(lambda m, args: (args[0] * 0.5,))
        first = block(x)
        handle.remove()
        m.register_forward_hook(lambda m, args, out: out.flip(1))
        second = block(x)
        differ(first, before)
        differ(second, before)
        found += [first, second]
    return found


@capability
def backward_hooks():
    """Full backward hooks of qkv, proj, pe, mlp and the block are called once"""
    block, seen = a2c2f().train(), []
    parts = (
        "",
        "cv1",
        "cv2",
        "m.0.0",
        "m.0.0.mlp",
        "m.0.0.mlp.0",
        "m.0.0.attn",
        "m.0.0.attn.qkv",
        "m.0.0.attn.proj",
        "m.0.0.attn.pe",
    )
    for part in parts:
        block.get_submodule(part).register_full_backward_hook(lambda *_, part=part: seen.append(part))
        block.get_submodule(part).register_full_backward_pre_hook(lambda *_, part=part: seen.append(part))
    block(maps(2).requires_grad_()).pow(2).mean().backward()
    assert sorted(seen) == sorted(2 * parts), seen


@capability
def global_hooks():
    """Hooks on all modules (profilers) see the submodules that stock's see, in its order"""
    from torch.nn.modules.module import register_module_forward_hook

    block = a2c2f().train()
    names, seen = {m: name for name, m in block.named_modules()}, []
    handle = register_module_forward_hook(lambda m, args, out: seen.append(names[m]))
    try:
        block(maps(2)).mean().backward()
    finally:
        handle.remove()
    return seen


@capability
def patched_instance():
    """`forward` of a submodule's instance replaced"""
    block, x = ablock(), maps(2)
    for training in True, False:
        block.train(training)
        before = block(x)
        for m in block.mlp, block.attn, block.attn.pe, block.attn.qkv:
            old, m.forward = m.forward, lambda x, m=m: 2 * type(m).forward(m, x)
            differ(block(x), before)
            m.forward = old


@capability
def patched_class():
    """`AAttn.forward` replaced in ultralytics.nn.modules.block, as tutorials do"""
    net, old = network().eval(), blocks.AAttn.forward
    x, seen = torch.rand(1, 3, 64, 64), []

    def forward(self, x):
        seen.append(1)
        return self.proj(self.qkv(x)[:, : self.all_head_dim])

    blocks.AAttn.forward = forward
    try:
        y = net(x)[0]
    finally:
        blocks.AAttn.forward = old
    assert len(seen) == 8
    return y


class MyAttention(blocks.AAttn):
    """As in papers that build on YOLOv12: the parts of AAttn in another arrangement."""

    def forward(self, x):
        q, k, v = self.qkv(x).split(self.all_head_dim, 1)
        return self.proj(torch.sigmoid(q * k) * v + self.pe(v))


class MyBlock(blocks.ABlock):
    def __init__(self, dim, num_heads, mlp_ratio=1.2, area=1):
        super().__init__(dim, num_heads, mlp_ratio, area)
        self.attn = MyAttention(dim, num_heads, area)
        self.extra = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim, bias=False)

    def forward(self, x):
        return self.extra(x + self.attn(x)) + self.mlp(x)


class MyStage(blocks.A2C2f):
    def __init__(self, c1, c2, n=1, a2=True, area=1, residual=False, mlp_ratio=2.0, e=0.5, g=1, shortcut=True):
        super().__init__(c1, c2, n, a2, area, residual, mlp_ratio, e, g, shortcut)
        c = int(c2 * e)
        if a2:
            self.m = nn.ModuleList(
                nn.Sequential(*(MyBlock(c, c // 32, mlp_ratio, area) for _ in range(2))) for _ in range(n)
            )


@capability
def subclasses():
    """Subclasses of AAttn, ABlock and A2C2f with forward methods of their own, trained, evaluated"""
    block = lively(MyStage(64, 64, 2, True, 4))
    y = block.train()(maps(2))
    y.pow(2).mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())
    return [y, block.eval()(maps(2))]


@capability
def subclass_in_a_yaml():
    """A subclass under the name A2C2f in ultralytics.nn.tasks builds from a YAML"""
    from ultralytics.nn import tasks

    old, tasks.A2C2f = tasks.A2C2f, MyStage
    try:
        net = tasks.DetectionModel(YAML.format("n"), verbose=False)
    finally:
        tasks.A2C2f = old
    assert sum(isinstance(m, MyAttention) for m in net.modules()) == 8
    return net.eval()(torch.rand(1, 3, 64, 64))[0].shape


@capability
def own_block_of_their_parts():
    """A block written from Conv, AAttn, ABlock and A2C2f imported from Ultralytics"""
    from ultralytics.nn.modules import A2C2f

    net = nn.Sequential(A2C2f(64, 128, 1, True, 1), blocks.ABlock(128, 4), blocks.AAttn(dim=128, num_heads=4, area=4))
    return lively(net).eval()(maps(2))


@capability
def names_of_modules():
    """Names, classes and order of modules, parameters and buffers"""
    found = []
    for net in (network(), a2c2f(residual=True)):
        found += [[name, type(m).__module__, type(m).__name__] for name, m in net.named_modules()]
        found += [[name, list(t.shape), str(t.dtype)] for name, t in net.state_dict().items()]
        found += [[name, p.requires_grad] for name, p in net.named_parameters()]
    return found


@capability
def initial_weights():
    """Equal seeds give equal weights"""
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(5)
    net = DetectionModel(YAML.format("n"), verbose=False)
    return [t.double().sum() for t in net.state_dict().values()] + [torch.rand(2)]


@capability
def positional_arguments():
    """A2C2f(64, 64, 2, True, 4, True, 1.5, 0.5, 1, True) and keyword arguments, a2=False"""
    found = []
    for make in (
        lambda: blocks.A2C2f(64, 64, 2, True, 4, True, 1.5, 0.5, 1, True),
        lambda: blocks.A2C2f(c1=64, c2=128, n=1, a2=True, area=1, residual=False, mlp_ratio=1.2, e=0.25),
        lambda: blocks.A2C2f(64, 64, 2, False, -1, e=0.5, g=2, shortcut=False),
        lambda: blocks.ABlock(dim=64, num_heads=2, mlp_ratio=1.2, area=4),
        lambda: blocks.AAttn(dim=64, num_heads=2),
    ):
        found.append(lively(make()).eval()(maps(2)))
    return found


@capability
def on_the_meta_device():
    """Built on the meta device, then `to_empty` and weights loaded"""
    found = []
    for name, make in {
        "AAttn": lambda: blocks.AAttn(64, 2, 4),
        "A2C2f": lambda: blocks.A2C2f(64, 64, 1, True, 4),
    }.items():
        with torch.device("meta"):
            block = make()
        assert block(torch.empty(1, 64, 8, 8, device="meta")).shape == (1, 64, 8, 8)
        block = block.to_empty(device="cpu").eval()
        block.load_state_dict(three()[name].state_dict())
        found.append(block(maps()))
    return found


@capability
def shared_blocks():
    """One block at two places of a network: the gradient is that of the difference quotient"""
    block = still(ablock().double().train())
    compare_with_a_quotient(
        nn.Sequential(block, nn.Conv2d(64, 64, 1).double(), block), block.mlp[0].conv.weight, (1, 2, 0, 0)
    )
