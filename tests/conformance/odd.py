"""Tensors that are seldom tried: of odd sizes and types, empty, not finite, on no device."""

import numpy as np
import torch

from conformance.capabilities import group
from conformance.support import (
    YAML,
    DetectionModel,
    a2c2f,
    equal,
    flat,
    fused,
    gradients,
    images,
    lively,
    maps,
    network,
    still,
    three,
    total,
)

capability = group("Odd tensors")
WIDE = dict(height=4096, width=32)


@capability
def one_pixel():
    """Maps of 1×1, one area, in training and evaluation"""
    found = []
    for training in True, False:
        block = a2c2f(area=1).train(training)
        x = maps(2, height=1, width=1).requires_grad_()
        block(x).pow(2).mean().backward()
        found += [block(x), x.grad]
    return found


@capability
def one_pixel_in_areas():
    """Maps of 1×1 in four areas"""
    assert a2c2f().eval()(maps(height=1, width=1)).isfinite().all()


@capability
def odd_maps():
    """Maps of 33×47, one area"""
    return [block(maps(1, height=33, width=47)) for block in (a2c2f(area=1).eval(), a2c2f(area=1).train())]


@capability
def odd_maps_in_areas():
    """Maps of 33×47 in four areas, which do not divide them: each is attended to once"""
    x = maps(1, height=33, width=47).requires_grad_()
    y = a2c2f().eval()(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()


@capability(tolerance=1e-3)
def pictures():
    """`predict` of pictures of 1×1, 33×47 and 4096×32 pixels"""
    from ultralytics import YOLO

    model = YOLO(YAML.format("n"))
    model.model.load_state_dict(network().state_dict())
    found = []
    for height, width in (1, 1), (33, 47), (4096, 32):
        picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        (result,) = model.predict(picture, imgsz=64, conf=0.0001, max_det=20, verbose=False, device="cpu")
        assert result.orig_shape == (height, width)
        found.append(result.boxes.data)
    return found


@capability
def high():
    """4096×32 through the network, fused too"""
    x = images(1, **WIDE)
    found = [network().eval()(x)[0], fused()(x)[0]]
    equal(found[1], found[0], 1e-3)
    return found


@capability
def no_images():
    """A batch of no images through the backbone, fused too"""
    return [list(net.model[:9](images(2)[:0]).shape) for net in (network().eval(), fused())]


@capability
def not_a_number():
    """NaN in one image of a batch: where it is in the outputs, and that the other image is as alone"""
    net, x = network().eval(), images(2)
    alone = net(x[1:])[0]
    x[0, :, 10:20] = torch.nan
    out = net(x)[0]
    equal(out[1:], alone)
    assert out[0].isnan().any()
    return out[0].isnan().float()


@capability
def infinite():
    """An infinite element of a map, and one of 1e30: where outputs are not finite"""
    found = []
    for value in torch.inf, 1e30:
        x = maps(1)
        x[0, 3, 4, 5] = value
        found.append(a2c2f().eval()(x).isfinite().float())
    return found


@capability
def half_and_bfloat16():
    """The network in half precision and bfloat16 on a CPU: near single precision, fused too"""
    for net in network().eval(), fused():
        exact = net(images())[0]
        for dtype, limit in (torch.bfloat16, 0.2), (torch.float16, 0.03):
            out = net.to(dtype)(images().to(dtype))[0]
            assert out.dtype is dtype
            equal(out, exact, limit)
            net.float()


@capability(tolerance=0.02)
def autocast():
    """The network under autocast on a CPU, in bfloat16 and half precision, in evaluation and a step"""
    found = []
    for dtype in torch.bfloat16, torch.float16:
        net = network()
        with torch.autocast("cpu", dtype):
            loss = total(still(net.train())(images()))
            found.append(loss)
        loss.backward()
        assert all(g.isfinite().all() for g in gradients(net).values())
        with torch.autocast("cpu", dtype), torch.no_grad():
            equal(net.eval()(images())[0].float(), network().eval()(images())[0], 0.2)
    return found


@capability
def meta():
    """Blocks and the backbone on the meta device: shapes of what they hand on, in training and evaluation, and fused"""
    found = []
    for net in network().train(), network().eval(), fused():
        for layer, x in (
            (net.model[6].to("meta"), maps(2, 128).to("meta")),
            (net.model[:9].to("meta"), images().to("meta")),
        ):
            y = layer(x)
            assert y.is_meta
            found.append(list(y.shape))
    return found


@capability
def meta_network():
    """The whole network on the meta device"""
    assert flat(network().to("meta")(images().to("meta")))


@capability
def double_by_default():
    """`torch.set_default_dtype(torch.float64)`: a network that is built then, a step of it, and fused"""
    torch.set_default_dtype(torch.float64)
    net = lively(DetectionModel(YAML.format("n"), verbose=False))
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    loss = total(still(net.train())(x))
    loss.backward()
    out = net.eval()(x)[0]
    equal(net.fuse(verbose=False)(x)[0], out)
    return [loss, out, net.model[0].conv.weight.detach().sum()]


@capability
def single_while_double_is_the_default():
    """A network in single precision where double is the default: outputs stay single"""
    net, x = network().eval(), images()
    before = net(x)[0]
    torch.set_default_dtype(torch.float64)
    out = net(x)[0]
    assert out.dtype is torch.float32
    equal(out, before)


@capability(tolerance=1e-3)  # gradients of a whole network, whose rounding differs from processor to processor
def deterministic():
    """`torch.use_deterministic_algorithms(True)`: two steps with equal seeds are equal to the bit"""
    torch.use_deterministic_algorithms(True)
    steps = []
    for _ in range(2):
        torch.manual_seed(0)
        net = network().train()
        total(net(images())).backward()
        steps.append(gradients(net))
    assert all((steps[0][name] == steps[1][name]).all() for name in steps[0])
    return [steps[0][name] for name in sorted(steps[0])[:10]]


@capability
def frozen():
    """Layers 0 to 8 frozen, the attention among them: a step gives them no gradient, and the others theirs"""
    whole, part = network().train(), network().train()
    total(still(whole)(images())).backward()
    for p in part.model[:9].parameters():
        p.requires_grad = False
    total(still(part)(images())).backward()
    left = gradients(part)
    assert left and not any(int(name.split(".")[1]) < 9 for name in left)
    for name, gradient in left.items():
        equal(gradient, gradients(whole)[name], 1e-3)


@capability
def other_memory():
    """Maps that are a slice, reversed, of step 2, of a negative view and conjugate, as their copies"""
    wide = maps(2, 128, 16, 16)
    views = [wide[:, ::2, ::2, ::2], wide[:, 64:, 8:, 8:], wide.flip(3)[:, :64, :8, :8]]
    views += [torch.complex(wide, wide).conj().imag[:, :64, :8, :8]]
    for block in three().values():
        for x in views:
            equal(block.eval()(x), block.eval()(x.resolve_neg().clone().contiguous()))
