"""After `fuse()`, as predict, validation and export do it: what is then done to a model must count."""

import copy
import pickle

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from conformance.capabilities import group
from conformance.support import (
    a2c2f,
    attention,
    calls,
    close,
    differ,
    equal,
    fused,
    images,
    maps,
    network,
    quotient,
)

capability = group("Fused models")


def attended() -> tuple[nn.Module, torch.Tensor]:
    """The first attention of a fused network, and a map for it."""
    return attention(fused()), maps(2)


@capability
def fused_is_unfused():
    """A fused network computes what it did before; its values are stock's"""
    net = network().eval()
    with torch.no_grad():
        before = net(images())[0]
        after = net.fuse(verbose=False)(images())[0]
    equal(after, before, 1e-3)
    return after


@capability
def fused_twice():
    """`fuse()` twice is once"""
    net = fused()
    before = net(images())[0]
    equal(net.fuse(verbose=False)(images())[0], before)


@capability
def names_of_a_fused_model():
    """Names of modules, parameters and buffers of the fused network, and its nn.Conv2d"""
    net = fused()
    found = [[name, type(m).__name__] for name, m in net.named_modules()]
    found += [[name, list(t.shape)] for name, t in net.state_dict().items()]
    found += [[name, p.requires_grad] for name, p in net.named_parameters()]
    return [*found, [name for name, _ in net.named_buffers()], sum(isinstance(m, nn.Conv2d) for m in net.modules())]


@capability
def hooks_on_projections():
    """Hooks on every submodule of a fused attention are called once"""
    a, x = attended()
    counts = calls(a)
    a(x)
    assert set(counts.values()) == {1} and "qkv.conv" in counts, counts


@capability
def hooks_registered_late():
    """Hooks that come and go after the first prediction change the output, and leave it as it was"""
    a, x = attended()
    before = a(x)
    for m in a.qkv, a.qkv.conv, a.proj, a.pe:
        handle = m.register_forward_hook(lambda m, args, out: out * 0.5)
        differ(a(x), before)
        handle.remove()
        handle = m.register_forward_pre_hook(lambda m, args: (args[0].flip(1),))
        differ(a(x), before)
        handle.remove()
        equal(a(x), before)


@capability
def edits_in_place():
    """Weights of qkv edited in place: `mul_`, by slices, `copy_`, and set back"""
    a, x = attended()
    found, before = [], a(x)
    with torch.no_grad():
        for p in a.qkv.parameters():
            kept = p.clone()
            for edit in (
                lambda p: p.mul_(2),
                lambda p: p[:32].zero_(),
                lambda p: p.copy_(p.flip(0)),
                lambda p: p.add_(1),
            ):
                edit(p)
                found.append(a(x))
                differ(found[-1], before)
                p.copy_(kept)
            equal(a(x), before)
    return found


@capability
def edits_of_data():
    """Weights edited through `.data`, `.detach()` and NumPy, which autograd does not see"""
    a, x = attended()
    w, before = a.qkv.conv.weight, a(x)
    kept, found = w.detach().clone(), []

    def by_numpy(w):
        w.detach().numpy()[:] *= 2

    edits = (
        lambda w: w.data.mul_(2),
        lambda w: w.detach().zero_(),
        by_numpy,
        lambda w: setattr(w, "data", w.data.flip(0)),
    )
    for edit in edits:
        edit(w)
        found.append(a(x))
        differ(found[-1], before)
        w.data.copy_(kept)
        equal(a(x), before)
    return found


@capability
def edits_under_inference_mode():
    """Weights edited between predictions under inference_mode"""
    a, x = attended()
    with torch.inference_mode():
        before = a(x)
    with torch.no_grad():
        a.qkv.conv.weight.mul_(2)
    with torch.inference_mode():
        differ(a(x), before)
        return a(x).clone()


@capability
def parameters_replaced():
    """A new nn.Parameter as weight, and a new module as qkv"""
    a, x = attended()
    found, before = [], a(x)
    a.qkv.conv.weight = nn.Parameter(a.qkv.conv.weight.detach().flip(0))
    found.append(a(x))
    differ(found[-1], before)
    torch.manual_seed(1)
    a.qkv = nn.Conv2d(64, 192, 1)
    found.append(a(x))
    differ(found[-1], found[0])
    a.qkv = nn.Sequential(nn.Conv2d(64, 192, 3, 1, 1), nn.ReLU())
    found.append(a(x))
    differ(found[-1], found[1])
    return found


@capability
def weights_loaded():
    """`load_state_dict` into a fused model, also with assign=True"""
    found = []
    for assign in False, True:
        net, x = fused(), images()
        before = net(x)[0]
        state = {k: (t * 1.3 if "attn.qkv" in k else t.clone()) for k, t in net.state_dict().items()}
        net.load_state_dict(state, assign=assign)
        found.append(net(x)[0])
        differ(found[-1], before)
    equal(found[1], found[0])
    return found


@capability
def weights_loaded_into_a_part():
    """`load_state_dict` of qkv, or of its convolution, alone"""
    found = []
    for part in "qkv", "qkv.conv":
        a, x = attended()
        before, m = a(x), a.get_submodule(part)
        m.load_state_dict({k: t.flip(0) for k, t in m.state_dict().items()})
        found.append(a(x))
        differ(found[-1], before)
    equal(found[1], found[0])
    return found


@capability
def copies():
    """A deepcopy of a fused model computes the same, and shares nothing with it"""
    net = fused()
    other, x = copy.deepcopy(net), images()
    before = net(x)[0]
    equal(other(x)[0], before)
    with torch.no_grad():
        attention(other).qkv.conv.weight.mul_(2)
    differ(other(x)[0], before)
    equal(net(x)[0], before)
    with torch.no_grad():
        attention(net).qkv.conv.weight.zero_()
    differ(net(x)[0], before)


@capability
def pickled():
    """A pickled fused model computes the same; its hooks and edits count"""
    net, x = fused(), images()
    with torch.no_grad():
        attention(net).qkv.conv.weight.mul_(1.5)
    before = net(x)[0]
    other = pickle.loads(pickle.dumps(net))
    equal(other(x)[0], before)
    with torch.no_grad():
        attention(other).qkv.conv.weight.mul_(0.5)
    differ(other(x)[0], before)
    torch.save(net, "fused.pt")
    equal(torch.load("fused.pt", weights_only=False)(x)[0], before)
    return other(x)[0]


@capability
def pruned():
    """torch.nn.utils.prune over all nn.Conv2d: masks count, `prune.remove` keeps them"""
    net, x = fused(), images()
    before = net(x)[0]
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        prune.l1_unstructured(conv, "weight", 0.3)
    masked = net(x)[0]
    differ(masked, before)
    for conv in convs:
        prune.remove(conv, "weight")
    equal(net(x)[0], masked)
    return [masked, sum(int((m.weight == 0).sum()) for m in convs)]


@capability
def pruned_projection():
    """Structured pruning of qkv of a fused attention"""
    a, x = attended()
    before = a(x)
    prune.ln_structured(a.qkv.conv, "weight", 0.3, n=2, dim=0)
    differ(a(x), before)
    return a(x)


@capability
def global_pruning():
    """prune.global_unstructured over the fused network"""
    net = fused()
    convs = [(m, "weight") for m in net.modules() if isinstance(m, nn.Conv2d)]
    prune.global_unstructured(convs, prune.L1Unstructured, amount=0.4)
    return net(images())[0]


@capability
def parametrised():
    """A parametrisation registered on a fused projection, and removed"""

    class Half(nn.Module):
        def forward(self, w):
            return w / 2

    a, x = attended()
    before = a(x)
    parametrize.register_parametrization(a.qkv.conv, "weight", Half())
    after = a(x)
    differ(after, before)
    parametrize.remove_parametrizations(a.qkv.conv, "weight", leave_parametrized=True)
    equal(a(x), after)
    return after


@capability
def traced_by_fx():
    """torch.fx.symbolic_trace of a fused stage: the graph gives the module's output"""
    stage, x = fused().model[6], maps(2, 128)
    graph = torch.fx.symbolic_trace(stage)
    equal(graph(x), stage(x))
    equal(graph(maps(1, 128, 4, 12)), stage(maps(1, 128, 4, 12)))


@capability
def scripted():
    """torch.jit.script of a fused stage"""
    stage, x = fused().model[6], maps(2, 128)
    equal(torch.jit.script(stage)(x), stage(x))


@capability
def gradients_of_a_fused_model():
    """Gradients of a fused model's weights and input are difference quotients"""
    a, x = attention(fused().double()), maps(2).double().requires_grad_()
    a.requires_grad_(True)

    def loss():
        return a(x).pow(2).sum()

    loss().backward()
    for weight in a.qkv.conv.weight, a.qkv.conv.bias, a.proj.conv.weight:
        index = (3,) + (0,) * (weight.dim() - 1)
        close(weight.grad[index].item(), quotient(loss, weight, index))
    assert x.grad.any()
    return [p.grad for p in a.parameters()]


@capability
def trained_after_fusing():
    """An optimizer's step on a fused model, in evaluation and in training mode"""
    found = []
    for training in False, True:
        net = fused().train(training)
        a, x = attention(net).requires_grad_(True), maps(2)
        optimizer = torch.optim.SGD(a.parameters(), lr=0.01)
        before = a(x)
        before.pow(2).mean().backward()
        optimizer.step()
        after = a(x)
        differ(after, before, 1e-4)
        found += [after, a.eval()(x)]
    return found


@capability
def training_mode_and_back():
    """`train()` and `eval()` of a fused model change nothing"""
    net, x = fused(), images()
    before = net(x)[0]
    net.train()(x)
    equal(net.eval()(x)[0], before)


@capability
def given_weights():
    """torch.func.functional_call of a fused model with other weights"""
    a, x = attended()
    given = {k: p.detach().flip(0) for k, p in a.named_parameters()}
    found = torch.func.functional_call(a, given, (x,))
    differ(found, a(x))
    return found


@capability
def vmapped():
    """torch.func.vmap over images, and ensembles, of fused models"""
    stage = fused().model[8]
    x = maps(3, 256, 4, 4)
    equal(torch.func.vmap(lambda image: stage(image[None])[0])(x), stage(x))


@capability
def converted():
    """A fused model in double, in half precision and back, and to channels_last"""
    net, x = fused(), images()
    before = net(x)[0]
    equal(net.double()(x.double())[0].float(), before, 1e-3)
    equal(net.half()(x.half())[0].float(), before, 0.05)
    equal(net.float()(x)[0], before, 0.05)
    equal(fused().to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))[0], before, 1e-3)


@capability
def applied():
    """`model.apply` and `_apply` (a custom cast) of a fused model count"""

    def halve(m):
        if isinstance(m, nn.Conv2d):
            with torch.no_grad():
                m.weight.mul_(0.9)

    net, x = fused(), images()
    before = net(x)[0]
    after = net.apply(halve)(x)[0]
    differ(after, before)
    return after


@capability
def averaged():
    """torch.optim.swa_utils.AveragedModel and Ultralytics' EMA of a fused model"""
    from torch.optim.swa_utils import AveragedModel
    from ultralytics.utils.torch_utils import ModelEMA

    net, x = fused(), images()
    averaged, ema = AveragedModel(net), ModelEMA(net)
    averaged.update_parameters(net)
    with torch.no_grad():
        attention(net).qkv.conv.weight.mul_(2)
    averaged.update_parameters(net)
    before = ema.ema(x)[0]
    ema.update(net)
    return [averaged(x)[0], before, ema.ema(x)[0]]


@capability
def moved_in_memory():
    """`share_memory()`, `to_empty` and weights put back"""
    a, x = attended()
    before = a(x)
    equal(a.share_memory()(x), before)
    state = {k: t.clone() for k, t in a.state_dict().items()}
    a.to_empty(device="cpu").load_state_dict(state)
    equal(a(x), before)


@capability
def fused_without_ultralytics():
    """Conv and BatchNorm folded by torch.nn.utils.fusion in one attention alone"""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    block, x = a2c2f().eval(), maps(2)
    before, a = block(x), block.m[0][0].attn
    for m in a.qkv, a.proj, a.pe:
        m.conv, m.bn = fuse_conv_bn_eval(m.conv, m.bn), nn.Identity()
    equal(block(x), before)
    with torch.no_grad():
        a.qkv.conv.weight.mul_(2)
    differ(block(x), before)
