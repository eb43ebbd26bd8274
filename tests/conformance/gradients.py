"""Gradients in every way in which PyTorch computes them."""

import copy
import threading
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from conformance.capabilities import group
from conformance.support import (
    a2c2f,
    aattn,
    ablock,
    attention,
    close,
    differ,
    equal,
    gradients,
    images,
    in_threads,
    maps,
    network,
    quotient,
    still,
    three,
    total,
    twin,
    without_statistics,
)

capability = group("Gradients")


def small(area: int = 1, training: bool = True) -> nn.Module:
    return still(ablock(area).double().train(training))


def few() -> torch.Tensor:
    return maps(2, height=2, width=4).double()


@capability
def two_losses():
    """Two backward passes of one forward pass (`retain_graph=True`) add up to the pass of the sum"""
    found = []
    for at_once in True, False:
        out = (net := network().double().train())(images().double())
        boxes, scores = out["boxes"].pow(2).mean(), out["scores"].pow(2).mean()
        if at_once:
            (boxes + scores).backward()
        else:
            boxes.backward(retain_graph=True)
            scores.backward()
        found.append(gradients(net))
    assert found[0].keys() == found[1].keys()
    equal(list(found[1].values()), list(found[0].values()), 1e-7)


@capability
def backward_twice():
    """The same loss twice: gradients double"""
    for block in three().values():
        loss = block.train()(maps(2)).pow(2).mean()
        loss.backward(retain_graph=True)
        once = {k: g.clone() for k, g in gradients(block).items()}
        loss.backward()
        equal(list(gradients(block).values()), [2 * g for g in once.values()])


@capability
def one_training_step():
    """Gradients and statistics of a training step of the network, in double precision, are stock's"""
    net = network().double().train()
    total(net(images().double())).backward()
    buffers = {name: b for name, b in net.named_buffers() if "running" in name or "tracked" in name}
    return [gradients(net), buffers]


@capability
def difference_quotients():
    """Gradients of weights of each part are difference quotients, in training and evaluation"""
    for training in True, False:
        block, x = a2c2f().double().train(training), maps(2).double()

        def loss(block=block, x=x):
            return block(x).pow(2).sum()

        loss().backward()
        for part in (
            "cv1.conv",
            "cv2.conv",
            "m.0.0.attn.qkv.conv",
            "m.0.0.attn.pe.conv",
            "m.0.1.attn.proj.conv",
            "m.0.1.mlp.0.conv",
            "m.0.1.mlp.1.bn",
        ):
            weight = block.get_submodule(part).weight
            index = (1,) + (0,) * (weight.dim() - 1)
            close(weight.grad[index].item(), quotient(loss, weight, index))


@capability
def gradcheck():
    """torch.autograd.gradcheck, of input and weights"""
    for area in 1, 4:
        for training in True, False:
            block = ablock(area).double().train(training)
            weights = [
                block.attn.qkv.conv.bias,
                block.attn.qkv.bn.weight,
                block.mlp[0].bn.bias,
                block.attn.pe.conv.weight,
            ]
            weights = [w for w in weights if w is not None]

            def f(x, *_, block=block):
                return block(x)[:, :4]

            assert torch.autograd.gradcheck(f, (few().requires_grad_(), *weights), fast_mode=True)


@capability
def double_backward():
    """A gradient penalty in training and in evaluation: torch.autograd.gradgradcheck"""
    for area in 1, 4:
        for training in True, False:
            block = small(area, training)
            assert torch.autograd.gradgradcheck(block, (few().requires_grad_(),), fast_mode=True, atol=1e-4)


@capability
def gradient_penalty():
    """The gradient of a gradient's norm reaches the weights of the network; the values are stock's"""
    found = []
    for training in True, False:
        net = still(network().double().train(training))
        x = images().double().requires_grad_()
        (grad,) = torch.autograd.grad(total(net(x)), x, create_graph=True)
        grad.pow(2).sum().backward()
        a = attention(net)
        found += [grad, a.qkv.conv.weight.grad, a.proj.conv.weight.grad, net.model[6].m[0][0].mlp[0].conv.weight.grad]
        assert all(g.any() for g in found)
    return found


@capability
def given_parameters():
    """torch.func.functional_call of the network: gradients by parameters that are handed in"""
    net = still(network().double().train())
    given = {k: (p.detach() * 0.9).requires_grad_() for k, p in net.named_parameters() if p.requires_grad}
    same, x = copy.deepcopy(net), images().double()
    with torch.no_grad():
        for name, p in same.named_parameters():
            if name in given:
                p.copy_(given[name])
    ours = torch.autograd.grad(total(torch.func.functional_call(net, given, (x,))), list(given.values()))
    right = torch.autograd.grad(total(same(x)), [p for k, p in same.named_parameters() if k in given])
    for name, a, b in zip(given, ours, right):
        assert (a - b).norm() <= 1e-6 * b.norm() + 1e-12, name


@capability
def learning_to_learn():
    """MAML: a step within a step, differentiated"""
    block = small()
    given = {k: p.detach().clone().requires_grad_() for k, p in block.named_parameters()}
    x = few()

    def outer():
        call = torch.func.functional_call
        grads = torch.autograd.grad(call(block, given, (x,)).pow(2).mean(), list(given.values()), create_graph=True)
        moved = {k: p - 0.1 * g for (k, p), g in zip(given.items(), grads)}
        return call(block, moved, (x.flip(1),)).pow(2).mean()

    weight = given["mlp.0.conv.weight"]
    (grad,) = torch.autograd.grad(outer(), weight)
    with torch.enable_grad():
        close(grad[1, 2, 0, 0].item(), by_quotient(outer, weight, (1, 2, 0, 0)), 1e-3)


def by_quotient(loss, tensor, index, step=1e-5):
    """As `quotient`, where the loss itself needs gradients."""
    values = []
    for move in (step, -2 * step):
        tensor.data[index] += move
        values.append(loss().item())
    tensor.data[index] += step
    return (values[0] - values[1]) / (2 * step)


@capability
def func_grad():
    """torch.func.grad of a block in training equals autograd's"""
    for block in three().values():
        block = without_statistics(block.double().train())
        x = maps(2).double()
        given = {k: p.detach() for k, p in block.named_parameters()}
        found = torch.func.grad(lambda p, block=block, x=x: torch.func.functional_call(block, p, (x,)).pow(2).mean())(
            given
        )
        block(x).pow(2).mean().backward()
        equal([found[k] for k in given], [p.grad for p in block.parameters()], 1e-8)


def of_each_image(*blocks):
    for block in blocks:
        block = block.double().eval()
        given, x = {k: p.detach() for k, p in block.named_parameters()}, maps(3).double()

        def loss(p, image, block=block):
            return torch.func.functional_call(block, p, (image[None],)).pow(2).mean()

        found = torch.func.vmap(torch.func.grad(loss), (None, 0))(given, x)
        for i in range(3):
            one = torch.func.grad(loss)(given, x[i])
            equal([found[k][i] for k in given], [one[k] for k in given], 1e-8)


@capability
def gradients_of_each_image():
    """torch.func.vmap of torch.func.grad: gradients of each image are those of a loop, one area"""
    of_each_image(aattn(area=1), ablock(), a2c2f(area=1))


@capability
def gradients_of_each_image_in_areas():
    """The same with four areas"""
    of_each_image(*three().values())


@capability
def ensembles():
    """torch.func.stack_module_state and vmap: several models at once"""
    models = [a2c2f().eval() for _ in range(3)]
    for i, m in enumerate(models):
        with torch.no_grad():
            [p.mul_(1 + 0.1 * i) for p in m.parameters()]
    params, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    x = maps(2)
    found = torch.func.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (x,)))(params, buffers)
    equal(found, torch.stack([m(x) for m in models]))


@capability
def forward_mode():
    """torch.func.jvp and forward-mode autograd equal difference quotients"""
    for area in 1, 4:
        block, x, v = small(area, False), few(), maps(2, height=2, width=4).flip(1).double()
        _, found = torch.func.jvp(block, (x,), (v,))
        with torch.no_grad():
            equal(found, (block(x + 1e-6 * v) - block(x - 1e-6 * v)) / 2e-6, 1e-5)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, v)
            equal(torch.autograd.forward_ad.unpack_dual(block(dual)).tangent, found, 1e-8)


@capability
def hessian_vector_product():
    """A Hessian-vector product, reverse over forward and forward over reverse"""
    block, x, v = small(1, False), few(), maps(2, height=2, width=4).flip(1).double()

    def loss(x):
        return block(x).pow(2).mean()

    a = torch.func.jvp(torch.func.grad(loss), (x,), (v,))[1]
    b = torch.autograd.functional.vhp(loss, x, v)[1]
    equal(a, b, 1e-6)
    return a


@capability
def jacobian():
    """torch.func.jacrev and jacfwd agree"""
    block, x = small(1, False), few()[:1]

    def f(x):
        return block(x)[0, :2, 0, 0]

    equal(torch.func.jacrev(f)(x), torch.func.jacfwd(f)(x), 1e-8)


@capability
def evaluation_between():
    """`eval()` or `train()` between forward and backward changes no gradient"""
    found = []
    for switch in lambda b: b, lambda b: b.eval(), lambda b: b.eval().train():
        block = a2c2f().double().train()
        loss = block(maps(2).double()).pow(2).mean()
        switch(block)
        loss.backward()
        found.append(list(gradients(block).values()))
    equal(found[1], found[0], 1e-9)
    equal(found[2], found[0], 1e-9)


@capability
def another_pass_between():
    """A second forward pass, or one under no_grad, between forward and backward changes no gradient"""
    found = []
    for between in False, True:
        block = a2c2f().double().train()
        loss = block(maps(2).double()).pow(2).mean()
        if between:
            block(maps(2).flip(1).double())
            with torch.no_grad():
                block.eval()(maps(1).double())
            block.train()
        loss.backward()
        found.append(list(gradients(block).values()))
    equal(found[1], found[0], 1e-9)


@capability
def weights_changed_between():
    """Weights changed in place between forward and backward are an error, not a wrong gradient"""
    for part in "attn.qkv.conv", "attn.proj.conv", "mlp.0.conv", "mlp.1.conv":
        block = ablock().train()
        loss = block(maps(2)).pow(2).mean()
        with torch.no_grad():
            block.get_submodule(part).weight.mul_(2)
        try:
            loss.backward()
        except RuntimeError as e:
            assert "inplace" in str(e)
        else:
            raise AssertionError(f"a gradient by weights of {part} that are gone")


@capability
def statistics_count_once():
    """A step counts once in the statistics of every normalisation, also with momentum=None"""
    found = []
    for momentum in 0.03, None:
        block = a2c2f().train()
        norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
        for m in norms:
            m.momentum = momentum
        for _ in range(3):
            block(maps(2)).pow(2).mean().backward()
        assert {int(m.num_batches_tracked) for m in norms} == {3}
        found += [m.running_mean for m in norms] + [m.running_var for m in norms]
    return found


@capability(alone=True)
def eight_threads():
    """Eight threads that train one module: statistics count every pass, gradients are the sum"""
    block, once = a2c2f().train(), a2c2f().train()
    once(maps(2)).pow(2).mean().backward()
    # The graphs are made in the threads at once, and run backwards there.
    barrier = threading.Barrier(8)

    def steps():
        barrier.wait()
        for _ in range(10):
            block(maps(2)).pow(2).mean().backward()

    in_threads(steps, 8)
    assert {int(m.num_batches_tracked) for m in block.modules() if isinstance(m, nn.BatchNorm2d)} == {80}
    equal([g / 80 for g in gradients(block).values()], list(gradients(once).values()), 1e-3)
    assert all(m._buffers["running_mean"] is m.running_mean for m in block.modules() if isinstance(m, nn.BatchNorm2d))


@capability
def checkpointed_by_the_user():
    """torch.utils.checkpoint around blocks, reentrant and not: the same gradients, statistics as stock's"""
    found = []
    for mode in None, True, False:
        block, x = a2c2f().double().train(), maps(2).double().requires_grad_()
        y = block(x) if mode is None else checkpoint(block, x, use_reentrant=mode)
        y.pow(2).mean().backward()
        found.append([x.grad, *gradients(block).values()])
        tracked = [int(m.num_batches_tracked) for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    equal(found[1], found[0], 1e-9)
    equal(found[2], found[0], 1e-9)
    return tracked


@capability
def checkpointed_by_layer():
    """checkpoint_sequential and checkpoint within a network's loop over layers, with dropout in a block"""
    found = []
    for mode in None, True, False:
        net = still(nn.Sequential(ablock(), ablock(4), ablock()).double().train())
        net[1].mlp[0].act = nn.Sequential(nn.SiLU(), nn.Dropout(0.3))
        x = maps(2).double().requires_grad_()
        torch.manual_seed(4)
        y = x
        for layer in net:
            y = layer(y) if mode is None else checkpoint(layer, y, use_reentrant=mode)
        y.pow(2).mean().backward()
        found.append([x.grad, *gradients(net).values()])
    equal(found[1], found[0], 1e-9)
    equal(found[2], found[0], 1e-9)


@capability
def kept_on_the_cpu():
    """torch.autograd.graph.save_on_cpu and saved_tensors_hooks around a step"""
    block, other = a2c2f().train(), a2c2f().train()
    with torch.autograd.graph.save_on_cpu():
        block(maps(2)).pow(2).mean().backward()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        loss = other(maps(2)).pow(2).mean()
    loss.backward()
    equal(list(gradients(block).values()), list(gradients(other).values()))


@capability
def anomaly_mode():
    """torch.autograd.detect_anomaly around a step"""
    with torch.autograd.detect_anomaly(check_nan=True):
        network().train()(images())["boxes"].pow(2).mean().backward()


@capability
def frozen_parts():
    """Frozen weights, frozen normalisation, frozen blocks: gradients of the rest as before"""
    net = a2c2f().double().train()
    still(net)
    net(maps(2).double()).pow(2).mean().backward()
    right = gradients(net)
    for part in "m.0.0.attn", "m.0.0.mlp", "m.0.0.mlp.0", "m.0", "cv1", "m.0.1.attn.qkv":
        other = still(a2c2f().double().train())
        other.get_submodule(part).requires_grad_(False)
        other(maps(2).double()).pow(2).mean().backward()
        found = gradients(other)
        expected = {k: g for k, g in right.items() if not k.startswith(part + ".")}
        assert found.keys() == expected.keys(), part
        equal(list(found.values()), list(expected.values()), 1e-9)


@capability
def nothing_to_train():
    """All weights frozen: gradients of the input alone (saliency, attacks)"""
    net = network().train().requires_grad_(False)
    x = images().requires_grad_()
    total(net(x)).backward()
    assert x.grad.any() and not gradients(net)
    with torch.no_grad():
        out = net(images())
    assert not out["boxes"].requires_grad
    y = images().requires_grad_()
    total(net.eval()(y)).backward()
    return y.grad


@capability
def hooks_of_parameters():
    """Gradient hooks of parameters and `register_post_accumulate_grad_hook` run once"""
    block, seen = a2c2f().train(), []
    for name, p in block.named_parameters():
        p.register_hook(lambda g, name=name: seen.append(name))
        p.register_post_accumulate_grad_hook(lambda p, name=name: seen.append(name))
    block(maps(2)).pow(2).mean().backward()
    names = [name for name, _ in block.named_parameters()]
    assert sorted(seen) == sorted(2 * names)


@capability
def step_within_backward():
    """An optimizer that steps within backward, as soon as a gradient is there"""
    block, other = a2c2f().double().train(), a2c2f().double().train()
    for p in block.parameters():
        optimizer = torch.optim.SGD([p], lr=0.1)

        def step(p, optimizer=optimizer):
            optimizer.step()
            optimizer.zero_grad()

        p.register_post_accumulate_grad_hook(step)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(2):
        block(maps(2).double()).pow(2).mean().backward()
        other(maps(2).double()).pow(2).mean().backward()
        optimizer.step(), optimizer.zero_grad()
    equal(list(block.parameters()), list(other.parameters()), 1e-9)


@capability
def accumulated_gradients():
    """Gradients accumulated over two halves are those of the whole batch"""
    net, other = still(network().double().train()), still(network().double().train())
    x = images(4).double()
    for half in x.chunk(2):
        out = net(half)
        (out["boxes"].pow(2).sum() + out["scores"].pow(2).sum()).backward()
    out = other(x)
    (out["boxes"].pow(2).sum() + out["scores"].pow(2).sum()).backward()
    equal(list(gradients(net).values()), list(gradients(other).values()), 1e-8)


@capability(tolerance=0.05)
def bfloat16_autocast():
    """A training step in bfloat16 autocast: gradients near those of single precision, and stock's"""
    norms = []
    for enabled in True, False:
        block = a2c2f().train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = block(maps(2))
            loss = y.float().pow(2).mean()
        assert y.dtype is (torch.bfloat16 if enabled else torch.float32)
        loss.backward()
        assert all(g.dtype is torch.float32 and g.isfinite().all() for g in gradients(block).values())
        norms.append(
            [loss, *(gradients(block)[f"{part}.conv.weight"].norm() for part in ("cv1", "cv2", "m.0.0.mlp.0"))]
        )
    for a, b in zip(*norms):
        close(a.item(), b.item(), 0.1)
    return torch.stack(norms[0])


@capability
def autocast_of_forward_alone():
    """The backward pass outside of autocast, and autocast left between forward and backward"""
    found = []
    for inside in True, False:
        block = a2c2f().train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = block(maps(2)).float().pow(2).mean()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append(list(gradients(block).values()))
    equal(found[1], found[0], 0.05)


@capability
def closure_of_lbfgs():
    """LBFGS, which computes the loss several times a step"""
    block = small()
    optimizer = torch.optim.LBFGS(block.parameters(), lr=0.01, max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = (block(few()) - 1).pow(2).mean()
        loss.backward()
        return loss

    first = closure().item()
    optimizer.step(closure)
    assert closure().item() < first
    return closure().detach()


@capability
def sharpness_aware():
    """SAM: weights moved up the gradient, a second pass, moved back"""
    net = network().double().train()
    still(net)
    x = images().double()
    total(net(x)).backward()
    with torch.no_grad():
        norm = torch.stack([g.norm() for g in gradients(net).values()]).norm()
        moves = [(p, 0.01 * p.grad / norm) for p in net.parameters() if p.grad is not None]
        [p.add_(m) for p, m in moves]
    net.zero_grad()
    total(net(x)).backward()
    with torch.no_grad():
        [p.sub_(m) for p, m in moves]
    return [attention(net).qkv.conv.weight.grad, net.model[8].m[1][1].mlp[1].conv.weight.grad]


@capability
def class_activation_maps():
    """Grad-CAM by hand: activations and their gradients by hooks on a block"""
    net, kept = network().train(), {}
    still(net)

    def keep(m, args, out):
        kept["map"] = out
        out.register_hook(lambda g: kept.update(grad=g))

    net.model[8].register_forward_hook(keep)
    total(net(images().requires_grad_())).backward()
    cam = (kept["grad"].mean((2, 3), keepdim=True) * kept["map"]).sum(1).relu()
    assert cam.shape == (2, 2, 2) and kept["grad"].any()
    return kept["grad"]


@capability
def no_gradients():
    """Training mode under no_grad and inference_mode: values of the pass with gradients"""
    for block in three().values():
        y = twin(block).train()(maps(2))
        with torch.no_grad():
            equal(twin(block).train()(maps(2)), y)
        with torch.inference_mode():
            equal(twin(block).train()(maps(2)), y)
            kept = twin(block).eval()(maps(2))
        equal(twin(block).eval()(maps(2)), kept)


@capability
def inference_then_training():
    """Predictions under inference_mode first, a training step on the same module then"""
    block = a2c2f()
    with torch.inference_mode():
        block.eval()(maps(2))
    block.train()(maps(2)).pow(2).mean().backward()
    assert all(g.isfinite().all() for g in gradients(block).values())


@capability
def gradient_wrt_some():
    """torch.autograd.grad of single weights, and `backward(inputs=...)`"""
    block = a2c2f().double().train()
    loss = block(maps(2).double()).pow(2).mean()
    some = [block.m[0][0].mlp[0].conv.weight, block.m[0][1].attn.qkv.conv.weight]
    found = torch.autograd.grad(loss, some, retain_graph=True)
    loss.backward(inputs=some)
    equal(found, [w.grad for w in some], 1e-9)
    assert set(gradients(block)) == {"m.0.0.mlp.0.conv.weight", "m.0.1.attn.qkv.conv.weight"}


@capability
def gradient_of_a_gradient_hook():
    """Gradients clipped, replaced and zeroed by hooks on a block's output"""
    block = a2c2f().double().train()
    y = block(maps(2).double())
    y.register_hook(lambda g: g.clamp(-1e-4, 1e-4))
    y.pow(2).mean().backward()
    return list(gradients(block).values())


@capability
def data_parallel_of_one():
    """DistributedDataParallel of one process, two steps, and `no_sync`"""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", init_method=Path("meet").resolve().as_uri(), rank=0, world_size=1)
    try:
        net, alone = a2c2f().double().train(), a2c2f().double().train()
        shared = DistributedDataParallel(net)
        with shared.no_sync():
            shared(maps(2).double()).pow(2).mean().backward()
        shared(maps(2).double()).pow(2).mean().backward()
        for _ in range(2):
            alone(maps(2).double()).pow(2).mean().backward()
        equal(list(gradients(net).values()), list(gradients(alone).values()), 1e-9)
    finally:
        dist.destroy_process_group()


@capability
def noise_counts():
    """Two training passes with dropout differ, with equal seeds they do not"""
    block = still(ablock().train())
    block.mlp[0].act = nn.Sequential(nn.SiLU(), nn.Dropout(0.5))
    torch.manual_seed(1)
    a, b = block(maps(2)), block(maps(2))
    differ(a, b)
    torch.manual_seed(1)
    equal(block(maps(2)), a)
